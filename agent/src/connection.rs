//! One connection that somebody opened to us, while it lives.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::san::San;
use countersign_certs::time::Timestamp;
use countersign_certs::verify::{Side, Trust, VerifiedPeer};

use tokio::sync::Notify;

use crate::authenticate::subject::Subject;
use crate::config::address::Protocol;
use crate::direction::Direction;
use crate::forward::onward::Onward;
use crate::identify::Peer;
use crate::identify::headers::IdentityHeaders;
use crate::listener::PeerAddress;
use crate::live::{Live, Member, Signal};
use crate::policy::credential::Demand;
use crate::record::counters::RouteCounters;
use crate::refusal::{Refusal, Withdrawn};
use crate::routes::{Entrance, InboundRoute, OutboundRoute};
use crate::worker::{Place, Worker};

/// A connection of an identified peer.
#[derive(Debug)]
pub(crate) struct Connection {
    worker: Rc<Worker>,
    direction: Direction,
    route_name: Arc<str>,
    address: PeerAddress,
    /// Written once: it is in the record of every request.
    address_text: Box<str>,
    /// Who has proved itself by a certificate, or the program of this host; none where neither was demanded.
    peer: Option<Rc<Peer>>,
    /// Its place among those of its route, and among those of whoever makes its first request if no certificate says who that is. None
    /// for as long as nobody has proved who uses it.
    places: RefCell<Option<(Place, Option<Place>)>>,
    counters: Arc<RouteCounters>,
    /// End of the shorter of the two certificates; none on a connection from this host.
    ends: Option<Timestamp>,
    /// Its bytes are not looked at: it is allowed or denied as a whole.
    whole: bool,
    /// Where a program of this host came in; none for another host.
    entrance: Option<Entrance>,
    /// The identity that was shown to the peer; none on a connection from this host.
    own: Option<San>,
    signal: Signal,
    /// Requests under way, and request bodies that are still on their way to the backend.
    requests: Cell<u32>,
    /// The worker's beat at which the last of them ended; none while it does not wait to be told to rest.
    silent_since: Cell<Option<u64>>,
    /// Told when the last of them has ended.
    fell_silent: Notify,
    /// The worker's tick when the last request ended, or the last byte of a whole connection passed.
    last_use: Cell<u64>,
    seen: RefCell<Seen>,
}

/// The route as of one generation.
#[derive(Clone)]
struct Seen {
    generation: u64,
    route: Option<Current>,
    onward: Option<Onward>,
    /// Nothing but what the connection itself has proved is demanded of a request.
    by_connection_alone: bool,
    headers: Option<Rc<IdentityHeaders>>,
}

/// The route of a connection as it is configured now.
#[derive(Clone)]
pub(crate) enum Current {
    Inbound(Arc<InboundRoute>),
    Outbound(Arc<OutboundRoute>),
}

impl Connection {
    /// A connection from another host, whose peer was verified in the handshake.
    pub(crate) fn inbound(
        worker: &Rc<Worker>,
        route: &InboundRoute,
        address: &PeerAddress,
        peer: Option<(Rc<Peer>, &VerifiedPeer)>,
    ) -> Member<Self> {
        let own_end = route.tls.identity.usable().not_after;
        Self {
            // No connection outlives the credential of either side.
            ends: Some(peer.as_ref().map_or(own_end, |(_, verified)| verified.usable().not_after.min(own_end))),
            whole: route.backend.protocol == Protocol::Tcp,
            own: route.tls.identity.leaf().principal().cloned(),
            ..Self::new(worker, Direction::Inbound, (&route.name, &route.counters), address, peer.map(|(peer, _)| peer))
        }
        .enter()
    }

    /// A connection from a program of this host.
    pub(crate) fn outbound(
        worker: &Rc<Worker>,
        route: &OutboundRoute,
        address: &PeerAddress,
        peer: Rc<Peer>,
    ) -> Member<Self> {
        Self {
            whole: route.is_tcp,
            entrance: Some(route.entrance.clone()),
            ..Self::new(worker, Direction::Outbound, (&route.name, &route.counters), address, Some(peer))
        }
        .enter()
    }

