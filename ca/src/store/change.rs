//! What can change in the store, and what each change demands of the state it finds. A change either happens as a whole or
//! names the [`Conflict`] and leaves everything as it was.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{EntryRow, Outcome, REVOCATION_KEPT, from_sql, to_sql};
use crate::certs::issuance::Reason;
use crate::certs::revocation::SerialNumber;
use crate::certs::spiffe_id::{SpiffeId, host_of};
use crate::certs::time::{Timestamp, Validity};
use crate::registry::TokenName;

/// By how many unexpired certificates each entry raises its host's bound: two are in use around a renewal, the others are
/// for restarts and for renewals by hand.
const CERTIFICATES_PER_ENTRY: u64 = 16;

/// Revoking a host also revokes what it was given that has ended since then, for hosts whose clock is late. An hour and not
/// a day: with lifetimes of an hour a day would name twenty-five times as many to every agent.
const CLOCKS_LATE: Duration = Duration::from_secs(3600);

/// Everything that can change.
#[derive(Debug)]
pub(crate) enum Change {
    /// A new registration entry.
    AddEntry(EntryRow),
    /// A new join token; only the hash of its secret.
    AddToken(super::TokenRow),
    /// What expired before this time is no longer of use; the journal keeps its history.
    Forget { before: Timestamp },
    /// A certificate is about to be signed.
    Intend { certificate: CertificateRow, spend: Option<SpentToken>, certificates_max: u64 },
    /// A certificate was signed.
    Issue { serial: SerialNumber, fingerprint: String, enrolled: Option<String> },
    /// An identity may be used again.
    Lift { id: SpiffeId },
    /// Only the journal grows.
    Nothing,
    /// Only to find out whether anything can be written.
    Probe,
    /// A registration entry ends.
    RemoveEntry { host: String, id: SpiffeId },
    /// An identity is revoked, and for a host's every certificate that it was given.
    RevokeId { id: SpiffeId },
    /// One certificate is revoked.
    RevokeSerial { serial: SerialNumber },
    /// A join token is withdrawn.
    RevokeToken { token: String },
}

/// A certificate as the inventory knows it.
#[derive(Debug)]
pub(crate) struct CertificateRow {
    pub(crate) serial: SerialNumber,
    pub(crate) id: SpiffeId,
    pub(crate) host: Option<String>,
    pub(crate) validity: Validity,
    /// The entry that grants it, if one must.
    pub(crate) entry: Option<EntryRow>,
}

/// The token that pays for a certificate.
#[derive(Debug)]
pub(crate) struct SpentToken {
    pub(crate) secret_hash: String,
    pub(crate) address: String,
    pub(crate) name: TokenName,
}

/// Why a change does not fit the state of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    /// The same host and ID.
    #[error("host {host} already has an entry for {id}; remove it first to change it")]
    EntryExists { host: String, id: SpiffeId },
    /// No such host and ID.
    #[error("host {host} has no entry for {id}")]
    EntryMissing { host: String, id: SpiffeId },
    /// Revoked before.
    #[error("{id} is already revoked")]
    IdAlreadyRevoked { id: SpiffeId },
    /// Not revoked.
    #[error("{id} is not revoked")]
    IdNotRevoked { id: SpiffeId },
    /// Agents know the CA by it.
    #[error(
        "the certificate with serial {serial} is this CA's own; agents would no longer hear from it. It ends by itself, and a \
         restart of the CA makes a new one"
    )]
    OwnCertificate { serial: SerialNumber },
    /// Revoked while the request was under way, or before.
    #[error("{id} is revoked")]
    IdentityRevoked { id: String },
    /// Its entry was removed while the request was under way.
    #[error("no registration entry grants {id} to host {host} any more")]
    NoLongerGranted { host: String, id: SpiffeId },
    /// Revoked before.
    #[error("the certificate with serial {serial} is already revoked")]
    SerialAlreadyRevoked { serial: SerialNumber },
    /// Not ours, or expired long ago.
    #[error("this CA has no unexpired certificate with serial {serial}")]
    SerialUnknown { serial: SerialNumber },
    /// Spent, withdrawn or expired while the request was under way.
    #[error("the join token can no longer be spent: somebody else was faster")]
    TokenSpent { name: TokenName },
    /// No such token, or it is spent or withdrawn.
    #[error("there is no unused join token {token}")]
    TokenUnknown { token: String },
    /// A host hoards certificates.
    #[error("host {host} has {count} unexpired certificates, the limit is {most}; try again when some have expired")]
    TooManyCertificates { host: String, count: u64, most: u64 },
}

