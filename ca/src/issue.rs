//! The story of this program: how a certificate comes to be.
//!
//! Each step returns evidence that only it can make, and the next step takes it by value: there is no way to sign what was
//! not recorded, and no way to deliver what was not signed for the one who asked. A refusal at any step ends the story; it
//! is recorded too.

use std::sync::Arc;

use tokio::sync::watch;

use crate::authenticate::{self, Evidence, NotAuthenticated};
use crate::authority::Signing;
use crate::authorize::{self, Denied};
use crate::build::{self, Unbuildable};
use crate::certs::issuance::Reason;
use crate::certs::spiffe_id::SpiffeId;
use crate::certs::time::Clock;
use crate::config::Settings;
use crate::deliver::{self, Delivery};
use crate::record::{Journal, Unrecorded, word};
use crate::registry::{Registry, TokenName};
use crate::sign::Unsigned;
use crate::watch::Published;

/// What is asked, as it came in.
pub(crate) struct Request {
    /// What the asker shows of itself.
    pub(crate) evidence: Evidence,
    /// The identity that is wanted; a new host does not know its own yet.
    pub(crate) wanted: Option<SpiffeId>,
    /// A signing request in PEM.
    pub(crate) csr: String,
}

/// What the story needs of the CA. The steps are not given all of it: only the one that signs sees the signer.
pub(crate) struct Ca {
    /// The authority that signs now, with its key.
    pub(crate) signing: watch::Receiver<Arc<Signing>>,
    /// What the operator has granted.
    pub(crate) registry: Registry,
    /// What is written before and after each signature.
    pub(crate) journal: Journal,
    /// Whom we believe and what is revoked, now.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// What the config says.
    pub(crate) settings: Settings,
    /// The time.
    pub(crate) clock: Clock,
}

/// Issues one certificate, or refuses and says why.
pub(crate) async fn issue(request: Request, ca: &Ca) -> Result<Delivery, Refusal> {
    let asked = request.evidence.claim(request.wanted.as_ref());
    let outcome = issue_recorded(request, ca).await;
    if let Err(refusal) = &outcome {
        ca.journal.refused(&asked, refusal).await;
    }
    outcome
}

async fn issue_recorded(request: Request, ca: &Ca) -> Result<Delivery, Refusal> {
    // One time and one authority from the first step to the last, whatever changes meanwhile.
    let now = ca.clock.now();
    let signing = Arc::clone(&ca.signing.borrow());
    let Signing { authority, signer } = &*signing;
    let trust = Arc::clone(&ca.published.borrow().trust);
    let Ca { registry, settings, .. } = ca;
    let backdate = settings.issuance.backdate;

    let applicant = authenticate::applicant(request.evidence, &trust, registry, now).await?; // 1. Who asks?
    let grant = authorize::grant(applicant, request.wanted.as_ref(), registry, settings).await?; // 2. May they have it?
    let ready = build::certificate(grant, &request.csr, authority, backdate, now)?; // 3. Exactly what is signed?
    let intended = ca.journal.intend(ready, &settings.limits).await?; // 4. On disk before the key is used.
    let signed = signer.sign(intended, authority)?; // 5. The intent is spent here.
    let issued = ca.journal.issued(signed).await?; // 6. On disk before it leaves.
    Ok(deliver::chain(issued, authority))
}

/// Why no certificate was issued, by the step that refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nobody we know.
    #[error(transparent)]
    Authenticate(#[from] NotAuthenticated),
    /// Known, but not entitled.
    #[error(transparent)]
    Authorize(#[from] Denied),
    /// Entitled, but not to this certificate.
    #[error(transparent)]
    Build(#[from] Unbuildable),
    /// We cannot write it down.
    #[error(transparent)]
    Record(#[from] Unrecorded),
    /// We cannot sign it.
    #[error(transparent)]
    Sign(#[from] Unsigned),
}

impl Refusal {
    /// The word by which the journal knows it. It tells apart what is one thing to a peer.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Authenticate(NotAuthenticated::TokenRevoked { .. }) => "token_revoked".to_owned(),
            Self::Authenticate(_) | Self::Authorize(_) | Self::Build(_) | Self::Record(_) | Self::Sign(_) => {
                word(self.reason())
            }
        }
    }

    /// The join token that was shown, if it is one of ours.
    pub(crate) fn token(&self) -> Option<&TokenName> {
        match self {
            Self::Authenticate(error) => error.token(),
            Self::Record(error) => error.token(),
            Self::Authorize(_) | Self::Build(_) | Self::Sign(_) => None,
        }
    }

    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Authenticate(error) => error.reason(),
            Self::Authorize(error) => error.reason(),
            Self::Build(error) => error.reason(),
            Self::Record(error) => error.reason(),
            Self::Sign(_) => Reason::CaUnavailable,
        }
    }
}
