//! Who vouches for a peer: from the chain that it shows to a [`VerifiedPeer`], the only evidence of identity there is.
//!
//! The roots are chosen by the trust domain of the SPIFFE ID shown, never from one pool (SPIFFE Workload API §4.6).
//! Peers without a SPIFFE ID are tried only against the foreign authorities that the operator named, if any. URI name
//! constraints are not relied on: the rule that an authority signs for its own trust domain only is enforced here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;

use crate::bundle::{BundleError, TrustBundle};
use crate::certificate::{
    CertificateError, PeerCertificate, check_authority, check_signs, general_names, parse_der, serial, validity,
};
use crate::revocation::{Revocations, SerialNumber};
use crate::san::San;
use crate::spiffe_id::{SpiffeId, TrustDomain};
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
    foreign: Anchors,
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
    anchors: Anchors,
    revocations: Arc<Revocations>,
}

/// Roots, and beside each the time in which it may vouch. The one that lasts longest is tried first, so that of two
/// certificates for one key the newer counts.
struct Anchors {
    roots: Vec<TrustAnchor<'static>>,
    validities: Vec<Validity>,
}

/// A peer for whose certificate somebody trusted vouches. Made only by [`Trust::verify`].
#[derive(Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    certificate: PeerCertificate,
    principal: San,
    chain: Box<[CertificateDer<'static>]>,
    issuers: Box<[SerialNumber]>,
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
    /// Revoked by the trust domain that vouched for it: the identity, its certificate, or one above it.
    #[error("{peer} is revoked (serial {serial})")]
    Revoked {
        /// Whom it names.
        peer: San,
        /// Serial number of the certificate.
        serial: SerialNumber,
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
    /// A certificate cannot serve as a root, or two bundles are for the same trust domain: which of them is meant?
    pub fn new(
        domains: impl IntoIterator<Item = TrustedDomain>,
        foreign: &[CertificateDer<'static>],
    ) -> Result<Self, BundleError> {
        let mut trusts = BTreeMap::new();
        for TrustedDomain { bundle, revocations } in domains {
            let anchors = Anchors::new(bundle.authorities())?;
            let trust_domain = bundle.trust_domain().clone();
            if trusts.insert(trust_domain.clone(), DomainTrust { anchors, revocations }).is_some() {
                return Err(BundleError::Twice { trust_domain });
            }
        }
        Ok(Self { domains: trusts, foreign: Anchors::new(foreign)?, remembered: Mutex::new(HashMap::new()) })
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
        let (peer, chain) = self.validate(chain, side, now)?;
        self.recheck(&peer, now)?;
        let peer = Arc::new(peer);
        if chain == Chain::Exact {
            self.remember(digest, &peer);
        }
        Ok(peer)
    }

    fn remember(&self, digest: [u8; 32], peer: &Arc<VerifiedPeer>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, Arc::clone(peer));
    }

    /// Verifies anew a peer that another trust verified: whoever is connected when trust changes.
    ///
    /// # Errors
    /// Says why the peer is no longer trusted.
    pub fn verify_again(&self, peer: &VerifiedPeer, side: Side, now: Timestamp) -> Result<(), PeerRefusal> {
        self.verify(&peer.chain, side, now).map(drop)
    }

    /// Whether peers without a SPIFFE ID can be verified at all.
    pub fn admits_foreign(&self) -> bool {
        !self.foreign.roots.is_empty()
    }

    /// What changes with time and revocation alone.
    fn recheck(&self, peer: &VerifiedPeer, now: Timestamp) -> Result<(), PeerRefusal> {
        check_time(&peer.principal, &peer.usable, now)?;
        let trust_domain = peer.certificate.spiffe_id().map(SpiffeId::trust_domain);
        let Some(domain) = trust_domain.and_then(|trust_domain| self.domains.get(trust_domain)) else { return Ok(()) };
        let revoked = if domain.revocations.cover(&peer.certificate) {
            Some(peer.certificate.serial())
        } else {
            peer.issuers.iter().find(|serial| domain.revocations.serials.contains_key(serial))
        };
        match revoked {
            None => Ok(()),
            Some(serial) => Err(PeerRefusal::Revoked { peer: peer.principal.clone(), serial: serial.clone() }),
        }
    }

    fn validate(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: Timestamp,
    ) -> Result<(VerifiedPeer, Chain), PeerRefusal> {
        if chain.len() > CHAIN_LENGTH_MAX {
            return Err(PeerRefusal::ChainLength { count: chain.len() });
        }
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CertificateError::Malformed("an empty chain").into());
        };
        let certificate = PeerCertificate::parse(leaf)?;
        let principal = certificate.principal().ok_or(CertificateError::NoName)?.clone();
        let unvouched = |reason: String| PeerRefusal::Unvouched { peer: principal.clone(), reason };
        check_usage(&principal, &certificate, side)?;
        check_time(&principal, &certificate.validity(), now)?;
        let (anchors, domain) = self.anchors_for(&principal, &certificate)?;
        let mut usable = certificate.validity();
        let mut issuers = Vec::new();
        for (index, der) in intermediates.iter().enumerate() {
            let intermediate = Intermediate::read(der, domain)
                .map_err(|error| unvouched(format!("certificate {} of its chain: {error}", index + 1)))?;
            usable = usable.intersection(&intermediate.validity);
            issuers.extend(intermediate.serial);
        }
        check_time(&principal, &usable, now)?;
        let path = anchors.validate(leaf, intermediates, side, now).map_err(|error| unvouched(explanation(&error)))?;
        let peer = VerifiedPeer {
            certificate,
            principal,
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            issuers: issuers.into(),
            usable: usable.intersection(&path.root),
        };
        Ok((peer, if path.length == intermediates.len() { Chain::Exact } else { Chain::Padded }))
    }

    fn anchors_for<'trust, 'id>(
        &'trust self,
        principal: &San,
        certificate: &'id PeerCertificate,
    ) -> Result<(&'trust Anchors, Option<&'id TrustDomain>), PeerRefusal> {
        let Some(id) = certificate.spiffe_id() else {
            return if self.admits_foreign() {
                Ok((&self.foreign, None))
            } else {
                Err(PeerRefusal::ForeignNotAdmitted { peer: principal.clone() })
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

/// Whether a chain can be remembered. Anybody can add certificates to a chain that he has seen, without end, and before
/// he has proved that he holds any key: such chains are verified each time, so that they neither fill the memory nor
/// push out the chains of those who are known.
#[derive(PartialEq, Eq)]
enum Chain {
    /// Every certificate is needed.
    Exact,
    /// The path to the root passes over some.
    Padded,
}

/// What path validation found.
struct Path {
    root: Validity,
    /// Certificates between leaf and root.
    length: usize,
}

impl Anchors {
    fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, BundleError> {
        let mut anchors = Vec::with_capacity(authorities.len());
        for (position, authority) in authorities.iter().enumerate() {
            let refused = |source| BundleError::Authority { position, source };
            let validity = check_authority(authority).map_err(refused)?;
            let root = anchor_from_trusted_cert(authority)
                .map_err(|_not_an_anchor| refused(CertificateError::Malformed("cannot serve as a root")))?;
            anchors.push((root.to_owned(), validity));
        }
        anchors.sort_by_key(|(_root, validity)| Reverse(validity.not_after));
        let (roots, validities) = anchors.into_iter().unzip();
        Ok(Self { roots, validities })
    }

    /// RFC 5280 §6, and what webpki leaves to its caller: a root vouches only while its own certificate is valid.
    fn validate(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: Timestamp,
    ) -> Result<Path, webpki::Error> {
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let algorithms = crate::tls::provider().signature_verification_algorithms.all;
        let (leaf, time) = (EndEntityCert::try_from(leaf)?, now.as_unix_time());
        let root_is_valid = |path: &VerifiedPath<'_>| {
            let Validity { not_before, not_after } = self.validity_of(path)?;
            if now < not_before {
                return Err(webpki::Error::CertNotValidYet { time, not_before: not_before.as_unix_time() });
            }
            if now > not_after {
                return Err(webpki::Error::CertExpired { time, not_after: not_after.as_unix_time() });
            }
            Ok(())
        };
        let path =
            leaf.verify_for_usage(algorithms, &self.roots, intermediates, time, usage, None, Some(&root_is_valid))?;
        Ok(Path { root: self.validity_of(&path)?, length: path.intermediate_certificates().count() })
    }

    fn validity_of(&self, path: &VerifiedPath<'_>) -> Result<Validity, webpki::Error> {
        let position = self.roots.iter().position(|root| std::ptr::eq(root, path.anchor()));
        position.and_then(|position| self.validities.get(position)).copied().ok_or(webpki::Error::UnknownIssuer)
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
    /// An SVID counts by its SPIFFE ID alone: any trusted domain's CA could put the expected DNS name into an SVID of its
    /// own. The other names count for peers of a foreign PKI, whose authorities were named for that.
    ///
    /// # Errors
    /// None of its names is among `expected`.
    pub fn check_expected(&self, expected: &[San]) -> Result<(), PeerRefusal> {
        let answers = match self.certificate.spiffe_id() {
            Some(_) => expected.contains(&self.principal),
            None => self.certificate.sans().iter().any(|san| expected.contains(san)),
        };
        if answers {
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

/// What path validation said, in words for the operator.
fn explanation(error: &webpki::Error) -> String {
    let shown = |time: UnixTime| Timestamp::from_unix_seconds(time.as_secs());
    // Leaf and intermediates have been looked at before: what is out of its time here is the root.
    if let webpki::Error::CertExpired { not_after, .. } = error {
        return format!("its root expired at {}", shown(*not_after));
    }
    if let webpki::Error::CertNotValidYet { not_before, .. } = error {
        return format!("its root is not valid before {}", shown(*not_before));
    }
    error.to_string()
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

/// What is read of a certificate between leaf and root.
struct Intermediate {
    validity: Validity,
    /// None if it has a number that cannot be revoked by number: zero or too long.
    serial: Option<SerialNumber>,
}

impl Intermediate {
    /// Only a CA certificate may stand here; webpki asks for cA but not for keyCertSign. One that is itself an SVID must
    /// be of the trust domain for which it signs, and without a path (X509-SVID.md §3.2).
    fn read(der: &CertificateDer<'_>, domain: Option<&TrustDomain>) -> Result<Self, CertificateError> {
        let certificate = parse_der(der)?;
        check_signs(&certificate)?;
        for name in general_names(&certificate)? {
            if matches!(name, GeneralName::Invalid(..)) {
                return Err(CertificateError::Malformed("an unreadable alternative name"));
            }
            let (GeneralName::URI(uri), Some(domain)) = (name, domain) else { continue };
            let foreign = uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
                && uri.get(9..).is_none_or(|rest| !rest.eq_ignore_ascii_case(domain.as_str()));
            if foreign {
                return Err(CertificateError::Malformed("it is an authority of another trust domain"));
            }
        }
        Ok(Self { validity: validity(&certificate)?, serial: serial(&certificate).ok() })
    }
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
