//! Who asks? From the certificate of the connection and the credential of the request to a [`Caller`], or to a refusal.
//!
//! A route says what it demands. A credential that it names must be good whenever it is shown, also where another would have done.
//! A header or parameter that it does not name goes on to the service; an `Authorization` that it does not name is refused where it
//! takes any credential of requests.

pub(crate) mod caller;

pub(crate) mod subject;

pub(crate) mod shown;

pub(crate) mod refusal;

pub(crate) mod keys;

mod passwords;

mod tokens;

pub(crate) mod introspected;

mod subjects;

pub(crate) mod usage;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{Connection, Current};
use crate::policy::credential::{CredentialKind, CredentialSet, Demand};
use crate::refusal::{Refusal, Withdrawn};
use crate::request::{CallerToken, NormalRequest};
use crate::routes::{InboundRoute, Snapshot};
use caller::Caller;
pub(crate) use introspected::Introspections;
pub(crate) use passwords::PasswordChecks;
use refusal::CredentialRefusal;
use shown::{ProofFor, Shown};
use subject::{Proof, Subject};
pub(crate) use subjects::Subjects;
pub(crate) use tokens::SpentProofs;
pub(crate) use usage::KeyUsage;

/// Finds out who makes a request, and takes the credential out of it.
pub(crate) async fn request(connection: &Rc<Connection>, request: &mut NormalRequest) -> Result<Caller, Refusal> {
    match connection.sole_caller() {
        // Most routes demand a certificate and nothing else; the handshake has seen to it.
        Some(peer) => Ok(Caller::Peer(peer)),
        None => Box::pin(with_credential(connection, request)).await,
    }
}

/// Takes the credential out of the request, and finds out whose it is.
async fn with_credential(connection: &Rc<Connection>, request: &mut NormalRequest) -> Result<Caller, Refusal> {
    let begun = connection.worker().elapsed_nanoseconds();
    let Current::Inbound(route) = connection.current()? else { return Err(Refusal::Withdrawn(Withdrawn::Route)) };
    let snapshot = connection.worker().snapshot();
    let shown = shown::take(request, snapshot.accepted.key_places(), route.demand.accepted());
    let kind = shown.as_ref().ok().and_then(Option::as_ref).map(Shown::kind);
    let believed = match shown {
        Ok(shown) => verified(shown, request, connection, &route, &snapshot).await,
        Err(refusal) => Err(refusal),
    };
    let caller = believed.map_err(|refusal| refused(refusal, connection, route.demand)).and_then(|caller| {
        still_as_verified(&caller, connection, &snapshot)?;
        Ok(caller)
    });
    counted(kind, begun, connection, caller)
}

/// Counts whether somebody was believed, by what was shown, and how long that took.
fn counted(
    shown: Option<CredentialKind>,
    begun: u64,
    connection: &Connection,
    caller: Result<Caller, Refusal>,
) -> Result<Caller, Refusal> {
    if let Ok(_) | Err(Refusal::Credential { .. }) = &caller {
        let took = Duration::from_nanos(connection.worker().elapsed_nanoseconds().saturating_sub(begun));
        connection.counters().authenticated(shown, caller.is_ok(), took);
    }
    caller
}

/// Tells the auditor, and says with it what would have done.
fn refused(refusal: CredentialRefusal, connection: &Connection, demand: Demand) -> Refusal {
    let accepted = demand.accepted();
    let (notables, methods) = (connection.worker().notables(), accepted.of_requests().to_string());
    notables.not_authenticated(&methods, refusal.reason(), connection.address(), connection.route_name());
    Refusal::Credential { source: Box::new(refusal), accepted }
}

/// Who makes the request, if what it shows is good.
async fn verified(
    shown: Option<Shown>,
    request: &mut NormalRequest,
    connection: &Connection,
    route: &InboundRoute,
    snapshot: &Arc<Snapshot>,
) -> Result<Caller, CredentialRefusal> {
    let Some(shown) = shown else { return caller(connection, None, route.demand) };
    let asked = ProofFor {
        method: &request.method,
        authority: &request.authority,
        path: request.target.path().as_str(),
        bound_tokens_only: route.bound_tokens_only,
    };
    let subject = verify(&shown, &asked, connection, snapshot).await?;
    if route.given.exchange().is_some() {
        request.token = shown.token().map(CallerToken::new);
    }
    note(&subject, connection);
    caller(connection, Some(subject), route.demand)
}

