//! The one writing connection. Writes that wait at the same time share one transaction and so one flush to disk; each is
//! answered only after that transaction is committed.

use std::path::PathBuf;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::change::{self, Change};
use super::{Outcome, StoreError, chain, from_sql, open, to_sql};
use crate::certs::time::Timestamp;
use crate::record::Event;

/// Most writes in one transaction.
const BATCH_MAX: usize = 256;

/// Most writes that wait; more are made to wait outside.
const QUEUE_MAX: usize = 1024;

/// One change and its line in the journal.
#[derive(Debug)]
pub(crate) struct Write {
    change: Change,
    time: Timestamp,
    kind: String,
    detail: String,
}

pub(super) struct Job {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

impl Write {
    /// Joins a change to what the journal says of it.
    pub(crate) fn new(change: Change, event: &Event, time: Timestamp) -> Result<Self, StoreError> {
        let serde_json::Value::Object(mut object) = serde_json::to_value(event)? else {
            return Err(StoreError::Damaged { what: "an event", value: String::new() });
        };
        let kind = object.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let detail = object.remove("detail").unwrap_or_default().to_string();
        Ok(Self { change, time, kind, detail })
    }
}

/// Starts the writing task. It ends, and closes its connection, when every sender is gone.
pub(super) fn start(path: PathBuf, connection: SqliteConnection) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(write_batches(path, connection, jobs));
    sender
}

async fn write_batches(path: PathBuf, connection: SqliteConnection, mut jobs: mpsc::Receiver<Job>) {
    let mut current = Some(connection);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let written = match current.take() {
            Some(connection) => write_batch(connection, &batch).await,
            // The last batch failed; whatever was wrong with the connection, a new one begins clean.
            None => match open::connect(&path).await {
                Ok(connection) => write_batch(connection, &batch).await,
                Err(error) => Err(error),
            },
        };
        match written {
            Ok((connection, outcomes)) => {
                current = Some(connection);
                for (job, outcome) in batch.drain(..).zip(outcomes) {
                    // Whoever asked may be gone; the write stands.
                    job.answer.send(Ok(outcome)).ok();
                }
            }
            Err(error) => {
                tracing::error!(error = error.to_string(), writes = batch.len(), "store cannot be written");
                for job in batch.drain(..) {
                    job.answer.send(Err(StoreError::Unwritten(error.to_string()))).ok();
                }
            }
        }
    }
    if let Some(connection) = current {
        connection.close().await.ok();
    }
}

async fn write_batch(
    connection: SqliteConnection,
    batch: &[Job],
) -> Result<(SqliteConnection, Vec<Outcome>), sqlx::Error> {
    let writes: Vec<&Write> = batch.iter().map(|job| &job.write).collect();
    write_together(connection, &writes).await
}

/// Either every outcome is on disk, or nothing of the batch.
pub(super) async fn write_together(
    mut connection: SqliteConnection,
    batch: &[&Write],
) -> Result<(SqliteConnection, Vec<Outcome>), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut head = head(&mut transaction).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for write in batch {
        let outcome = change::apply(&mut transaction, &write.change, write.time).await?;
        if outcome == Outcome::Done && write.is_journalled() {
            head = append(&mut transaction, head, write).await?;
        }
        outcomes.push(outcome);
    }
    transaction.commit().await?;
    Ok((connection, outcomes))
}

impl Write {
    /// A probe that finds out whether anything can be written.
    pub(crate) fn probe(time: Timestamp) -> Self {
        Self { change: Change::Probe, time, kind: String::new(), detail: String::new() }
    }

    /// Housekeeping: rows that nobody can need any more, with what they meant kept in the journal.
    pub(crate) fn forget(before: Timestamp, time: Timestamp) -> Self {
        Self { change: Change::Forget { before }, time, kind: String::new(), detail: String::new() }
    }

    /// Only what changes nobody's rights goes without a line in the journal.
    fn is_journalled(&self) -> bool {
        !matches!(self.change, Change::Probe | Change::Forget { .. })
    }
}

struct Head {
    sequence: u64,
    hash: String,
}

/// Read anew in each transaction: a CLI command may have written in between.
async fn head(connection: &mut SqliteConnection) -> Result<Head, sqlx::Error> {
    let last: Option<(i64, String)> =
        sqlx::query_as("SELECT sequence, hash FROM journal ORDER BY sequence DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    Ok(match last {
        Some((sequence, hash)) => Head { sequence: from_sql(sequence), hash },
        None => Head { sequence: 0, hash: chain::GENESIS.to_owned() },
    })
}

async fn append(connection: &mut SqliteConnection, head: Head, write: &Write) -> Result<Head, sqlx::Error> {
    let sequence = head.sequence + 1;
    let time = write.time.as_unix_seconds();
    let hash = chain::link(&head.hash, sequence, time, &write.kind, &write.detail);
    sqlx::query("INSERT INTO journal (sequence, time, kind, detail, hash) VALUES ($1, $2, $3, $4, $5)")
        .bind(to_sql(sequence))
        .bind(to_sql(time))
        .bind(&write.kind)
        .bind(&write.detail)
        .bind(&hash)
        .execute(connection)
        .await?;
    Ok(Head { sequence, hash })
}
