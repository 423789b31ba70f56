//! Which certificates may authenticate somebody at all, whoever signed them (X509-SVID.md §2, §3.1, §4, §5.2).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use common::{
    ANY_USAGE, Authority, BASIC_CONSTRAINTS, CLIENT_AUTH, CRL_SIGN, DIGITAL_SIGNATURE, EXTENDED_KEY_USAGE,
    KEY_CERT_SIGN, KEY_USAGE, Name, Recipe, SERVER_AUTH, SUBJECT_ALT_NAME, der, dns, email, ip, uri,
};
use countersign_certs::certificate::{
    CERTIFICATE_BYTES_MAX, CertificateError, ExtendedUsage, PeerCertificate, SANS_MAX, check_authority,
};
use countersign_certs::san::{San, SanError};
use countersign_certs::spiffe_id::SpiffeIdError;
use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256};
use rustls::pki_types::CertificateDer;

const ID: &str = "spiffe://prod.example/llm";

fn parse(recipe: &Recipe) -> Result<PeerCertificate, CertificateError> {
    PeerCertificate::parse(Authority::root("root").issue(recipe).leaf())
}

fn check(change: impl FnOnce(&mut Recipe), expected: Result<(), CertificateError>) {
    assert_eq!(parse(&Recipe::leaf(ID).with(change)).map(drop), expected);
}

/// Names as they are read, joined by commas.
fn check_names(names: Vec<Name>, expected: &str) {
    let read = parse(&Recipe::leaf(ID).with(|leaf| leaf.names = names)).unwrap();
    assert_eq!(read.sans().iter().map(San::to_string).collect::<Vec<_>>().join(","), expected);
}

fn check_refused(names: Vec<Name>) {
    let shown: Vec<_> = names.iter().map(|Name(tag, bytes)| format!("{tag:x} {bytes:?}")).collect();
    let outcome = parse(&Recipe::leaf(ID).with(|leaf| leaf.names = names));
    assert!(outcome.is_err(), "{shown:?} were read as {outcome:?}");
}

fn spiffe(uri: &str, source: SpiffeIdError) -> Result<(), CertificateError> {
    Err(CertificateError::SpiffeId { uri: uri.to_owned(), source })
}

#[test]
fn good_leaves_of_every_kind_of_key_are_read() {
    check(|_| {}, Ok(()));
    check(|leaf| leaf.authority = None, Ok(()));
    check(|leaf| leaf.subject = Some("llm".to_owned()), Ok(()));
    check(|leaf| leaf.algorithm = &PKCS_ECDSA_P384_SHA384, Ok(()));
    check(|leaf| leaf.algorithm = &PKCS_ECDSA_P521_SHA512, Ok(()));
    check(|leaf| leaf.algorithm = &PKCS_ED25519, Ok(()));
    check(|leaf| leaf.algorithm = &PKCS_RSA_SHA256, Ok(()));
    check(|leaf| leaf.foreign_key = Some(der::rsa_public_key(8192)), Ok(()));
}

#[test]
fn exactly_one_uri_is_a_spiffe_id() {
    check(|leaf| leaf.names.push(uri("spiffe://prod.example/b")), Err(CertificateError::UriCount { count: 2 }));
    check(|leaf| leaf.names.push(uri("https://prod.example/")), Err(CertificateError::UriCount { count: 2 }));
    check(|leaf| leaf.names = vec![uri(ID); 3], Err(CertificateError::UriCount { count: 3 }));
    check(|leaf| leaf.names.clear(), Err(CertificateError::NoName));
    for (text, broken) in [
        ("https://prod.example/llm", SpiffeIdError::WrongScheme),
        ("", SpiffeIdError::WrongScheme),
        ("spiffe://prod.example", SpiffeIdError::MissingPath),
        ("spiffe://prod.example/", SpiffeIdError::TrailingSlash),
        ("spiffe://prod.example/llm/", SpiffeIdError::TrailingSlash),
        ("spiffe://prod.example//llm", SpiffeIdError::EmptySegment),
        ("spiffe://prod.example/a/../llm", SpiffeIdError::DotSegment),
        ("spiffe://prod.example/l%6cm", SpiffeIdError::BadPathCharacter),
        ("spiffe://prod.example/llm\0", SpiffeIdError::BadPathCharacter),
        ("spiffe://prod.example\0.evil.example/llm", SpiffeIdError::BadTrustDomainCharacter),
        ("spiffe://prod.example:443/llm", SpiffeIdError::BadTrustDomainCharacter),
    ] {
        check(|leaf| leaf.names = vec![uri(text)], spiffe(text, broken));
    }
    let long = format!("spiffe://prod.example/{}", "a".repeat(2048));
    let bytes = long.len();
    check(|leaf| leaf.names = vec![uri(&long)], spiffe(long.get(..256).unwrap(), SpiffeIdError::TooLong { bytes }));
}

