//! A host gets what an operator granted to it, and nothing else.

use countersign_certs::certificate::{ExtendedUsage, PeerCertificate};
use countersign_certs::csr;
use countersign_certs::issuance::{Reason, WATCH_PATH};
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use countersign_certs::pem;
use countersign_certs::spiffe_id::SpiffeId;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, PKCS_RSA_SHA256, SanType};

use crate::support::{Answer, TestCa, id};

fn leaf(answer: &Answer) -> PeerCertificate {
    PeerCertificate::parse(&pem::certificates(answer.chain().as_bytes()).unwrap()[0]).unwrap()
}

#[tokio::test]
async fn a_granted_identity_is_issued_as_its_entry_says() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let entry = ["--host", "gpu-1", "--id", &id("/llm"), "--dns", "llm.prod.example", "--ttl", "30m"];
    ca.ask("entry add", &entry).succeeded();
    let leaf = leaf(&host.issue(&id("/llm")).await);
    let names: Vec<_> = leaf.sans().iter().map(ToString::to_string).collect();
    assert_eq!(names, [id("/llm"), "dns:llm.prod.example".to_owned()]);
    assert_eq!(leaf.validity().lifetime().as_secs(), 30 * 60 + 30, "with the back-dating");
    assert_eq!(leaf.usage(), ExtendedUsage::Only { server: true, client: true });
    assert!(leaf.serial().as_bytes().len() >= 16);
}

#[tokio::test]
async fn every_kind_of_key_is_certified() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Ed25519] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let named = csr::create(&SpiffeId::parse(&id("/llm")).unwrap(), &key).unwrap();
        let answer = host.issue_for(&id("/llm"), &named).await;
        host.showing(&key, answer.chain(), &id("/llm"));
    }
}

#[tokio::test]
async fn a_lifetime_is_never_longer_than_the_config_allows() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let over = ca.ask("entry add", &["--host", "gpu-1", "--id", &id("/llm"), "--ttl", "25h"]).failed_with(1);
    assert!(over.contains("25h is out of range: from 10s to 1d"), "{over}");
    // An entry that was made under a config that allowed more.
    ca.ask("entry add", &["--host", "gpu-1", "--id", &id("/llm"), "--ttl", "24h"]).succeeded();
    ca.tamper("UPDATE entries SET ttl_seconds = 900000").await.unwrap();
    assert_eq!(leaf(&host.issue(&id("/llm")).await).validity().lifetime().as_secs(), 86_400 + 30);
}

#[tokio::test]
async fn a_host_renews_its_own_identity_and_no_other_hosts() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let own = id("/countersign/host/gpu-1");
    assert_eq!(leaf(&host.issue(&own).await).spiffe_id().unwrap().as_str(), own);
    for other in ["/countersign/host/gpu-2", "/countersign/ca", "/countersign/host/gpu-1/x", "/llm"] {
        assert_eq!(host.issue(&id(other)).await.refused().0, Reason::NotGranted, "{other}");
    }
    assert_eq!(host.issue("spiffe://other.example/llm").await.refused().0, Reason::NotGranted);
}

#[tokio::test]
async fn a_host_that_hoards_certificates_is_refused() {
    let ca = TestCa::start_with("[limits]\ncertificates_per_host = 2\n");
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    // Two, and sixteen for the entry; the host's own is one of them.
    for _ in 1..18 {
        host.issue(&id("/llm")).await.chain();
    }
    let (reason, detail) = host.issue(&id("/llm")).await.refused();
    assert_eq!(reason, Reason::TooMany);
    assert!(detail.starts_with("host gpu-1 has 18 unexpired certificates, the limit is 18;"), "{detail}");
    assert_eq!(ca.journal().pop().unwrap()["detail"]["reason"], "too_many");
    ca.host("gpu-2").await.issue(&id("/countersign/host/gpu-2")).await.chain();
    ca.host("gpu-1").await;
}

