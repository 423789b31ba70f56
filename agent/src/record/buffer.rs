//! A worker's audit lines on their way to the sink: gathered for a moment, so that one system call carries many.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use countersign_certs::allowance::Allowances;
use countersign_certs::time::{Clock, Timestamp};
use tokio::sync::Notify;

use super::line::{Line, TimeText, write_gap, write_unrecorded};
use super::omitted::{self, Kind};
use super::sink::Sink;
use crate::config::audit::WhenFull;
use crate::listener::{Origin, PeerAddress};
use crate::refusal::Refusal;

/// How long lines may lie here.
const FLUSH: Duration = Duration::from_millis(20);

/// Lines of this size are handed on at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// When lines of this size could not be handed on, new work is refused.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// When lines of this size could not be handed on, even what was under way is only counted.
const LINES_BYTES_MAX: usize = 4 * BACKLOG_BYTES_MAX;

/// Connections and requests from one network or user, for one reason, that are written at once where nobody has proved who they are.
/// Whoever reaches the port can cause them, and could otherwise fill the disk; then everybody would be refused.
const STRANGERS_AT_ONCE: u64 = 100;

/// How long until one more is written after that.
const STRANGER_EVERY: Duration = Duration::from_secs(1);

/// Networks and reasons that are told apart. All others count as one: networks of IPv6 cost next to nothing.
const STRANGERS_APART: usize = 128;

/// How long new work waits for room, where it may wait, and how often it looks.
const BLOCK_MAX: Duration = Duration::from_secs(10);
const BLOCK_LOOK: Duration = Duration::from_millis(50);

/// How often a worker that ends tries to hand its last lines on. Five seconds are enough for any disk that works.
const LAST_TRIES: u32 = 250;

/// The lines of one worker.
pub(crate) struct AuditBuffer {
    sink: Sink,
    lines: RefCell<Vec<u8>>,
    waiting: Notify,
    time: RefCell<TimeText>,
    unrecorded: Cell<u64>,
    /// Lines that were left out because there was no room.
    left_out: Cell<u64>,
    strangers: RefCell<Allowances<Stranger>>,
}

/// Those who have proved nothing: by where they come from and by how it ended. None for those who share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stranger {
    origin: Option<Origin>,
    reason: &'static str,
}

impl AuditBuffer {
    /// No lines yet.
    pub(crate) fn new(sink: Sink) -> Self {
        Self {
            sink,
            lines: RefCell::default(),
            waiting: Notify::new(),
            time: RefCell::default(),
            unrecorded: Cell::new(0),
            left_out: Cell::new(0),
            strangers: RefCell::new(Allowances::new(STRANGERS_AT_ONCE, STRANGER_EVERY).of_at_most(STRANGERS_APART)),
        }
    }