#[test]
fn names_are_read_with_their_kind_and_in_one_spelling() {
    check_names(vec![uri("SPIFFE://Prod.Example/LLM")], "spiffe://prod.example/LLM");
    check_names(vec![dns("A.Example"), uri(ID)], "spiffe://prod.example/llm,dns:a.example");
    check_names(vec![email("Ann@Corp.Example")], "email:Ann@corp.example");
    check_names(vec![ip(&[10, 0, 0, 1]), ip(&[0; 16])], "ip:10.0.0.1,ip:::");
    check_names(vec![dns("*.example"), dns("a.example")], "dns:a.example");
    // otherName, directoryName and registeredID are never a principal.
    check_names(vec![Name(0xa0, b"\x06\x01\x2a\xa0\x02\x0c\x00".to_vec()), dns("a.example")], "dns:a.example");
    check_names(vec![Name(0x88, vec![0x2a]), Name(0xa4, vec![0x30, 0]), dns("a.example")], "dns:a.example");
}

#[test]
fn a_name_that_is_no_name_of_its_kind_spoils_the_certificate() {
    for text in
        ["a\0.example", "a.example\0", "\x01", "a b", "a..b", "10.0.0.1", "", "*.", "*.a\0b", "*.*.a", "é.example", ID]
    {
        check_refused(vec![uri(ID), dns(text)]);
    }
    for text in ["a.example", "ann@corp.example\0", "ann\n@corp.example", "@corp.example", "ann@", "ann@10.0.0.1", ID] {
        check_refused(vec![uri(ID), email(text)]);
    }
    for bytes in [&[][..], &[10, 0, 0], &[10, 0, 0, 1, 255, 255, 255, 0], &[0; 17]] {
        check_refused(vec![uri(ID), ip(bytes)]);
    }
    for bytes in [&b"\xff"[..], b"spiffe://prod.example/\xc3"] {
        check_refused(vec![uri(bytes)]);
        check_refused(vec![uri(ID), uri(bytes)]);
        check_refused(vec![uri(ID), dns(bytes)]);
        check_refused(vec![uri(ID), email(bytes)]);
    }
    check_refused(vec![uri(ID), Name(0x8f, b"unknown".to_vec())]);
}

#[test]
fn the_number_of_names_is_bounded() {
    let names = |count| std::iter::once(uri(ID)).chain((1..count).map(|at| dns(format!("h{at}.example")))).collect();
    check(|leaf| leaf.names = names(SANS_MAX), Ok(()));
    check(|leaf| leaf.names = names(SANS_MAX + 1), Err(CertificateError::TooManyNames { count: SANS_MAX + 1 }));
}

#[test]
fn a_refused_name_is_quoted_at_a_bounded_length() {
    let error = parse(&Recipe::leaf(ID).with(|leaf| leaf.names.push(dns("a ".repeat(4000))))).unwrap_err();
    let CertificateError::San(SanError::Dns(quoted)) = error else { panic!("{error}") };
    assert!(quoted.len() <= 256, "{} bytes", quoted.len());
}

#[test]
fn key_usage_is_critical_and_signs_nothing_but_handshakes() {
    check(|leaf| leaf.key_usage = None, Err(CertificateError::KeyUsage));
    check(|leaf| leaf.key_usage_critical = false, Err(CertificateError::KeyUsage));
    check(|leaf| leaf.key_usage = Some(0x20), Err(CertificateError::KeyUsage));
    check(|leaf| leaf.key_usage = Some(DIGITAL_SIGNATURE | 0x28), Ok(()));
    for forbidden in [KEY_CERT_SIGN, CRL_SIGN, KEY_CERT_SIGN | CRL_SIGN] {
        check(|leaf| leaf.key_usage = Some(DIGITAL_SIGNATURE | forbidden), Err(CertificateError::ForbiddenKeyUsage));
    }
}

