//! Who vouches for a peer: from the chain that it shows to a [`VerifiedPeer`], the only evidence of identity there is.
//!
//! The roots are chosen by the trust domain of the SPIFFE ID shown, never from one pool (SPIFFE Workload API §4.6).
//! Peers without a SPIFFE ID are tried only against the foreign authorities that the operator named, if any. URI name
//! constraints are not relied on: the rule that an authority signs for its own trust domain only is enforced here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;

use crate::bundle::{BundleError, TrustBundle};
use crate::certificate::{CertificateError, PeerCertificate, parse_der, validity};
use crate::revocation::Revocations;
use crate::san::San;
use crate::spiffe_id::TrustDomain;
use crate::svid::CHAIN_LENGTH_MAX;
use crate::time::{Timestamp, Validity};

/// Most verified chains that are remembered; beyond it the memory starts anew.
const REMEMBERED_MAX: usize = 4096;

/// Which side of the connection shows the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The peer called us.
    Client,
    /// We called the peer.
    Server,
}

/// Whom we trust at one moment: bundles and revocations by trust domain, and foreign authorities. It never changes; a new
/// bundle or revocation makes a new one, and with it what was remembered of chains is forgotten.
pub struct Trust {
    domains: BTreeMap<TrustDomain, DomainTrust>,
    foreign: Vec<TrustAnchor<'static>>,
    remembered: Mutex<HashMap<[u8; 32], Arc<VerifiedPeer>>>,
}

/// One trust domain: its bundle and what it has revoked.
#[derive(Debug, Clone)]
pub struct TrustedDomain {
    /// The authorities.
    pub bundle: TrustBundle,
    /// What they no longer stand by.
    pub revocations: Arc<Revocations>,
}

struct DomainTrust {
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Arc<Revocations>,
}

