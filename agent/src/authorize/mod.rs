//! May they? From a caller and what it asks to [`Authorized`], from which counting makes a [`Permit`] that forwarding spends, or to a
//! refusal.
//!
//! A permit stays bound to what allowed it. When a certificate ends, a peer is revoked or a rule is taken back, the worker
//! asks [`again`] about everything under way and has ended what is no longer allowed.

mod evidence;

use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::time::Timestamp;
use countersign_credentials::api_key::KeyRecord;
use http::Method;

use crate::authenticate;
use crate::authenticate::caller::Caller;
use crate::authenticate::subject::Proof;
use crate::config::address::Protocol;
use crate::connection::{Connection, Current};
use crate::facts::{self, RequestFacts};
use crate::limit::live::LiveLimit;
use crate::live::Live;
use crate::policy::condition::{Facts, ServiceFacts};
use crate::policy::decide::{self, Decision, Holders, Question};
use crate::policy::explain::{observed_in_words, obstacle_in_words};
use crate::policy::local::LocalCaller;
use crate::policy::rule::Policy;
use crate::refusal::{Refusal, Withdrawn};
use crate::request::NormalRequest;
use crate::routes::{InboundRoute, OutboundRoute, Phase};
use crate::worker::Worker;
pub(crate) use evidence::{Authorized, AuthorizedConnection, ConnectionPermit, Ongoing, Permit};

/// Decides on one HTTP request of a connection.
pub(crate) fn request(
    connection: &Rc<Connection>,
    caller: Caller,
    request: &NormalRequest,
) -> Result<Authorized, Refusal> {
    let worker = connection.worker();
    let now = worker.clock().now();
    still_open(connection, now)?;
    let route = still_as_begun(connection)?;
    let asked = RequestFacts {
        method: &request.method,
        path: request.target.path(),
        query: Some(request.target.query().unwrap_or_default()),
        headers: Some(&request.headers),
        now,
    };
    let grounds = decided(&route, connection, &caller, asked)?;
    let looked_at = rules_of(&route).is_some_and(|(policy, _)| policy.uses.is_some());
    let headers = looked_at.then(|| Box::new(request.headers.clone()));
    let limits = match route {
        Current::Inbound(route) => route.rate_limits.clone(),
        Current::Outbound(_) => None,
    };
    let ongoing = Ongoing::begin(connection, caller, request, headers);
    let ongoing = Live::enter(worker.requests(), Rc::new(ongoing));
    Ok(Authorized::new(ongoing, grounds, limits))
}

/// The limits of a route whose caller asks about them. What the agent itself answers is no service, and no rule is asked; but
/// whoever may not be served at all is not answered either.
pub(crate) fn own_answer(connection: &Connection) -> Result<Option<Arc<[Arc<LiveLimit>]>>, Refusal> {
    still_open(connection, connection.worker().clock().now())?;
    match still_as_begun(connection)? {
        Current::Inbound(route) => Ok(route.rate_limits.clone()),
        Current::Outbound(_) => Ok(None),
    }
}

/// Whether the peer of a connection is still who it was in the handshake, by what is trusted and configured now.
///
/// The handshake was made under what was trusted when it began. Who was revoked meanwhile, and that the agent drains, is found
/// here, because the connection entered the worker's list before: from there on, every change finds it.
pub(crate) fn still_trusted(connection: &Connection) -> Result<(), Refusal> {
    if connection.worker().snapshot().phase != Phase::Serving {
        return Err(Refusal::Withdrawn(Withdrawn::Stopped));
    }
    Ok(still_verified(connection)?)
}

/// A connection that must end takes no new request, even if its task has not noticed yet.
fn still_open(connection: &Connection, now: Timestamp) -> Result<(), Withdrawn> {
    if let Some(withdrawn) = connection.signal().cut_reason() {
        return Err(withdrawn);
    }
    match connection.ends() {
        Some(ends) if now > ends => Err(Withdrawn::Expired(ends)),
        Some(_) | None => Ok(()),
    }
}

