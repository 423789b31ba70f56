//! HTTP Basic: right and wrong passwords, hashes that are imported, and a lockout that does not hit the victim.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::io::Write;
use std::process::Stdio;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::{Gateway, Reply};
use countersign_tests::wait;

/// The password `correct horse` as the C library hashes it with cost 10.
const BCRYPT: &str = "$2y$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu";

fn hash(agent: &TestAgent, password: &str) -> String {
    let mut command = agent.command(&["password-hash"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn write_secret(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn gateway() -> Gateway {
    let agent = TestAgent::new("gateway");
    let path = agent.folder().join("passwords");
    let line = hash(&agent, "s3cret:with colon");
    write_secret(&path, &format!("# users\nalice:{line}\nold:{BCRYPT}\n"));
    let before = format!(
        "[passwords]\nfile = {path:?}\n[[role]]\nname = \"user\"\nmembers = [\"basic:alice\", \"basic:old\"]\n"
    );
    Gateway::start_as(agent, &before, "any_of = [\"basic\"]\n[[inbound.allow]]\nroles = [\"user\"]\n")
}

#[test]
fn a_right_password_is_let_in_and_goes_no_further() {
    let gateway = gateway();
    let line = gateway.allowed("/", &["-u", "alice:s3cret:with colon"]);
    assert_eq!(line["subject"], "basic:alice");
    assert_eq!(line["principal"], "user");
    let seen = gateway.backend.seen();
    assert!(!seen.last().unwrap().names().contains(&"authorization".to_owned()));
    assert_eq!(gateway.allowed("/", &["-u", "old:correct horse"])["subject"], "basic:old");
    assert!(!gateway.agent.audit_text().contains("s3cret"));
}

#[test]
fn a_wrong_password_is_refused_as_one_of_nobody_is() {
    let gateway = gateway();
    gateway.refused("/", &["-u", "alice:wrong"], 401, "password_wrong");
    gateway.refused("/", &["-u", "nobody:wrong"], 401, "password_wrong");
    gateway.refused("/", &["-u", "alice:"], 401, "password_malformed");
    gateway.refused("/", &["-H", "Authorization: Basic !"], 401, "password_malformed");
    let reply = gateway.call("/", &[]);
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"countersign\", charset=\"UTF-8\""));
}

#[test]
fn who_guesses_is_locked_out_and_the_victim_elsewhere_is_not() {
    let gateway = gateway();
    let attacker = ["--interface", "127.0.0.9"];
    let guess = |password: &str| gateway.call("/", &[&attacker[..], &["-u", &format!("alice:{password}")]].concat());
    // Each failure makes the wait longer; one of many seconds is still on when the next guess comes, however busy the machine is.
    let reply = wait::within(std::time::Duration::from_secs(90), "the one who guesses is locked out", || {
        let seconds = |reply: &Reply| reply.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        Some(guess("wrong")).filter(|reply| reply.status == 429 && seconds(reply) >= Some(8))
    });
    assert_eq!(guess("s3cret:with colon").status, 429, "also a right guess has to wait");
    assert_eq!(gateway.line(&reply)["reason"], "locked_out");
    gateway.allowed("/", &["-u", "alice:s3cret:with colon"]);
}

#[test]
fn a_caller_that_begins_with_many_requests_tries_one_password() {
    let gateway = gateway();
    let calls: Vec<_> =
        (0..12).map(|_| gateway.start_call("/", &["-u", "alice:s3cret:with colon", "--http1.1"])).collect();
    for mut call in calls {
        call.wait_for_end(std::time::Duration::from_secs(30));
        assert!(call.stdout().first().is_some_and(|line| line.contains("200")), "{:?}", call.stdout());
    }
}

#[test]
fn a_changed_password_ends_the_one_before() {
    let gateway = gateway();
    gateway.allowed("/", &["-u", "alice:s3cret:with colon"]);
    let line = hash(&gateway.agent, "another");
    write_secret(&gateway.agent.folder().join("passwords"), &format!("alice:{line}\n"));
    wait::until_so("the new password counts", || gateway.call("/", &["-u", "alice:another"]).status == 200);
    gateway.refused("/", &["-u", "alice:s3cret:with colon"], 401, "password_wrong");
}
