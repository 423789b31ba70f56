//! Places: how many connections there may be of a route, of a peer and of strangers, and how many handshakes at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::connection::Connection;
use crate::listener::Origin;
use crate::refusal::{Refusal, Withdrawn};

/// Connections by route and by peer, of all workers together. Touched when a connection begins and ends, never by a request but the
/// first that is believed.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Every connection, for the operator and for the end of a drain.
    all: AtomicUsize,
    /// Those of callers who have proved who they are.
    of_routes: Mutex<HashMap<Arc<str>, u32>>,
    of_peers: Mutex<HashMap<CountedPeer, u32>>,
}

/// One peer as one route counts it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CountedPeer {
    route: Arc<str>,
    principal: Box<str>,
}

/// A place that is free again when this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    kind: PlaceOf,
}

#[derive(Debug)]
enum PlaceOf {
    Any,
    Peer(CountedPeer),
    Route(Arc<str>),
}

impl Places {
    /// How many connections there are.
    pub(crate) fn taken(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Counts one more connection, whoever it is of. What bounds those of nobody is [`Handshakes`] and [`Strangers`].
    pub(crate) fn enter(places: &Arc<Self>) -> Place {
        places.all.fetch_add(1, Ordering::Relaxed);
        Place { places: Arc::clone(places), kind: PlaceOf::Any }
    }

    /// Takes a place for one more connection of a route.
    pub(crate) fn take(places: &Arc<Self>, route: &Arc<str>, limit: u32) -> Result<Place, Refusal> {
        enter(&places.of_routes, route, "connections of this route", limit)?;
        Ok(Place { places: Arc::clone(places), kind: PlaceOf::Route(Arc::clone(route)) })
    }

    /// Takes a place for one more connection of a peer to a route.
    pub(crate) fn take_of_peer(
        places: &Arc<Self>,
        route: &Arc<str>,
        principal: &str,
        limit: u32,
    ) -> Result<Place, Refusal> {
        let key = CountedPeer { route: Arc::clone(route), principal: principal.into() };
        enter(&places.of_peers, &key, "connections of one peer", limit)?;
        Ok(Place { places: Arc::clone(places), kind: PlaceOf::Peer(key) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &self.kind {
            PlaceOf::Any => {
                self.places.all.fetch_sub(1, Ordering::Relaxed);
            }
            PlaceOf::Peer(key) => leave(&self.places.of_peers, key),
            PlaceOf::Route(name) => leave(&self.places.of_routes, name),
        }
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter<K: Hash + Eq + Clone>(
    counts: &Mutex<HashMap<K, u32>>,
    key: &K,
    what: &'static str,
    limit: u32,
) -> Result<(), Refusal> {
    let mut counts = lock(counts);
    let count = counts.entry(key.clone()).or_default();
    if *count >= limit {
        return Err(Refusal::TooMany { what, limit });
    }
    *count += 1;
    Ok(())
}

fn leave<K: Hash + Eq>(counts: &Mutex<HashMap<K, u32>>, key: &K) {
    let mut counts = lock(counts);
    let Some(count) = counts.get_mut(key) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(key);
    }
}

/// Handshakes under way on one worker, the oldest first. When there are too many, the oldest gives way of those from where most of them
/// are: whoever is silent does not keep those out who have something to say.
#[derive(Default)]
pub(crate) struct Handshakes(RefCell<Vec<(Origin, Rc<Notify>)>>);

/// One handshake under way.
#[must_use]
pub(crate) struct HandshakeTurn {
    handshakes: Rc<Handshakes>,
    gives_way: Rc<Notify>,
}

impl Handshakes {
    /// Begins one.
    pub(crate) fn begin(handshakes: &Rc<Self>, origin: Origin, limit: u32) -> HandshakeTurn {
        let gives_way = Rc::new(Notify::new());
        let mut under_way = handshakes.0.borrow_mut();
        under_way.push((origin, Rc::clone(&gives_way)));
        while under_way.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            let most = oldest_of_most(under_way.iter().map(|(origin, _)| *origin));
            under_way.remove(most).1.notify_one();
        }
        drop(under_way);
        HandshakeTurn { handshakes: Rc::clone(handshakes), gives_way }
    }
}

impl HandshakeTurn {
    /// Waits until it must give way to a newer one.
    pub(crate) async fn must_give_way(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for HandshakeTurn {
    fn drop(&mut self) {
        self.handshakes.0.borrow_mut().retain(|(_, other)| !Rc::ptr_eq(other, &self.gives_way));
    }
}

/// Connections of one worker on which nobody has proved who they are, the oldest first.
#[derive(Default)]
pub(crate) struct Strangers(RefCell<Vec<Weak<Connection>>>);

impl Strangers {
    /// One more. When there are too many, the oldest gives way of those from where most of them are: whoever opens many ends their own.
    pub(crate) fn enter(&self, connection: &Rc<Connection>, limit: u32) {
        let entered = self.0.take().into_iter().filter_map(|entered| entered.upgrade());
        let mut strangers: Vec<Rc<Connection>> = entered.filter(|entered| entered.is_of_stranger()).collect();
        strangers.push(Rc::clone(connection));
        while strangers.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            let most = oldest_of_most(strangers.iter().map(|stranger| stranger.address().origin()));
            strangers.remove(most).signal().cut(Withdrawn::GaveWay { limit });
        }
        self.0.replace(strangers.iter().map(Rc::downgrade).collect());
    }
}

/// Where the oldest stands of the origin that has most.
fn oldest_of_most(origins: impl Iterator<Item = Origin>) -> usize {
    let mut counts: HashMap<Origin, (usize, usize)> = HashMap::new();
    for (place, origin) in origins.enumerate() {
        counts.entry(origin).or_insert((0, place)).0 += 1;
    }
    let most = counts.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
    most.map_or(0, |(_, oldest)| oldest)
}

/// One of a bounded number of things under way on one worker; it is free again when this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Turn(Rc<Cell<u32>>);

impl Turn {
    /// Takes a turn, if fewer than `limit` are taken.
    pub(crate) fn take(taken: &Rc<Cell<u32>>, limit: u32) -> Option<Self> {
        let count = taken.get();
        (count < limit).then(|| {
            taken.set(count + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_begins_many_handshakes_ends_their_own() {
        let handshakes = Rc::<Handshakes>::default();
        let begin = |user| Handshakes::begin(&handshakes, Origin::User(user), 4);
        let mut turns = vec![begin(1), begin(2)];
        turns.extend((0..6).map(|_| begin(3)));
        turns.push(begin(4));
        let mut given_way = Vec::new();
        for turn in &turns {
            given_way.push(tokio::select! {
                biased;
                () = turn.must_give_way() => true,
                () = std::future::ready(()) => false,
            });
        }
        assert_eq!(given_way, [false, false, true, true, true, true, true, false, false]);
        turns.truncate(1);
        assert_eq!(handshakes.0.borrow().len(), 1, "what has ended is forgotten");
    }
}
