//! Tokens that only their holder can show: bound to a certificate (RFC 8705) or to a key (DPoP, RFC 9449), by a real provider, used by
//! a real client, and by those who have stolen one.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::collections::BTreeSet;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::issuer::{Forger, Provider, SERVICE_CLIENT};
use countersign_tests::pki::{CertificateFiles, Leaf, TestPki};

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const RULES: &str = "[[inbound.allow]]\nroles = [\"reader\"]\n";

fn roles(issuer: &str) -> String {
    format!("[[role]]\nname = \"reader\"\nmembers = [\"scope:{issuer}/llm:read\"]\n")
}

/// A certificate as curl takes it.
fn shown(files: &CertificateFiles) -> Vec<&str> {
    vec!["--cert", files.chain.to_str().unwrap(), "--key", files.key.to_str().unwrap()]
}

fn with_bearer<'all>(certificate: &[&'all str], header: &'all str) -> Vec<&'all str> {
    [certificate, &["-H", header]].concat()
}

#[test]
fn a_token_bound_to_a_certificate_counts_on_its_connections_only() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let own = pki.issue_files(agent.folder(), "frontend", &Leaf::of(FRONTEND));
    let other = pki.issue_files(agent.folder(), "other", &Leaf::of(FRONTEND));
    let self_signed = own.chain.to_str().unwrap();
    let provider = Provider::start_with(&pki, agent.folder(), &["--self-signed", self_signed]);
    let before = provider.table("") + &roles("corp");
    let gateway = Gateway::start_of(pki, agent, &before, &format!("any_of = [\"mtls\", \"jwt\"]\n{RULES}"));
    for client in ["bound-service", "self-signed-service"] {
        let token = format!("Authorization: Bearer {}", provider.bound_token(client, &shown(&own)));
        let line = gateway.allowed("/", &with_bearer(&shown(&own), &token));
        assert_eq!(line["principal"], "workload_on_behalf");
        assert_eq!(line["subject"], format!("client:corp/{client}"));
        assert_eq!(line["peer"], FRONTEND);
        // The same workload with another certificate is another holder.
        gateway.refused("/", &with_bearer(&shown(&other), &token), 401, "token_other_certificate");
        gateway.refused("/", &["-H", &token], 401, "token_no_certificate");
        gateway.allowed("/", &with_bearer(&shown(&own), &token));
    }
}

#[test]
fn where_only_bound_tokens_are_taken_others_are_refused() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let own = pki.issue_files(agent.folder(), "frontend", &Leaf::of(FRONTEND));
    let provider = Provider::start(&pki, agent.folder());
    let before = provider.table("") + &roles("corp");
    let keys = format!("any_of = [\"mtls\", \"jwt\"]\nbound_tokens_only = true\n{RULES}");
    let gateway = Gateway::start_of(pki, agent, &before, &keys);
    let free = format!("Authorization: Bearer {}", provider.token(SERVICE_CLIENT));
    gateway.refused("/", &["-H", &free], 401, "token_unbound");
    gateway.refused("/", &with_bearer(&shown(&own), &free), 401, "token_unbound");
    let bound = format!("Authorization: Bearer {}", provider.bound_token("bound-service", &shown(&own)));
    gateway.allowed("/", &with_bearer(&shown(&own), &bound));
    let url = format!("{}/", gateway.url());
    let said = provider.client(&["--client", SERVICE_CLIENT, "--flow", "dpop", "--url", &url]);
    assert_eq!(said[1]["status"], 200, "{said:?}");
}

#[test]
fn a_real_client_shows_a_token_bound_to_its_key_and_nobody_else_can() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let before = provider.table("") + &roles("corp");
    let gateway = Gateway::start_of(pki, agent, &before, &format!("any_of = [\"jwt\"]\n{RULES}"));
    let url = format!("{}/v1/models?a=b", gateway.url());
    let call = ["--client", SERVICE_CLIENT, "--flow", "dpop", "--count", "4", "--url", &url];
    for algorithm in ["ES256", "Ed25519"] {
        let said = provider.client(&[&call[..], &["--algorithm", algorithm]].concat());
        assert_eq!(said[0]["token_type"], "dpop");
        assert!(said.iter().skip(1).all(|call| call["status"] == 200), "{algorithm}: {said:?}");
        assert_eq!(said.len(), 5);
        let token = said[0]["access_token"].as_str().unwrap();
        gateway.refused("/v1/models", &["-H", &format!("Authorization: Bearer {token}")], 401, "token_no_proof");
        gateway.refused("/v1/models", &["-H", &format!("Authorization: DPoP {token}")], 401, "proof_count");
    }
    for seen in gateway.backend.seen() {
        assert!(!seen.names().iter().any(|name| name == "authorization" || name == "dpop"), "{:?}", seen.names());
        assert_eq!(seen.value("x-countersign-subject"), Some("client:corp/reader-service"));
    }
    let line = gateway.agent.wait_for_audit("a call with a proof", |line| line["outcome"] == "allowed");
    assert_eq!(line["credential"], "jwt");
}

/// Which bad proof is refused for which reason.
const BAD_PROOFS: &[(&str, &str)] = &[
    ("wrong htm", "proof_method"),
    ("wrong htu", "proof_target"),
    ("htu of another scheme", "proof_target"),
    ("htu without port", "proof_target"),
    ("wrong ath", "proof_token"),
    ("no ath", "proof_claim"),
    ("no jti", "proof_claim"),
    ("old", "proof_time"),
    ("early", "proof_time"),
    ("another's signature", "proof_signature"),
    ("another's key", "token_other_key"),
    ("private key in it", "proof_key"),
    ("no key", "proof_header"),
    ("another type", "proof_type"),
    ("hs256", "proof_algorithm"),
];

