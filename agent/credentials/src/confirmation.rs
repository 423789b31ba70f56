//! What a token is bound to (`cnf`, RFC 7800): a certificate (RFC 8705 §3.1) or a key that a DPoP proof shows (RFC 9449 §6).
//!
//! A bound token is worth nothing to whoever steals it. That holds only if nobody accepts it without looking at what it is bound to,
//! so a binding of an unknown kind is a refusal.

use serde_json::{Map, Value};

use crate::dpop::VerifiedProof;
use crate::encoding::{digest_from_base64url, to_base64url};
use crate::jwk::Thumbprint;

/// SHA-256 of the certificate (RFC 8705 §3.1).
const CERTIFICATE: &str = "x5t#S256";

/// SHA-256 thumbprint of the key (RFC 9449 §6.1).
const KEY: &str = "jkt";

/// What must be shown beside a token. One of the two is there at least; if both are, both must be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    certificate: Option<[u8; 32]>,
    key: Option<Thumbprint>,
}

/// A binding that is not understood, so that nobody can tell whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmationError {
    /// It binds to nothing.
    #[error("the token's cnf names nothing that it is bound to")]
    Empty,
    /// No object, or no digest in it.
    #[error("the token's cnf is no object of SHA-256 digests in base64url")]
    Malformed,
    /// Bound in a way that is not known here.
    #[error("the token is bound by {0:?}, which is not known here; {CERTIFICATE} and {KEY} are")]
    Method(String),
}

/// Why a token is not accepted from who shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// Shown without a certificate.
    #[error("the token is bound to the certificate {bound}, and none was shown", bound = to_base64url(.bound))]
    NoCertificate {
        /// SHA-256 of the certificate that it is bound to.
        bound: [u8; 32],
    },
    /// Shown without a proof.
    #[error("the token is bound to the key {bound}, and no DPoP proof was shown")]
    NoProof {
        /// The key that it is bound to.
        bound: Thumbprint,
    },
    /// Shown on another certificate.
    #[error("the token is bound to the certificate {bound}, and was shown on {shown}", bound = to_base64url(.bound), shown = to_base64url(.shown))]
    OtherCertificate {
        /// SHA-256 of the certificate that it is bound to.
        bound: [u8; 32],
        /// SHA-256 of the certificate of the connection.
        shown: [u8; 32],
    },
    /// Shown with the proof of another key.
    #[error("the token is bound to the key {bound}, and was shown with a DPoP proof of {shown}")]
    OtherKey {
        /// The key that it is bound to.
        bound: Thumbprint,
        /// The key of the proof.
        shown: Thumbprint,
    },
    /// Shown with a proof although any key would do, so the proof proves nothing (RFC 9449 §7.1).
    #[error("the token is bound to no key, and was shown with a DPoP proof of {shown}")]
    Unbound {
        /// The key of the proof.
        shown: Thumbprint,
    },
}

impl Confirmation {
    /// Reads the `cnf` of a token.
    ///
    /// # Errors
    /// It is no object of known digests, or an empty one.
    pub(crate) fn read(claim: &Value) -> Result<Self, ConfirmationError> {
        let members = claim.as_object().ok_or(ConfirmationError::Malformed)?;
        if let Some(unknown) = members.keys().find(|name| *name != CERTIFICATE && *name != KEY) {
            return Err(ConfirmationError::Method(unknown.chars().take(64).collect()));
        }
        let (certificate, key) = (digest(members, CERTIFICATE)?, digest(members, KEY)?.map(Thumbprint));
        if certificate.is_none() && key.is_none() {
            return Err(ConfirmationError::Empty);
        }
        Ok(Self { certificate, key })
    }

    /// Whether the token is accepted on this connection with this proof. `certificate_sha256` is of the DER of the peer's certificate;
    /// `proof` was verified for this token and this request. What is compared is public: no constant time is needed.
    ///
    /// # Errors
    /// Something that it is bound to was not shown, or another one was.
    pub fn check(
        &self,
        certificate_sha256: Option<&[u8; 32]>,
        proof: Option<&VerifiedProof>,
    ) -> Result<(), Unconfirmed> {
        if let Some(bound) = self.certificate {
            let shown = *certificate_sha256.ok_or(Unconfirmed::NoCertificate { bound })?;
            if shown != bound {
                return Err(Unconfirmed::OtherCertificate { bound, shown });
            }
        }
        match (self.key, proof.map(VerifiedProof::thumbprint)) {
            (Some(bound), Some(shown)) if bound != shown => Err(Unconfirmed::OtherKey { bound, shown }),
            (Some(bound), None) => Err(Unconfirmed::NoProof { bound }),
            (None, Some(shown)) => Err(Unconfirmed::Unbound { shown }),
            (Some(_), Some(_)) | (None, None) => Ok(()),
        }
    }
}

impl Unconfirmed {
    /// A short fixed word for metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate { .. } => "token_no_certificate",
            Self::NoProof { .. } => "token_no_proof",
            Self::OtherCertificate { .. } => "token_other_certificate",
            Self::OtherKey { .. } => "token_other_key",
            Self::Unbound { .. } => "token_unbound",
        }
    }
}

fn digest(members: &Map<String, Value>, name: &str) -> Result<Option<[u8; 32]>, ConfirmationError> {
    let Some(value) = members.get(name) else { return Ok(None) };
    value.as_str().and_then(digest_from_base64url).map(Some).ok_or(ConfirmationError::Malformed)
}
