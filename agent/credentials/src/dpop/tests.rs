use serde_json::{Value, json};

use super::*;
use crate::encoding::to_base64url;
use crate::jwt;
use crate::testing::{NOW, Signer, with};

const TOKEN: &str = "an access token";
const TARGET: &str = "https://llm.example/v1/chat";

fn at(seconds: i64) -> i64 {
    1_800_000_000 + seconds
}

/// What a good proof claims, with some claims changed.
fn claims(changes: Value) -> Value {
    let ath = to_base64url(&countersign_certs::digest::sha256(TOKEN.as_bytes()));
    with(json!({"htm": "POST", "htu": TARGET, "iat": at(0), "jti": "1", "ath": ath}), changes)
}

fn proof(signer: &Signer, header: Value, changes: Value) -> String {
    let usual = json!({"typ": "dpop+jwt", "jwk": signer.jwk(), "kid": null});
    signer.token(with(usual, header), &claims(changes))
}

fn look(proofs: &[&str], nonce: Option<&str>) -> Result<VerifiedProof, ProofRefusal> {
    let target = HttpUrl::parse(TARGET).unwrap();
    let request = ProofRequest { method: "POST", target: &target, token: TOKEN, nonce };
    verify(proofs.iter().copied(), &request, &ProofSettings::default(), NOW)
}

#[track_caller]
fn check(header: Value, changes: Value, expected: Result<(), &str>) {
    let signer = Signer::new(Algorithm::Es256);
    let found = look(&[&proof(&signer, header.clone(), changes.clone())], None);
    assert_eq!(found.as_ref().map(drop).map_err(|refusal| refusal.reason()), expected, "{header} {changes} {found:?}");
}

#[test]
fn a_proof_of_every_asymmetric_algorithm_is_believed() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let found = look(&[&proof(&signer, json!({"kid": null}), json!({}))], None);
        if algorithm.is_symmetric() {
            assert_eq!(found, Err(ProofRefusal::Algorithm(algorithm)));
            continue;
        }
        let found = found.unwrap();
        let key = Jwk::read(signer.jwk().as_object().unwrap()).unwrap();
        assert_eq!(found.thumbprint(), key.material.thumbprint());
        assert_eq!((found.id(), found.issued(), found.not_after), ("1", NOW, NOW.plus(Duration::from_secs(60))));
    }
}

#[test]
fn an_hmac_is_refused_even_if_it_is_named() {
    let signer = Signer::new(Algorithm::Hs256);
    let target = HttpUrl::parse(TARGET).unwrap();
    let request = ProofRequest { method: "POST", target: &target, token: TOKEN, nonce: None };
    let settings = ProofSettings { algorithms: Algorithm::ALL.to_vec(), ..ProofSettings::default() };
    let proof = proof(&signer, json!({}), json!({}));
    let found = verify([proof.as_str()], &request, &settings, NOW);
    assert_eq!(found, Err(ProofRefusal::Algorithm(Algorithm::Hs256)));
}

#[test]
fn an_algorithm_that_is_not_named_is_refused() {
    let signer = Signer::new(Algorithm::Es384);
    let target = HttpUrl::parse(TARGET).unwrap();
    let request = ProofRequest { method: "POST", target: &target, token: TOKEN, nonce: None };
    let settings = ProofSettings { algorithms: vec![Algorithm::Es256], ..ProofSettings::default() };
    let proof = proof(&signer, json!({}), json!({}));
    let found = verify([proof.as_str()], &request, &settings, NOW);
    assert_eq!(found, Err(ProofRefusal::Algorithm(Algorithm::Es384)));
}

#[test]
fn a_request_has_exactly_one_proof() {
    let proof = proof(&Signer::new(Algorithm::Es256), json!({}), json!({}));
    assert!(look(&[&proof], None).is_ok());
    assert_eq!(look(&[], None), Err(ProofRefusal::Count { count: 0 }));
    assert_eq!(look(&[&proof, &proof], None), Err(ProofRefusal::Count { count: 2 }));
    assert_eq!(look(&[&format!("{proof},{proof}")], None).unwrap_err().reason(), "proof_malformed");
}

