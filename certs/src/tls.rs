//! The two ends of a TLS connection: TLS 1.3 only, mutual, no resumption, no early data.
//!
//! A [`ServerSide`] or [`ClientSide`] holds what is the same for many connections. [`ServerSide::begin`] and
//! [`ClientSide::begin`] make the configuration of one connection; its [`Handshake`] tells afterwards who the peer is, or
//! why it was refused. Resumption stays off because a resumed session would skip the verifier (RFC 8446 §2.2): a revoked
//! peer would come back in.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme, SupportedProtocolVersion};

use crate::bundle::TrustBundle;
use crate::digest::sha256;
use crate::revocation::Revocations;
use crate::san::San;
use crate::spiffe_id::SpiffeId;
use crate::svid::X509Svid;
use crate::time::{Clock, Timestamp};
use crate::verify::{PeerRefusal, Side, Trust, TrustedDomain, VerifiedPeer};

/// What the TLS library refuses; named here so that nobody else needs the library for it.
pub use rustls::Error as TlsError;

/// ALPN protocol IDs (RFC 7301) that this project speaks.
pub mod alpn {
    /// HTTP/2 over TLS (RFC 9113 §3.2).
    pub const HTTP_2: &[u8] = b"h2";
    /// HTTP/1.1.
    pub const HTTP_1_1: &[u8] = b"http/1.1";
}

/// Which key exchanges are offered and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyExchange {
    /// X25519MLKEM768 first, then X25519, P-256 and P-384 for peers that lack it.
    #[default]
    PostQuantumPreferred,
    /// X25519MLKEM768 only: recorded traffic stays secret from a later quantum computer, older peers are refused.
    PostQuantumRequired,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Only where the caller may prove itself otherwise (enrollment at the CA, an API key). One that is shown must still be valid.
    Optional,
    /// Everywhere else.
    Required,
    /// Where nobody would look at it: it is not asked for, so that browsers do not ask their users to choose one.
    Unwanted,
}

/// What many inbound connections share.
#[derive(Clone)]
pub struct ServerSide {
    /// The identity that is shown.
    pub identity: Arc<X509Svid>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    /// Protocols in order of preference; empty to leave ALPN out.
    pub alpn: Vec<Vec<u8>>,
    /// Key exchanges taken.
    pub key_exchange: KeyExchange,
    /// Whether the client must prove who it is.
    pub client_certificate: ClientCertificate,
    /// The time for checking certificates.
    pub clock: Clock,
}

/// What many outbound connections share.
#[derive(Clone)]
pub struct ClientSide {
    /// The identity that is shown.
    pub identity: Arc<X509Svid>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    /// Who must answer: one of these names.
    pub expected: Arc<[San]>,
    /// Protocols in order of preference; empty to leave ALPN out.
    pub alpn: Vec<Vec<u8>>,
    /// Key exchanges offered.
    pub key_exchange: KeyExchange,
    /// The time for checking certificates.
    pub clock: Clock,
}

/// What a handshake found out about the peer. Ask it when the handshake has ended, well or badly.
#[derive(Clone)]
pub struct Handshake(Arc<OnceLock<Result<Arc<VerifiedPeer>, PeerRefusal>>>);

impl Handshake {
    fn new() -> Self {
        Self(Arc::new(OnceLock::new()))
    }

    /// The peer, if it showed a certificate and was believed. Meaningful once the handshake has succeeded, because only
    /// then has the peer proved that it holds the key.
    pub fn peer(&self) -> Option<Arc<VerifiedPeer>> {
        self.0.get().and_then(|outcome| outcome.as_ref().ok()).cloned()
    }

    /// Why the peer's certificate was refused, if that is why the handshake failed.
    pub fn refusal(&self) -> Option<&PeerRefusal> {
        self.0.get().and_then(|outcome| outcome.as_ref().err())
    }

