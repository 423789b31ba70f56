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
use crate::certs::issuance::{ANSWER_BYTES_MAX, TrustUpdate};
use crate::certs::time::{Clock, Timestamp};
use crate::certs::verify::{Side, Trust, TrustedDomain, VerifiedPeer};
use crate::record::chain_of;
use crate::store::{REVOCATION_KEPT, Store, StoreError};

/// How often the store is asked for its generation. A revocation must be everywhere within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a watcher is told the same again, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long one line may wait for a watcher that does not read.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// Longest line that every agent can take up: an enrollment's answer holds the same state and a chain beside it.
const LINE_BYTES_MAX: usize = ANSWER_BYTES_MAX - 64 * 1024;

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
    if generation == publish.borrow().update.generation && !publish.borrow().has_serials_to_forget(now) {
        return Ok(());
    }
    let published = read(store, authority, now).await?;
    let revocations = &published.update.revocations;
    let (ids, serials) = (revocations.ids.len(), revocations.serials.len());
    tracing::info!(generation, revoked_ids = ids, revoked_serials = serials, "trust published");
    if let Some(fault) = published.fault() {
        tracing::error!(error = fault, "trust cannot be taken up by agents");
    }
    publish.send_replace(Arc::new(published));
    Ok(())
}

impl Published {
    /// Why agents cannot take up this state. A CA that comes near to it has far more revoked than a mesh should.
    pub(crate) fn fault(&self) -> Option<String> {
        let bytes = self.line.len();
        (bytes > LINE_BYTES_MAX).then(|| {
            format!(
                "the revocations take {bytes} bytes, agents read at most {LINE_BYTES_MAX}; they learn of no revocation \
                 until revoked certificates have expired or revocations are lifted"
            )
        })
    }

    fn has_serials_to_forget(&self, now: Timestamp) -> bool {
        self.update.revocations.serials.values().any(|end| end.plus(REVOCATION_KEPT) < now)
    }
}

/// A host that wants to hear of changes.
pub(crate) struct Watcher {
    peer: Arc<VerifiedPeer>,
    clock: Clock,
    heartbeat: Duration,
}

impl Watcher {
    /// Whoever was verified in the handshake.
    pub(crate) fn new(peer: Arc<VerifiedPeer>, clock: Clock) -> Self {
        Self { peer, clock, heartbeat: HEARTBEAT }
    }

    /// Tells it, until it goes, is revoked, expires, or we stop. Dropping `lines` ends its stream.
    pub(crate) async fn tell(
        self,
        mut published: watch::Receiver<Arc<Published>>,
        mut stopping: watch::Receiver<bool>,
        lines: mpsc::Sender<Bytes>,
    ) {
        loop {
            let current = Arc::clone(&published.borrow_and_update());
            let now = self.clock.now();
            if let Err(refusal) = current.trust.verify_again(&self.peer, Side::Client, now) {
                tracing::info!(peer = %self.peer.principal(), error = refusal.to_string(), "watch ended");
                return;
            }
            let sent = tokio::time::timeout(SEND_DEADLINE, lines.send(current.line.clone())).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
            // The end of the certificate is inside of its validity; a second later it is not.
            let until_expiry = self.peer.usable().not_after.since(now) + Duration::from_secs(1);
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.heartbeat.min(until_expiry)) => {}
                () = lines.closed() => return,
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, Issuer, KeyUsagePurpose, SanType};
    use tokio_rustls::rustls::pki_types::CertificateDer;

    use super::*;
    use crate::authority::{Made, make};
    use crate::build::{calendar, random_serial};
    use crate::certs::key::{KeyAlgorithm, PrivateKey};
    use crate::certs::revocation::Revocations;
    use crate::certs::spiffe_id::TrustDomain;
    use crate::certs::time::Validity;

    const START: u64 = 1_800_000_000;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn published(authority: &Authority, generation: u64) -> Arc<Published> {
        let revocations = Arc::new(Revocations::default());
        let trusted = TrustedDomain { bundle: authority.bundle().unwrap(), revocations };
        let update = TrustUpdate {
            generation,
            trust_domain: authority.trust_domain().clone(),
            bundles: BTreeMap::new(),
            revocations: Revocations::default(),
        };
        let line = generation.to_string().into();
        Arc::new(Published { update, line, bundle: Bytes::new(), trust: Arc::new(Trust::new([trusted], &[]).unwrap()) })
    }

    /// A host whose certificate lives for [`LIFETIME`] from [`START`] on.
    fn host(made: &Made, trust: &Trust) -> Arc<VerifiedPeer> {
        let now = Timestamp::from_unix_seconds(START);
        let (not_before, not_after) = calendar(Validity { not_before: now, not_after: now.plus(LIFETIME) }).unwrap();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (not_before, not_after);
        params.serial_number = Some(random_serial().unwrap().as_bytes().to_vec().into());
        params.subject_alt_names = vec![SanType::URI("spiffe://prod.example/countersign/host/a".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let intermediate = made.authority.intermediate();
        let issuer = Issuer::from_ca_cert_der(intermediate, made.intermediate_key.key_pair().unwrap()).unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap().key_pair().unwrap();
        let leaf = CertificateDer::from(params.signed_by(&key, &issuer).unwrap());
        trust.verify(&[leaf, intermediate.clone()], Side::Client, now).unwrap()
    }

    struct Watched {
        seconds: Arc<AtomicU64>,
        publish: watch::Sender<Arc<Published>>,
        stop: watch::Sender<bool>,
        told: mpsc::Receiver<Bytes>,
        authority: Authority,
    }

    fn watched(heartbeat: Duration) -> Watched {
        let domain = TrustDomain::parse("prod.example").unwrap();
        let made = make(&domain, KeyAlgorithm::P256, Timestamp::from_unix_seconds(START)).unwrap();
        let first = published(&made.authority, 1);
        let peer = host(&made, &first.trust);
        let (publish, state) = watch::channel(first);
        let (stop, stopping) = watch::channel(false);
        let (lines, told) = mpsc::channel(1);
        let seconds = Arc::new(AtomicU64::new(START));
        let clock = Clock::new({
            let seconds = Arc::clone(&seconds);
            move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed))
        });
        tokio::spawn(Watcher { peer, clock, heartbeat }.tell(state, stopping, lines));
        Watched { seconds, publish, stop, told, authority: made.authority }
    }

    #[tokio::test]
    async fn the_same_is_told_again_and_again() {
        let mut watched = watched(Duration::from_millis(10));
        for _ in 0..4 {
            assert_eq!(watched.told.recv().await.unwrap(), "1");
        }
    }

    #[tokio::test]
    async fn a_change_is_told_before_the_next_beat() {
        let mut watched = watched(Duration::from_secs(3600));
        watched.told.recv().await.unwrap();
        watched.publish.send_replace(published(&watched.authority, 2));
        assert_eq!(watched.told.recv().await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_hosts_certificate() {
        let mut watched = watched(Duration::from_millis(10));
        watched.seconds.store(START + LIFETIME.as_secs(), Ordering::Relaxed);
        for _ in 0..4 {
            assert_eq!(watched.told.recv().await.unwrap(), "1");
        }
        watched.seconds.store(START + LIFETIME.as_secs() + 1, Ordering::Relaxed);
        while watched.told.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_ca() {
        let mut watched = watched(Duration::from_secs(3600));
        watched.told.recv().await.unwrap();
        watched.stop.send_replace(true);
        assert_eq!(watched.told.recv().await, None);
    }
}
