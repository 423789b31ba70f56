//! Who vouches for whom: the chain, the trust domain, the time, and what was revoked.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use common::{
    Authority, CLIENT_AUTH, DIGITAL_SIGNATURE, HOUR, Issued, NAME_CONSTRAINTS, NOW, Recipe, SERVER_AUTH, at, der, dns,
    id, now, san, trust, trusted, trusted_but, uri,
};
use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::revocation::Revocations;
use countersign_certs::time::Timestamp;
use countersign_certs::verify::{Side, Trust};
use proptest::prelude::*;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
    PKCS_RSA_SHA512,
};
use rustls::pki_types::CertificateDer;

const ID: &str = "spiffe://prod.example/llm";

/// Whether the chain is believed (`Ok`: with which name), or the word for why not.
fn outcome(trust: &Trust, chain: &[CertificateDer<'_>], side: Side, now: Timestamp) -> Result<String, &'static str> {
    trust.verify(chain, side, now).map(|peer| peer.principal().to_string()).map_err(|refusal| refusal.reason())
}

fn check(trust: &Trust, chain: &[CertificateDer<'_>], expected: Result<&str, &'static str>) {
    for _first_and_remembered in 0..2 {
        assert_eq!(outcome(trust, chain, Side::Client, now()), expected.map(str::to_owned));
        assert_eq!(outcome(trust, chain, Side::Server, now()), expected.map(str::to_owned));
    }
}

fn check_at(trust: &Trust, chain: &[CertificateDer<'_>], times: &[(u64, Result<&str, &'static str>)]) {
    for (time, expected) in times {
        assert_eq!(outcome(trust, chain, Side::Client, at(*time)), expected.map(str::to_owned), "at {}", at(*time));
    }
}

fn revoked_id(text: &str) -> Revocations {
    Revocations { ids: BTreeSet::from([id(text)]), ..Revocations::default() }
}

fn revoked_serial(hex: &str) -> Revocations {
    Revocations { serials: BTreeMap::from([(hex.parse().unwrap(), at(NOW + HOUR))]), ..Revocations::default() }
}

#[test]
fn a_chain_to_the_bundle_of_its_trust_domain_is_believed() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    check(&trust, &root.leaf(ID).chain, Ok(ID));
    check(&trust, &root.leaf("SPIFFE://PROD.example/llm").chain, Ok(ID));
    let low = root.intermediate("high").intermediate("low");
    check(&trust, &low.leaf(ID).chain, Ok(ID));
    let of_the_domain = Recipe::authority("svid").with(|recipe| recipe.names = vec![uri("spiffe://prod.example")]);
    check(&trust, &root.intermediate_of(&of_the_domain).leaf(ID).chain, Ok(ID));
    let mut with_root = low.leaf(ID).chain;
    with_root.push(root.certificate.clone());
    check(&trust, &with_root, Ok(ID));
}

#[test]
fn every_usual_kind_of_key_may_sign() {
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_ED25519,
        &PKCS_RSA_SHA256,
        &PKCS_RSA_SHA512,
    ] {
        let root = Authority::root_of(&Recipe::authority("root").with(|recipe| recipe.algorithm = algorithm));
        check(&trust("prod.example", &root), &root.leaf(ID).chain, Ok(ID));
    }
}

#[test]
fn an_unknown_trust_domain_is_refused() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    check(&trust, &root.leaf("spiffe://other.example/llm").chain, Err("untrusted_domain"));
    check(&trust, &root.leaf("spiffe://a.prod.example/llm").chain, Err("untrusted_domain"));
    check(&Trust::new([], &[]).unwrap(), &root.leaf(ID).chain, Err("untrusted_domain"));
    let empty = Trust::new([trusted("prod.example", &[])], &[]).unwrap();
    check(&empty, &root.leaf(ID).chain, Err("unvouched"));
}