/// A peer for whose certificate somebody trusted vouches. Made only by [`Trust::verify`].
#[derive(Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    certificate: PeerCertificate,
    principal: San,
    chain: Box<[CertificateDer<'static>]>,
    usable: Validity,
}

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// The certificate is of a form that authenticates nobody.
    #[error("the peer's certificate may not authenticate anybody")]
    Certificate(#[from] CertificateError),
    /// More than [`CHAIN_LENGTH_MAX`] certificates.
    #[error("the peer shows {count} certificates, the limit is {CHAIN_LENGTH_MAX}")]
    ChainLength {
        /// Certificates shown.
        count: usize,
    },
    /// After the end of the validity of the leaf or of an intermediate.
    #[error("the certificate of {peer} expired at {not_after}, it is {now}")]
    Expired {
        /// Whom it names.
        peer: San,
        /// End of the validity.
        not_after: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// No SPIFFE ID, and no foreign authorities are configured.
    #[error("the certificate of {peer} has no SPIFFE ID, and no foreign bundle is configured here")]
    ForeignNotAdmitted {
        /// Whom it names.
        peer: San,
    },
    /// Before the beginning of the validity of the leaf or of an intermediate.
    #[error("the certificate of {peer} is not valid before {not_before}, it is {now}")]
    NotYetValid {
        /// Whom it names.
        peer: San,
        /// Beginning of the validity.
        not_before: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// Revoked by the trust domain that vouched for it.
    #[error("{peer} is revoked (serial {serial})")]
    Revoked {
        /// Whom it names.
        peer: San,
        /// Serial number of the certificate.
        serial: crate::revocation::SerialNumber,
    },
    /// A valid peer, but not the one that was called.
    #[error("the peer is {found}, expected was {expected}")]
    Unexpected {
        /// Who answered.
        found: San,
        /// Who was called; several are joined by commas.
        expected: String,
    },
    /// No bundle for the trust domain of the SPIFFE ID.
    #[error("{peer} is of trust domain {trust_domain}, which is not trusted here")]
    UntrustedDomain {
        /// Whom it names.
        peer: San,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// No trusted authority signed the chain, or it breaks RFC 5280.
    #[error("no trusted authority vouches for {peer}: {reason}")]
    Unvouched {
        /// Whom it names.
        peer: San,
        /// What path validation said.
        reason: String,
    },
    /// The extended key usage excludes this side of a connection.
    #[error("the certificate of {peer} may not be used by a {side}")]
    WrongUsage {
        /// Whom it names.
        peer: San,
        /// `client` or `server`.
        side: &'static str,
    },
}

impl Trust {
    /// Trust in these domains, and in these foreign authorities for peers without a SPIFFE ID.
    ///
    /// # Errors
    /// A certificate cannot serve as a root.
    pub fn new(
        domains: impl IntoIterator<Item = TrustedDomain>,
        foreign: &[CertificateDer<'static>],
    ) -> Result<Self, BundleError> {
        let domains = domains
            .into_iter()
            .map(|domain| {
                let anchors = anchors(domain.bundle.authorities())?;
                Ok((domain.bundle.trust_domain().clone(), DomainTrust { anchors, revocations: domain.revocations }))
            })
            .collect::<Result<_, BundleError>>()?;
        Ok(Self { domains, foreign: anchors(foreign)?, remembered: Mutex::new(HashMap::new()) })
    }

    /// Verifies the chain (leaf first) that a peer on `side` shows, at `now`.
    ///
    /// The expensive part, path validation, is done once per chain and remembered; time and revocation are looked at
    /// each time.
    ///
    /// # Errors
    /// Says why nobody may be known by this chain.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: Timestamp,
    ) -> Result<Arc<VerifiedPeer>, PeerRefusal> {
        let digest = digest_of(chain, side);
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(peer) = remembered {
            self.recheck(&peer, now)?;
            return Ok(peer);
        }
        let peer = Arc::new(self.validate(chain, side, now)?);
        self.recheck(&peer, now)?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, Arc::clone(&peer));
        Ok(peer)
    }

    /// Verifies anew a peer that another trust verified: whoever is connected when trust changes.
    ///
    /// # Errors
    /// Says why the peer is no longer trusted.
    pub fn verify_again(&self, peer: &VerifiedPeer, side: Side, now: Timestamp) -> Result<(), PeerRefusal> {
        self.verify(&peer.chain, side, now).map(drop)
    }

    /// Whether this trust domain's IDs can be verified at all.
    pub fn knows(&self, trust_domain: &TrustDomain) -> bool {
        self.domains.contains_key(trust_domain)
    }

    /// Whether peers without a SPIFFE ID can be verified at all.
    pub fn admits_foreign(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// What changes with time and revocation alone.
    fn recheck(&self, peer: &VerifiedPeer, now: Timestamp) -> Result<(), PeerRefusal> {
        check_time(&peer.principal, &peer.usable, now)?;
        let revocations = peer
            .certificate
            .spiffe_id()
            .and_then(|id| self.domains.get(id.trust_domain()))
            .map(|domain| &domain.revocations);
        if revocations.is_some_and(|revocations| revocations.cover(&peer.certificate)) {
            return Err(PeerRefusal::Revoked {
                peer: peer.principal.clone(),
                serial: peer.certificate.serial().clone(),
            });
        }
        Ok(())
    }

    fn validate(&self, chain: &[CertificateDer<'_>], side: Side, now: Timestamp) -> Result<VerifiedPeer, PeerRefusal> {
        if chain.len() > CHAIN_LENGTH_MAX {
            return Err(PeerRefusal::ChainLength { count: chain.len() });
        }
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CertificateError::Malformed("an empty chain").into());
        };
        let certificate = PeerCertificate::parse(leaf)?;
        let principal = certificate.principal().ok_or(CertificateError::NoName)?.clone();
        check_usage(&principal, &certificate, side)?;
        check_time(&principal, &certificate.validity(), now)?;
        let (anchors, domain) = self.anchors_for(&principal, &certificate)?;
        let mut usable = certificate.validity();
        for intermediate in intermediates {
            usable = usable.intersection(&check_intermediate(intermediate, domain)?);
        }
        check_time(&principal, &usable, now)?;
        validate_path(leaf, intermediates, anchors, side, now)
            .map_err(|error| PeerRefusal::Unvouched { peer: principal.clone(), reason: error.to_string() })?;
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Ok(VerifiedPeer { certificate, principal, chain, usable })
    }

    fn anchors_for<'trust, 'id>(
        &'trust self,
        principal: &San,
        certificate: &'id PeerCertificate,
    ) -> Result<(&'trust [TrustAnchor<'static>], Option<&'id TrustDomain>), PeerRefusal> {
        let Some(id) = certificate.spiffe_id() else {
            return match self.foreign.as_slice() {
                [] => Err(PeerRefusal::ForeignNotAdmitted { peer: principal.clone() }),
                foreign => Ok((foreign, None)),
            };
        };
        let trust_domain = id.trust_domain();
        let domain = self.domains.get(trust_domain).ok_or_else(|| PeerRefusal::UntrustedDomain {
            peer: principal.clone(),
            trust_domain: trust_domain.clone(),
        })?;
        Ok((&domain.anchors, Some(trust_domain)))
    }
}

impl VerifiedPeer {
    /// What the certificate says.
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// The name under which the peer is recorded.
    pub fn principal(&self) -> &San {
        &self.principal
    }

    /// When every certificate of the peer's chain can be used. No connection may outlive its end.
    pub fn usable(&self) -> Validity {
        self.usable
    }

    /// Checks that this is the peer that was called.
    ///
    /// # Errors
    /// None of its names is among `expected`.
    pub fn check_expected(&self, expected: &[San]) -> Result<(), PeerRefusal> {
        if self.certificate.sans().iter().any(|san| expected.contains(san)) {
            return Ok(());
        }
        let expected = expected.iter().map(San::to_string).collect::<Vec<_>>().join(", ");
        Err(PeerRefusal::Unexpected { found: self.principal.clone(), expected })
    }
}

impl PeerRefusal {
    /// A short fixed word for metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(CertificateError::UriCount { .. }) => "uri_count",
            Self::Certificate(_) => "certificate_malformed",
            Self::ChainLength { .. } => "chain_length",
            Self::Expired { .. } => "certificate_expired",
            Self::ForeignNotAdmitted { .. } => "foreign_not_admitted",
            Self::NotYetValid { .. } => "certificate_not_yet_valid",
            Self::Revoked { .. } => "certificate_revoked",
            Self::Unexpected { .. } => "unexpected_peer",
            Self::UntrustedDomain { .. } => "untrusted_domain",
            Self::Unvouched { .. } => "unvouched",
            Self::WrongUsage { .. } => "wrong_usage",
        }
    }

    /// Whom the refused certificate names, so far as it could be read. A claim, not a fact.
    pub fn claimed(&self) -> Option<&San> {
        match self {
            Self::Certificate(_) | Self::ChainLength { .. } => None,
            Self::Expired { peer, .. }
            | Self::ForeignNotAdmitted { peer }
            | Self::NotYetValid { peer, .. }
            | Self::Revoked { peer, .. }
            | Self::UntrustedDomain { peer, .. }
            | Self::Unvouched { peer, .. }
            | Self::WrongUsage { peer, .. } => Some(peer),
            Self::Unexpected { found, .. } => Some(found),
        }
    }
}