impl Conflict {
    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::IdentityRevoked { .. } => Reason::IdentityRevoked,
            Self::NoLongerGranted { .. } => Reason::NotGranted,
            Self::TokenSpent { .. } => Reason::TokenSpent,
            Self::TooManyCertificates { .. } => Reason::TooMany,
            // These come from an operator's command, never from a peer's request.
            Self::EntryExists { .. }
            | Self::EntryMissing { .. }
            | Self::IdAlreadyRevoked { .. }
            | Self::IdNotRevoked { .. }
            | Self::OwnCertificate { .. }
            | Self::SerialAlreadyRevoked { .. }
            | Self::SerialUnknown { .. }
            | Self::TokenUnknown { .. } => Reason::CaUnavailable,
        }
    }
}

/// Applies one change inside of a transaction.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    change: &Change,
    now: Timestamp,
) -> Result<Outcome, sqlx::Error> {
    let now = to_sql(now.as_unix_seconds());
    let conflict = match change {
        Change::AddEntry(entry) => add_entry(connection, entry, now).await?,
        Change::AddToken(token) => add_token(connection, token).await?,
        Change::Forget { before } => forget(connection, *before).await?,
        Change::Intend { certificate, spend, certificates_max } => {
            intend(connection, certificate, spend.as_ref(), *certificates_max, now).await?
        }
        Change::Issue { serial, fingerprint, enrolled } => {
            issue(connection, serial, fingerprint, enrolled.as_deref(), now).await?
        }
        Change::Lift { id } => lift(connection, id, now).await?,
        Change::Nothing => None,
        Change::Probe => probe(connection, now).await?,
        Change::RemoveEntry { host, id } => remove_entry(connection, host, id).await?,
        Change::RevokeId { id } => revoke_id(connection, id, now).await?,
        Change::RevokeSerial { serial } => revoke_serial(connection, serial, now).await?,
        Change::RevokeToken { token } => revoke_token(connection, token, now).await?,
    };
    Ok(conflict.map_or(Outcome::Done, Outcome::Conflict))
}