    fn new(
        worker: &Rc<Worker>,
        direction: Direction,
        (route_name, counters): (&Arc<str>, &[Arc<RouteCounters>]),
        address: &PeerAddress,
        peer: Option<Rc<Peer>>,
    ) -> Self {
        Self {
            direction,
            route_name: Arc::clone(route_name),
            address: address.clone(),
            address_text: address.to_string().into(),
            places: RefCell::default(),
            peer,
            counters: worker.counters(counters),
            // A local program shows no certificate; the connection to the other agent ends with its own.
            ends: None,
            whole: false,
            entrance: None,
            own: None,
            signal: Signal::default(),
            requests: Cell::new(0),
            silent_since: Cell::new(None),
            fell_silent: Notify::new(),
            last_use: Cell::new(worker.tick()),
            seen: RefCell::new(Seen::nothing()),
            worker: Rc::clone(worker),
        }
    }

    /// From here on it is told of every change.
    fn enter(self) -> Member<Self> {
        let connections = Rc::clone(self.worker.connections());
        Live::enter(&connections, Rc::new(self))
    }

    /// The worker that serves it.
    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Which of the two stories it belongs to.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// The name of its inbound or outbound.
    pub(crate) fn route_name(&self) -> &str {
        &self.route_name
    }

    /// Where it came from.
    pub(crate) fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Where it came from, as records tell it.
    pub(crate) fn address_text(&self) -> &str {
        &self.address_text
    }

    /// Who opened it, if it has proved that.
    pub(crate) fn peer(&self) -> Option<&Rc<Peer>> {
        self.peer.as_ref()
    }

    /// Whether nobody has proved yet who uses it, or has and found no place.
    pub(crate) fn is_of_stranger(&self) -> bool {
        self.places.borrow().is_none()
    }

    /// Somebody has proved who uses it, by a certificate or as this subject: it is counted among those of its route, once.
    pub(crate) fn take_place(&self, subject: Option<&Rc<Subject>>) -> Result<(), Refusal> {
        if self.is_of_stranger() {
            let (worker, route) = (&self.worker, &self.route_name);
            let of_subject = subject.map(|subject| worker.take_peer_place(route, subject.principal())).transpose()?;
            self.places.replace(Some((worker.take_place(route)?, of_subject)));
        }
        Ok(())
    }

    /// The caller of every request on it, where nothing is demanded but what the connection has proved.
    pub(crate) fn sole_caller(&self) -> Option<Rc<Peer>> {
        self.follow();
        self.peer.clone().filter(|_| self.seen.borrow().by_connection_alone)
    }

    /// Its route's counters on this worker.
    pub(crate) fn counters(&self) -> Arc<RouteCounters> {
        Arc::clone(&self.counters)
    }

    /// Tells its task to drain or to end.
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    /// Whether it is allowed or denied as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether who came in as this connection did could come in to an outbound as it is now.
    pub(crate) fn could_reach(&self, route: &OutboundRoute) -> bool {
        self.entrance.as_ref().is_some_and(|entrance| entrance.is_no_wider_than(&route.entrance))
    }

    /// The identity that was shown to the peer.
    pub(crate) fn own_identity(&self) -> Option<&San> {
        self.own.as_ref()
    }

