//! A token for the backend in exchange for the one that the caller has shown (RFC 8693): asked for by the worker that needs it, once,
//! and remembered for as long as both tokens count.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_certs::allowance::Allowances;
use countersign_certs::digest::sha256;
use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::tls::TlsError;
use countersign_credentials::grant::Grant;
use http::StatusCode;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::endpoint::{AskError, Endpoint, Granted};
use crate::authorize::Permit;
use crate::config::checked::{BackendToken, TokenFor};
use crate::connection::{Connection, Current};
use crate::in_words::in_one_line;
use crate::refusal::Refusal;
use crate::remembered::{FairTurns, Remembered, Turns};
use crate::request::CallerToken;
use crate::web::WebError;
use crate::worker::Worker;

/// Questions of one worker under way at once. Whoever can show tokens can cause them.
const QUESTIONS_MAX: usize = 24;

/// How long it is remembered that no token is given in exchange for one.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long it is remembered that an endpoint has failed over a token, and how long one is left alone that fails whatever it is asked.
const DOWN_FOR: Duration = Duration::from_secs(1);

/// How long a token is used at least that the backend refuses. Whoever may call can cause that.
const USED_FOR: Duration = Duration::from_secs(10);

/// How often the log tells of trouble.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How often it is begun anew when the config changes meanwhile.
const TRIES: usize = 3;

/// Where tokens are exchanged for one backend.
pub(crate) struct LiveExchange {
    pub(super) whose: TokenFor,
    endpoint: Endpoint,
    /// Tells it from every other, before and after.
    number: u64,
    trouble: Mutex<Trouble>,
}

struct Trouble {
    /// Why the last question gave nothing; none if it did, or if that was the caller's own fault.
    error: Option<Arc<str>>,
    /// Since when it is left alone.
    down: Option<Timestamp>,
    /// For the log: callers can cause it as often as they like.
    lines: Allowances<()>,
}

/// A token that was given in exchange.
#[derive(Clone)]
pub(crate) struct Exchanged {
    by: u64,
    entry: Rc<Entry>,
}

/// What is remembered of one token of a caller.
struct Entry {
    granted: Result<Granted, NotGranted>,
    asked: Timestamp,
    /// From when on it is asked for anew while it is still used.
    renewed_from: Timestamp,
    /// The backend does not take it.
    refused: Cell<bool>,
}

/// Why there is no token for one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotGranted {
    /// The endpoint has failed over the caller's token.
    Failed,
    /// The endpoint does not take it.
    Refused,
}

/// Which exchange, and the SHA-256 of the caller's token.
type Key = (u64, [u8; 32]);

/// What one worker has exchanged lately.
#[derive(Default)]
pub(crate) struct Exchanges {
    remembered: Remembered<Key, Rc<Entry>>,
    turns: Turns<Key>,
    /// By the names of the callers.
    questions: FairTurns<Arc<str>>,
}

/// A caller and the token that it has shown.
#[derive(Clone)]
struct Asker {
    name: Arc<str>,
    shown: CallerToken,
    /// When it is believed no longer.
    ends: Option<Timestamp>,
}

/// Gets the token that the backend is given for this caller, where it is given one in exchange for the caller's own.
pub(crate) async fn for_caller(
    connection: &Rc<Connection>,
    permit: &Permit,
    shown: CallerToken,
) -> Result<Option<Exchanged>, Refusal> {
    let subject = permit.ongoing().caller().subject();
    let name = subject.map(|subject| subject.principal().into()).unwrap_or_default();
    let asker = Asker { name, shown, ends: subject.and_then(|subject| subject.proof().ends()) };
    for _ in 0..TRIES {
        let Some(exchange) = exchange_of(connection)? else { return Ok(None) };
        let exchanged = tokio::select! {
            exchanged = exchange.exchanged(connection.worker(), &asker) => exchanged?,
            withdrawn = permit.ongoing().signal().cut_asked() => return Err(withdrawn.into()),
        };
        // What was given for one backend is not sent to another that the config names by now.
        if exchange_of(connection)?.is_some_and(|now| now.number == exchange.number) {
            return Ok(Some(exchanged));
        }
    }
    Err(Refusal::BackendCredential)
}

fn exchange_of(connection: &Connection) -> Result<Option<Arc<LiveExchange>>, Refusal> {
    match connection.current()? {
        Current::Inbound(route) => Ok(route.given.exchange().cloned()),
        Current::Outbound(_) => Ok(None),
    }
}

