//! How many lines are written about what anybody can cause. Whoever can ask could otherwise fill the disk. What is left out is
//! counted in the next line of its kind, or in a last word if none comes.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::time::Timestamp;

/// Most keys that are told apart unless it is said; all others share.
const KEYS_MAX: usize = 4096;

/// What may still be written for each key: one that floods does not hide another.
#[derive(Debug)]
pub struct Allowances<K> {
    lines_max: u64,
    line_every: Duration,
    keys_max: usize,
    left: HashMap<K, Allowance<K>>,
    /// When it was last looked which keys can be forgotten.
    swept: Timestamp,
}

#[derive(Debug)]
struct Allowance<K> {
    lines: u64,
    since: Timestamp,
    omitted: u64,
    /// Where what was left out is counted when this is forgotten.
    shared: K,
}

impl<K: Clone + Hash + Eq> Allowances<K> {
    /// `lines_max` lines for each key at once, and after that one each `line_every`.
    pub fn new(lines_max: u64, line_every: Duration) -> Self {
        let line_every = line_every.max(Duration::from_secs(1));
        Self { lines_max, line_every, keys_max: KEYS_MAX, left: HashMap::new(), swept: Timestamp::from_unix_seconds(0) }
    }

    /// Tells no more than so many keys apart, which bounds what is written in all.
    #[must_use]
    pub fn of_at_most(self, keys_max: usize) -> Self {
        Self { keys_max, ..self }
    }

    /// How many were left out before this one, or nothing if it is left out too. `shared` is the key of those for whom there is
    /// no more room.
    pub fn take(&mut self, key: K, shared: K, now: Timestamp) -> Option<u64> {
        if self.left.len() >= self.keys_max && !self.left.contains_key(&key) {
            self.sweep(now);
        }
        let is_full = self.left.len() >= self.keys_max && !self.left.contains_key(&key);
        let (lines_max, line_every) = (self.lines_max, self.line_every);
        self.entry(if is_full { shared.clone() } else { key }, shared, now).take(now, lines_max, line_every)
    }

    /// What was left out and is counted in no line yet, by key. Each is told once: here or in the next line.
    pub fn take_omitted(&mut self) -> Vec<(K, u64)> {
        let omitted = self.left.iter_mut().filter(|(_, allowance)| allowance.omitted > 0);
        omitted.map(|(key, allowance)| (key.clone(), std::mem::take(&mut allowance.omitted))).collect()
    }

    fn entry(&mut self, key: K, shared: K, now: Timestamp) -> &mut Allowance<K> {
        let fresh = Allowance { lines: self.lines_max, since: now, omitted: 0, shared };
        self.left.entry(key).or_insert(fresh)
    }

    /// Forgets whoever has all its lines again, and lets what it left out be told by those who share.
    fn sweep(&mut self, now: Timestamp) {
        if self.swept <= now && now.since(self.swept) < self.line_every {
            return;
        }
        self.swept = now;
        let (lines_max, line_every) = (self.lines_max, self.line_every);
        let mut omitted = HashMap::<K, u64>::new();
        self.left.retain(|_, allowance| {
            allowance.refill(now, lines_max, line_every);
            let is_full = allowance.lines == lines_max;
            if is_full && allowance.omitted > 0 {
                let sum = omitted.entry(allowance.shared.clone()).or_default();
                *sum = sum.saturating_add(allowance.omitted);
            }
            !is_full
        });
        for (shared, omitted) in omitted {
            let allowance = self.entry(shared.clone(), shared, now);
            allowance.omitted = allowance.omitted.saturating_add(omitted);
        }
    }
}

impl<K> Allowance<K> {
    fn take(&mut self, now: Timestamp, lines_max: u64, line_every: Duration) -> Option<u64> {
        self.refill(now, lines_max, line_every);
        let Some(left) = self.lines.checked_sub(1) else {
            self.omitted = self.omitted.saturating_add(1);
            return None;
        };
        self.lines = left;
        Some(std::mem::take(&mut self.omitted))
    }

