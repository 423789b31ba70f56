//! How many requests per second one asker may make: a bucket for each host, and one for each address without a name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Most askers that are remembered; full buckets are forgotten first, because a new one is full too.
const ASKERS_MAX: usize = 65_536;

/// Whose bucket it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// Nobody we know, from this address.
    Address(IpAddr),
    /// A verified peer, by its name.
    Peer(String),
}

/// The buckets of all askers.
pub(super) struct Quota {
    per_second: f64,
    buckets: Mutex<HashMap<Asker, Bucket>>,
}

struct Bucket {
    tokens: f64,
    seen: Instant,
}

impl Quota {
    /// A bucket holds one second's worth, so that a restart of everything on a host goes through at once.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), buckets: Mutex::new(HashMap::new()) }
    }

    /// Whether one more request is within the quota.
    pub(super) fn take(&self, asker: Asker, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ASKERS_MAX {
            let full = |bucket: &Bucket| bucket.level(self.per_second, now) >= self.per_second;
            buckets.retain(|_, bucket| !full(bucket));
        }
        if buckets.len() >= ASKERS_MAX && !buckets.contains_key(&asker) {
            return false;
        }
        let bucket = buckets.entry(asker).or_insert(Bucket { tokens: self.per_second, seen: now });
        let level = bucket.level(self.per_second, now);
        let allowed = level >= 1.0;
        *bucket = Bucket { tokens: if allowed { level - 1.0 } else { level }, seen: now };
        allowed
    }
}

impl Bucket {
    fn level(&self, per_second: f64, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.seen).as_secs_f64() * per_second;
        (self.tokens + gained).min(per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let quota = Quota::new(3);
        let start = Instant::now();
        let take = |name: &str, later| quota.take(Asker::Peer(name.into()), start + Duration::from_millis(later));
        assert_eq!([take("a", 0), take("a", 0), take("a", 0), take("a", 0)], [true, true, true, false]);
        assert!(take("b", 0), "another asker has a bucket of its own");
        assert_eq!([take("a", 400), take("a", 400)], [true, false]);
    }
}