impl From<&PeerRefusal> for rustls::Error {
    /// Chooses the TLS alert that the peer sees (RFC 8446 §6.2). The reason itself stays with us.
    fn from(refusal: &PeerRefusal) -> Self {
        use rustls::CertificateError as Tls;
        Self::InvalidCertificate(match refusal {
            PeerRefusal::Certificate(_) | PeerRefusal::ChainLength { .. } => Tls::BadEncoding,
            PeerRefusal::Expired { .. } => Tls::Expired,
            PeerRefusal::NotYetValid { .. } => Tls::NotValidYet,
            PeerRefusal::Revoked { .. } => Tls::Revoked,
            PeerRefusal::ForeignNotAdmitted { .. }
            | PeerRefusal::UntrustedDomain { .. }
            | PeerRefusal::Unvouched { .. } => Tls::UnknownIssuer,
            PeerRefusal::Unexpected { .. } => Tls::NotValidForName,
            PeerRefusal::WrongUsage { .. } => Tls::InvalidPurpose,
        })
    }
}

fn anchors(authorities: &[CertificateDer<'static>]) -> Result<Vec<TrustAnchor<'static>>, BundleError> {
    authorities
        .iter()
        .enumerate()
        .map(|(position, authority)| {
            let anchor = anchor_from_trusted_cert(authority).map_err(|_not_an_anchor| BundleError::Authority {
                position,
                source: CertificateError::Malformed("cannot serve as a root"),
            })?;
            Ok(anchor.to_owned())
        })
        .collect()
}

fn validate_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    side: Side,
    now: Timestamp,
) -> Result<(), webpki::Error> {
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let algorithms = crate::tls::provider().signature_verification_algorithms.all;
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(algorithms, anchors, intermediates, now.as_unix_time(), usage, None, None)
        .map(drop)
}

fn check_usage(principal: &San, certificate: &PeerCertificate, side: Side) -> Result<(), PeerRefusal> {
    let (allowed, side) = match side {
        Side::Client => (certificate.usage().allows_client(), "client"),
        Side::Server => (certificate.usage().allows_server(), "server"),
    };
    if allowed { Ok(()) } else { Err(PeerRefusal::WrongUsage { peer: principal.clone(), side }) }
}

fn check_time(principal: &San, validity: &Validity, now: Timestamp) -> Result<(), PeerRefusal> {
    let peer = || principal.clone();
    if now < validity.not_before {
        return Err(PeerRefusal::NotYetValid { peer: peer(), not_before: validity.not_before, now });
    }
    if now > validity.not_after {
        return Err(PeerRefusal::Expired { peer: peer(), not_after: validity.not_after, now });
    }
    Ok(())
}

/// An intermediate that is itself an SVID must be of the trust domain for which it signs, and without a path
/// (X509-SVID.md §3.2).
fn check_intermediate(der: &CertificateDer<'_>, domain: Option<&TrustDomain>) -> Result<Validity, CertificateError> {
    let certificate = parse_der(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_duplicate| CertificateError::Malformed("subject alternative names twice or unreadable"))?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        let (GeneralName::URI(uri), Some(domain)) = (name, domain) else { continue };
        let foreign = uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
            && uri.get(9..).is_none_or(|rest| !rest.eq_ignore_ascii_case(domain.as_str()));
        if foreign {
            return Err(CertificateError::Malformed("an intermediate of another trust domain"));
        }
    }
    validity(&certificate)
}

fn digest_of(chain: &[CertificateDer<'_>], side: Side) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(match side {
        Side::Client => b"c",
        Side::Server => b"s",
    });
    for certificate in chain {
        // The length keeps two chains apart whose bytes are the same when joined.
        context.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
