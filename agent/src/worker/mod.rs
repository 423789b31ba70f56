//! One worker: a thread with a runtime of its own. It accepts, takes up each new snapshot, and ends what may no longer go on.

mod state;

mod places;

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub(crate) use places::{Place, Places, Turn};
pub(crate) use state::{Worker, WorkerSetup};

use crate::authorize;
use crate::connection::Connection;
use crate::listener::WorkerListener;
use crate::refusal::Withdrawn;
use crate::routes::{Entrance, Phase, Route};
use crate::{inbound, outbound};

/// One sweep over everything under way; also the grain of idle times.
const TICK: Duration = Duration::from_secs(1);

/// How many ticks until it is looked again whether conditions over the time still hold for what is under way.
const CONDITIONS_EVERY: u64 = 30;

/// How many ticks until lines that were left out are told of, if no later line has counted them.
const OMITTED_EVERY: u64 = 5;

/// A request that was told to end and has not for this many ticks takes its connection with it.
const STUCK_TICKS: u64 = 2;

/// A connection that is silent for longer than this gives its buffers back.
const BEAT: Duration = Duration::from_millis(100);

/// How long the accept loop waits when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs a worker until its snapshots end or a drain is done.
pub(crate) async fn run(setup: WorkerSetup) {
    let mut snapshots = setup.snapshots.clone();
    let worker = Rc::new(Worker::new(setup));
    let mut accepting: BTreeMap<Entrance, JoinHandle<()>> = BTreeMap::new();
    let flushing = tokio::task::spawn_local(Rc::clone(worker.audit()).keep_flushing(worker.clock().clone()));
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
                if worker.snapshot().phase == Phase::Stopping {
                    break;
                }
                listen(&worker, &mut accepting);
                worker.look_again();
            }
            _ = ticks.tick() => worker.sweep(),
        }
        if worker.snapshot().phase == Phase::Draining && worker.is_empty() {
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
    worker.notables().finish();
    worker.audit().finish(worker.clock().precise()).await;
}

/// Starts accepting where something new is listened on, and stops where nothing is any more.
fn listen(worker: &Rc<Worker>, accepting: &mut BTreeMap<Entrance, JoinHandle<()>>) {
    let snapshot = worker.snapshot();
    accepting.retain(|entrance, task| {
        let stays = snapshot.phase == Phase::Serving && snapshot.routes.contains_key(entrance);
        if !stays {
            task.abort();
        }
        stays
    });
    if snapshot.phase != Phase::Serving {
        return;
    }
    for (entrance, open) in &snapshot.routes {
        if accepting.contains_key(entrance) {
            continue;
        }
        // A socket that is closed by now is in no newer snapshot, and that one is on its way.
        let Some(listener) = open.listener.upgrade() else { continue };
        match listener.for_worker() {
            Ok(listener) => {
                let task = tokio::task::spawn_local(accept(Rc::clone(worker), entrance.clone(), listener));
                accepting.insert(entrance.clone(), task);
            }
            Err(error) => tracing::error!(address = %entrance.address(), %error, "a worker cannot listen"),
        }
    }
}

async fn accept(worker: Rc<Worker>, entrance: Entrance, listener: WorkerListener) {
    loop {
        let (stream, peer_address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without a pause a process that is out of file descriptors would spin here.
                tracing::warn!(address = %entrance.address(), %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The newest there is, also if this worker has not taken it up yet: with it the socket may have been opened wider.
        let snapshot = worker.newest_snapshot();
        let Some(open) = snapshot.routes.get(&entrance) else { continue };
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

/// Tells connections that have fallen silent to give their memory back.
async fn let_rest(worker: Rc<Worker>) {
    loop {
        worker.rest_wanted.notified().await;
        while !worker.resting.borrow().is_empty() {
            tokio::time::sleep(BEAT).await;
            let beat = worker.beat.get();
            worker.beat.set(beat + 1);
            // One that has ended has nothing to give back, and keeps its place no longer than it lasted.
            let waits = |candidate: &Weak<Connection>| candidate.upgrade().is_some_and(|it| !it.try_rest(beat));
            let waiting = worker.resting.take().into_iter().filter(waits).collect::<Vec<_>>();
            worker.resting.borrow_mut().extend(waiting);
        }
    }
}

impl Worker {
    /// After a new snapshot: everything under way is decided on again, and told if the agent drains.
    fn look_again(&self) {
        let snapshot = self.snapshot();
        self.follow_store();
        authorize::again(self);
        let now = self.clock().now();
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
        if snapshot.phase != Phase::Serving {
            self.connections.all().iter().for_each(|connection| connection.signal().drain());
        }
    }

    /// Once a second: what has ended or is idle too long is told so.
    fn sweep(&self) {
        self.tick.set(self.tick.get() + 1);
        let (tick, now) = (self.tick.get(), self.clock().now());
        if tick.is_multiple_of(OMITTED_EVERY) {
            self.audit().tell_omitted(self.clock().precise());
            self.notables().tell_omitted();
        }
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
            // A byte just before this tick is one tick old already: only more ticks than seconds mean so many seconds.
            let limit = if connection.is_whole() { limits.idle_stream } else { limits.idle_connection };
            if connection.idle_ticks(tick).is_some_and(|ticks| ticks > limit.as_secs()) {
                connection.signal().cut(Withdrawn::Idle(limit));
            }
        }
        let token_keys = (snapshot.generation, snapshot.token_key_epochs());
        if self.token_keys.replace(token_keys) != token_keys {
            authorize::again(self);
        }
        for ongoing in self.requests.all() {
            if ongoing.idle_ticks(tick) > limits.idle_stream.as_secs() {
                ongoing.signal().cut(Withdrawn::Idle(limits.idle_stream));
            }
            if let (Some(ticks), Some(reason)) = (ongoing.ticks_since_cut(tick), ongoing.signal().cut_reason())
                && ticks >= STUCK_TICKS
            {
                ongoing.connection().signal().cut(reason);
            }
            if let Some(ends) = ongoing.ends().filter(|ends| now > *ends) {
                ongoing.signal().cut(Withdrawn::Expired(ends));
            }
        }
        for hop in self.hops.all() {
            if now > hop.ends() {
                hop.signal().cut(Withdrawn::Expired(hop.ends()));
            } else if now.plus(limits.drain) >= hop.ends() {
                hop.signal().drain();
            }
        }
        if tick.is_multiple_of(CONDITIONS_EVERY) && snapshot.looks_at_time() {
            authorize::again(self);
        }
        self.peers.tidy();
        self.report_used_keys(now);
        self.tidy_limits();
        self.backends.borrow().values().for_each(|pool| pool.tidy());
        self.hop_pools.borrow().values().for_each(|pool| pool.tidy());
    }

    /// The drain time is over.
    async fn end_everything(&self) {
        self.requests.all().iter().for_each(|ongoing| ongoing.signal().cut(Withdrawn::Stopped));
        self.connections.all().iter().for_each(|connection| connection.signal().cut(Withdrawn::Stopped));
        // One that was accepted just now has not even begun.
        tokio::task::yield_now().await;
        // Each task needs a few turns of the runtime to write its audit line.
        for _ in 0..100 {
            if self.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
