//! The record: one audit line for every connection and every request, on every way out, and the counters beside it.
//!
//! A record is opened when something begins and closed when it ends. One that is dropped without being closed (its task was
//! cancelled) writes that it was cancelled. Nothing else writes audit lines.

pub(crate) mod counters;

pub(crate) mod fields;

pub(crate) mod notable;

pub(crate) mod patterns;

pub(crate) mod line;

pub(crate) mod buffer;

pub(crate) mod sink;

pub(crate) mod writer;

mod output;

pub(crate) mod extra;

mod deliver;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::time::Timestamp;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::authenticate::caller::Caller;
use crate::authorize::{Authorized, AuthorizedConnection};
use crate::connection::Connection;
use crate::direction::Direction;
use crate::identify::Peer;
use crate::limit::{LimitFields, Notice};
use crate::listener::PeerAddress;
use crate::refusal::Refusal;
use crate::request::NormalRequest;
use crate::worker::Worker;
use counters::{Outcome, RouteCounters};
use line::{DecisionId, Event, Line};

/// Bytes moved in each direction, counted where they pass.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// From the peer.
    pub(crate) received: Cell<u64>,
    /// To the peer.
    pub(crate) sent: Cell<u64>,
}

impl Transfer {
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

/// The record of one connection, from accept to its end.
pub(crate) struct ConnectionRecord {
    worker: Rc<Worker>,
    route: Arc<str>,
    direction: Direction,
    counters: Arc<RouteCounters>,
    address: PeerAddress,
    opened: Instant,
    peer: Option<Rc<Peer>>,
    decision: DecisionId,
    rule: Option<Arc<str>>,
    limit: Option<Arc<str>>,
    transfer: Rc<Transfer>,
    closed: bool,
}

impl ConnectionRecord {
    /// Opens the record of a connection that was just accepted.
    pub(crate) fn open(
        worker: &Rc<Worker>,
        direction: Direction,
        route: Arc<str>,
        counters: Arc<RouteCounters>,
        address: PeerAddress,
    ) -> Self {
        counters.connections_opened.add(1);
        worker.record_opened();
        Self {
            worker: Rc::clone(worker),
            route,
            direction,
            counters,
            address,
            opened: Instant::now(),
            peer: None,
            decision: worker.next_decision(),
            rule: None,
            limit: None,
            transfer: Rc::default(),
            closed: false,
        }
    }

    /// Notes who the peer is, and hands it on.
    pub(crate) fn peer(&mut self, peer: Rc<Peer>) -> Rc<Peer> {
        self.peer = Some(Rc::clone(&peer));
        peer
    }

    /// Notes the rule that allowed the connection as a whole (plain TCP), and hands the evidence on.
    pub(crate) fn authorized(&mut self, authorized: AuthorizedConnection) -> AuthorizedConnection {
        self.rule = authorized.rule();
        authorized
    }

    /// Notes the limit that was hit, if one was.
    pub(crate) fn limited(&mut self, notice: Notice) {
        self.limit = notice.hit;
    }

    /// Where the bytes of this connection are counted.
    pub(crate) fn transfer(&self) -> Rc<Transfer> {
        Rc::clone(&self.transfer)
    }

    /// Who called, as the kernel says.
    pub(crate) fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Closes the record with how it ended.
    pub(crate) fn close(mut self, outcome: &Result<(), Refusal>) {
        self.write(outcome.as_ref().err(), false);
    }

