//! What is told in a line of its own beside the record of a request: somebody has proved who they are or failed to, a limit was reached,
//! somebody is locked out, something odd was seen. Bounded for each kind and each who, so that nobody fills the disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::catalogue::{Authentication, Event, LimitHit, Lockout, Pattern, PolicyObserved};
use countersign_certs::allowance::Allowances;
use countersign_certs::network::network_of;
use countersign_certs::time::{Clock, Timestamp};

use super::omitted::{self, Kind};
use super::patterns::{Odd, Patterns};
use super::sink::Sink;
use crate::listener::{Origin, PeerAddress};

/// Lines of one kind about one subject at once, and how long until one more.
const LINES_AT_ONCE: u64 = 20;
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Tells of it, for one worker.
pub(crate) struct Notables {
    sink: Sink,
    clock: Clock,
    /// Of each kind by itself: who fills the room of one with names takes none of another.
    allowances: RefCell<BTreeMap<Kind, Allowances<Box<str>>>>,
    patterns: Option<Arc<Patterns>>,
}

impl Notables {
    /// Nothing told yet. Odd patterns are looked for only if the operator wants it.
    pub(crate) fn new(sink: Sink, clock: Clock, patterns: Option<Arc<Patterns>>) -> Self {
        Self { sink, clock, allowances: RefCell::default(), patterns }
    }

    /// Somebody has proved who they are by something other than the certificate of the connection, for the first time in a while.
    pub(crate) fn authenticated(&self, method: &str, subject: &str, address: &PeerAddress, route: &str) {
        self.tell(kind("authentication", None), subject, |omitted| {
            Event::Authentication(Authentication {
                method: method.to_owned(),
                outcome: "success".to_owned(),
                subject: Some(subject.to_owned()),
                address: Some(address.to_string()),
                route: Some(route.to_owned()),
                omitted,
                ..Authentication::default()
            })
        });
    }

    /// Somebody has failed to.
    pub(crate) fn not_authenticated(&self, method: &str, reason: &'static str, address: &PeerAddress, route: &str) {
        self.tell(kind("authentication", Some(reason)), &address.origin().to_string(), |omitted| {
            Event::Authentication(Authentication {
                method: method.to_owned(),
                outcome: "failure".to_owned(),
                reason: Some(reason.to_owned()),
                address: Some(address.to_string()),
                route: Some(route.to_owned()),
                omitted,
                ..Authentication::default()
            })
        });
    }

    /// Somebody is not listened to for a while. The name is what somebody at this place has made up, so that it is no share of its own.
    pub(crate) fn locked_out(&self, name: &str, origin: Origin, until: Timestamp) {
        self.tell(kind("lockout", None), &origin.to_string(), |omitted| {
            let subject = format!("basic:{name} at {origin}");
            Event::Lockout(Lockout { subject, until: Some(until.to_string()), omitted })
        });
    }

    /// A limit has refused something.
    pub(crate) fn limit_hit(&self, limit: &str, subject: &str, route: &str) {
        self.tell(kind("limit_hit", None), &format!("{limit} {subject}"), |omitted| {
            Event::LimitHit(LimitHit {
                limit: limit.to_owned(),
                subject: Some(subject.to_owned()),
                route: Some(route.to_owned()),
                count: omitted.unwrap_or_default().saturating_add(1),
            })
        });
    }

    /// Rules that are only observed would have decided otherwise.
    pub(crate) fn policy_observed(
        &self,
        decision: &str,
        observed: &str,
        allowed: bool,
        route: &str,
        peer: Option<&str>,
    ) {
        self.tell(kind("policy_observed", None), observed, |omitted| {
            Event::PolicyObserved(PolicyObserved {
                decision: decision.to_owned(),
                policy: observed.to_owned(),
                outcome: if allowed { "denied" } else { "allowed" }.to_owned(),
                route: route.to_owned(),
                peer: peer.map(ToOwned::to_owned),
                omitted,
            })
        });
    }

    /// Somebody uses a route from an address.
    pub(crate) fn seen(&self, subject: &str, route: &str, address: &PeerAddress) {
        let Some(patterns) = &self.patterns else { return };
        for odd in patterns.seen(subject, route, address.ip().map(network_of), self.clock.now()) {
            self.odd(&odd, subject, route);
        }
    }

