//! How much one asker may ask for in a time: a bucket for each host, and one for each network of those without a name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::asker::Asker;

/// Most askers that are remembered; full buckets are forgotten first, because a new one is full too.
const ASKERS_MAX: usize = 65_536;

/// The buckets of all askers.
pub(super) struct Quota {
    capacity: f64,
    per_second: f64,
    buckets: Mutex<HashMap<Asker, Bucket>>,
}

struct Bucket {
    tokens: f64,
    seen: Instant,
}

impl Quota {
    /// A bucket holds one second's worth, so that a restart of everything on a host goes through at once.
    pub(super) fn per_second(count: u32) -> Self {
        Self { capacity: f64::from(count), per_second: f64::from(count), buckets: Mutex::default() }
    }

    /// A bucket holds one minute's worth, so that a host may renew all that it has at once.
    pub(super) fn per_minute(count: u32) -> Self {
        Self { capacity: f64::from(count), per_second: f64::from(count) / 60.0, buckets: Mutex::default() }
    }

    /// Whether one more request is within the quota.
    pub(super) fn take(&self, asker: Asker, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ASKERS_MAX {
            let full = |bucket: &Bucket| bucket.level(self, now) >= self.capacity;
            buckets.retain(|_, bucket| !full(bucket));
        }
        if buckets.len() >= ASKERS_MAX && !buckets.contains_key(&asker) {
            return false;
        }
        let bucket = buckets.entry(asker).or_insert(Bucket { tokens: self.capacity, seen: now });
        let level = bucket.level(self, now);
        let allowed = level >= 1.0;
        *bucket = Bucket { tokens: if allowed { level - 1.0 } else { level }, seen: now };
        allowed
    }
}

impl Bucket {
    fn level(&self, quota: &Quota, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.seen).as_secs_f64() * quota.per_second;
        (self.tokens + gained).min(quota.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let quota = Quota::per_second(3);
        let start = Instant::now();
        let take = |name: &str, later| quota.take(Asker::Host(name.into()), start + Duration::from_millis(later));
        assert_eq!([take("a", 0), take("a", 0), take("a", 0), take("a", 0)], [true, true, true, false]);
        assert!(take("b", 0), "another asker has a bucket of its own");
        assert_eq!([take("a", 400), take("a", 400)], [true, false]);
    }

    #[test]
    fn a_minutes_worth_may_be_taken_at_once_and_comes_back_in_a_minute() {
        let quota = Quota::per_minute(60);
        let start = Instant::now();
        let take = |seconds| quota.take(Asker::Host("a".into()), start + Duration::from_secs(seconds));
        assert!((0..60).all(|_| take(0)) && !take(0));
        assert_eq!([take(1), take(1)], [true, false]);
    }
}
