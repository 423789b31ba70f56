//! What deciding leaves behind: evidence that something is allowed, which the next step spends, and what is needed to ask again. Who
//! makes it is [`super`] alone.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::time::Timestamp;
use http::{HeaderMap, Method};

use super::Grounds;
use crate::authenticate::caller::Caller;
use crate::connection::Connection;
use crate::facts::RequestFacts;
use crate::limit::Admission;
use crate::limit::live::LiveLimit;
use crate::live::{Member, Signal};
use crate::policy::path::CheckedTarget;
use crate::refusal::Withdrawn;
use crate::request::NormalRequest;

/// Evidence that one request is allowed. Made only by [`super::request`]; it may be too much all the same, which is for `limit` to say.
#[derive(Debug)]
#[must_use]
pub(crate) struct Authorized {
    ongoing: Member<Ongoing>,
    rule: Option<Arc<str>>,
    observed: Option<Box<str>>,
    limits: Option<Arc<[Arc<LiveLimit>]>>,
}

/// Evidence that one request may be forwarded now: it was authorized, and counted. Forwarding keeps it until the last byte.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    ongoing: Member<Ongoing>,
    _admission: Admission,
}

/// What was asked, so that it can be asked again.
#[derive(Debug)]
pub(crate) struct Ongoing {
    connection: Rc<Connection>,
    caller: Caller,
    method: Method,
    target: CheckedTarget,
    /// Kept only where conditions look at them.
    headers: Option<Box<HeaderMap>>,
    signal: Signal,
    /// The body is still on its way to the backend.
    asking: Cell<bool>,
    /// The worker's tick when the last byte passed.
    last_byte: Cell<u64>,
    /// The worker's tick at which it was first seen to have been told to end.
    seen_cut: Cell<Option<u64>>,
}

impl Authorized {
    pub(super) fn new(
        ongoing: Member<Ongoing>,
        grounds: Option<Grounds>,
        limits: Option<Arc<[Arc<LiveLimit>]>>,
    ) -> Self {
        let (rule, observed) = grounds.map_or((None, None), |grounds| (Some(grounds.rule), grounds.observed));
        Self { ongoing, rule, observed, limits }
    }

    /// The rule that allowed it.
    pub(crate) fn rule(&self) -> Option<Arc<str>> {
        self.rule.clone()
    }

    /// What the rules that are only observed would have changed.
    pub(crate) fn take_observed(&mut self) -> Option<Box<str>> {
        self.observed.take()
    }

    /// The limits of its route, if there are any.
    pub(crate) fn limits(&self) -> Option<&Arc<[Arc<LiveLimit>]>> {
        self.limits.as_ref()
    }

    /// What was asked.
    pub(crate) fn ongoing(&self) -> &Ongoing {
        &self.ongoing
    }

    /// It was counted.
    pub(crate) fn admitted(self, admission: Admission) -> Permit {
        Permit { ongoing: self.ongoing, _admission: admission }
    }
}

impl Permit {
    /// What must be watched while it is spent.
    pub(crate) fn ongoing(&self) -> &Rc<Ongoing> {
        &self.ongoing
    }
}

impl Ongoing {
    /// `headers` are those that conditions look at, when it is asked again.
    pub(super) fn begin(
        connection: &Rc<Connection>,
        caller: Caller,
        request: &NormalRequest,
        headers: Option<Box<HeaderMap>>,
    ) -> Self {
        Self {
            connection: Rc::clone(connection),
            caller,
            method: request.method.clone(),
            target: request.target.clone(),
            headers,
            signal: Signal::default(),
            asking: Cell::new(false),
            last_byte: Cell::new(connection.worker().tick()),
            seen_cut: Cell::new(None),
        }
    }

    /// What was asked, as it is to be decided on now.
    pub(super) fn asked(&self, now: Timestamp) -> RequestFacts<'_> {
        RequestFacts {
            method: &self.method,
            path: self.target.path(),
            query: Some(self.target.query().unwrap_or_default()),
            headers: self.headers.as_deref(),
            now,
        }
    }

    /// Tells when it must end.
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    /// Notes whether the body is still on its way to the backend.
    pub(crate) fn asks(&self, asking: bool) {
        self.asking.set(asking);
    }

    /// The answer is whole. What the caller still has to say would be carried unrecorded, and by no permit: it is cut off.
    pub(crate) fn answered(&self) {
        if self.asking.get() {
            self.signal.cut(Withdrawn::Answered);
        }
    }

    /// Notes that a byte has passed.
    pub(crate) fn touch(&self) {
        self.last_byte.set(self.connection.worker().tick());
    }

    /// How many ticks ago it was seen to have been told to end. It ends when it is polled next, which may be never if the peer
    /// has stopped reading.
    pub(crate) fn ticks_since_cut(&self, now: u64) -> Option<u64> {
        self.signal.cut_reason()?;
        let since = self.seen_cut.get().unwrap_or(now);
        self.seen_cut.set(Some(since));
        Some(now.saturating_sub(since))
    }

    /// Who asked.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// When it must have ended: with the connection, or with the credential that it has shown.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        let credential = self.caller.subject().and_then(|subject| subject.proof().ends());
        [self.connection.ends(), credential].into_iter().flatten().min()
    }

    /// The connection on which it was asked.
    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// How many ticks ago the last byte passed.
    pub(crate) fn idle_ticks(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_byte.get())
    }
}

/// Evidence that one connection is allowed as it is. Made only by [`super::connection`]; it may be too much all the same.
#[derive(Debug)]
#[must_use]
pub(crate) struct AuthorizedConnection {
    rule: Option<Arc<str>>,
    limits: Option<Arc<[Arc<LiveLimit>]>>,
}

/// Evidence that one connection may be carried as it is: it was authorized, and counted.
#[derive(Debug)]
#[must_use]
pub(crate) struct ConnectionPermit {
    _admission: Admission,
}

impl AuthorizedConnection {
    pub(super) fn new(rule: Option<Arc<str>>, limits: Option<Arc<[Arc<LiveLimit>]>>) -> Self {
        Self { rule, limits }
    }

    /// The rule that allowed it; none on an outbound without rules.
    pub(crate) fn rule(&self) -> Option<Arc<str>> {
        self.rule.clone()
    }

    /// The limits of its route, if there are any.
    pub(crate) fn limits(&self) -> Option<&Arc<[Arc<LiveLimit>]>> {
        self.limits.as_ref()
    }

    /// It was counted.
    pub(crate) fn admitted(self, admission: Admission) -> ConnectionPermit {
        ConnectionPermit { _admission: admission }
    }
}
