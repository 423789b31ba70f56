//! Nothing is issued unrecorded, and the record shows who touched it.

use countersign_certs::csr;
use countersign_certs::issuance::{ISSUE_PATH, Reason};
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use serde_json::{Value, json};

use crate::support::{Anonymous, TestCa, id};

#[tokio::test]
async fn the_intent_stands_before_the_result() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let serial = host.svid().leaf().serial().to_string();
    let journal = ca.journal();
    let position = |kind: &str| {
        journal.iter().position(|line| line["kind"] == kind && line["detail"]["serial"] == serial.as_str()).unwrap()
    };
    assert!(position("issue_intended") < position("issued"));
    let intent = &journal[position("issue_intended")]["detail"];
    assert_eq!(intent["id"], id("/countersign/host/gpu-1"));
    assert_eq!(intent["spends_token"], true);
}

#[tokio::test]
async fn a_certificate_whose_result_cannot_be_recorded_is_not_delivered() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    ca.tamper(
        "CREATE TRIGGER no_results BEFORE INSERT ON journal WHEN NEW.kind = 'issued'
         BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    )
    .await
    .unwrap();
    let (reason, detail) = host.issue(&id("/llm")).await.refused();
    assert_eq!(reason, Reason::CaUnavailable);
    assert!(!detail.contains("disk full"), "what is wrong with us is not the peer's business: {detail}");
    let intents = ca
        .journal()
        .iter()
        .filter(|line| line["detail"]["id"] == id("/llm") && line["kind"] == "issue_intended")
        .count();
    assert_eq!(intents, 1, "the intent was there before the signature");
    assert_eq!(ca.ask_json("status")["unfinished_intents"], 1);
    assert!(ca.log().iter().any(|line| line.contains("disk full")), "our own log says what is wrong");
}

#[tokio::test]
async fn with_a_journal_that_cannot_be_written_nothing_is_signed() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let token = ca.token("gpu-2");
    let issued = ca.journalled("issued");
    ca.tamper(
        "CREATE TRIGGER full BEFORE INSERT ON journal WHEN NEW.kind = 'issue_intended'
         BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    )
    .await
    .unwrap();
    assert_eq!(host.issue(&id("/llm")).await.refused().0, Reason::CaUnavailable);
    let key = PrivateKey::generate(Default::default()).unwrap();
    let request = csr::create_unnamed(&key).unwrap();
    assert_eq!(ca.spend(&token, &request).await.refused().0, Reason::CaUnavailable);
    assert_eq!(ca.journalled("issued"), issued);
    assert_eq!(ca.ask_json("status")["live_certificates"], 2);
    assert_eq!(ca.ask_json("status")["unfinished_intents"], 0);

    ca.tamper("DROP TRIGGER full").await.unwrap();
    host.issue(&id("/llm")).await.chain();
    ca.spend(&token, &request).await.chain();
}

#[tokio::test]
async fn the_journal_is_append_only() {
    let ca = TestCa::init();
    // SQLite's REPLACE deletes without asking a trigger for DELETE.
    let replace = "INSERT OR REPLACE INTO journal SELECT sequence, time, kind, '{}', hash FROM journal";
    for statement in ["UPDATE journal SET detail = '{}'", "DELETE FROM journal", replace] {
        let refused = ca.tamper(statement).await.unwrap_err().to_string();
        assert!(refused.contains("the journal is append-only"), "{refused}");
    }
}

#[tokio::test]
async fn a_changed_line_is_found() {
    let ca = TestCa::init();
    ca.grant("gpu-1", &id("/llm"));
    ca.grant("gpu-1", &id("/web"));
    let verified = ca.ask("journal verify", &[]).succeeded();
    assert!(verified.starts_with("3 lines, none changed; the last hash is "), "{verified}");
    assert_eq!(ca.ask_json("journal verify")["lines"], 3);
    ca.tamper("DROP TRIGGER journal_is_never_updated").await.unwrap();
    ca.tamper("UPDATE journal SET detail = replace(detail, 'llm', 'x') WHERE sequence = 2").await.unwrap();
    let found = ca.ask("journal verify", &[]).failed_with(1);
    assert!(found.contains("line 2 was changed, or a line before it"), "{found}");
    let status = ca.ask_json("status");
    assert!(status["journal_fault"].as_str().unwrap().starts_with("line 2 was changed"), "{status}");
    assert!(ca.ask("status", &[]).succeeded().contains("line 2 was changed"), "people are told too");
}