    /// When it must have ended.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        self.ends
    }

    /// A request has begun.
    pub(crate) fn request_began(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// A request has ended.
    pub(crate) fn request_ended(self: &Rc<Self>) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.touch();
        if self.is_silent() {
            self.fell_silent.notify_one();
        }
        if self.is_silent() && self.silent_since.replace(Some(self.worker.beat())).is_none() {
            self.worker.may_rest(self);
        }
    }

    /// Waits until nothing is under way on it. What a request became (a WebSocket) goes on after HTTP has let go.
    pub(crate) async fn silence(&self) {
        while !self.is_silent() {
            self.fell_silent.notified().await;
        }
    }

    /// Whether nothing is under way on it.
    pub(crate) fn is_silent(&self) -> bool {
        self.requests.get() == 0
    }

    /// Told to rest if it has been silent for a whole beat. False if it has to wait for another one.
    pub(crate) fn try_rest(&self, beat: u64) -> bool {
        match self.silent_since.get() {
            Some(since) if self.is_silent() && since == beat => return false,
            Some(_) if self.is_silent() => self.signal.rest(),
            Some(_) | None => {}
        }
        self.silent_since.set(None);
        true
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self) {
        self.last_use.set(self.worker.tick());
    }

    /// How many ticks it has been without a request, or, as a whole, without a byte; none while a request runs.
    pub(crate) fn idle_ticks(&self, now: u64) -> Option<u64> {
        (self.whole || self.is_silent()).then(|| now.saturating_sub(self.last_use.get()))
    }

    /// Its route as configured now.
    pub(crate) fn current(&self) -> Result<Current, Withdrawn> {
        self.follow();
        self.seen.borrow().route.clone().ok_or(Withdrawn::Route)
    }

    /// Whereto its requests go now.
    pub(crate) fn onward(&self) -> Result<Onward, Refusal> {
        self.follow();
        self.seen.borrow().onward.clone().ok_or(Refusal::Withdrawn(Withdrawn::Route))
    }

    /// The headers that tell the backend which workload calls; none on an outbound, and where none has proved itself.
    pub(crate) fn identity_headers(&self) -> Option<Rc<IdentityHeaders>> {
        self.follow();
        self.seen.borrow().headers.clone()
    }

    /// Verifies the peer's certificate against new trust.
    pub(crate) fn verify_again(&self, trust: &Trust) -> Result<(), Withdrawn> {
        match self.peer.as_ref().and_then(|peer| peer.verified()) {
            Some(verified) => trust
                .verify_again(verified, Side::Client, self.worker.clock().now())
                .map_err(|refusal| Withdrawn::Peer(Box::new(refusal))),
            None => Ok(()),
        }
    }

    /// Takes up a new generation of the config, once.
    fn follow(&self) {
        let snapshot = self.worker.snapshot();
        if self.seen.borrow().generation == snapshot.generation {
            return;
        }
        // Roles first: the headers tell them.
        self.peer.iter().for_each(|peer| peer.hold(&snapshot.roles));
        let seen = match self.direction {
            Direction::Inbound => self.see_inbound(snapshot.generation, snapshot.inbound(&self.route_name)),
            Direction::Outbound => self.see_outbound(snapshot.generation, snapshot.outbound(&self.route_name)),
        };
        self.seen.replace(seen);
    }

    fn see_inbound(&self, generation: u64, route: Option<&Arc<InboundRoute>>) -> Seen {
        Seen {
            generation,
            onward: route.map(|route| Onward::Backend(self.worker.backend_pool(&route.backend))),
            by_connection_alone: route.is_some_and(|route| route.demand == Demand::certificate()),
            headers: route
                .zip(self.peer.as_ref())
                .and_then(|(route, peer)| peer.identity_headers(generation, route.tls.identity.leaf())),
            route: route.cloned().map(Current::Inbound),
        }
    }

    fn see_outbound(&self, generation: u64, route: Option<&Arc<OutboundRoute>>) -> Seen {
        Seen {
            generation,
            onward: route.map(|route| Onward::Hop(self.worker.hop_pool(route))),
            by_connection_alone: true,
            headers: None,
            route: route.cloned().map(Current::Outbound),
        }
    }
}

impl Seen {
    fn nothing() -> Self {
        Self { generation: 0, route: None, onward: None, by_connection_alone: false, headers: None }
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Seen({})", self.generation)
    }
}
