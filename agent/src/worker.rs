//! One worker: a thread with a runtime of its own, its own connections, pools and counters. Nothing that a request needs is
//! shared with another worker.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::time::Clock;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::authorize::{self, Ongoing};
use crate::config::address::{BackendAddress, ListenAddress};
use crate::forward::backend::BackendPool;
use crate::forward::connection::Connection;
use crate::forward::hop::{Hop, HopPool};
use crate::identify::Peers;
use crate::listener::WorkerListener;
use crate::live::Live;
use crate::record::counters::RouteCounters;
use crate::record::line::{DecisionId, Line, TimeText};
use crate::record::sink::{BACKLOG_BYTES_MAX, BUFFER_BYTES, Sink};
use crate::refusal::{Refusal, Withdrawn};
use crate::routes::{OutboundRoute, Route, Snapshot};
use crate::{inbound, outbound};

/// One sweep over everything under way; also the grain of idle times.
const TICK: Duration = Duration::from_secs(1);

/// How long audit lines may lie in a worker's buffer.
const FLUSH: Duration = Duration::from_millis(20);

/// A connection that is silent for longer than this gives its buffers back.
const BEAT: Duration = Duration::from_millis(100);

/// How long the accept loop waits when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a worker thread is given.
pub(crate) struct WorkerSetup {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) sink: Sink,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The random part of this worker's decision IDs.
    pub(crate) decisions: u64,
    /// Connections under way, for the operator and for the end of a drain.
    pub(crate) gauge: Arc<std::sync::atomic::AtomicUsize>,
}

/// The state of one worker.
pub(crate) struct Worker {
    index: usize,
    clock: Clock,
    sink: Sink,
    snapshot: RefCell<Arc<Snapshot>>,
    tick: Cell<u64>,
    beat: Cell<u64>,
    resting: RefCell<Vec<Rc<Connection>>>,
    rest_wanted: Notify,
    decisions: Cell<DecisionId>,
    connections: Rc<Live<Connection>>,
    requests: Rc<Live<Ongoing>>,
    hops: Rc<Live<Hop>>,
    peers: Peers,
    backends: RefCell<HashMap<BackendAddress, Rc<BackendPool>>>,
    hop_pools: RefCell<HashMap<Arc<str>, Rc<HopPool>>>,
    handshakes: Cell<u32>,
    accepted: RefCell<HashMap<Arc<str>, u32>>,
    admitted: RefCell<HashMap<PeerOfRoute, u32>>,
    lines: RefCell<Vec<u8>>,
    lines_waiting: Notify,
    time_text: RefCell<TimeText>,
    gauge: Arc<std::sync::atomic::AtomicUsize>,
}

/// Runs a worker until its snapshots end or a drain is done.
pub(crate) async fn run(setup: WorkerSetup) {
    let mut snapshots = setup.snapshots.clone();
    let worker = Rc::new(Worker::new(setup));
    let mut accepting: BTreeMap<ListenAddress, JoinHandle<()>> = BTreeMap::new();
    let flushing = tokio::task::spawn_local(flush_lines(Rc::clone(&worker)));
    let resting = tokio::task::spawn_local(let_rest(Rc::clone(&worker)));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    listen(&worker, &mut accepting);
    loop {
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                worker.snapshot.replace(Arc::clone(&snapshots.borrow_and_update()));
                listen(&worker, &mut accepting);
                worker.look_again();
            }
            _ = ticks.tick() => worker.sweep(),
        }
        if worker.snapshot().draining && worker.connections.count() == 0 && worker.requests.count() == 0 {
            break;
        }
    }
    accepting.into_values().for_each(|task| task.abort());
    worker.end_everything().await;
    flushing.abort();
    resting.abort();
    // The pools know their worker; letting go of them here ends the circle.
    worker.hop_pools.take();
    worker.backends.take();
    worker.flush_until_empty().await;
}

