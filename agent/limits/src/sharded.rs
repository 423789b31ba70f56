//! A bounded map that many threads use at once: each bucket lies in one of many small maps with a lock of its own, which is held
//! for a few nanoseconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::counted::Counted;

/// Maps with a lock of their own: many more than there are cores, so that two rarely meet.
const SHARDS: u8 = 64;

/// Values by what is counted.
#[derive(Debug)]
pub(crate) struct Sharded<V> {
    shards: Vec<Mutex<HashMap<Counted, V>>>,
    /// Of everybody who came when there was no room.
    rest: Mutex<V>,
    entries: AtomicUsize,
    entries_max: usize,
}

impl<V: Default> Sharded<V> {
    /// Room for so many.
    pub(crate) fn new(entries_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, rest: Mutex::default(), entries: AtomicUsize::new(0), entries_max }
    }

    /// Changes the value of one, a new one if it has none. When there is no room, that is the value of the rest; the second part of
    /// the outcome says under which name it was found.
    pub(crate) fn change<T>(&self, counted: &Counted, change: impl FnOnce(&mut V) -> T) -> (T, Counted) {
        let Some(shard) = self.shard(counted) else { return self.change_rest(change) };
        let mut shard = lock(shard);
        if let Some(value) = shard.get_mut(counted) {
            return (change(value), *counted);
        }
        // Two threads may take the last room together; one bucket for each core too many is no harm.
        if self.entries.load(Ordering::Relaxed) >= self.entries_max {
            drop(shard);
            return self.change_rest(change);
        }
        self.entries.fetch_add(1, Ordering::Relaxed);
        (change(shard.entry(*counted).or_default()), *counted)
    }

    /// Looks at the value of one, or of the rest if it would be counted there.
    pub(crate) fn look<T>(&self, counted: &Counted, look: impl FnOnce(&V) -> T) -> T {
        if let Some(shard) = self.shard(counted) {
            let shard = lock(shard);
            if let Some(value) = shard.get(counted) {
                return look(value);
            }
            if self.entries.load(Ordering::Relaxed) < self.entries_max {
                return look(&V::default());
            }
        }
        look(&lock(&self.rest))
    }

    /// Keeps those that are worth keeping.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&mut V) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, value| keep(value));
            self.entries.fetch_sub(before - shard.len(), Ordering::Relaxed);
            // A map that was large once gives its memory back.
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
    }

    /// Changes the value of one that is there, and forgets it if it is not worth keeping.
    pub(crate) fn change_or_forget(&self, counted: &Counted, change: impl FnOnce(&mut V) -> bool) {
        let Some(shard) = self.shard(counted).filter(|_| *counted != Counted::REST) else {
            change(&mut lock(&self.rest));
            return;
        };
        let mut shard = lock(shard);
        let Some(value) = shard.get_mut(counted) else { return };
        if !change(value) {
            shard.remove(counted);
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many have a value of their own.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    fn shard(&self, counted: &Counted) -> Option<&Mutex<HashMap<Counted, V>>> {
        self.shards.get(usize::from(counted.part() % SHARDS))
    }

    fn change_rest<T>(&self, change: impl FnOnce(&mut V) -> T) -> (T, Counted) {
        (change(&mut lock(&self.rest)), Counted::REST)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