    fn write(&mut self, refusal: Option<&Refusal>, cancelled: bool) {
        self.closed = true;
        self.worker.record_closed();
        self.counters.connections_closed.add(1);
        if let Some(refusal) = refusal {
            self.counters.refused(refusal);
        }
        if matches!(refusal, Some(Refusal::AuditUnavailable)) {
            return self.worker.audit().count_unrecorded();
        }
        let Some(omitted) = self.omitted(refusal) else { return };
        let detail = refusal.map(Refusal::detail);
        let line = Line {
            omitted,
            event: Event::Connection,
            decision: self.decision,
            direction: self.direction,
            route: &self.route,
            address: &self.address,
            claimed: refusal.and_then(claimed).map(ToString::to_string),
            peer: self.peer.as_deref(),
            caller: None,
            outcome: outcome_of(refusal, cancelled),
            reason: refusal.map(Refusal::reason),
            detail: detail.as_deref(),
            rule: self.rule.as_deref(),
            observed: None,
            limit: self.limit.as_deref(),
            method: None,
            path: None,
            fields: None,
            status: None,
            rotated: false,
            received: self.transfer.received.get(),
            sent: self.transfer.sent.get(),
            duration: self.opened.elapsed(),
        };
        self.worker.audit().write(&line, self.worker.clock().precise());
    }
}

impl ConnectionRecord {
    /// How many lines like this one were left out before it; nothing if it is left out too. Only what strangers can cause is.
    fn omitted(&self, refusal: Option<&Refusal>) -> Option<u64> {
        match (self.direction, &self.peer, refusal) {
            (Direction::Inbound, None, Some(refusal)) => {
                let now = self.worker.clock().now();
                self.worker.audit().stranger(self.address.ip(), refusal.reason(), now)
            }
            (Direction::Inbound | Direction::Outbound, _, _) => Some(0),
        }
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        if !self.closed {
            self.write(None, true);
        }
    }
}

/// Whom a refused certificate named. A claim, so it has a field of its own.
fn claimed(refusal: &Refusal) -> Option<&countersign_certs::san::San> {
    let Refusal::Certificate(refusal) = refusal else { return None };
    refusal.claimed()
}

/// The record of one HTTP request, from its head to the last byte of the answer.
pub(crate) struct RequestRecord {
    connection: Rc<Connection>,
    counters: Arc<RouteCounters>,
    opened: Instant,
    decision: DecisionId,
    caller: Option<Caller>,
    method: Method,
    target: Option<PathAndQuery>,
    rule: Option<Arc<str>>,
    /// What the rules that are only observed would have changed.
    observed: Option<Box<str>>,
    /// Most requests are under no limit.
    limited: Option<Box<Notice>>,
    status: Option<StatusCode>,
    /// Values that the operator wants recorded; none where there are none.
    fields: Option<Box<str>>,
    /// The backend has refused the credential that it was given, so that the next request is given another.
    rotated: bool,
    transfer: Rc<Transfer>,
    closed: bool,
}

impl RequestRecord {
    /// Opens the record of a request whose head has arrived.
    pub(crate) fn open(connection: &Rc<Connection>, method: &Method, target: Option<&PathAndQuery>) -> Self {
        connection.request_began();
        Self {
            connection: Rc::clone(connection),
            counters: connection.counters(),
            opened: Instant::now(),
            decision: connection.worker().next_decision(),
            caller: None,
            method: method.clone(),
            target: target.cloned(),
            rule: None,
            observed: None,
            limited: None,
            status: None,
            fields: None,
            rotated: false,
            transfer: Rc::default(),
            closed: false,
        }
    }

    /// The ID under which the decision on this request can be explained.
    pub(crate) fn decision(&self) -> DecisionId {
        self.decision
    }

    /// Notes the method that was decided on: an extended CONNECT is decided on as the GET that it stands for.
    pub(crate) fn decided_on(&mut self, method: &Method) {
        if self.method != *method {
            self.method.clone_from(method);
        }
    }

    /// Notes the values that the operator wants recorded, of a request without its credential.
    pub(crate) fn fields(&mut self, request: &NormalRequest) {
        let listed = self.connection.worker().recorded_fields();
        if !listed.is_empty() {
            let found = listed.in_json(&request.headers, request.target.query());
            self.fields = (!found.is_empty()).then(|| found.into());
        }
    }

    /// Notes who asks, and hands it on.
    pub(crate) fn caller(&mut self, caller: Caller) -> Caller {
        self.caller = Some(caller.clone());
        caller
    }

    /// Notes the rule that allowed the request, and what those that are only observed would have changed.
    pub(crate) fn permitted(&mut self, authorized: &mut Authorized) {
        self.rule = authorized.rule();
        self.observed = authorized.observed();
    }

    /// Notes what is to be told of the limits that hold.
    pub(crate) fn limited(&mut self, notice: Notice) {
        self.limited = Some(Box::new(notice));
    }

    /// What the caller is told of the limits that hold for it.
    pub(crate) fn take_limit_fields(&mut self) -> Option<LimitFields> {
        self.limited.as_mut()?.fields.take()
    }

    /// The time, by the clock of the worker.
    pub(crate) fn now(&self) -> Timestamp {
        self.connection.worker().clock().now()
    }

    /// Notes the status that the peer gets.
    pub(crate) fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.counters.first_byte.observe(self.opened.elapsed());
    }

