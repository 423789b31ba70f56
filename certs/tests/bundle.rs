//! Trust bundles as SPIFFE writes them, in and out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Authority, DIGITAL_SIGNATURE, Recipe, domain};
use countersign_certs::bundle::{AUTHORITIES_MAX, BundleError, TrustBundle};
use countersign_certs::pem;
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

fn root(algorithm: &'static SignatureAlgorithm) -> CertificateDer<'static> {
    Authority::root_of(&Recipe::authority("root").with(|root| root.algorithm = algorithm)).certificate
}

fn bundle(authorities: Vec<CertificateDer<'static>>, sequence: u64) -> TrustBundle {
    TrustBundle::new(domain("prod.example"), authorities, sequence).unwrap()
}

fn read(document: &Value) -> Result<TrustBundle, BundleError> {
    TrustBundle::from_json(domain("prod.example"), &document.to_string())
}

fn written(bundle: &TrustBundle) -> Value {
    serde_json::from_str(&bundle.to_json(HOUR).unwrap()).unwrap()
}

#[test]
fn authorities_of_every_kind_of_key_survive_the_way_there_and_back() {
    let kinds: [(_, &str, Option<&str>); 5] = [
        (&PKCS_ECDSA_P256_SHA256, "EC", Some("P-256")),
        (&PKCS_ECDSA_P384_SHA384, "EC", Some("P-384")),
        (&PKCS_ECDSA_P521_SHA512, "EC", Some("P-521")),
        (&PKCS_ED25519, "OKP", Some("Ed25519")),
        (&PKCS_RSA_SHA256, "RSA", None),
    ];
    let before = bundle(kinds.iter().map(|(algorithm, ..)| root(algorithm)).collect(), u64::MAX);
    let document = written(&before);
    for (key, (_, kind, curve)) in document["keys"].as_array().unwrap().iter().zip(kinds) {
        assert_eq!((key["kty"].as_str(), key["crv"].as_str()), (Some(kind), curve));
        // X509-SVID.md §6.
        assert_eq!(key["use"], "x509-svid");
        assert!(key.get("kid").is_none());
        assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
    }
    assert_eq!(document["spiffe_refresh_hint"], 3600);
    assert_eq!(read(&document).unwrap(), before);
}

#[test]
fn what_concerns_other_uses_is_passed_over() {
    let (first, second) = (root(&PKCS_ECDSA_P256_SHA256), root(&PKCS_ECDSA_P256_SHA256));
    let x5c = |certificate: &CertificateDer<'_>| STANDARD.encode(certificate);
    let document = json!({
        "spiffe_sequence": 7,
        "of_a_later_version": {},
        "keys": [
            { "kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA" },
            { "kty": "EC", "use": "jwt-svid", "kid": "b", "x5c": [x5c(&second)] },
            { "kty": "EC", "use": "x509-svid" },
            { "kty": "EC", "use": "x509-svid", "x5c": [] },
            { "kty": "EC", "x5c": [x5c(&second)] },
            { "kty": "AKP", "use": "of-a-later-version", "x5c": 1, "x": [] },
            { "use": "x509-svid", "x5c": [x5c(&second)] },
            { "kty": "EC", "use": "x509-svid", "x5c": [x5c(&first), x5c(&second), "no certificate"] },
        ],
    });
    assert_eq!(read(&document).unwrap(), bundle(vec![first], 7));
    let nobody = read(&json!({ "keys": [] })).unwrap();
    assert_eq!((nobody.authorities(), nobody.sequence()), (&[][..], 0));
}

#[test]
fn documents_that_are_no_bundle_are_refused() {
    let good = STANDARD.encode(root(&PKCS_ECDSA_P256_SHA256));
    let with = |x5c: &str| json!({ "keys": [{ "kty": "EC", "use": "x509-svid", "x5c": [x5c] }] });
    assert!(read(&with(&good)).is_ok());
    assert!(matches!(read(&with("%")), Err(BundleError::Encoding { position: 0 })));
    assert!(matches!(read(&with(good.get(4..).unwrap())), Err(BundleError::Authority { position: 0, .. })));
    assert!(matches!(read(&json!({})), Err(BundleError::Json(_))));
    assert!(matches!(read(&json!([])), Err(BundleError::Json(_))));
    let twice = r#"{ "keys": [], "keys": [] }"#;
    assert!(matches!(TrustBundle::from_json(domain("prod.example"), twice), Err(BundleError::Json(_))));
}

#[test]
fn what_is_no_authority_is_refused_wherever_it_comes_from() {
    let check = |change: &dyn Fn(&mut Recipe)| {
        let good = root(&PKCS_ECDSA_P256_SHA256);
        let bad = Authority::root_of(&Recipe::authority("root").with(change)).certificate;
        let refused = |outcome| matches!(outcome, Err(BundleError::Authority { position: 1, .. }));
        let text = pem::encode_certificates(&[good.clone(), bad.clone()]);
        assert!(refused(TrustBundle::from_pem(domain("prod.example"), text.as_bytes())));
        let keys = [&good, &bad].map(|der| json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)] }));
        assert!(refused(read(&json!({ "keys": keys }))));
        assert!(refused(TrustBundle::new(domain("prod.example"), vec![good, bad], 0)));
    };
    check(&|root| root.authority = Some(false));
    check(&|root| root.authority = None);
    check(&|root| root.key_usage = Some(DIGITAL_SIGNATURE));
    let leaf = Authority::root("root").leaf("spiffe://prod.example/llm").chain;
    assert!(matches!(
        TrustBundle::new(domain("prod.example"), leaf, 0),
        Err(BundleError::Authority { position: 0, .. })
    ));
}