/// Decides on a connection whose bytes are not looked at.
pub(crate) fn connection(connection: &Connection) -> Result<AuthorizedConnection, Refusal> {
    if connection.worker().audit().is_stuck() {
        return Err(Refusal::AuditUnavailable);
    }
    let (rule, limits) = match still_as_begun(connection)? {
        Current::Inbound(route) => (Some(whole_connection(&route, connection)?), route.rate_limits.clone()),
        Current::Outbound(route) => (whole_local_connection(&route, connection)?, None),
    };
    Ok(AuthorizedConnection::new(rule, limits))
}

/// Whether a program of this host may use an outbound for anything. Whatever it then asks is decided on by itself.
pub(crate) fn local_caller(connection: &Connection) -> Result<(), Refusal> {
    match still_as_begun(connection)? {
        Current::Outbound(route) => may_use(&route, connection),
        Current::Inbound(_) => Err(Refusal::Withdrawn(Withdrawn::Route)),
    }
}

fn may_use(route: &OutboundRoute, connection: &Connection) -> Result<(), Refusal> {
    let caller = connection.address().local_caller();
    let peer = connection.peer().ok_or(Refusal::Withdrawn(Withdrawn::Route))?;
    match &route.policy {
        Some(policy) if caller == LocalCaller::Unknown || !policy.could_allow(&peer.roles()) => {
            Err(Refusal::LocalCaller(caller))
        }
        Some(_) | None => Ok(()),
    }
}

/// Looks at everything under way again, after trust, policy or routes have changed.
pub(crate) fn again(worker: &Worker) {
    for connection in worker.connections().all() {
        if let Err(withdrawn) = still_connected(&connection) {
            connection.signal().cut(withdrawn);
        }
    }
    for ongoing in worker.requests().all() {
        if let Err(withdrawn) = still_allowed(&ongoing) {
            ongoing.signal().cut(withdrawn);
        }
    }
}

/// The route of a connection as it is now, if it still is what the connection began with: the same kind of bytes, which rules for
/// another kind cannot judge; the identity that the caller has asked for and was shown; and a socket that the program could reach.
fn still_as_begun(connection: &Connection) -> Result<Current, Withdrawn> {
    let current = connection.current()?;
    let same = match &current {
        Current::Inbound(route) => {
            (route.backend.protocol == Protocol::Tcp) == connection.is_whole()
                && connection.own_identity() == route.tls.identity.leaf().principal()
        }
        Current::Outbound(route) => route.is_tcp == connection.is_whole() && connection.could_reach(route),
    };
    if same { Ok(current) } else { Err(Withdrawn::Route) }
}

fn still_connected(connection: &Connection) -> Result<(), Withdrawn> {
    still_verified(connection)?;
    match still_as_begun(connection)? {
        Current::Inbound(route) => {
            if connection.is_whole() {
                whole_connection(&route, connection)
                    .map(drop)
                    .map_err(|refusal| Withdrawn::Policy(refusal.detail()))?;
            }
            Ok(())
        }
        Current::Outbound(route) => {
            let allowed = may_use(&route, connection).and_then(|()| match connection.is_whole() {
                true => whole_local_connection(&route, connection).map(drop),
                false => Ok(()),
            });
            allowed.map_err(|refusal| Withdrawn::Policy(refusal.detail()))
        }
    }
}

fn still_verified(connection: &Connection) -> Result<(), Withdrawn> {
    match still_as_begun(connection)? {
        Current::Inbound(route) => connection.verify_again(&route.tls.trust),
        Current::Outbound(_) => Ok(()),
    }
}

fn still_allowed(ongoing: &Ongoing) -> Result<(), Withdrawn> {
    let (connection, caller) = (ongoing.connection(), ongoing.caller());
    still_connected(connection)?;
    let route = still_as_begun(connection)?;
    if let Current::Inbound(route) = &route {
        authenticate::still_believed(caller, connection, route)?;
    }
    let asked = ongoing.asked(connection.worker().clock().now());
    decided(&route, connection, caller, asked).map(drop).map_err(|refusal| Withdrawn::Policy(refusal.detail()))
}

