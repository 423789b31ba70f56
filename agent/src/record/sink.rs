//! Where audit lines go: from each worker's buffer through a bounded queue to one thread that writes.
//!
//! Lines are never dropped. When the queue is full or writing fails, workers keep their lines and refuse new work until
//! lines flow again: what cannot be recorded is not done.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::checked::AuditOutput;

/// Buffers on their way to the writer.
const QUEUE: usize = 64;

/// A worker hands its buffer on when it has grown to this size, or when a tick finds lines in it.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;

/// A worker whose lines have grown to this size refuses new work.
pub(crate) const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of recent lines that are kept for `explain`.
const RECENT_BYTES: usize = 8 * 1024 * 1024;

/// The workers' end.
#[derive(Clone)]
pub(crate) struct Sink {
    queue: SyncSender<Batch>,
    shared: Arc<Shared>,
}

enum Batch {
    Lines(Vec<u8>),
    /// Nothing comes after this.
    End,
}

/// What the writing thread and everybody else share.
struct Shared {
    failing: AtomicBool,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    batches: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// The writing thread. It ends after [`Sink::end`], when every line is written.
pub(crate) struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until every line is written.
    pub(crate) fn finish(self) {
        // A panic of the writer has been printed by its own thread; there is nothing left to write with.
        self.0.join().ok();
    }
}

/// Opens the output and starts the thread.
pub(crate) fn start(output: &AuditOutput) -> io::Result<(Sink, Writer)> {
    let target: Box<dyn Write + Send> = match output {
        AuditOutput::File(path) => Box::new(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?),
        AuditOutput::Stdout => Box::new(io::stdout()),
    };
    let (queue, lines) = sync_channel::<Batch>(QUEUE);
    let shared = Arc::new(Shared { failing: AtomicBool::new(false), recent: Mutex::default() });
    let writer = Arc::clone(&shared);
    let thread =
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(&lines, target, &writer))?;
    Ok((Sink { queue, shared }, Writer(thread)))
}

fn write_all(lines: &Receiver<Batch>, mut target: Box<dyn Write + Send>, shared: &Shared) {
    while let Ok(Batch::Lines(batch)) = lines.recv() {
        let mut written = 0;
        while let Some(rest) = batch.get(written..).filter(|rest| !rest.is_empty()) {
            match target.write(rest).and_then(|count| target.flush().map(|()| count)) {
                Ok(0) => retry_later(shared, &io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    written += count;
                    shared.failing.store(false, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => retry_later(shared, &error),
            }
        }
        let mut recent = shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += batch.len();
        recent.batches.push_back(batch);
        while recent.bytes > RECENT_BYTES {
            let Some(oldest) = recent.batches.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
    }
}

/// A full disk gets room again, a file system comes back: the batch is tried until it is written.
fn retry_later(shared: &Shared, error: &io::Error) {
    if !shared.failing.swap(true, Ordering::Relaxed) {
        tracing::error!(%error, "audit lines cannot be written, new requests are refused");
    }
    std::thread::sleep(Duration::from_millis(500));
}

impl Sink {
    /// Hands lines on, or gives them back if the queue is full.
    pub(crate) fn send(&self, lines: Vec<u8>) -> Result<(), Vec<u8>> {
        self.queue.try_send(Batch::Lines(lines)).map_err(|error| match error {
            TrySendError::Full(Batch::Lines(lines)) | TrySendError::Disconnected(Batch::Lines(lines)) => lines,
            TrySendError::Full(Batch::End) | TrySendError::Disconnected(Batch::End) => Vec::new(),
        })
    }

    /// Says that no more lines will come.
    pub(crate) fn end(&self) {
        // A writer that is gone needs no telling.
        self.queue.send(Batch::End).ok();
    }

    /// Whether the last attempt to write failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// The recent line of a decision.
    pub(crate) fn find(&self, decision: &str) -> Option<String> {
        let needle = format!("\"decision\":\"{decision}\"");
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.batches.iter().rev().find_map(|batch| {
            let text = std::str::from_utf8(batch).ok()?;
            text.lines().find(|line| line.contains(&needle)).map(ToOwned::to_owned)
        })
    }
}