#[test]
fn the_number_of_authorities_is_bounded() {
    let root = root(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(bundle(vec![root.clone(); AUTHORITIES_MAX], 0).authorities().len(), AUTHORITIES_MAX);
    let outcome = TrustBundle::new(domain("prod.example"), vec![root; AUTHORITIES_MAX + 1], 0);
    assert!(matches!(outcome, Err(BundleError::TooMany { count }) if count == AUTHORITIES_MAX + 1));
}

#[test]
fn pem_holds_what_was_written_among_whatever_else() {
    let authorities = vec![root(&PKCS_ECDSA_P256_SHA256), root(&PKCS_ED25519)];
    let text = pem::encode_certificates(&authorities);
    let read = |text: &str| TrustBundle::from_pem(domain("prod.example"), text.as_bytes());
    assert_eq!(read(&text).unwrap().authorities(), authorities);
    let among = format!("# our roots\r\n{}{}", pem::encode("X509 CRL", b"crl"), text.replace('\n', "\r\n"));
    assert_eq!(read(&among).unwrap().authorities(), authorities);
    for damaged in ["", "nothing", text.get(..text.len() - 30).unwrap(), &text.replacen("MII", "M%I", 1)] {
        assert!(matches!(read(damaged), Err(BundleError::Pem(_))), "{damaged}");
    }
}

/// Key bytes as `openssl x509 -text` prints them after a heading; none where it is not installed.
fn printed(certificate: &CertificateDer<'_>, heading: &str) -> Option<Vec<u8>> {
    let mut child = Command::new("openssl")
        .args(["x509", "-inform", "DER", "-noout", "-text"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(certificate).unwrap();
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (_, after) = text.split_once(heading).unwrap();
    let is_hex = |line: &&str| line.split(':').all(|pair| pair.len() <= 2);
    let hex: String = after.lines().skip(1).map(str::trim).take_while(is_hex).collect();
    Some(hex.split(':').map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect())
}

#[test]
fn keys_are_written_as_openssl_prints_them() {
    let member = |certificate: &CertificateDer<'static>, member: &str| {
        let document = written(&bundle(vec![certificate.clone()], 0));
        URL_SAFE_NO_PAD.decode(document["keys"][0][member].as_str().unwrap()).unwrap()
    };
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512] {
        let certificate = root(algorithm);
        let Some(point) = printed(&certificate, "pub:") else { return println!("openssl is not installed") };
        assert_eq!([vec![4], member(&certificate, "x"), member(&certificate, "y")].concat(), point);
    }
    let certificate = root(&PKCS_ED25519);
    assert_eq!(Some(member(&certificate, "x")), printed(&certificate, "pub:"));
    let certificate = root(&PKCS_RSA_SHA256);
    assert_eq!(Some([vec![0], member(&certificate, "n")].concat()), printed(&certificate, "Modulus:"));
    assert_eq!(member(&certificate, "e"), [1, 0, 1]);
}