/// Starts accepting where something new is listened on, and stops where nothing is any more.
fn listen(worker: &Rc<Worker>, accepting: &mut BTreeMap<ListenAddress, JoinHandle<()>>) {
    let snapshot = worker.snapshot();
    accepting.retain(|address, task| {
        let stays = !snapshot.draining && snapshot.routes.contains_key(address);
        if !stays {
            task.abort();
        }
        stays
    });
    if snapshot.draining {
        return;
    }
    for (address, open) in &snapshot.routes {
        if accepting.contains_key(address) {
            continue;
        }
        match open.listener.for_worker() {
            Ok(listener) => {
                let task = tokio::task::spawn_local(accept(Rc::clone(worker), address.clone(), listener));
                accepting.insert(address.clone(), task);
            }
            Err(error) => tracing::error!(%address, %error, "a worker cannot listen"),
        }
    }
}

async fn accept(worker: Rc<Worker>, address: ListenAddress, listener: WorkerListener) {
    loop {
        let (stream, peer_address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without a pause a process that is out of file descriptors would spin here.
                tracing::warn!(%address, %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let snapshot = worker.snapshot();
        let Some(open) = snapshot.routes.get(&address) else { continue };
        match open.route.clone() {
            Route::Inbound(route) => {
                let accepted = inbound::Accepted { stream, address: peer_address, route };
                tokio::task::spawn_local(inbound::serve(accepted, Rc::clone(&worker)));
            }
            Route::Outbound(route) => {
                let accepted = outbound::Accepted { stream, address: peer_address, route };
                tokio::task::spawn_local(outbound::serve(accepted, Rc::clone(&worker)));
            }
        }
    }
}

/// Hands lines on a little after they were written, so that one system call carries many.
async fn flush_lines(worker: Rc<Worker>) {
    loop {
        worker.lines_waiting.notified().await;
        tokio::time::sleep(FLUSH).await;
        worker.flush();
    }
}

/// Tells connections that have fallen silent to give their memory back.
async fn let_rest(worker: Rc<Worker>) {
    loop {
        worker.rest_wanted.notified().await;
        while !worker.resting.borrow().is_empty() {
            tokio::time::sleep(BEAT).await;
            let beat = worker.beat.get();
            worker.beat.set(beat + 1);
            let candidates = worker.resting.take();
            let waiting = candidates.into_iter().filter(|connection| !connection.try_rest(beat)).collect::<Vec<_>>();
            worker.resting.borrow_mut().extend(waiting);
        }
    }
}

impl Worker {
    fn new(setup: WorkerSetup) -> Self {
        let snapshot = Arc::clone(&setup.snapshots.borrow());
        Self {
            index: setup.index,
            clock: setup.clock,
            sink: setup.sink,
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
            accepted: RefCell::default(),
            admitted: RefCell::default(),
            lines: RefCell::default(),
            lines_waiting: Notify::new(),
            time_text: RefCell::default(),
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

    /// What it goes by now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
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
        if let Some(pool) = self.backends.borrow().get(address) {
            return Rc::clone(pool);
        }
        let limits = &self.snapshot.borrow().limits;
        let pool = Rc::new(BackendPool::new(address.clone(), limits.connect_timeout, limits.backend_idle));
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
        let limit = self.snapshot.borrow().limits.connections;
        let mut accepted = self.accepted.borrow_mut();
        let count = accepted.entry(Arc::clone(route)).or_default();
        if *count >= limit {
            return Err(Refusal::TooMany { what: "connections of this route", limit });
        }
        *count += 1;
        self.gauge.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Place { worker: Rc::clone(self), kind: PlaceOf::Route(Arc::clone(route)) })
    }

    /// Takes a place for one more connection of a peer to a route.
    pub(crate) fn take_peer_place(self: &Rc<Self>, route: &Arc<str>, principal: &str) -> Result<Place, Refusal> {
        let limit = self.snapshot.borrow().limits.connections_per_peer;
        let key = PeerOfRoute { route: Arc::clone(route), principal: principal.into() };
        let mut admitted = self.admitted.borrow_mut();
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

    /// Writes one audit line into the buffer.
    pub(crate) fn write_line(&self, line: &Line<'_>) {
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

    fn flush(&self) {
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

    async fn flush_until_empty(&self) {
        // The writer takes what it is given as fast as its output does; five seconds are enough for any disk that works.
        for _ in 0..250 {
            self.flush();
            if self.lines.borrow().is_empty() {
                return;
            }
            tokio::time::sleep(FLUSH).await;
        }
    }

    /// After a new snapshot: everything under way is decided on again, and told if the agent drains.
    fn look_again(&self) {
        let snapshot = self.snapshot();
        authorize::again(self);
        let now = self.clock.now();
        for hop in self.hops.all() {
            match snapshot.outbound(hop.route_name()) {
                Some(route) => {
                    if let Err(refusal) = hop.verify_again(route, now) {
                        hop.signal().cut(Withdrawn::Peer(Box::new(refusal)));
                    }
                }
                None => hop.signal().drain(),
            }
        }
        let configured = |name: &Arc<str>| snapshot.outbound(name).is_some();
        self.hop_pools.borrow_mut().retain(|name, pool| configured(name) && Rc::strong_count(pool) > 0);
        self.backends.borrow_mut().retain(|address, _| {
            snapshot.routes.values().any(|open| match &open.route {
                Route::Inbound(route) => route.backend == *address,
                Route::Outbound(_) => false,
            })
        });
        if snapshot.draining {
            self.connections.all().iter().for_each(|connection| connection.signal().drain());
        }
    }

    /// Once a second: what has ended or is idle too long is told so.
    fn sweep(&self) {
        self.tick.set(self.tick.get() + 1);
        let (tick, now) = (self.tick.get(), self.clock.now());
        let snapshot = self.snapshot();
        let limits = &snapshot.limits;
        for connection in self.connections.all() {
            if let Some(ends) = connection.ends() {
                if now > ends {
                    connection.signal().cut(Withdrawn::Expired(ends));
                } else if now.plus(limits.drain) >= ends {
                    connection.signal().drain();
                }
            }
            if connection.idle_ticks(tick).is_some_and(|ticks| ticks >= limits.idle_connection.as_secs()) {
                connection.signal().cut(Withdrawn::Idle(limits.idle_connection));
            }
        }
        for ongoing in self.requests.all() {
            if ongoing.idle_ticks(tick) >= limits.idle_stream.as_secs() {
                ongoing.signal().cut(Withdrawn::Idle(limits.idle_stream));
            }
            if ongoing.connection().ends().is_some_and(|ends| now > ends) {
                ongoing.signal().cut(Withdrawn::Expired(now));
            }
        }
        for hop in self.hops.all() {
            if now > hop.ends() {
                hop.signal().cut(Withdrawn::Expired(hop.ends()));
            } else if now.plus(limits.drain) >= hop.ends() {
                hop.signal().drain();
            }
        }
        self.peers.tidy();
        self.backends.borrow().values().for_each(|pool| pool.tidy());
        self.hop_pools.borrow().values().for_each(|pool| pool.tidy());
    }

    /// The drain time is over.
    async fn end_everything(&self) {
        self.requests.all().iter().for_each(|ongoing| ongoing.signal().cut(Withdrawn::Stopped));
        self.connections.all().iter().for_each(|connection| connection.signal().cut(Withdrawn::Stopped));
        // Each task needs a few turns of the runtime to write its audit line.
        for _ in 0..100 {
            if self.connections.count() == 0 && self.requests.count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
            PlaceOf::Peer(key) => leave(&mut self.worker.admitted.borrow_mut(), key),
            PlaceOf::Route(name) => {
                leave(&mut self.worker.accepted.borrow_mut(), name);
                self.worker.gauge.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
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
