//! A join token makes one host a member, once.

use countersign_certs::csr;
use countersign_certs::issuance::Reason;
use countersign_certs::key::{KeyAlgorithm, PrivateKey};

use crate::support::{Anonymous, TestCa, contents, id};

fn request() -> String {
    csr::create_unnamed(&PrivateKey::generate(KeyAlgorithm::P256).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_makes_its_host_a_member_for_a_week() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let leaf = host.svid().leaf();
    assert_eq!(leaf.spiffe_id().unwrap().as_str(), id("/countersign/host/gpu-1"));
    assert_eq!(leaf.sans().len(), 1);
    let days = leaf.validity().lifetime().as_secs() / 86_400;
    assert_eq!(days, 7);
    assert_eq!(host.svid().chain().len(), 2, "the leaf and the intermediate, without the root");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_spend_a_token_at_the_same_time_one_gets_a_certificate() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut connection = Anonymous::connect(&ca, &token).await;
        let token = token.clone();
        tries.spawn(async move { connection.enroll(&token, &request()).await });
    }
    let answers = tries.join_all().await;
    let (issued, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(issued.len(), 1);
    assert!(refused.iter().all(|answer| answer.refused().0 == Reason::TokenSpent), "{refused:?}");
    assert_eq!(ca.ask_json("status")["live_certificates"], 2, "the host's and the CA's own");
}

#[tokio::test]
async fn a_token_that_was_spent_says_so() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    ca.spend(&token, &request()).await.chain();
    let (reason, detail) = ca.spend(&token, &request()).await.refused();
    assert_eq!(reason, Reason::TokenSpent);
    assert!(detail.starts_with("the join token was spent at 20"), "{detail}");
    let recorded = &ca.journal().pop().unwrap()["detail"];
    assert_eq!(recorded["reason"], "token_spent");
    let name = ca.ask_json("token list")[0]["name"].clone();
    assert_eq!((&recorded["token"], &recorded["host"]), (&name, &"gpu-1".into()));
    assert!(!detail.contains(name.as_str().unwrap()) && !detail.contains("gpu-1"), "the peer learns nothing: {detail}");
}

#[tokio::test]
async fn a_token_whose_time_is_over_says_so() {
    let ca = TestCa::start();
    let token = ca.ask("token create", &["--host", "gpu-1", "--ttl", "1s"]).succeeded();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (reason, detail) = ca.spend(&token, &request()).await.refused();
    assert_eq!(reason, Reason::TokenExpired);
    assert!(detail.contains("expired at") && detail.contains("it is"), "{detail}");
}

#[tokio::test]
async fn a_token_that_this_ca_never_gave_out_says_so() {
    let ca = TestCa::start();
    let other = TestCa::init();
    // A token of this CA's root with a secret of the other's.
    let (own, foreign) = (ca.token("gpu-1"), other.token("gpu-1"));
    let answer = Anonymous::connect(&ca, &own).await.enroll(&foreign, &request()).await;
    assert_eq!(answer.refused().0, Reason::TokenUnknown);
    assert!(Anonymous::try_connect(&ca, &foreign).await.is_err(), "the host must see that this is another CA");
}

#[tokio::test]
async fn a_token_that_was_withdrawn_is_unknown() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    let name = ca.ask_json("token list")[0]["name"].as_str().unwrap().to_owned();
    ca.ask("token revoke", &[&name]).succeeded();
    assert_eq!(ca.spend(&token, &request()).await.refused().0, Reason::TokenUnknown);
    assert_eq!(ca.ask_json("token list")[0]["state"], "revoked");
    let recorded = &ca.journal().pop().unwrap()["detail"];
    assert_eq!((&recorded["reason"], &recorded["token"]), (&"token_revoked".into(), &name.as_str().into()));
}

#[tokio::test]
async fn a_refused_request_does_not_spend_the_token() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    assert_eq!(ca.spend(&token, "no request").await.refused().0, Reason::CsrRefused);
    ca.spend(&token, &request()).await.chain();
}

#[tokio::test]
async fn the_secret_of_a_token_is_kept_nowhere() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    ca.spend(&token, &request()).await.chain();
    let parsed: countersign_certs::token::JoinToken = token.parse().unwrap();
    let secret = parsed.secret.to_base64();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
    for (path, bytes) in contents(&ca.dir()) {
        assert!(!holds(&bytes), "{path:?}");
    }
    assert!(!holds(ca.log().concat().as_bytes()));
}