    fn conclude<T>(&self, outcome: Result<Arc<VerifiedPeer>, PeerRefusal>, accepted: T) -> Result<T, rustls::Error> {
        let answer = outcome.as_ref().map(|_peer| accepted).map_err(rustls::Error::from);
        // A second certificate message does not exist in TLS 1.3 without post-handshake authentication, which is off.
        self.0.set(outcome).map_err(|_twice| rustls::Error::General("a second certificate".to_owned()))?;
        answer
    }
}

impl ServerSide {
    /// The configuration of one connection, and the handle that tells who the client is.
    ///
    /// # Errors
    /// The library refuses the settings, which it does not for those made here.
    pub fn begin(&self) -> Result<(Arc<ServerConfig>, Handshake), rustls::Error> {
        let handshake = Handshake::new();
        let trust = Arc::clone(&self.trust);
        let builder =
            ServerConfig::builder_with_details(provider_with(self.key_exchange), Arc::new(self.clock.clone()))
                .with_protocol_versions(TLS_1_3)?;
        let verifier = Verifier {
            // Any name that a trusted authority vouches for. What the name may do is decided later.
            decide: move |chain: &[CertificateDer<'_>], now| trust.verify(chain, Side::Client, now),
            handshake: handshake.clone(),
            mandatory: self.client_certificate == ClientCertificate::Required,
        };
        let builder = match self.client_certificate {
            ClientCertificate::Optional | ClientCertificate::Required => {
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            ClientCertificate::Unwanted => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Own(self.identity.certified())));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((Arc::new(config), handshake))
    }
}

impl ClientSide {
    /// The configuration of one connection, and the handle that tells who the server is.
    ///
    /// # Errors
    /// The library refuses the settings, which it does not for those made here.
    pub fn begin(&self) -> Result<(Arc<ClientConfig>, Handshake), rustls::Error> {
        let handshake = Handshake::new();
        let (trust, expected) = (Arc::clone(&self.trust), Arc::clone(&self.expected));
        let verifier = Verifier {
            // One of the expected names, and no other that is trusted too.
            decide: move |chain: &[CertificateDer<'_>], now| {
                let peer = trust.verify(chain, Side::Server, now)?;
                peer.check_expected(&expected).map(|()| peer)
            },
            handshake: handshake.clone(),
            mandatory: true,
        };
        let mut config =
            ClientConfig::builder_with_details(provider_with(self.key_exchange), Arc::new(self.clock.clone()))
                .with_protocol_versions(TLS_1_3)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(Own(self.identity.certified())));
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok((Arc::new(config), handshake))
    }
}

/// A client that has no identity yet: it knows the CA by the fingerprint of its root, which came with the join token.
///
/// # Errors
/// The library refuses the settings, which it does not for those made here.
pub fn enrollment(
    root_fingerprint: [u8; 32],
    ca: SpiffeId,
    clock: &Clock,
) -> Result<(Arc<ClientConfig>, Handshake), rustls::Error> {
    let handshake = Handshake::new();
    let verifier = Verifier {
        decide: move |chain: &[CertificateDer<'_>], now| verify_ca(chain, &root_fingerprint, &ca, now),
        handshake: handshake.clone(),
        mandatory: true,
    };
    let mut config = ClientConfig::builder_with_details(provider_with(KeyExchange::default()), Arc::new(clock.clone()))
        .with_protocol_versions(TLS_1_3)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn::HTTP_1_1.to_vec()];
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), handshake))
}

/// A client of a server that is no member of any trust domain, such as a log collector or an identity provider: it is known by its DNS name or address
/// and by the authorities that the operator named, as on the web (RFC 9525). Not for peers of the mesh.
///
/// # Errors
/// None of the authorities can serve as a root (of a system's many, some may be unfit), or the library refuses the settings.
pub fn named_server(
    authorities: &[CertificateDer<'_>],
    identity: Option<Arc<CertifiedKey>>,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let known = roots.add_parsable_certificates(authorities.iter().map(|authority| authority.clone().into_owned()));
    if known.0 == 0 {
        return Err(rustls::Error::General("none of the authorities can serve as a root".to_owned()));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
    let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
    let config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(clock.clone()))
        .with_protocol_versions(TLS_1_3)?
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        Some(identity) => config.with_client_cert_resolver(Arc::new(Own(identity))),
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name by which [`named_server`] knows a server; none if it is neither a DNS name nor an address.
pub fn known_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// The name that a client puts into its hello (SNI), so that a load balancer in between can route by it. Identity never
/// depends on it. Addresses put none (RFC 6066 §3); neither does a host name that TLS cannot carry.
pub fn server_name(host: &str) -> ServerName<'static> {
    let unnamed = ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into());
    ServerName::try_from(host.to_owned()).unwrap_or(unnamed)
}

const TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The one cryptography provider of the project: aws-lc-rs with AES-128-GCM first, because the SHA-384 that comes with
/// AES-256-GCM has no help from the hardware and costs about a tenth of a handshake.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(with_groups(vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ]))
    });
    &PROVIDER
}

fn provider_with(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    static POST_QUANTUM: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(with_groups(vec![kx_group::X25519MLKEM768])));
    match key_exchange {
        KeyExchange::PostQuantumPreferred => Arc::clone(provider()),
        KeyExchange::PostQuantumRequired => Arc::clone(&POST_QUANTUM),
    }
}

fn with_groups(kx_groups: Vec<&'static dyn SupportedKxGroup>) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups,
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Before enrollment: the chain shown must end in the root of the join token, and the leaf must be the CA itself.
fn verify_ca(
    chain: &[CertificateDer<'_>],
    root_fingerprint: &[u8; 32],
    ca: &SpiffeId,
    now: Timestamp,
) -> Result<Arc<VerifiedPeer>, PeerRefusal> {
    let expected = San::Spiffe(ca.clone());
    let unvouched = |reason: &str| PeerRefusal::Unvouched { peer: expected.clone(), reason: reason.to_owned() };
    let root = chain.iter().find(|certificate| sha256(certificate) == *root_fingerprint).ok_or_else(|| {
        unvouched("none of the certificates shown is the root of the join token; the token is for another CA")
    })?;
    let bundle = TrustBundle::new(ca.trust_domain().clone(), vec![root.clone().into_owned()], 0)
        .map_err(|_no_authority| unvouched("the root of the join token is no CA certificate"))?;
    let trusted = TrustedDomain { bundle, revocations: Arc::new(Revocations::default()) };
    let trust = Trust::new([trusted], &[])
        .map_err(|_no_anchor| unvouched("the root of the join token cannot serve as a root"))?;
    let peer = trust.verify(chain, Side::Server, now)?;
    peer.check_expected(&[expected])?;
    Ok(peer)
}

/// Asks `decide` about the chain that the peer shows, and keeps the answer for the [`Handshake`].
///
/// rustls has one trait for each side of a connection; both are answered here.
struct Verifier<D> {
    decide: D,
    handshake: Handshake,
    /// Whether a client may go without a certificate. A server never may.
    mandatory: bool,
}

impl<D> Verifier<D>
where
    D: Fn(&[CertificateDer<'_>], Timestamp) -> Result<Arc<VerifiedPeer>, PeerRefusal>,
{
    fn verify<T>(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        accepted: T,
    ) -> Result<T, rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        let now = Timestamp::from_unix_seconds(now.as_secs());
        self.handshake.conclude((self.decide)(&chain, now), accepted)
    }
}

impl<D> ClientCertVerifier for Verifier<D>
where
    D: Fn(&[CertificateDer<'_>], Timestamp) -> Result<Arc<VerifiedPeer>, PeerRefusal> + Send + Sync,
{
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Naming our roots would tell every scanner which CAs we trust.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls_1_3_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl<D> ServerCertVerifier for Verifier<D>
where
    D: Fn(&[CertificateDer<'_>], Timestamp) -> Result<Arc<VerifiedPeer>, PeerRefusal> + Send + Sync,
{
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls_1_3_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl<D> fmt::Debug for Verifier<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier")
    }
}

fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}

fn tls_1_3_only() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken here".to_owned())
}
