//! The state of one worker: its connections, pools and counters. What is shared with other workers is what must be counted once:
//! places, spent proofs, passwords under trial, limits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use countersign_certs::time::{Clock, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::places::{HandshakeTurn, Handshakes, Place, Places, Strangers};
use crate::authenticate::{Introspections, KeyUsage, PasswordChecks, SpentProofs, Subjects};
use crate::authorize::Ongoing;
use crate::config::address::BackendAddress;
use crate::connection::Connection;
use crate::forward::backend::{BackendPool, Bounds};
use crate::forward::hop::{Hop, HopPool};
use crate::given::token_exchange::Exchanges;
use crate::identify::Peers;
use crate::limit::link::StoreLink;
use crate::listener::Origin;
use crate::live::Live;
use crate::record::buffer::AuditBuffer;
use crate::record::counters::RouteCounters;
use crate::record::fields::RecordedFields;
use crate::record::line::DecisionId;
use crate::record::notable::Notables;
use crate::record::patterns::Patterns;
use crate::record::sink::Sink;
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
    /// Shared by all workers.
    pub(crate) places: Arc<Places>,
    pub(crate) key_usage: Arc<KeyUsage>,
    pub(crate) password_checks: Arc<PasswordChecks>,
    pub(crate) spent_proofs: Arc<SpentProofs>,
    /// Values of requests that are recorded.
    pub(crate) recorded_fields: Arc<RecordedFields>,
    /// Where odd patterns are looked for.
    pub(crate) patterns: Option<Arc<Patterns>>,
    /// Since when limits are counted: the same for all workers.
    pub(crate) began: Instant,
}

/// The state of one worker.
pub(crate) struct Worker {
    index: usize,
    clock: Clock,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) snapshot: RefCell<Arc<Snapshot>>,
    pub(super) tick: Cell<u64>,
    /// Which keys of issuers were in use when it last looked, and since which snapshot.
    pub(super) token_keys: Cell<(u64, u64)>,
    pub(super) beat: Cell<u64>,
    pub(super) resting: RefCell<Vec<Weak<Connection>>>,
    pub(super) rest_wanted: Notify,
    decisions: Cell<DecisionId>,
    pub(super) connections: Rc<Live<Connection>>,
    pub(super) requests: Rc<Live<Ongoing>>,
    pub(super) hops: Rc<Live<Hop>>,
    pub(super) peers: Peers,
    subjects: Subjects,
    introspections: Introspections,
    exchanges: Exchanges,
    pub(super) backends: RefCell<HashMap<BackendAddress, Rc<BackendPool>>>,
    pub(super) hop_pools: RefCell<HashMap<Arc<str>, Rc<HopPool>>>,
    handshakes: Rc<Handshakes>,
    strangers: Strangers,
    /// Connections whose audit line is not written yet, from the moment they are accepted.
    unwritten: Cell<usize>,
    places: Arc<Places>,
    key_usage: Arc<KeyUsage>,
    password_checks: Arc<PasswordChecks>,
    spent_proofs: Arc<SpentProofs>,
    began: Instant,
    store_link: RefCell<Rc<StoreLink>>,
    audit: Rc<AuditBuffer>,
    notables: Notables,
    recorded_fields: Arc<RecordedFields>,
}

