//! What systemd is told: readiness, a sentence of status, the watchdog, and the stop. Without systemd nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::certs::time::Clock;
use crate::record::chain_of;
use crate::store::{Store, StoreError, Write};

/// How long a probe may take before the store counts as stuck.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// How often to look where systemd has no watchdog for us.
const LOOK_EVERY: Duration = Duration::from_secs(30);

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

/// Looks at half of the watchdog's time whether the journal can be written, and says so. The watchdog is fed on every answer:
/// a full disk is not repaired by a restart, which would only fail in its turn. It is not fed when there is no answer.
pub(crate) async fn watchdog(store: Arc<Store>, clock: Clock, well: String) {
    let every = sd_notify::watchdog_enabled().map_or(LOOK_EVERY, |limit| limit / 2);
    let mut said = well.clone();
    loop {
        let found = look(&store, &clock).await;
        if found.is_answer() {
            tell(&[NotifyState::Watchdog]);
        }
        let status = found.status(&well);
        if status != said {
            tell(&[NotifyState::Status(&status)]);
            said = status;
        }
        tokio::time::sleep(every).await;
    }
}

/// What became of a probe.
enum Probe {
    NoAnswer,
    Refused(StoreError),
    Written,
}

async fn look(store: &Store, clock: &Clock) -> Probe {
    match tokio::time::timeout(PROBE_DEADLINE, store.write(Write::probe(clock.now()))).await {
        Ok(Ok(_written)) => Probe::Written,
        // Its task is gone, and with it every later answer.
        Ok(Err(StoreError::Closed)) => Probe::NoAnswer,
        Ok(Err(error)) => Probe::Refused(error),
        Err(_elapsed) => Probe::NoAnswer,
    }
    .logged()
}

impl Probe {
    fn logged(self) -> Self {
        match &self {
            Self::NoAnswer => tracing::error!("store does not answer, watchdog not fed"),
            Self::Refused(error) => tracing::error!(error = chain_of(error), "journal cannot be written"),
            Self::Written => {}
        }
        self
    }

    fn is_answer(&self) -> bool {
        !matches!(self, Self::NoAnswer)
    }

    fn status(&self, well: &str) -> String {
        match self {
            Self::NoAnswer => "the store does not answer; nothing is signed".to_owned(),
            Self::Refused(error) => {
                // systemd takes one line.
                let error = chain_of(error).replace('\n', " ");
                format!("the journal cannot be written, nothing is signed: {error}")
            }
            Self::Written => well.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_does_not_answer_starves_the_watchdog() {
        let refused = Probe::Refused(StoreError::Unwritten("database or disk is full".to_owned()));
        assert!(Probe::Written.is_answer() && refused.is_answer() && !Probe::NoAnswer.is_answer());
        assert!(refused.status("well").ends_with("database or disk is full"));
        assert_eq!(Probe::Written.status("well"), "well");
    }

    #[tokio::test]
    async fn a_store_whose_task_is_gone_gives_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.sqlite");
        std::fs::write(&path, "").unwrap();
        let clock = Clock::new(|| std::time::UNIX_EPOCH);
        Store::create(&path, &Write::probe(clock.now())).await.unwrap();
        let store = Store::open(&path).await.unwrap();
        assert!(matches!(look(&store, &clock).await, Probe::Written));
        let closed = store.without_writer();
        assert!(matches!(look(&closed, &clock).await, Probe::NoAnswer));
    }
}
