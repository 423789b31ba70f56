//! The state of one worker: its connections, pools and counters. Nothing that a request needs is shared with another worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_certs::time::Clock;
use tokio::sync::{Notify, watch};

use crate::authorize::Ongoing;
use crate::config::address::BackendAddress;
use crate::connection::Connection;
use crate::forward::backend::{BackendPool, Bounds};
use crate::forward::hop::{Hop, HopPool};
use crate::identify::Peers;
use crate::live::Live;
use crate::record::counters::RouteCounters;
use crate::record::line::{DecisionId, Line, TimeText, write_unrecorded};
use crate::record::sink::{BACKLOG_BYTES_MAX, BUFFER_BYTES, Sink};
use crate::refusal::Refusal;
use crate::routes::{OutboundRoute, Phase, Snapshot};

/// What a worker thread is given.
pub(crate) struct WorkerSetup {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) sink: Sink,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The random part of this worker's decision IDs.
    pub(crate) decisions: u64,
    /// Connections under way, for the operator and for the end of a drain.
    pub(crate) gauge: Arc<AtomicUsize>,
    /// Shared by all workers.
    pub(crate) places: Arc<Places>,
}

/// The state of one worker.
pub(crate) struct Worker {
    index: usize,
    clock: Clock,
    sink: Sink,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) snapshot: RefCell<Arc<Snapshot>>,
    pub(super) tick: Cell<u64>,
    pub(super) beat: Cell<u64>,
    pub(super) resting: RefCell<Vec<Rc<Connection>>>,
    pub(super) rest_wanted: Notify,
    decisions: Cell<DecisionId>,
    pub(super) connections: Rc<Live<Connection>>,
    pub(super) requests: Rc<Live<Ongoing>>,
    pub(super) hops: Rc<Live<Hop>>,
    pub(super) peers: Peers,
    pub(super) backends: RefCell<HashMap<BackendAddress, Rc<BackendPool>>>,
    pub(super) hop_pools: RefCell<HashMap<Arc<str>, Rc<HopPool>>>,
    handshakes: Cell<u32>,
    /// Connections whose audit line is not written yet, from the moment they are accepted.
    unwritten: Cell<usize>,
    places: Arc<Places>,
    pub(super) lines: RefCell<Vec<u8>>,
    pub(super) lines_waiting: Notify,
    time_text: RefCell<TimeText>,
    unrecorded: Cell<u64>,
    gauge: Arc<AtomicUsize>,
}

impl Worker {
    pub(super) fn new(setup: WorkerSetup) -> Self {
        let snapshot = Arc::clone(&setup.snapshots.borrow());
        Self {
            index: setup.index,
            clock: setup.clock,
            sink: setup.sink,
            snapshots: setup.snapshots,
            snapshot: RefCell::new(snapshot),
            tick: Cell::new(0),
            beat: Cell::new(0),
            resting: RefCell::default(),
            rest_wanted: Notify::new(),
            decisions: Cell::new(DecisionId { worker: setup.decisions, number: 0 }),
            connections: Rc::default(),
            requests: Rc::default(),
            hops: Rc::default(),
            peers: Peers::default(),
            backends: RefCell::default(),
            hop_pools: RefCell::default(),
            handshakes: Cell::new(0),
            unwritten: Cell::new(0),
            places: setup.places,
            lines: RefCell::default(),
            lines_waiting: Notify::new(),
            time_text: RefCell::default(),
            unrecorded: Cell::new(0),
            gauge: setup.gauge,
        }
    }