/// A gateway that believes a forger, whose tokens are bound to the frontend's certificate or to a key that it holds.
fn forged() -> (Forger, Gateway, CertificateFiles) {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("gateway"));
    let own = pki.issue_files(agent.folder(), "frontend", &Leaf::of(FRONTEND));
    let forger = Forger::new(agent.folder()).bound_to(&own.chain);
    let before = forger.table("") + &roles("own");
    let keys = format!("any_of = [\"mtls\", \"jwt\"]\n{RULES}");
    (forger, Gateway::start_of(pki, agent, &before, &keys), own)
}

#[test]
fn proofs_that_were_made_for_something_else_are_refused_by_name() {
    let (forger, gateway, own) = forged();
    let tokens = forger.tokens(300);
    let (token, free) = (&tokens["bound to a key"], &tokens["good"]);
    let proofs = forger.proofs(&format!("{}/group", gateway.url()), token, 4);
    let by_proof = format!("Authorization: DPoP {token}");
    for (name, reason) in BAD_PROOFS {
        let proof = format!("DPoP: {}", proofs[*name]);
        gateway.refused("/group", &["-H", &by_proof, "-H", &proof], 401, reason);
    }
    let proof = |name: &str| format!("DPoP: {}", proofs[name]);
    let good = proof("good 0");
    gateway.refused("/group", &["-H", &by_proof, "-H", &good, "-X", "DELETE"], 401, "proof_method");
    gateway.refused("/other", &["-H", &by_proof, "-H", &good], 401, "proof_target");
    // A service that was shown this proof names itself here.
    let elsewhere = &forger.proofs("https://elsewhere.test/group", token, 1)["good 0"];
    let stolen = ["-H", "Host: elsewhere.test", "-H", &by_proof, "-H", &format!("DPoP: {elsewhere}")];
    gateway.refused("/group", &stolen, 401, "proof_target");
    gateway.refused("/group", &["-H", &by_proof, "-H", &good, "-H", &proof("good 1")], 401, "proof_count");
    gateway.refused("/group", &["-H", &format!("Authorization: Bearer {token}"), "-H", &good], 401, "token_no_proof");
    gateway.refused("/group", &["-H", &format!("Authorization: DPoP {free}"), "-H", &good], 401, "proof_token");
    // What was refused has not spent the proof.
    gateway.allowed("/group?any=query", &["-H", &by_proof, "-H", &good]);
    gateway.refused("/group?any=query", &["-H", &by_proof, "-H", &good], 401, "proof_replayed");
    gateway.allowed("/group", &["-H", &by_proof, "-H", &proof("upper-case host and default form")]);
    let unbound = forger.proofs(&format!("{}/group", gateway.url()), free, 1);
    let unbound = format!("DPoP: {}", unbound["good 0"]);
    gateway.refused("/group", &["-H", &format!("Authorization: DPoP {free}"), "-H", &unbound], 401, "token_unbound");
    // A DPoP field without a token that it is for goes no further than to us.
    gateway.allowed("/group", &["-H", &format!("Authorization: Bearer {free}"), "-H", &unbound]);
    let seen = gateway.backend.seen();
    assert!(seen.iter().all(|seen| !seen.names().contains(&"dpop".to_owned())), "{seen:?}");

    let both = &tokens["bound to both"];
    let proofs = forger.proofs(&format!("{}/group", gateway.url()), both, 3);
    let (by_proof, free) = (format!("Authorization: DPoP {both}"), format!("Authorization: Bearer {both}"));
    let [first, second] = ["good 0", "good 1"].map(|name| format!("DPoP: {}", proofs[name]));
    gateway.refused("/group", &["-H", &by_proof, "-H", &first], 401, "token_no_certificate");
    gateway.refused("/group", &with_bearer(&shown(&own), &free), 401, "token_no_proof");
    gateway.allowed("/group", &[&shown(&own)[..], &["-H", &by_proof, "-H", &second]].concat());
}

#[test]
fn a_proof_counts_once_whichever_worker_sees_it() {
    let (forger, gateway, _own) = forged();
    let token = &forger.tokens(300)["bound to a key"];
    let proofs = forger.proofs(&format!("{}/group", gateway.url()), token, 1);
    let call = ["-H", &format!("Authorization: DPoP {token}"), "-H", &format!("DPoP: {}", proofs["good 0"])];
    let first = gateway.allowed("/group", &call);
    // A decision's ID begins with what the worker chose when it started.
    let worker = |line: &serde_json::Value| line["decision"].as_str().unwrap().split('-').next().unwrap().to_owned();
    let mut workers = BTreeSet::from([worker(&first)]);
    for _ in 0..100 {
        workers.insert(worker(&gateway.refused("/group", &call, 401, "proof_replayed")));
        if workers.len() > 1 {
            break;
        }
    }
    assert_eq!(workers.len(), 2, "both workers were tried");
}

#[test]
fn a_caller_is_told_that_a_proof_would_do() {
    let (_forger, gateway, _own) = forged();
    let reply = gateway.call("/group", &[]);
    let challenges: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "www-authenticate").collect();
    assert!(challenges.iter().any(|(_, value)| value == "Bearer realm=\"countersign\""), "{challenges:?}");
    let proof = challenges.iter().find(|(_, value)| value.starts_with("DPoP realm=\"countersign\", algs=\""));
    assert!(proof.is_some_and(|(_, value)| value.contains("ES256") && !value.contains("HS256")), "{challenges:?}");
}