async fn add_entry(
    connection: &mut SqliteConnection,
    entry: &EntryRow,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    let added = sqlx::query(
        "INSERT INTO entries (host, id, dns, ttl_seconds, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&entry.host)
    .bind(entry.id.as_str())
    .bind(entry.dns.join(" "))
    .bind(entry.ttl_seconds.map(to_sql))
    .bind(now)
    .execute(connection)
    .await?;
    let exists = || Conflict::EntryExists { host: entry.host.clone(), id: entry.id.clone() };
    Ok((added.rows_affected() == 0).then(exists))
}

async fn remove_entry(
    connection: &mut SqliteConnection,
    host: &str,
    id: &SpiffeId,
) -> Result<Option<Conflict>, sqlx::Error> {
    let removed = sqlx::query("DELETE FROM entries WHERE host = $1 AND id = $2")
        .bind(host)
        .bind(id.as_str())
        .execute(connection)
        .await?;
    let missing = || Conflict::EntryMissing { host: host.to_owned(), id: id.clone() };
    Ok((removed.rows_affected() == 0).then(missing))
}

async fn add_token(
    connection: &mut SqliteConnection,
    token: &super::TokenRow,
) -> Result<Option<Conflict>, sqlx::Error> {
    sqlx::query("INSERT INTO tokens (token, host, secret_hash, created, expires) VALUES ($1, $2, $3, $4, $5)")
        .bind(&token.token)
        .bind(&token.host)
        .bind(&token.secret_hash)
        .bind(to_sql(token.created.as_unix_seconds()))
        .bind(to_sql(token.expires.as_unix_seconds()))
        .execute(connection)
        .await?;
    Ok(None)
}

async fn revoke_token(
    connection: &mut SqliteConnection,
    token: &str,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    let revoked = sqlx::query("UPDATE tokens SET revoked = $1 WHERE token = $2 AND spent IS NULL AND revoked IS NULL")
        .bind(now)
        .bind(token)
        .execute(connection)
        .await?;
    Ok((revoked.rows_affected() == 0).then(|| Conflict::TokenUnknown { token: token.to_owned() }))
}

/// Revocations and entries are looked at here and not only before, so that no change slips in between the look and the
/// signature.
async fn intend(
    connection: &mut SqliteConnection,
    certificate: &CertificateRow,
    spend: Option<&SpentToken>,
    certificates_max: u64,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    if let Some(id) = revoked_among(connection, certificate).await? {
        return Ok(Some(Conflict::IdentityRevoked { id }));
    }
    if let Some(entry) = &certificate.entry
        && !still_grants(connection, entry).await?
    {
        return Ok(Some(Conflict::NoLongerGranted { host: entry.host.clone(), id: entry.id.clone() }));
    }
    if let Some(token) = spend
        && !spend_token(connection, token, now).await?
    {
        return Ok(Some(Conflict::TokenSpent { name: token.name.clone() }));
    }
    // A token is an operator's act and bounds itself; a host that was emptied must be able to come back with one.
    if let Some(host) = &certificate.host
        && spend.is_none()
        && let Some(conflict) = too_many(connection, host, certificates_max, now).await?
    {
        return Ok(Some(conflict));
    }
    sqlx::query("INSERT INTO certificates (serial, id, host, not_before, not_after) VALUES ($1, $2, $3, $4, $5)")
        .bind(certificate.serial.to_string())
        .bind(certificate.id.as_str())
        .bind(certificate.host.as_deref())
        .bind(to_sql(certificate.validity.not_before.as_unix_seconds()))
        .bind(to_sql(certificate.validity.not_after.as_unix_seconds()))
        .execute(connection)
        .await?;
    Ok(None)
}

/// The identity itself, or the host that asks for it.
async fn revoked_among(
    connection: &mut SqliteConnection,
    certificate: &CertificateRow,
) -> Result<Option<String>, sqlx::Error> {
    let host = certificate.host.as_deref();
    let host_id = host.and_then(|host| crate::certs::spiffe_id::host_id(certificate.id.trust_domain(), host).ok());
    sqlx::query_scalar("SELECT id FROM revoked_ids WHERE id = $1 OR id = $2 LIMIT 1")
        .bind(certificate.id.as_str())
        .bind(host_id.as_ref().unwrap_or(&certificate.id).as_str())
        .fetch_optional(connection)
        .await
}

/// Whether the entry is there as it was: one that was removed and added again may grant less.
async fn still_grants(connection: &mut SqliteConnection, entry: &EntryRow) -> Result<bool, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM entries WHERE host = $1 AND id = $2 AND dns = $3 AND COALESCE(ttl_seconds, -1) = $4",
    )
    .bind(&entry.host)
    .bind(entry.id.as_str())
    .bind(entry.dns.join(" "))
    .bind(entry.ttl_seconds.map_or(-1, to_sql))
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Superseded certificates count too, until they expire: they are as good as the newest, and would be revoked with the host.
async fn too_many(
    connection: &mut SqliteConnection,
    host: &str,
    most: u64,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    let (count, entries): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM certificates WHERE host = $1 AND not_after >= $2),
                (SELECT COUNT(*) FROM entries WHERE host = $3)",
    )
    .bind(host)
    .bind(now)
    .bind(host)
    .fetch_one(connection)
    .await?;
    let count = from_sql(count);
    let most = most.saturating_add(from_sql(entries).saturating_mul(CERTIFICATES_PER_ENTRY));
    Ok((count >= most).then(|| Conflict::TooManyCertificates { host: host.to_owned(), count, most }))
}

/// One atomic step: of many who try at the same time, one finds the row unspent.
async fn spend_token(connection: &mut SqliteConnection, token: &SpentToken, now: i64) -> Result<bool, sqlx::Error> {
    let spent = sqlx::query(
        "UPDATE tokens SET spent = $1, spent_by = $2
         WHERE secret_hash = $3 AND spent IS NULL AND revoked IS NULL AND expires > $4",
    )
    .bind(now)
    .bind(&token.address)
    .bind(&token.secret_hash)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(spent.rows_affected() == 1)
}