    /// Its number, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The time.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether nothing is under way, and everything that was is recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.get() == 0 && self.requests.count() == 0
    }

    /// A connection was accepted.
    pub(crate) fn record_opened(&self) {
        self.unwritten.set(self.unwritten.get() + 1);
    }

    /// The audit line of a connection is written.
    pub(crate) fn record_closed(&self) {
        self.unwritten.set(self.unwritten.get().saturating_sub(1));
    }

    /// What it goes by now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Waits until nothing new is taken any more.
    pub(crate) async fn drain_begun(&self) {
        // An error says that nobody makes snapshots any more, which is the end too.
        self.snapshots.clone().wait_for(|snapshot| snapshot.phase != Phase::Serving).await.ok();
    }

    /// Seconds since the worker began.
    pub(crate) fn tick(&self) -> u64 {
        self.tick.get()
    }

    /// Grows ten times a second while connections are falling silent.
    pub(crate) fn beat(&self) -> u64 {
        self.beat.get()
    }

    /// Notes a connection that has just fallen silent.
    pub(crate) fn may_rest(&self, connection: &Rc<Connection>) {
        self.resting.borrow_mut().push(Rc::clone(connection));
        self.rest_wanted.notify_one();
    }

    /// The next decision's ID.
    pub(crate) fn next_decision(&self) -> DecisionId {
        let id = self.decisions.get();
        self.decisions.set(DecisionId { number: id.number.wrapping_add(1), ..id });
        id
    }

    /// Connections that others opened to us.
    pub(crate) fn connections(&self) -> &Rc<Live<Connection>> {
        &self.connections
    }

    /// Requests under way.
    pub(crate) fn requests(&self) -> &Rc<Live<Ongoing>> {
        &self.requests
    }

    /// Who is connected.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// TLS connections that we opened.
    pub(crate) fn hops(&self) -> &Rc<Live<Hop>> {
        &self.hops
    }

    /// This worker's counters of a route.
    pub(crate) fn counters(&self, all: &[Arc<RouteCounters>]) -> Arc<RouteCounters> {
        all.get(self.index).cloned().unwrap_or_default()
    }

    /// The connections to a local service.
    pub(crate) fn backend_pool(&self, address: &BackendAddress) -> Rc<BackendPool> {
        let bounds = Bounds::of(&self.snapshot.borrow().limits);
        if let Some(pool) = self.backends.borrow().get(address).filter(|pool| pool.is_within(bounds)) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(BackendPool::new(address.clone(), bounds));
        self.backends.borrow_mut().insert(address.clone(), Rc::clone(&pool));
        pool
    }

    /// The connections of an outbound. New ones if its identity or its service has changed; the old ones finish what they
    /// carry.
    pub(crate) fn hop_pool(self: &Rc<Self>, route: &Arc<OutboundRoute>) -> Rc<HopPool> {
        if let Some(pool) = self.hop_pools.borrow().get(&route.name).filter(|pool| pool.serves(route)) {
            return Rc::clone(pool);
        }
        let idle_for = self.snapshot.borrow().limits.idle_connection;
        let pool = Rc::new(HopPool::new(self, route, idle_for));
        self.hop_pools.borrow_mut().insert(Arc::clone(&route.name), Rc::clone(&pool));
        pool
    }

    /// Takes a place for one more connection of a route.
    pub(crate) fn take_place(self: &Rc<Self>, route: &Arc<str>) -> Result<Place, Refusal> {
        if self.cannot_record() {
            return Err(Refusal::AuditUnavailable);
        }
        let limit = self.snapshot.borrow().limits.connections;
        let mut accepted = Places::lock(&self.places.of_routes);
        let count = accepted.entry(Arc::clone(route)).or_default();
        if *count >= limit {
            return Err(Refusal::TooMany { what: "connections of this route", limit });
        }
        *count += 1;
        self.gauge.fetch_add(1, Ordering::Relaxed);
        Ok(Place { worker: Rc::clone(self), kind: PlaceOf::Route(Arc::clone(route)) })
    }

    /// Takes a place for one more connection of a peer to a route.
    pub(crate) fn take_peer_place(self: &Rc<Self>, route: &Arc<str>, principal: &str) -> Result<Place, Refusal> {
        let limit = self.snapshot.borrow().limits.connections_per_peer;
        let key = PeerOfRoute { route: Arc::clone(route), principal: principal.into() };
        let mut admitted = Places::lock(&self.places.of_peers);
        let count = admitted.entry(key.clone()).or_default();
        if *count >= limit {
            return Err(Refusal::TooMany { what: "connections of one peer", limit });
        }
        *count += 1;
        Ok(Place { worker: Rc::clone(self), kind: PlaceOf::Peer(key) })
    }

    /// Takes a place for one more handshake.
    pub(crate) fn begin_handshake(&self) -> Result<HandshakeTurn<'_>, Refusal> {
        let limit = self.snapshot.borrow().limits.handshakes;
        if self.handshakes.get() >= limit {
            return Err(Refusal::TooMany { what: "handshakes at once", limit });
        }
        self.handshakes.set(self.handshakes.get() + 1);
        Ok(HandshakeTurn(self))
    }

    /// Whether new work must be refused because it could not be recorded.
    pub(crate) fn cannot_record(&self) -> bool {
        self.sink.is_failing() || self.lines.borrow().len() > BACKLOG_BYTES_MAX
    }

    /// Counts what was refused because it could not be recorded: a line for each would be memory that a peer makes grow.
    pub(crate) fn count_unrecorded(&self) {
        self.unrecorded.set(self.unrecorded.get().saturating_add(1));
    }

    /// Writes one audit line into the buffer.
    pub(crate) fn write_line(&self, line: &Line<'_>) {
        if self.unrecorded.get() > 0 && !self.cannot_record() {
            let count = self.unrecorded.replace(0);
            let mut time = self.time_text.borrow_mut();
            write_unrecorded(time.of(self.clock.precise()), count, &mut self.lines.borrow_mut());
        }
        let length = {
            let mut lines = self.lines.borrow_mut();
            let mut time = self.time_text.borrow_mut();
            line.write_to(time.of(self.clock.precise()), &mut lines);
            lines.len()
        };
        if length >= BUFFER_BYTES {
            self.flush();
        } else {
            self.lines_waiting.notify_one();
        }
    }

    pub(super) fn flush(&self) {
        let lines = self.lines.take();
        if lines.is_empty() {
            return;
        }
        if let Err(mut unsent) = self.sink.send(lines) {
            // The queue is full: the lines stay here, in order, and are tried again with the next ones.
            let mut buffer = self.lines.borrow_mut();
            unsent.append(&mut buffer);
            *buffer = unsent;
            self.lines_waiting.notify_one();
        }
    }
}

/// Connections by route and by peer, of all workers together. Touched when a connection begins and ends, never by a request.
#[derive(Default)]
pub(crate) struct Places {
    of_routes: Mutex<HashMap<Arc<str>, u32>>,
    of_peers: Mutex<HashMap<PeerOfRoute, u32>>,
}

impl Places {
    fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
        counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One peer as one route counts it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PeerOfRoute {
    route: Arc<str>,
    principal: Box<str>,
}

/// A place that is free again when this is dropped.
pub(crate) struct Place {
    worker: Rc<Worker>,
    kind: PlaceOf,
}

enum PlaceOf {
    Peer(PeerOfRoute),
    Route(Arc<str>),
}

impl Drop for Place {
    fn drop(&mut self) {
        match &self.kind {
            PlaceOf::Peer(key) => leave(&mut Places::lock(&self.worker.places.of_peers), key),
            PlaceOf::Route(name) => {
                leave(&mut Places::lock(&self.worker.places.of_routes), name);
                self.worker.gauge.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(key);
    }
}

/// One handshake under way.
pub(crate) struct HandshakeTurn<'worker>(&'worker Worker);

impl Drop for HandshakeTurn<'_> {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get().saturating_sub(1));
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Worker({})", self.index)
    }
}
