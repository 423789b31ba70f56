use serde_json::json;

use super::material::RSA_BITS;
use super::set::{KEYS_MAX, SET_BYTES_MAX};
use super::*;
use crate::encoding::{from_base64url, to_base64url};
use crate::testing::{Signer, with};

fn read(jwk: &Value) -> Result<Jwk, JwkError> {
    Jwk::read(jwk.as_object().unwrap())
}

#[track_caller]
fn check(jwk: &Value, expected: Result<(), JwkError>) {
    assert_eq!(read(jwk).map(drop), expected, "{jwk}");
}

fn member(name: &'static str) -> Result<(), JwkError> {
    Err(JwkError::Member { name })
}

/// An RSA key of which only the first and last bits of the modulus are set.
fn rsa(bits: usize) -> Value {
    let mut modulus = vec![0; bits.div_ceil(8)];
    modulus[0] = 1 << ((bits + 7) % 8);
    *modulus.last_mut().unwrap() |= 1;
    json!({"kty": "RSA", "n": to_base64url(&modulus), "e": "AQAB"})
}

#[test]
fn thumbprints_are_those_of_the_standards() {
    // RFC 7638 §3.1.
    let rsa = json!({"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
    assert_eq!(read(&rsa).unwrap().material.thumbprint().to_string(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    // RFC 8037 Appendix A.3.
    let ed25519 = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let thumbprint = read(&ed25519).unwrap().material.thumbprint();
    assert_eq!(thumbprint.to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(format!("{thumbprint:?}"), "Thumbprint(kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k)");
    // RFC 9449 §4.1 has the key and §6.1 its thumbprint.
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"});
    assert_eq!(read(&ec).unwrap().material.thumbprint().to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    // Computed by another program from {"k":"AAAA","kty":"oct"}.
    let secret = read(&json!({"kty": "oct", "k": "AAAA"})).unwrap();
    let expected = countersign_certs::digest::sha256(br#"{"k":"AAAA","kty":"oct"}"#);
    assert_eq!(secret.material.thumbprint().0, expected);
}

#[test]
fn keys_of_every_kind_are_read() {
    for algorithm in Algorithm::ALL {
        let jwk = read(&with(
            Signer::new(algorithm).jwk(),
            json!({"kid": "1", "alg": algorithm, "use": "sig", "key_ops": ["verify"]}),
        ));
        let jwk = jwk.unwrap();
        assert_eq!((jwk.id.as_deref(), jwk.algorithm), (Some("1"), Some(algorithm)));
        let fitting: Vec<_> = Algorithm::ALL.into_iter().filter(|other| jwk.fits(*other)).collect();
        assert_eq!(fitting, [algorithm]);
    }
}

#[test]
fn keys_for_something_else_are_not_used() {
    let ec = Signer::new(Algorithm::Es256).jwk();
    check(&with(ec.clone(), json!({"use": "enc"})), Err(JwkError::Use));
    check(&with(ec.clone(), json!({"use": 1})), member("use"));
    check(&with(ec.clone(), json!({"key_ops": ["sign"]})), Err(JwkError::Use));
    check(&with(ec.clone(), json!({"key_ops": []})), Err(JwkError::Use));
    check(&with(ec.clone(), json!({"key_ops": "verify"})), member("key_ops"));
    check(&with(ec.clone(), json!({"alg": "ES384"})), Err(JwkError::Algorithm));
    check(&with(ec.clone(), json!({"alg": "RS256"})), Err(JwkError::Algorithm));
    check(&with(ec.clone(), json!({"alg": "none"})), Err(JwkError::Algorithm));
    check(&with(ec.clone(), json!({"kid": ""})), member("kid"));
    check(&with(ec.clone(), json!({"kid": 1})), member("kid"));
    check(&with(ec.clone(), json!({"kid": "a".repeat(256)})), Ok(()));
    check(&with(ec.clone(), json!({"kid": "a".repeat(257)})), member("kid"));
    check(&with(ec, json!({"kty": "PQC"})), Err(JwkError::KeyType));
    check(&json!({}), member("kty"));
}

#[test]
fn private_keys_are_not_used() {
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            check(&with(Signer::new(algorithm).jwk(), json!({name: "AA"})), Err(JwkError::Private));
        }
    }
}

#[test]
fn rsa_keys_have_a_length() {
    for (bits, accepted) in
        [(1024, false), (2047, false), (2048, true), (2049, true), (8192, true), (8193, false), (16384, false)]
    {
        check(&rsa(bits), if accepted { Ok(()) } else { Err(JwkError::RsaBits { bits }) });
        assert_eq!(RSA_BITS.contains(&bits), accepted);
    }
}

#[test]
fn numbers_have_one_text() {
    let rsa = rsa(2048);
    let modulus = from_base64url(rsa["n"].as_str().unwrap()).unwrap();
    check(&with(rsa.clone(), json!({"n": to_base64url(&[&[0], modulus.as_slice()].concat())})), member("n"));
    check(&with(rsa.clone(), json!({"n": ""})), member("n"));
    check(&with(rsa.clone(), json!({"n": format!("{}=", rsa["n"].as_str().unwrap())})), member("n"));
    let mut even = modulus;
    *even.last_mut().unwrap() = 2;
    check(&with(rsa.clone(), json!({"n": to_base64url(&even)})), member("n"));
    check(&with(rsa.clone(), json!({"n": 1})), member("n"));
    for exponent in [&[1][..], &[0], &[], &[2], &[0, 1, 0, 1], &[1, 0, 1, 0], &[1, 0, 0, 0, 1]] {
        check(&with(rsa.clone(), json!({"e": to_base64url(exponent)})), member("e"));
    }
    for exponent in [&[3][..], &[17], &[1, 0, 1], &[1, 0, 0, 1]] {
        check(&with(rsa.clone(), json!({"e": to_base64url(exponent)})), Ok(()));
    }
}

#[test]
fn points_have_their_curves_length_and_lie_on_it() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512] {
        let ec = Signer::new(algorithm).jwk();
        let bytes = |name: &str| from_base64url(ec[name].as_str().unwrap()).unwrap();
        for name in ["x", "y"] {
            let long = to_base64url(&[&[0], bytes(name).as_slice()].concat());
            check(
                &with(ec.clone(), json!({name: long})),
                Err(JwkError::Member { name: if name == "x" { "x" } else { "y" } }),
            );
            check(
                &with(ec.clone(), json!({name: null})),
                Err(JwkError::Member { name: if name == "x" { "x" } else { "y" } }),
            );
        }
        let mut off = bytes("y");
        off[20] ^= 1;
        let off = with(ec.clone(), json!({"y": to_base64url(&off)}));
        let made = Verifier::new(&read(&off).unwrap().material, algorithm);
        assert_eq!(made.map(drop), Err(JwkError::Invalid), "a point beside its curve");
    }
    let ec = Signer::new(Algorithm::Es256).jwk();
    check(&with(ec.clone(), json!({"crv": "P-384"})), member("x"));
    check(&with(ec.clone(), json!({"crv": "secp256k1"})), Err(JwkError::Curve));
    check(&with(ec, json!({"crv": null})), member("crv"));
    let ed25519 = Signer::new(Algorithm::EdDsa).jwk();
    check(&with(ed25519.clone(), json!({"crv": "X25519"})), Err(JwkError::Curve));
    check(&with(ed25519.clone(), json!({"crv": "Ed448"})), Err(JwkError::Curve));
    check(&with(ed25519, json!({"x": "AAAA"})), member("x"));
}

#[test]
fn secrets_are_as_long_as_the_hash() {
    for (algorithm, bytes) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
        let fits =
            |length: usize| read(&json!({"kty": "oct", "k": to_base64url(&vec![7; length])})).unwrap().fits(algorithm);
        assert_eq!((fits(bytes - 1), fits(bytes), fits(bytes + 1)), (false, true, true), "{algorithm}");
    }
}

fn set(keys: Value, algorithms: &[Algorithm]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), algorithms)
}

