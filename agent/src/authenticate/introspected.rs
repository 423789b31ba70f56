//! Tokens that only their issuer can read: it is asked about each (RFC 7662), once in a while.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_certs::allowance::Allowances;
use countersign_certs::digest::sha256;
use countersign_certs::time::Timestamp;
use countersign_credentials::introspection;
use countersign_credentials::jwt::TokenRefusal;
use countersign_credentials::text::is_bearer_token;
use http::StatusCode;
use http::header::AUTHORIZATION;
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

use super::refusal::CredentialRefusal;
use super::shown::{ProofFor, TokenShown};
use super::subject::{Proof, Subject};
use super::tokens::{self, Answer, check_binding};
use crate::config::checked::Introspection;
use crate::connection::Connection;
use crate::in_words::in_one_line;
use crate::issuers::LiveIssuer;
use crate::listener::Origin;
use crate::remembered::{FairTurn, FairTurns};
use crate::routes::Snapshot;
use crate::web::{Question, WebError, client_secret_basic};
use crate::worker::Worker;

/// Longest opaque token in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Questions of one worker under way at once for callers of whom nothing is known. Whoever can send tokens can cause them.
const QUESTIONS_OF_STRANGERS: usize = 24;

/// Questions under way that callers may have besides who have shown a certificate, or a token that was believed before.
const QUESTIONS_OF_KNOWN: usize = 12;

/// Tokens remembered as refused, and for how long: a flood of one bad token is one question.
const REFUSED_MAX: usize = 4096;
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// For how long nothing is asked after an issuer was not reached. Those who wait for their turn would else wait for one deadline after
/// the other, and take the turns of everybody else.
const UNREACHED_FOR: Duration = Duration::from_secs(2);

/// For how long a token is not asked about again after an answer that says nothing of it.
const UNTOLD_FOR: Duration = Duration::from_secs(2);

/// How often the log tells that an issuer does not answer. Whoever can send tokens can cause it.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// What one worker knows of questions to issuers.
#[derive(Debug)]
pub(crate) struct Introspections {
    of_strangers: FairTurns<Origin>,
    of_known: FairTurns<Origin>,
    /// When the issuer could not be reached.
    unreached: Cell<Option<Timestamp>>,
    /// For the log.
    lines: RefCell<Allowances<()>>,
    refused: RefCell<HashMap<[u8; 32], Refused>>,
}

/// A token that was not believed.
#[derive(Debug, Clone)]
struct Refused {
    since: Timestamp,
    why: NotBelieved,
}

/// Why an issuer's answer does not make a caller of a token.
#[derive(Debug, Clone)]
enum NotBelieved {
    Token(TokenRefusal),
    /// It says nothing of the token. It may do so of this one alone: nobody else's is refused because of it.
    Untold,
}

impl Refused {
    fn counts(&self, now: Timestamp) -> bool {
        let span = match self.why {
            NotBelieved::Token(_) => REFUSED_FOR,
            NotBelieved::Untold => UNTOLD_FOR,
        };
        is_within(span, self.since, now)
    }
}

impl NotBelieved {
    fn by(self, issuer: &LiveIssuer) -> CredentialRefusal {
        match self {
            Self::Token(refusal) => refusal.into(),
            Self::Untold => CredentialRefusal::IssuerUnavailable(issuer.settings.name.to_string()),
        }
    }
}

/// A clock that was set back makes a stored time one of the future, which says nothing.
fn is_within(span: Duration, since: Timestamp, now: Timestamp) -> bool {
    since <= now && now.since(since) < span
}

impl Default for Introspections {
    fn default() -> Self {
        Self {
            of_strangers: FairTurns::default(),
            of_known: FairTurns::default(),
            unreached: Cell::default(),
            lines: RefCell::new(Allowances::new(1, TOLD_EVERY)),
            refused: RefCell::default(),
        }
    }
}

impl Introspections {
    fn refused(&self, digest: &[u8; 32], now: Timestamp) -> Option<NotBelieved> {
        let refused = self.refused.borrow();
        refused.get(digest).filter(|refused| refused.counts(now)).map(|refused| refused.why.clone())
    }

