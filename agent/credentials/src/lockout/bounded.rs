//! A map that forgets what was idle for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// At most so many entries; a full one loses its oldest eighth, so that room is made once for many new ones.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: HashMap<K, Entry<V>>,
    entries_max: usize,
    /// Counts uses. It is no clock: nothing sets it back.
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: u64,
}

impl<K: Eq + Hash, V: Default> Bounded<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: HashMap::new(), entries_max: entries_max.max(1), uses: 0 }
    }

    /// What is there; it is used now.
    pub(super) fn find(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// What is there, or a new one.
    pub(super) fn entry(&mut self, key: K) -> &mut V {
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            self.make_room();
        }
        self.uses += 1;
        let used = self.uses;
        let entry = self.entries.entry(key).or_insert_with(|| Entry { value: V::default(), used });
        entry.used = used;
        &mut entry.value
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|entry| entry.value)
    }

    fn make_room(&mut self) {
        let mut used: Vec<u64> = self.entries.values().map(|entry| entry.used).collect();
        let oldest_kept = used.len() / 8;
        let (_, last_lost, _) = used.select_nth_unstable(oldest_kept);
        let last_lost = *last_lost;
        self.entries.retain(|_, entry| entry.used > last_lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_idle_for_longest_is_forgotten_first() {
        let mut bounded = Bounded::new(16);
        for key in 0..16 {
            *bounded.entry(key) = key;
        }
        assert_eq!(bounded.find(&0), Some(&mut 0), "looking is a use");
        *bounded.entry(1) += 100;
        bounded.entry(16);
        let left: Vec<_> = (0..17).filter(|key| bounded.find(key).is_some()).collect();
        assert_eq!(left, [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(bounded.remove(&1), Some(101));
        assert_eq!(bounded.find(&1), None);
    }

    #[test]
    fn looking_in_another_order_changes_what_is_forgotten() {
        let mut bounded = Bounded::<u32, u32>::new(16);
        for key in 0..16 {
            bounded.entry(key);
        }
        for key in (0..16).rev() {
            bounded.find(&key);
        }
        bounded.entry(16);
        let left: Vec<_> = (0..17).filter(|key| bounded.find(key).is_some()).collect();
        assert_eq!(left, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16]);
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        for most in [0, 1, 2, 7, 100] {
            let mut bounded = Bounded::<u32, u32>::new(most);
            for key in 0..1000 {
                *bounded.entry(key) = key;
                assert!(bounded.entries.len() <= most.max(1));
                assert_eq!(bounded.find(&key), Some(&mut key.clone()));
            }
        }
    }
}
