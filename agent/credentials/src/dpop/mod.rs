//! Proofs that a caller holds a key (DPoP, RFC 9449): a small token that the caller signs for one request.

use std::time::Duration;

use countersign_certs::time::Timestamp;

use crate::algorithm::Algorithm;
use crate::encoding::digest_from_base64url;
use crate::jwk::{Jwk, JwkError, Thumbprint, Verifier};
use crate::jwt::claims::{ClaimError, Claims, ID_BYTES_MAX, Round};
use crate::jwt::compact::{Compact, CompactError, KeySource};
use crate::text;
use crate::url::{HttpUrl, URL_BYTES_MAX, UrlError};

pub mod replay;

pub use replay::{ReplayCache, ReplayRefusal};

/// Longest proof in bytes. The key is in it; one of RSA with 4096 bits makes 1.5 KiB.
pub const PROOF_BYTES_MAX: usize = 8 * 1024;

/// Which proofs are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofSettings {
    /// The accepted algorithms. An HMAC is refused even if it is named: its key would stand in the proof.
    pub algorithms: Vec<Algorithm>,
    /// How old a proof may be. 60 s: it is made for one request, and clocks differ.
    pub past: Duration,
    /// How far its time may lie ahead. 10 s: clocks differ.
    pub future: Duration,
}

/// The request for which a proof has to be.
#[derive(Debug, Clone, Copy)]
pub struct ProofRequest<'request> {
    /// Its method.
    pub method: &'request str,
    /// Where it goes, as the caller sees it.
    pub target: &'request HttpUrl,
    /// The access token beside which the proof is shown.
    pub token: &'request str,
    /// The nonce that the caller was told to use, if one was.
    pub nonce: Option<&'request str>,
}

