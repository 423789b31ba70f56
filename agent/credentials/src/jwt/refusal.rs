//! Everything for which a token is refused.

use std::time::Duration;

use countersign_certs::time::Timestamp;

use super::claims::ClaimError;
use super::compact::CompactError;
use crate::algorithm::Algorithm;
use crate::confirmation::ConfirmationError;
use crate::introspection::IntrospectionError;

/// Why a token is refused. Nothing here holds the token or a part that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Signed with an algorithm that is not accepted, or that its key is not for.
    #[error("the token is signed with {algorithm}, which is not accepted from {issuer:?} or not what its key is for")]
    Algorithm {
        /// The token's.
        algorithm: Algorithm,
        /// The issuer.
        issuer: String,
    },
    /// No key is named, and several would do.
    #[error("the token names no key, and {issuer:?} has several for {algorithm}")]
    AmbiguousKey {
        /// The token's algorithm.
        algorithm: Algorithm,
        /// The issuer.
        issuer: String,
    },
    /// The issuer's answer about it is none.
    #[error("what the issuer says about the token cannot be read")]
    Answer(#[from] IntrospectionError),
    /// For somebody else.
    #[error("the token is for {found:?}, not for {expected:?}")]
    Audience {
        /// Whom the token names.
        found: Vec<String>,
        /// Whom the settings name.
        expected: Vec<String>,
    },
    /// A claim that is missing, of another type, or out of bounds.
    #[error("the token cannot be used")]
    Claim(#[from] ClaimError),
    /// Bound in a way that is not understood.
    #[error("the token cannot be confirmed")]
    Confirmation(#[from] ConfirmationError),
    /// Too late.
    #[error("the token expired at {expires}, and it is {now}")]
    Expired {
        /// Its `exp`.
        expires: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// Its issuer says that it is not active.
    #[error("the token is not active, says its issuer")]
    Inactive,
    /// Issued by somebody else.
    #[error("the token is from {found:?}, not from {expected:?}")]
    Issuer {
        /// Whom the token names.
        found: String,
        /// Whom the settings name.
        expected: String,
    },
    /// From a clock that is ahead.
    #[error("the token was issued at {issued}, and it is {now}")]
    IssuedInFuture {
        /// Its `iat`.
        issued: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// Valid for longer than is accepted.
    #[error("the token lives for {} s; the most is {} s", lifetime.as_secs(), lifetime_max.as_secs())]
    Lifetime {
        /// From its `iat` to its `exp`.
        lifetime: Duration,
        /// The most.
        lifetime_max: Duration,
    },
    /// No signed token.
    #[error("the token cannot be read")]
    Malformed(#[source] CompactError),
    /// A token for something else: an ID token, a refresh token, an event.
    #[error("the token is no access token: it has the claim {claim:?}")]
    NoAccessToken {
        /// The claim by which it is known.
        claim: &'static str,
    },
    /// Too early.
    #[error("the token is valid from {not_before}, and it is {now}")]
    NotYetValid {
        /// Its `nbf`.
        not_before: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// The signature is not the key's.
    #[error("the signature of the token is not that of the key {key:?} of {issuer:?}")]
    Signature {
        /// The name of the key.
        key: Option<String>,
        /// The issuer.
        issuer: String,
    },
    /// Issued too long ago.
    #[error("the token was issued at {issued}, it is {now}, and the most is {} s", age_max.as_secs())]
    TooOld {
        /// Its `iat`.
        issued: Timestamp,
        /// What time it is.
        now: Timestamp,
        /// The most.
        age_max: Duration,
    },
    /// Its header says that it is something else.
    #[error("the token has the type {found:?}, not {expected}")]
    Type {
        /// The token's `typ`.
        found: Option<String>,
        /// What is accepted.
        expected: &'static str,
    },
    /// The issuer has no such key, as far as is known here. It may have a new one.
    #[error("the key {key:?} for {algorithm} is none that is known of {issuer:?}")]
    UnknownKey {
        /// The name of the key.
        key: Option<String>,
        /// The token's algorithm.
        algorithm: Algorithm,
        /// The issuer.
        issuer: String,
    },
}

impl TokenRefusal {
    /// A short fixed word for metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Algorithm { .. } | Self::Malformed(CompactError::Algorithm(_)) => "token_algorithm",
            Self::AmbiguousKey { .. } => "token_ambiguous_key",
            Self::Answer(_) => "token_answer",
            Self::Audience { .. } => "token_audience",
            Self::Claim(_) => "token_claim",
            Self::Confirmation(_) => "token_confirmation",
            Self::Expired { .. } => "token_expired",
            Self::Inactive => "token_inactive",
            Self::IssuedInFuture { .. } | Self::NotYetValid { .. } => "token_not_yet_valid",
            Self::Issuer { .. } => "token_issuer",
            Self::Lifetime { .. } | Self::TooOld { .. } => "token_lifetime",
            Self::Malformed(CompactError::Encrypted) => "token_encrypted",
            Self::Malformed(CompactError::Header { .. } | CompactError::HeaderMember { .. }) => "token_header",
            Self::Malformed(
                CompactError::Base64 { .. }
                | CompactError::Json { .. }
                | CompactError::Parts { .. }
                | CompactError::TooLong { .. },
            ) => "token_malformed",
            Self::NoAccessToken { .. } => "token_id_token",
            Self::Signature { .. } => "token_signature",
            Self::Type { .. } => "token_type",
            Self::UnknownKey { .. } => "token_unknown_key",
        }
    }
}