#[test]
fn a_root_vouches_for_its_own_trust_domain_only() {
    let (ours, theirs) = (Authority::root("ours"), Authority::root("theirs"));
    let trust = Trust::new([trusted("prod.example", &[&ours]), trusted("theirs.example", &[&theirs])], &[]).unwrap();
    check(&trust, &ours.leaf(ID).chain, Ok(ID));
    check(&trust, &theirs.leaf("spiffe://theirs.example/a").chain, Ok("spiffe://theirs.example/a"));
    // The pool of all roots would take both of these.
    check(&trust, &theirs.leaf(ID).chain, Err("unvouched"));
    check(&trust, &ours.leaf("spiffe://theirs.example/a").chain, Err("unvouched"));
    check(&trust, &theirs.intermediate("low").leaf(ID).chain, Err("unvouched"));
    // Nor does it help to show our root, or to be called like it.
    let mut with_our_root = theirs.leaf(ID).chain;
    with_our_root.push(ours.certificate.clone());
    check(&trust, &with_our_root, Err("unvouched"));
    check(&trust, &Authority::root("ours").leaf(ID).chain, Err("unvouched"));
}

#[test]
fn two_bundles_for_one_trust_domain_are_refused() {
    let (first, second) = (Authority::root("first"), Authority::root("second"));
    let twice = Trust::new([trusted("prod.example", &[&first]), trusted("Prod.Example", &[&second])], &[]);
    assert!(matches!(twice, Err(BundleError::Twice { .. })));
}

#[test]
fn what_is_no_authority_vouches_for_nobody() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    let below =
        |change: &dyn Fn(&mut Recipe)| root.intermediate_of(&Recipe::authority("low").with(change)).leaf(ID).chain;
    check(&trust, &below(&|_| {}), Ok(ID));
    check(&trust, &below(&|low| low.key_usage = None), Ok(ID));
    check(&trust, &below(&|low| low.authority = Some(false)), Err("unvouched"));
    check(&trust, &below(&|low| low.authority = None), Err("unvouched"));
    check(&trust, &below(&|low| low.key_usage = Some(DIGITAL_SIGNATURE)), Err("unvouched"));
    // A leaf that signs: the ordinary way from one stolen key to every name.
    let stolen = root.intermediate_of(&Recipe::leaf("spiffe://prod.example/web").with(|leaf| {
        leaf.subject = Some("web".to_owned());
    }));
    check(&trust, &stolen.leaf(ID).chain, Err("unvouched"));
}

#[test]
fn an_intermediate_of_another_trust_domain_vouches_for_nobody() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    for text in [
        "spiffe://other.example",
        "SPIFFE://other.example",
        "spiffe://prod.example.evil",
        "spiffe://prod.example/path",
        "spiffe://",
    ] {
        let recipe = Recipe::authority("low").with(|low| low.names = vec![uri("spiffe://prod.example"), uri(text)]);
        check(&trust, &root.intermediate_of(&recipe).leaf(ID).chain, Err("unvouched"));
    }
    let damaged = Recipe::authority("low").with(|low| low.names = vec![uri(b"spiffe://other.example\xff")]);
    check(&trust, &root.intermediate_of(&damaged).leaf(ID).chain, Err("unvouched"));
}

#[test]
fn length_and_order_of_a_chain_are_bounded() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    let deep = root.intermediate("1").intermediate("2").intermediate("3").intermediate("4");
    check(&trust, &deep.leaf(ID).chain, Ok(ID));
    check(&trust, &deep.intermediate("5").leaf(ID).chain, Err("chain_length"));
    check(&trust, &[], Err("certificate_malformed"));
    // RFC 8446 §4.4.2: the leaf is first, the rest may come in any order.
    let mut chain = deep.leaf(ID).chain;
    chain[1..].reverse();
    check(&trust, &chain, Ok(ID));
    chain.swap(0, 1);
    check(&trust, &chain, Err("certificate_malformed"));
    let mut missing = deep.leaf(ID).chain;
    missing.remove(2);
    check(&trust, &missing, Err("unvouched"));
}

