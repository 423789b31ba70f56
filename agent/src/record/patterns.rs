//! Odd patterns: somebody on a route for the first time, from an address for the first time, or refused again and again. A small set,
//! each easy to explain; whoever wants more has a SIEM.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_certs::time::Timestamp;

/// After a start everything is seen for the first time; that long it is only learned.
const LEARNING: Duration = Duration::from_secs(60 * 60);

/// Pairs of each kind that are remembered, and networks of one subject. Beyond it, new ones are not told: they could be old.
const PAIRS_MAX: usize = 100_000;
const NETWORKS_OF_ONE_MAX: usize = 256;

/// How often it is looked which bursts are over when there is no more room.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

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
    routes: HashSet<(Box<str>, Box<str>)>,
    networks: HashMap<Box<str>, HashSet<IpAddr>>,
    network_count: usize,
    refusals: HashMap<Box<str>, Refusals>,
    swept: Option<Timestamp>,
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

    /// What is odd about a subject that uses a route from a network.
    pub(crate) fn seen(&self, subject: &str, route: &str, network: Option<IpAddr>, now: Timestamp) -> Vec<Odd> {
        let mut seen = self.lock();
        let new_route = seen.is_new_route(subject, route);
        let new_address = network.is_some_and(|network| seen.is_new_network(subject, network));
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
            seen.sweep(now);
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

impl Seen {
    /// Whether a route is used for the first time by a subject, as far as can be remembered.
    fn is_new_route(&mut self, subject: &str, route: &str) -> bool {
        let pair = (subject.into(), route.into());
        if self.routes.len() >= PAIRS_MAX && !self.routes.contains(&pair) {
            return false;
        }
        self.routes.insert(pair)
    }

    /// The same of a network. One subject with many takes no room of others.
    fn is_new_network(&mut self, subject: &str, network: IpAddr) -> bool {
        let is_full = self.network_count >= PAIRS_MAX;
        let Some(known) = self.networks.get_mut(subject) else {
            if is_full {
                return false;
            }
            self.network_count += 1;
            self.networks.insert(subject.into(), HashSet::from([network]));
            return true;
        };
        if is_full || known.len() >= NETWORKS_OF_ONE_MAX || !known.insert(network) {
            return false;
        }
        self.network_count += 1;
        true
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.swept.is_some_and(|swept| swept <= now && now.since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.refusals.retain(|_, refusals| refusals.since <= now && now.since(refusals.since) < BURST_WITHIN);
    }
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
        // One that comes from everywhere says nothing of others.
        for host in 0..200_000_u32 {
            patterns.seen("wanderer", "llm", Some(std::net::Ipv4Addr::from(host).into()), at(4000));
        }
        assert_eq!(see("llm", "10.0.0.3", 4000), ["new_address"]);
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
