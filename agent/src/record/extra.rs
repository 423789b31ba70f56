//! An additional sink: its own bounded queue, and a thread that delivers. However slow or dead it is, the record does not wait for
//! it, unless the config says that it must.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use countersign_audit::catalogue::{AuditGap, Event};
use countersign_certs::time::Clock;

use super::deliver::{Setup, Target};
use super::sink::Sink;
use crate::config::audit::{AuditSink, SinkFull};
use crate::in_words::in_one_line;

/// Bytes that wait for a sink.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long is waited after a failure: the first time, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often it is tried when the agent stops, a pause apart.
const ENDING_TRIES: u32 = 6;

/// Lines on their way to a sink.
pub(crate) struct Queue {
    name: Arc<str>,
    when_full: SinkFull,
    waiting: Mutex<Waiting>,
    news: Condvar,
    failing: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
    closed: bool,
    /// Lines that were dropped and that nobody was told of yet.
    untold: u64,
}

/// The thread of a sink. It ends after [`Queue::close`].
pub(super) struct Extra(JoinHandle<()>);

impl Queue {
    /// The queue of a sink.
    pub(super) fn of(sink: &AuditSink) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::clone(&sink.name),
            when_full: sink.when_full,
            waiting: Mutex::default(),
            news: Condvar::new(),
            failing: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        })
    }

    /// Its name in the config.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the last delivery failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Lines that it did not get since the agent began.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether lines may be lost on it.
    pub(super) fn when_full(&self) -> SinkFull {
        self.when_full
    }

    /// Takes lines, unless it is full. One batch always has room, however large it is.
    pub(super) fn push(&self, batch: &Arc<Vec<u8>>) -> bool {
        let mut waiting = self.lock();
        if waiting.bytes > 0 && waiting.bytes + batch.len() > QUEUE_BYTES_MAX {
            return false;
        }
        waiting.bytes += batch.len();
        waiting.batches.push_back(Arc::clone(batch));
        self.news.notify_one();
        true
    }

    /// Counts lines that it does not get.
    pub(super) fn drop_lines(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.lock().untold += count;
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// The next batch; none if there is none and none will come.
    fn pop(&self) -> Option<Arc<Vec<u8>>> {
        let waiting = self.lock();
        let done = |waiting: &mut Waiting| waiting.batches.is_empty() && !waiting.closed;
        let mut waiting = self.news.wait_while(waiting, done).unwrap_or_else(PoisonError::into_inner);
        let batch = waiting.batches.pop_front()?;
        waiting.bytes -= batch.len();
        Some(batch)
    }

    /// Waits, or until it is closed. Returns whether it is.
    fn pause(&self, pause: Duration) -> bool {
        let waiting = self.lock();
        let open = |waiting: &mut Waiting| !waiting.closed;
        let (waiting, _) = self.news.wait_timeout_while(waiting, pause, open).unwrap_or_else(PoisonError::into_inner);
        waiting.closed
    }

    fn take_untold(&self) -> u64 {
        std::mem::take(&mut self.lock().untold)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Extra {
    /// Starts the thread.
    pub(super) fn start(
        config: &AuditSink,
        queue: Arc<Queue>,
        sink: Sink,
        clock: Clock,
        host: &str,
    ) -> io::Result<Self> {
        let setup = Setup { format: config.format, host: host.to_owned(), clock: clock.clone() };
        let target = Target::new(&config.target, setup);
        let delivering = Delivering { queue, target, sink, clock };
        let thread = std::thread::Builder::new().name(format!("audit-{}", config.name));
        Ok(Self(thread.spawn(move || delivering.run())?))
    }

    /// Waits for its end.
    pub(super) fn finish(self) {
        // A thread that panicked delivers nothing more; what it held is in the record.
        self.0.join().ok();
    }
}

struct Delivering {
    queue: Arc<Queue>,
    target: Target,
    sink: Sink,
    clock: Clock,
}

impl Delivering {
    fn run(mut self) {
        while let Some(batch) = self.queue.pop() {
            let text = String::from_utf8_lossy(&batch);
            let lines: Vec<&str> = text.lines().collect();
            self.deliver(&lines);
            self.tell_gap();
        }
    }

    /// Delivers lines, however often it must be tried, or until the agent has to go.
    fn deliver(&mut self, lines: &[&str]) {
        let (mut done, mut pause, mut tries_at_the_end) = (0, PAUSE, 0);
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            let mut taken = 0;
            let delivered = self.target.deliver(rest, &mut taken);
            done += taken;
            match delivered {
                Ok(refused) => {
                    if refused > 0 {
                        self.queue.drop_lines(refused);
                    }
                    pause = PAUSE;
                    if self.queue.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!(sink = self.queue.name(), "audit lines are delivered again");
                    }
                }
                Err(error) => {
                    if !self.queue.failing.swap(true, Ordering::Relaxed) {
                        let error = in_one_line(&error);
                        tracing::error!(sink = self.queue.name(), error, "audit lines cannot be delivered");
                    }
                    let pause_now = if tries_at_the_end > 0 { PAUSE } else { pause };
                    if self.queue.pause(pause_now) {
                        tries_at_the_end += 1;
                        std::thread::sleep(PAUSE);
                    }
                    if tries_at_the_end > ENDING_TRIES {
                        let left = u64::try_from(lines.len().saturating_sub(done)).unwrap_or(u64::MAX);
                        tracing::error!(
                            sink = self.queue.name(),
                            left,
                            "audit lines were not delivered; the record has them"
                        );
                        return self.queue.drop_lines(left);
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// What was dropped is told in the record, which every sink gets.
    fn tell_gap(&self) {
        let count = self.queue.take_untold();
        if count > 0 {
            let gap = AuditGap { count, sink: Some(self.queue.name().to_owned()) };
            self.sink.event(Event::AuditGap(gap), self.clock.precise());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::audit::SinkTarget;
    use countersign_audit::format::Format;

    #[test]
    fn a_queue_is_bounded_and_gives_back_what_is_left_when_it_is_closed() {
        let config = AuditSink {
            name: "siem".into(),
            target: SinkTarget::File("/nowhere".into()),
            format: Format::Json,
            when_full: SinkFull::Drop,
        };
        let queue = Queue::of(&config);
        let batch = Arc::new(vec![b'x'; QUEUE_BYTES_MAX / 3]);
        assert_eq!([(); 4].map(|()| queue.push(&batch)), [true, true, true, false]);
        queue.close();
        assert_eq!([(); 4].map(|()| queue.pop().is_some()), [true, true, true, false]);
        assert!(queue.push(&Arc::new(vec![b'x'; QUEUE_BYTES_MAX * 2])), "one always has room");
    }
}