#[test]
fn a_root_or_self_signed_certificate_is_no_peer() {
    let root = Authority::root_of(&Recipe::authority("root").with(|root| root.names = vec![uri(ID)]));
    let trust = trust("prod.example", &root);
    check(&trust, std::slice::from_ref(&root.certificate), Err("certificate_malformed"));
    let self_signed = Authority::root_of(&Recipe::leaf(ID)).certificate;
    check(&trust, &[self_signed], Err("unvouched"));
}

#[test]
fn the_side_must_fit_the_extended_usage_along_the_whole_chain() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    let check = |chain: &[CertificateDer<'_>], client: Result<&str, &'static str>, server| {
        // The other side first, so that a chain remembered for one side would show.
        assert_eq!(outcome(&trust, chain, Side::Client, now()), client.map(str::to_owned));
        assert_eq!(outcome(&trust, chain, Side::Server, now()), server);
        assert_eq!(outcome(&trust, chain, Side::Client, now()), client.map(str::to_owned));
    };
    let leaf = |purposes: &[&'static [u8]]| {
        let purposes = Some(purposes.to_vec());
        root.issue(&Recipe::leaf(ID).with(|leaf| leaf.extended_usage = purposes)).chain
    };
    check(&leaf(&[CLIENT_AUTH]), Ok(ID), Err("wrong_usage"));
    check(&leaf(&[SERVER_AUTH]), Err("wrong_usage"), Ok(ID.to_owned()));
    check(&leaf(&[common::ANY_USAGE]), Err("wrong_usage"), Err("wrong_usage"));
    let for_clients = Recipe::authority("low").with(|low| low.extended_usage = Some(vec![CLIENT_AUTH]));
    check(&root.intermediate_of(&for_clients).leaf(ID).chain, Ok(ID), Err("unvouched"));
}

#[test]
fn a_certificate_counts_only_in_its_time() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    let expired = "certificate_expired";
    let early = "certificate_not_yet_valid";
    let leaf = root.leaf(ID).chain;
    let times = [
        (NOW, Ok(ID)),
        (NOW + HOUR, Ok(ID)),
        (NOW + HOUR + 1, Err(expired)),
        (NOW - HOUR, Ok(ID)),
        (NOW - HOUR - 1, Err(early)),
    ];
    check_at(&trust, &leaf, &times);
    // A second time, now remembered, and once with nothing remembered when its time is over.
    check_at(&trust, &leaf, &times);
    check_at(&self::trust("prod.example", &root), &leaf, &[(NOW + HOUR + 1, Err(expired)), (0, Err(early))]);
    let short = Recipe::authority("low").with(|low| (low.not_before, low.not_after) = (NOW - 60, NOW + 60));
    let chain = root.intermediate_of(&short).leaf(ID).chain;
    check_at(
        &trust,
        &chain,
        &[(NOW + 61, Err(expired)), (NOW - 61, Err(early)), (NOW, Ok(ID)), (NOW + 61, Err(expired))],
    );
    let peer = trust.verify(&chain, Side::Client, now()).unwrap();
    assert_eq!((peer.usable().not_before, peer.usable().not_after), (at(NOW - 60), at(NOW + 60)));
    let swapped = root.issue(&Recipe::leaf(ID).with(|leaf| (leaf.not_before, leaf.not_after) = (NOW + 9, NOW - 9)));
    assert!(trust.verify(&swapped.chain, Side::Client, now()).is_err());
}

#[test]
fn a_root_vouches_only_in_its_time() {
    let old = Recipe::authority("root").with(|root| root.not_after = NOW + 60);
    let new = Recipe::authority("root").with(|root| root.not_before = NOW + 30);
    let key = KeyPair::generate().unwrap();
    let pkcs8 = key.serialize_der();
    let key_again = || KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let old = Authority::root_with_key(&old, key);
    let new = Authority::root_with_key(&new, key_again());
    let chain = old.leaf(ID).chain;
    check_at(&trust("prod.example", &old), &chain, &[(NOW, Ok(ID)), (NOW + 61, Err("certificate_expired"))]);
    check_at(&trust("prod.example", &old), &chain, &[(NOW + 61, Err("unvouched"))]);
    check_at(&trust("prod.example", &new), &chain, &[(NOW, Err("unvouched")), (NOW + 31, Ok(ID))]);
    // One key, renewed certificate: whichever is valid counts, and of two the one that lasts longer.
    for bundle in [[&old, &new], [&new, &old]] {
        let both = Trust::new([trusted("prod.example", &bundle)], &[]).unwrap();
        check_at(&both, &chain, &[(NOW + 45, Ok(ID)), (NOW + 61, Ok(ID))]);
        let both = Trust::new([trusted("prod.example", &bundle)], &[]).unwrap();
        check_at(&both, &chain, &[(NOW, Ok(ID))]);
    }
    let told = trust("prod.example", &old).verify(&chain, Side::Client, at(NOW + 61)).unwrap_err();
    assert_eq!(
        told.to_string(),
        "no trusted authority vouches for spiffe://prod.example/llm: its root expired at 2033-05-18T03:34:20Z"
    );
}