    /// Whether new work may not begin now, because it could not be recorded.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.flows() && self.sink.when_full() != WhenFull::Drop
    }

    /// Whether what is written now will soon be on its way.
    fn flows(&self) -> bool {
        !self.sink.is_failing() && self.lines.borrow().len() <= BACKLOG_BYTES_MAX
    }

    /// Lets new work in, unless it could not be recorded.
    pub(crate) async fn admit(&self) -> Result<(), Refusal> {
        if self.flows() {
            return Ok(());
        }
        match self.sink.when_full() {
            // Boxed, because hardly anybody ever waits, and every connection would carry the room for it.
            WhenFull::Block => Box::pin(self.wait_for_room()).await,
            WhenFull::Drop => Ok(()),
            WhenFull::Refuse => Err(Refusal::AuditUnavailable),
        }
    }

    async fn wait_for_room(&self) -> Result<(), Refusal> {
        let end = tokio::time::Instant::now() + BLOCK_MAX;
        while !self.flows() {
            if tokio::time::Instant::now() >= end {
                return Err(Refusal::AuditUnavailable);
            }
            tokio::time::sleep(BLOCK_LOOK).await;
        }
        Ok(())
    }

    /// Counts what was refused because it could not be recorded: a line for each would be memory that a peer makes grow.
    pub(crate) fn count_unrecorded(&self) {
        self.unrecorded.set(self.unrecorded.get().saturating_add(1));
        self.waiting.notify_one();
    }

    /// How many lines of strangers like this one were left out before it; nothing if it is left out too, and counted in
    /// the next line.
    pub(crate) fn stranger(&self, address: &PeerAddress, reason: &'static str, now: Timestamp) -> Option<u64> {
        let (key, shared) = (Stranger { origin: Some(address.origin()), reason }, Stranger { origin: None, reason });
        self.strangers.borrow_mut().take(key, shared, now)
    }

    /// Tells what was left out of strangers and no line has counted. While nothing can be written, the counts stay here.
    pub(crate) fn tell_omitted(&self, now: SystemTime) {
        if self.flows() {
            self.tell_last_omitted(now);
        }
    }

    fn tell_last_omitted(&self, now: SystemTime) {
        let omitted = self.strangers.borrow_mut().take_omitted().into_iter();
        let kind = |stranger: &Stranger| Kind { of: "refusal", reason: Some(stranger.reason) };
        omitted::tell(&self.sink, omitted.map(|(stranger, count)| (kind(&stranger), count)), now);
    }

    /// Appends one line.
    pub(crate) fn write(&self, line: &Line<'_>, now: SystemTime) {
        let flows = self.flows();
        let length = self.lines.borrow().len();
        if length > BACKLOG_BYTES_MAX && self.sink.when_full() == WhenFull::Drop {
            self.left_out.set(self.left_out.get().saturating_add(1));
            return self.waiting.notify_one();
        }
        if length > LINES_BYTES_MAX {
            // What was under way when writing began to fail ends all the same, and was no refusal.
            self.left_out.set(self.left_out.get().saturating_add(1));
            return self.waiting.notify_one();
        }
        let length = {
            if flows {
                self.append_unrecorded(now);
            }
            let (mut lines, mut time) = (self.lines.borrow_mut(), self.time.borrow_mut());
            line.write_to(time.of(now), &mut lines);
            lines.len()
        };
        if length >= BUFFER_BYTES { self.flush() } else { self.waiting.notify_one() }
    }

    /// What was only counted is told in one line.
    fn append_unrecorded(&self, now: SystemTime) {
        if self.left_out.get() > 0 {
            let (mut lines, mut time) = (self.lines.borrow_mut(), self.time.borrow_mut());
            write_gap(time.of(now), self.left_out.take(), &mut lines);
        }
        if self.unrecorded.get() > 0 {
            let (mut lines, mut time) = (self.lines.borrow_mut(), self.time.borrow_mut());
            write_unrecorded(time.of(now), self.unrecorded.take(), &mut lines);
        }
    }

    /// Hands lines on for ever, a little after they were written.
    pub(crate) async fn keep_flushing(self: Rc<Self>, clock: Clock) {
        loop {
            self.waiting.notified().await;
            tokio::time::sleep(FLUSH).await;
            if self.unrecorded.get() > 0 || self.left_out.get() > 0 {
                // What was only counted is told as soon as lines flow, also if no other line comes.
                if self.flows() {
                    self.append_unrecorded(clock.precise());
                }
                self.waiting.notify_one();
            }
            self.flush();
        }
    }

    /// Hands the last lines on.
    pub(crate) async fn finish(&self, now: SystemTime) {
        self.append_unrecorded(now);
        self.tell_last_omitted(now);
        for _ in 0..LAST_TRIES {
            self.flush();
            if self.lines.borrow().is_empty() {
                return;
            }
            tokio::time::sleep(FLUSH).await;
        }
    }

    fn flush(&self) {
        let lines = self.lines.take();
        if lines.is_empty() {
            return;
        }
        if let Err(mut unsent) = self.sink.send(lines) {
            // The queue is full: the lines stay here, in order, and are tried again with the next ones.
            let mut buffer = self.lines.borrow_mut();
            unsent.append(&mut buffer);
            *buffer = unsent;
            self.waiting.notify_one();
        }
    }
}
