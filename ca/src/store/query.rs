//! What can be asked of the store.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Walk;
use super::{Fault, Line, REVOCATION_KEPT, Store, StoreError, from_sql, to_sql};
use crate::certs::revocation::{Revocations, SerialNumber};
use crate::certs::spiffe_id::SpiffeId;
use crate::certs::time::Timestamp;

/// A registration entry as stored.
#[derive(Debug, Clone)]
pub(crate) struct EntryRow {
    pub(crate) host: String,
    pub(crate) id: SpiffeId,
    pub(crate) dns: Vec<String>,
    pub(crate) ttl_seconds: Option<u64>,
}

/// A join token as stored, without its secret.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) token: String,
    pub(crate) host: String,
    pub(crate) secret_hash: String,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) spent: Option<Timestamp>,
    pub(crate) spent_by: Option<String>,
    pub(crate) revoked: Option<Timestamp>,
}

/// An enrolled host.
#[derive(Debug, Clone)]
pub(crate) struct HostRow {
    pub(crate) host: String,
    pub(crate) enrolled: Timestamp,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) live_certificates: u64,
    pub(crate) unfinished_intents: u64,
}

/// Lines of the journal that are read at a time while its chain is walked.
const PAGE: i64 = 1000;

const TOKEN_COLUMNS: &str = "SELECT token, host, secret_hash, created, expires, spent, spent_by, revoked FROM tokens";

struct TokenColumns(String, String, String, i64, i64, Option<i64>, Option<String>, Option<i64>);

impl Store {
    /// The entry that grants `id` to `host`.
    pub(crate) async fn entry(&self, host: &str, id: &SpiffeId) -> Result<Option<EntryRow>, StoreError> {
        let row: Option<(String, Option<i64>)> =
            sqlx::query_as("SELECT dns, ttl_seconds FROM entries WHERE host = $1 AND id = $2")
                .bind(host)
                .bind(id.as_str())
                .fetch_optional(&self.readers)
                .await?;
        Ok(row.map(|(dns, ttl)| entry_row(host.to_owned(), id.clone(), &dns, ttl)))
    }

    /// Every entry, or those of one host.
    pub(crate) async fn entries(&self, host: Option<&str>) -> Result<Vec<EntryRow>, StoreError> {
        let rows: Vec<(String, String, String, Option<i64>)> = sqlx::query_as(
            "SELECT host, id, dns, ttl_seconds FROM entries WHERE $1 = '' OR host = $2 ORDER BY host, id",
        )
        .bind(host.unwrap_or_default())
        .bind(host.unwrap_or_default())
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(|(host, id, dns, ttl)| Ok(entry_row(host, parse_id(&id)?, &dns, ttl))).collect()
    }

