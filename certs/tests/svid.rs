//! Identities of our own: what is read from files and answers, and what is refused with which words.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};

use common::{Authority, HOUR, Issued, NOW, Recipe, at, dns, san};
use countersign_certs::certificate::CertificateError;
use countersign_certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use countersign_certs::pem;
use countersign_certs::svid::{SvidError, X509Svid};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

const ID: &str = "spiffe://prod.example/llm";

fn issued(algorithm: &'static SignatureAlgorithm) -> Issued {
    Authority::root("root").intermediate("low").issue(&Recipe::leaf(ID).with(|leaf| leaf.algorithm = algorithm))
}

fn new(chain: &[CertificateDer<'static>], key: &PrivateKey, name: &str) -> Result<X509Svid, SvidError> {
    X509Svid::new(chain.to_vec(), key, &san(name))
}

fn read(issued: &Issued, key: &str) -> Result<X509Svid, SvidError> {
    X509Svid::from_pem(pem::encode_certificates(&issued.chain).as_bytes(), key.as_bytes(), &san(ID))
}

/// What `openssl` makes of a PEM key; none where it is not installed.
fn openssl(arguments: &str, key: &str) -> Option<String> {
    let mut child = Command::new("openssl")
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_chain_and_its_key_are_an_identity_for_each_of_its_names() {
    let recipe = Recipe::leaf(ID).with(|leaf| leaf.names.push(dns("llm.prod.example")));
    let issued = Authority::root("root").issue(&recipe);
    for name in [ID, "SPIFFE://prod.example/llm", "dns:LLM.prod.example"] {
        let svid = new(&issued.chain, &issued.private_key(), name).unwrap();
        assert_eq!(svid.chain(), issued.chain);
        assert_eq!(svid.leaf().principal(), Some(&san(ID)));
    }
}

#[test]
fn keys_in_every_usual_encoding_are_read() {
    let check = |algorithm, encoding: &str| {
        let issued = issued(algorithm);
        let Some(key) = openssl(encoding, &issued.key.serialize_pem()) else { return println!("no openssl here") };
        assert!(read(&issued, &key).is_ok(), "{encoding}:\n{}", key.lines().next().unwrap());
        assert!(read(&issued, &format!("some words\n{key}")).is_ok());
    };
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let issued = issued(algorithm);
        assert!(read(&issued, &issued.key.serialize_pem()).is_ok());
    }
    check(&PKCS_ECDSA_P256_SHA256, "pkcs8 -topk8 -nocrypt");
    check(&PKCS_RSA_SHA256, "pkcs8 -topk8 -nocrypt");
    check(&PKCS_ECDSA_P256_SHA256, "ec"); // SEC 1
    check(&PKCS_ECDSA_P384_SHA384, "ec");
    check(&PKCS_RSA_SHA256, "rsa -traditional"); // PKCS#1
}

#[test]
fn keys_that_cannot_be_used_are_refused_with_what_is_expected() {
    let issued = issued(&PKCS_ECDSA_P256_SHA256);
    let key = issued.key.serialize_pem();
    let check = |text: &str| {
        let Err(refusal) = read(&issued, text) else { panic!("taken: {text}") };
        assert!(matches!(refusal, SvidError::Key(KeyError::Unreadable)), "{refusal}");
        assert!(refusal.to_string().contains("unencrypted PKCS#8, SEC 1 or PKCS#1"), "{refusal}");
        assert!(!text.lines().nth(1).is_some_and(|line| refusal.to_string().contains(line)));
    };
    check("");
    check("no key");
    check(&pem::encode_certificates(&issued.chain));
    check(key.get(..key.len() / 2).unwrap());
    check(&pem::encode("PRIVATE KEY", b"\x30\x03\x02\x01\x00"));
    for encrypted in ["pkcs8 -topk8 -passout pass:secret", "ec -aes256 -passout pass:secret"] {
        let Some(encrypted) = openssl(encrypted, &key) else { return println!("no openssl here") };
        check(&encrypted);
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (ours, other) = (issued(&PKCS_ECDSA_P256_SHA256), issued(&PKCS_ED25519));
    let mismatch = |outcome| matches!(outcome, Err(SvidError::Key(KeyError::Mismatch)));
    assert!(mismatch(new(&ours.chain, &PrivateKey::generate(KeyAlgorithm::P256).unwrap(), ID)));
    assert!(mismatch(new(&ours.chain, &other.private_key(), ID)));
    assert!(mismatch(read(&ours, &other.key.serialize_pem())));
}

#[test]
fn a_certificate_for_somebody_else_is_refused_with_both_names() {
    let issued = issued(&PKCS_ECDSA_P256_SHA256);
    for name in ["spiffe://prod.example/LLM", "spiffe://prod.example/llm/a", "dns:prod.example"] {
        let Err(refusal) = new(&issued.chain, &issued.private_key(), name) else { panic!("taken: {name}") };
        assert_eq!(refusal.to_string(), format!("the certificate does not name {name}, it names {ID}"));
    }
}

#[test]
fn the_chain_is_checked_to_its_end() {
    let issued = issued(&PKCS_ECDSA_P256_SHA256);
    let key = issued.private_key();
    let check = |chain: &[&CertificateDer<'static>], position: usize, broken: CertificateError| {
        let chain: Vec<_> = chain.iter().copied().cloned().collect();
        let Err(refusal) = new(&chain, &key, ID) else { panic!("taken") };
        assert!(matches!(refusal, SvidError::Certificate { position: found, .. } if found == position), "{refusal}");
        assert_eq!(refusal.source().unwrap().to_string(), broken.to_string());
    };
    let [leaf, low] = issued.chain.as_slice() else { panic!("two certificates") };
    check(&[low, leaf], 0, CertificateError::CertificateAuthority);
    check(&[leaf, leaf], 1, CertificateError::Malformed("not a CA certificate"));
    check(&[leaf, low, &CertificateDer::from(vec![0])], 2, CertificateError::Malformed("not a DER certificate"));
    let too_long = vec![leaf.clone(); 6];
    assert!(matches!(new(&too_long, &key, ID), Err(SvidError::ChainLength { count: 6 })));
    assert!(matches!(new(&[], &key, ID), Err(SvidError::Pem(_))));
}

#[test]
fn an_identity_can_be_used_as_long_as_every_certificate_of_it() {
    let short = Recipe::authority("low").with(|low| (low.not_before, low.not_after) = (NOW - 60, NOW + 60));
    let issued = Authority::root("root").intermediate_of(&short).leaf(ID);
    let svid = issued.svid(ID);
    assert_eq!(svid.leaf().validity().not_after, at(NOW + HOUR));
    assert_eq!((svid.usable().not_before, svid.usable().not_after), (at(NOW - 60), at(NOW + 60)));
}

#[test]
fn a_made_key_is_read_back_and_is_the_same_key() {
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::P384] {
        let key = PrivateKey::generate(algorithm).unwrap();
        let again = PrivateKey::from_pkcs8(Zeroizing::new(key.pkcs8().to_vec())).unwrap();
        assert_eq!(*key.to_pem(), *again.to_pem());
        assert!(PrivateKey::from_pem(key.to_pem().as_bytes()).is_ok());
        assert!(key.key_pair().is_ok());
        if let Some(read_by_others) = openssl("pkey", &key.to_pem()) {
            assert_eq!(read_by_others, *key.to_pem());
        }
    }
    assert!(PrivateKey::from_pkcs8(Zeroizing::new(b"no key".to_vec())).is_err());
}
