//! The issuers of tokens and their keys: fetched by one task for each issuer, looked at by every worker.
//!
//! A worker that meets a key that is not known asks for newer ones and waits. However many wait, one fetch is made, and not more often
//! than the issuer can bear. Keys that cannot be fetched anew count for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_certs::digest::sha256;
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::tls::TlsError;
use countersign_credentials::discovery::{Discovery, DiscoveryError, Endpoints, Transport, locations};
use countersign_credentials::jwk::{KeySet, KeySetError, Thumbprint};
use countersign_credentials::url::HttpUrl;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::checked::{Issuer, KeySource};
use crate::in_words::in_one_line;
use crate::web::{Question, Web, WebError};

/// How long after a fetch the next one may be made because of a key that is not known. Whoever can send tokens can ask for it.
const PAUSE: Duration = Duration::from_secs(10);

/// How long after a fetch that failed the next one may be made because of requests that wait for keys.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long a request waits for keys.
const PATIENCE: Duration = Duration::from_secs(5);

/// An issuer and what is known of it now.
pub(crate) struct LiveIssuer {
    pub(crate) settings: Arc<Issuer>,
    known: watch::Receiver<Known>,
    /// Grows with each set of keys that differs from the one before.
    epoch: Arc<AtomicU64>,
    /// The number of the try that somebody waits for. A try under way serves those who come while it lasts.
    wanted: watch::Sender<u64>,
    clock: Clock,
    task: Option<JoinHandle<()>>,
    web: Option<Web>,
}

