//! Odd patterns: somebody on a route for the first time, from an address for the first time, or refused again and again. A small set,
//! each easy to explain; whoever wants more has a SIEM.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_certs::time::Timestamp;

/// After a start everything is seen for the first time; that long it is only learned.
const LEARNING: Duration = Duration::from_secs(60 * 60);

/// Pairs of each kind that are remembered. Beyond it, new ones are not told: they could be old.
const PAIRS_MAX: usize = 100_000;

/// So many refusals of one subject within so long are a burst.
const BURST: u64 = 20;
const BURST_WITHIN: Duration = Duration::from_secs(60);

/// What all workers have seen.
#[derive(Debug)]
pub(crate) struct Patterns {
    learning_until: Timestamp,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    routes: HashMap<(Box<str>, Box<str>), ()>,
    addresses: HashMap<(Box<str>, IpAddr), ()>,
    refusals: HashMap<Box<str>, Refusals>,
}

#[derive(Debug)]
struct Refusals {
    since: Timestamp,
    count: u64,
}

/// Something odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Odd {
    pub(crate) name: &'static str,
    pub(crate) count: u64,
    pub(crate) within: Duration,
}

impl Patterns {
    /// Nothing seen yet.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { learning_until: now.plus(LEARNING), seen: Mutex::default() }
    }

    /// What is odd about a subject that uses a route from an address.
    pub(crate) fn seen(&self, subject: &str, route: &str, address: Option<IpAddr>, now: Timestamp) -> Vec<Odd> {
        let mut seen = self.lock();
        let new_route = is_new(&mut seen.routes, (subject.into(), route.into()));
        let new_address = address.is_some_and(|address| is_new(&mut seen.addresses, (subject.into(), address)));
        if now < self.learning_until {
            return Vec::new();
        }
        let odd = |name| Odd { name, count: 1, within: Duration::ZERO };
        let found = [("new_route", new_route), ("new_address", new_address)];
        found.into_iter().filter(|(_, is_new)| *is_new).map(|(name, _)| odd(name)).collect()
    }

    /// Whether one more refusal of a subject makes a burst. Each burst is told once.
    pub(crate) fn refused(&self, subject: &str, now: Timestamp) -> Option<Odd> {
        let mut seen = self.lock();
        if seen.refusals.len() >= PAIRS_MAX && !seen.refusals.contains_key(subject) {
            seen.refusals.retain(|_, refusals| refusals.since <= now && now.since(refusals.since) < BURST_WITHIN);
            if seen.refusals.len() >= PAIRS_MAX {
                return None;
            }
        }
        let refusals = seen.refusals.entry(subject.into()).or_insert(Refusals { since: now, count: 0 });
        // A clock that was set back begins a new span.
        if refusals.since > now || now.since(refusals.since) >= BURST_WITHIN {
            *refusals = Refusals { since: now, count: 0 };
        }
        refusals.count += 1;
        (refusals.count == BURST).then_some(Odd { name: "refusal_burst", count: BURST, within: BURST_WITHIN })
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a pair is seen for the first time, as far as can be remembered.
fn is_new<K: Hash + Eq>(known: &mut HashMap<K, ()>, pair: K) -> bool {
    if known.contains_key(&pair) || known.len() >= PAIRS_MAX {
        return false;
    }
    known.insert(pair, ());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn names(odd: &[Odd]) -> Vec<&'static str> {
        odd.iter().map(|odd| odd.name).collect()
    }

    #[test]
    fn what_is_new_after_the_first_hour_is_odd_once() {
        let patterns = Patterns::new(at(0));
        let see = |route, address: &str, now| names(&patterns.seen("a", route, address.parse().ok(), at(now)));
        assert_eq!(see("llm", "10.0.0.1", 10), [""; 0], "it is learned");
        assert_eq!(see("llm", "10.0.0.1", 4000), [""; 0], "it was learned");
        assert_eq!(see("llm", "10.0.0.2", 4000), ["new_address"]);
        assert_eq!(see("other", "10.0.0.2", 4000), ["new_route"]);
        assert_eq!(see("other", "10.0.0.2", 4000), [""; 0]);
        assert_eq!(names(&patterns.seen("b", "llm", None, at(4000))), ["new_route"]);
    }

    #[test]
    fn a_burst_of_refusals_is_told_once_and_slow_ones_never() {
        let patterns = Patterns::new(at(0));
        let told = |who, now| patterns.refused(who, at(now)).is_some();
        assert_eq!((0..2 * BURST).filter(|_| told("a", 5)).count(), 1);
        assert_eq!((0..2 * BURST).filter(|number| told("slow", 60 * number)).count(), 0);
        assert_eq!((0..2 * BURST).filter(|_| told("a", 70)).count(), 1, "a minute later it is a new one");
    }
}
