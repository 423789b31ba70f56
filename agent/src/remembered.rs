//! What one worker remembers of what it has verified or asked lately, by the SHA-256 of a credential; and whose turn it is to verify.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

/// How many are remembered before those that were not used for longest are forgotten.
const REMEMBERED: usize = 8192;

/// Two halves: what is used moves to the young one, and when that is full, the old one is forgotten as a whole.
#[derive(Debug)]
pub(crate) struct Remembered<K, V>(RefCell<Halves<K, V>>);

/// Nobody can choose the digest of a credential that is believed, so that a fast hash of it will do.
type ByDigest<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Halves<K, V> {
    young: ByDigest<K, V>,
    old: ByDigest<K, V>,
}

/// Credentials that are being verified or exchanged, so that each is once at a time.
#[derive(Debug)]
pub(crate) struct Turns<K>(RefCell<HashMap<K, Weak<Mutex<()>>>>);

/// Questions to others under way, by who causes them.
#[derive(Debug)]
pub(crate) struct FairTurns<K>(Rc<RefCell<HashMap<K, usize>>>);

/// One question under way. It is over when this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct FairTurn<K: Eq + Hash> {
    under_way: Rc<RefCell<HashMap<K, usize>>>,
    who: K,
}

impl<K: Copy + Eq + Hash, V: Clone> Remembered<K, V> {
    /// What was remembered. Whether it still counts is for the caller to see.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut halves = self.0.borrow_mut();
        if let Some(value) = halves.young.get(key) {
            return Some(value.clone());
        }
        let value = halves.old.remove(key)?;
        halves.insert(*key, value.clone());
        Some(value)
    }

    /// Remembers something, in place of what was remembered before.
    pub(crate) fn insert(&self, key: K, value: V) {
        self.0.borrow_mut().insert(key, value);
    }

    /// Forgets what was remembered.
    pub(crate) fn remove(&self, key: &K) {
        let mut halves = self.0.borrow_mut();
        halves.young.remove(key);
        halves.old.remove(key);
    }

    /// Everything that is remembered and that `wanted` wants.
    pub(crate) fn all(&self, wanted: impl Fn(&V) -> bool) -> Vec<V> {
        let halves = self.0.borrow();
        halves.young.values().chain(halves.old.values()).filter(|value| wanted(value)).cloned().collect()
    }
}

impl<K: Eq + Hash, V> Halves<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(RefCell::new(Halves { young: HashMap::default(), old: HashMap::default() }))
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// The turn of a credential whose verification takes time. Whoever has it looks again whether it was remembered meanwhile.
    pub(crate) fn of(&self, key: K) -> Arc<Mutex<()>> {
        let mut turns = self.0.borrow_mut();
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Clone + Eq + Hash> FairTurns<K> {
    /// A turn, if `who` has fewer than half of those that are free of `limit`: what causes a question costs its sender little, and each
    /// that joins in takes less than the one before.
    pub(crate) fn take(&self, who: K, limit: usize) -> Option<FairTurn<K>> {
        let mut under_way = self.0.borrow_mut();
        let own = under_way.get(&who).copied().unwrap_or_default();
        let free = limit.saturating_sub(under_way.values().sum());
        if own >= free.div_ceil(2) {
            return None;
        }
        under_way.insert(who.clone(), own + 1);
        Some(FairTurn { under_way: Rc::clone(&self.0), who })
    }
}

impl<K> Default for FairTurns<K> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<K: Eq + Hash> Drop for FairTurn<K> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(count) = under_way.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_remembered_than_there_is_room_for_and_what_is_used_stays() {
        let remembered = Remembered::default();
        for number in 0..3 * REMEMBERED {
            remembered.insert(number, number);
            assert_eq!(remembered.get(&0), Some(0), "{number}");
        }
        assert!(remembered.all(|_any| true).len() <= REMEMBERED);
        assert_eq!(remembered.get(&1), None);
        assert_eq!(remembered.all(|number| *number == 3 * REMEMBERED - 1), [3 * REMEMBERED - 1]);
        remembered.insert(0, 7);
        assert_eq!(remembered.get(&0), Some(7), "the newer one counts");
        // In both halves, of which the old one is not looked at while the young one has it.
        (1..=REMEMBERED / 2).for_each(|number| remembered.insert(number, number));
        remembered.insert(0, 8);
        remembered.remove(&0);
        assert_eq!(remembered.get(&0), None);
    }

    #[test]
    fn a_credential_has_one_turn_for_as_long_as_somebody_has_it() {
        let turns = Turns::default();
        let turn = turns.of(1);
        assert!(Arc::ptr_eq(&turn, &turns.of(1)) && !Arc::ptr_eq(&turn, &turns.of(2)));
        drop(turn);
        turns.of(3);
        assert_eq!(turns.0.borrow().len(), 1, "what nobody has any more is forgotten");
    }
}