async fn issue(
    connection: &mut SqliteConnection,
    serial: &SerialNumber,
    fingerprint: &str,
    enrolled: Option<&str>,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    sqlx::query("UPDATE certificates SET fingerprint = $1 WHERE serial = $2")
        .bind(fingerprint)
        .bind(serial.to_string())
        .execute(&mut *connection)
        .await?;
    if let Some(host) = enrolled {
        sqlx::query(
            "INSERT INTO hosts (host, enrolled) VALUES ($1, $2)
             ON CONFLICT (host) DO UPDATE SET enrolled = excluded.enrolled",
        )
        .bind(host)
        .bind(now)
        .execute(connection)
        .await?;
    }
    Ok(None)
}

async fn revoke_id(
    connection: &mut SqliteConnection,
    id: &SpiffeId,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    let revoked = sqlx::query("INSERT INTO revoked_ids (id, revoked) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id.as_str())
        .bind(now)
        .execute(&mut *connection)
        .await?;
    if revoked.rows_affected() == 0 {
        return Ok(Some(Conflict::IdAlreadyRevoked { id: id.clone() }));
    }
    if let Some(host) = host_of(id) {
        // Whoever holds the host holds the keys of every certificate that it was given.
        sqlx::query(
            "INSERT INTO revoked_serials (serial, not_after, revoked, cause)
             SELECT serial, not_after, $1, $2 FROM certificates WHERE host = $3 AND not_after >= $4
             ON CONFLICT DO NOTHING",
        )
        .bind(now)
        .bind(id.as_str())
        .bind(host)
        .bind(before(now, CLOCKS_LATE))
        .execute(&mut *connection)
        .await?;
    }
    trust_changed(connection, now).await?;
    Ok(None)
}

async fn lift(connection: &mut SqliteConnection, id: &SpiffeId, now: i64) -> Result<Option<Conflict>, sqlx::Error> {
    let lifted =
        sqlx::query("DELETE FROM revoked_ids WHERE id = $1").bind(id.as_str()).execute(&mut *connection).await?;
    if lifted.rows_affected() == 0 {
        return Ok(Some(Conflict::IdNotRevoked { id: id.clone() }));
    }
    sqlx::query("DELETE FROM revoked_serials WHERE cause = $1").bind(id.as_str()).execute(&mut *connection).await?;
    trust_changed(connection, now).await?;
    Ok(None)
}

async fn revoke_serial(
    connection: &mut SqliteConnection,
    serial: &SerialNumber,
    now: i64,
) -> Result<Option<Conflict>, sqlx::Error> {
    let found: Option<(i64, Option<String>)> =
        sqlx::query_as("SELECT not_after, host FROM certificates WHERE serial = $1 AND not_after >= $2")
            .bind(serial.to_string())
            .bind(before(now, REVOCATION_KEPT))
            .fetch_optional(&mut *connection)
            .await?;
    let not_after = match found {
        None => return Ok(Some(Conflict::SerialUnknown { serial: serial.clone() })),
        Some((_, None)) => return Ok(Some(Conflict::OwnCertificate { serial: serial.clone() })),
        Some((not_after, Some(_host))) => not_after,
    };
    // Revoked with its host before: from now on by itself, so that lifting the host does not lift it.
    let revoked = sqlx::query(
        "INSERT INTO revoked_serials (serial, not_after, revoked, cause) VALUES ($1, $2, $3, '')
         ON CONFLICT (serial) DO UPDATE SET cause = '' WHERE revoked_serials.cause <> ''",
    )
    .bind(serial.to_string())
    .bind(not_after)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if revoked.rows_affected() == 0 {
        return Ok(Some(Conflict::SerialAlreadyRevoked { serial: serial.clone() }));
    }
    trust_changed(connection, now).await?;
    Ok(None)
}

/// Tells every process that looks at the generation, and forgets serials that expired long ago.
async fn trust_changed(connection: &mut SqliteConnection, now: i64) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM revoked_serials WHERE not_after < $1")
        .bind(before(now, REVOCATION_KEPT))
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE trust_generation SET generation = generation + 1").execute(connection).await?;
    Ok(())
}

fn before(now: i64, span: Duration) -> i64 {
    now.saturating_sub(to_sql(span.as_secs()))
}

async fn probe(connection: &mut SqliteConnection, now: i64) -> Result<Option<Conflict>, sqlx::Error> {
    sqlx::query("INSERT INTO probe (only_row, time) VALUES (1, $1) ON CONFLICT (only_row) DO UPDATE SET time = $2")
        .bind(now)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(None)
}

