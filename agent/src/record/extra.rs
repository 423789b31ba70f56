//! An additional sink: its own bounded queue, and a thread that delivers. However slow or dead it is, the record does not wait for
//! it, unless the config says that it must.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use countersign_audit::catalogue::{AuditGap, Entry, Event};
use countersign_certs::time::Clock;

use super::deliver::{Setup, Target};
use crate::config::audit::{AuditSink, SinkFull};
use crate::in_words::in_one_line;

/// Bytes that wait for a sink.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long is waited after a failure: the first time, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often it is tried when the agent stops, a pause apart.
const ENDING_TRIES: u32 = 6;

/// How long at least between two lines that tell what one sink did not get. Each of them is a line that it may not get either.
const GAP_EVERY: Duration = Duration::from_secs(10);

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
    /// Lines that were dropped and that the record has not told of yet.
    untold: u64,
    /// Whether there are others among them than what the record says of itself.
    is_news: bool,
    /// When the record last told of some.
    told: Option<SystemTime>,
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

    /// Counts lines of these that it does not get.
    pub(super) fn drop_lines<'line>(&self, count: u64, mut of: impl Iterator<Item = &'line str>) {
        let is_news = of.any(|line| !is_of_the_record(line));
        self.dropped.fetch_add(count, Ordering::Relaxed);
        let mut waiting = self.lock();
        waiting.untold = waiting.untold.saturating_add(count);
        waiting.is_news |= is_news;
    }

    /// The line that is due about what it did not get. Until then the sum grows. What the record says of itself is counted with
    /// the next others: a sink that takes nothing would otherwise have a line written about each such line, for ever.
    pub(super) fn gap_due(&self, now: SystemTime) -> Option<Event> {
        let mut waiting = self.lock();
        // A clock that was set back holds nothing up.
        let is_recent = |told| now.duration_since(told).is_ok_and(|since| since < GAP_EVERY);
        if !waiting.is_news || waiting.told.is_some_and(is_recent) {
            return None;
        }
        waiting.told = Some(now);
        self.gap_of(waiting.take_untold())
    }

    /// All that it did not get and that nobody was told of: the record is about to end.
    pub(super) fn last_gap(&self) -> Option<Event> {
        self.gap_of(self.lock().take_untold())
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

    fn gap_of(&self, count: u64) -> Option<Event> {
        (count > 0).then(|| Event::AuditGap(AuditGap { count, sink: Some(self.name.to_string()) }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take_untold(&mut self) -> u64 {
        self.is_news = false;
        std::mem::take(&mut self.untold)
    }
}

impl Extra {
    /// Starts the thread.
    pub(super) fn start(config: &AuditSink, queue: Arc<Queue>, clock: Clock, host: &str) -> io::Result<Self> {
        let target = Target::new(&config.target, Setup { format: config.format, host: host.to_owned(), clock });
        let delivering = Delivering { queue, target, tries_at_the_end: 0 };
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
    /// How often it was tried in vain since the agent stops.
    tries_at_the_end: u32,
}

impl Delivering {
    fn run(mut self) {
        while let Some(batch) = self.queue.pop() {
            let text = String::from_utf8_lossy(&batch);
            let lines: Vec<&str> = text.lines().collect();
            self.deliver(&lines);
        }
        // Its last lines are delivered after the record was sealed.
        let count = self.queue.lock().take_untold();
        if count > 0 {
            tracing::error!(sink = self.queue.name(), count, "lines that no audit_gap tells of were not delivered");
        }
    }

    /// Delivers lines, however often it must be tried, or until the agent has to go.
    fn deliver(&mut self, lines: &[&str]) {
        let (mut done, mut pause) = (0, PAUSE);
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            // What did not get through when the agent began to stop will not for the next lines either.
            if self.tries_at_the_end > ENDING_TRIES {
                let left = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                return self.queue.drop_lines(left, rest.iter().copied());
            }
            let mut taken = 0;
            let delivered = self.target.deliver(rest, &mut taken);
            done += taken;
            match delivered {
                Ok(refused) => {
                    if refused > 0 {
                        self.queue.drop_lines(refused, rest.iter().copied().take(taken));
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
                    let pause_now = if self.tries_at_the_end > 0 { PAUSE } else { pause };
                    if self.queue.pause(pause_now) {
                        self.tries_at_the_end += 1;
                        std::thread::sleep(PAUSE);
                    }
                    if self.tries_at_the_end > ENDING_TRIES {
                        tracing::error!(sink = self.queue.name(), "audit lines are not delivered; the record has them");
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// Whether it tells of the record and not of what happened: seals, and what sinks did not get. A segment that holds only such lines
/// is sealed in time as well, so that the loss of a seal would bring about the next one.
fn is_of_the_record(line: &str) -> bool {
    let event = || Entry::parse(line).map_or(Event::Unknown, |entry| entry.event);
    line.contains("\"event\":\"audit_")
        && matches!(
            event(),
            Event::AuditGap(AuditGap { sink: Some(_), .. })
                | Event::AuditOpened(_)
                | Event::AuditRetired(_)
                | Event::AuditSealed(_)
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::audit::SinkTarget;
    use countersign_audit::format::Format;

    fn queue() -> Arc<Queue> {
        Queue::of(&AuditSink {
            name: "siem".into(),
            target: SinkTarget::File("/nowhere".into()),
            format: Format::Json,
            when_full: SinkFull::Drop,
        })
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_402_800 + seconds)
    }

    fn count(gap: Option<Event>) -> Option<u64> {
        let Event::AuditGap(gap) = gap? else { panic!("it is another event") };
        assert_eq!(gap.sink.as_deref(), Some("siem"));
        Some(gap.count)
    }

    #[test]
    fn a_gap_is_told_once_in_a_while_in_sums_and_not_because_of_what_tells_it() {
        let (queue, lost) = (queue(), [r#"{"schema":1,"time":"t","event":"agent_stopped","version":"1","pid":1}"#]);
        assert_eq!(count(queue.gap_due(at(0))), None);
        queue.drop_lines(3, lost.into_iter());
        assert_eq!(count(queue.gap_due(at(0))), Some(3));
        queue.drop_lines(4, lost.into_iter());
        queue.drop_lines(5, lost.into_iter());
        assert_eq!(count(queue.gap_due(at(9))), None, "it is summed");
        assert_eq!(count(queue.gap_due(at(10))), Some(9));
        // The line about it is lost, and that of another sink, and the seal of the segment that they fill.
        let gap = |sink: Option<&str>| {
            Entry::new(Event::AuditGap(AuditGap { count: 9, sink: sink.map(ToOwned::to_owned) }), at(10)).to_line()
        };
        let zeros = "0".repeat(64);
        let own = [
            gap(Some("siem")),
            gap(Some("other")),
            format!(r#"{{"schema":1,"time":"t","event":"audit_sealed","segment":1,"lines":9,"last":"{zeros}"}}"#),
            format!(
                r#"{{"schema":1,"time":"t","event":"audit_opened","segment":2,"previous":"{zeros}","version":"1","host":"h","public_key":"k"}}"#
            ),
            r#"{"schema":1,"time":"t","event":"audit_retired","through":1,"reason":"age"}"#.to_owned(),
        ];
        queue.drop_lines(5, own.iter().map(String::as_str));
        assert_eq!(count(queue.gap_due(at(1000))), None, "without other lines there is nothing more to tell");
        queue.drop_lines(1, own.iter().map(String::as_str).chain(lost));
        assert_eq!(count(queue.gap_due(at(1000))), Some(6), "they are counted with the next");
        // A clock that was set back holds nothing up.
        queue.drop_lines(1, lost.into_iter());
        assert_eq!(count(queue.gap_due(at(500))), Some(1));
        // A gap of the record itself is in no record, and lost lines of it are as any.
        queue.drop_lines(1, [gap(None).as_str()].into_iter());
        assert_eq!(count(queue.gap_due(at(600))), Some(1));
        // At the end all is told at once.
        queue.drop_lines(1, own.iter().map(String::as_str));
        assert_eq!((count(queue.last_gap()), count(queue.last_gap())), (Some(1), None));
        assert_eq!(queue.dropped(), 21);
    }

    #[test]
    fn a_queue_is_bounded_and_gives_back_what_is_left_when_it_is_closed() {
        let queue = queue();
        let batch = Arc::new(vec![b'x'; QUEUE_BYTES_MAX / 3]);
        assert_eq!([(); 4].map(|()| queue.push(&batch)), [true, true, true, false]);
        queue.close();
        assert_eq!([(); 4].map(|()| queue.pop().is_some()), [true, true, true, false]);
        assert!(queue.push(&Arc::new(vec![b'x'; QUEUE_BYTES_MAX * 2])), "one always has room");
    }

    #[test]
    fn at_the_end_a_collector_that_is_down_is_tried_a_few_times_and_not_for_each_of_what_waits() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: crate::config::address::Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut some = [0; 65536];
                io::Read::read(&mut stream, &mut some).ok();
                counted.fetch_add(1, Ordering::Relaxed);
                io::Write::write_all(
                    &mut stream,
                    b"HTTP/1.1 503 Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                )
                .ok();
            }
        });
        let config = AuditSink {
            name: "siem".into(),
            target: SinkTarget::Otlp { endpoint, uri: "/v1/logs".parse().unwrap(), tls: None },
            format: Format::Json,
            when_full: SinkFull::Drop,
        };
        let queue = Queue::of(&config);
        let line = r#"{"schema":1,"time":"2026-01-01T00:00:00.000000Z","event":"agent_stopped","version":"1","pid":1}"#;
        (0..100).for_each(|_| assert!(queue.push(&Arc::new(format!("{line}\n").into_bytes()))));
        queue.close();
        let clock = Clock::new(|| at(0));
        Extra::start(&config, Arc::clone(&queue), clock, "h").unwrap().0.join().unwrap();
        assert_eq!((queue.dropped(), asked.load(Ordering::Relaxed)), (100, u64::from(ENDING_TRIES) + 1));
    }
}
