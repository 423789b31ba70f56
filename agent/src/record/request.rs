//! The record of one request, with what is told of it besides its line.

use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::time::Clock;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::counters::{Outcome, RouteCounters};
use super::line::{DecisionId, Event, Line};
use super::{Transfer, outcome_of};
use crate::authenticate::caller::Caller;
use crate::authorize::Authorized;
use crate::connection::Connection;
use crate::identify::Peer;
use crate::limit::{LimitFields, Notice};
use crate::policy::path::PATH_BYTES_MAX;
use crate::refusal::Refusal;
use crate::request::NormalRequest;

/// Most bytes in a line of a method, of the story of a refusal, and of a path where somebody has proved nothing.
const METHOD_BYTES_MAX: usize = 64;
const DETAIL_BYTES_MAX: usize = 1000;
const STRANGERS_PATH_BYTES_MAX: usize = 256;

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
            let keys = &self.connection.worker().snapshot().accepted;
            let found = listed.in_json(&request.headers, request.target.query(), keys.key_places());
            self.fields = (!found.is_empty()).then(|| found.into());
        }
    }

    /// Notes who asks, and hands it on.
    pub(crate) fn caller(&mut self, caller: Caller) -> Caller {
        self.caller = Some(caller.clone());
        caller
    }

    /// Notes the rule that allowed the request and what those that are only observed would have changed, and hands the evidence on.
    pub(crate) fn authorized(&mut self, mut authorized: Authorized) -> Authorized {
        self.rule = authorized.rule();
        self.observed = authorized.take_observed();
        authorized
    }

    /// Notes what is to be told of the limits that hold.
    pub(crate) fn limited(&mut self, notice: Notice) {
        self.limited = Some(Box::new(notice));
    }

    /// What the caller is told of the limits that hold for it.
    pub(crate) fn take_limit_fields(&mut self) -> Option<LimitFields> {
        self.limited.as_mut()?.fields.take()
    }

    /// The clock of the worker.
    pub(crate) fn clock(&self) -> &Clock {
        self.connection.worker().clock()
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
        let Some(omitted) = self.omitted(refusal, outcome) else { return self.connection.request_ended() };
        let detail = refusal.map(Refusal::detail);
        let path_bytes_max = if self.is_of_stranger() { STRANGERS_PATH_BYTES_MAX } else { PATH_BYTES_MAX };
        let line = Line {
            omitted,
            event: Event::Request,
            decision: self.decision,
            direction: self.connection.direction(),
            route: self.connection.route_name(),
            address: self.connection.address_text(),
            claimed: None,
            peer: self.connection.peer().map(|peer| &**peer),
            caller: self.caller.as_ref(),
            outcome,
            reason: refusal.map(Refusal::reason),
            detail: detail.as_deref().map(|detail| beginning(detail, DETAIL_BYTES_MAX)),
            rule: self.rule.as_deref(),
            observed: self.observed.as_deref().or_else(|| refusal.and_then(Refusal::observed)),
            limit: self.limited.as_ref().and_then(|notice| notice.hit.as_deref()),
            method: Some(beginning(self.method.as_str(), METHOD_BYTES_MAX)),
            path: self.target.as_ref().map(|target| beginning(target.path(), path_bytes_max)),
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

    /// A denial may be one of many.
    fn tell_denial(&self) {
        let subject = self.caller.as_ref().and_then(Caller::subject).map(|subject| subject.principal());
        let peer = self.connection.peer().map(|peer| peer.principal());
        let origin = || self.connection.address().origin().to_string();
        let who = subject.or(peer).map_or_else(origin, ToOwned::to_owned);
        self.connection.worker().notables().refused(&who, self.connection.route_name());
    }

    /// Whether nobody has proved who makes it.
    fn is_of_stranger(&self) -> bool {
        self.connection.peer().is_none() && self.caller.is_none()
    }

    /// As for a connection: whoever has proved nothing can ask, and take back what it asked, as often as it likes.
    fn omitted(&self, refusal: Option<&Refusal>, outcome: Outcome) -> Option<u64> {
        if !self.is_of_stranger() {
            return Some(0);
        }
        let (worker, reason) = (self.connection.worker(), refusal.map_or(outcome.as_str(), Refusal::reason));
        worker.audit().stranger(self.connection.address(), reason, worker.clock().now())
    }
}

/// As much of a text as a line has room for. What is longer was refused.
fn beginning(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
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
