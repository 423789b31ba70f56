//! Whom to trust now, and telling everybody when that changes.
//!
//! [`Published`] is one state as a whole: what agents are told, and what this CA itself checks its callers against. It is
//! made anew whenever the store's generation has grown, whoever made it grow: this process or a command line beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::authority::Authority;
use crate::certs::bundle::BundleError;
use crate::certs::issuance::TrustUpdate;
use crate::certs::time::{Clock, Timestamp};
use crate::certs::verify::{Side, Trust, TrustedDomain, VerifiedPeer};
use crate::record::chain_of;
use crate::store::{Store, StoreError};

/// How often the store is asked for its generation. A revocation must be everywhere within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a watcher is told the same again, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long one line may wait for a watcher that does not read.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// One state of trust.
pub(crate) struct Published {
    /// What agents are told.
    pub(crate) update: TrustUpdate,
    /// The same in JSON on one line.
    pub(crate) line: Bytes,
    /// The bundle document of our own trust domain.
    pub(crate) bundle: Bytes,
    /// Whom this CA believes.
    pub(crate) trust: Arc<Trust>,
}

/// Why there is no state to publish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The authority's own certificates make no bundle.
    #[error("the CA's certificates make no bundle")]
    Bundle(#[from] BundleError),
    /// Not JSON.
    #[error("the state of trust cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The store cannot be read.
    #[error("the revocations cannot be read")]
    Store(#[from] StoreError),
}

/// Reads the state of trust from the store.
pub(crate) async fn read(store: &Store, authority: &Authority, now: Timestamp) -> Result<Published, WatchError> {
    let (generation, revocations) = store.revocations(now).await?;
    let bundle = authority.bundle_document()?;
    let trust_domain = authority.trust_domain().clone();
    let trusted = TrustedDomain { bundle: authority.bundle()?, revocations: Arc::new(revocations.clone()) };
    let bundles = BTreeMap::from([(trust_domain.clone(), bundle.clone())]);
    let update = TrustUpdate { generation, trust_domain, bundles, revocations };
    let mut line = serde_json::to_vec(&update)?;
    line.push(b'\n');
    Ok(Published { update, line: line.into(), bundle: bundle.into(), trust: Arc::new(Trust::new([trusted], &[])?) })
}

/// Publishes each change until nobody listens any more. If the store cannot be read, the last state stays.
pub(crate) async fn follow(
    store: Arc<Store>,
    authority: Authority,
    clock: Clock,
    publish: watch::Sender<Arc<Published>>,
) {
    let mut readable = true;
    while !publish.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        let outcome = look(&store, &authority, &clock, &publish).await;
        match &outcome {
            Err(error) if readable => tracing::error!(error = chain_of(error), "trust cannot be read"),
            Ok(()) if !readable => tracing::info!("trust can be read again"),
            Ok(()) | Err(_) => {}
        }
        readable = outcome.is_ok();
    }
}

async fn look(
    store: &Store,
    authority: &Authority,
    clock: &Clock,
    publish: &watch::Sender<Arc<Published>>,
) -> Result<(), WatchError> {
    let now = clock.now();
    let generation = store.generation().await?;
    if generation == publish.borrow().update.generation && !publish.borrow().has_expired_serials(now) {
        return Ok(());
    }
    let published = read(store, authority, now).await?;
    let revocations = &published.update.revocations;
    let (ids, serials) = (revocations.ids.len(), revocations.serials.len());
    tracing::info!(generation, revoked_ids = ids, revoked_serials = serials, "trust published");
    publish.send_replace(Arc::new(published));
    Ok(())
}

impl Published {
    fn has_expired_serials(&self, now: Timestamp) -> bool {
        self.update.revocations.serials.values().any(|end| *end < now)
    }
}

/// Tells one watcher, until it goes, is revoked, expires, or we stop. Dropping `lines` ends its stream.
pub(crate) async fn tell(
    peer: Arc<VerifiedPeer>,
    clock: Clock,
    mut published: watch::Receiver<Arc<Published>>,
    mut stopping: watch::Receiver<bool>,
    lines: mpsc::Sender<Bytes>,
) {
    loop {
        let current = Arc::clone(&published.borrow_and_update());
        let now = clock.now();
        if let Err(refusal) = current.trust.verify_again(&peer, Side::Client, now) {
            tracing::info!(peer = %peer.principal(), error = refusal.to_string(), "watch ended");
            return;
        }
        let sent = tokio::time::timeout(SEND_DEADLINE, lines.send(current.line.clone())).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        // The end of the certificate is inside of its validity; a second later it is not.
        let until_expiry = peer.usable().not_after.since(now) + Duration::from_secs(1);
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEARTBEAT.min(until_expiry)) => {}
            () = lines.closed() => return,
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}