#[test]
fn a_proof_says_that_it_is_one_and_shows_a_public_key() {
    check(json!({}), json!({}), Ok(()));
    check(json!({"typ": "application/dpop+jwt"}), json!({}), Ok(()));
    check(json!({"typ": "JWT"}), json!({}), Err("proof_type"));
    check(json!({"typ": "at+jwt"}), json!({}), Err("proof_type"));
    check(json!({"typ": null}), json!({}), Err("proof_type"));
    check(json!({"jwk": null}), json!({}), Err("proof_key"));
    check(json!({"jwk": {}}), json!({}), Err("proof_key"));
    check(json!({"jwk": "x"}), json!({}), Err("proof_header"));
    check(json!({"jwk": Signer::new(Algorithm::Es256).jwk()}), json!({}), Err("proof_signature"));
    check(json!({"jwk": Signer::new(Algorithm::Es384).jwk()}), json!({}), Err("proof_algorithm"));
    check(json!({"jwk": {"kty": "oct", "k": to_base64url(&[7; 32])}}), json!({}), Err("proof_algorithm"));
    for header in
        [json!({"jku": "https://a"}), json!({"x5c": []}), json!({"crit": []}), json!({"alg": 1}), json!({"b64": true})]
    {
        check(header, json!({}), Err("proof_header"));
    }
    check(json!({"alg": "none"}), json!({}), Err("proof_algorithm"));
    check(json!({"alg": "HS256"}), json!({}), Err("proof_algorithm"));
    let signer = Signer::new(Algorithm::Es256);
    let private = with(signer.jwk(), json!({"d": "AAAA"}));
    assert_eq!(
        look(&[&proof(&signer, json!({"jwk": private}), json!({}))], None),
        Err(ProofRefusal::Key(JwkError::Private))
    );
    let wrong_use = with(signer.jwk(), json!({"alg": "ES384"}));
    assert_eq!(
        look(&[&proof(&signer, json!({"jwk": wrong_use}), json!({}))], None),
        Err(ProofRefusal::Key(JwkError::Algorithm))
    );
    let mut off = with(signer.jwk(), json!({}));
    off["y"] = json!(to_base64url(&[7; 32]));
    assert_eq!(
        look(&[&proof(&signer, json!({"jwk": off}), json!({}))], None),
        Err(ProofRefusal::Key(JwkError::Invalid))
    );
}

#[test]
fn a_proof_is_for_one_method_and_one_target() {
    for method in ["GET", "post", "POST ", "PO"] {
        check(json!({}), json!({"htm": method}), Err("proof_method"));
    }
    for target in [
        "HTTPS://LLM.example:443/v1/chat",
        "https://llm.example/v1/chat?a=b",
        "https://llm.example/v1/chat#a",
        "https://llm.example/v1/%63hat",
    ] {
        check(json!({}), json!({"htu": target}), Ok(()));
    }
    for target in [
        "https://llm.example/v1/chat/",
        "https://llm.example/v1/Chat",
        "https://llm.example/v1",
        "http://llm.example/v1/chat",
        "https://llm.example:8443/v1/chat",
        "https://evil.example/v1/chat",
        "https://llm.example.evil.example/v1/chat",
        "https://llm.example/v1%2Fchat",
    ] {
        check(json!({}), json!({"htu": target}), Err("proof_target"));
    }
    for target in [
        "/v1/chat",
        "llm.example/v1/chat",
        "https://llm.example/v1/../v1/chat",
        "https://llm.example@evil.example/v1/chat",
    ] {
        check(json!({}), json!({"htu": target}), Err("proof_target"));
    }
    for name in ["htm", "htu", "jti", "ath", "iat"] {
        for strange in [json!(null), json!(""), json!([1]), json!({})] {
            check(json!({}), json!({name: strange}), Err("proof_claim"));
        }
    }
    for name in ["htm", "htu", "jti", "ath"] {
        check(json!({}), json!({name: 1}), Err("proof_claim"));
    }
}

#[test]
fn a_proof_is_for_one_token() {
    let other = to_base64url(&countersign_certs::digest::sha256(b"another token"));
    check(json!({}), json!({"ath": other}), Err("proof_token"));
    check(json!({}), json!({"ath": "AAAA"}), Err("proof_claim"));
    check(json!({}), json!({"ath": TOKEN}), Err("proof_claim"));
}

