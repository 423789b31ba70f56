//! A clock that is set back, or ahead, while the agent runs: nobody is granted more by it. What becomes of tokens and their proofs is in
//! `token_issuers.rs`.
#![allow(clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::clock::WrongClock;
use countersign_tests::gateway::{Gateway, Reply};
use countersign_tests::{tools, wait};
use tempfile::TempDir;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const ROLES: &str = "[[role]]\nname = \"frontend\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n";

const RULES: &str = "[[inbound.allow]]\nroles = [\"frontend\"]\n";

/// The password `correct horse` as the C library hashes it with cost 10.
const BCRYPT: &str = "$2y$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu";

/// A clock of the test's own.
struct TestClock(TempDir);

impl TestClock {
    fn right() -> Self {
        let clock = Self(tools::folder());
        clock.set("+0");
        clock
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// How far it is off. Certificates of tests are valid for an hour in each direction.
    fn set(&self, offset: &str) {
        std::fs::write(self.file(), offset).unwrap();
    }
}

#[test]
fn who_guesses_stays_locked_out_when_the_clock_is_set_back_and_not_for_longer() {
    let clock = TestClock::right();
    let agent = WrongClock::find().give(TestAgent::new("gateway"), &clock.file());
    let path = agent.folder().join("passwords");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "old:{BCRYPT}").unwrap();
    let before = format!("[passwords]\nfile = {path:?}\n[[role]]\nname = \"user\"\nmembers = [\"basic:old\"]\n");
    let rules = "any_of = [\"basic\"]\n[[inbound.allow]]\nroles = [\"user\"]\n";
    let gateway = Gateway::start_as(agent, &before, rules);
    let right = ["-u", "old:correct horse"];
    let seconds = |reply: &Reply| reply.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    wait::within(Duration::from_secs(90), "the one who guesses is locked out", || {
        Some(gateway.call("/", &["-u", "old:wrong"])).filter(|reply| reply.status == 429 && seconds(reply) >= Some(8))
    });
    clock.set("-40m");
    gateway.refused("/", &right, 429, "locked_out");
    let reply = gateway.call("/", &right);
    assert!(reply.status == 429 && seconds(&reply) <= Some(16), "the victim is locked out for too long: {reply:?}");
    wait::until_so("the delay is over", || gateway.call("/", &right).status == 200);
}

#[test]
fn a_limit_grants_no_more_when_the_clock_is_set_back_or_ahead() {
    let clock = TestClock::right();
    let agent = WrongClock::find().give(TestAgent::new("gateway"), &clock.file());
    let limit = "[[limit]]\nname = \"hourly\"\nby = \"identity\"\nrequests = \"2/1h\"\n";
    let gateway = Gateway::start_as(agent, ROLES, &format!("{RULES}{limit}"));
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    gateway.allowed("/", &workload);
    gateway.allowed("/", &workload);
    for offset in ["+0", "-40m", "+40m", "+0"] {
        clock.set(offset);
        let line = gateway.refused("/", &workload, 429, "limit_rate");
        assert_eq!(line["limit"], "hourly", "{line}");
    }
}
