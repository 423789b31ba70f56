//! Real handshakes: who gets in, what the other side is told, and what is negotiated.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::wire::{Ended, SERVER_NAME, connect};
use common::{
    Authority, CLIENT_AUTH, DIGITAL_SIGNATURE, HOUR, Issued, NOW, Recipe, SERVER_AUTH, at, clock, dns, id, now, san,
    trust, trusted_but, uri,
};
use countersign_certs::digest::sha256;
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use countersign_certs::revocation::Revocations;
use countersign_certs::tls::{
    ClientCertificate, ClientSide, Handshake, KeyExchange, ServerSide, alpn, enrollment, provider,
};
use countersign_certs::verify::{PeerRefusal, Trust};
use rcgen::PKCS_ED25519;
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CipherSuite, Error, HandshakeKind, NamedGroup, PeerIncompatible, RootCertStore, ServerConnection,
    SignatureScheme, version,
};

const SERVER: &str = "spiffe://prod.example/llm";
const CLIENT: &str = "spiffe://prod.example/web";
const CA: &str = "spiffe://prod.example/countersign/ca";

/// Two agents of one trust domain.
struct Mesh {
    root: Authority,
    server: ServerSide,
    client: ClientSide,
}

impl Mesh {
    fn new() -> Self {
        let root = Authority::root("root");
        let server = ServerSide {
            identity: server_leaf(&root).svid(SERVER),
            trust: trust("prod.example", &root),
            alpn: vec![alpn::HTTP_2.to_vec(), alpn::HTTP_1_1.to_vec()],
            key_exchange: KeyExchange::PostQuantumPreferred,
            client_certificate: ClientCertificate::Required,
            clock: clock(),
        };
        let client = ClientSide {
            identity: root.leaf(CLIENT).svid(CLIENT),
            trust: trust("prod.example", &root),
            expected: Arc::new([san(SERVER)]),
            alpn: vec![alpn::HTTP_2.to_vec()],
            key_exchange: KeyExchange::PostQuantumPreferred,
            clock: clock(),
        };
        Self { root, server, client }
    }

    fn shake(&self) -> (Ended, Handshake, Handshake) {
        let (server, at_server) = self.server.begin().unwrap();
        let (client, at_client) = self.client.begin().unwrap();
        (connect(server, client), at_server, at_client)
    }

    /// Our server, and a client of another make.
    fn serve(&self, client: ClientConfig) -> (Ended, Handshake) {
        let (server, handshake) = self.server.begin().unwrap();
        (connect(server, Arc::new(client)), handshake)
    }
}

/// Has a DNS name too, so that clients of other makes can connect.
fn server_leaf(root: &Authority) -> Issued {
    root.issue(&Recipe::leaf(SERVER).with(|leaf| leaf.names.push(dns(SERVER_NAME))))
}

fn offering(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..CryptoProvider::clone(provider()) })
}

