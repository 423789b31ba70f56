//! The tables, by version. A migration that was released is never changed; a new one is added.

use sqlx::{Connection, SqliteConnection};

use super::StoreError;

/// Every migration in order; its version is its position, from 1.
const MIGRATIONS: &[&[&str]] = &[VERSION_1, VERSION_2];

const VERSION_1: &[&str] = &[
    // Append-only by trigger, tamper-evident by hash: each line's hash covers the hash of the line before.
    "CREATE TABLE journal (
        sequence BIGINT NOT NULL PRIMARY KEY,
        time BIGINT NOT NULL,
        kind TEXT NOT NULL,
        detail TEXT NOT NULL,
        hash TEXT NOT NULL
    )",
    "CREATE TRIGGER journal_is_never_updated BEFORE UPDATE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
    "CREATE TRIGGER journal_is_never_deleted BEFORE DELETE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
    "CREATE TABLE tokens (
        token TEXT NOT NULL PRIMARY KEY,
        host TEXT NOT NULL,
        secret_hash TEXT NOT NULL UNIQUE,
        created BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        spent BIGINT,
        spent_by TEXT,
        revoked BIGINT
    )",
    "CREATE TABLE hosts (
        host TEXT NOT NULL PRIMARY KEY,
        enrolled BIGINT NOT NULL
    )",
    "CREATE TABLE entries (
        host TEXT NOT NULL,
        id TEXT NOT NULL,
        dns TEXT NOT NULL,
        ttl_seconds BIGINT,
        created BIGINT NOT NULL,
        PRIMARY KEY (host, id)
    )",
    // A row is made with the intent, so that a revocation between intent and result covers the certificate.
    "CREATE TABLE certificates (
        serial TEXT NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        host TEXT,
        not_before BIGINT NOT NULL,
        not_after BIGINT NOT NULL,
        fingerprint TEXT
    )",
    "CREATE INDEX certificates_by_host ON certificates (host, not_after)",
    "CREATE INDEX certificates_by_end ON certificates (not_after)",
    "CREATE TABLE revoked_ids (
        id TEXT NOT NULL PRIMARY KEY,
        revoked BIGINT NOT NULL
    )",
    // The cause is the host's ID whose revocation brought the serial here, or empty if it was revoked by itself.
    "CREATE TABLE revoked_serials (
        serial TEXT NOT NULL PRIMARY KEY,
        not_after BIGINT NOT NULL,
        revoked BIGINT NOT NULL,
        cause TEXT NOT NULL
    )",
    // One row that grows with each change of trust; it is cheap to look at often.
    "CREATE TABLE trust_generation (
        only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
        generation BIGINT NOT NULL
    )",
    "INSERT INTO trust_generation (only_row, generation) VALUES (1, 1)",
    // Written by the watchdog to find out whether anything can be written.
    "CREATE TABLE probe (
        only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
        time BIGINT NOT NULL
    )",
];

const VERSION_2: &[&str] = &[
    // REPLACE deletes the old line without asking the trigger for DELETE, but every line is asked for its place.
    "CREATE TRIGGER journal_grows_at_its_end_only BEFORE INSERT ON journal
        WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM journal)
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
];

/// Brings the schema to the version of this program.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    // Looking first keeps the write lock free for the usual case that there is nothing to do.
    if version(connection).await.is_ok_and(|found| found == known) {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS migrations (version BIGINT NOT NULL PRIMARY KEY)")
        .execute(&mut *transaction)
        .await?;
    let found = version(&mut transaction).await?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for (version, migration) in (1_i64..).zip(MIGRATIONS).skip(done) {
        for statement in *migration {
            sqlx::query(*statement).execute(&mut *transaction).await?;
        }
        sqlx::query("INSERT INTO migrations (version) VALUES ($1)").bind(version).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM migrations").fetch_one(connection).await
}