/// A verification may wait for others, and a new config be taken up meanwhile: what was verified by the old one must be good by the new
/// one too, which is what the request is decided by.
fn still_as_verified(caller: &Caller, connection: &Connection, verified_by: &Snapshot) -> Result<(), Withdrawn> {
    if connection.worker().snapshot().generation == verified_by.generation {
        return Ok(());
    }
    match connection.current()? {
        Current::Inbound(route) => still_believed(caller, connection, &route),
        Current::Outbound(_) => Err(Withdrawn::Route),
    }
}

async fn verify(
    shown: &Shown,
    asked: &ProofFor<'_>,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    match shown {
        Shown::OpaqueToken(token) => introspected::verify(token, asked, connection, snapshot).await,
        Shown::Jwt(token) => tokens::verify(token, asked, connection, snapshot).await,
        Shown::Basic(secret) => passwords::verify(secret, connection, snapshot).await,
        Shown::ApiKey(secret) => keys::verify(secret, connection.worker(), snapshot),
    }
}

/// Notes that somebody makes a request, and tells of it if it is the first in a while.
fn note(subject: &Subject, connection: &Connection) {
    subject.note_use();
    let (notables, address, route) = (connection.worker().notables(), connection.address(), connection.route_name());
    if subject.take_fresh() {
        notables.authenticated(subject.proof().kind().as_str(), subject.principal(), address, route);
    }
    notables.seen(subject.principal(), route, address);
}

/// Joins what the connection has proved with what the request has.
fn caller(connection: &Connection, subject: Option<Rc<Subject>>, demand: Demand) -> Result<Caller, CredentialRefusal> {
    let workload = connection.peer().filter(|_| demand.accepted().has(CredentialKind::Mtls));
    if let Some(missing) = demand.missing(shown_by(workload.is_some(), subject.as_deref())) {
        return Err(CredentialRefusal::Missing(missing));
    }
    match (workload.cloned(), subject) {
        (Some(workload), Some(subject)) => Ok(Caller::OnBehalf { workload, subject }),
        (Some(workload), None) => Ok(Caller::Peer(workload)),
        (None, Some(subject)) => Ok(Caller::Subject(subject)),
        // A demand is never met by nothing.
        (None, None) => Err(CredentialRefusal::Missing(demand.accepted())),
    }
}

fn shown_by(certificate: bool, subject: Option<&Subject>) -> CredentialSet {
    let certificate = certificate.then_some(CredentialKind::Mtls);
    certificate.into_iter().chain(subject.map(|subject| subject.proof().kind())).collect()
}

/// Whether the caller of a request under way would still be believed, by what is configured now.
pub(crate) fn still_believed(caller: &Caller, connection: &Connection, route: &InboundRoute) -> Result<(), Withdrawn> {
    let (snapshot, demand) = (connection.worker().snapshot(), route.demand);
    let certificate = connection.peer().is_some() && demand.accepted().has(CredentialKind::Mtls);
    let withdrawn = |refusal: CredentialRefusal| Withdrawn::Credential(refusal.reason());
    let subject = caller.subject();
    if let Some(subject) = subject {
        if !demand.accepted().has(subject.proof().kind()) {
            return Err(withdrawn(CredentialRefusal::NotAccepted));
        }
        subject.hold(&snapshot);
        match subject.proof() {
            Proof::Key { digest, ends, key } => {
                let found = keys::look_up(digest, connection.worker(), &snapshot).map_err(withdrawn)?;
                if !keys::grants_the_same(found.key, key) {
                    return Err(withdrawn(CredentialRefusal::KeyChanged));
                }
                ends.set(found.not_after());
            }
            Proof::Token(token) => {
                if route.bound_tokens_only && !token.is_bound() {
                    return Err(withdrawn(CredentialRefusal::TokenUnbound));
                }
                tokens::still_counts(token, &snapshot, connection.worker().clock().now()).map_err(withdrawn)?;
            }
            Proof::Password { name, hash } => passwords::still_right(name, hash, &snapshot).map_err(withdrawn)?,
        }
    }
    match demand.missing(shown_by(certificate, subject.map(|subject| &**subject))) {
        Some(missing) => Err(withdrawn(CredentialRefusal::Missing(missing))),
        None => Ok(()),
    }
}