fn ignored(keys: Value, algorithms: &[Algorithm]) -> Vec<(usize, JwkError)> {
    let set = set(keys, algorithms).unwrap();
    set.ignored().iter().map(|ignored| (ignored.position, ignored.reason)).collect()
}

#[test]
fn a_set_may_hold_keys_that_are_not_used_and_says_why() {
    let ec = Signer::new(Algorithm::Es256).jwk();
    let keys = json!([with(ec.clone(), json!({"use": "enc"})), {"kty": "new"}, rsa(1024), rsa(2048), ec,
        {"kty": "oct", "k": to_base64url(&[7; 32])}]);
    let unwanted = vec![
        (0, JwkError::Use),
        (1, JwkError::KeyType),
        (2, JwkError::RsaBits { bits: 1024 }),
        (3, JwkError::Unwanted),
        (5, JwkError::Secret),
    ];
    assert_eq!(ignored(keys.clone(), &[Algorithm::Es256]), unwanted);
    let thumbprint = |jwk: &Value| read(jwk).unwrap().material.thumbprint();
    let (used, another) = (thumbprint(&keys[4]), thumbprint(&keys[3]));
    let set = set(keys, &[Algorithm::Es256]).unwrap();
    assert_eq!((set.len(), set.is_empty()), (1, false));
    assert_eq!((set.has(&used), set.has(&another)), (true, false));
    assert_eq!(format!("{set:?}"), "KeySet(1 keys, 5 ignored)");
}

