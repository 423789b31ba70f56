//! A rate and a burst, and what is left of them.

use std::fmt;
use std::time::Duration;

use countersign_certs::settings::duration::{self, DurationError};

/// Most requests in a window.
pub const REQUESTS_MAX: u32 = 1_000_000;

/// Shortest window. The header fields that tell of it know whole seconds only.
pub const WINDOW_MIN: Duration = Duration::from_secs(1);

/// Longest window: 31 days.
pub const WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);

/// A number of requests in a window, of which so many may come at once.
///
/// Requests flow back one by one, each after the window's part for one: of `20/1m` with a burst of 5, five may come at once and
/// one more every three seconds. So no span of time ever sees more than the burst and what flows back in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    requests: u32,
    window: Duration,
    burst: u32,
    /// Nanoseconds after which one request flows back. Rounded up, so that the rate is never more than it says.
    interval: u64,
}

/// Why numbers make no quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// More at once than in a whole window.
    #[error("a burst of {burst} does not fit {requests} requests; it is 1 to {requests}")]
    Burst {
        /// How many may come at once.
        burst: u32,
        /// How many may come in a window.
        requests: u32,
    },
    /// The window is no duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// No number, or no slash after it.
    #[error("{0:?} is no rate; write a number of requests and a time, such as \"20/1m\"")]
    Form(String),
    /// None at all, or too many.
    #[error("{0} requests in a window; it is 1 to {REQUESTS_MAX}")]
    Requests(u32),
    /// Too short, too long, or in parts of seconds.
    #[error("a window of {}; it is whole seconds, 1s to 31d", duration::print(*.0))]
    Window(Duration),
}

/// What is left of a quota at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many requests could be made at once now.
    pub remaining: u32,
    /// After how long one request could be made; zero if it can be now.
    pub next: Duration,
    /// After how long everything has flowed back, if nothing more is used.
    pub reset: Duration,
}

impl Quota {
    /// Reads `20/1m`. Without a burst, the whole number may come at once.
    ///
    /// # Errors
    /// The text is something else, or a number is out of range.
    pub fn parse(text: &str, burst: Option<u32>) -> Result<Self, QuotaError> {
        let form = || QuotaError::Form(text.to_owned());
        let (requests, window) = text.split_once('/').ok_or_else(form)?;
        let digits = requests.bytes().all(|byte| byte.is_ascii_digit());
        let requests: u32 = requests.parse().ok().filter(|_| digits).ok_or_else(form)?;
        Self::new(requests, duration::parse(window)?, burst.unwrap_or(requests))
    }

    /// So many requests in a window, of which `burst` may come at once.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn new(requests: u32, window: Duration, burst: u32) -> Result<Self, QuotaError> {
        if !(1..=REQUESTS_MAX).contains(&requests) {
            return Err(QuotaError::Requests(requests));
        }
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) || window.subsec_nanos() != 0 {
            return Err(QuotaError::Window(window));
        }
        if !(1..=requests).contains(&burst) {
            return Err(QuotaError::Burst { burst, requests });
        }
        Ok(Self { requests, window, burst, interval: nanoseconds(window).div_ceil(u64::from(requests)) })
    }

    /// The part of one of several agents that share it without knowing of each other: rate and burst divided, the burst at least
    /// one.
    #[must_use]
    pub fn shared_among(self, agents: u32) -> Self {
        let agents = agents.max(1);
        let burst = (self.burst / agents).max(1);
        Self { burst, interval: self.interval.saturating_mul(u64::from(agents)), ..self }
    }

    /// Requests in a window.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// The window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How many may come at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Microseconds after which one request flows back, rounded up.
    pub(crate) fn interval_in_microseconds(&self) -> u64 {
        self.interval.div_ceil(1_000)
    }

    /// Takes one request from a bucket that is full again at `full_at`, both in nanoseconds by the same clock.
    ///
    /// No bucket that this clock has seen is full later than one capacity from now. One that seems to be was filled before the
    /// clock was set back: it counts as empty, so that going back never grants anything, and keeps nobody out for longer than one
    /// request takes to flow back.
    pub(crate) fn take(&self, full_at: &mut u64, now: u64) -> Result<Standing, Standing> {
        let used = self.used(*full_at, now);
        let after = used.saturating_add(self.interval);
        if after > self.capacity() {
            *full_at = now.saturating_add(used);
            return Err(self.standing(used));
        }
        *full_at = now.saturating_add(after);
        Ok(self.standing(after))
    }

    /// How much of a bucket is used, in nanoseconds that it takes to flow back.
    pub(crate) fn used(&self, full_at: u64, now: u64) -> u64 {
        full_at.saturating_sub(now).min(self.capacity())
    }

    /// What is left when so many nanoseconds are used.
    pub(crate) fn standing(&self, used: u64) -> Standing {
        let left = self.capacity().saturating_sub(used) / self.interval.max(1);
        let next = used.saturating_add(self.interval).saturating_sub(self.capacity());
        Standing {
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            next: Duration::from_nanos(next),
            reset: Duration::from_nanos(used),
        }
    }

    fn capacity(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.requests, duration::print(self.window))
    }
}

