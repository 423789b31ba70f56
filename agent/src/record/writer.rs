//! The thread that writes audit lines.
//!
//! Lines are never dropped here. When writing fails, the thread tries again until it works, the queue before it fills, and
//! workers do what `when_full` says.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use countersign_audit::catalogue::{Entry, Event};
use countersign_certs::time::Clock;

use super::extra::{Extra, Queue};
use super::output::{Output, OutputError};
use super::sink::{Batch, Shared, Sink, channel};
use crate::config::audit::{Audit, SinkFull};

/// How long the writer waits after a failure, and how often it tries when the agent stops.
const RETRY: Duration = Duration::from_millis(500);
const ENDING_TRIES: u32 = 10;

/// How often a segment's age is looked at while there is nothing to write.
const TEND: Duration = Duration::from_secs(1);

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("the writing thread cannot be started")]
    Thread(#[source] io::Error),
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

/// Opens the output and starts the thread. `host` is who writes.
pub(crate) fn start(audit: &Audit, host: &str, clock: &Clock) -> Result<(Sink, Writer), StartError> {
    let output = Output::open(audit, host, clock.precise())?;
    let queues: Vec<Arc<Queue>> = audit.sinks.iter().map(Queue::of).collect();
    let (sink, batches, shared) = channel(audit.when_full, queues.clone());
    let machine = crate::teller::host(None);
    let extras = audit.sinks.iter().zip(queues);
    let extras = extras.map(|(config, queue)| Extra::start(config, queue, clock.clone(), &machine));
    let extras = extras.collect::<Result<Vec<_>, _>>().map_err(StartError::Thread)?;
    let writing = Writing { output, shared, clock: clock.clone() };
    let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
        let shared = Arc::clone(&writing.shared);
        let outcome = writing.run(&batches);
        shared.extras().iter().for_each(|queue| queue.close());
        extras.into_iter().for_each(Extra::finish);
        outcome
    });
    Ok((sink, Writer(thread.map_err(StartError::Thread)?)))
}

struct Writing {
    output: Output,
    shared: Arc<Shared>,
    clock: Clock,
}

impl Writing {
    /// Writes what comes; says how many bytes had to be given up, which is none unless writing fails when the agent stops.
    fn run(mut self, batches: &Receiver<Batch>) -> Result<(), AuditLost> {
        self.offer_own();
        loop {
            let batch = batches.recv_timeout(TEND);
            self.write(self.shared.take_events())?;
            self.tell_gaps(Queue::gap_due)?;
            match batch {
                Ok(Batch::Lines(lines)) => self.write(lines)?,
                Ok(Batch::Events) => {}
                Ok(Batch::Reopen) => self.output.reopen(),
                Err(RecvTimeoutError::Timeout) => {
                    self.until_written(0, Output::advance)?;
                    self.offer_own();
                }
                Ok(Batch::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.write(self.shared.take_events())?;
                    self.tell_gaps(|queue, _now| queue.last_gap())?;
                    self.until_written(0, Output::finish)?;
                    self.offer_own();
                    return Ok(());
                }
            }
        }
    }

    fn write(&mut self, lines: Vec<u8>) -> Result<(), AuditLost> {
        if lines.is_empty() {
            return Ok(());
        }
        let staged = self.output.stage(lines);
        self.until_written(staged.len(), Output::advance)?;
        self.offer_to_all(&staged);
        self.shared.keep(staged);
        self.offer_own();
        Ok(())
    }

    /// Writes what additional sinks did not get. These lines too go to every sink.
    fn tell_gaps(&mut self, gap: impl Fn(&Queue, SystemTime) -> Option<Event>) -> Result<(), AuditLost> {
        let now = self.clock.precise();
        let gaps = self.shared.extras().iter().filter_map(|queue| gap(queue, now));
        let lines: String = gaps.map(|gap| Entry::new(gap, now).to_line() + "\n").collect();
        self.write(lines.into_bytes())
    }

    /// Hands on what the output has added by itself.
    fn offer_own(&mut self) {
        let own = self.output.take_own();
        if !own.is_empty() {
            self.offer_to_all(&Arc::new(own));
        }
    }

    fn offer_to_all(&self, lines: &Arc<Vec<u8>>) {
        self.shared.extras().iter().for_each(|queue| self.offer(queue, lines));
    }

    /// Hands what is written to an additional sink. Where none of it may be lost, its being full is as a full disk.
    fn offer(&self, queue: &Queue, lines: &Arc<Vec<u8>>) {
        let mut failures = 0;
        while !queue.push(lines) {
            let must_wait = queue.when_full() == SinkFull::Refuse && failures < ENDING_TRIES;
            if !must_wait {
                let count = lines.iter().filter(|byte| **byte == b'\n').count();
                let text = String::from_utf8_lossy(lines);
                return queue.drop_lines(u64::try_from(count).unwrap_or(u64::MAX), text.lines());
            }
            if self.shared.set_failing(true) {
                tracing::error!(sink = queue.name(), "a sink that must have every audit line is full");
            }
            failures += u32::from(self.shared.is_ending());
            std::thread::sleep(RETRY);
        }
        self.shared.set_failing(false);
    }

    /// A full disk gets room again, a file system comes back: it is tried until it is written, or until the agent has to go.
    fn until_written(
        &mut self,
        bytes: usize,
        write: impl Fn(&mut Output, SystemTime) -> io::Result<()>,
    ) -> Result<(), AuditLost> {
        let mut failures = 0;
        while let Err(error) = write(&mut self.output, self.clock.precise()) {
            if self.shared.set_failing(true) {
                tracing::error!(%error, "audit lines cannot be written");
            }
            failures += 1;
            if self.shared.is_ending() && failures >= ENDING_TRIES {
                return Err(AuditLost { bytes });
            }
            std::thread::sleep(RETRY);
        }
        if self.shared.set_failing(false) {
            tracing::info!("audit lines are written again");
        }
        Ok(())
    }
}
