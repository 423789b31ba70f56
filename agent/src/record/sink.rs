//! Where audit lines go: from each worker's buffer through a bounded queue to one thread that writes (`writer`).
//!
//! What is no connection and no request (a config, a certificate, a key) is written by [`Sink::event`], from any thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use countersign_audit::catalogue::{AuditGap, Entry, Event};

use super::extra::Queue;
use crate::config::audit::WhenFull;

/// Buffers on their way to the writer.
const QUEUE: usize = 64;

/// Bytes of recent lines that are kept for `explain`.
const RECENT_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of events that wait for the writer. They are few; this many wait only while nothing can be written.
const EVENTS_BYTES_MAX: usize = 1024 * 1024;

/// The end at which lines are handed in.
#[derive(Clone)]
pub(crate) struct Sink {
    queue: SyncSender<Batch>,
    shared: Arc<Shared>,
}

/// What the writer is told.
pub(super) enum Batch {
    Lines(Vec<u8>),
    /// Events wait.
    Events,
    /// The file may have been moved away: open it anew under its name.
    Reopen,
    /// Nothing comes after this.
    End,
}

/// What the writing thread and everybody else share.
pub(super) struct Shared {
    when_full: WhenFull,
    failing: AtomicBool,
    /// The agent stops: what cannot be written within a few tries is given up, and said.
    ending: AtomicBool,
    events: Mutex<Events>,
    extras: Vec<Arc<Queue>>,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Events {
    lines: Vec<u8>,
    left_out: u64,
}

#[derive(Default)]
struct Recent {
    batches: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
}

/// A queue, and what the writer gets of it.
pub(super) fn channel(when_full: WhenFull, extras: Vec<Arc<Queue>>) -> (Sink, Receiver<Batch>, Arc<Shared>) {
    let (queue, batches) = sync_channel(QUEUE);
    let shared = Arc::new(Shared {
        when_full,
        failing: AtomicBool::new(false),
        ending: AtomicBool::new(false),
        events: Mutex::default(),
        extras,
        recent: Mutex::default(),
    });
    (Sink { queue, shared: Arc::clone(&shared) }, batches, shared)
}

impl Sink {
    /// Hands lines on, or gives them back if the queue is full.
    pub(crate) fn send(&self, lines: Vec<u8>) -> Result<(), Vec<u8>> {
        self.queue.try_send(Batch::Lines(lines)).map_err(|error| match error {
            TrySendError::Full(Batch::Lines(lines)) | TrySendError::Disconnected(Batch::Lines(lines)) => lines,
            TrySendError::Full(Batch::End | Batch::Events | Batch::Reopen)
            | TrySendError::Disconnected(Batch::End | Batch::Events | Batch::Reopen) => Vec::new(),
        })
    }

    /// Writes one event that is neither a connection nor a request. It waits for nothing. While nothing can be written, events
    /// wait up to a bound; beyond it they are counted, and the count is told.
    pub(crate) fn event(&self, event: Event, now: SystemTime) {
        self.shared.push(event, now);
        // A full queue means that the writer has enough to do; it looks for events with each batch.
        self.queue.try_send(Batch::Events).ok();
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

    /// What happens to new work while lines cannot be written.
    pub(crate) fn when_full(&self) -> WhenFull {
        self.shared.when_full
    }

    /// Whether the last attempt to write failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// The queues of additional sinks.
    pub(crate) fn extras(&self) -> &[Arc<Queue>] {
        &self.shared.extras
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

impl Shared {
    fn push(&self, event: Event, now: SystemTime) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.lines.len() > EVENTS_BYTES_MAX {
            events.left_out = events.left_out.saturating_add(1);
            return;
        }
        if events.left_out > 0 {
            let gap = Event::AuditGap(AuditGap { count: std::mem::take(&mut events.left_out), sink: None });
            events.append(gap, now);
        }
        events.append(event, now);
    }

    /// The events that wait, as lines.
    pub(super) fn take_events(&self) -> Vec<u8> {
        std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner).lines)
    }

    /// The queues of additional sinks.
    pub(super) fn extras(&self) -> &[Arc<Queue>] {
        &self.extras
    }

    /// Notes whether writing works, and tells whether that is news.
    pub(super) fn set_failing(&self, failing: bool) -> bool {
        self.failing.swap(failing, Ordering::Relaxed) != failing
    }

    /// Whether the agent stops.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Keeps lines for `explain`.
    pub(super) fn keep(&self, batch: Arc<Vec<u8>>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += batch.len();
        recent.batches.push_back(batch);
        while recent.bytes > RECENT_BYTES {
            let Some(oldest) = recent.batches.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
    }
}

impl Events {
    fn append(&mut self, event: Event, now: SystemTime) {
        self.lines.extend_from_slice(Entry::new(event, now).to_line().as_bytes());
        self.lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_audit::catalogue::ControlCommand;
    use std::time::Duration;

    #[test]
    fn events_wait_up_to_a_bound_and_are_counted_beyond_it() {
        let (sink, _batches, shared) = channel(WhenFull::Refuse, Vec::new());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_402_800);
        let event = || {
            let command = ControlCommand { command: "x".repeat(100_000), caller_uid: None, subject: None };
            Event::ControlCommand(command)
        };
        (0..30).for_each(|_| sink.event(event(), now));
        assert_eq!(shared.take_events().iter().filter(|byte| **byte == b'\n').count(), 11);
        sink.event(event(), now);
        let lines = String::from_utf8(shared.take_events()).unwrap();
        assert!(lines.starts_with("{\"schema\":1,"), "{lines}");
        assert!(lines.contains("\"event\":\"audit_gap\",\"count\":19}"), "{lines}");
    }
}