    /// Somebody was refused.
    pub(crate) fn refused(&self, subject: &str, route: &str) {
        let Some(patterns) = &self.patterns else { return };
        if let Some(odd) = patterns.refused(subject, self.clock.now()) {
            self.odd(&odd, subject, route);
        }
    }

    fn odd(&self, odd: &Odd, subject: &str, route: &str) {
        self.tell(kind("pattern", Some(odd.name)), subject, |omitted| {
            Event::Pattern(Pattern {
                pattern: odd.name.to_owned(),
                subject: Some(subject.to_owned()),
                route: Some(route.to_owned()),
                count: odd.count,
                seconds: odd.within.as_secs(),
                omitted,
            })
        });
    }

    /// Tells what was left out and no line has counted. While nothing can be written, the counts stay here.
    pub(crate) fn tell_omitted(&self) {
        if !self.sink.is_failing() {
            self.finish();
        }
    }

    /// Has the last word: nothing comes after it.
    pub(crate) fn finish(&self) {
        let mut allowances = self.allowances.borrow_mut();
        let of_kind = |(kind, allowances): (&Kind, &mut Allowances<Box<str>>)| {
            let kind = *kind;
            allowances.take_omitted().into_iter().map(move |(_, count)| (kind, count))
        };
        omitted::tell(&self.sink, allowances.iter_mut().flat_map(of_kind), self.clock.precise());
    }

    /// `event` is told how many like it were left out before, if any were.
    fn tell(&self, kind: Kind, who: &str, event: impl FnOnce(Option<u64>) -> Event) {
        let mut allowances = self.allowances.borrow_mut();
        let of_kind = allowances.entry(kind).or_insert_with(|| Allowances::new(LINES_AT_ONCE, LINE_EVERY));
        let taken = of_kind.take(who.into(), "".into(), self.clock.now());
        if let Some(omitted) = taken {
            self.sink.event(event(Some(omitted).filter(|omitted| *omitted > 0)), self.clock.precise());
        }
    }
}

fn kind(of: &'static str, reason: Option<&'static str>) -> Kind {
    Kind { of, reason }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::sink::channel;
    use super::*;
    use crate::config::audit::WhenFull;

    #[test]
    fn whoever_changes_ports_or_addresses_of_ipv6_has_one_share_of_the_lines() {
        let (sink, _batches, shared) = channel(WhenFull::Refuse, Vec::new());
        let notables = Notables::new(sink, Clock::new(|| SystemTime::UNIX_EPOCH), None);
        let check = |address: &str, lines: usize| {
            let address = PeerAddress::Tcp(address.parse().unwrap());
            notables.not_authenticated("api_key", "key_unknown", &address, "llm");
            assert_eq!(shared.take_events().iter().filter(|byte| **byte == b'\n').count(), lines, "{address}");
        };
        (0..20).for_each(|host| check(&format!("[2001:db8::{host:x}]:{}", 4000 + host), 1));
        check("[2001:db8::ffff]:1", 0);
        check("[2001:db8:0:1::1]:1", 1);
        (0..20).for_each(|host| check(&format!("192.0.2.1:{}", 4000 + host), 1));
        check("192.0.2.1:1", 0);
        check("192.0.2.2:1", 1);
    }

    #[test]
    fn names_that_somebody_makes_up_have_the_lines_of_one_and_take_none_of_another_kind() {
        let (sink, _batches, shared) = channel(WhenFull::Refuse, Vec::new());
        let notables = Notables::new(sink, Clock::new(|| SystemTime::UNIX_EPOCH), None);
        let until = Timestamp::from_unix_seconds(60);
        let lines = || shared.take_events().iter().filter(|byte| **byte == b'\n').count();
        let at = |host: u32| Origin::Network(std::net::Ipv4Addr::from(host).into());
        (0..500).for_each(|name| notables.locked_out(&format!("made-up-{name}"), at(1), until));
        assert_eq!(lines(), 20);
        (0..5000).for_each(|host| notables.locked_out("a", at(host), until));
        lines();
        (0..30).for_each(|_| notables.authenticated("api_key", "key:a", &PeerAddress::Unix(None), "llm"));
        assert_eq!(lines(), 20, "another kind has its own lines");
    }
}
