//! Keeps the identities of an enrolled host fresh: stored ones first, then issuance and renewal, and the CA's news.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::csr;
use countersign_certs::issuance::{IssueRequest, TrustUpdate};
use countersign_certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use countersign_certs::pem;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, SpiffeIdError, ca_id};
use countersign_certs::svid::{SvidError, X509Svid};
use countersign_certs::time::{Clock, Timestamp, Validity};
use countersign_certs::tls::{self, ClientSide, KeyExchange, TlsError, alpn};
use countersign_certs::verify::{PeerRefusal, Side, Trust};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ca::{CaError, Call};
use super::state::{Enrollment, StateDir, StateError, SvidFile};
use super::{Credentials, TrustError, trusted_domains};
use crate::in_words::in_one_line;
use crate::random::random_fraction;

/// First and longest pause after a failed attempt to have something issued.
const PAUSE: Pause = Pause { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// The same for the stream of news: without it revocations are not heard of.
const WATCH_PAUSE: Pause = Pause { first: Duration::from_secs(1), longest: Duration::from_secs(8) };

/// At least this long lies between two certificates of one identity, however short they live.
const BETWEEN: Duration = Duration::from_secs(1);

/// Why an identity was not issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the CA's bundle cannot be used")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("the trust domain cannot have a CA")]
    Domain(#[from] SpiffeIdError),
    #[error("this host's own certificate ended at {not_after}; enroll it again with a new join token")]
    HostExpired { not_after: Timestamp },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("this host has no certificate of its own; enroll it again with a new join token")]
    NoHost,
    #[error("what the CA issued cannot be used")]
    Svid(#[from] SvidError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("what the CA issued would not be believed")]
    Unbelievable(#[from] PeerRefusal),
}

/// The identities of an enrolled host.
pub(crate) struct Keeper {
    state: StateDir,
    enrollment: Enrollment,
    clock: Clock,
    credentials: watch::Sender<Credentials>,
    plans: RefCell<BTreeMap<SpiffeId, Plan>>,
    /// Told when there is something new to do.
    changed: Notify,
    /// Why the last attempt to store something failed; none if it did not.
    unstored: RefCell<Option<String>>,
    /// Told when the CA has said something that is not on disk yet.
    unstored_news: Notify,
}

/// An identity that was just issued, and the file that will hold it.
struct Fresh {
    svid: X509Svid,
    file: SvidFile,
}

/// When one identity is due.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) due: Timestamp,
    /// After a failure: not before this moment, whatever the clock on the wall is set to meanwhile.
    retry: Option<Instant>,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
}

/// How long to wait after one failure, and after many.
struct Pause {
    first: Duration,
    longest: Duration,
}

impl Keeper {
    /// Loads what is stored. What cannot be read is issued anew, and said.
    pub(crate) fn load(state: StateDir, enrollment: Enrollment, clock: Clock) -> Rc<Self> {
        let trust = state.trust().unwrap_or_else(|error| {
            tracing::error!(error = in_one_line(&error), "stored trust cannot be read");
            None
        });
        let credentials = Credentials { svids: BTreeMap::new(), trust: trust.map(Arc::new) };
        let keeper = Self {
            state,
            clock,
            credentials: watch::Sender::new(credentials),
            plans: RefCell::default(),
            changed: Notify::new(),
            unstored: RefCell::default(),
            unstored_news: Notify::new(),
            enrollment,
        };
        keeper.want([&San::Spiffe(keeper.enrollment.host_id.clone())]);
        Rc::new(keeper)
    }

    /// What is at hand, and every change of it.
    pub(crate) fn credentials(&self) -> watch::Receiver<Credentials> {
        self.credentials.subscribe()
    }

    /// The enrollment that this keeper serves.
    pub(crate) fn enrollment(&self) -> &Enrollment {
        &self.enrollment
    }

    /// When each identity is due, and how the last attempt went.
    pub(crate) fn plans(&self) -> BTreeMap<SpiffeId, Plan> {
        self.plans.borrow().clone()
    }

    /// Why nothing can be stored; none while it can.
    pub(crate) fn unstored(&self) -> Option<String> {
        self.unstored.borrow().clone()
    }

    /// Takes on these identities besides the host's own, and lets go of others.
    pub(crate) fn want<'san>(&self, identities: impl IntoIterator<Item = &'san San>) {
        let mut wanted: Vec<SpiffeId> = identities
            .into_iter()
            .filter_map(|san| match san {
                San::Spiffe(id) => Some(id.clone()),
                San::Dns(_) | San::Email(_) | San::Ip(_) => None,
            })
            .collect();
        wanted.push(self.enrollment.host_id.clone());
        self.plans.borrow_mut().retain(|id, _| wanted.contains(id));
        self.let_go(&wanted);
        for id in wanted {
            if !self.plans.borrow().contains_key(&id) {
                self.take_on(id);
            }
        }
        self.changed.notify_one();
    }

    /// Forgets the keys of identities that nobody wants any more. Their files stay: a route that comes back while the CA is
    /// away must not find nothing.
    fn let_go(&self, wanted: &[SpiffeId]) {
        let is_wanted = |name: &San| matches!(name, San::Spiffe(id) if wanted.contains(id));
        self.credentials.send_if_modified(|credentials| {
            let before = credentials.svids.len();
            credentials.svids.retain(|name, _| is_wanted(name));
            credentials.svids.len() != before
        });
    }

    /// What is stored is taken whatever the clock says: a host that starts with a wrong time gets the right one later, and
    /// peers look at the end of a certificate themselves.
    fn take_on(&self, id: SpiffeId) {
        let stored = self.state.svid(&id).unwrap_or_else(|error| {
            tracing::error!(%id, error = in_one_line(&error), "a stored identity cannot be read and is issued anew");
            None
        });
        let due = match stored {
            Some(svid) => {
                let Validity { not_before, not_after } = svid.usable();
                self.publish(&id, svid);
                renewal_time(not_before, not_after)
            }
            None => self.clock.now(),
        };
        self.plans.borrow_mut().insert(id, Plan::at(due));
    }

    /// Has identities issued anew now; all of them if none is named. Returns what could not be done.
    pub(crate) async fn renew_now(&self, only: Option<&SpiffeId>) -> Vec<(SpiffeId, String)> {
        let ids: Vec<SpiffeId> =
            self.plans.borrow().keys().filter(|id| only.is_none_or(|only| only == *id)).cloned().collect();
        let mut failed = Vec::new();
        for id in ids {
            if let Err(error) = self.renew(&id).await {
                failed.push((id, in_one_line(&error)));
            }
        }
        failed
    }

    /// Renews for ever.
    pub(crate) async fn keep(self: Rc<Self>) {
        loop {
            let (now, instant) = (self.clock.now(), Instant::now());
            let waits = |(id, plan): (&SpiffeId, &Plan)| (plan.wait(now, instant), id.clone());
            let next = self.plans.borrow().iter().map(waits).min();
            match next {
                Some((Duration::ZERO, id)) => {
                    // The outcome is in the plan and in the log.
                    self.renew(&id).await.ok();
                }
                Some((wait, _)) => {
                    // At most a minute at a time, so that a clock that was set is noticed.
                    let pause = wait.min(Duration::from_secs(60));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    async fn renew(&self, id: &SpiffeId) -> Result<(), IssueError> {
        match self.issue(id).await {
            Ok(fresh) => {
                self.take_fresh(id, fresh).await;
                Ok(())
            }
            Err(error) => {
                self.put_off(id, &error);
                Err(error)
            }
        }
    }

    async fn take_fresh(&self, id: &SpiffeId, fresh: Fresh) {
        let Fresh { svid, file } = fresh;
        let (now, not_after) = (self.clock.now(), svid.usable().not_after);
        match self.plans.borrow_mut().get_mut(id) {
            Some(plan) => *plan = Plan::at(renewal_time(now, not_after).max(now.plus(BETWEEN))),
            // Nobody wants it any more.
            None => return,
        }
        tracing::info!(%id, serial = %svid.leaf().serial(), %not_after, "identity issued");
        self.publish(id, svid);
        // A full disk must not stop what works in memory; it is said in `status` and metrics, and tried again next time.
        let (state, id) = (self.state.clone(), id.clone());
        self.store(move || state.write_svid(&id, &file)).await;
    }

    fn put_off(&self, id: &SpiffeId, error: &IssueError) {
        let text = in_one_line(error);
        let mut plans = self.plans.borrow_mut();
        let Some(plan) = plans.get_mut(id) else { return };
        plan.failures = plan.failures.saturating_add(1);
        let pause = PAUSE.after(plan.failures);
        (plan.due, plan.retry) = (self.clock.now().plus(pause), Some(Instant::now() + pause));
        tracing::warn!(%id, failures = plan.failures, next_attempt = %plan.due, error = text, "identity not issued");
        plan.last_error = Some(text);
    }

    /// A new key, a new certificate; checked as a peer would check it before it is used.
    async fn issue(&self, id: &SpiffeId) -> Result<Fresh, IssueError> {
        let key = PrivateKey::generate(KeyAlgorithm::default())?;
        let request = IssueRequest { id: id.clone(), csr: csr::create(id, &key)? };
        let issued = self.call().await?.issue(&request).await?;
        let chain = pem::certificates(issued.chain.as_bytes()).map_err(SvidError::Pem)?;
        self.trust().await?.verify(&chain, Side::Server, self.clock.now())?;
        let svid = X509Svid::new(chain, &key, &San::Spiffe(id.clone()))?;
        Ok(Fresh { svid, file: SvidFile::new(&key, &issued.chain) })
    }

    /// Writes to the disk beside everything else: a slow disk holds up no news and no renewal.
    async fn store(&self, write: impl FnOnce() -> Result<(), StateError> + Send + 'static) {
        // A write that panicked is one that failed, and has said so itself.
        if let Ok(stored) = tokio::task::spawn_blocking(write).await {
            self.note_stored(stored);
        }
    }

    fn note_stored(&self, stored: Result<(), StateError>) {
        if let Err(error) = &stored {
            tracing::error!(
                error = in_one_line(error),
                "state cannot be stored; a restart would fall back to older state"
            );
        }
        self.unstored.replace(stored.err().map(|error| in_one_line(&error)));
    }

    fn publish(&self, id: &SpiffeId, svid: X509Svid) {
        self.credentials.send_modify(|credentials| {
            credentials.svids.insert(San::Spiffe(id.clone()), Arc::new(svid));
        });
    }

    /// Whom to trust in calls to the CA. If what the CA last said was lost, its root is still known by its fingerprint.
    async fn trust(&self) -> Result<Trust, IssueError> {
        let update = self.credentials.borrow().trust.clone();
        let mut domains = trusted_domains(update.as_deref(), &[])?;
        if let (true, Some(root)) = (domains.is_empty(), &self.enrollment.root_fingerprint) {
            let tls = tls::enrollment(root.0, ca_id(&self.enrollment.trust_domain)?, &self.clock)?;
            let document = Call { address: &self.enrollment.ca_address, tls }.bundle().await?;
            let bundle = TrustBundle::from_json(self.enrollment.trust_domain.clone(), &document)?;
            tracing::warn!("whom to trust was not stored; asked the CA, by the fingerprint of its root");
            domains = trusted_domains(None, &[bundle])?;
        }
        Ok(Trust::new(domains, &[])?)
    }

    /// A call to the CA with the host's own certificate.
    async fn call(&self) -> Result<Call<'_>, IssueError> {
        let host = San::Spiffe(self.enrollment.host_id.clone());
        let identity = self.credentials.borrow().svids.get(&host).cloned().ok_or(IssueError::NoHost)?;
        let not_after = identity.usable().not_after;
        if self.clock.now() > not_after {
            return Err(IssueError::HostExpired { not_after });
        }
        let client = ClientSide {
            identity,
            trust: Arc::new(self.trust().await?),
            expected: [San::Spiffe(ca_id(&self.enrollment.trust_domain)?)].into(),
            alpn: vec![alpn::HTTP_1_1.to_vec()],
            key_exchange: KeyExchange::default(),
            clock: self.clock.clone(),
        };
        Ok(Call { address: &self.enrollment.ca_address, tls: client.begin()? })
    }

    /// Follows the CA's news for ever.
    pub(crate) async fn follow(self: Rc<Self>) {
        let mut failures = 0;
        loop {
            match self.watch_once(&mut failures).await {
                Ok(ended) => tracing::info!(reason = in_one_line(&ended), "stream from the CA ended"),
                Err(error) => tracing::warn!(failures, error = in_one_line(&error), "no stream from the CA"),
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(WATCH_PAUSE.after(failures)).await;
        }
    }

    async fn watch_once(&self, failures: &mut u32) -> Result<super::watch::WatchError, IssueError> {
        let stream = self.call().await?.watch().await?;
        Ok(super::watch::follow(stream, |update| {
            *failures = 0;
            self.take_up(update);
        })
        .await)
    }

    /// Takes up what the CA says, if it can be used at all.
    fn take_up(&self, update: Arc<TrustUpdate>) {
        let usable = trusted_domains(Some(&update), &[])
            .map_err(IssueError::from)
            .and_then(|domains| Ok(Trust::new(domains, &[])?));
        if let Err(error) = usable {
            tracing::error!(error = in_one_line(&error), "news from the CA cannot be used; what was known stays");
            return;
        }
        let known = self.credentials.borrow().trust.clone();
        if known.as_ref() == Some(&update) {
            return;
        }
        if let Some(known) = known.filter(|known| known.generation > update.generation) {
            tracing::error!(
                generation = update.generation,
                before = known.generation,
                "the CA has gone back to an older state, as after restoring a backup; what it had revoked since counts no more"
            );
        }
        tracing::info!(
            generation = update.generation,
            revoked_ids = update.revocations.ids.len(),
            revoked_serials = update.revocations.serials.len(),
            "news from the CA"
        );
        // A revocation takes effect first and is stored then.
        self.credentials.send_modify(|credentials| credentials.trust = Some(update));
        self.unstored_news.notify_one();
    }

    /// Stores the CA's news for ever.
    pub(crate) async fn store_news(self: Rc<Self>) {
        loop {
            self.unstored_news.notified().await;
            let Some(update) = self.credentials.borrow().trust.clone() else { continue };
            let state = self.state.clone();
            self.store(move || state.write_trust(&update)).await;
        }
    }
}

impl Plan {
    fn at(due: Timestamp) -> Self {
        Self { due, retry: None, failures: 0, last_error: None }
    }

    fn wait(&self, now: Timestamp, instant: Instant) -> Duration {
        match self.retry {
            Some(retry) => retry.saturating_duration_since(instant),
            None => self.due.since(now),
        }
    }
}

/// Half of the time that is left, earlier or later by up to a tenth of that half. Drawn once for each certificate: drawn anew at
/// each look, the first early draw would win and all hosts would come at the early edge.
fn renewal_time(from: Timestamp, not_after: Timestamp) -> Timestamp {
    let half = not_after.since(from) / 2;
    let spread = half / 10;
    from.plus(half - spread + (spread * 2).mul_f64(random_fraction()))
}

impl Pause {
    /// Twice as long after each failure, with a part of it random, so that hosts do not come back all at once.
    fn after(&self, failures: u32) -> Duration {
        let whole = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.longest);
        whole / 2 + (whole / 2).mul_f64(random_fraction())
    }
}
