//! Tokens: signed ones of an issuer (RFC 7519, RFC 9068), bound to a certificate (RFC 8705) or to a key (RFC 9449) or to nobody.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_certs::digest::sha256;
use countersign_certs::san::San;
use countersign_certs::time::Timestamp;
use countersign_credentials::confirmation::Confirmation;
use countersign_credentials::dpop::{self, ProofRequest, ProofSettings, ReplayCache, VerifiedProof};
use countersign_credentials::jwk::Thumbprint;
use countersign_credentials::jwt::{self, TokenRefusal, VerifiedToken};
use countersign_credentials::url::{Host, HttpUrl};
use serde_json::Value;

use super::refusal::CredentialRefusal;
use super::shown::{ProofFor, TokenShown};
use super::subject::{Proof, Subject};
use crate::config::checked::Issuer;
use crate::connection::{Connection, Current};
use crate::issuers::LiveIssuer;
use crate::policy::subject::{SubjectNames, TokenNames};
use crate::routes::Snapshot;

/// Proofs that are remembered so that none is taken twice: a minute of four thousand a second, of one key a thousand.
const PROOFS_MAX: usize = 262_144;

/// Proofs of all workers: one that was spent on one worker is spent for all.
#[derive(Debug)]
pub(crate) struct SpentProofs(Mutex<ReplayCache>);

impl Default for SpentProofs {
    fn default() -> Self {
        Self(Mutex::new(ReplayCache::new(PROOFS_MAX)))
    }
}

/// A token that was verified, as long as nothing that it depends on changes.
#[derive(Debug)]
pub(crate) struct TokenProof {
    issuer: Arc<LiveIssuer>,
    /// Of the issuer's keys.
    epoch: u64,
    /// The first second in which it counts: a clock may be set back.
    begins: Timestamp,
    /// The last second in which it counts.
    pub(super) ends: Timestamp,
    confirmation: Option<Confirmation>,
    /// The key that signed it.
    key: Option<Thumbprint>,
    /// Of a token that only its issuer can read.
    answer: Option<Answer>,
}

/// From when until when the answer of an issuer counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) asked: Timestamp,
    pub(super) until: Timestamp,
}