impl Worker {
    pub(super) fn new(setup: WorkerSetup) -> Self {
        let clock = setup.clock.clone();
        let snapshot = Arc::clone(&setup.snapshots.borrow());
        let store_link = RefCell::new(StoreLink::begin(snapshot.store.clone(), &setup.clock));
        Self {
            index: setup.index,
            clock: clock.clone(),
            snapshots: setup.snapshots,
            snapshot: RefCell::new(snapshot),
            tick: Cell::new(0),
            token_keys: Cell::default(),
            beat: Cell::new(0),
            resting: RefCell::default(),
            rest_wanted: Notify::new(),
            decisions: Cell::new(DecisionId { worker: setup.decisions, number: 0 }),
            connections: Rc::default(),
            requests: Rc::default(),
            hops: Rc::default(),
            peers: Peers::default(),
            subjects: Subjects::default(),
            introspections: Introspections::default(),
            exchanges: Exchanges::default(),
            backends: RefCell::default(),
            hop_pools: RefCell::default(),
            handshakes: Rc::default(),
            strangers: Strangers::default(),
            unwritten: Cell::new(0),
            places: setup.places,
            key_usage: setup.key_usage,
            password_checks: setup.password_checks,
            spent_proofs: setup.spent_proofs,
            began: setup.began,
            store_link,
            recorded_fields: setup.recorded_fields,
            notables: Notables::new(setup.sink.clone(), clock.clone(), setup.patterns),
            audit: Rc::new(AuditBuffer::new(setup.sink)),
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

    /// The newest that was made.
    pub(crate) fn newest_snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
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
        self.resting.borrow_mut().push(Rc::downgrade(connection));
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

    /// Users and services that were believed lately.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Questions to issuers about tokens.
    pub(crate) fn introspections(&self) -> &Introspections {
        &self.introspections
    }

    /// Tokens that were exchanged lately.
    pub(crate) fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// Proofs that no worker takes again.
    pub(crate) fn spent_proofs(&self) -> &SpentProofs {
        &self.spent_proofs
    }

    /// What all workers share about passwords.
    pub(crate) fn password_checks(&self) -> &PasswordChecks {
        &self.password_checks
    }

    /// Nanoseconds since the agent began, for what is counted. No step of the clock on the wall makes them more or fewer.
    pub(crate) fn elapsed_nanoseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The connection to the store of shared limits.
    pub(crate) fn store_link(&self) -> Rc<StoreLink> {
        Rc::clone(&self.store_link.borrow())
    }

    /// Goes to the store that the snapshot names.
    pub(super) fn follow_store(&self) {
        let snapshot = self.snapshot.borrow();
        if !self.store_link.borrow().leads_to(snapshot.store.as_ref()) {
            self.store_link.replace(StoreLink::begin(snapshot.store.clone(), &self.clock));
        }
    }

    /// Forgets what need not be known of callers that are limited. Once for all workers.
    pub(super) fn tidy_limits(&self) {
        if self.index == 0 {
            let now = self.elapsed_nanoseconds();
            self.snapshot.borrow().rate_limits.iter().for_each(|limit| limit.tidy(now));
        }
    }

    /// Notes which API keys were used since this was called last.
    pub(super) fn report_used_keys(&self, now: Timestamp) {
        let used = self.subjects.take_used();
        if !used.is_empty() {
            self.key_usage.note(used.iter().filter_map(|subject| subject.proof().key_id()), now);
        }
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

    /// Counts one more connection.
    pub(crate) fn enter(&self) -> Place {
        Places::enter(&self.places)
    }

    /// Takes a place for one more connection of a route.
    pub(crate) fn take_place(&self, route: &Arc<str>) -> Result<Place, Refusal> {
        Places::take(&self.places, route, self.snapshot.borrow().limits.connections)
    }

    /// Takes a place for one more connection of a peer to a route.
    pub(crate) fn take_peer_place(&self, route: &Arc<str>, principal: &str) -> Result<Place, Refusal> {
        Places::take_of_peer(&self.places, route, principal, self.snapshot.borrow().limits.connections_per_peer)
    }

    /// Begins one more handshake.
    pub(crate) fn begin_handshake(&self, origin: Origin) -> HandshakeTurn {
        Handshakes::begin(&self.handshakes, origin, self.snapshot.borrow().limits.handshakes)
    }

    /// Bounds the connections on which nobody has proved who they are, of which this is one: as many as handshakes.
    pub(crate) fn enter_stranger(&self, connection: &Rc<Connection>) {
        self.strangers.enter(connection, self.snapshot.borrow().limits.handshakes);
    }

    /// Values of requests that are recorded.
    pub(crate) fn recorded_fields(&self) -> &RecordedFields {
        &self.recorded_fields
    }

    /// What is told in lines of its own.
    pub(crate) fn notables(&self) -> &Notables {
        &self.notables
    }

    /// Where this worker's audit lines go.
    pub(crate) fn audit(&self) -> &Rc<AuditBuffer> {
        &self.audit
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Worker({})", self.index)
    }
}
