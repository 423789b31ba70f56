//! Trust ends when an operator says so, and everybody hears of it at once.

use std::time::{Duration, Instant};

use countersign_certs::issuance::Reason;
use countersign_certs::spiffe_id::SpiffeId;

use crate::support::{TestCa, id, until};

#[tokio::test]
async fn a_watch_begins_with_the_whole_state_and_hears_of_a_revocation_within_a_second() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let mut watch = host.watch().await;
    let first = watch.next().await.unwrap();
    assert!(first.revocations.ids.is_empty() && first.bundles.len() == 1);
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    let since = now();
    let second = watch.next().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(1));
    assert!(second.generation > first.generation);
    assert!(second.revocations.ids.contains(&SpiffeId::parse(&id("/llm")).unwrap()));
}

#[expect(clippy::disallowed_methods, reason = "how long something took is measured")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_revoked_hosts_watch_ends_and_it_gets_no_certificate_any_more() {
    let ca = TestCa::start();
    let (host, witness) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    ca.grant("gpu-1", &id("/llm"));
    host.issue(&id("/llm")).await.chain();
    let (mut watch, mut seen) = (host.watch().await, witness.watch().await);
    let mut open = host.connect().await.unwrap();
    watch.next().await.unwrap();
    seen.next().await.unwrap();

    ca.ask("revoke", &["--id", &id("/countersign/host/gpu-1")]).succeeded();
    let since = now();
    assert_eq!(watch.next().await, None, "the stream ends");
    assert!(since.elapsed() < Duration::from_secs(2));
    assert!(host.connect_and_ask().await.is_err(), "a new connection is refused in the handshake");
    let message = serde_json::json!({ "id": id("/llm"), "csr": "" });
    match open.post("/v1/issue", &message).await {
        Ok(answer) => assert_eq!(answer.refused().0, Reason::IdentityRevoked),
        Err(closed) => {
            assert!(closed.is_canceled() || closed.is_closed() || closed.is_incomplete_message(), "{closed}")
        }
    }
    let update = seen.next().await.unwrap();
    assert_eq!(update.revocations.serials.len(), 2, "the host's own certificate and its workload's");
    assert!(update.revocations.serials.contains_key(host.svid().leaf().serial()));
}

#[tokio::test]
async fn a_revoked_identity_is_not_renewed_until_it_is_lifted() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    let (reason, detail) = host.issue(&id("/llm")).await.refused();
    assert_eq!((reason, detail), (Reason::IdentityRevoked, format!("{} is revoked", id("/llm"))));
    ca.ask("revoke", &["--lift", "--id", &id("/llm")]).succeeded();
    host.issue(&id("/llm")).await.chain();
}

#[tokio::test]
async fn a_lifted_host_comes_back_with_the_certificate_that_it_has() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let own = id("/countersign/host/gpu-1");
    ca.ask("revoke", &["--id", &own]).succeeded();
    ca.ask("revoke", &["--lift", "--id", &own]).succeeded();
    tokio::time::sleep(Duration::from_millis(600)).await;
    host.issue(&own).await.chain();
    assert_eq!(ca.ask_json("status")["revoked_serials"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn one_certificate_is_revoked_by_its_serial() {
    let ca = TestCa::start();
    let (host, witness) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    let mut watch = witness.watch().await;
    watch.next().await.unwrap();
    let serial = host.svid().leaf().serial();
    ca.ask("revoke", &["--serial", &serial.to_string()]).succeeded();
    let update = watch.next().await.unwrap();
    assert!(update.revocations.serials.contains_key(serial) && update.revocations.ids.is_empty());
    assert!(host.connect_and_ask().await.is_err());
    let again = ca.ask("revoke", &["--serial", &serial.to_string()]).failed_with(1);
    assert!(again.contains("is already revoked"), "{again}");
    let unknown = ca.ask("revoke", &["--serial", "ab:cd"]).failed_with(1);
    assert!(unknown.contains("no unexpired certificate with serial abcd"), "{unknown}");
}

#[tokio::test]
async fn more_revocations_than_agents_can_read_are_an_error_that_is_told() {
    let ca = TestCa::start();
    assert_eq!(ca.ask_json("status")["trust_fault"], serde_json::Value::Null);
    ca.tamper(
        "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 90000)
         INSERT INTO revoked_serials (serial, not_after, revoked, cause)
         SELECT printf('1%032x', number), 4000000000, 1, '' FROM numbers",
    )
    .await
    .unwrap();
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    let status = ca.ask_json("status");
    assert!(
        status["trust_fault"].as_str().unwrap().contains("agents read at most 4128768"),
        "{}",
        status["trust_fault"]
    );
    let logged = || ca.log().iter().any(|line| line.contains("trust cannot be taken up by agents"));
    until("an error in the log", Duration::from_secs(10), logged).await;
}

#[tokio::test]
async fn the_cas_own_certificate_cannot_be_revoked() {
    let ca = TestCa::start();
    let own = ca.journal().iter().find(|line| line["kind"] == "issued").unwrap()["detail"]["serial"].clone();
    let said = ca.ask("revoke", &["--serial", own.as_str().unwrap()]).failed_with(1);
    assert!(said.contains("is this CA's own; agents would no longer hear from it"), "{said}");
    ca.host("gpu-1").await;
}

#[tokio::test]
async fn what_cannot_be_revoked_says_why() {
    let ca = TestCa::init();
    for (arguments, expected) in [
        (["--id", "spiffe://prod.example/countersign/ca"], "is this CA itself"),
        (["--id", "spiffe://other.example/llm"], "is of trust domain other.example, this CA signs for prod.example"),
    ] {
        let said = ca.ask("revoke", &arguments).failed_with(1);
        assert!(said.contains(expected), "{said}");
    }
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    assert!(ca.ask("revoke", &["--id", &id("/llm")]).failed_with(1).contains("is already revoked"));
    assert!(ca.ask("revoke", &["--lift", "--id", &id("/other")]).failed_with(1).contains("is not revoked"));
}