    /// The token whose secret has this hash.
    pub(crate) async fn token(&self, secret_hash: &str) -> Result<Option<TokenRow>, StoreError> {
        let row: Option<TokenColumns> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("{TOKEN_COLUMNS} WHERE secret_hash = $1")))
                .bind(secret_hash)
                .fetch_optional(&self.readers)
                .await?;
        Ok(row.map(TokenRow::from))
    }

    /// Every token, the newest last.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows: Vec<TokenColumns> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("{TOKEN_COLUMNS} ORDER BY created, token")))
                .fetch_all(&self.readers)
                .await?;
        Ok(rows.into_iter().map(TokenRow::from).collect())
    }

    /// Every enrolled host.
    pub(crate) async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT host, enrolled FROM hosts ORDER BY host").fetch_all(&self.readers).await?;
        Ok(rows.into_iter().map(|(host, enrolled)| HostRow { host, enrolled: time(enrolled) }).collect())
    }

    /// Grows with each change of trust.
    pub(crate) async fn generation(&self) -> Result<u64, StoreError> {
        let generation: i64 =
            sqlx::query_scalar("SELECT generation FROM trust_generation").fetch_one(&self.readers).await?;
        Ok(from_sql(generation))
    }

    /// What is revoked and did not expire long ago, with the generation that it belongs to.
    pub(crate) async fn revocations(&self, now: Timestamp) -> Result<(u64, Revocations), StoreError> {
        // One transaction sees one state.
        let mut transaction = self.readers.begin().await?;
        let generation: i64 =
            sqlx::query_scalar("SELECT generation FROM trust_generation").fetch_one(&mut *transaction).await?;
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM revoked_ids").fetch_all(&mut *transaction).await?;
        let serials: Vec<(String, i64)> =
            sqlx::query_as("SELECT serial, not_after FROM revoked_serials WHERE not_after >= $1")
                .bind(to_sql(now.minus(REVOCATION_KEPT).as_unix_seconds()))
                .fetch_all(&mut *transaction)
                .await?;
        let ids = ids.iter().map(|id| parse_id(id)).collect::<Result<BTreeSet<_>, _>>()?;
        let serials = serials
            .into_iter()
            .map(|(serial, end)| Ok((parse_serial(&serial)?, time(end))))
            .collect::<Result<BTreeMap<_, _>, StoreError>>()?;
        Ok((from_sql(generation), Revocations { ids, serials }))
    }

    /// The last lines of the journal, the oldest of them first.
    pub(crate) async fn journal_tail(&self, limit: u32) -> Result<Vec<Line>, StoreError> {
        let mut rows: Vec<(i64, i64, String, String, String)> =
            sqlx::query_as("SELECT sequence, time, kind, detail, hash FROM journal ORDER BY sequence DESC LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        rows.reverse();
        Ok(rows.into_iter().map(line).collect())
    }

    /// Walks the whole chain: its length and last hash, or the first fault.
    pub(crate) async fn verify_journal(&self) -> Result<Result<(u64, String), Fault>, StoreError> {
        let mut walk = Walk::new();
        let mut after = i64::MIN;
        loop {
            let rows: Vec<(i64, i64, String, String, String)> = sqlx::query_as(
                "SELECT sequence, time, kind, detail, hash FROM journal WHERE sequence > $1 ORDER BY sequence LIMIT $2",
            )
            .bind(after)
            .bind(PAGE)
            .fetch_all(&self.readers)
            .await?;
            let Some(last) = rows.last() else { return Ok(Ok(walk.end())) };
            after = last.0;
            for row in rows {
                if let Err(fault) = walk.step(&line(row)) {
                    return Ok(Err(fault));
                }
            }
        }
    }

    /// How much there is of everything.
    pub(crate) async fn counts(&self, now: Timestamp) -> Result<Counts, StoreError> {
        let now = to_sql(now.as_unix_seconds());
        let (entries, live, unfinished): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM entries),
                    (SELECT COUNT(*) FROM certificates WHERE not_after >= $1 AND fingerprint IS NOT NULL),
                    (SELECT COUNT(*) FROM certificates WHERE not_after >= $2 AND fingerprint IS NULL)",
        )
        .bind(now)
        .bind(now)
        .fetch_one(&self.readers)
        .await?;
        Ok(Counts {
            entries: from_sql(entries),
            live_certificates: from_sql(live),
            unfinished_intents: from_sql(unfinished),
        })
    }
}

fn entry_row(host: String, id: SpiffeId, dns: &str, ttl: Option<i64>) -> EntryRow {
    let dns = dns.split_ascii_whitespace().map(str::to_owned).collect();
    EntryRow { host, id, dns, ttl_seconds: ttl.map(from_sql) }
}

fn line((sequence, time, kind, detail, hash): (i64, i64, String, String, String)) -> Line {
    Line { sequence: from_sql(sequence), time: from_sql(time), kind, detail, hash }
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(from_sql(seconds))
}

fn parse_id(text: &str) -> Result<SpiffeId, StoreError> {
    SpiffeId::parse(text).map_err(|_broken| StoreError::Damaged { what: "a SPIFFE ID", value: text.to_owned() })
}

fn parse_serial(text: &str) -> Result<SerialNumber, StoreError> {
    text.parse().map_err(|_broken| StoreError::Damaged { what: "a serial number", value: text.to_owned() })
}

impl<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> for TokenColumns {
    fn from_row(row: &'r sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let (token, host, hash, created, expires, spent, spent_by, revoked) = sqlx::FromRow::from_row(row)?;
        Ok(Self(token, host, hash, created, expires, spent, spent_by, revoked))
    }
}

impl From<TokenColumns> for TokenRow {
    fn from(columns: TokenColumns) -> Self {
        let TokenColumns(token, host, secret_hash, created, expires, spent, spent_by, revoked) = columns;
        Self {
            token,
            host,
            secret_hash,
            created: time(created),
            expires: time(expires),
            spent: spent.map(time),
            spent_by,
            revoked: revoked.map(time),
        }
    }
}
