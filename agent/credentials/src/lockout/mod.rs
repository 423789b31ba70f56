//! A growing delay after failures, so that secrets cannot be guessed by trying.
//!
//! Three things are counted: failures of a principal at an address (a *pair*), of an address, and of a principal.
//!
//! - A pair that keeps failing waits longer and longer.
//! - An address that fails for many principals makes every pair on it wait, except those that have once succeeded: whoever logs in
//!   every day from behind an attacker's shared address does not notice the attacker.
//! - A principal that fails at many addresses never waits for that reason, since else anybody could lock anybody out. It only has no
//!   failures free at addresses where it never succeeded: a wrong guess there costs a delay at once.
//!
//! Who attacks a principal therefore locks out themselves. Nothing here knows secrets or reads a clock.

use std::net::IpAddr;
use std::time::Duration;

use countersign_certs::network::network_of;
use countersign_certs::time::Timestamp;

mod bounded;
mod counter;

use bounded::Bounded;
use counter::{Counter, Growth};

/// How patient a [`Lockout`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockoutSettings {
    /// Failures of a pair without a delay. 5: people mistype, and try the password of another place.
    pub pair_failures: u32,
    /// Failures of an address without a delay. 20: offices share addresses.
    pub address_failures: u32,
    /// Failures of a principal anywhere before its failures cost more at places where it never succeeded. 100.
    pub principal_failures: u32,
    /// The first delay. 1 s: a person hardly notices it.
    pub delay_first: Duration,
    /// The longest delay; each is twice the one before. 15 min: about a hundred guesses a day.
    pub delay_max: Duration,
    /// After how long one failure is forgotten. 10 min.
    pub forget_one_after: Duration,
    /// Most pairs, addresses, principals and successful pairs that are remembered, of each kind. 100,000: about 8 MiB for each. The
    /// ones idle for longest are forgotten for new ones.
    pub entries_max: usize,
}

impl Default for LockoutSettings {
    fn default() -> Self {
        Self {
            pair_failures: 5,
            address_failures: 20,
            principal_failures: 100,
            delay_first: Duration::from_secs(1),
            delay_max: Duration::from_secs(15 * 60),
            forget_one_after: Duration::from_secs(10 * 60),
            entries_max: 100_000,
        }
    }
}

/// Not now: too many attempts have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("after too many failures nothing is tried before {until}; it is {now}")]
pub struct LockedUntil {
    /// When the next attempt may be made.
    pub until: Timestamp,
    /// What time it was.
    pub now: Timestamp,
}

/// Who fails, and how often.
#[derive(Debug)]
pub struct Lockout {
    settings: LockoutSettings,
    pairs: Bounded<(Principal, Place), Counter>,
    places: Bounded<Place, Counter>,
    principals: Bounded<Principal, Counter>,
    /// Pairs that have succeeded. Only a success makes an entry, so no flood of failures displaces one.
    known: Bounded<(Principal, Place), ()>,
}

/// The principal that an attempt claims to be, as a digest: a peer chooses how long the text is, but not how much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Principal([u8; 16]);

/// Where attempts come from. Whoever has one IPv6 address has its whole network of 64 bits, so that network is one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(Origin);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Network(IpAddr),
    Unknown,
    User(u32),
}

impl Lockout {
    /// Nobody has failed yet.
    pub fn new(settings: LockoutSettings) -> Self {
        let most = settings.entries_max;
        Self {
            settings,
            pairs: Bounded::new(most),
            places: Bounded::new(most),
            principals: Bounded::new(most),
            known: Bounded::new(most),
        }
    }

    /// Whether an attempt may be made now. It counts nothing.
    ///
    /// # Errors
    /// The principal at this address, or the address, must wait.
    pub fn check(&mut self, now: Timestamp, principal: &str, place: impl Into<Place>) -> Result<(), LockedUntil> {
        let (principal, place) = (Principal::new(principal), place.into());
        let pair = (principal, place);
        let known = self.known.find(&pair).is_some();
        let attacked = self.principals.find(&principal).is_some_and(|counter| {
            counter.failures(now, self.settings.forget_one_after) >= self.settings.principal_failures
        });
        let free = if attacked && !known { 1 } else { self.settings.pair_failures };
        let pair_growth = self.growth(free);
        let place_growth = self.growth(self.settings.address_failures);

        let pair_until = self.pairs.find(&pair).and_then(|counter| counter.locked_until(now, &pair_growth));
        let place_until = if known {
            None
        } else {
            self.places.find(&place).and_then(|counter| counter.locked_until(now, &place_growth))
        };
        match pair_until.max(place_until) {
            Some(until) => Err(LockedUntil { until, now }),
            None => Ok(()),
        }
    }

    /// Begins an attempt whose judgement takes time: [`Lockout::check`], and counted as failed until [`Lockout::succeeded`]. A thousand
    /// attempts made at once would otherwise all be judged before the first of them has failed.
    ///
    /// # Errors
    /// The principal at this address, or the address, must wait.
    pub fn begin(&mut self, now: Timestamp, principal: &str, place: impl Into<Place>) -> Result<(), LockedUntil> {
        let place = place.into();
        self.check(now, principal, place)?;
        self.failed(now, principal, place);
        Ok(())
    }

    /// Counts a failure. Not after [`Lockout::begin`], which has counted it. Where a principal is known, its failures are its own: they
    /// say nothing against the others at that address.
    fn failed(&mut self, now: Timestamp, principal: &str, place: impl Into<Place>) {
        let (principal, place) = (Principal::new(principal), place.into());
        let pair_growth = self.growth(self.settings.pair_failures);
        let place_growth = self.growth(self.settings.address_failures);
        let principal_growth = self.growth(self.settings.principal_failures);
        self.pairs.entry((principal, place)).fail(now, &pair_growth);
        if self.known.find(&(principal, place)).is_none() {
            self.places.entry(place).fail(now, &place_growth);
            self.principals.entry(principal).fail(now, &principal_growth);
        }
    }

    /// Counts a success: the failures of this pair are forgotten, and it is known from now on. When it becomes known, one failure of its
    /// address and of its principal is taken back, the one that [`Lockout::begin`] has counted, and never more: who has an account of
    /// their own could otherwise clear their address with it between two attacks on others.
    pub fn succeeded(&mut self, principal: &str, place: impl Into<Place>) {
        let (principal, place) = (Principal::new(principal), place.into());
        let had_failed = self.pairs.remove(&(principal, place)).is_some();
        if had_failed && self.known.find(&(principal, place)).is_none() {
            for counter in [self.places.find(&place), self.principals.find(&principal)].into_iter().flatten() {
                counter.take_back();
            }
        }
        self.known.entry((principal, place));
    }

    fn growth(&self, free: u32) -> Growth {
        Growth {
            free,
            first: self.settings.delay_first,
            longest: self.settings.delay_max,
            forget_one_after: self.settings.forget_one_after,
        }
    }
}

impl Principal {
    fn new(text: &str) -> Self {
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(countersign_certs::digest::sha256(text.as_bytes())) {
            *to = from;
        }
        Self(short)
    }
}

impl Place {
    /// A user of this host, by number.
    pub fn user(uid: u32) -> Self {
        Self(Origin::User(uid))
    }

    /// Of which nothing is known; all such are one.
    pub fn unknown() -> Self {
        Self(Origin::Unknown)
    }
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        Self(Origin::Network(network_of(address)))
    }
}

#[cfg(test)]
mod tests;
