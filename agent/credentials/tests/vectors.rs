//! Tokens and proofs of other programs, and those that attackers make, each with what must come of it.
//!
//! `vectors/make.py` makes them anew each time. Without Python's libraries these tests fail; they are never left out.

#![allow(clippy::unwrap_used, reason = "what does not hold here is a failed test")]

use std::path::Path;
use std::process::Command;

use countersign_certs::time::Timestamp;
use countersign_credentials::algorithm::Algorithm;
use countersign_credentials::dpop::{self, ProofRequest, ProofSettings, ReplayCache, VerifiedProof};
use countersign_credentials::jwk::KeySet;
use countersign_credentials::jwt::{self, Issuer, IssuerSettings, TokenTypes};
use countersign_credentials::url::HttpUrl;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    now: u64,
    issuer: String,
    audience: String,
    tokens: Vec<TokenCase>,
    proofs: Vec<ProofCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenCase {
    name: String,
    token: String,
    expected: String,
    algorithms: Vec<Algorithm>,
    keys: serde_json::Value,
    types: String,
    certificate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofCase {
    name: String,
    proofs: Vec<String>,
    expected: String,
    token: String,
    method: String,
    target: String,
    nonce: Option<String>,
    #[serde(default)]
    shown_before: bool,
    thumbprint: Option<String>,
}

/// Makes all cases.
fn vectors() -> Vectors {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let install = crate_folder.join("../../tests/parts/install");
    let python = Path::new(output(&mut Command::new(install)).trim()).join("bin/python");
    let made = output(Command::new(python).arg(crate_folder.join("tests/vectors/make.py")));
    serde_json::from_str(&made).unwrap()
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// "ok" or the word of the refusal, and what it says.
fn token_outcome(case: &TokenCase, vectors: &Vectors) -> (String, String) {
    let mut settings =
        IssuerSettings::new(vectors.issuer.clone(), vec![vectors.audience.clone()], case.algorithms.clone());
    settings.types = match case.types.as_str() {
        "access_token" => TokenTypes::AccessToken,
        "any_jwt" => TokenTypes::AnyJwt,
        other => panic!("{other}"),
    };
    let keys = KeySet::parse(case.keys.to_string().as_bytes(), &case.algorithms).unwrap();
    let now = Timestamp::from_unix_seconds(vectors.now);
    let verified = match jwt::verify(&case.token, &Issuer::new(settings).unwrap(), &keys, now) {
        Ok(verified) => verified,
        Err(refusal) => return (refusal.reason().to_owned(), refusal.to_string()),
    };
    assert_eq!(
        (verified.issuer.as_str(), verified.subject.as_str()),
        (vectors.issuer.as_str(), "ada"),
        "{}",
        case.name
    );
    let certificate = case.certificate.as_ref().map(|digits| digits.parse::<countersign_certs::digest::Fingerprint>());
    let certificate = certificate.transpose().unwrap().map(|fingerprint| fingerprint.0);
    match verified.confirmed(certificate.as_ref(), None) {
        Ok(()) => ("ok".to_owned(), String::new()),
        Err(refusal) => (refusal.reason().to_owned(), refusal.to_string()),
    }
}

fn proof_outcome(case: &ProofCase, now: Timestamp, cache: &mut ReplayCache) -> (String, String) {
    let target = HttpUrl::parse(&case.target).unwrap();
    let (token, nonce) = (case.token.as_str(), case.nonce.as_deref());
    let request = ProofRequest { method: &case.method, target: &target, token, nonce };
    let proofs = case.proofs.iter().map(String::as_str);
    let verified: VerifiedProof = match dpop::verify(proofs, &request, &ProofSettings::default(), now) {
        Ok(verified) => verified,
        Err(refusal) => return (refusal.reason().to_owned(), refusal.to_string()),
    };
    if let Some(thumbprint) = &case.thumbprint {
        assert_eq!(verified.thumbprint().to_string(), *thumbprint, "{}", case.name);
    }
    match cache.spend(&verified, now) {
        Ok(()) => ("ok".to_owned(), String::new()),
        Err(refusal) => (refusal.reason().to_owned(), refusal.to_string()),
    }
}

/// All at once, so that one run tells everything that went wrong.
#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_token_is_judged_as_it_should_be() {
    let vectors = vectors();
    let mut wrong = Vec::new();
    for case in &vectors.tokens {
        let (outcome, says) = token_outcome(case, &vectors);
        if outcome != case.expected {
            wrong.push(format!("{}: {outcome} in place of {}; {says}", case.name, case.expected));
        }
        for part in case.token.split('.').filter(|part| part.len() > 20) {
            assert!(!says.contains(part), "{}: the token is in {says}", case.name);
        }
    }
    assert_none(&wrong);
    let refused = vectors.tokens.iter().filter(|case| case.expected != "ok").count();
    let accepted = vectors.tokens.len() - refused;
    assert!(accepted >= 26 && refused >= 200, "{accepted} good tokens and {refused} bad ones");
}

#[test]
fn every_proof_is_judged_as_it_should_be() {
    let vectors = vectors();
    let now = Timestamp::from_unix_seconds(vectors.now);
    let mut wrong = Vec::new();
    for case in &vectors.proofs {
        let mut cache = ReplayCache::new(2);
        if case.shown_before {
            assert_eq!(proof_outcome(case, now, &mut cache).0, "ok", "{}", case.name);
        }
        let (outcome, says) = proof_outcome(case, now, &mut cache);
        if outcome != case.expected {
            wrong.push(format!("{}: {outcome} in place of {}; {says}", case.name, case.expected));
        }
    }
    assert_none(&wrong);
    assert!(vectors.proofs.len() >= 50, "{} proofs", vectors.proofs.len());
}
