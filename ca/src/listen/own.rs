//! The certificate that the listener itself shows: issued by the same story as every other, and journalled like it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::authenticate::Evidence;
use crate::certs::csr;
use crate::certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use crate::certs::san::San;
use crate::certs::svid::{SvidError, X509Svid};
use crate::certs::time::Timestamp;
use crate::issue::{self, Ca, Refusal};
use crate::record::chain_of;

/// How long to wait after a renewal that failed. Half of the lifetime is left then, at least.
const RETRY: Duration = Duration::from_secs(30);

/// Least time between two issuances, whatever the lifetime is.
const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// Longest sleep, so that a clock that was set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why the listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The story refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The chain cannot be shown.
    #[error(transparent)]
    Svid(#[from] SvidError),
}

/// Makes a new key and has it certified. The root ends the chain: a host that enrolls knows only its fingerprint.
pub(crate) async fn issue(ca: &Ca) -> Result<Arc<X509Svid>, OwnError> {
    let key = PrivateKey::generate(KeyAlgorithm::default())?;
    let csr = csr::create_unnamed(&key)?;
    let request = issue::Request { evidence: Evidence::CertificateAuthority, wanted: None, csr };
    let delivery = issue::issue(request, ca).await?;
    let mut chain = delivery.chain;
    chain.push(ca.signing.borrow().authority.root().clone());
    Ok(Arc::new(X509Svid::new(chain, &key, &San::Spiffe(delivery.plan.id))?))
}

/// Renews when half of what was left at the issue is over, for as long as the listener runs.
pub(crate) async fn keep(ca: Arc<Ca>, identity: watch::Sender<Arc<X509Svid>>) {
    let mut due = renewal_time(&identity.borrow(), ca.clock.now());
    while !identity.is_closed() {
        let now = ca.clock.now();
        if now < due {
            tokio::time::sleep(due.since(now).min(LOOK_EVERY)).await;
            continue;
        }
        match issue(&ca).await {
            Ok(renewed) => {
                tracing::info!(serial = %renewed.leaf().serial(), "own certificate renewed");
                due = renewal_time(&renewed, ca.clock.now());
                identity.send_replace(renewed);
            }
            Err(error) => {
                tracing::error!(error = chain_of(&error), "own certificate not renewed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Counted from the issue and not from the certificate's begin, which is back-dated: half of a short lifetime could be over
/// before it begins, and the next one too.
fn renewal_time(issued: &X509Svid, now: Timestamp) -> Timestamp {
    now.plus((issued.usable().not_after.since(now) / 2).max(RENEWAL_MIN))
}