#[test]
fn a_secret_counts_only_where_an_hmac_is_accepted() {
    let secret = json!([{"kty": "oct", "k": to_base64url(&[7; 32])}]);
    assert_eq!(set(secret.clone(), &[Algorithm::Hs256]).unwrap().len(), 1);
    assert!(set(secret.clone(), &[Algorithm::Rs256, Algorithm::Es256]).unwrap().is_empty());
    assert!(set(secret, &[Algorithm::Hs512]).unwrap().is_empty());
}

#[test]
fn two_keys_of_one_name_are_refused() {
    let named = |id: &str| with(Signer::new(Algorithm::Es256).jwk(), json!({"kid": id}));
    let (one, other) = (named("1"), named("1"));
    let refused = set(json!([one, other]), &[Algorithm::Es256]).unwrap_err();
    assert_eq!(refused, KeySetError::SameId("1".to_owned()));
    assert_eq!(set(json!([one, one]), &[Algorithm::Es256]).unwrap().len(), 1, "the same twice");
    assert_eq!(set(json!([one, named("2")]), &[Algorithm::Es256]).unwrap().len(), 2);
    let nameless = || Signer::new(Algorithm::Es256).jwk();
    assert_eq!(set(json!([nameless(), nameless()]), &[Algorithm::Es256]).unwrap().len(), 2);
    assert_eq!(set(json!([one, with(one.clone(), json!({"kid": "2"}))]), &[Algorithm::Es256]).unwrap().len(), 2);
    let unused = with(other, json!({"use": "enc"}));
    assert_eq!(set(json!([one, unused]), &[Algorithm::Es256]).unwrap().len(), 1, "one that is not used is none");
}

#[test]
fn sets_have_bounds() {
    let parse = |text: &str| KeySet::parse(text.as_bytes(), &[Algorithm::Es256]).map(drop);
    let unknown = |count: usize| json!(vec![json!({"kty": "new"}); count]);
    assert!(set(unknown(KEYS_MAX), &[]).is_ok());
    assert_eq!(set(unknown(KEYS_MAX + 1), &[]).unwrap_err(), KeySetError::TooMany { count: 65 });
    let whole = format!("{{\"keys\":[]}}{}", " ".repeat(SET_BYTES_MAX - 11));
    assert_eq!((parse(&whole), whole.len()), (Ok(()), 65_536));
    assert_eq!(parse(&format!("{whole} ")), Err(KeySetError::Bytes { bytes: SET_BYTES_MAX + 1 }));
    for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":null}"#] {
        assert_eq!(parse(text), Err(KeySetError::NoKeys), "{text}");
    }
    assert!(matches!(parse("[]"), Err(KeySetError::Json(_))));
    assert!(matches!(parse(r#"{"keys":[],"keys":[]}"#), Err(KeySetError::Json(_))));
    assert!(matches!(parse(r#"{"keys":[{"kid":"1","kid":"2"}]}"#), Err(KeySetError::Json(_))));
}
