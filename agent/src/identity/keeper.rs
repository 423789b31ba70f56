//! Keeps the identities of an enrolled host fresh: stored ones first, then issuance and renewal, and the CA's news.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::bundle::BundleError;
use countersign_certs::csr;
use countersign_certs::issuance::{IssueRequest, TrustUpdate};
use countersign_certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use countersign_certs::pem;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, SpiffeIdError, ca_id};
use countersign_certs::svid::{SvidError, X509Svid};
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::tls::{ClientSide, KeyExchange, alpn};
use countersign_certs::verify::{PeerRefusal, Side, Trust};
use tokio::sync::{Notify, watch};

use super::ca::{CaError, Call};
use super::state::{Enrollment, StateDir, StateError};
use super::{Credentials, TrustError, trusted_domains};
use crate::refusal::in_one_line;

/// First and longest pause after a failed attempt.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

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
    Tls(#[from] countersign_certs::tls::TlsError),
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
}

/// When one identity is due.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) due: Timestamp,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
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
        for id in wanted {
            if !self.plans.borrow().contains_key(&id) {
                self.take_on(id);
            }
        }
        self.changed.notify_one();
    }

    fn take_on(&self, id: SpiffeId) {
        let now = self.clock.now();
        let stored = self.state.svid(&id).unwrap_or_else(|error| {
            tracing::error!(%id, error = in_one_line(&error), "a stored identity cannot be read and is issued anew");
            None
        });
        let due = match stored.filter(|svid| svid.usable().contains(now)) {
            Some(svid) => {
                let due = renewal_time(&svid);
                self.publish(&id, svid);
                due
            }
            None => now,
        };
        self.plans.borrow_mut().insert(id, Plan { due, failures: 0, last_error: None });
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
            let now = self.clock.now();
            let next =
                self.plans.borrow().iter().min_by_key(|(_, plan)| plan.due).map(|(id, plan)| (id.clone(), plan.due));
            match next {
                Some((id, due)) if due <= now => {
                    // The outcome is in the plan and in the log.
                    self.renew(&id).await.ok();
                }
                Some((_, due)) => {
                    // At most a minute at a time, so that a clock that was set is noticed.
                    let pause = due.since(now).min(Duration::from_secs(60));
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
        let issued = self.issue(id).await;
        let now = self.clock.now();
        let mut plans = self.plans.borrow_mut();
        let Some(plan) = plans.get_mut(id) else { return issued.map(drop) };
        match issued {
            Ok(svid) => {
                *plan = Plan { due: renewal_time(&svid), failures: 0, last_error: None };
                drop(plans);
                tracing::info!(%id, serial = %svid.leaf().serial(), not_after = %svid.usable().not_after, "identity issued");
                self.publish(id, svid);
                Ok(())
            }
            Err(error) => {
                let text = in_one_line(&error);
                plan.failures = plan.failures.saturating_add(1);
                plan.due = now.plus(pause_after(plan.failures));
                tracing::warn!(%id, failures = plan.failures, next_attempt = %plan.due, error = text, "identity not issued");
                plan.last_error = Some(text);
                Err(error)
            }
        }
    }

    /// A new key, a new certificate; checked as a peer would check it before it is used.
    async fn issue(&self, id: &SpiffeId) -> Result<X509Svid, IssueError> {
        let key = PrivateKey::generate(KeyAlgorithm::default())?;
        let request = IssueRequest { id: id.clone(), csr: csr::create(id, &key)? };
        let issued = self.call()?.issue(&request).await?;
        let chain = pem::certificates(issued.chain.as_bytes()).map_err(SvidError::Pem)?;
        self.trust()?.verify(&chain, Side::Server, self.clock.now())?;
        let svid = X509Svid::new(chain, &key, &San::Spiffe(id.clone()))?;
        // A full disk must not stop what works in memory; it is said in `status` and metrics, and tried again next time.
        let stored = self.state.write_svid(id, &key, &issued.chain);
        self.note_stored(stored);
        Ok(svid)
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

    fn trust(&self) -> Result<Trust, IssueError> {
        let update = self.credentials.borrow().trust.clone();
        Ok(Trust::new(trusted_domains(update.as_deref(), &[])?, &[])?)
    }

    /// A call to the CA with the host's own certificate.
    fn call(&self) -> Result<Call<'_>, IssueError> {
        let host = San::Spiffe(self.enrollment.host_id.clone());
        let identity = self.credentials.borrow().svids.get(&host).cloned().ok_or(IssueError::NoHost)?;
        let not_after = identity.usable().not_after;
        if self.clock.now() > not_after {
            return Err(IssueError::HostExpired { not_after });
        }
        let client = ClientSide {
            identity,
            trust: Arc::new(self.trust()?),
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
            tokio::time::sleep(pause_after(failures)).await;
        }
    }

    async fn watch_once(&self, failures: &mut u32) -> Result<super::watch::WatchError, IssueError> {
        let stream = self.call()?.watch().await?;
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
        if self.credentials.borrow().trust.as_ref() == Some(&update) {
            return;
        }
        tracing::info!(
            generation = update.generation,
            revoked_ids = update.revocations.ids.len(),
            revoked_serials = update.revocations.serials.len(),
            "news from the CA"
        );
        let stored = self.state.write_trust(&update);
        self.note_stored(stored);
        self.credentials.send_modify(|credentials| credentials.trust = Some(update));
    }
}

/// Half of the lifetime, earlier or later by up to a tenth of that half. Drawn once for each certificate: drawn anew at each
/// look, the first early draw would win and all hosts would come at the early edge.
fn renewal_time(svid: &X509Svid) -> Timestamp {
    let usable = svid.usable();
    let half = usable.lifetime() / 2;
    let spread = half / 10;
    usable.not_before.plus(half - spread + (spread * 2).mul_f64(random_fraction()))
}

/// Twice as long after each failure, with a part of it random, so that hosts do not come back all at once.
fn pause_after(failures: u32) -> Duration {
    let (first, longest) = PAUSE;
    let whole = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    whole / 2 + (whole / 2).mul_f64(random_fraction())
}

/// From 0 to 1. Without randomness, one half: late or early matters less than not at all.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_no_randomness) => 0.5,
    }
}