#[test]
fn what_is_revoked_is_refused() {
    let root = Authority::root("root");
    let low = root.intermediate("low");
    let chain = low.leaf(ID).chain;
    let with = |revocations| Trust::new([trusted_but("prod.example", &[&root], revocations)], &[]).unwrap();
    check(&with(Revocations::default()), &chain, Ok(ID));
    check(&with(revoked_id(ID)), &chain, Err("certificate_revoked"));
    check(&with(revoked_id("SPIFFE://Prod.Example/llm")), &chain, Err("certificate_revoked"));
    check(&with(revoked_id("spiffe://prod.example/LLM")), &chain, Ok(ID));
    check(&with(revoked_serial("5e01")), &chain, Err("certificate_revoked"));
    check(&with(revoked_serial("00:5E:01")), &chain, Err("certificate_revoked"));
    check(&with(revoked_serial("5e02")), &chain, Ok(ID));
    // A stolen intermediate: its root is still in the bundle, so its number is all that can be named.
    check(&with(revoked_serial("cb")), &chain, Err("certificate_revoked"));
}

#[test]
fn a_serial_number_counts_in_its_own_trust_domain_only() {
    let (ours, theirs) = (Authority::root("ours"), Authority::root("theirs"));
    let revoked = trusted_but("theirs.example", &[&theirs], revoked_serial("5e01"));
    let trust = Trust::new([trusted("prod.example", &[&ours]), revoked], &[]).unwrap();
    check(&trust, &ours.leaf(ID).chain, Ok(ID));
    check(&trust, &theirs.leaf("spiffe://theirs.example/a").chain, Err("certificate_revoked"));
}

#[test]
fn a_peer_who_is_connected_is_verified_against_the_new_trust() {
    let root = Authority::root("root");
    let before = trust("prod.example", &root);
    let peer = before.verify(&root.leaf(ID).chain, Side::Client, now()).unwrap();
    let again = |trust: &Trust, now| trust.verify_again(&peer, Side::Client, now).map_err(|refusal| refusal.reason());
    assert_eq!(again(&before, now()), Ok(()));
    assert_eq!(again(&trust("prod.example", &root), now()), Ok(()));
    assert_eq!(again(&before, at(NOW + HOUR + 1)), Err("certificate_expired"));
    assert_eq!(again(&trust("prod.example", &Authority::root("root")), now()), Err("unvouched"));
    assert_eq!(again(&Trust::new([], &[]).unwrap(), now()), Err("untrusted_domain"));
    let revoked = Trust::new([trusted_but("prod.example", &[&root], revoked_id(ID))], &[]).unwrap();
    assert_eq!(again(&revoked, now()), Err("certificate_revoked"));
}