impl TokenProof {
    /// Whether only its issuer can read it.
    pub(super) fn is_opaque(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether it is good only for who has a certificate or a key besides.
    pub(super) fn is_bound(&self) -> bool {
        self.confirmation.is_some()
    }

    /// Whether the answer of its issuer still counts.
    pub(super) fn is_current_answer(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let counts = |answer: Answer| (answer.asked..=answer.until).contains(&now);
        self.answer.is_some_and(counts) && self.lives(now) && self.is_of(snapshot)
    }

    /// Whether what it was verified with is still what would be used.
    fn is_current(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        !self.is_opaque()
            && self.lives(now)
            && self.epoch == self.issuer.epoch()
            && self.issuer.has_fresh_keys()
            && self.is_of(snapshot)
    }

    fn lives(&self, now: Timestamp) -> bool {
        (self.begins..=self.ends).contains(&now)
    }

    fn is_of(&self, snapshot: &Snapshot) -> bool {
        snapshot.issuers.iter().any(|issuer| Arc::ptr_eq(issuer, &self.issuer))
    }
}

/// Whether a token under way is still one that would count. It is not there any more to be verified again: what is expected of it
/// must be what it was, and its key one that the issuer still has.
pub(super) fn still_counts(proof: &TokenProof, snapshot: &Snapshot, now: Timestamp) -> Result<(), CredentialRefusal> {
    if now > proof.ends {
        return Err(TokenRefusal::Expired { expires: proof.ends, now }.into());
    }
    let believes = |issuer: &&Arc<LiveIssuer>| issuer.settings.believes_as(&proof.issuer.settings);
    let issuer = snapshot.issuers.iter().find(believes).ok_or(CredentialRefusal::IssuerUnknown)?;
    if proof.key.is_some_and(|key| issuer.has_withdrawn(&key)) {
        return Err(CredentialRefusal::TokenKeyWithdrawn(issuer.settings.name.to_string()));
    }
    Ok(())
}

/// Verifies a token.
pub(super) async fn verify(
    shown: &TokenShown,
    asked: &ProofFor<'_>,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let text = std::str::from_utf8(shown.secret.expose()).map_err(|_not_text| CredentialRefusal::NotText)?;
    let digest = sha256(text.as_bytes());
    let subject = match remembered(&digest, connection, snapshot) {
        Some(subject) => subject,
        None => Box::pin(verify_anew(text, digest, connection, snapshot)).await?,
    };
    // Whoever shows it must be whom it is bound to, each time.
    check_binding(&subject, shown, text, asked, connection)?;
    Ok(subject)
}

fn remembered(digest: &[u8; 32], connection: &Connection, snapshot: &Snapshot) -> Option<Rc<Subject>> {
    let now = connection.worker().clock().now();
    let subject = connection.worker().subjects().get(digest)?;
    let Proof::Token(proof) = subject.proof() else { return None };
    if !proof.is_current(snapshot, now) {
        return None;
    }
    subject.hold(snapshot);
    Some(subject)
}

async fn verify_anew(
    text: &str,
    digest: [u8; 32],
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let claimed = jwt::peek(text)?;
    let issuer = snapshot.issuers.iter().find(|issuer| issuer.settings.tokens.settings().issuer == claimed.issuer());
    let issuer = issuer.ok_or(CredentialRefusal::IssuerUnknown)?;
    let (token, epoch) = verify_with_keys(text, issuer, connection).await?;
    let subject = subject_of(&token, issuer, (epoch, None), snapshot);
    connection.worker().subjects().remember(digest, &subject);
    Ok(subject)
}

/// Verifies with the keys at hand, and once more with newer ones if the token names a key that is not among them.
async fn verify_with_keys(
    text: &str,
    issuer: &LiveIssuer,
    connection: &Connection,
) -> Result<(VerifiedToken, u64), CredentialRefusal> {
    let now = || connection.worker().clock().now();
    let unavailable = || CredentialRefusal::IssuerUnavailable(issuer.settings.name.to_string());
    // Read before the keys: keys that are replaced in between have a token verified once more, and none is trusted too long.
    let epoch = issuer.epoch();
    let keys = issuer.keys().await.ok_or_else(unavailable)?;
    match jwt::verify(text, &issuer.settings.tokens, &keys, now()) {
        Err(TokenRefusal::UnknownKey { key, algorithm, issuer: name }) => {
            let newer = issuer.keys_after(&keys).await;
            let newer = newer.ok_or(TokenRefusal::UnknownKey { key, algorithm, issuer: name })?;
            // The epoch of before is at most one too old: then the token is verified once more, and never trusted too long.
            Ok((jwt::verify(text, &issuer.settings.tokens, &newer, now())?, epoch))
        }
        verified => Ok((verified?, epoch)),
    }
}

/// Who a token is about of which its issuer has told.
pub(super) fn subject(
    token: &VerifiedToken,
    issuer: &Arc<LiveIssuer>,
    answer: Answer,
    snapshot: &Snapshot,
) -> Rc<Subject> {
    subject_of(token, issuer, (issuer.epoch(), Some(answer)), snapshot)
}

/// Who a verified token is about, and what the verification hangs on: the issuer's keys, or its answer.
fn subject_of(
    token: &VerifiedToken,
    issuer: &Arc<LiveIssuer>,
    (epoch, answer): (u64, Option<Answer>),
    snapshot: &Snapshot,
) -> Rc<Subject> {
    let settings = &issuer.settings;
    let names = SubjectNames::Token(TokenNames {
        issuer: Arc::clone(&settings.name),
        subject: token.subject.as_str().into(),
        client: token.client_id.as_deref().map(Into::into),
        scopes: token.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        groups: groups(token, settings),
        claims: settings.claims.keys().filter_map(|name| token.claims.get_key_value(&**name)).map(owned).collect(),
    });
    let leeway = settings.tokens.settings().leeway;
    let begins = token.not_before.max(token.issued).map_or(Timestamp::from_unix_seconds(0), |time| time.minus(leeway));
    let proof = TokenProof {
        issuer: Arc::clone(issuer),
        epoch,
        begins,
        ends: token.expires.plus(leeway).minus(std::time::Duration::from_secs(1)),
        confirmation: token.confirmation,
        key: token.key,
        answer,
    };
    Subject::new(names, Proof::Token(Box::new(proof)), snapshot)
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// The groups of a token: a list of texts, or one text.
fn groups(token: &VerifiedToken, settings: &Issuer) -> Vec<Arc<str>> {
    let claim = &*settings.groups_claim;
    let found = match claim.strip_prefix('/') {
        Some(path) => {
            let mut segments = path.split('/');
            let first = segments.next().and_then(|name| token.claims.get(name));
            segments.fold(first, |value, name| value?.get(name))
        }
        None => token.claims.get(claim),
    };
    match found {
        Some(Value::String(group)) => vec![group.as_str().into()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(Into::into).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
    }
}

/// Looks at what the token is bound to, and spends the proof that was shown with it.
pub(super) fn check_binding(
    subject: &Subject,
    shown: &TokenShown,
    text: &str,
    asked: &ProofFor<'_>,
    connection: &Connection,
) -> Result<(), CredentialRefusal> {
    let Proof::Token(token) = subject.proof() else { return Err(CredentialRefusal::IssuerUnknown) };
    let proof = shown.by_proof.then(|| verify_proof(shown, text, asked, connection)).transpose()?;
    let certificate =
        connection.peer().and_then(|peer| peer.verified()).map(|verified| verified.certificate().fingerprint());
    match (&token.confirmation, &proof) {
        (Some(confirmation), proof) => confirmation.check(certificate, proof.as_ref())?,
        (None, Some(proof)) => {
            return Err(
                countersign_credentials::confirmation::Unconfirmed::Unbound { shown: proof.thumbprint() }.into()
            );
        }
        (None, None) if asked.bound_tokens_only => return Err(CredentialRefusal::TokenUnbound),
        (None, None) => {}
    }
    match proof {
        Some(proof) => {
            let mut spent = connection.worker().spent_proofs().0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(spent.spend(&proof, connection.worker().clock().now())?)
        }
        None => Ok(()),
    }
}

/// The host is what the caller says. One who was shown a proof for itself could name itself here, and the proof would fit; but whoever
/// calls by a name looks for that name in our certificate. One without names of hosts tells nothing.
fn check_host(host: &Host, connection: &Connection) -> Result<(), CredentialRefusal> {
    let Ok(Current::Inbound(route)) = connection.current() else { return Err(CredentialRefusal::IssuerUnknown) };
    let is_this = |san: &San| match (san, host) {
        (San::Dns(own), Host::Name(name)) => Some(own.as_str() == name),
        (San::Ip(own), Host::Address(address)) => Some(own == address),
        (San::Dns(_) | San::Ip(_), _) => Some(false),
        (San::Email(_) | San::Spiffe(_), _) => None,
    };
    let known: Vec<bool> = route.tls.identity.leaf().sans().iter().filter_map(is_this).collect();
    if known.is_empty() || known.contains(&true) {
        return Ok(());
    }
    Err(CredentialRefusal::ProofElsewhere(host.to_string()))
}

fn verify_proof(
    shown: &TokenShown,
    token: &str,
    asked: &ProofFor<'_>,
    connection: &Connection,
) -> Result<VerifiedProof, CredentialRefusal> {
    let target = HttpUrl::parse_target(&format!("https://{}{}", asked.authority, asked.path))
        .map_err(|_no_url| CredentialRefusal::NotText)?;
    check_host(target.host(), connection)?;
    let request = ProofRequest { method: asked.method.as_str(), target: &target, token, nonce: None };
    let proofs = shown.proofs.iter().map(|value| value.to_str().unwrap_or_default());
    Ok(dpop::verify(proofs, &request, &ProofSettings::default(), connection.worker().clock().now())?)
}
