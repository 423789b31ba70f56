//! Connections to one place, used again: HTTP/2 connections that carry many requests at once, and HTTP/1.1 connections
//! that carry one after the other.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::body::RequestBody;
use super::hop::HopMember;
use super::outgoing::Outgoing;
use crate::refusal::{Refusal, Withdrawn};

/// Requests on one HTTP/2 connection before another is opened. Peers usually allow 100 or more.
const REQUESTS_PER_CONNECTION: u32 = 100;

/// Idle HTTP/1.1 connections that are kept to one place.
const IDLE_MAX: usize = 1024;

/// The connections to one place.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: RefCell<Vec<Rc<Shared>>>,
    idle: Rc<RefCell<Vec<Exclusive>>>,
    idle_for: Duration,
    /// The other side speaks HTTP/1.1: one connection carries one request at a time.
    carries_one: Cell<bool>,
    /// Held by whoever opens a connection that others wait for.
    opening: tokio::sync::Mutex<()>,
    attempts: Cell<u64>,
    last_failure: RefCell<Option<Failure>>,
}

/// A connection that was just opened; the other side chose what it speaks.
#[derive(Debug)]
pub(crate) enum Opened {
    Http1(Http1, Option<Rc<HopMember>>),
    Http2(http2::SendRequest<RequestBody>, Option<Rc<HopMember>>),
}

/// An HTTP/1.1 connection. It ends when this is dropped, whatever is under way on it: the other side may have answered, and read no more
/// of the question for ever.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    _carried: oneshot::Sender<()>,
}

/// The use of a connection by one request. Given back when the answer is whole.
#[derive(Debug)]
pub(crate) enum Lease {
    /// Nobody else may use it meanwhile.
    Exclusive { connection: Exclusive, idle: Rc<RefCell<Vec<Exclusive>>> },
    /// One of many.
    Shared(Turn),
}

#[derive(Debug)]
pub(crate) struct Exclusive {
    http1: Http1,
    since: Instant,
    hop: Option<Rc<HopMember>>,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    in_flight: Cell<u32>,
    hop: Option<Rc<HopMember>>,
}

/// One request's place on a shared connection.
#[derive(Debug)]
pub(crate) struct Turn(Rc<Shared>);

/// What a failed attempt leaves to those who waited for it.
#[derive(Debug)]
struct Failure {
    attempt: u64,
    target: String,
    kind: io::ErrorKind,
    detail: String,
}

/// A request that did not go out.
#[allow(
    clippy::large_enum_variant,
    reason = "the request is handed back where it lies; this value lives for one statement"
)]
enum NotSent {
    /// Nothing of it was sent.
    Whole(Outgoing),
    /// The other side may have seen it.
    Perhaps(hyper::Error),
}

impl Pool {
    /// No connections yet. An idle HTTP/1.1 connection is used again for `idle_for`.
    pub(crate) fn new(idle_for: Duration) -> Self {
        Self {
            shared: RefCell::default(),
            idle: Rc::default(),
            idle_for,
            carries_one: Cell::new(false),
            opening: tokio::sync::Mutex::new(()),
            attempts: Cell::new(0),
            last_failure: RefCell::default(),
        }
    }

    /// Sends a request over a connection that is at hand, or over one that `open` opens.
    ///
    /// A request of which nothing was sent goes out once more, on a new connection. One that may have been seen is never
    /// repeated: the backend may have acted on it.
    pub(crate) async fn send(
        &self,
        outgoing: Outgoing,
        target: &str,
        open: impl AsyncFn() -> Result<Opened, Refusal>,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        let mut lease = self.lease(&open).await?;
        let outgoing = match lease.send(outgoing).await {
            Ok(response) => return Ok((response, lease)),
            Err(NotSent::Whole(outgoing)) => outgoing,
            Err(NotSent::Perhaps(source)) => return Err(lease.broken(target, source)),
        };
        let mut lease = self.enter(open().await?);
        match lease.send(outgoing).await {
            Ok(response) => Ok((response, lease)),
            Err(NotSent::Whole(_)) => {
                let source = io::Error::new(io::ErrorKind::ConnectionAborted, "a new connection was closed at once");
                Err(Refusal::Unreachable { target: target.to_owned(), source })
            }
            Err(NotSent::Perhaps(source)) => Err(lease.broken(target, source)),
        }
    }

    async fn lease(&self, open: &impl AsyncFn() -> Result<Opened, Refusal>) -> Result<Lease, Refusal> {
        if let Some(lease) = self.at_hand() {
            return Ok(lease);
        }
        // Waiting for somebody else's connection is worth it only if that one will carry this request too.
        if self.carries_one.get() {
            return open().await.map(|opened| self.enter(opened));
        }
        self.lease_from_single_flight(open).await
    }

    async fn lease_from_single_flight(
        &self,
        open: &impl AsyncFn() -> Result<Opened, Refusal>,
    ) -> Result<Lease, Refusal> {
        let asked_at = self.attempts.get();
        let _one_at_a_time = self.opening.lock().await;
        if let Some(lease) = self.at_hand() {
            return Ok(lease);
        }
        if let Some(failure) = self.last_failure.borrow().as_ref().filter(|failure| failure.attempt >= asked_at) {
            return Err(failure.as_refusal());
        }
        let attempt = self.attempts.get();
        self.attempts.set(attempt + 1);
        let opened = open().await;
        self.last_failure.replace(opened.as_ref().err().and_then(|refusal| Failure::of(attempt, refusal)));
        opened.map(|opened| self.enter(opened))
    }

