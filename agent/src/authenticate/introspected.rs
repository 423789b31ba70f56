//! Tokens that only their issuer can read: it is asked about each (RFC 7662), once in a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use countersign_certs::digest::sha256;
use countersign_certs::time::Timestamp;
use countersign_credentials::introspection;
use countersign_credentials::jwt::TokenRefusal;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::refusal::CredentialRefusal;
use super::shown::{Asked, TokenShown};
use super::subject::{Proof, Subject};
use super::tokens::{self, check_binding};
use crate::config::checked::Introspection;
use crate::connection::Connection;
use crate::issuers::LiveIssuer;
use crate::refusal::in_one_line;
use crate::routes::Snapshot;
use crate::web::{Question, encode};

/// Longest opaque token in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Questions of one worker under way at once. Whoever can send tokens can cause them.
const QUESTIONS_MAX: usize = 16;

/// Tokens remembered as not active, and for how long: a flood of one bad token is one question.
const INACTIVE_MAX: usize = 4096;
const INACTIVE_FOR: Duration = Duration::from_secs(10);

/// What one worker knows of questions to issuers.
#[derive(Debug)]
pub(crate) struct Introspections {
    turns: Semaphore,
    inactive: RefCell<HashMap<[u8; 32], Timestamp>>,
}

impl Default for Introspections {
    fn default() -> Self {
        Self { turns: Semaphore::new(QUESTIONS_MAX), inactive: RefCell::default() }
    }
}

impl Introspections {
    fn is_inactive(&self, digest: &[u8; 32], now: Timestamp) -> bool {
        // A clock that was set back makes a stored time one of the future, which says nothing.
        self.inactive.borrow().get(digest).is_some_and(|since| *since <= now && now.since(*since) < INACTIVE_FOR)
    }

    fn note_inactive(&self, digest: [u8; 32], now: Timestamp) {
        let mut inactive = self.inactive.borrow_mut();
        if inactive.len() >= INACTIVE_MAX {
            inactive.retain(|_, since| *since <= now && now.since(*since) < INACTIVE_FOR);
        }
        // One more that is not remembered costs a question, and those are bounded.
        if inactive.len() < INACTIVE_MAX {
            inactive.insert(digest, now);
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
    if worker.introspections().is_inactive(&digest, now) {
        return Err(TokenRefusal::Inactive.into());
    }
    let answer = question(text, issuer, settings, connection).await?;
    match introspection::believe(&answer, &settings.expected, worker.clock().now()) {
        Ok(token) => {
            let until = worker.clock().now().plus(settings.cache);
            let subject = tokens::subject(&token, issuer, Some(until), snapshot);
            worker.subjects().remember(digest, &subject);
            Ok(subject)
        }
        Err(refusal) => {
            worker.introspections().note_inactive(digest, now);
            Err(refusal.into())
        }
    }
}

async fn question(
    text: &str,
    issuer: &LiveIssuer,
    settings: &Introspection,
    connection: &Connection,
) -> Result<bytes::Bytes, CredentialRefusal> {
    let unavailable = || CredentialRefusal::IssuerUnavailable(issuer.settings.name.to_string());
    let Ok(_turn) = connection.worker().introspections().turns.try_acquire() else {
        return Err(CredentialRefusal::Busy);
    };
    let discovered = issuer.endpoints().introspection;
    let endpoint = settings.endpoint.clone().or(discovered).ok_or_else(unavailable)?;
    let mut question = Question::form(&[("token", text), ("token_type_hint", "access_token")]);
    question.headers.insert(AUTHORIZATION, client_secret_basic(&settings.client_id, &settings.client_secret));
    let web = issuer.web().ok_or_else(unavailable)?;
    web.ask(&endpoint, question).await.map_err(|error| {
        tracing::warn!(
            issuer = &*issuer.settings.name,
            error = in_one_line(&error),
            "an issuer does not answer about a token"
        );
        unavailable()
    })
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