#[test]
fn a_proof_is_young() {
    check(json!({}), json!({"iat": at(-60)}), Ok(()));
    check(json!({}), json!({"iat": at(-61)}), Err("proof_time"));
    check(json!({}), json!({"iat": at(10)}), Ok(()));
    check(json!({}), json!({"iat": at(11)}), Err("proof_time"));
    check(json!({}), json!({"iat": at(0).to_string()}), Err("proof_claim"));
    check(json!({}), json!({"iat": -1}), Err("proof_claim"));
}

#[test]
fn names_of_proofs_have_a_bound() {
    check(json!({}), json!({"jti": "a".repeat(256)}), Ok(()));
    check(json!({}), json!({"jti": "a".repeat(257)}), Err("proof_claim"));
    check(json!({}), json!({"jti": "a\u{0}"}), Err("proof_claim"));
    check(json!({}), json!({"filler": "a".repeat(PROOF_BYTES_MAX)}), Err("proof_malformed"));
    check(json!({}), json!({"filler": "a".repeat(PROOF_BYTES_MAX / 2)}), Ok(()));
}

#[test]
fn a_nonce_that_was_asked_for_is_there() {
    let look =
        |changes: Value, nonce| look(&[&proof(&Signer::new(Algorithm::Es256), json!({}), changes)], nonce).map(drop);
    assert_eq!(look(json!({"nonce": "x"}), Some("x")), Ok(()));
    assert_eq!(look(json!({"nonce": "x"}), None), Ok(()));
    assert_eq!(look(json!({"nonce": "y"}), Some("x")), Err(ProofRefusal::Nonce));
    assert_eq!(look(json!({}), Some("x")), Err(ProofRefusal::Nonce));
    assert_eq!(look(json!({"nonce": 1}), Some("x")).map_err(|refusal| refusal.reason()), Err("proof_claim"));
}

#[test]
fn a_token_bound_to_a_key_is_accepted_with_that_keys_proof_only() {
    let (holder, thief, issuer) =
        (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256), Signer::new(Algorithm::EdDsa));
    let thumbprint = Jwk::read(holder.jwk().as_object().unwrap()).unwrap().material.thumbprint();
    let settings = jwt::IssuerSettings::new("i", vec!["a".to_owned()], vec![Algorithm::EdDsa]);
    let keys = crate::jwk::KeySet::parse(issuer.jwk_set().to_string().as_bytes(), &settings.algorithms).unwrap();
    let settings = jwt::Issuer::new(settings).unwrap();
    let token = |cnf: Value| {
        let claims = with(json!({"iss": "i", "aud": "a", "sub": "s", "exp": at(60)}), json!({"cnf": cnf}));
        jwt::verify(&issuer.token(json!({}), &claims), &settings, &keys, NOW).unwrap()
    };
    let proof_of = |signer: &Signer| look(&[&proof(signer, json!({}), json!({}))], None).unwrap();
    let bound = token(json!({"jkt": thumbprint.to_string()}));
    assert_eq!(bound.confirmed(None, Some(&proof_of(&holder))), Ok(()));
    assert_eq!(bound.confirmed(None, Some(&proof_of(&thief))).unwrap_err().reason(), "token_other_key");
    assert_eq!(bound.confirmed(None, None).unwrap_err().reason(), "token_no_proof");
    let both = token(json!({"jkt": thumbprint.to_string(), "x5t#S256": to_base64url(&[1; 32])}));
    assert_eq!(both.confirmed(Some(&[1; 32]), Some(&proof_of(&holder))), Ok(()));
    assert_eq!(
        both.confirmed(Some(&[2; 32]), Some(&proof_of(&holder))).unwrap_err().reason(),
        "token_other_certificate"
    );
    assert_eq!(both.confirmed(Some(&[1; 32]), Some(&proof_of(&thief))).unwrap_err().reason(), "token_other_key");
    let to_certificate = token(json!({"x5t#S256": to_base64url(&[1; 32])}));
    assert_eq!(
        to_certificate.confirmed(Some(&[1; 32]), Some(&proof_of(&holder))).unwrap_err().reason(),
        "token_unbound"
    );
    assert_eq!(token(json!(null)).confirmed(None, Some(&proof_of(&holder))).unwrap_err().reason(), "token_unbound");
}