/// Seconds, rounded up: who waits for so long has waited long enough.
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn quota(text: &str, burst: u32) -> Quota {
        Quota::parse(text, Some(burst)).unwrap()
    }

    #[test]
    fn rates_read_as_they_print() {
        for text in ["20/1m", "1/1s", "1000000/1d", "7/31d"] {
            assert_eq!(Quota::parse(text, None).unwrap().to_string(), text);
        }
        assert_eq!(Quota::parse("20/1m", None).unwrap().burst(), 20);
        assert_eq!(Quota::parse("7/1s", None).unwrap().interval, 142_857_143, "a rate is never more than it says");
    }

    #[test]
    fn numbers_out_of_range_make_no_quota() {
        let error = |text: &str, burst| Quota::parse(text, burst).unwrap_err();
        for text in ["", "20", "/1m", "20/", "+20/1m", "-1/1m", "20 /1m", "20/1m/2", "4294967296/1m", "20/1.5s"] {
            assert!(matches!(error(text, None), QuotaError::Form(_) | QuotaError::Duration(_)), "{text}");
        }
        assert_eq!(error("0/1m", None), QuotaError::Requests(0));
        assert_eq!(error("1000001/1m", None), QuotaError::Requests(1_000_001));
        for text in ["1/999ms", "1/1500ms", "1/32d", "1/0s"] {
            assert!(matches!(error(text, None), QuotaError::Window(_)), "{text}");
        }
        assert_eq!(error("20/1m", Some(21)), QuotaError::Burst { burst: 21, requests: 20 });
        assert_eq!(error("20/1m", Some(0)), QuotaError::Burst { burst: 0, requests: 20 });
    }

    #[test]
    fn a_burst_may_come_at_once_and_then_one_by_one() {
        let (quota, mut full_at) = (quota("20/1m", 5), 0);
        for remaining in (0..5).rev() {
            assert_eq!(quota.take(&mut full_at, SECOND).unwrap().remaining, remaining);
        }
        let refused = quota.take(&mut full_at, SECOND).unwrap_err();
        let expected = Standing { remaining: 0, next: Duration::from_secs(3), reset: Duration::from_secs(15) };
        assert_eq!(refused, expected);
        assert!(quota.take(&mut full_at, 4 * SECOND - 1).is_err());
        assert!(quota.take(&mut full_at, 4 * SECOND).is_ok());
        assert!(quota.take(&mut full_at, 4 * SECOND).is_err());
    }

    #[test]
    fn a_refused_request_uses_nothing() {
        let (quota, mut full_at) = (quota("1/1m", 1), 0);
        quota.take(&mut full_at, 0).unwrap();
        for second in 1..60 {
            assert!(quota.take(&mut full_at, second * SECOND).is_err());
        }
        assert!(quota.take(&mut full_at, 60 * SECOND).is_ok());
    }

    #[test]
    fn a_clock_that_is_set_back_grants_nothing_and_locks_nobody_out() {
        let (quota, mut full_at, day) = (quota("20/1m", 5), 0, 86_400 * SECOND);
        quota.take(&mut full_at, day).unwrap();
        let refused = quota.take(&mut full_at, 0).unwrap_err();
        assert_eq!(refused.next, Duration::from_secs(3));
        assert!(quota.take(&mut full_at, 3 * SECOND - 1).is_err());
        assert!(quota.take(&mut full_at, 3 * SECOND).is_ok());
        assert!(quota.take(&mut full_at, 3 * SECOND).is_err());
    }

    #[test]
    fn agents_that_share_a_quota_have_a_part_of_it_each() {
        let part = quota("20/1m", 20).shared_among(4);
        assert_eq!((part.burst(), part.interval), (5, 12 * SECOND));
        assert_eq!(quota("20/1m", 1).shared_among(4).burst(), 1);
    }

    proptest! {
        /// Whenever requests come, no span of time sees more than the burst and what flows back in it.
        #[test]
        fn no_span_of_time_sees_more_than_burst_and_rate(
            requests in 1..1_000_u32,
            seconds in 1..3_600_u64,
            burst in 1..1_000_u32,
            gaps in prop::collection::vec(0..5 * SECOND, 1..400),
        ) {
            let burst = burst.min(requests);
            let quota = Quota::new(requests, Duration::from_secs(seconds), burst).unwrap();
            let (mut full_at, mut now, mut taken) = (0, SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                if quota.take(&mut full_at, now).is_ok() {
                    taken.push(now);
                }
            }
            for (first, begin) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let flowed = u128::from(end - begin) * u128::from(requests) / u128::from(seconds * SECOND);
                    prop_assert!(u128::try_from(last - first + 1).unwrap() <= u128::from(burst) + flowed);
                }
            }
        }

        /// Whoever keeps the interval is never refused, wherever the clock begins.
        #[test]
        fn whoever_keeps_the_rate_is_never_refused(
            requests in 1..1_000_u32,
            seconds in 1..3_600_u64,
            burst in 1..1_000_u32,
            begin in 0..u64::MAX / 2,
            lates in prop::collection::vec(0..SECOND, 1..200),
        ) {
            let quota = Quota::new(requests, Duration::from_secs(seconds), burst.min(requests)).unwrap();
            let (mut full_at, mut now) = (0, begin);
            for late in lates {
                prop_assert!(quota.take(&mut full_at, now).is_ok());
                now += quota.interval + late;
            }
        }

        /// However the clock jumps, what was refused is allowed once `next` has passed.
        #[test]
        fn nobody_waits_for_longer_than_told(
            requests in 1..1_000_u32,
            seconds in 1..3_600_u64,
            times in prop::collection::vec(0..u64::MAX / 2, 1..100),
        ) {
            let quota = Quota::new(requests, Duration::from_secs(seconds), 1.max(requests / 2)).unwrap();
            let mut full_at = 0;
            for now in times {
                if let Err(standing) = quota.take(&mut full_at, now) {
                    prop_assert!(standing.next <= quota.window());
                    let mut copy = full_at;
                    prop_assert!(quota.take(&mut copy, now + nanoseconds(standing.next)).is_ok());
                }
            }
        }
    }
}