    fn note_refused(&self, digest: [u8; 32], why: NotBelieved, now: Timestamp) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() >= REFUSED_MAX {
            refused.retain(|_, refused| refused.counts(now));
        }
        // One more that is not remembered costs a question, and those are bounded.
        if refused.len() < REFUSED_MAX {
            refused.insert(digest, Refused { since: now, why });
        }
    }
}

impl Introspections {
    /// A turn to ask. Whoever is known has some that no stranger takes.
    fn turn(&self, origin: Origin, is_known: bool) -> Option<FairTurn<Origin>> {
        let of_known = is_known.then(|| self.of_known.take(origin, QUESTIONS_OF_KNOWN)).flatten();
        of_known.or_else(|| self.of_strangers.take(origin, QUESTIONS_OF_STRANGERS))
    }
}

/// Verifies an opaque token.
pub(super) async fn verify(
    shown: &TokenShown,
    asked: &ProofFor<'_>,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let bytes = shown.secret.expose();
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| is_bearer_token(text, TOKEN_BYTES_MAX))
        .ok_or(CredentialRefusal::NotText)?;
    let digest = sha256(bytes);
    let subject = match remembered(&digest, connection, snapshot) {
        Some(subject) => subject,
        None => {
            // However many requests bring it at once, the issuer is asked once.
            let alone = connection.worker().subjects().turn(digest).lock_owned().await;
            match remembered(&digest, connection, snapshot) {
                Some(subject) => subject,
                None => Box::pin(ask(text, digest, alone, connection, snapshot)).await?,
            }
        }
    };
    check_binding(&subject, shown, text, asked, connection)?;
    Ok(subject)
}

fn remembered(digest: &[u8; 32], connection: &Connection, snapshot: &Snapshot) -> Option<Rc<Subject>> {
    let subject = connection.worker().subjects().get(digest)?;
    let Proof::Token(token) = subject.proof() else { return None };
    if !token.is_current_answer(snapshot, connection.worker().clock().now()) {
        return None;
    }
    subject.hold(snapshot);
    Some(subject)
}

/// Asks the issuer, unless what it would say is known or it cannot be asked now.
async fn ask(
    text: &str,
    digest: [u8; 32],
    alone: OwnedMutexGuard<()>,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let (worker, now) = (connection.worker(), connection.worker().clock().now());
    let asks = |issuer: &&Arc<LiveIssuer>| issuer.settings.introspection.is_some();
    let issuer = snapshot.issuers.iter().find(asks).ok_or(CredentialRefusal::IssuerUnknown)?;
    let introspections = worker.introspections();
    if let Some(refused) = introspections.refused(&digest, now) {
        return Err(refused.by(issuer));
    }
    if introspections.unreached.get().is_some_and(|since| is_within(UNREACHED_FOR, since, now)) {
        return Err(NotBelieved::Untold.by(issuer));
    }
    let is_known = connection.peer().is_some() || worker.subjects().get(&digest).is_some();
    let turn = introspections.turn(connection.address().origin(), is_known).ok_or(CredentialRefusal::IssuerBusy)?;
    let asking = Asking {
        text: Zeroizing::new(text.to_owned()),
        digest,
        issuer: Arc::clone(issuer),
        worker: Rc::clone(worker),
        snapshot: Arc::clone(snapshot),
        _under_way: (turn, alone),
    };
    let asked = tokio::task::spawn_local(asking.ask()).await;
    asked.unwrap_or_else(|_broken| Err(NotBelieved::Untold.by(issuer)))
}

/// A question about one token. It goes on when its caller goes away: the issuer is at work on it, and whoever asks and goes away could
/// else have it work on as many as it likes.
struct Asking {
    text: Zeroizing<String>,
    digest: [u8; 32],
    issuer: Arc<LiveIssuer>,
    worker: Rc<Worker>,
    snapshot: Arc<Snapshot>,
    /// Its turn among all questions, and the only one about this token.
    _under_way: (FairTurn<Origin>, OwnedMutexGuard<()>),
}

