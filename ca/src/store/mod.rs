//! The CA's database: the only module that knows SQL.
//!
//! One connection writes, several read. Every write carries a line of the journal, and both are one transaction, flushed
//! to disk before anybody is told. The SQL is the part of the language that SQLite and PostgreSQL share; what differs
//! between them (opening, the schema, how a transaction takes the write lock) is in `open`, `schema` and `writer` alone.

mod chain;
mod change;
mod open;
mod query;
mod schema;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot};

pub(crate) use chain::{Fault, Line};
pub(crate) use change::{CertificateRow, Change, Conflict, SpentToken};
pub(crate) use query::{EntryRow, TokenRow};
pub(crate) use writer::Write;

use writer::Job;

/// How long after a certificate's end its revocation is still told: on a host whose clock is late it has not ended.
pub(crate) const REVOCATION_KEPT: Duration = Duration::from_secs(86_400);

/// The database, open.
pub(crate) struct Store {
    readers: SqlitePool,
    writer: mpsc::Sender<Job>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is on disk.
    Done,
    /// The state of the store forbids it; nothing was written.
    Conflict(Conflict),
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A stored value is not what was written.
    #[error("the store holds {what} that cannot be read: {value:?}")]
    Damaged { what: &'static str, value: String },
    /// The event cannot be written as JSON.
    #[error("the journal line cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The database is of a later version of this program.
    #[error("the store has version {found}, this program knows {known}; use the newer countersign-ca")]
    Newer {
        /// Version of the store.
        found: i64,
        /// Version of the program.
        known: i64,
    },
    /// The database refuses.
    #[error("the database refuses")]
    Sql(#[from] sqlx::Error),
    /// No such file.
    #[error("{path} does not exist; was the CA made with `countersign-ca init`?")]
    NotFound { path: PathBuf },
    /// The batch of which this write was a part failed.
    #[error("the database could not write: {0}")]
    Unwritten(String),
    /// The task that writes has ended.
    #[error("the store is closed")]
    Closed,
}

impl Store {
    /// Writes one change with its line in the journal. When this returns [`Outcome::Done`] both are on disk.
    pub(crate) async fn write(&self, write: Write) -> Result<Outcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(Job { write, answer }).await.map_err(|_closed| StoreError::Closed)?;
        answered.await.map_err(|_closed| StoreError::Closed)?
    }

    /// As it is after its writing task has broken down.
    #[cfg(test)]
    pub(crate) fn without_writer(self) -> Self {
        Self { writer: mpsc::channel(1).0, ..self }
    }
}

/// Times and numbers are stored as signed integers, because that is what SQL has.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
