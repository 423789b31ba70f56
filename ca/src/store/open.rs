//! Opening and making the database.

use std::path::Path;
use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{Store, StoreError, Write, schema, writer};

/// How long one of us waits for another process's write, for example a CLI command's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads are short; more connections would not make them faster on the few cores that a CA has.
const READERS_MAX: u32 = 4;

impl Store {
    /// Opens an existing database, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::NotFound { path: path.to_owned() });
        }
        let mut connection = connect(path).await?;
        schema::migrate(&mut connection).await?;
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).pragma("query_only", "ON");
        let readers = SqlitePoolOptions::new().max_connections(READERS_MAX).connect_lazy_with(options);
        Ok(Self { readers, writer: writer::start(path.to_owned(), connection) })
    }

    /// Makes a new database with the first line of its journal, in an existing empty file, so that its permissions are
    /// the caller's choice. Leaves no other file beside it.
    pub(crate) async fn create(path: &Path, first: &Write) -> Result<(), StoreError> {
        let mut connection = connect(path).await?;
        schema::migrate(&mut connection).await?;
        let (connection, _done) = writer::write_together(connection, &[first]).await?;
        Ok(connection.close().await?)
    }
}

/// A connection that writes. FULL: a commit that was reported is on disk, also after a power cut.
pub(super) async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true);
    SqliteConnection::connect_with(&options).await
}
