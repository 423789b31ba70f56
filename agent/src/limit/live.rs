//! A limit and what was used of it. A new config begins with what is known from the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_limits::concurrency::Concurrency;
use countersign_limits::quota::Quota;
use countersign_limits::rate::RateTable;

use super::definition::{Limit, Store, WhenAway};

/// A limit and what was used of it, for all workers.
#[derive(Debug)]
pub(crate) struct LiveLimit {
    pub(crate) definition: Limit,
    /// What this agent counts; none where only the store does.
    pub(super) rates: Option<Arc<RateTable>>,
    pub(super) concurrency: Arc<Concurrency>,
    counters: Arc<LimitCounters>,
}

/// What the operator is told of a limit. Many threads count, but only what is refused.
#[derive(Debug, Default)]
struct LimitCounters {
    hits: AtomicU64,
    uncounted: AtomicU64,
}

/// Every limit of a config. One that is counted the same way goes on with what it knows, also if its numbers have changed: a place
/// that is taken stays taken, and a bucket of the same rate is as full as it was.
pub(crate) fn follow(wanted: &[Limit], store: Option<&Store>, now: &[Arc<LiveLimit>]) -> Arc<[Arc<LiveLimit>]> {
    let live = |wanted: &Limit| {
        let before = now.iter().find(|live| live.definition.name == wanted.name);
        let same = before.filter(|live| live.definition.by == wanted.by);
        let quota = quota_here(wanted, store);
        let rates = same.and_then(|live| live.rates.clone()).filter(|rates| Some(*rates.quota()) == quota);
        Arc::new(LiveLimit {
            definition: wanted.clone(),
            rates: rates.or_else(|| quota.map(RateTable::new).map(Arc::new)),
            concurrency: same.map(|live| Arc::clone(&live.concurrency)).unwrap_or_default(),
            counters: before.map(|live| Arc::clone(&live.counters)).unwrap_or_default(),
        })
    };
    wanted.iter().map(live).collect()
}

/// What this agent counts by itself: everything, or its part while the store is away, or nothing.
fn quota_here(limit: &Limit, store: Option<&Store>) -> Option<Quota> {
    match (limit.is_shared, store.map(|store| store.when_away)) {
        (false, _) => limit.quota,
        (true, Some(WhenAway::Local { share })) => limit.quota.map(|quota| quota.shared_among(share)),
        (true, Some(WhenAway::Refuse) | None) => None,
    }
}

impl LiveLimit {
    /// Forgets what need not be known any more.
    pub(crate) fn tidy(&self, now: u64) {
        self.rates.iter().for_each(|rates| rates.forget_full(now));
    }

    /// Notes that it refused a request, or would have.
    pub(super) fn hit(&self) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the store did not count a request.
    pub(super) fn uncounted(&self) {
        self.counters.uncounted.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it refused, or would have.
    pub(crate) fn hits(&self) -> u64 {
        self.counters.hits.load(Ordering::Relaxed)
    }

    /// How often the store did not count.
    pub(crate) fn times_uncounted(&self) -> u64 {
        self.counters.uncounted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use countersign_limits::counted::Counted;

    use super::*;
    use crate::limit::definition::CountedBy;

    fn limit(name: &str, by: CountedBy, requests: &str) -> Limit {
        Limit {
            name: name.into(),
            by,
            quota: Some(Quota::parse(requests, None).unwrap()),
            concurrent: None,
            members: None,
            roles: None,
            inbounds: None,
            only_named: false,
            is_enforced: true,
            is_shared: false,
        }
    }

    /// What is left of a limit after one request under the first config and a change to the second.
    #[track_caller]
    fn check(before: Limit, after: Limit, remaining: u32) {
        let somebody = Counted::new("team", b"research");
        let live = follow(&[before], None, &[]);
        live[0].rates.as_ref().unwrap().take(&somebody, 0).unwrap();
        let live = follow(std::slice::from_ref(&after), None, &live);
        assert_eq!(live[0].rates.as_ref().unwrap().look(&somebody, 0).remaining, remaining, "{after:?}");
    }

    #[test]
    fn what_was_used_stays_used_while_a_limit_counts_the_same() {
        let before = || limit("a", CountedBy::Team, "3/1h");
        check(before(), before(), 2);
        check(before(), Limit { is_enforced: false, ..before() }, 2);
        check(before(), limit("a", CountedBy::Team, "4/1h"), 4);
        check(before(), limit("a", CountedBy::Key, "3/1h"), 3);
        check(before(), limit("b", CountedBy::Team, "3/1h"), 3);
    }

    #[test]
    fn a_place_that_is_taken_stays_taken_when_the_numbers_change() {
        let (before, after) = (limit("a", CountedBy::Team, "3/1h"), limit("a", CountedBy::Team, "4/1h"));
        let (live, somebody) = (follow(&[before], None, &[]), Counted::new("team", b"research"));
        let place = Concurrency::enter(&live[0].concurrency, &somebody, 1).unwrap();
        let live = follow(&[after], None, &live);
        assert_eq!(live[0].concurrency.under_way(&somebody), 1);
        drop(place);
        assert_eq!(live[0].concurrency.under_way(&somebody), 0);
    }
}