#[test]
fn a_peer_without_spiffe_id_needs_a_foreign_authority() {
    let (ours, foreign) = (Authority::root("ours"), Authority::root("foreign"));
    let name = "dns:batch.corp.example";
    let recipe = Recipe::foreign(dns("batch.corp.example"));
    let chain = foreign.issue(&recipe).chain;
    let domains = || [trusted("prod.example", &[&ours])];
    let admits = Trust::new(domains(), std::slice::from_ref(&foreign.certificate)).unwrap();
    let refuses = Trust::new(domains(), &[]).unwrap();
    assert!(admits.admits_foreign() && !refuses.admits_foreign());
    check(&admits, &chain, Ok(name));
    check(&refuses, &chain, Err("foreign_not_admitted"));
    // Our own authority is not asked about names of other kinds, nor a foreign one about SPIFFE IDs.
    check(&admits, &ours.issue(&recipe).chain, Err("unvouched"));
    check(&refuses, &ours.issue(&recipe).chain, Err("foreign_not_admitted"));
    check(&admits, &foreign.leaf(ID).chain, Err("unvouched"));
    check(&admits, &foreign.leaf("spiffe://corp.example/a").chain, Err("untrusted_domain"));
    let without_key_usage = Authority::root_of(&Recipe::authority("openssl").with(|root| root.key_usage = None));
    let admits = Trust::new(domains(), std::slice::from_ref(&without_key_usage.certificate)).unwrap();
    check(&admits, &without_key_usage.issue(&recipe).chain, Ok(name));
}

#[test]
fn a_leaf_is_no_authority_of_any_kind() {
    let leaf = Authority::root_of(&Recipe::leaf(ID).with(|leaf| leaf.subject = Some("leaf".to_owned())));
    let authorities = vec![leaf.certificate];
    assert!(matches!(Trust::new([], &authorities), Err(BundleError::Authority { position: 0, .. })));
    let bundle = TrustBundle::new(common::domain("prod.example"), authorities, 0);
    assert!(matches!(bundle, Err(BundleError::Authority { position: 0, .. })));
}

#[test]
fn name_constraints_of_an_authority_are_kept() {
    let names = |low: &mut Recipe, base| low.extensions = vec![(NAME_CONSTRAINTS, true, der::permitted(&base))];
    let root = Authority::root_of(&Recipe::authority("root").with(|root| names(root, dns("corp.example"))));
    let trust = Trust::new([], std::slice::from_ref(&root.certificate)).unwrap();
    check(&trust, &root.issue(&Recipe::foreign(dns("a.corp.example"))).chain, Ok("dns:a.corp.example"));
    check(&trust, &root.issue(&Recipe::foreign(dns("a.evil.example"))).chain, Err("unvouched"));
    // webpki cannot read constraints on URIs, and refuses everybody rather than nobody.
    let root = Authority::root_of(&Recipe::authority("root").with(|root| names(root, uri("prod.example"))));
    check(&self::trust("prod.example", &root), &root.leaf(ID).chain, Err("unvouched"));
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let root = Authority::root("root");
    let leaf = |critical| {
        root.issue(&Recipe::leaf(ID).with(|leaf| leaf.extensions = vec![(&[1, 2, 3, 4], critical, vec![5, 0])])).chain
    };
    check(&trust("prod.example", &root), &leaf(false), Ok(ID));
    check(&trust("prod.example", &root), &leaf(true), Err("unvouched"));
}