/// A client that knows nothing of SPIFFE and keeps session tickets.
fn other_client(
    root: &Authority,
    provider: Arc<CryptoProvider>,
    shown: Option<(&Issued, PrivateKeyDer<'static>)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        Some((issued, key)) => builder.with_client_auth_cert(issued.chain.clone(), key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

fn key_of(issued: &Issued) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(issued.key.serialize_der()).unwrap()
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let mesh = Mesh::new();
    let (ended, at_server, at_client) = mesh.shake();
    assert!(ended.succeeded(), "{:?} {:?}", ended.client_error, ended.server_error);
    let (client, server) = (at_server.peer().unwrap(), at_client.peer().unwrap());
    assert_eq!(client.certificate(), mesh.client.identity.leaf());
    assert_eq!(server.certificate(), mesh.server.identity.leaf());
    assert_eq!((client.principal(), server.principal()), (&san(CLIENT), &san(SERVER)));
    assert_eq!(client.usable(), mesh.client.identity.usable());
    assert!(at_server.refusal().is_none() && at_client.refusal().is_none());
}

#[test]
fn two_agents_agree_on_the_best_that_there_is() {
    let (ended, ..) = Mesh::new().shake();
    let server = &ended.server;
    assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(server.alpn_protocol(), Some(alpn::HTTP_2));
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn identities_of_every_kind_of_key_connect() {
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::P384] {
        let mut mesh = Mesh::new();
        let issued = mesh.root.issue(&Recipe::leaf(CLIENT).with(|leaf| {
            leaf.algorithm = match algorithm {
                KeyAlgorithm::Ed25519 => &PKCS_ED25519,
                KeyAlgorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
                KeyAlgorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            };
        }));
        mesh.client.identity = issued.svid(CLIENT);
        assert!(mesh.shake().0.succeeded(), "{algorithm:?}");
    }
}

#[test]
fn a_refused_client_is_told_an_alert_and_we_know_the_reason() {
    let check = |change: &dyn Fn(&mut Mesh), reason: &str, alert: AlertDescription| {
        let mut mesh = Mesh::new();
        change(&mut mesh);
        let (ended, at_server, _) = mesh.shake();
        assert!(!ended.succeeded());
        assert_eq!(at_server.refusal().map(PeerRefusal::reason), Some(reason));
        assert!(at_server.peer().is_none());
        assert_eq!(ended.alert_at_client(), Some(alert), "{reason}");
    };
    let shows = |recipe: Recipe| move |mesh: &mut Mesh| mesh.client.identity = mesh.root.issue(&recipe).svid(CLIENT);
    let leaf = || Recipe::leaf(CLIENT);
    check(
        &|mesh| mesh.server.trust = trust("other.example", &mesh.root),
        "untrusted_domain",
        AlertDescription::UnknownCA,
    );
    check(
        &|mesh| mesh.server.trust = trust("prod.example", &Authority::root("root")),
        "unvouched",
        AlertDescription::UnknownCA,
    );
    check(
        &shows(leaf().with(|leaf| leaf.not_after = NOW - 1)),
        "certificate_expired",
        AlertDescription::CertificateExpired,
    );
    check(
        &shows(leaf().with(|leaf| leaf.not_before = NOW + 1)),
        "certificate_not_yet_valid",
        AlertDescription::CertificateExpired,
    );
    check(
        &shows(leaf().with(|leaf| leaf.extended_usage = Some(vec![SERVER_AUTH]))),
        "wrong_usage",
        AlertDescription::UnsupportedCertificate,
    );
    check(
        &|mesh| mesh.client.identity = mesh.root.issue(&Recipe::foreign(dns("a.example"))).svid("dns:a.example"),
        "foreign_not_admitted",
        AlertDescription::UnknownCA,
    );
    check(
        &|mesh| mesh.server.trust = without(&mesh.root, CLIENT),
        "certificate_revoked",
        AlertDescription::CertificateRevoked,
    );
}

/// The trust domain after this identity was revoked.
fn without(root: &Authority, revoked: &str) -> Arc<Trust> {
    let revocations = Revocations { ids: BTreeSet::from([id(revoked)]), serials: BTreeMap::new() };
    Arc::new(Trust::new([trusted_but("prod.example", &[root], revocations)], &[]).unwrap())
}

#[test]
fn a_certificate_that_could_be_nobodys_is_refused_in_the_handshake() {
    let check = |reason: &str, change: &dyn Fn(&mut Recipe)| {
        let mesh = Mesh::new();
        let issued = mesh.root.issue(&Recipe::leaf(CLIENT).with(change));
        let (ended, handshake) =
            mesh.serve(other_client(&mesh.root, Arc::clone(provider()), Some((&issued, key_of(&issued)))));
        assert_eq!(handshake.refusal().map(PeerRefusal::reason), Some(reason));
        assert_eq!(ended.alert_at_client(), Some(AlertDescription::BadCertificate));
    };
    check("uri_count", &|leaf| leaf.names.push(uri("spiffe://prod.example/b")));
    check("certificate_malformed", &|leaf| leaf.names = vec![uri("spiffe://prod.example")]);
    check("certificate_malformed", &|leaf| leaf.names.clear());
    check("certificate_malformed", &|leaf| leaf.authority = Some(true));
    check("certificate_malformed", &|leaf| leaf.key_usage = Some(DIGITAL_SIGNATURE | common::KEY_CERT_SIGN));
}

#[test]
fn a_server_that_was_not_called_is_refused() {
    let check = |change: &dyn Fn(&mut Mesh), reason: &str, alert: AlertDescription| {
        let mut mesh = Mesh::new();
        change(&mut mesh);
        let (ended, at_server, at_client) = mesh.shake();
        assert_eq!(at_client.refusal().map(PeerRefusal::reason), Some(reason));
        assert_eq!(ended.alert_at_server(), Some(alert), "{reason}");
        assert!(at_server.peer().is_none(), "the client must not show itself to a stranger");
    };
    let expects = |name: &'static str| move |mesh: &mut Mesh| mesh.client.expected = Arc::new([san(name)]);
    check(&expects("spiffe://prod.example/other"), "unexpected_peer", AlertDescription::BadCertificate);
    check(&expects("dns:other.prod.example"), "unexpected_peer", AlertDescription::BadCertificate);
    check(&|mesh| mesh.client.expected = Arc::new([]), "unexpected_peer", AlertDescription::BadCertificate);
    check(
        &|mesh| mesh.client.trust = without(&mesh.root, SERVER),
        "certificate_revoked",
        AlertDescription::CertificateRevoked,
    );
    check(
        &|mesh| {
            let recipe = Recipe::leaf(SERVER).with(|leaf| leaf.extended_usage = Some(vec![CLIENT_AUTH]));
            mesh.server.identity = mesh.root.issue(&recipe).svid(SERVER);
        },
        "wrong_usage",
        AlertDescription::UnsupportedCertificate,
    );
}

#[test]
fn a_client_without_certificate_gets_in_only_where_that_is_allowed() {
    let mut mesh = Mesh::new();
    let nobody = || other_client(&mesh.root, Arc::clone(provider()), None);
    let (refused, handshake) = mesh.serve(nobody());
    assert_eq!(refused.alert_at_client(), Some(AlertDescription::CertificateRequired));
    assert!(handshake.peer().is_none() && handshake.refusal().is_none());
    let nobody = nobody();
    mesh.server.client_certificate = ClientCertificate::Optional;
    let (accepted, handshake) = mesh.serve(nobody);
    assert!(accepted.succeeded());
    assert!(handshake.peer().is_none() && handshake.refusal().is_none());
    // One that is shown is looked at all the same.
    assert!(mesh.shake().0.succeeded());
    mesh.server.trust = without(&mesh.root, CLIENT);
    let (ended, at_server, _) = mesh.shake();
    assert!(!ended.succeeded());
    assert_eq!(at_server.refusal().map(PeerRefusal::reason), Some("certificate_revoked"));
}

#[derive(Debug)]
struct Stolen(Arc<CertifiedKey>);

impl ResolvesClientCert for Stolen {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_certificate_without_its_key_opens_nothing() {
    let mesh = Mesh::new();
    let (chain, thief) = (mesh.root.leaf(CLIENT).chain, PrivateKey::generate(KeyAlgorithm::P256).unwrap());
    let der = PrivateKeyDer::try_from(thief.pkcs8()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let mut config = other_client(&mesh.root, Arc::clone(provider()), None);
    config.client_auth_cert_resolver = Arc::new(Stolen(Arc::new(CertifiedKey::new(chain, key))));
    // Twice: a chain that is remembered is still no proof.
    for _first_and_remembered in 0..2 {
        let (ended, _) = mesh.serve(config.clone());
        assert!(matches!(ended.server_error, Some(Error::InvalidCertificate(rustls::CertificateError::BadSignature))));
        assert!(ended.server.is_handshaking());
    }
}

#[test]
fn no_connection_is_ever_resumed() {
    let mesh = Mesh::new();
    let issued = mesh.root.leaf(CLIENT);
    let mut eager = other_client(&mesh.root, Arc::clone(provider()), Some((&issued, key_of(&issued))));
    eager.resumption = Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    for _first_and_second in 0..2 {
        let (ended, handshake) = mesh.serve(eager.clone());
        assert!(ended.succeeded());
        assert_eq!(ended.client.tls13_tickets_received(), 0);
        assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
        assert!(!ended.client.is_early_data_accepted());
        assert!(handshake.peer().is_some(), "the verifier was asked");
    }
}

#[test]
fn our_client_takes_no_ticket_from_a_server_that_gives_them() {
    let mesh = Mesh::new();
    let generous = Arc::new(other_server(&mesh.root, Arc::clone(provider())));
    for _first_and_second in 0..2 {
        let (client, handshake) = mesh.client.begin().unwrap();
        let ended = connect(Arc::clone(&generous), client);
        assert!(ended.succeeded(), "{:?} {:?}", ended.client_error, ended.server_error);
        assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(handshake.peer().unwrap().principal(), &san(SERVER));
    }
}

/// A server that asks for no certificate and gives tickets.
fn other_server(root: &Authority, provider: Arc<CryptoProvider>) -> ServerConfig {
    let issued = server_leaf(root);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(clock()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain.clone(), key_of(&issued))
        .unwrap();
    config.max_early_data_size = 1024;
    config
}

#[test]
fn a_configuration_serves_one_connection() {
    let mesh = Mesh::new();
    let (server, _) = mesh.server.begin().unwrap();
    let connect = || connect(Arc::clone(&server), mesh.client.begin().unwrap().0);
    assert!(connect().succeeded());
    assert!(!connect().succeeded(), "whose peer would the handle tell?");
    // Nor does a ticket from the first connection help the second.
    let (generous, (client, _)) =
        (Arc::new(other_server(&mesh.root, Arc::clone(provider()))), mesh.client.begin().unwrap());
    let connect = || common::wire::connect(Arc::clone(&generous), Arc::clone(&client));
    assert!(connect().client.tls13_tickets_received() > 0);
    assert!(!connect().succeeded());
}

#[test]
fn post_quantum_is_required_where_it_is_set_so() {
    let mut mesh = Mesh::new();
    let issued = mesh.root.leaf(CLIENT);
    let client = |groups: &[&'static dyn SupportedKxGroup]| {
        other_client(&mesh.root, offering(groups), Some((&issued, key_of(&issued))))
    };
    let (classic, both) = (client(&[kx_group::X25519]), client(&[kx_group::X25519, kx_group::X25519MLKEM768]));
    let (ended, _) = mesh.serve(classic.clone());
    assert_eq!(ended.server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
    assert!(ended.succeeded());
    mesh.server.key_exchange = KeyExchange::PostQuantumRequired;
    let (ended, _) = mesh.serve(classic);
    let expected = Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon);
    assert_eq!(ended.server_error, Some(expected));
    assert_eq!(ended.alert_at_client(), Some(AlertDescription::HandshakeFailure));
    // One that can, but guessed wrong, is asked again.
    let (ended, handshake) = mesh.serve(both);
    assert!(ended.succeeded() && handshake.peer().is_some());
    assert_eq!(ended.server.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    assert_eq!(ended.server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn our_client_refuses_a_server_without_post_quantum_where_it_is_set_so() {
    let mut mesh = Mesh::new();
    let classic = || Arc::new(other_server(&mesh.root, offering(&[kx_group::X25519])));
    assert!(connect(classic(), mesh.client.begin().unwrap().0).succeeded());
    let classic = classic();
    mesh.client.key_exchange = KeyExchange::PostQuantumRequired;
    let ended = connect(classic, mesh.client.begin().unwrap().0);
    assert_eq!(ended.alert_at_client(), Some(AlertDescription::HandshakeFailure));
}

#[test]
fn peers_without_a_common_protocol_part() {
    let mut mesh = Mesh::new();
    mesh.client.alpn = vec![b"gopher".to_vec()];
    assert_eq!(mesh.shake().0.alert_at_client(), Some(AlertDescription::NoApplicationProtocol));
}

#[test]
fn a_new_host_believes_the_root_of_its_token_and_the_ca_alone() {
    let check = |root: &CertificateDer<'_>, shown: Issued, ca: &str, expected: Result<(), &str>| {
        let mut server = Mesh::new().server;
        server.client_certificate = ClientCertificate::Optional;
        server.alpn = vec![alpn::HTTP_1_1.to_vec()];
        server.identity = shown.svid(shown_name(&shown));
        let (client, at_client) = enrollment(sha256(root), id(ca), &clock()).unwrap();
        let ended = connect(server.begin().unwrap().0, client);
        assert_eq!(ended.succeeded(), expected.is_ok());
        assert_eq!(at_client.refusal().map_or(Ok(()), |refusal| Err(refusal.reason())), expected);
        assert_eq!(at_client.peer().map(|peer| peer.principal().clone()), expected.ok().map(|()| san(ca)));
    };
    let root = Authority::root("root");
    let with_root = |mut issued: Issued| {
        issued.chain.push(root.certificate.clone());
        issued
    };
    check(&root.certificate, with_root(root.leaf(CA)), CA, Ok(()));
    check(&root.certificate, with_root(root.intermediate("low").leaf(CA)), CA, Ok(()));
    check(&root.certificate, root.leaf(CA), CA, Err("unvouched"));
    check(&Authority::root("root").certificate, with_root(root.leaf(CA)), CA, Err("unvouched"));
    check(&root.certificate, with_root(Authority::root("root").leaf(CA)), CA, Err("unvouched"));
    check(&root.certificate, with_root(root.leaf(SERVER)), CA, Err("unexpected_peer"));
    let elsewhere = "spiffe://other.example/countersign/ca";
    check(&root.certificate, with_root(root.leaf(elsewhere)), CA, Err("untrusted_domain"));
    // The token may name any certificate of the chain, but one that is no authority vouches for nobody.
    let leaf = root.leaf(CA);
    check(&leaf.leaf().clone(), with_root(leaf), CA, Err("unvouched"));
    let expired = root.issue(&Recipe::leaf(CA).with(|leaf| leaf.not_after = NOW - 1));
    check(&root.certificate, with_root(expired), CA, Err("certificate_expired"));
}

fn shown_name(issued: &Issued) -> &'static str {
    let leaf = countersign_certs::certificate::PeerCertificate::parse(issued.leaf()).unwrap();
    let known = [CA, SERVER, "spiffe://other.example/countersign/ca"];
    known.into_iter().find(|name| leaf.sans().contains(&san(name))).unwrap()
}

#[test]
fn a_peer_is_refused_from_the_second_in_which_it_expires() {
    let mut mesh = Mesh::new();
    assert!(mesh.shake().0.succeeded());
    let peer_ends = mesh.client.identity.usable().not_after;
    assert_eq!(peer_ends, at(NOW + HOUR));
    mesh.server.clock =
        countersign_certs::time::Clock::new(move || peer_ends.plus(std::time::Duration::from_secs(1)).as_system_time());
    let (ended, at_server, _) = mesh.shake();
    assert_eq!(ended.alert_at_client(), Some(AlertDescription::CertificateExpired));
    let told = at_server.refusal().unwrap().to_string();
    assert_eq!(told, format!("the certificate of {CLIENT} expired at {}, it is 2033-05-18T04:33:21Z", at(NOW + HOUR)));
    assert!(
        mesh.server.trust.verify(mesh.client.identity.chain(), countersign_certs::verify::Side::Client, now()).is_ok()
    );
}

/// What OpenSSL's client prints when it meets our server.
fn openssl(mesh: &Mesh, arguments: &[&str]) -> Option<(bool, Option<Error>)> {
    let folder = tempfile::tempdir().unwrap();
    let issued = mesh.root.leaf(CLIENT);
    let chain = folder.path().join("chain.pem");
    let key = folder.path().join("key.pem");
    std::fs::write(&chain, countersign_certs::pem::encode_certificates(&issued.chain)).unwrap();
    std::fs::write(&key, issued.key.serialize_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &listener.local_addr().unwrap().to_string()])
        .arg("-cert")
        .arg(chain)
        .arg("-key")
        .arg(key)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let (mut socket, _) = listener.accept().unwrap();
    let mut server = ServerConnection::new(mesh.server.begin().unwrap().0).unwrap();
    let mut error = None;
    while error.is_none() && server.is_handshaking() {
        error = server.complete_io(&mut socket).err();
    }
    if error.is_none() {
        server.writer().write_all(b"welcome\n").unwrap();
        server.send_close_notify();
    }
    while server.wants_write() && server.write_tls(&mut socket).is_ok() {}
    drop(socket);
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    child.wait().unwrap();
    let error = error.map(|error| error.get_ref().unwrap().downcast_ref::<Error>().unwrap().clone());
    Some((printed.contains("welcome"), error))
}

#[test]
fn openssl_connects_with_tls_1_3_and_with_nothing_older() {
    let mesh = Mesh::new();
    let Some((welcomed, error)) = openssl(&mesh, &["-tls1_3"]) else { return println!("openssl is not installed") };
    assert!(welcomed, "{error:?}");
    let (welcomed, error) = openssl(&mesh, &["-tls1_2"]).unwrap();
    assert!(!welcomed);
    assert!(matches!(error, Some(Error::PeerIncompatible(_))), "{error:?}");
}
