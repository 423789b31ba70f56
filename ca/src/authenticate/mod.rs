//! First step: who asks? From evidence to an [`Applicant`], which only this module can make.

mod host_svid;
mod join_token;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::certs::issuance::Reason;
use crate::certs::san::San;
use crate::certs::spiffe_id::SpiffeId;
use crate::certs::time::Timestamp;
use crate::certs::token::JoinSecret;
use crate::certs::verify::{PeerRefusal, Trust, VerifiedPeer};
use crate::registry::{Registry, TokenName};
use crate::store::StoreError;

pub(crate) use join_token::TokenClaim;

/// What an asker shows of itself.
pub(crate) enum Evidence {
    /// The CA asks for the certificate of its own listener.
    CertificateAuthority,
    /// A certificate, proven in the handshake.
    HostSvid {
        /// Who the handshake found.
        peer: Arc<VerifiedPeer>,
        /// Where the connection comes from.
        address: SocketAddr,
    },
    /// A join token's secret.
    JoinToken {
        secret: JoinSecret,
        /// Where the connection comes from.
        address: SocketAddr,
    },
    /// Nothing at all.
    Nothing {
        /// Where the connection comes from.
        address: SocketAddr,
    },
}

/// Somebody who has proven who they are.
#[must_use]
pub(crate) struct Applicant(Kind);

/// The three kinds of applicant.
pub(crate) enum Kind {
    /// This CA itself.
    CertificateAuthority,
    /// A host that is already a member.
    Host {
        /// Its name.
        host: String,
        /// Its ID, which it may renew.
        id: SpiffeId,
    },
    /// A host that becomes one by spending a token.
    NewHost {
        /// The name that the token gives it.
        host: String,
        /// The right to spend the token, once.
        claim: TokenClaim,
    },
}

/// What a refused asker claimed to be, for the journal. A claim, not a fact.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// The name in the certificate shown.
    pub(crate) peer: Option<String>,
    /// Where the connection came from.
    pub(crate) address: Option<SocketAddr>,
    /// The identity that was wanted.
    pub(crate) wanted: Option<SpiffeId>,
}

/// Why nobody was recognised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAuthenticated {
    /// A certificate of a workload, of somebody else, or of the CA itself.
    #[error("{found} is not a host of this trust domain")]
    NotAHost {
        /// Whom the certificate names.
        found: San,
    },
    /// No certificate.
    #[error("a host must show its own certificate here; enroll first")]
    NoCertificate,
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// The token's time is over.
    #[error("the join token expired at {expired}, it is {now}")]
    TokenExpired {
        /// End of its validity.
        expired: Timestamp,
        /// Our time.
        now: Timestamp,
        /// Which token, for the journal.
        name: TokenName,
    },
    /// The token was withdrawn by an operator.
    #[error("the join token was revoked at {at}")]
    TokenRevoked {
        at: Timestamp,
        /// Which token, for the journal.
        name: TokenName,
    },
    /// The token was used before.
    #[error("the join token was spent at {at}")]
    TokenSpent {
        at: Timestamp,
        /// Which token, for the journal.
        name: TokenName,
    },
    /// No such token.
    #[error("this CA never gave out that join token")]
    TokenUnknown,
    /// The certificate was good at the handshake and is no longer.
    #[error(transparent)]
    Withdrawn(#[from] PeerRefusal),
}

/// Recognises whoever asks.
pub(crate) async fn applicant(
    evidence: Evidence,
    trust: &Trust,
    registry: &Registry,
    now: Timestamp,
) -> Result<Applicant, NotAuthenticated> {
    match evidence {
        Evidence::CertificateAuthority => Ok(Applicant(Kind::CertificateAuthority)),
        Evidence::HostSvid { peer, .. } => {
            let (host, id) = host_svid::check(&peer, trust, now)?;
            Ok(Applicant(Kind::Host { host, id }))
        }
        Evidence::JoinToken { secret, address } => {
            let (host, claim) = join_token::check(&secret, address, registry, now).await?;
            Ok(Applicant(Kind::NewHost { host, claim }))
        }
        Evidence::Nothing { .. } => Err(NotAuthenticated::NoCertificate),
    }
}

impl Applicant {
    /// Gives the applicant away for what it is.
    pub(crate) fn into_kind(self) -> Kind {
        self.0
    }
}

impl Evidence {
    /// What is claimed, without any secret.
    pub(crate) fn claim(&self, wanted: Option<&SpiffeId>) -> Claim {
        let (peer, address) = match self {
            Self::CertificateAuthority => (None, None),
            Self::HostSvid { peer, address } => (Some(peer.principal().to_string()), Some(*address)),
            Self::JoinToken { address, .. } | Self::Nothing { address } => (None, Some(*address)),
        };
        Claim { peer, address, wanted: wanted.cloned() }
    }
}

impl NotAuthenticated {
    /// The token that was shown, if it is one of ours. It is told to operators and not to the peer.
    pub(crate) fn token(&self) -> Option<&TokenName> {
        match self {
            Self::TokenExpired { name, .. } | Self::TokenRevoked { name, .. } | Self::TokenSpent { name, .. } => {
                Some(name)
            }
            Self::NotAHost { .. } | Self::NoCertificate | Self::Store(_) | Self::TokenUnknown | Self::Withdrawn(_) => {
                None
            }
        }
    }

    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::NotAHost { .. } | Self::NoCertificate => Reason::NotAHost,
            Self::Store(_) => Reason::CaUnavailable,
            Self::TokenExpired { .. } => Reason::TokenExpired,
            // A withdrawn token is to its bearer like one that never was.
            Self::TokenRevoked { .. } | Self::TokenUnknown => Reason::TokenUnknown,
            Self::TokenSpent { .. } => Reason::TokenSpent,
            Self::Withdrawn(PeerRefusal::Revoked { .. }) => Reason::IdentityRevoked,
            Self::Withdrawn(_) => Reason::NotAHost,
        }
    }
}