#[test]
fn an_authority_authenticates_nobody() {
    check(|leaf| leaf.authority = Some(true), Err(CertificateError::CertificateAuthority));
}

#[test]
fn extended_usage_is_what_the_certificate_lists() {
    let check = |purposes: Option<Vec<&'static [u8]>>, expected| {
        assert_eq!(parse(&Recipe::leaf(ID).with(|leaf| leaf.extended_usage = purposes)).unwrap().usage(), expected);
    };
    check(None, ExtendedUsage::Any);
    check(Some(vec![SERVER_AUTH, CLIENT_AUTH]), ExtendedUsage::Only { server: true, client: true });
    check(Some(vec![SERVER_AUTH]), ExtendedUsage::Only { server: true, client: false });
    check(Some(vec![CLIENT_AUTH]), ExtendedUsage::Only { server: false, client: true });
    // Neither OpenSSL nor webpki take "any" for a purpose that is asked for by name (RFC 5280 §4.2.1.12 leaves it open).
    check(Some(vec![ANY_USAGE]), ExtendedUsage::Only { server: false, client: false });
}

#[test]
fn an_extension_that_is_doubled_or_damaged_spoils_the_certificate() {
    let good = [
        (SUBJECT_ALT_NAME, der::names(&[uri(ID)])),
        (BASIC_CONSTRAINTS, der::basic_constraints(false)),
        (KEY_USAGE, der::key_usage(DIGITAL_SIGNATURE)),
        (EXTENDED_KEY_USAGE, der::purposes(&[SERVER_AUTH])),
    ];
    let bare = |leaf: &mut Recipe, oid| match oid {
        SUBJECT_ALT_NAME => leaf.names.clear(),
        BASIC_CONSTRAINTS => leaf.authority = None,
        KEY_USAGE => leaf.key_usage = None,
        _ => leaf.extended_usage = None,
    };
    for (oid, content) in good {
        let with = |contents: &[&[u8]]| {
            parse(&Recipe::leaf(ID).with(|leaf| {
                bare(leaf, oid);
                leaf.extensions = contents.iter().map(|content| (oid, true, content.to_vec())).collect();
            }))
        };
        let damaged = |contents: &[&[u8]]| {
            let outcome = with(contents);
            assert!(matches!(outcome, Err(CertificateError::Malformed(_))), "{oid:?} {contents:?}: {outcome:?}");
        };
        assert!(with(&[&content]).is_ok(), "{oid:?}");
        damaged(&[&content, &content]);
        damaged(&[b"\x04\x01x"]);
        damaged(&[&[content.as_slice(), b"\x05\x00"].concat()]);
        damaged(&[&content[..content.len() - 1]]);
    }
    // Also one that nobody here reads: RFC 5280 §4.2 knows no exception.
    let unknown: &[u64] = &[1, 2, 3, 4];
    check(|leaf| leaf.extensions = vec![(unknown, false, vec![5, 0])], Ok(()));
    let twice = parse(&Recipe::leaf(ID).with(|leaf| leaf.extensions = vec![(unknown, false, vec![5, 0]); 2]));
    assert!(matches!(twice, Err(CertificateError::Malformed(_))), "{twice:?}");
}

#[test]
fn weak_and_huge_keys_are_refused() {
    for bits in [1024, 2040, 8200, 16384] {
        let outcome = parse(&Recipe::leaf(ID).with(|leaf| leaf.foreign_key = Some(der::rsa_public_key(bits))));
        assert!(matches!(outcome, Err(CertificateError::WeakKey(_))), "{bits}: {outcome:?}");
    }
}

