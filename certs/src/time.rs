//! Time as an argument: the [`Clock`] that a program hands in, points in time, and the [`Validity`] of a certificate.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};

/// Tells the time. A program makes one from the system's clock in `main`; a test makes one that it can move.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that asks `read` each time.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now, with the clock's own precision.
    pub fn precise(&self) -> SystemTime {
        (self.0)()
    }

    /// The time now in whole seconds, the precision of certificates.
    pub fn now(&self) -> Timestamp {
        Timestamp::from(self.precise())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}

/// rustls asks the same clock as everybody else.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now().as_unix_time())
    }
}

/// A point in time in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From seconds since 1970.
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970.
    pub const fn as_unix_seconds(self) -> u64 {
        self.0
    }

    /// As rustls and webpki take it.
    pub fn as_unix_time(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0))
    }

    /// As the standard library takes it. Nothing lies beyond the year 9999, the last that a certificate can name
    /// (RFC 5280 §4.1.2.5): farther on the system's own type would overflow.
    pub fn as_system_time(self) -> SystemTime {
        const LAST_SECOND: u64 = 253_402_300_799;
        UNIX_EPOCH + Duration::from_secs(self.0.min(LAST_SECOND))
    }

    /// Later by `duration`, whole seconds of it; the last representable point in time at most.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// Earlier by `duration`, whole seconds of it; 1970 at least.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// How long from `earlier` until now; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become 1970: a clock that wrong makes every certificate not yet valid, which is a denial.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, for example `2026-11-23T03:00:00Z`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date =
            i64::try_from(self.0).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
        match date.and_then(|date| date.format(&time::format_description::well_known::Rfc3339).ok()) {
            Some(text) => formatter.write_str(&text),
            None => write!(formatter, "@{}", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;

    /// RFC 3339, for example `2026-11-23T03:00:00Z` or `2026-11-23T04:00:00+01:00`; what is less than a second is dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || TimestampError(text.chars().take(64).collect());
        let format = &time::format_description::well_known::Rfc3339;
        let moment = time::OffsetDateTime::parse(text, format).map_err(|_not_a_time| refused())?;
        u64::try_from(moment.unix_timestamp()).map(Self).map_err(|_before_1970| refused())
    }
}

/// A text that is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no point in time since 1970; write it as 2026-11-23T03:00:00Z")]
pub struct TimestampError(String);

/// From when until when a certificate may be used, both ends included (RFC 5280 §4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// First second of use.
    pub not_before: Timestamp,
    /// Last second of use.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whether `now` lies inside.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The time in which both can be used.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }

    /// The whole span, zero if the ends are swapped.
    pub fn lifetime(&self) -> Duration {
        self.not_after.since(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_validity_are_inside() {
        let validity =
            Validity { not_before: Timestamp::from_unix_seconds(10), not_after: Timestamp::from_unix_seconds(20) };
        let inside = |second| validity.contains(Timestamp::from_unix_seconds(second));
        assert_eq!([9, 10, 20, 21].map(inside), [false, true, true, false]);
    }

    #[test]
    fn the_end_of_time_is_a_time() {
        let end = Timestamp::from_unix_seconds(9).plus(Duration::MAX);
        assert_eq!(Timestamp::from(end.as_system_time()).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(end.to_string(), format!("@{}", u64::MAX));
    }

    #[test]
    fn times_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_unix_seconds(1_795_402_800).to_string(), "2026-11-23T03:00:00Z");
    }
}
