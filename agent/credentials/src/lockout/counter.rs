//! Failures of one kind, which are forgotten one by one.

use std::time::Duration;

use countersign_certs::time::Timestamp;

/// How a delay grows with failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// Failures without a delay.
    pub(super) free: u32,
    /// The first delay.
    pub(super) first: Duration,
    /// The longest delay.
    pub(super) longest: Duration,
    /// After how long one failure is forgotten.
    pub(super) forget_one_after: Duration,
}

/// How many failures are remembered, and since when.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    failures: u32,
    /// When the last one was.
    last: Option<Timestamp>,
    /// Up to when forgetting is counted.
    forgotten: Option<Timestamp>,
}

impl Growth {
    fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            Some(doublings) if failures > 0 => {
                self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.longest)
            }
            Some(_) | None => Duration::ZERO,
        }
    }
}

impl Counter {
    /// Counts one more. No more are counted than the longest delay needs, so that it is not for ever that one pays for a long attack.
    pub(super) fn fail(&mut self, now: Timestamp, growth: &Growth) {
        self.forget(now, growth.forget_one_after);
        if growth.delay(self.failures) < growth.longest {
            self.failures = self.failures.saturating_add(1);
        }
        self.last = Some(now);
    }

    /// Takes one back that was counted before it was known.
    pub(super) fn take_back(&mut self) {
        self.failures = self.failures.saturating_sub(1);
    }

    /// How many are not forgotten yet.
    pub(super) fn failures(&mut self, now: Timestamp, forget_one_after: Duration) -> u32 {
        self.forget(now, forget_one_after);
        self.failures
    }

    /// Until when nothing may be tried; nothing if it may now.
    pub(super) fn locked_until(&mut self, now: Timestamp, growth: &Growth) -> Option<Timestamp> {
        self.forget(now, growth.forget_one_after);
        let left = growth.delay(self.failures).saturating_sub(now.since(self.last?));
        (!left.is_zero()).then(|| now.plus(left))
    }

    /// Forgets what is old enough. If the clock was set back, what has happened is taken to have happened now: nobody waits longer
    /// for that than one delay.
    fn forget(&mut self, now: Timestamp, forget_one_after: Duration) {
        let step = forget_one_after.max(Duration::from_secs(1));
        self.last = self.last.map(|last| last.min(now));
        let since = self.forgotten.unwrap_or(now).min(now);
        let steps = u32::try_from(now.since(since).as_secs() / step.as_secs().max(1)).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(steps);
        self.forgotten = Some(if self.failures == 0 { now } else { since.plus(step.saturating_mul(steps)) });
    }
}