/// Evidence that the caller holds the private part of a key, for this request. It is spent in a [`ReplayCache`]. Only [`verify`] makes
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct VerifiedProof {
    thumbprint: Thumbprint,
    id: String,
    issued: Timestamp,
    /// The last second in which it would be accepted.
    not_after: Timestamp,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefusal {
    /// Signed with an algorithm that is not accepted, or that its key is not for.
    #[error("the proof is signed with {0}, which is not accepted or not what its key is for")]
    Algorithm(Algorithm),
    /// A claim that is missing, of another type, or out of bounds.
    #[error("the proof cannot be used")]
    Claim(#[from] ClaimError),
    /// Not exactly one.
    #[error("there are {count} DPoP proofs; a request has exactly one")]
    Count {
        /// How many there are, two at most.
        count: usize,
    },
    /// A key that is none.
    #[error("the key in the proof cannot be used")]
    Key(#[source] JwkError),
    /// No signed object.
    #[error("the proof cannot be read")]
    Malformed(#[source] CompactError),
    /// For another method.
    #[error("the proof is for the method {found:?}, and this is {expected:?}")]
    Method {
        /// The proof's.
        found: String,
        /// The request's.
        expected: String,
    },
    /// No key in it.
    #[error("the proof has no key in its header")]
    NoKey,
    /// Without the nonce that was asked for, or with another.
    #[error("the proof is not made with the nonce that it was to be made with")]
    Nonce,
    /// The signature is not the key's.
    #[error("the signature of the proof is not that of its key")]
    Signature,
    /// For another target.
    #[error("the proof is for {found:?}, and this is {expected:?}")]
    Target {
        /// The proof's.
        found: String,
        /// The request's.
        expected: String,
    },
    /// A target that is no URL.
    #[error("the target of the proof is no URL")]
    TargetUrl(#[source] UrlError),
    /// Too old, or from a clock that is ahead.
    #[error("the proof was made at {issued}, and it is {now}; {} s before and {} s after are accepted", past.as_secs(), future.as_secs())]
    Time {
        /// Its `iat`.
        issued: Timestamp,
        /// What time it is.
        now: Timestamp,
        /// How old it may be.
        past: Duration,
        /// How far ahead it may be.
        future: Duration,
    },
    /// For another token.
    #[error("the proof is for another access token")]
    Token,
    /// Something else than a proof.
    #[error("the proof has the type {0:?}, not dpop+jwt")]
    Type(Option<String>),
}

impl Default for ProofSettings {
    /// Every algorithm with a public key: the key is the caller's own, and a token binds to it.
    fn default() -> Self {
        let asymmetric = Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric());
        Self { algorithms: asymmetric.collect(), past: Duration::from_secs(60), future: Duration::from_secs(10) }
    }
}

/// Believes the one proof among the values of a request's `DPoP` fields, or says why not (RFC 9449 §4.3). Whether it was shown before,
/// a [`ReplayCache`] tells.
///
/// # Errors
/// There is not exactly one, it cannot be read, its key or signature is none that is accepted, or it was made for something else.
pub fn verify<'request>(
    proofs: impl IntoIterator<Item = &'request str>,
    request: &ProofRequest<'_>,
    settings: &ProofSettings,
    now: Timestamp,
) -> Result<VerifiedProof, ProofRefusal> {
    let mut proofs = proofs.into_iter();
    let proof = match (proofs.next(), proofs.next()) {
        (Some(proof), None) => proof,
        (first, second) => return Err(ProofRefusal::Count { count: first.iter().chain(&second).count() }),
    };
    let compact = Compact::read(proof, PROOF_BYTES_MAX, KeySource::Header).map_err(ProofRefusal::Malformed)?;
    let thumbprint = signed_by(&compact, settings)?;
    let claims = Claims(&compact.claims);
    check_request(claims, request)?;
    let (issued, not_after) = check_time(claims, settings, now)?;
    let id = claims.name("jti", ID_BYTES_MAX)?.ok_or(ClaimError { name: "jti" })?;
    Ok(VerifiedProof { thumbprint, id: id.to_owned(), issued, not_after })
}

/// The key in the header, if the signature is its own.
fn signed_by(compact: &Compact<'_>, settings: &ProofSettings) -> Result<Thumbprint, ProofRefusal> {
    let header = &compact.header;
    if header.media_type.as_deref() != Some("dpop+jwt") {
        return Err(ProofRefusal::Type(header.media_type.as_deref().map(text::shown)));
    }
    let algorithm = header.algorithm;
    if algorithm.is_symmetric() || !settings.algorithms.contains(&algorithm) {
        return Err(ProofRefusal::Algorithm(algorithm));
    }
    let jwk = Jwk::read(header.key.as_ref().ok_or(ProofRefusal::NoKey)?).map_err(ProofRefusal::Key)?;
    if !jwk.fits(algorithm) {
        return Err(ProofRefusal::Algorithm(algorithm));
    }
    let verifier = Verifier::new(&jwk.material, algorithm).map_err(ProofRefusal::Key)?;
    if !verifier.accepts(compact.signed.as_bytes(), &compact.signature) {
        return Err(ProofRefusal::Signature);
    }
    Ok(jwk.material.thumbprint())
}

/// Whether a proof was made for this request: method, target, token and nonce.
fn check_request(claims: Claims<'_>, request: &ProofRequest<'_>) -> Result<(), ProofRefusal> {
    let text = |name, bytes_max| claims.name(name, bytes_max)?.ok_or(ClaimError { name });
    let method = text("htm", ID_BYTES_MAX)?;
    if method != request.method {
        return Err(ProofRefusal::Method { found: text::shown(method), expected: request.method.to_owned() });
    }
    let found = HttpUrl::parse_target(text("htu", URL_BYTES_MAX)?).map_err(ProofRefusal::TargetUrl)?;
    if !found.is_same_target(request.target) {
        let found = text::shown(&found.to_string());
        return Err(ProofRefusal::Target { found, expected: request.target.to_string() });
    }
    let token = digest_from_base64url(text("ath", ID_BYTES_MAX)?).ok_or(ClaimError { name: "ath" })?;
    if token != countersign_certs::digest::sha256(request.token.as_bytes()) {
        return Err(ProofRefusal::Token);
    }
    match request.nonce {
        Some(nonce) if claims.name("nonce", ID_BYTES_MAX)? != Some(nonce) => Err(ProofRefusal::Nonce),
        Some(_) | None => Ok(()),
    }
}

/// When it was made, and the last second in which it is accepted.
fn check_time(
    claims: Claims<'_>,
    settings: &ProofSettings,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), ProofRefusal> {
    let issued = claims.time("iat", Round::Down)?.ok_or(ClaimError { name: "iat" })?;
    let (past, future) = (settings.past, settings.future);
    let not_after = issued.plus(past);
    if now > not_after || issued > now.plus(future) {
        return Err(ProofRefusal::Time { issued, now, past, future });
    }
    Ok((issued, not_after))
}

impl VerifiedProof {
    /// The key that made it.
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// The caller's name for it (`jti`).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was made, as the caller says.
    pub fn issued(&self) -> Timestamp {
        self.issued
    }
}

impl ProofRefusal {
    /// A short fixed word for metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Algorithm(_) | Self::Malformed(CompactError::Algorithm(_)) => "proof_algorithm",
            Self::Claim(_) => "proof_claim",
            Self::Count { .. } => "proof_count",
            Self::Key(_) | Self::NoKey => "proof_key",
            Self::Malformed(CompactError::Header { .. } | CompactError::HeaderMember { .. }) => "proof_header",
            Self::Malformed(
                CompactError::Base64 { .. }
                | CompactError::Encrypted
                | CompactError::Json { .. }
                | CompactError::Parts { .. }
                | CompactError::TooLong { .. },
            ) => "proof_malformed",
            Self::Method { .. } => "proof_method",
            Self::Nonce => "proof_nonce",
            Self::Signature => "proof_signature",
            Self::Target { .. } | Self::TargetUrl(_) => "proof_target",
            Self::Time { .. } => "proof_time",
            Self::Token => "proof_token",
            Self::Type(_) => "proof_type",
        }
    }
}

#[cfg(test)]
mod tests;