    fn refill(&mut self, now: Timestamp, lines_max: u64, line_every: Duration) {
        let gained = now.since(self.since).as_secs() / line_every.as_secs().max(1);
        self.lines = self.lines.saturating_add(gained).min(lines_max);
        // What is left of a step counts, unless nothing can be gained any more or the clock was set back.
        let counted = self.since.plus(line_every.saturating_mul(u32::try_from(gained).unwrap_or(u32::MAX)));
        self.since = if self.lines == lines_max || now < self.since { now } else { counted };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES_MAX: u64 = 100;

    fn allowances() -> Allowances<&'static str> {
        Allowances::new(LINES_MAX, Duration::from_secs(60))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    #[test]
    fn after_the_burst_there_is_one_line_a_minute_that_counts_the_others() {
        let mut allowances = allowances();
        let mut take = |seconds| allowances.take("a", "others", at(seconds));
        for _ in 0..LINES_MAX {
            assert_eq!(take(0), Some(0));
        }
        for second in 1..60 {
            assert_eq!(take(second), None);
        }
        assert_eq!(take(60), Some(59));
        assert_eq!(take(60), None);
        assert_eq!(take(119), None);
        assert_eq!(take(125), Some(2));
        assert_eq!(take(180), Some(0), "the minute began at its minute, not with the line");
    }

    #[test]
    fn what_no_line_has_told_can_be_told_once() {
        let mut allowances = Allowances::new(1, Duration::from_secs(60));
        for key in ["a", "a", "b", "a"] {
            allowances.take(key, "others", at(0));
        }
        assert_eq!(allowances.take_omitted(), [("a", 2)]);
        assert_eq!(allowances.take_omitted(), []);
        assert_eq!(allowances.take("a", "others", at(0)), None, "no line is gained by it");
        assert_eq!(allowances.take("a", "others", at(60)), Some(1));
    }

    #[test]
    fn one_that_floods_does_not_hide_another() {
        let mut allowances = allowances();
        for _ in 0..2 * LINES_MAX {
            allowances.take("a", "others", at(0));
        }
        assert_eq!(allowances.take("b", "others", at(0)), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_full_again_is_forgotten() {
        let mut allowances = Allowances::new(LINES_MAX, Duration::from_secs(60));
        for number in 0..2 * KEYS_MAX {
            allowances.take(number, usize::MAX, at(0));
        }
        assert_eq!(allowances.left.len(), KEYS_MAX + 1, "all others share one");
        assert_eq!(allowances.take(3 * KEYS_MAX, usize::MAX, at(0)), None);
        assert_eq!(allowances.take(3 * KEYS_MAX, usize::MAX, at(60)), Some(0));
        assert!(allowances.left.len() <= 2);
        let mut few = Allowances::new(1, Duration::from_secs(60)).of_at_most(2);
        let told = (0..9).filter(|number| few.take(*number, usize::MAX, at(0)).is_some()).count();
        assert_eq!(told, 3, "two apart, and one for all others");
    }

    #[test]
    fn what_was_left_out_of_a_forgotten_one_is_told_by_those_who_share() {
        let mut allowances = Allowances::new(1, Duration::from_secs(60));
        for number in 0..KEYS_MAX {
            allowances.take(number, usize::MAX, at(0));
            assert_eq!(allowances.take(number, usize::MAX, at(1)), None);
        }
        assert_eq!(allowances.take(KEYS_MAX, usize::MAX, at(2)), Some(0), "those who share have a line of their own");
        assert_eq!(allowances.take(KEYS_MAX, usize::MAX, at(90)), Some(0), "all have their line again, and make room");
        assert!(allowances.left.len() <= 2, "{}", allowances.left.len());
        let told: u64 =
            (0..).map_while(|step| allowances.take(usize::MAX, usize::MAX, at(90 + 60 * step))).take(2).sum();
        assert_eq!(told, u64::try_from(KEYS_MAX).unwrap());
    }
}
