//! Why a credential is not believed.

use countersign_certs::time::Timestamp;
use countersign_credentials::api_key::ApiKeyError;
use countersign_credentials::confirmation::Unconfirmed;
use countersign_credentials::dpop::{ProofRefusal, ReplayRefusal};
use countersign_credentials::jwt::TokenRefusal;
use countersign_credentials::lockout::LockedUntil;
use countersign_credentials::password::BasicError;
use http::StatusCode;

use crate::policy::credential::CredentialSet;

/// What is wrong with the credential that a request shows, or with showing none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialRefusal {
    #[error("too many passwords are checked at once")]
    PasswordBusy,
    #[error("too many tokens are asked about at once")]
    IssuerBusy,
    #[error("the issuer {0:?} does not answer")]
    IssuerUnavailable(String),
    #[error("no issuer of tokens that is known here has made it")]
    IssuerUnknown,
    #[error("the API key does not give any more what it gave")]
    KeyChanged,
    #[error("the API key {id} is disabled since {since}")]
    KeyDisabled { id: String, since: Timestamp },
    #[error("the API key {id} expired at {at}")]
    KeyExpired { id: String, at: Timestamp },
    #[error("this is no API key")]
    KeyMalformed(#[from] ApiKeyError),
    #[error("the secret of the API key {id} was replaced, and counted until {until}")]
    KeyReplaced { id: String, until: Timestamp },
    #[error("the API key {id} was revoked at {since}")]
    KeyRevoked { id: String, since: Timestamp },
    #[error("no API key has this secret")]
    KeyUnknown,
    #[error(transparent)]
    LockedOut(#[from] LockedUntil),
    #[error("it shows no {0}")]
    Missing(CredentialSet),
    #[error("what stands in the Authorization header is no credential that is accepted here")]
    NotAccepted,
    #[error("the credential is not text")]
    NotText,
    #[error("this is no name and password")]
    PasswordMalformed(#[from] BasicError),
    #[error("nobody has this name and this password")]
    PasswordWrong,
    #[error("the DPoP proof is refused")]
    Proof(#[from] ProofRefusal),
    #[error("the DPoP proof is for {0:?}, as is the request, and that is no name in the certificate of this service")]
    ProofElsewhere(String),
    #[error(transparent)]
    ProofSpent(#[from] ReplayRefusal),
    #[error("it shows more than one credential")]
    Several,
    #[error("the token is refused")]
    Token(#[from] TokenRefusal),
    #[error("the issuer {0:?} has withdrawn the key that signed the token")]
    TokenKeyWithdrawn(String),
    #[error("the token is bound to nothing, and only bound ones are accepted")]
    TokenUnbound,
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl CredentialRefusal {
    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::PasswordBusy => "password_busy",
            Self::IssuerBusy => "issuer_busy",
            Self::IssuerUnavailable(_) => "issuer_unavailable",
            Self::IssuerUnknown => "token_issuer",
            Self::KeyChanged => "key_changed",
            Self::KeyDisabled { .. } => "key_disabled",
            Self::KeyExpired { .. } => "key_expired",
            Self::KeyMalformed(_) => "key_malformed",
            Self::KeyReplaced { .. } => "key_replaced",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::KeyUnknown => "key_unknown",
            Self::LockedOut(_) => "locked_out",
            Self::Missing(_) => "credential_missing",
            Self::NotAccepted => "credential_not_accepted",
            Self::NotText => "credential_malformed",
            Self::PasswordMalformed(_) => "password_malformed",
            Self::PasswordWrong => "password_wrong",
            Self::Proof(refusal) => refusal.reason(),
            Self::ProofElsewhere(_) => "proof_target",
            Self::ProofSpent(refusal) => refusal.reason(),
            Self::Several => "credential_ambiguous",
            Self::Token(refusal) => refusal.reason(),
            Self::TokenKeyWithdrawn(_) => "token_key_withdrawn",
            Self::TokenUnbound => "token_unbound",
            Self::Unconfirmed(refusal) => refusal.reason(),
        }
    }

    /// The HTTP status that the caller gets (RFC 6750 §3.1).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotText | Self::Several => StatusCode::BAD_REQUEST,
            Self::PasswordBusy | Self::IssuerBusy | Self::IssuerUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::LockedOut(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::IssuerUnknown
            | Self::Proof(_)
            | Self::ProofElsewhere(_)
            | Self::ProofSpent(_)
            | Self::Token(_)
            | Self::TokenKeyWithdrawn(_)
            | Self::TokenUnbound
            | Self::Unconfirmed(_)
            | Self::KeyChanged
            | Self::KeyDisabled { .. }
            | Self::KeyExpired { .. }
            | Self::KeyMalformed(_)
            | Self::KeyReplaced { .. }
            | Self::KeyRevoked { .. }
            | Self::KeyUnknown
            | Self::Missing(_)
            | Self::NotAccepted
            | Self::PasswordMalformed(_)
            | Self::PasswordWrong => StatusCode::UNAUTHORIZED,
        }
    }

    /// In how many seconds it is worth trying again; none where waiting does not help.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<u64> {
        if let Self::LockedOut(locked) = self {
            return Some(locked.until.since(now).as_secs().max(1));
        }
        matches!(self, Self::PasswordBusy | Self::IssuerBusy | Self::IssuerUnavailable(_)).then_some(1)
    }
}