impl LiveExchange {
    /// Nothing is asked before somebody calls.
    pub(super) fn new(whose: TokenFor, settings: &Arc<BackendToken>, clock: &Clock) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let trouble = Mutex::new(Trouble { error: None, down: None, lines: Allowances::new(1, TOLD_EVERY) });
        Self { whose, endpoint: Endpoint::new(settings, clock), number, trouble }
    }

    /// What it was made for.
    pub(super) fn settings(&self) -> &Arc<BackendToken> {
        &self.endpoint.settings
    }

    /// Takes up the certificates and secrets that are at hand now.
    pub(super) fn prove(
        &self,
        svids: &BTreeMap<San, Arc<X509Svid>>,
        printed: impl Fn(&str) -> Option<Arc<Zeroizing<String>>>,
    ) -> Result<(), TlsError> {
        self.endpoint.prove(svids, printed).map(drop)
    }

    /// Whether it can be asked.
    pub(super) fn is_proved(&self) -> bool {
        self.endpoint.is_proved()
    }

    /// Why the last question had no answer.
    pub(super) fn error(&self) -> Option<Arc<str>> {
        self.trouble().error.clone()
    }

    async fn exchanged(self: &Arc<Self>, worker: &Rc<Worker>, asker: &Asker) -> Result<Exchanged, Refusal> {
        let key = (self.number, sha256(asker.shown.expose()));
        let entry = match worker.exchanges().get(&key, self.now()) {
            Some(entry) => {
                if self.now() >= entry.renewed_from {
                    self.renew(worker, asker, key);
                }
                entry
            }
            None => {
                // However many requests bring it at once, the endpoint is asked once.
                let alone = worker.exchanges().turns.of(key).lock_owned().await;
                match worker.exchanges().get(&key, self.now()) {
                    Some(entry) => entry,
                    None => {
                        let asking = self.ask_to_the_end(worker, asker, key, alone);
                        asking.await.unwrap_or(Err(Refusal::BackendCredential))?
                    }
                }
            }
        };
        match &entry.granted {
            Ok(_) => Ok(Exchanged { by: self.number, entry }),
            Err(NotGranted::Failed) => Err(Refusal::BackendCredential),
            Err(NotGranted::Refused) => Err(Refusal::BackendCredentialRefused),
        }
    }

    /// Asks for a new one while the one before is still used. If it fails, it is tried again by who needs it then.
    fn renew(self: &Arc<Self>, worker: &Rc<Worker>, asker: &Asker, key: Key) {
        if let Ok(alone) = worker.exchanges().turns.of(key).try_lock_owned() {
            drop(self.ask_to_the_end(worker, asker, key, alone));
        }
    }

    /// Asks in a task that goes on when the caller goes away: the endpoint is at work on it, and whoever asks and goes away could else
    /// have it work on as many as it likes.
    fn ask_to_the_end(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        asker: &Asker,
        key: Key,
        alone: OwnedMutexGuard<()>,
    ) -> JoinHandle<Result<Rc<Entry>, Refusal>> {
        let (exchange, worker, asker) = (Arc::clone(self), Rc::clone(worker), asker.clone());
        tokio::task::spawn_local(async move {
            let asked = exchange.ask(&worker, asker, key).await;
            drop(alone);
            asked
        })
    }

    async fn ask(&self, worker: &Worker, asker: Asker, key: Key) -> Result<Rc<Entry>, Refusal> {
        let Asker { name, shown, ends } = asker;
        let asked = self.now();
        if self.trouble().down.is_some_and(|since| since <= asked && asked.since(since) <= DOWN_FOR) {
            return Err(Refusal::BackendCredential);
        }
        let Some(_turn) = worker.exchanges().questions.take(name, QUESTIONS_MAX) else {
            return Err(Refusal::BackendCredential);
        };
        let subject_token =
            std::str::from_utf8(shown.expose()).map_err(|_not_text| Refusal::BackendCredentialRefused)?;
        let entry = match self.endpoint.ask(Grant::TokenExchange { subject_token }).await {
            Ok(granted) => {
                self.note_answer();
                Entry::granted(granted, asked, ends)
            }
            Err(AskError::Refused { code: Some(code), .. }) if is_about_the_caller(&code) => {
                self.note_answer();
                Entry::without(NotGranted::Refused, asked)
            }
            Err(error) => {
                let is_down = is_whatever_is_asked(&error);
                self.note_trouble(&error, is_down);
                if is_down {
                    return Err(Refusal::BackendCredential);
                }
                Entry::without(NotGranted::Failed, asked)
            }
        };
        let entry = Rc::new(entry);
        worker.exchanges().remembered.insert(key, Rc::clone(&entry));
        Ok(entry)
    }

    fn note_trouble(&self, error: &AskError, is_down: bool) {
        let (error, now, mut trouble) = (in_one_line(error), self.now(), self.trouble());
        if let Some(omitted) = trouble.lines.take((), (), now) {
            tracing::warn!(inbound = &*self.whose.inbound, error, omitted, "a caller's token cannot be exchanged");
        }
        (trouble.error, trouble.down) = (Some(error.as_str().into()), is_down.then_some(now));
    }

    fn note_answer(&self) {
        let mut trouble = self.trouble();
        (trouble.error, trouble.down) = (None, None);
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.endpoint.clock.now()
    }
}