/// What an issuer has said about a token.
enum Said {
    Answer(Bytes),
    /// It cannot make anything of the token.
    NoToken,
    /// It answered something else.
    Nothing,
}

impl Asking {
    /// Asks, and remembers what was said.
    async fn ask(self) -> Result<Rc<Subject>, CredentialRefusal> {
        let (worker, issuer, asked) = (&self.worker, &self.issuer, self.worker.clock().now());
        let settings = issuer.settings.introspection.as_ref().ok_or(CredentialRefusal::IssuerUnknown)?;
        let believed = match self.said(settings).await? {
            Said::Answer(answer) => {
                introspection::believe(&answer, &settings.expected, worker.clock().now()).map_err(NotBelieved::Token)
            }
            Said::NoToken => Err(NotBelieved::Token(TokenRefusal::Inactive)),
            Said::Nothing => Err(NotBelieved::Untold),
        };
        match believed {
            Ok(token) => {
                let counts = Answer { asked, until: asked.plus(settings.cache) };
                let subject = tokens::subject(&token, issuer, counts, &self.snapshot);
                worker.subjects().remember(self.digest, &subject);
                Ok(subject)
            }
            Err(why) => {
                // What was said before counts no longer, also if the clock is set back to when it did.
                if let NotBelieved::Token(_) = &why {
                    worker.subjects().forget(&self.digest);
                }
                worker.introspections().note_refused(self.digest, why.clone(), worker.clock().now());
                Err(why.by(issuer))
            }
        }
    }

    async fn said(&self, settings: &Introspection) -> Result<Said, CredentialRefusal> {
        let (worker, issuer) = (&self.worker, &self.issuer);
        let unavailable = || NotBelieved::Untold.by(issuer);
        let not_reached = || {
            worker.introspections().unreached.set(Some(worker.clock().now()));
            unavailable()
        };
        let endpoint = match &settings.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => issuer.introspection_endpoint().await.ok_or_else(not_reached)?,
        };
        let mut question = Question::form(&[("token", &self.text), ("token_type_hint", "access_token")]);
        question.headers.insert(AUTHORIZATION, client_secret_basic(&settings.client_id, &settings.client_secret));
        let web = issuer.web().ok_or_else(unavailable)?;
        let error = match web.ask(&endpoint, question).await {
            Ok(answer) => return Ok(Said::Answer(answer)),
            Err(error) => error,
        };
        if let Some(omitted) = worker.introspections().lines.borrow_mut().take((), (), worker.clock().now()) {
            let (issuer, error) = (&*issuer.settings.name, in_one_line(&error));
            tracing::warn!(issuer, error, omitted, "an issuer does not answer about a token");
        }
        match error {
            // Some refuse the question where the token is of a form that they do not know. Our part of it is the same each time.
            WebError::Status { status: StatusCode::BAD_REQUEST, .. } => Ok(Said::NoToken),
            WebError::Http { .. } | WebError::Status { .. } | WebError::TooLarge { .. } => Ok(Said::Nothing),
            WebError::Deadline { .. } | WebError::NotReachable(_) | WebError::Unreachable { .. } => Err(not_reached()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_that_asks_as_much_as_it_can_leaves_turns_to_the_next_and_some_to_who_is_known() {
        let introspections = Introspections::default();
        let mut held = Vec::new();
        let mut take_all = |origin, is_known| {
            let before = held.len();
            held.extend(std::iter::from_fn(|| introspections.turn(Origin::User(origin), is_known)));
            held.len() - before
        };
        let of_each: Vec<_> = (0..8).map(|origin| take_all(origin, false)).collect();
        assert_eq!(of_each, [8, 6, 4, 2, 2, 1, 1, 0]);
        let of_each: Vec<_> = (8..10).map(|origin| take_all(origin, true)).collect();
        assert_eq!(of_each, [4, 3], "who is known has turns that no stranger takes");
        held.clear();
        let all: Vec<_> = std::iter::from_fn(|| introspections.turn(Origin::User(9), true)).collect();
        assert_eq!(all.len(), 4 + 8, "what is over is free again, and who is known takes of both");
    }
}
