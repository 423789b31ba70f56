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

/// How long the writer waits after a failure, and how often it tries when the agent stops.
const RETRY: Duration = Duration::from_millis(500);
const ENDING_TRIES: u32 = 10;

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
    /// The file may have been moved away: open it anew under its name.
    Reopen,
    /// Nothing comes after this.
    End,
}

/// What the writing thread and everybody else share.
struct Shared {
    failing: AtomicBool,
    /// The agent stops: what cannot be written within a few tries is given up, and said.
    ending: AtomicBool,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    batches: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Lines that could not be written before the agent stopped.
#[derive(Debug, thiserror::Error)]
#[error("at least {bytes} bytes of audit lines could not be written before the agent stopped")]
pub(crate) struct AuditLost {
    bytes: usize,
}

/// The writing thread. It ends after [`Sink::end`], when every line is written.
pub(crate) struct Writer(JoinHandle<Result<(), AuditLost>>);

impl Writer {
    /// Waits until every line is written.
    pub(crate) fn finish(self) -> Result<(), AuditLost> {
        // A writer that panicked has lost what it held; how much is not known any more.
        self.0.join().unwrap_or(Err(AuditLost { bytes: 0 }))
    }
}

/// Opens the output and starts the thread.
pub(crate) fn start(output: &AuditOutput) -> io::Result<(Sink, Writer)> {
    let target = open(output)?;
    let output = output.clone();
    let (queue, lines) = sync_channel::<Batch>(QUEUE);
    let shared =
        Arc::new(Shared { failing: AtomicBool::new(false), ending: AtomicBool::new(false), recent: Mutex::default() });
    let writer = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || write_all(&lines, target, &output, &writer))?;
    Ok((Sink { queue, shared }, Writer(thread)))
}

fn open(output: &AuditOutput) -> io::Result<Box<dyn Write + Send>> {
    Ok(match output {
        AuditOutput::File(path) => Box::new(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?),
        AuditOutput::Stdout => Box::new(io::stdout()),
    })
}

/// Writes what comes; says how many bytes had to be given up, which is none unless writing fails when the agent stops.
fn write_all(
    lines: &Receiver<Batch>,
    mut target: Box<dyn Write + Send>,
    output: &AuditOutput,
    shared: &Shared,
) -> Result<(), AuditLost> {
    loop {
        match lines.recv() {
            Ok(Batch::Lines(batch)) => {
                write_batch(&batch, &mut target, shared)?;
                shared.keep(batch);
            }
            Ok(Batch::Reopen) => match open(output) {
                Ok(opened) => target = opened,
                Err(error) => tracing::error!(%error, "the audit output cannot be opened anew, the old one is used"),
            },
            Ok(Batch::End) | Err(_) => return Ok(()),
        }
    }
}

fn write_batch(batch: &[u8], target: &mut Box<dyn Write + Send>, shared: &Shared) -> Result<(), AuditLost> {
    let (mut written, mut failures) = (0, 0);
    while let Some(rest) = batch.get(written..).filter(|rest| !rest.is_empty()) {
        let error = match target.write(rest).and_then(|count| target.flush().map(|()| count)) {
            Ok(count) if count > 0 => {
                written += count;
                shared.failing.store(false, Ordering::Relaxed);
                continue;
            }
            Ok(_) => io::ErrorKind::WriteZero.into(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        if !shared.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "audit lines cannot be written, new requests are refused");
        }
        // A full disk gets room again, a file system comes back: the batch is tried until it is written, or until the agent
        // has to go.
        failures += 1;
        if shared.ending.load(Ordering::Relaxed) && failures >= ENDING_TRIES {
            return Err(AuditLost { bytes: rest.len() });
        }
        std::thread::sleep(RETRY);
    }
    Ok(())
}

impl Shared {
    fn keep(&self, batch: Vec<u8>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += batch.len();
        recent.batches.push_back(batch);
        while recent.bytes > RECENT_BYTES {
            let Some(oldest) = recent.batches.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
    }
}

impl Sink {
    /// Hands lines on, or gives them back if the queue is full.
    pub(crate) fn send(&self, lines: Vec<u8>) -> Result<(), Vec<u8>> {
        self.queue.try_send(Batch::Lines(lines)).map_err(|error| match error {
            TrySendError::Full(Batch::Lines(lines)) | TrySendError::Disconnected(Batch::Lines(lines)) => lines,
            TrySendError::Full(Batch::End | Batch::Reopen) | TrySendError::Disconnected(Batch::End | Batch::Reopen) => {
                Vec::new()
            }
        })
    }

    /// Has the output opened anew, after a tool has moved the file away.
    pub(crate) fn reopen(&self) {
        // A full queue means that writing fails; the next signal tries again.
        self.queue.try_send(Batch::Reopen).ok();
    }

    /// Says that no more lines will come.
    pub(crate) fn end(&self) {
        self.shared.ending.store(true, Ordering::Relaxed);
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
