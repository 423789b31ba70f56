//! A token of the backend's own, by the client credentials grant (RFC 6749 §4.4): fetched by one task ahead of its end, whoever waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::tls::TlsError;
use countersign_credentials::grant::Grant;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::endpoint::{AskError, Endpoint, Granted};
use super::pause::Pause;
use crate::config::checked::{BackendToken, TokenFor};
use crate::in_words::in_one_line;
use crate::random::random_fraction;

/// How long before its end a token is fetched anew at least, if it lives long enough.
const AHEAD: Duration = Duration::from_secs(10);

/// A host that slept has not counted the time: the clock is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The token of one inbound's backend.
pub(crate) struct LiveGrant {
    pub(super) whose: TokenFor,
    endpoint: Arc<Endpoint>,
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    proved: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Known {
    granted: Option<Arc<Granted>>,
    /// Why the last try gave nothing; none if it did.
    error: Option<Arc<str>>,
    tried: bool,
}

impl LiveGrant {
    /// Fetches from now on. `news` is told of every new token.
    pub(super) fn start(whose: TokenFor, settings: &Arc<BackendToken>, clock: &Clock, news: &Arc<Notify>) -> Self {
        let (sender, known) = watch::channel(Known::default());
        let (wanted, proved) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let endpoint = Arc::new(Endpoint::new(settings, clock));
        let fetching = Fetching {
            name: Arc::clone(&whose.inbound),
            endpoint: Arc::clone(&endpoint),
            known: sender,
            wanted: Arc::clone(&wanted),
            proved: Arc::clone(&proved),
            news: Arc::clone(news),
        };
        let task = tokio::task::spawn_local(fetching.fetch_for_ever());
        Self { whose, endpoint, known, wanted, proved, task }
    }

    /// What it was started for.
    pub(super) fn settings(&self) -> &Arc<BackendToken> {
        &self.endpoint.settings
    }

    /// Takes up the certificates and secrets that are at hand now.
    pub(super) fn prove(
        &self,
        svids: &BTreeMap<San, Arc<X509Svid>>,
        printed: impl Fn(&str) -> Option<Arc<Zeroizing<String>>>,
    ) -> Result<(), TlsError> {
        if self.endpoint.prove(svids, printed)? {
            self.proved.notify_one();
        }
        Ok(())
    }

    /// The token, if there is one.
    pub(super) fn granted(&self) -> Option<Arc<Granted>> {
        self.known.borrow().granted.clone()
    }

    /// Why the last try gave nothing.
    pub(super) fn error(&self) -> Option<Arc<str>> {
        self.known.borrow().error.clone()
    }

    /// Whether it was fetched once, or cannot be yet.
    pub(super) fn is_settled(&self) -> bool {
        self.known.borrow().tried || !self.endpoint.is_proved()
    }

    /// Waits until it was fetched once.
    pub(super) async fn settled(&self) {
        if !self.is_settled() {
            self.known.clone().wait_for(|known| known.tried).await.ok();
        }
    }

    /// Has it fetched again soon: what was given is refused.
    pub(super) fn renew(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for LiveGrant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Fetching {
    name: Arc<str>,
    endpoint: Arc<Endpoint>,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    proved: Arc<Notify>,
    news: Arc<Notify>,
}

impl Fetching {
    async fn fetch_for_ever(self) {
        let mut pause = Pause::default();
        loop {
            while !self.endpoint.is_proved() {
                self.proved.notified().await;
            }
            let next = match self.endpoint.ask(Grant::ClientCredentials).await {
                Ok(granted) => {
                    pause = Pause::default();
                    let next = renewed_after(granted.lifetime, random_fraction());
                    self.take_up(granted);
                    next
                }
                Err(error) => {
                    self.note_failure(&error);
                    pause.next()
                }
            };
            self.wait(next, &pause).await;
        }
    }

    async fn wait(&self, whole: Duration, pause: &Pause) {
        // Rounded up: a second that has begun is not over.
        let due = self.endpoint.clock.now().plus(whole + Duration::from_millis(999));
        let mut left = whole;
        while !left.is_zero() {
            let piece = left.min(LOOK_EVERY);
            if pause.sleep(piece, &self.wanted).await {
                return;
            }
            left = (left - piece).min(due.since(self.endpoint.clock.now()));
        }
    }

    fn take_up(&self, granted: Granted) {
        tracing::info!(inbound = &*self.name, ends = %granted.ends, "a token for a backend taken up");
        self.known.send_replace(Known { granted: Some(Arc::new(granted)), error: None, tried: true });
        self.news.notify_one();
    }

    fn note_failure(&self, error: &AskError) {
        let error = in_one_line(error);
        tracing::warn!(inbound = &*self.name, error, "a token for a backend cannot be had");
        self.known.send_modify(|known| {
            known.error = Some(error.as_str().into());
            known.tried = true;
        });
        if !self.known.borrow().is_good(self.endpoint.clock.now()) {
            self.news.notify_one();
        }
    }
}

impl Known {
    fn is_good(&self, now: Timestamp) -> bool {
        self.granted.as_ref().is_some_and(|granted| now < granted.ends)
    }
}

/// At four fifths of the lifetime, up to a twentieth of it earlier, so that many hosts do not ask at once; but some time before the end,
/// and for a token that lives hardly longer than that, at half of its life.
fn renewed_after(lifetime: Duration, fraction: f64) -> Duration {
    let regular = lifetime.mul_f64(0.8 - 0.05 * fraction);
    let latest = if lifetime > 2 * AHEAD { lifetime - AHEAD } else { lifetime / 2 };
    regular.min(latest).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_fetched_ahead_of_its_end() {
        let check = |lifetime, fraction, expected: f64| {
            let found = renewed_after(Duration::from_secs(lifetime), fraction).as_secs_f64();
            assert!((found - expected).abs() < 0.001, "{lifetime} {fraction}: {found}");
        };
        check(3600, 0.0, 2880.0);
        check(3600, 1.0, 2700.0);
        check(60, 0.0, 48.0);
        check(40, 0.0, 30.0);
        check(21, 0.0, 11.0);
        check(20, 0.0, 10.0);
        check(4, 0.0, 2.0);
        check(1, 0.0, 1.0);
    }
}