#[test]
fn bytes_that_are_not_exactly_one_certificate_are_refused() {
    let leaf = Authority::root("root").leaf(ID).chain.remove(0);
    let check = |bytes: Vec<u8>| {
        let outcome = PeerCertificate::parse(&CertificateDer::from(bytes));
        assert!(matches!(outcome, Err(CertificateError::Malformed(_))), "{outcome:?}");
    };
    check(Vec::new());
    check(b"hello".to_vec());
    check([&leaf[..], &[0]].concat());
    check([&leaf[..], &leaf[..]].concat());
    check(leaf[..leaf.len() - 1].to_vec());
    check(vec![0x30; CERTIFICATE_BYTES_MAX + 1]);
    let padded = Recipe::leaf(ID)
        .with(|leaf| leaf.extensions = vec![(&[1, 2, 3, 4], false, der::tlv(4, &vec![0; CERTIFICATE_BYTES_MAX]))]);
    check(Authority::root("root").issue(&padded).leaf().to_vec());
}

#[test]
fn serial_numbers_are_positive_and_bounded() {
    check(|leaf| leaf.serial = vec![0x7f; 20], Ok(()));
    check(|leaf| leaf.serial = vec![0xff; 20], Ok(()));
    let refused = |serial: Vec<u8>| parse(&Recipe::leaf(ID).with(|leaf| leaf.serial = serial)).unwrap_err();
    assert!(matches!(refused(vec![0]), CertificateError::Malformed(_)));
    assert!(matches!(refused(vec![1; 21]), CertificateError::Malformed(_)));
    // A library does not write a negative one, so one is made by hand: INTEGER 0x5e01 becomes 0xde01.
    let mut negative = Authority::root("root").leaf(ID).leaf().to_vec();
    let serial = negative.windows(4).position(|bytes| bytes == [2, 2, 0x5e, 1]).unwrap() + 2;
    negative[serial] |= 0x80;
    let outcome = PeerCertificate::parse(&CertificateDer::from(negative));
    assert!(matches!(outcome, Err(CertificateError::Malformed(_))), "{outcome:?}");
}

#[test]
fn an_authority_may_lack_key_usage_but_not_the_right_to_sign() {
    let check = |change: &dyn Fn(&mut Recipe)| {
        check_authority(&Authority::root_of(&Recipe::authority("root").with(change)).certificate)
    };
    assert!(check(&|_| {}).is_ok());
    assert!(check(&|root| root.key_usage = None).is_ok());
    assert!(check(&|root| root.key_usage_critical = false).is_ok());
    assert!(check(&|root| root.key_usage = Some(DIGITAL_SIGNATURE | CRL_SIGN)).is_err());
    assert!(check(&|root| root.authority = Some(false)).is_err());
    assert!(check(&|root| root.authority = None).is_err());
    assert!(
        check(&|root| {
            root.key_usage = None;
            root.extensions = vec![(KEY_USAGE, true, b"\x04\x01x".to_vec())];
        })
        .is_err()
    );
    assert!(check(&|root| root.extensions = vec![(KEY_USAGE, true, der::key_usage(KEY_CERT_SIGN))]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever a peer sends: an answer, never a panic, and no name that was not there.
    #[test]
    fn a_certificate_with_changed_bytes_is_read_or_refused(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        static LEAF: std::sync::LazyLock<CertificateDer<'static>> =
            std::sync::LazyLock::new(|| Authority::root("root").leaf(ID).chain.remove(0));
        let mut bytes = LEAF.to_vec();
        for (position, byte) in changes {
            let position = position % bytes.len();
            bytes[position] = byte;
        }
        if let Ok(read) = PeerCertificate::parse(&CertificateDer::from(bytes)) {
            prop_assert!(read.principal().is_some());
            prop_assert!(read.sans().len() <= SANS_MAX);
        }
    }

    #[test]
    fn any_bytes_as_names_are_read_or_refused(tag in 0x80_u8..=0x90, content in prop::collection::vec(any::<u8>(), 0..40)) {
        let names = der::names(&[Name(tag, content)]);
        let leaf = Recipe::leaf(ID).with(|leaf| {
            leaf.names.clear();
            leaf.extensions = vec![(SUBJECT_ALT_NAME, true, names)];
        });
        if let Ok(read) = parse(&leaf) {
            for name in read.sans() {
                prop_assert!(name.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
                prop_assert_eq!(&name.to_string().parse::<San>().unwrap(), name);
            }
        }
    }
}