    fn enter(&self, opened: Opened) -> Lease {
        self.carries_one.set(matches!(opened, Opened::Http1(..)));
        match opened {
            Opened::Http1(http1, hop) => {
                let connection = Exclusive { http1, since: Instant::now(), hop };
                Lease::Exclusive { connection, idle: Rc::clone(&self.idle) }
            }
            Opened::Http2(sender, hop) => {
                let shared = Rc::new(Shared { sender, in_flight: Cell::new(0), hop });
                self.shared.borrow_mut().push(Rc::clone(&shared));
                Lease::Shared(Turn::on(&shared))
            }
        }
    }

    fn at_hand(&self) -> Option<Lease> {
        self.least_used().map(Lease::Shared).or_else(|| self.last_used())
    }

    fn least_used(&self) -> Option<Turn> {
        let mut connections = self.shared.borrow_mut();
        // One that drains is let go here; it ends when its last answer does.
        connections.retain(|shared| !shared.sender.is_closed() && !is_draining(shared.hop.as_ref()));
        let usable = connections.iter().filter(|shared| shared.in_flight.get() < REQUESTS_PER_CONNECTION);
        usable.min_by_key(|shared| shared.in_flight.get()).map(Turn::on)
    }

    /// Of idle HTTP/1.1 connections, the one that was used last is the likeliest to be still open.
    fn last_used(&self) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.last() {
            let stale = connection.is_closed()
                || connection.since.elapsed() >= self.idle_for
                || is_draining(connection.hop.as_ref());
            if !stale {
                break;
            }
            idle.pop();
        }
        // One whose last answer has just gone out may not have been noticed by its own task yet.
        let ready = idle.iter().rposition(|connection| connection.http1.sender.is_ready())?;
        let connection = idle.remove(ready);
        drop(idle);
        Some(Lease::Exclusive { connection, idle: Rc::clone(&self.idle) })
    }

    /// Forgets connections that nobody will use again, so that the other side need not keep them.
    pub(crate) fn tidy(&self) {
        self.idle.borrow_mut().retain(|connection| {
            !connection.is_closed()
                && connection.since.elapsed() < self.idle_for
                && !is_draining(connection.hop.as_ref())
        });
        self.shared.borrow_mut().retain(|shared| !shared.sender.is_closed() && !is_draining(shared.hop.as_ref()));
    }
}

fn is_draining(hop: Option<&Rc<HopMember>>) -> bool {
    hop.is_some_and(|hop| hop.signal().is_draining() || hop.signal().cut_reason().is_some())
}

impl Http1 {
    /// Has a task of its own carry a connection.
    pub(crate) fn carried(
        sender: http1::SendRequest<RequestBody>,
        carrying: impl Future<Output = ()> + 'static,
    ) -> Self {
        let (carried, dropped) = oneshot::channel();
        tokio::task::spawn_local(async move {
            tokio::select! {
                // One on which nothing is under way ends by itself, and in order.
                biased;
                () = carrying => {}
                _ = dropped => {}
            }
        });
        Self { sender, _carried: carried }
    }
}

impl Exclusive {
    fn is_closed(&self) -> bool {
        self.http1.sender.is_closed()
    }
}

impl Lease {
    async fn send(&mut self, outgoing: Outgoing) -> Result<Response<Incoming>, NotSent> {
        let sent = match self {
            Self::Exclusive { connection, .. } => connection.http1.sender.try_send_request(outgoing.into_http1()).await,
            Self::Shared(turn) => turn.0.sender.clone().try_send_request(outgoing.into_http2()).await,
        };
        sent.map_err(|mut error| match error.take_message().and_then(Outgoing::unsent) {
            Some(outgoing) => NotSent::Whole(outgoing),
            None => NotSent::Perhaps(error.into_error()),
        })
    }

    /// Why the connection had to end, if that is why it broke.
    pub(crate) fn withdrawn(&self) -> Option<Withdrawn> {
        let hop = match self {
            Self::Exclusive { connection, .. } => connection.hop.as_ref(),
            Self::Shared(turn) => turn.0.hop.as_ref(),
        };
        hop?.signal().cut_reason()
    }

    /// A request whose own body broke off is not the other side's fault, and neither is one whose connection we had to end.
    fn broken(&self, target: &str, source: hyper::Error) -> Refusal {
        match self.withdrawn() {
            Some(withdrawn) => withdrawn.into(),
            None if source.is_user() => Refusal::CallerGone,
            None => Refusal::Broken { target: target.to_owned(), source },
        }
    }

    /// The answer is whole: the connection can carry another request.
    pub(crate) fn give_back(self) {
        let Self::Exclusive { mut connection, idle } = self else { return };
        let mut idle = idle.borrow_mut();
        if idle.len() < IDLE_MAX && !connection.is_closed() {
            connection.since = Instant::now();
            idle.push(connection);
        }
    }
}

impl Turn {
    fn on(shared: &Rc<Shared>) -> Self {
        shared.in_flight.set(shared.in_flight.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

impl Failure {
    fn of(attempt: u64, refusal: &Refusal) -> Option<Self> {
        let Refusal::Unreachable { target, source } = refusal else { return None };
        Some(Self { attempt, target: target.clone(), kind: source.kind(), detail: source.to_string() })
    }

    fn as_refusal(&self) -> Refusal {
        let source = io::Error::new(self.kind, self.detail.clone());
        Refusal::Unreachable { target: self.target.clone(), source }
    }
}
