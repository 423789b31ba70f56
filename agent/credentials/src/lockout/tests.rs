use std::net::IpAddr;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const ATTACKER: &str = "192.0.2.66";
const HOME: &str = "198.51.100.7";

struct Place<'test>(&'test mut Lockout, &'static str);

fn at(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn lockout() -> Lockout {
    Lockout::new(LockoutSettings::default())
}

impl Place<'_> {
    /// Seconds to wait at a time, 0 if none.
    fn waits(&mut self, principal: &str, now: u64) -> u64 {
        let address = self.1.parse::<IpAddr>().unwrap();
        self.0.check(at(now), principal, address).map_or_else(|locked| locked.until.since(at(now)).as_secs(), |()| 0)
    }

    fn fails(&mut self, principal: &str, now: u64, times: u32) {
        for _ in 0..times {
            self.0.failed(at(now), principal, self.1.parse::<IpAddr>().unwrap());
        }
    }

    fn succeeds(&mut self, principal: &str) {
        self.0.succeeded(principal, self.1.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn the_delay_doubles_after_the_free_failures_up_to_the_longest() {
    let mut lockout = lockout();
    let mut home = Place(&mut lockout, HOME);
    home.fails("ada", 0, 4);
    assert_eq!(home.waits("ada", 0), 0);
    let mut seen = Vec::new();
    for _ in 0..14 {
        home.fails("ada", 0, 1);
        seen.push(home.waits("ada", 0));
    }
    assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]);
}

#[test]
fn a_delay_is_over_when_its_time_is() {
    let mut lockout = lockout();
    let mut home = Place(&mut lockout, HOME);
    home.fails("ada", 0, 8);
    assert_eq!([0, 1, 7, 8, 9].map(|now| home.waits("ada", now)), [8, 7, 1, 0, 0]);
    let address = HOME.parse::<IpAddr>().unwrap();
    assert_eq!(home.0.check(at(2), "ada", address), Err(LockedUntil { until: at(8), now: at(2) }));
}

#[test]
fn failures_are_forgotten_one_by_one() {
    let mut lockout = lockout();
    let mut home = Place(&mut lockout, HOME);
    home.fails("ada", 0, 5);
    home.fails("ada", 600, 1);
    assert_eq!(home.waits("ada", 600), 1, "five are left of six");
    home.fails("ada", 1199, 1);
    assert_eq!(home.waits("ada", 1199), 2, "the second is not forgotten before its time");
    home.fails("ada", 1200, 1);
    assert_eq!(home.waits("ada", 1200), 2, "at its time it is, whenever the last one was");
    home.fails("ada", 86_400, 4);
    assert_eq!(home.waits("ada", 86_400), 0);
    home.fails("ada", 86_400 + 599, 1);
    assert_eq!(home.waits("ada", 86_400 + 599), 1, "a clean slate forgets nothing in advance");
}

#[test]
fn the_longest_attack_is_paid_for_with_the_longest_delay_and_no_more() {
    let settings = LockoutSettings { principal_failures: u32::MAX, ..LockoutSettings::default() };
    let mut lockout = Lockout::new(settings);
    let mut home = Place(&mut lockout, HOME);
    home.fails("ada", 0, 10_000);
    assert_eq!(home.waits("ada", 0), 900);
    assert_eq!(home.waits("ada", 900), 0);
    home.fails("ada", 11 * 600, 1);
    assert_eq!(home.waits("ada", 11 * 600), 1, "fifteen failures were counted, not ten thousand");
}

#[test]
fn who_is_attacked_is_not_locked_out() {
    let mut lockout = lockout();
    Place(&mut lockout, ATTACKER).fails("ada", 0, 1000);
    assert_eq!(Place(&mut lockout, ATTACKER).waits("ada", 0), 900);
    assert_eq!(Place(&mut lockout, HOME).waits("ada", 0), 0);
    assert_eq!(Place(&mut lockout, HOME).waits("bob", 0), 0);
}

#[test]
fn who_is_attacked_from_everywhere_still_has_a_first_attempt_anywhere() {
    let mut lockout = lockout();
    for number in 0..100_u32 {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        lockout.failed(NOW, "ada", address);
    }
    let mut home = Place(&mut lockout, HOME);
    assert_eq!(home.waits("ada", 0), 0);
    home.fails("ada", 0, 1);
    assert_eq!(home.waits("ada", 0), 1, "a wrong one costs a delay at once");
    home.fails("bob", 0, 1);
    assert_eq!(home.waits("bob", 0), 0, "of others it does not");
    home.succeeds("ada");
    home.fails("ada", 0, 4);
    assert_eq!(home.waits("ada", 0), 0, "nor where ada is known");
}

#[test]
fn an_address_that_tries_many_principals_waits_as_a_whole() {
    let mut lockout = lockout();
    let mut attacker = Place(&mut lockout, ATTACKER);
    for number in 0..19 {
        attacker.fails(&number.to_string(), 0, 1);
    }
    assert_eq!(attacker.waits("ada", 0), 0);
    attacker.fails("19", 0, 1);
    assert_eq!(attacker.waits("ada", 0), 1);
    assert_eq!(Place(&mut lockout, HOME).waits("ada", 0), 0);
}

#[test]
fn who_is_known_at_a_shared_address_does_not_notice_the_others() {
    let mut lockout = lockout();
    let mut shared = Place(&mut lockout, ATTACKER);
    shared.succeeds("ada");
    for number in 0..200 {
        shared.fails(&number.to_string(), 0, 1);
    }
    assert_eq!(shared.waits("bob", 0), 900);
    assert_eq!(shared.waits("ada", 0), 0);
    shared.fails("ada", 0, 5);
    assert_eq!(shared.waits("ada", 0), 1, "their own failures count");
}

#[test]
fn a_success_forgets_the_pair_and_not_the_address() {
    let mut lockout = lockout();
    let mut attacker = Place(&mut lockout, ATTACKER);
    for number in 0..30 {
        attacker.fails(&number.to_string(), 0, 1);
        attacker.fails("own", 0, 1);
        attacker.succeeds("own");
        attacker.succeeds("own");
    }
    assert_eq!(attacker.waits("own", 0), 0);
    assert_eq!(attacker.waits("ada", 0), 900);
}

#[test]
fn attempts_made_at_once_are_counted_before_they_are_judged() {
    let mut lockout = lockout();
    let address = HOME.parse::<IpAddr>().unwrap();
    let begun: Vec<_> = (0..8).map(|_| lockout.begin(NOW, "ada", address).is_ok()).collect();
    assert_eq!(begun, [true, true, true, true, true, false, false, false]);
    lockout.succeeded("ada", address);
    assert_eq!(lockout.begin(NOW, "ada", address), Ok(()));
}

#[test]
fn where_no_failure_is_free_a_success_still_costs_nothing() {
    let settings = LockoutSettings { pair_failures: 0, address_failures: 0, ..LockoutSettings::default() };
    let mut lockout = Lockout::new(settings);
    let address = HOME.parse::<IpAddr>().unwrap();
    assert_eq!(lockout.begin(NOW, "ada", address), Ok(()));
    lockout.succeeded("ada", address);
    let mut home = Place(&mut lockout, HOME);
    assert_eq!(home.waits("bob", 0), 0);
    home.fails("bob", 0, 1);
    assert_eq!(home.waits("bob", 0), 2);
}

#[test]
fn a_thousand_good_attempts_are_no_failures() {
    let mut lockout = lockout();
    for number in 0..1000 {
        let (name, address) = (number.to_string(), HOME.parse::<IpAddr>().unwrap());
        assert_eq!(lockout.begin(NOW, &name, address), Ok(()));
        lockout.succeeded(&name, address);
        assert_eq!(lockout.begin(NOW, "ada", address), Ok(()));
        lockout.succeeded("ada", address);
    }
    assert_eq!(Place(&mut lockout, HOME).waits("bob", 0), 0);
    assert_eq!(Place(&mut lockout, ATTACKER).waits("ada", 0), 0);
}

#[test]
fn users_of_a_host_are_places_of_their_own() {
    let mut lockout = Lockout::new(LockoutSettings::default());
    for attempt in 0..200 {
        lockout.failed(at(0), &format!("name-{attempt}"), super::Place::user(1234));
    }
    assert!(lockout.check(at(1), "alice", super::Place::user(1234)).is_err(), "who guesses waits");
    assert!(lockout.check(at(1), "alice", super::Place::user(0)).is_ok(), "another user does not");
    assert!(lockout.check(at(1), "alice", super::Place::unknown()).is_ok());
}

#[test]
fn one_network_of_ipv6_is_one_place_and_so_is_a_mapped_address() {
    let mut lockout = lockout();
    Place(&mut lockout, "2001:db8:1:2::1").fails("ada", 0, 5);
    assert_eq!(Place(&mut lockout, "2001:db8:1:2:ffff::9").waits("ada", 0), 1);
    assert_eq!(Place(&mut lockout, "2001:db8:1:3::1").waits("ada", 0), 0);
    Place(&mut lockout, HOME).fails("ada", 0, 5);
    assert_eq!(Place(&mut lockout, "::ffff:198.51.100.7").waits("ada", 0), 1);
    assert_eq!(Place(&mut lockout, "198.51.100.8").waits("ada", 0), 0);
}

#[test]
fn a_clock_set_back_costs_one_delay_at_most_and_frees_nobody() {
    let mut lockout = lockout();
    let mut home = Place(&mut lockout, HOME);
    home.fails("ada", 1_000_000, 8);
    assert_eq!(home.waits("ada", 0), 8, "the clock was set back by days");
    assert_eq!(home.waits("ada", 8), 0);
    home.fails("ada", 8, 1);
    assert_eq!(home.waits("ada", 8), 16);
    let address = HOME.parse::<IpAddr>().unwrap();
    let ends = [Timestamp::from_unix_seconds(0), Timestamp::from_unix_seconds(u64::MAX)];
    for now in [ends[0], ends[1], ends[0]] {
        home.0.failed(now, "ada", address);
        let _ = home.0.check(now, "ada", address);
    }
}

#[test]
fn what_is_remembered_is_bounded_and_a_flood_of_failures_displaces_no_success() {
    let mut lockout = Lockout::new(LockoutSettings { entries_max: 8, ..LockoutSettings::default() });
    Place(&mut lockout, ATTACKER).succeeds("ada");
    for number in 0..1000_u32 {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        lockout.failed(NOW, &number.to_string(), address);
    }
    let mut shared = Place(&mut lockout, ATTACKER);
    shared.fails("bob", 0, 30);
    assert_eq!((shared.waits("bob", 0), shared.waits("ada", 0)), (900, 0));
}
