//! Tokens that only their issuer can read: it is asked about each (RFC 7662), once in a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_certs::digest::sha256;
use countersign_certs::time::Timestamp;
use countersign_credentials::introspection;
use countersign_credentials::jwt::TokenRefusal;
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::refusal::CredentialRefusal;
use super::shown::{Asked, TokenShown};
use super::subject::{Proof, Subject};
use super::tokens::{self, Answer, check_binding};
use crate::config::checked::Introspection;
use crate::connection::Connection;
use crate::issuers::LiveIssuer;
use crate::refusal::in_one_line;
use crate::routes::Snapshot;
use crate::web::{Question, WebError, encode};

/// Longest opaque token in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Questions of one worker under way at once. Whoever can send tokens can cause them.
const QUESTIONS_MAX: usize = 16;

/// Tokens remembered as refused, and for how long: a flood of one bad token is one question.
const REFUSED_MAX: usize = 4096;
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// For how long a question that was not answered is not asked again. Others who have brought the same token meanwhile wait their turn,
/// and would else wait for one deadline after the other.
const UNANSWERED_FOR: Duration = Duration::from_secs(2);

/// What one worker knows of questions to issuers.
#[derive(Debug)]
pub(crate) struct Introspections {
    turns: Semaphore,
    refused: RefCell<HashMap<[u8; 32], Refused>>,
}

/// A token that was not believed.
#[derive(Debug, Clone)]
struct Refused {
    since: Timestamp,
    /// None where the issuer did not answer.
    why: Option<TokenRefusal>,
}

impl Refused {
    /// A clock that was set back makes a stored time one of the future, which says nothing.
    fn is_recent(&self, now: Timestamp) -> bool {
        let span = if self.why.is_some() { REFUSED_FOR } else { UNANSWERED_FOR };
        self.since <= now && now.since(self.since) < span
    }
}

impl Default for Introspections {
    fn default() -> Self {
        Self { turns: Semaphore::new(QUESTIONS_MAX), refused: RefCell::default() }
    }
}

impl Introspections {
    fn refused(&self, digest: &[u8; 32], now: Timestamp) -> Option<Refused> {
        self.refused.borrow().get(digest).filter(|refused| refused.is_recent(now)).cloned()
    }

    fn note_refused(&self, digest: [u8; 32], why: Option<&TokenRefusal>, now: Timestamp) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() >= REFUSED_MAX {
            refused.retain(|_, refused| refused.is_recent(now));
        }
        // One more that is not remembered costs a question, and those are bounded.
        if refused.len() < REFUSED_MAX {
            refused.insert(digest, Refused { since: now, why: why.cloned() });
        }
    }
}

/// Verifies an opaque token.
pub(super) async fn verify(
    shown: &TokenShown,
    asked: &Asked<'_>,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let bytes = shown.secret.expose();
    let text = std::str::from_utf8(bytes).ok().filter(|text| is_token(text)).ok_or(CredentialRefusal::NotText)?;
    let digest = sha256(bytes);
    let subject = match remembered(&digest, connection, snapshot) {
        Some(subject) => subject,
        None => {
            // However many requests bring it at once, the issuer is asked once.
            let turn = connection.worker().subjects().turn(digest);
            let _turn = turn.lock().await;
            match remembered(&digest, connection, snapshot) {
                Some(subject) => subject,
                None => ask(text, digest, connection, snapshot).await?,
            }
        }
    };
    check_binding(&subject, shown, text, asked, connection)?;
    Ok(subject)
}

/// What RFC 6750 §2.1 allows after `Bearer`.
fn is_token(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
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

async fn ask(
    text: &str,
    digest: [u8; 32],
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let (worker, now) = (connection.worker(), connection.worker().clock().now());
    let asks = |issuer: &&Arc<LiveIssuer>| issuer.settings.introspection.is_some();
    let issuer = snapshot.issuers.iter().find(asks).ok_or(CredentialRefusal::IssuerUnknown)?;
    let settings = issuer.settings.introspection.as_ref().ok_or(CredentialRefusal::IssuerUnknown)?;
    let unavailable = || CredentialRefusal::IssuerUnavailable(issuer.settings.name.to_string());
    if let Some(refused) = worker.introspections().refused(&digest, now) {
        return Err(refused.why.map_or_else(unavailable, CredentialRefusal::from));
    }
    let answered = question(text, issuer, settings, connection).await.inspect_err(|_busy_or_unanswered| {
        worker.introspections().note_refused(digest, None, worker.clock().now());
    })?;
    let believed = match answered {
        Some(answer) => introspection::believe(&answer, &settings.expected, worker.clock().now()),
        None => Err(TokenRefusal::Inactive),
    };
    match believed {
        Ok(token) => {
            let counts = Answer { asked: now, until: now.plus(settings.cache) };
            let subject = tokens::subject(&token, issuer, counts, snapshot);
            worker.subjects().remember(digest, &subject);
            Ok(subject)
        }
        Err(refusal) => {
            worker.introspections().note_refused(digest, Some(&refusal), now);
            Err(refusal.into())
        }
    }
}

/// The issuer's answer; none where it cannot make anything of the token.
async fn question(
    text: &str,
    issuer: &LiveIssuer,
    settings: &Introspection,
    connection: &Connection,
) -> Result<Option<Bytes>, CredentialRefusal> {
    let unavailable = || CredentialRefusal::IssuerUnavailable(issuer.settings.name.to_string());
    let Ok(_turn) = connection.worker().introspections().turns.try_acquire() else {
        return Err(CredentialRefusal::IssuerBusy);
    };
    let endpoint = match &settings.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => issuer.introspection_endpoint().await.ok_or_else(unavailable)?,
    };
    let mut question = Question::form(&[("token", text), ("token_type_hint", "access_token")]);
    question.headers.insert(AUTHORIZATION, client_secret_basic(&settings.client_id, &settings.client_secret));
    let web = issuer.web().ok_or_else(unavailable)?;
    let error = match web.ask(&endpoint, question).await {
        Ok(answer) => return Ok(Some(answer)),
        Err(error) => error,
    };
    let name = &*issuer.settings.name;
    tracing::warn!(issuer = name, error = in_one_line(&error), "an issuer does not answer about a token");
    // Some refuse the question where the token is of a form that they do not know. Our part of it is the same each time.
    if matches!(error, WebError::Status { status: StatusCode::BAD_REQUEST, .. }) {
        Ok(None)
    } else {
        Err(unavailable())
    }
}

/// How a client proves who it is (RFC 6749 §2.3.1): both parts encoded as in a form.
pub(crate) fn client_secret_basic(id: &str, secret: &Zeroizing<String>) -> HeaderValue {
    let mut both = Zeroizing::new(Vec::with_capacity(1024));
    encode(id, &mut both);
    both.push(b':');
    encode(secret, &mut both);
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*both)));
    // Base64 has no byte that a header may not have.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}
