//! Join tokens: each lets one host in, once. Every other use is refused with an error that says which, and is recorded.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::agent::TestAgent;
use countersign_tests::ca::TestCa;
use countersign_tests::process::{Finished, Process};
use countersign_tests::{tools, wait};

const DOMAIN: &str = "mesh.test";

fn running_ca() -> TestCa {
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    ca
}

#[track_caller]
fn refused(finished: &Finished, said: &str) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    assert!(finished.stderr.contains(said), "{said:?} is not in {finished:?}");
}

/// The refusal stands in the journal, with its reason.
#[track_caller]
fn recorded(ca: &TestCa, reason: &str) {
    let lines = ca.journal_of("refused");
    assert!(lines.iter().any(|line| line["detail"]["reason"] == reason), "{reason}: {lines:#?}");
}

#[test]
fn a_token_lets_its_host_in() {
    let ca = running_ca();
    let host = TestAgent::new("host-a");
    let finished = host.try_enroll(&ca.token("host-a"));
    assert_eq!(finished.clone().success(), "spiffe://mesh.test/countersign/host/host-a", "{finished:?}");
    let intents = ca.journal_of("issue_intended");
    assert!(intents.iter().any(|line| line["detail"]["spends_token"] == true), "{intents:#?}");
    assert_eq!(ca.journal_of("issued").len(), intents.len(), "each intent has its result");
    assert!(ca.ask(&["journal", "verify"], &[]).success().contains("none changed"));
}

#[test]
fn a_token_from_a_file_or_from_standard_input_does_as_well() {
    let ca = running_ca();
    let host = TestAgent::new("host-a");
    let file = host.folder().join("token");
    countersign_tests::pki::write_by_rename(&file, &ca.token("host-a"));
    let state = host.state();
    host.run(&["enroll", "--token-file", file.to_str().unwrap(), "--dir", state.to_str().unwrap()]).success();
    let other = TestAgent::new("host-b");
    let line = format!(
        "printf '%s\\n' '{}' | '{}' enroll --token-file - --dir '{}'",
        ca.token("host-b"),
        tools::agent_path().display(),
        other.state().display()
    );
    countersign_tests::process::run(std::process::Command::new("bash").args(["-c", &line])).success();
}

#[test]
fn a_token_that_was_used_is_refused() {
    let ca = running_ca();
    let token = ca.token("host-a");
    TestAgent::new("host-a").try_enroll(&token).success();
    let finished = TestAgent::new("thief").try_enroll(&token);
    refused(&finished, "used");
    refused(&finished, "hint: make a new token");
    recorded(&ca, "token_spent");
}

#[test]
fn of_many_hosts_that_spend_one_token_at_once_exactly_one_gets_in() {
    let ca = running_ca();
    for round in 0..3 {
        let token = ca.token(&format!("host-{round}"));
        let hosts: Vec<TestAgent> = (0..8).map(|_| TestAgent::new("host")).collect();
        let mut tries: Vec<Process> = hosts
            .iter()
            .map(|host| {
                let state = host.state();
                let arguments = ["enroll", "--token", &token, "--dir", state.to_str().unwrap()];
                Process::start("enroll", &host.command(&arguments))
            })
            .collect();
        let codes: Vec<Option<i32>> = tries.iter_mut().map(|one| one.wait_for_end(wait::SOON).code()).collect();
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == Some(1)).count(), 7, "{codes:?}");
        for one in tries.iter().filter(|one| !one.stdout().iter().any(|line| line.starts_with("spiffe://"))) {
            assert!(one.stderr().join("\n").contains("used"), "{:?}", one.stderr());
        }
    }
    let spent = ca.journal_of("issue_intended").into_iter().filter(|line| line["detail"]["spends_token"] == true);
    assert_eq!(spent.count(), 3);
}

#[test]
fn a_token_whose_time_is_over_is_refused() {
    let ca = running_ca();
    let token = ca.token_for("host-a", "1s");
    wait::until_so("the token has expired", || {
        ca.ask(&["token", "list"], &["--json"]).success().contains("\"state\":\"expired\"")
    });
    let finished = TestAgent::new("late").try_enroll(&token);
    refused(&finished, "expired");
    refused(&finished, "hint: make a new token");
    recorded(&ca, "token_expired");
}

#[test]
fn a_token_that_was_withdrawn_is_refused() {
    let ca = running_ca();
    let token = ca.token("host-a");
    let list: serde_json::Value = serde_json::from_str(&ca.ask(&["token", "list"], &["--json"]).success()).unwrap();
    let name = list[0]["name"].as_str().unwrap();
    ca.ask(&["token", "revoke"], &[name]).success();
    refused(&TestAgent::new("host-a").try_enroll(&token), "revoked");
    let journal = ca.journal();
    assert!(journal.iter().any(|line| line["kind"] == "refused"), "{journal:#?}");
}

#[test]
fn a_damaged_token_is_told_from_a_wrong_one() {
    let ca = running_ca();
    let token = ca.token("host-a");
    let host = TestAgent::new("host-a");
    let mut mistyped = token.clone().into_bytes();
    let middle = mistyped.len() / 2;
    mistyped[middle] = if mistyped[middle] == b'A' { b'B' } else { b'A' };
    for damaged in [&token[..token.len() - 1], &token[..40], &String::from_utf8(mistyped).unwrap()] {
        refused(&host.try_enroll(damaged), "the join token is damaged");
    }
    refused(&host.try_enroll("hello"), "this is no join token");
    assert_eq!(ca.journal_of("refused").len(), 0, "nobody was called with a damaged token");
    host.try_enroll(&token).success();
}

#[test]
fn a_token_of_another_ca_is_refused_and_its_secret_stays_secret() {
    let mut first = running_ca();
    let token = first.token("host-a");
    first.stop();
    // Somebody else answers at that address, with a CA of the same name.
    let mut second = TestCa::init_at(DOMAIN, first.address());
    second.start();
    let host = TestAgent::new("host-a");
    let finished = host.try_enroll(&token);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("root") || finished.stderr.contains("fingerprint"), "{finished:?}");
    assert_eq!(second.journal_of("refused").len(), 0, "the other CA was told the secret");
    second.stop();
    first.start();
    host.try_enroll(&token).success();
}

#[test]
fn a_ca_that_cannot_be_reached_is_named() {
    let mut ca = running_ca();
    let token = ca.token("host-a");
    ca.stop();
    let host = TestAgent::new("host-a");
    refused(&host.try_enroll(&token), &format!("localhost:{}", ca.address().port()));
    ca.start();
    host.try_enroll(&token).success();
}

#[test]
fn a_host_that_has_joined_does_not_join_again_by_mistake() {
    let ca = running_ca();
    let host = TestAgent::new("host-a");
    host.try_enroll(&ca.token("host-a")).success();
    let token = ca.token("host-a");
    refused(&host.try_enroll(&token), "already holds the enrollment");
    let list = ca.ask(&["token", "list"], &["--json"]).success();
    assert!(list.contains("\"state\":\"unused\""), "the second token was spent: {list}");
}

#[test]
fn tokens_work_with_the_ca_stopped_when_they_are_made() {
    let mut ca = TestCa::init(DOMAIN);
    let token = ca.token("host-a");
    ca.grant("host-a", "spiffe://mesh.test/web", &[]);
    ca.start();
    TestAgent::new("host-a").try_enroll(&token).success();
}