/// Whether a code says that this caller's token is not taken, and not that we are wrong (RFC 8693 §2.2.2, RFC 6749 §5.2).
fn is_about_the_caller(code: &str) -> bool {
    matches!(code, "access_denied" | "invalid_grant" | "invalid_request" | "invalid_target")
}

/// Whether another token would fare no better. Any other answer may be the doing of one caller, who must not close the endpoint for others.
fn is_whatever_is_asked(error: &AskError) -> bool {
    match error {
        AskError::Refused { status, code } => {
            let of_client = ["invalid_client", "unauthorized_client", "unsupported_grant_type"];
            *status == StatusCode::TOO_MANY_REQUESTS || code.as_deref().is_some_and(|code| of_client.contains(&code))
        }
        // An endpoint, or what stands before it, may hang up on one token.
        AskError::Answer(_)
        | AskError::Unwritable(_)
        | AskError::Web(WebError::Http { .. } | WebError::Status { .. } | WebError::TooLarge { .. }) => false,
        AskError::Discovery(_)
        | AskError::NoEndpoint
        | AskError::Unproved
        | AskError::Web(WebError::Deadline { .. } | WebError::NotReachable(_) | WebError::Unreachable { .. }) => true,
    }
}

impl Exchanged {
    /// The token as it is given, if it was given by this exchange and counts.
    pub(super) fn granted(&self, by: &LiveExchange, now: Timestamp) -> Option<&Granted> {
        self.entry.granted.as_ref().ok().filter(|granted| self.by == by.number && now < granted.ends)
    }

    /// The backend does not take it.
    pub(super) fn refused(&self) {
        self.entry.refused.set(true);
    }
}

impl Entry {
    fn granted(mut granted: Granted, asked: Timestamp, ends: Option<Timestamp>) -> Self {
        // It says something of a caller, who is believed up to and with the last second of the own token, and no longer.
        let believed = ends.map(|last| last.plus(Duration::from_secs(1)));
        granted.ends = believed.map_or(granted.ends, |believed| believed.min(granted.ends));
        let renewed_from = asked.plus(granted.lifetime.mul_f64(0.8));
        Self { granted: Ok(granted), asked, renewed_from, refused: Cell::new(false) }
    }

    fn without(why: NotGranted, asked: Timestamp) -> Self {
        Self { granted: Err(why), asked, renewed_from: asked.plus(REFUSED_FOR), refused: Cell::new(false) }
    }

    fn is_current(&self, now: Timestamp) -> bool {
        // A clock that was set back makes a stored time one of the future, which says nothing.
        if now < self.asked {
            return false;
        }
        let age = now.since(self.asked);
        match &self.granted {
            Ok(granted) => now < granted.ends && !(self.refused.get() && age >= USED_FOR),
            Err(NotGranted::Failed) => age <= DOWN_FOR,
            Err(NotGranted::Refused) => age < REFUSED_FOR,
        }
    }
}

impl Exchanges {
    fn get(&self, key: &Key, now: Timestamp) -> Option<Rc<Entry>> {
        self.remembered.get(key).filter(|entry| entry.is_current(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::place::header;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_seconds(second)
    }

    fn granted(ends: u64) -> Granted {
        Granted { written: header(["Bearer x"]).unwrap(), ends: at(ends), lifetime: Duration::from_secs(100) }
    }

    #[track_caller]
    fn check(entry: &Entry, current: &[u64], ended: &[u64]) {
        assert!(current.iter().all(|now| entry.is_current(at(*now))), "{current:?}");
        assert!(!ended.iter().any(|now| entry.is_current(at(*now))), "{ended:?}");
    }

    #[test]
    fn what_was_given_counts_for_as_long_as_both_tokens_do() {
        check(&Entry::granted(granted(1100), at(1000), None), &[1000, 1099], &[999, 1100]);
        check(&Entry::granted(granted(1100), at(1000), Some(at(1050))), &[1050], &[1051]);
        check(&Entry::granted(granted(1100), at(1000), Some(at(1200))), &[1099], &[1100]);
        assert_eq!(Entry::granted(granted(1100), at(1000), None).renewed_from, at(1080));
    }

    #[test]
    fn a_refusal_is_remembered_for_a_while() {
        check(&Entry::without(NotGranted::Refused, at(1000)), &[1000, 1009], &[999, 1010]);
        check(&Entry::without(NotGranted::Failed, at(1000)), &[1000, 1001], &[999, 1002]);
    }

    #[test]
    fn what_the_backend_refuses_is_asked_for_anew_after_a_while() {
        let entry = Entry::granted(granted(1100), at(1000), None);
        entry.refused.set(true);
        check(&entry, &[1000, 1009], &[1010]);
    }
}
