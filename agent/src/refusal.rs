//! Everything that can end a connection or a request other than its own end: whose fault it is, what the peer is told, and
//! what the operator reads.

use std::io;

use countersign_certs::time::Timestamp;
use countersign_certs::verify::PeerRefusal;
use http::StatusCode;

use crate::authenticate::refusal::CredentialRefusal;
use crate::in_words::in_one_line;
use crate::limit::LimitRefusal;
use crate::policy::credential::CredentialSet;
use crate::policy::local::LocalCaller;
use crate::request::RequestError;

/// The word for requests that are refused before any rule is asked.
pub(crate) const AMBIGUOUS: &str = "request_ambiguous";

/// Why something is refused or was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    // The peer's fault.
    /// The caller went away before its request was whole.
    #[error("the caller went away before its request was whole")]
    CallerGone,
    /// The peer's certificate.
    #[error(transparent)]
    Certificate(Box<PeerRefusal>),
    /// The credential of the request. `accepted` is what would have done.
    #[error("the credential is refused")]
    Credential { source: Box<CredentialRefusal>, accepted: CredentialSet },
    /// The TLS handshake for any other reason.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The handshake took too long.
    #[error("the TLS handshake was not done within {0:?}")]
    HandshakeTimeout(std::time::Duration),
    /// What the peer sent is no HTTP.
    #[error("the peer broke the protocol")]
    Protocol(#[source] hyper::Error),
    /// What the peer asks for means different things to different programs.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A bound of `[limits]`.
    #[error("{what}: the limit is {limit}")]
    TooMany { what: &'static str, limit: u32 },

    // The policy.
    /// No rule allows it.
    #[error("denied: {words}")]
    Denied { reason: &'static str, words: String, observed: Option<String> },
    /// The API key is not good for what it is used for.
    #[error("the API key {id} is not for {what}")]
    KeyNotFor { id: String, what: String },
    /// It is too much.
    #[error(transparent)]
    Limit(#[from] Box<LimitRefusal>),
    /// No rule of the outbound could allow this program anything.
    #[error("{0} holds no role that a rule of this outbound names")]
    LocalCaller(LocalCaller),
    /// What was allowed is allowed no longer.
    #[error(transparent)]
    Withdrawn(#[from] Withdrawn),

    // The backend's, or the other agent's.
    /// What it must be given is not at hand.
    #[error("the credential that the backend is to be given cannot be had")]
    BackendCredential,
    /// For this caller it is given none.
    #[error("no credential for the backend is given in exchange for the caller's own")]
    BackendCredentialRefused,
    /// The backend could not be told whose request it is.
    #[error("the backend cannot be told who calls: the name cannot stand in a header")]
    CallerUntellable,
    /// It has as many connections as it may have.
    #[error("{target} has {limit} connections, which is the limit")]
    BackendFull { target: String, limit: u32 },
    /// No connection.
    #[error("{target} cannot be reached")]
    Unreachable { target: String, source: io::Error },
    /// The other agent could not be believed, or did not believe us.
    #[error("{target} is not who was called")]
    WrongService { target: String, source: Box<PeerRefusal> },
    /// It broke off or broke the protocol.
    #[error("{target} failed to answer")]
    Broken { target: String, source: hyper::Error },
    /// The answer broke off in the middle.
    #[error("the answer of {target} broke off: {detail}")]
    AnswerBroken { target: String, detail: String },
    /// The answer to an upgrade is no upgrade.
    #[error("the upgrade was lost on the way")]
    UpgradeLost,

    // Our own.
    /// The audit line could not be written, and what cannot be recorded is refused.
    #[error("audit lines cannot be written")]
    AuditUnavailable,
    /// A configuration of the TLS library was refused.
    #[error("TLS cannot be set up")]
    Tls(#[source] countersign_certs::tls::TlsError),
    /// Our own certificate has ended.
    #[error("our own certificate for {identity} ended at {not_after}")]
    OwnCertificate { identity: String, not_after: Timestamp },
    /// Bytes could not be moved.
    #[error("the connection broke")]
    Transfer(#[source] io::Error),
}

/// Why something that was under way had to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Withdrawn {
    /// The answer was whole before the question was.
    #[error("the answer was whole before the request was")]
    Answered,
    /// The credential of the request counts no longer.
    #[error("the credential counts no longer: {0}")]
    Credential(&'static str),
    /// The certificate of one side ended.
    #[error("a certificate of this connection ended at {0}")]
    Expired(Timestamp),
    /// Nobody has proved who they are on this connection, and newer ones wait.
    #[error(
        "nobody had proved who they are, a worker had more than {limit} such connections, and this was the oldest from where most came"
    )]
    GaveWay { limit: u32 },
    /// Nothing was sent for too long.
    #[error("nothing was sent for {0:?}")]
    Idle(std::time::Duration),
    /// The peer is trusted no longer.
    #[error(transparent)]
    Peer(Box<PeerRefusal>),
    /// No rule allows it any more.
    #[error("no rule allows it any more: {0}")]
    Policy(String),
    /// The inbound or outbound is no longer in the config.
    #[error("the route is no longer configured")]
    Route,
    /// The drain time of a stopping agent is over.
    #[error("the agent stopped")]
    Stopped,
}

impl Refusal {
    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(refusal) => refusal.reason(),
            Self::Credential { source, .. } => source.reason(),
            Self::Handshake(error) if is_missing_certificate(error) => "certificate_missing",
            Self::Handshake(error) if error.kind() == io::ErrorKind::UnexpectedEof => "handshake_abandoned",
            Self::Handshake(_) => "handshake_failed",
            Self::HandshakeTimeout(_) => "handshake_timeout",
            Self::Protocol(_) => "protocol_error",
            Self::Request(_) => AMBIGUOUS,
            Self::TooMany { .. } => "limit",
            Self::Denied { reason, .. } => reason,
            Self::KeyNotFor { .. } => "key_not_for_this",
            Self::Limit(refusal) => refusal.reason(),
            Self::LocalCaller(_) => "local_caller_not_allowed",
            Self::Withdrawn(withdrawn) => withdrawn.reason(),
            Self::BackendCredential => "backend_credential",
            Self::BackendCredentialRefused => "backend_credential_refused",
            Self::CallerUntellable => "caller_untellable",
            Self::BackendFull { .. } => "backend_full",
            Self::Unreachable { .. } => "backend_unreachable",
            Self::WrongService { .. } => "wrong_service",
            Self::Broken { .. } | Self::AnswerBroken { .. } => "backend_broke",
            Self::CallerGone => "caller_gone",
            Self::UpgradeLost => "upgrade_lost",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Tls(_) => "tls_setup",
            Self::OwnCertificate { .. } => "own_certificate_ended",
            Self::Transfer(_) => "connection_broke",
        }
    }

    /// The HTTP status that the peer gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Withdrawn(Withdrawn::GaveWay { .. } | Withdrawn::Stopped) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Credential { source, .. } => source.status(),
            Self::BackendCredentialRefused
            | Self::CallerUntellable
            | Self::Certificate(_)
            | Self::Denied { .. }
            | Self::KeyNotFor { .. }
            | Self::LocalCaller(_)
            | Self::Withdrawn(_) => StatusCode::FORBIDDEN,
            Self::Request(_) | Self::Protocol(_) | Self::Handshake(_) | Self::CallerGone => StatusCode::BAD_REQUEST,
            Self::HandshakeTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Limit(refusal) if matches!(**refusal, LimitRefusal::StoreAway { .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Limit(_) | Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreachable { .. }
            | Self::WrongService { .. }
            | Self::Broken { .. }
            | Self::AnswerBroken { .. }
            | Self::UpgradeLost
            | Self::Transfer(_) => StatusCode::BAD_GATEWAY,
            Self::AuditUnavailable
            | Self::BackendCredential
            | Self::BackendFull { .. }
            | Self::OwnCertificate { .. }
            | Self::Tls(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// In how many seconds it is worth trying again (RFC 9110 §10.2.3); none where waiting does not help.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<u64> {
        if matches!(self, Self::BackendCredential | Self::Withdrawn(Withdrawn::GaveWay { .. })) {
            return Some(1);
        }
        if let Self::Limit(refusal) = self {
            return Some(refusal.retry_after());
        }
        let Self::Credential { source, .. } = self else { return None };
        source.retry_after(now)
    }

    /// The gRPC status that a gRPC caller gets (grpc/grpc: doc/statuscodes.md).
    pub(crate) fn grpc_status(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::BAD_REQUEST => "3",
            StatusCode::TOO_MANY_REQUESTS => "8",
            _ => "14",
        }
    }

    /// Whether a decision of ours was "no", as opposed to something that went wrong.
    pub(crate) fn is_denial(&self) -> bool {
        if let Self::Handshake(error) = self {
            return is_missing_certificate(error);
        }
        if let Self::Limit(refusal) = self {
            return !matches!(**refusal, LimitRefusal::StoreAway { .. });
        }
        matches!(
            self,
            Self::BackendCredentialRefused
                | Self::CallerUntellable
                | Self::Certificate(_)
                | Self::Credential { .. }
                | Self::Denied { .. }
                | Self::KeyNotFor { .. }
                | Self::LocalCaller(_)
                | Self::Withdrawn(_)
                | Self::Request(_)
                | Self::TooMany { .. }
        )
    }

    /// What the rules that are only observed would have changed.
    pub(crate) fn observed(&self) -> Option<&str> {
        let Self::Denied { observed, .. } = self else { return None };
        observed.as_deref()
    }

    /// The whole story in one line.
    pub(crate) fn detail(&self) -> String {
        in_one_line(self)
    }
}

impl Withdrawn {
    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Answered => "withdrawn_answered",
            Self::Credential(_) => "withdrawn_credential",
            Self::Expired(_) => "withdrawn_expired",
            Self::GaveWay { .. } => "gave_way",
            Self::Idle(_) => "idle_timeout",
            Self::Peer(refusal) if matches!(**refusal, PeerRefusal::Revoked { .. }) => "withdrawn_revoked",
            Self::Peer(_) => "withdrawn_untrusted",
            Self::Policy(_) => "withdrawn_policy",
            Self::Route => "withdrawn_route",
            Self::Stopped => "withdrawn_stopped",
        }
    }
}

fn is_missing_certificate(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<countersign_certs::tls::TlsError>());
    matches!(tls, Some(countersign_certs::tls::TlsError::NoCertificatesPresented))
}