async fn forget(connection: &mut SqliteConnection, before: Timestamp) -> Result<Option<Conflict>, sqlx::Error> {
    let before = to_sql(before.as_unix_seconds());
    for statement in [
        "DELETE FROM certificates WHERE not_after < $1",
        "DELETE FROM tokens WHERE expires < $1",
        "DELETE FROM revoked_serials WHERE not_after < $1",
    ] {
        sqlx::query(statement).bind(before).execute(&mut *connection).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Store, Write};
    use super::*;
    use crate::record::Event;

    const END: u64 = 1_800_000_000;

    struct Tested {
        store: Store,
        _folder: tempfile::TempDir,
    }

    impl Tested {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ca.sqlite");
            std::fs::write(&path, "").unwrap();
            Store::create(&path, &Write::probe(at(0))).await.unwrap();
            Self { store: Store::open(&path).await.unwrap(), _folder: folder }
        }

        async fn apply(&self, change: Change, now: Timestamp) -> Outcome {
            let event = Event::ServeStopped { cause: "a test", omitted: BTreeMap::new() };
            self.store.write(Write::new(change, &event, now).unwrap()).await.unwrap()
        }

        async fn revoked(&self, now: Timestamp) -> usize {
            self.store.revocations(now).await.unwrap().1.serials.len()
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://prod.example{path}")).unwrap()
    }

    /// A certificate of the host `gpu-1` that ends at [`END`].
    fn intent(serial: &str, entry: Option<&EntryRow>) -> Change {
        let validity = Validity { not_before: at(END - 100), not_after: at(END) };
        let serial = serial.parse().unwrap();
        let host = Some("gpu-1".to_owned());
        let certificate = CertificateRow { serial, id: id("/llm"), host, validity, entry: entry.cloned() };
        Change::Intend { certificate, spend: None, certificates_max: 100 }
    }

    #[tokio::test]
    async fn an_entry_that_was_removed_or_changed_while_the_intent_waited_grants_nothing() {
        let tested = Tested::new().await;
        let now = at(END - 50);
        let named = |dns: &[&str], ttl_seconds| EntryRow {
            host: "gpu-1".to_owned(),
            id: id("/llm"),
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ttl_seconds,
        };
        let entry = named(&["a.example", "b.example"], None);
        let refused = Outcome::Conflict(Conflict::NoLongerGranted { host: entry.host.clone(), id: entry.id.clone() });
        tested.apply(Change::AddEntry(entry.clone()), now).await;
        assert_eq!(tested.apply(intent("01", Some(&entry)), now).await, Outcome::Done);
        let remove = || Change::RemoveEntry { host: "gpu-1".to_owned(), id: id("/llm") };
        let changed = [named(&["a.example"], None), named(&["a.example", "b.example"], Some(60))];
        for (serial, now_there) in ["03", "04"].into_iter().zip(changed) {
            tested.apply(remove(), now).await;
            assert_eq!(tested.apply(intent("02", Some(&entry)), now).await, refused);
            tested.apply(Change::AddEntry(now_there.clone()), now).await;
            assert_eq!(tested.apply(intent("02", Some(&entry)), now).await, refused);
            assert_eq!(tested.apply(intent(serial, Some(&now_there)), now).await, Outcome::Done);
        }
    }

    #[tokio::test]
    async fn a_revocation_is_told_for_a_day_after_the_certificates_end() {
        let tested = Tested::new().await;
        tested.apply(intent("01", None), at(END - 50)).await;
        tested.apply(Change::RevokeSerial { serial: "01".parse().unwrap() }, at(END - 10)).await;
        let last = at(END + 86_400);
        tested.apply(Change::RevokeId { id: id("/other") }, last).await;
        assert_eq!(tested.revoked(last).await, 1, "another revocation forgets none that is still told");
        assert_eq!(tested.revoked(last.plus(Duration::from_secs(1))).await, 0);
    }

    #[tokio::test]
    async fn what_a_late_clock_takes_for_valid_can_be_revoked() {
        let tested = Tested::new().await;
        tested.apply(intent("01", None), at(END - 50)).await;
        tested.apply(intent("02", None), at(END - 50)).await;
        let late = at(END + 3600);
        assert_eq!(tested.apply(Change::RevokeSerial { serial: "01".parse().unwrap() }, late).await, Outcome::Done);
        tested.apply(Change::RevokeId { id: id("/countersign/host/gpu-1") }, late).await;
        assert_eq!(tested.revoked(late).await, 2);
    }
}