/// The state of an issuer's keys.
#[derive(Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    /// SHA-256 of the document that they stood in.
    document: [u8; 32],
    endpoints: Endpoints,
    /// When they were fetched; none for keys in a file, which do not age.
    fetched: Option<Timestamp>,
    /// When fetching was tried last, well or badly.
    tried: Option<Timestamp>,
    tries: u64,
}

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("the metadata of the issuer names no jwks_uri")]
    NoKeys,
    #[error(transparent)]
    Set(#[from] KeySetError),
    #[error("none of the keys is for an accepted algorithm")]
    Unusable,
    #[error(transparent)]
    Web(#[from] WebError),
}

/// Every issuer of a config. One whose settings stay the same goes on with what it knows.
pub(crate) fn follow(
    wanted: &[Arc<Issuer>],
    now: &[Arc<LiveIssuer>],
    clock: &Clock,
) -> Result<Vec<Arc<LiveIssuer>>, TlsError> {
    let live = |settings: &Arc<Issuer>| match now.iter().find(|live| live.settings == *settings) {
        Some(live) => Ok(Arc::clone(live)),
        None => {
            let same_keys = now.iter().find(|live| live.settings.has_keys_of(settings));
            let known = same_keys.map(|live| live.known.borrow().clone()).unwrap_or_default();
            LiveIssuer::start(Arc::clone(settings), known, clock).map(Arc::new)
        }
    };
    wanted.iter().map(live).collect()
}

impl LiveIssuer {
    /// Begins with what is known of an issuer with the same keys, so that a changed config loses no request.
    fn start(settings: Arc<Issuer>, known: Known, clock: &Clock) -> Result<Self, TlsError> {
        let epoch = Arc::<AtomicU64>::default();
        let (wanted, wants) = watch::channel(known.tries);
        let mut web = None;
        let (known, task) = match &settings.keys {
            KeySource::File { keys, .. } => {
                let known = Known { keys: Some(Arc::clone(keys)), ..Known::default() };
                (watch::Sender::new(known).subscribe(), None)
            }
            KeySource::Fetched { server, .. } => {
                let (sender, receiver) = watch::channel(known);
                let fetching = Fetching {
                    web: web.insert(Web::new(server, None, clock)?).clone(),
                    settings: Arc::clone(&settings),
                    known: sender,
                    epoch: Arc::clone(&epoch),
                    wanted: wants,
                    clock: clock.clone(),
                };
                (receiver, Some(tokio::task::spawn_local(fetching.fetch_for_ever())))
            }
        };
        Ok(Self { settings, known, epoch, wanted, clock: clock.clone(), task, web })
    }

    /// Which keys are in use: a token that was verified with others is verified again.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The keys, if there are any that are not too old. Waits a while for the first ones.
    pub(crate) async fn keys(&self) -> Option<Arc<KeySet>> {
        if let Some(keys) = self.fresh() {
            return Some(keys);
        }
        self.newer().await;
        self.fresh()
    }

    /// Keys that are newer than these, if there are any soon. At most one fetch is made for all who ask, and not one right after another.
    pub(crate) async fn keys_after(&self, seen: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        let is_new = |keys: &Arc<KeySet>| !Arc::ptr_eq(keys, seen);
        if let Some(keys) = self.fresh().filter(is_new) {
            return Some(keys);
        }
        let tried = self.known.borrow().tried;
        if tried.is_some_and(|tried| self.clock.now().since(tried) < PAUSE && tried <= self.clock.now()) {
            return None;
        }
        self.newer().await;
        self.fresh().filter(is_new)
    }

    /// How the issuer is asked; none if its keys are a file.
    pub(crate) fn web(&self) -> Option<&Web> {
        self.web.as_ref()
    }

    /// Where the issuer is asked about tokens, as its metadata says. Waits a while for the first metadata.
    pub(crate) async fn introspection_endpoint(&self) -> Option<HttpUrl> {
        let known = || self.known.borrow().endpoints.introspection.clone();
        if known().is_none() {
            self.newer().await;
        }
        known()
    }

    /// Whether a key is known not to be the issuer's any more.
    pub(crate) fn has_withdrawn(&self, key: &Thumbprint) -> bool {
        self.known.borrow().keys.as_ref().is_some_and(|keys| !keys.has(key))
    }

    /// Whether there are keys that are not too old.
    pub(crate) fn has_fresh_keys(&self) -> bool {
        let known = self.known.borrow();
        let age = known.fetched.map_or(Duration::ZERO, |fetched| self.clock.now().since(fetched));
        known.keys.is_some() && age <= self.settings.stale_max
    }

    fn fresh(&self) -> Option<Arc<KeySet>> {
        if self.has_fresh_keys() { self.known.borrow().keys.clone() } else { None }
    }

    /// Asks for a fetch and waits for its end.
    async fn newer(&self) {
        if self.task.is_none() {
            return;
        }
        let mut known = self.known.clone();
        let tries = known.borrow_and_update().tries;
        self.wanted.send_if_modified(|wanted| {
            let is_first = *wanted <= tries;
            *wanted = (*wanted).max(tries.saturating_add(1));
            is_first
        });
        // Who has waited long enough goes on with what there is.
        tokio::time::timeout(PATIENCE, known.wait_for(|known| known.tries > tries)).await.ok();
    }
}

impl Drop for LiveIssuer {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

/// What one fetch has brought.
struct Fetched {
    keys: KeySet,
    document: [u8; 32],
}

struct Fetching {
    web: Web,
    settings: Arc<Issuer>,
    known: watch::Sender<Known>,
    epoch: Arc<AtomicU64>,
    wanted: watch::Receiver<u64>,
    clock: Clock,
}

impl Fetching {
    async fn fetch_for_ever(mut self) {
        loop {
            let fetched = self.fetch().await;
            let failed = fetched.is_err();
            match fetched {
                Ok(fetched) => self.take_up(fetched),
                Err(error) => {
                    let error = in_one_line(&error);
                    tracing::warn!(issuer = &*self.settings.name, error, "the keys of an issuer cannot be fetched");
                    self.note_try(|_known| ());
                }
            }
            let regular = if failed { self.settings.refresh.min(PAUSE * 3) } else { self.settings.refresh };
            let tries = self.known.borrow().tries;
            let asked = async { self.wanted.wait_for(|wanted| *wanted > tries).await.is_ok() };
            match tokio::time::timeout(regular, asked).await {
                // An issuer that is down is not asked again for every request that needs it.
                Ok(true) if failed => tokio::time::sleep(RETRY_PAUSE).await,
                Ok(true) | Err(_) => {}
                // Nobody is left who could ask.
                Ok(false) => return,
            }
        }
    }

    fn take_up(&self, fetched: Fetched) {
        let now = self.clock.now();
        let Fetched { keys, document } = fetched;
        self.note_try(|known| {
            // The same keys stay the same, so that tokens verified with them need not be verified again.
            if known.keys.is_none() || known.document != document {
                self.epoch.fetch_add(1, Ordering::Release);
                tracing::info!(
                    issuer = &*self.settings.name,
                    keys = keys.len(),
                    ignored = keys.ignored().len(),
                    "keys of an issuer taken up"
                );
                known.keys = Some(Arc::new(keys));
                known.document = document;
            }
            known.fetched = Some(now);
        });
    }

    fn note_try(&self, change: impl FnOnce(&mut Known)) {
        let now = self.clock.now();
        self.known.send_modify(|known| {
            change(known);
            known.tried = Some(now);
            known.tries += 1;
        });
    }

    async fn fetch(&self) -> Result<Fetched, KeysError> {
        let KeySource::Fetched { jwks_uri, transport, .. } = &self.settings.keys else { return Err(KeysError::NoKeys) };
        let uri = match jwks_uri {
            Some(uri) => uri.clone(),
            None => {
                let discovery = self.discover(*transport).await?;
                // Known also if the keys cannot be had: whoever shows a token that is asked about needs none.
                self.known.send_modify(|known| known.endpoints = discovery.endpoints);
                discovery.jwks_uri.ok_or(KeysError::NoKeys)?
            }
        };
        let document = self.web.ask(&uri, Question::get()).await?;
        let keys = KeySet::parse(&document, &self.settings.tokens.settings().algorithms)?;
        if keys.is_empty() {
            return Err(KeysError::Unusable);
        }
        Ok(Fetched { keys, document: sha256(&document) })
    }

    /// What the issuer says of itself.
    async fn discover(&self, transport: Transport) -> Result<Discovery, KeysError> {
        let issuer = &self.settings.tokens.settings().issuer;
        let document = self.web.first_of(&locations(issuer, transport)?).await?;
        Ok(Discovery::parse(&document, issuer, transport)?)
    }
}

impl std::fmt::Debug for LiveIssuer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "LiveIssuer({})", self.settings.name)
    }
}