/// The rules of a route and what they are about; none where whoever can reach an outbound may use it: whom it may call is the
/// other agent's to say.
fn rules_of(route: &Current) -> Option<(&Policy, &ServiceFacts)> {
    match route {
        Current::Inbound(route) => Some((&route.policy, &route.service_facts)),
        Current::Outbound(route) => Some((route.policy.as_deref()?, &route.service_facts)),
    }
}

/// Why a request is allowed.
struct Grounds {
    /// The rule that allows it.
    rule: Arc<str>,
    /// What the rules that are only observed would have changed.
    observed: Option<Box<str>>,
}

/// Decides by the rules of a route; nothing is decided where there are none.
fn decided(
    route: &Current,
    connection: &Connection,
    caller: &Caller,
    asked: RequestFacts<'_>,
) -> Result<Option<Grounds>, Refusal> {
    // The roles that the policy of now means, whichever config the caller was verified by.
    caller.subject().into_iter().for_each(|subject| subject.hold(&connection.worker().snapshot()));
    if let Current::Inbound(route) = route {
        good_for(caller, route, asked.method)?;
    }
    let Some((policy, service_facts)) = rules_of(route) else { return Ok(None) };
    let roles = caller.roles();
    let (holders, address, RequestFacts { method, path, .. }) = (roles.holders(), connection.address().ip(), asked);
    facts::with(caller, connection, policy, service_facts, asked, |facts| {
        let question = Question { holders, address, method, path, facts };
        let decision = decide::request(policy, question);
        let observed = policy.observed.as_ref().and_then(|_rules| observed_in_words(policy, question, &decision));
        match decision {
            Decision::Allow(rule) => Ok(Some(Grounds { rule, observed: observed.map(Into::into) })),
            Decision::Deny(obstacle) => {
                let words = obstacle_in_words(policy, &obstacle, facts);
                Err(Refusal::Denied { reason: obstacle.reason(), words, observed })
            }
        }
    })
}

fn good_for(caller: &Caller, route: &InboundRoute, method: &Method) -> Result<(), Refusal> {
    match caller.subject().map(|subject| subject.proof()) {
        Some(Proof::Key { key, .. }) => key_is_for(key, &route.name, method),
        Some(Proof::Password { .. } | Proof::Token(_)) | None => Ok(()),
    }
}

/// An API key may be made for some routes and methods only.
pub(crate) fn key_is_for(key: &KeyRecord, route: &str, method: &Method) -> Result<(), Refusal> {
    let names =
        |list: &Option<Vec<String>>, name: &str| list.as_ref().is_none_or(|list| list.iter().any(|one| one == name));
    let refused = |what| Err(Refusal::KeyNotFor { id: key.id.to_string(), what });
    if !names(&key.routes, route) {
        return refused(format!("the route {route:?}"));
    }
    if !names(&key.methods, method.as_str()) {
        return refused(format!("the method {method}"));
    }
    Ok(())
}

fn whole_connection(route: &InboundRoute, connection: &Connection) -> Result<Arc<str>, Refusal> {
    by_rules_for_connections(&route.policy, connection)
}

fn whole_local_connection(route: &OutboundRoute, connection: &Connection) -> Result<Option<Arc<str>>, Refusal> {
    route.policy.as_ref().map(|policy| by_rules_for_connections(policy, connection)).transpose()
}

fn by_rules_for_connections(policy: &Policy, connection: &Connection) -> Result<Arc<str>, Refusal> {
    // Bytes carry no credential of their own, so that a route for them demands a certificate.
    let peer = connection.peer().ok_or(Refusal::Withdrawn(Withdrawn::Route))?;
    let roles = peer.roles();
    let holders = Holders { roles: &roles, via: None };
    match decide::connection(policy, holders, connection.address().ip()) {
        Decision::Allow(rule) => Ok(rule),
        Decision::Deny(obstacle) => {
            let words = obstacle_in_words(policy, &obstacle, &Facts::not_gathered());
            Err(Refusal::Denied { reason: obstacle.reason(), words, observed: None })
        }
    }
}
