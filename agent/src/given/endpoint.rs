//! A token endpoint: where it is, how we prove there who we are, and what it says.
//!
//! A client proves itself by a secret (RFC 6749 §2.3.1) or by its certificate (RFC 8705 §2). Tokens that are bound to the certificate
//! (RFC 8705 §3) are not for a backend of this host: it is reached without TLS, where no certificate is shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::tls::TlsError;
use countersign_credentials::discovery::{Discovery, DiscoveryError, locations};
use countersign_credentials::grant::{Grant, GrantError, error_code};
use countersign_credentials::url::HttpUrl;
use http::StatusCode;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::place::{Unwritable, Written, header};
use crate::config::checked::{BackendToken, ClientProof, TokenEndpoint};
use crate::web::{Question, Web, WebError, client_secret_basic};

/// How much earlier than it ends a token counts as ended: a request is on its way for a while.
const LEEWAY: Duration = Duration::from_secs(5);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the answer of the token endpoint is none")]
    Answer(#[from] GrantError),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("the metadata of the issuer names no token endpoint")]
    NoEndpoint,
    #[error("the token endpoint answers {status} {}", code.as_deref().unwrap_or("without a code"))]
    Refused { status: StatusCode, code: Option<String> },
    #[error("what proves who we are is not at hand")]
    Unproved,
    #[error("the token cannot be given to a backend")]
    Unwritable(#[from] Unwritable),
    #[error(transparent)]
    Web(#[from] WebError),
}

/// A token as a backend is given it.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) written: Written,
    /// The first second in which it is not used any more.
    pub(super) ends: Timestamp,
    /// How long it counted when it was given.
    pub(super) lifetime: Duration,
}

/// A token endpoint.
pub(super) struct Endpoint {
    pub(super) settings: Arc<BackendToken>,
    pub(super) clock: Clock,
    proof: Mutex<Option<Proof>>,
    discovered: Mutex<Option<HttpUrl>>,
}

/// How the endpoint is asked, and what proves there who we are. Follows the renewal of certificates and what commands print.
#[derive(Clone)]
struct Proof {
    web: Web,
    by: ProofBy,
}

#[derive(Clone)]
enum ProofBy {
    Certificate(Arc<X509Svid>),
    Secret(Zeroizing<String>),
}

impl Endpoint {
    /// Not proved to yet.
    pub(super) fn new(settings: &Arc<BackendToken>, clock: &Clock) -> Self {
        let (proof, discovered) = (Mutex::default(), Mutex::default());
        Self { settings: Arc::clone(settings), clock: clock.clone(), proof, discovered }
    }

    /// Takes up the certificates and secrets that are at hand now. Whether it can be asked from now on, and could not before.
    pub(super) fn prove(
        &self,
        svids: &BTreeMap<San, Arc<X509Svid>>,
        printed: impl Fn(&str) -> Option<Arc<Zeroizing<String>>>,
    ) -> Result<bool, TlsError> {
        let by = match &self.settings.proof {
            ClientProof::Identity(identity) => svids.get(identity).cloned().map(ProofBy::Certificate),
            ClientProof::Secret(template) => template.fill(printed).map(ProofBy::Secret),
        };
        let Some(by) = by else { return Ok(false) };
        let mut proof = locked(&self.proof);
        if proof.as_ref().is_some_and(|known| known.by.is_same(&by)) {
            return Ok(false);
        }
        let own = match &by {
            ProofBy::Certificate(own) => Some(own),
            ProofBy::Secret(_) => None,
        };
        let web = Web::new(&self.settings.server, own, &self.clock)?;
        Ok(proof.replace(Proof { web, by }).is_none())
    }

    /// Whether it can be asked.
    pub(super) fn is_proved(&self) -> bool {
        locked(&self.proof).is_some()
    }

    /// Asks for a token.
    pub(super) async fn ask(&self, grant: Grant<'_>) -> Result<Granted, AskError> {
        let proof = locked(&self.proof).clone().ok_or(AskError::Unproved)?;
        let url = self.url(&proof).await?;
        let asked = self.clock.now();
        let (status, answer) = proof.web.ask_any(&url, self.question(grant, &proof)).await?;
        if status != StatusCode::OK {
            return Err(AskError::Refused { status, code: error_code(&answer) });
        }
        let given = grant.read(&answer)?;
        let lifetime = given.expires_in.unwrap_or(self.settings.lifetime_unnamed);
        let written = header(["Bearer ", &given.token])?;
        // Counted from before the question: what was given since then ends later.
        let leeway = Duration::from_secs((lifetime / 10).as_secs()).min(LEEWAY);
        let ends = asked.plus(lifetime - leeway);
        Ok(Granted { written, ends, lifetime })
    }

    fn question(&self, grant: Grant<'_>, proof: &Proof) -> Question {
        let settings = &*self.settings;
        let mut fields = grant.fields(&settings.wanted);
        match &proof.by {
            // The client's name is needed to find what its certificate is compared with (RFC 8705 §2).
            ProofBy::Certificate(_) => {
                fields.push(("client_id", &settings.client_id));
                Question::form(&fields)
            }
            ProofBy::Secret(secret) => {
                let mut question = Question::form(&fields);
                question.headers.insert(AUTHORIZATION, client_secret_basic(&settings.client_id, secret));
                question
            }
        }
    }

    async fn url(&self, proof: &Proof) -> Result<HttpUrl, AskError> {
        match &self.settings.endpoint {
            TokenEndpoint::Url(url) => Ok(url.clone()),
            TokenEndpoint::Issuer { .. } => {
                let discovered = locked(&self.discovered).clone();
                match discovered {
                    Some(url) => Ok(url),
                    None => {
                        let url = self.discover(proof).await?;
                        locked(&self.discovered).replace(url.clone());
                        Ok(url)
                    }
                }
            }
        }
    }

    /// What the issuer says of itself.
    async fn discover(&self, proof: &Proof) -> Result<HttpUrl, AskError> {
        let TokenEndpoint::Issuer { issuer, transport } = &self.settings.endpoint else {
            return Err(AskError::NoEndpoint);
        };
        let document = proof.web.first_of(&locations(issuer, *transport)?).await?;
        let Discovery { endpoints, mtls_endpoints, .. } = Discovery::parse(&document, issuer, *transport)?;
        let by_certificate = mtls_endpoints.token.filter(|_| matches!(proof.by, ProofBy::Certificate(_)));
        by_certificate.or(endpoints.token).ok_or(AskError::NoEndpoint)
    }
}

impl ProofBy {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Certificate(one), Self::Certificate(other)) => Arc::ptr_eq(one, other),
            (Self::Secret(one), Self::Secret(other)) => one == other,
            (Self::Certificate(_), Self::Secret(_)) | (Self::Secret(_), Self::Certificate(_)) => false,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