#[tokio::test]
async fn a_removed_line_is_found() {
    let ca = TestCa::init();
    ca.grant("gpu-1", &id("/llm"));
    ca.grant("gpu-1", &id("/web"));
    ca.tamper("DROP TRIGGER journal_is_never_deleted").await.unwrap();
    ca.tamper("DELETE FROM journal WHERE sequence = 2").await.unwrap();
    let found = ca.ask("journal verify", &[]).failed_with(1);
    assert!(found.contains("line 2 is missing, line 3 follows"), "{found}");
}

#[tokio::test]
async fn strangers_cannot_fill_the_journal() {
    let mut ca = TestCa::start_with("[limits]\nrequests_per_second = 1000\n");
    let token = ca.token("gpu-1");
    let mut stranger = Anonymous::connect(&ca, &token).await;
    let message = json!({ "id": id("/llm"), "csr": "" });
    for _ in 0..200 {
        let answer = stranger.connection().post(ISSUE_PATH, &message).await.unwrap();
        assert_eq!(answer.refused().0, Reason::NotAHost);
    }
    let flooded = refusals(&ca, "not_a_host");
    assert!((100..103).contains(&flooded.len()), "{} lines for 200 requests", flooded.len());
    // A flood of one kind does not hide another.
    let request = csr::create_unnamed(&PrivateKey::generate(KeyAlgorithm::P256).unwrap()).unwrap();
    ca.spend(&token, &request).await.chain();
    assert_eq!(ca.spend(&token, &request).await.refused().0, Reason::TokenSpent);
    assert_eq!(refusals(&ca, "token_spent")[0]["detail"]["omitted"], 0);
    // What no line has counted is told at the end: each of the 200 is in a line or in a number.
    ca.stop();
    let flooded = refusals(&ca, "not_a_host");
    let counted: u64 = flooded.iter().map(|line| 1 + line["detail"]["omitted"].as_u64().unwrap()).sum();
    let last = ca.journal().pop().unwrap();
    assert_eq!(last["detail"]["omitted"], json!({ "not_a_host": 200 - counted }));
    ca.ask("journal verify", &[]).succeeded();
}

#[tokio::test]
async fn members_cannot_fill_the_journal_either() {
    let ca = TestCa::start_with("[limits]\nrequests_per_second = 1000\n");
    let (host, other) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    let mut connection = host.connect().await.unwrap();
    let long = id(&format!("/{}", "x".repeat(1900)));
    for _ in 0..200 {
        let answer = connection.post(ISSUE_PATH, &json!({ "id": long, "csr": "" })).await.unwrap();
        assert_eq!(answer.refused().0, Reason::NotGranted);
    }
    let flooded = refusals(&ca, "not_granted");
    assert!((100..103).contains(&flooded.len()), "{} lines for 200 requests", flooded.len());
    assert_eq!(flooded[0]["detail"]["wanted"], long[..256]);
    assert_eq!(other.issue(&id("/llm")).await.refused().0, Reason::NotGranted);
    assert_eq!(refusals(&ca, "not_granted").pop().unwrap()["detail"]["wanted"], id("/llm"));
}

fn refusals(ca: &TestCa, reason: &str) -> Vec<Value> {
    let text = ca.ask("journal list", &["--json", "--limit", "1000"]).succeeded();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "refused" && line["detail"]["reason"] == reason).collect()
}

#[test]
fn what_an_operator_does_is_recorded() {
    let ca = TestCa::init();
    ca.grant("gpu-1", &id("/llm"));
    ca.ask("entry remove", &["--host", "gpu-1", "--id", &id("/llm")]).succeeded();
    ca.token("gpu-1");
    let token = ca.ask_json("token list")[0]["name"].as_str().unwrap().to_owned();
    ca.ask("token revoke", &[&token]).succeeded();
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    ca.ask("revoke", &["--lift", "--id", &id("/llm")]).succeeded();
    let kinds: Vec<_> = ca.journal().iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "initialized",
        "entry_added",
        "entry_removed",
        "token_created",
        "token_revoked",
        "identity_revoked",
        "identity_lifted",
    ];
    assert_eq!(kinds, expected);
    let alone = ca.ask("journal", &["--limit", "2"]).succeeded();
    assert_eq!(alone.lines().count(), 2, "`journal` is `journal list`: {alone}");
    assert!(alone.lines().all(|line| line.contains("identity_")), "{alone}");
}