#[tokio::test]
async fn a_host_that_asks_for_certificates_without_end_is_slowed_down() {
    let ca = TestCa::start_with("[limits]\ncertificates_per_minute = 3\n");
    let (host, other) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    for _ in 0..3 {
        host.issue(&id("/countersign/host/gpu-1")).await.chain();
    }
    assert_eq!(host.issue(&id("/countersign/host/gpu-1")).await.refused().0, Reason::TooMany);
    other.issue(&id("/countersign/host/gpu-2")).await.chain();
}

#[tokio::test]
async fn an_identity_of_another_host_is_refused() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-2", &id("/llm"));
    let (reason, detail) = host.issue(&id("/llm")).await.refused();
    assert_eq!(reason, Reason::NotGranted);
    assert_eq!(detail, format!("no registration entry grants {} to host gpu-1", id("/llm")));
    let recorded = &ca.journal().pop().unwrap()["detail"];
    assert_eq!(recorded["peer"], id("/countersign/host/gpu-1"));
    assert_eq!(recorded["wanted"], id("/llm"));
}

#[tokio::test]
async fn an_entry_that_was_removed_grants_nothing() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    host.issue(&id("/llm")).await.chain();
    ca.ask("entry remove", &["--host", "gpu-1", "--id", &id("/llm")]).succeeded();
    assert_eq!(host.issue(&id("/llm")).await.refused().0, Reason::NotGranted);
}

#[tokio::test]
async fn a_workload_cannot_ask_for_certificates() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let answer = host.issue_for(&id("/llm"), &csr::create_unnamed(&key).unwrap()).await;
    let workload = host.showing(&key, answer.chain(), &id("/llm"));
    assert_eq!(workload.issue(&id("/llm")).await.refused().0, Reason::NotAHost);
    let watch = workload.connect().await.unwrap().send(hyper::Method::GET, WATCH_PATH, "").await.unwrap();
    assert_eq!(watch.status(), 403, "else its stream would not end");
    assert_eq!(Answer::read(watch).await.unwrap().refused().0, Reason::NotAHost);
}

#[tokio::test]
async fn who_shows_no_certificate_gets_none() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    let mut stranger = crate::support::Anonymous::connect(&ca, &token).await;
    let message = serde_json::json!({ "id": id("/countersign/host/gpu-1"), "csr": "" });
    let answer = stranger.connection().post("/v1/issue", &message).await.unwrap();
    assert_eq!(answer.refused().0, Reason::NotAHost);
}

#[tokio::test]
async fn requests_that_ask_for_more_are_refused() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let uri = |path: &str| SanType::URI(id(path).as_str().try_into().unwrap());
    let foreign_name = with(|params| params.subject_alt_names = vec![uri("/other")]);
    let two_names = with(|params| params.subject_alt_names = vec![uri("/llm"), uri("/other")]);
    let dns_name = with(|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]);
    let subject = with(|params| params.distinguished_name.push(DnType::CommonName, "root"));
    let authority = with(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let extension = with(|params| {
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99], vec![5, 0])];
    });
    for request in [foreign_name, two_names, dns_name, subject, authority, extension] {
        let (reason, detail) = host.issue_for(&id("/llm"), &request).await.refused();
        assert_eq!(reason, Reason::CsrRefused, "{detail}");
    }
    assert_eq!(ca.journalled("issue_intended"), 2, "the CA's own and the host's");
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

#[tokio::test]
async fn an_rsa_key_is_refused() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()).unwrap();
    let (reason, detail) = host.issue_for(&id("/llm"), &request.pem().unwrap()).await.refused();
    assert_eq!(reason, Reason::CsrRefused);
    assert!(detail.contains("P-256, P-384 or Ed25519 is required"), "{detail}");
}

#[tokio::test]
async fn openssl_verifies_what_is_issued() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let answer = host.issue(&id("/llm")).await;
    let chain = ca.dir().join("chain.pem");
    std::fs::write(&chain, answer.chain()).unwrap();
    let output = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(ca.dir().join("root.pem"))
        .arg("-untrusted")
        .args([&chain, &chain])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = std::process::Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&chain).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    for line in ["X509v3 Subject Alternative Name: critical", "URI:spiffe://prod.example/llm", "CA:FALSE"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}
