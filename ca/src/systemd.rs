//! What systemd is told: readiness, a sentence of status, the watchdog, and the stop. Without systemd nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::certs::time::Clock;
use crate::record::chain_of;
use crate::store::{Store, StoreError, Write};

/// How long a probe may take before the store counts as stuck.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// The listener is open.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// No new requests are taken.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = error.to_string(), "systemd cannot be told");
    }
}

/// Feeds the watchdog at half of its time, but only while the journal can be written. A CA that cannot record cannot
/// sign, and whoever supervises it must learn of that.
pub(crate) async fn watchdog(store: Arc<Store>, clock: Clock) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        match probe(&store, &clock).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(error) => {
                tracing::error!(error = chain_of(&error), "journal cannot be written, watchdog not fed");
                tell(&[NotifyState::Status("the journal cannot be written; nothing is signed")]);
            }
        }
        tokio::time::sleep(limit / 2).await;
    }
}

async fn probe(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    let written = tokio::time::timeout(PROBE_DEADLINE, store.write(Write::probe(clock.now()))).await;
    written.map_err(|_elapsed| StoreError::Busy)?.map(drop)
}