#[test]
fn a_remembered_chain_is_the_same_peer_and_a_padded_one_is_not_kept() {
    let root = Authority::root("root");
    let trust = trust("prod.example", &root);
    let chain = root.intermediate("low").leaf(ID).chain;
    let verify = |chain: &[CertificateDer<'_>]| trust.verify(chain, Side::Client, now()).unwrap();
    assert!(Arc::ptr_eq(&verify(&chain), &verify(&chain)));
    // Whoever has seen the chain could pad it in endless ways, and fill our memory without holding any key.
    let mut padded = chain.clone();
    padded.push(Authority::root("junk").certificate);
    assert_eq!(verify(&padded), verify(&padded));
    assert!(!Arc::ptr_eq(&verify(&padded), &verify(&padded)));
}

#[test]
fn a_peer_is_taken_for_nobody_but_itself() {
    let root = Authority::root("root");
    let recipe = Recipe::leaf(ID).with(|leaf| leaf.names.push(dns("llm.prod.example")));
    let peer = trust("prod.example", &root).verify(&root.issue(&recipe).chain, Side::Server, now()).unwrap();
    let check = |expected: &[&str], answer: bool| {
        let names: Vec<_> = expected.iter().map(|name| san(name)).collect();
        assert_eq!(peer.check_expected(&names).is_ok(), answer, "{expected:?}");
    };
    check(&[ID], true);
    check(&["spiffe://prod.example/other", ID], true);
    // Another domain's CA could have put this name into an SVID of its own.
    check(&["dns:llm.prod.example"], false);
    check(&[], false);
    check(&["spiffe://prod.example/LLM", "email:a@llm.prod.example", "spiffe://prod.example/llm/a"], false);
}

struct World {
    roots: Vec<Authority>,
    lows: Vec<Authority>,
    leaves: Vec<(usize, &'static str, Issued)>,
}

const DOMAINS: [&str; 3] = ["a.example", "b.example", "c.example"];
const IDS: [&str; 3] = ["spiffe://a.example/x", "spiffe://b.example/x", "spiffe://c.example/x"];

/// Every authority signs a leaf of every trust domain, directly and through an intermediate.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let roots: Vec<_> = DOMAINS.iter().map(|name| Authority::root(name)).collect();
    let lows: Vec<_> = roots.iter().map(|root| root.intermediate("low")).collect();
    let signers = roots.iter().enumerate().chain(lows.iter().enumerate());
    let leaves = signers.flat_map(|(signer, by)| IDS.map(|id| (signer, id, by.leaf(id)))).collect();
    World { roots, lows, leaves }
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is trusted and however the chain is padded and shuffled: only the domain's own root makes a peer.
    #[test]
    fn only_the_root_of_the_domain_makes_a_peer(
        trusted_domains in prop::collection::btree_set(0_usize..3, 0..4),
        leaf in 0_usize..18,
        padding in prop::collection::vec(0_usize..6, 0..3),
        foreign in any::<bool>(),
        time in NOW - 2 * HOUR..NOW + 2 * HOUR,
        revoked in prop::option::of(0_usize..3),
    ) {
        let (signer, id, issued) = &WORLD.leaves[leaf];
        let mut chain = issued.chain.clone();
        chain.extend(padding.iter().map(|at| {
            if *at < 3 { WORLD.roots[*at].certificate.clone() } else { WORLD.lows[*at - 3].certificate.clone() }
        }));
        let domains = trusted_domains.iter().map(|at| {
            let revocations = revoked.map(|revoked| revoked_id(IDS[revoked])).unwrap_or_default();
            trusted_but(DOMAINS[*at], &[&WORLD.roots[*at]], revocations)
        });
        let every_root: Vec<_> = WORLD.roots.iter().map(|root| root.certificate.clone()).collect();
        let trust = Trust::new(domains, if foreign { &every_root } else { &[] }).unwrap();
        let own = IDS.iter().position(|known| known == id).unwrap();
        let believed = *signer == own
            && trusted_domains.contains(&own)
            && (NOW - HOUR..=NOW + HOUR).contains(&time)
            && revoked != Some(own);
        for _first_and_remembered in 0..2 {
            let outcome = trust.verify(&chain, Side::Server, at(time));
            prop_assert_eq!(outcome.is_ok(), believed, "{:?}", outcome.map(|peer| peer.principal().to_string()));
        }
    }

    /// Whatever a peer changes in a chain: nobody else comes out of it.
    #[test]
    fn a_changed_chain_names_nobody_else(position in any::<prop::sample::Index>(), byte in any::<u8>(), which in 0_usize..2) {
        let (_, id, issued) = &WORLD.leaves[9];
        let trust = trust("a.example", &WORLD.roots[0]);
        let mut bytes = issued.chain[which].to_vec();
        let position = position.index(bytes.len());
        let changed = bytes[position] != byte;
        bytes[position] = byte;
        let mut chain = issued.chain.clone();
        chain[which] = CertificateDer::from(bytes);
        match trust.verify(&chain, Side::Client, now()) {
            Ok(peer) => prop_assert!(!changed && peer.principal() == &san(id)),
            Err(refusal) => prop_assert!(changed, "{}", refusal),
        }
    }
}
