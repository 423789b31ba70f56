//! The record of one connection. Nothing that a request on it says stands here.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::counters::{Outcome, RouteCounters};
use super::line::{DecisionId, Event, Line};
use super::{Transfer, outcome_of};
use crate::authorize::AuthorizedConnection;
use crate::connection::Connection;
use crate::direction::Direction;
use crate::identify::Peer;
use crate::limit::Notice;
use crate::listener::PeerAddress;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The record of one connection, from accept to its end.
pub(crate) struct ConnectionRecord {
    worker: Rc<Worker>,
    route: Arc<str>,
    direction: Direction,
    counters: Arc<RouteCounters>,
    address: PeerAddress,
    opened: Instant,
    peer: Option<Rc<Peer>>,
    /// What it became when it could carry something.
    connection: Option<Rc<Connection>>,
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
            connection: None,
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

    /// Notes what carries requests from here on: one of them may prove who asks.
    pub(crate) fn carries(&mut self, connection: &Rc<Connection>) {
        self.connection = Some(Rc::clone(connection));
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
        self.counters.connection_ended(self.transfer.received.get(), self.transfer.sent.get());
        if let Some(refusal) = refusal {
            self.counters.refused(refusal);
        }
        if matches!(refusal, Some(Refusal::AuditUnavailable)) {
            return self.worker.audit().count_unrecorded();
        }
        // Where nobody has proved who they are, nobody was allowed anything.
        let outcome = outcome_of(refusal, cancelled || self.is_of_stranger());
        let Some(omitted) = self.omitted(refusal, outcome) else { return };
        let detail = refusal.map(Refusal::detail);
        let line = Line {
            omitted,
            event: Event::Connection,
            decision: self.decision,
            direction: self.direction,
            route: &self.route,
            address: &self.address.to_string(),
            claimed: refusal.and_then(claimed).map(ToString::to_string),
            peer: self.peer.as_deref(),
            caller: None,
            outcome,
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

    /// Whether nobody has proved who uses it, in the handshake or by a request.
    fn is_of_stranger(&self) -> bool {
        self.peer.is_none() && self.connection.as_ref().is_none_or(|connection| connection.is_of_stranger())
    }

    /// How many lines like this one were left out before it; nothing if it is left out too. Only what those can cause who have proved
    /// nothing, or who may do nothing here.
    fn omitted(&self, refusal: Option<&Refusal>, outcome: Outcome) -> Option<u64> {
        if self.is_of_stranger() || matches!(refusal, Some(Refusal::LocalCaller(_))) {
            let reason = refusal.map_or(outcome.as_str(), Refusal::reason);
            return self.worker.audit().stranger(&self.address, reason, self.worker.clock().now());
        }
        Some(0)
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