    /// Notes whether the backend has refused the credential that it was given, so that the next request is given another.
    pub(crate) fn rotated(&mut self, rotated: bool) {
        self.rotated = rotated;
        self.counters.rotations.add(u64::from(rotated));
    }

    /// Where the bytes of this request are counted.
    pub(crate) fn transfer(&self) -> Rc<Transfer> {
        Rc::clone(&self.transfer)
    }

    /// Closes the record of a request that was answered whole, or refused, or cut with a reason.
    pub(crate) fn close(&mut self, refusal: Option<&Refusal>) {
        if !self.closed {
            self.write(refusal, false);
        }
    }

    fn write(&mut self, refusal: Option<&Refusal>, cancelled: bool) {
        self.closed = true;
        let duration = self.opened.elapsed();
        let outcome = outcome_of(refusal, cancelled);
        self.counters.request_ended(outcome, duration, self.transfer.received.get(), self.transfer.sent.get());
        if let Some(refusal) = refusal {
            self.counters.refused(refusal);
        }
        if matches!(refusal, Some(Refusal::AuditUnavailable)) {
            self.connection.worker().audit().count_unrecorded();
            return self.connection.request_ended();
        }
        let Some(omitted) = self.omitted(refusal) else { return self.connection.request_ended() };
        let detail = refusal.map(Refusal::detail);
        let line = Line {
            omitted,
            event: Event::Request,
            decision: self.decision,
            direction: self.connection.direction(),
            route: self.connection.route_name(),
            address: self.connection.address(),
            claimed: None,
            peer: self.connection.peer().map(|peer| &**peer),
            caller: self.caller.as_ref(),
            outcome,
            reason: refusal.map(Refusal::reason),
            detail: detail.as_deref(),
            rule: self.rule.as_deref(),
            observed: self.observed.as_deref().or_else(|| refusal.and_then(Refusal::observed)),
            limit: self.limited.as_ref().and_then(|notice| notice.hit.as_deref()),
            method: Some(&self.method),
            path: self.target.as_ref().map(PathAndQuery::path),
            fields: self.fields.as_deref(),
            status: self.status,
            rotated: self.rotated,
            received: self.transfer.received.get(),
            sent: self.transfer.sent.get(),
            duration,
        };
        let worker = self.connection.worker();
        worker.audit().write(&line, worker.clock().precise());
        if let Some(observed) = line.observed {
            let (decision, peer) = (self.decision.to_string(), line.peer.map(Peer::principal));
            worker.notables().policy_observed(&decision, observed, self.rule.is_some(), line.route, peer);
        }
        if outcome == Outcome::Denied {
            self.tell_denial();
        }
        self.connection.request_ended();
    }
}

impl RequestRecord {
    /// A denial may be one of many.
    fn tell_denial(&self) {
        let subject = self.caller.as_ref().and_then(Caller::subject).map(|subject| subject.principal());
        let peer = self.connection.peer().map(|peer| peer.principal());
        let address = || self.connection.address().ip().map(|address| address.to_string());
        if let Some(who) = subject.or(peer).map(ToOwned::to_owned).or_else(address) {
            self.connection.worker().notables().refused(&who, self.connection.route_name());
        }
    }

    /// As for a connection: whoever has proved nothing can cause as many refusals as it likes.
    fn omitted(&self, refusal: Option<&Refusal>) -> Option<u64> {
        match (self.connection.peer(), &self.caller, refusal) {
            (None, None, Some(refusal)) => {
                let worker = self.connection.worker();
                worker.audit().stranger(self.connection.address().ip(), refusal.reason(), worker.clock().now())
            }
            (_, _, _) => Some(0),
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.closed {
            // A connection that was cut takes its requests along, and they ended for its reason.
            match self.connection.signal().cut_reason() {
                Some(withdrawn) => self.write(Some(&Refusal::Withdrawn(withdrawn)), false),
                None => self.write(None, true),
            }
        }
    }
}

fn outcome_of(refusal: Option<&Refusal>, cancelled: bool) -> Outcome {
    match refusal {
        Some(Refusal::Withdrawn(_)) => Outcome::Cut,
        Some(Refusal::CallerGone) => Outcome::Cancelled,
        Some(refusal) if refusal.is_denial() => Outcome::Denied,
        Some(_) => Outcome::Failed,
        None if cancelled => Outcome::Cancelled,
        None => Outcome::Allowed,
    }
}
