//! How many refusals are written out. Whoever can ask could otherwise fill the disk, and with a full disk nothing is signed.
//! What is left out is counted in the next line of its kind.

use std::collections::HashMap;
use std::time::Duration;

use crate::certs::time::Timestamp;

/// Refusals of one kind and one asker that are written at once.
const LINES_MAX: u64 = 100;

/// How long until one more may be written after that.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Most kinds and askers that are told apart; all others share.
const ALLOWANCES_MAX: usize = 4096;

/// Whose refusals are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// Everybody for whom there was no more room.
    Others,
    /// A verified peer, by its name.
    Peer(String),
    /// All who have no certificate: they can have as many addresses as they like.
    Stranger,
}

/// What may still be written, of each kind and for each asker: a flood of guesses does not hide the one stolen token, and
/// one noisy host does not hide another.
#[derive(Default)]
pub(super) struct Allowances(HashMap<(String, Asker), Allowance>);

struct Allowance {
    lines: u64,
    since: Timestamp,
    omitted: u64,
}

impl Allowances {
    /// How many were left out before this one, or nothing if it is left out too.
    pub(super) fn take(&mut self, kind: String, asker: Asker, now: Timestamp) -> Option<u64> {
        let mut key = (kind, asker);
        if self.0.len() >= ALLOWANCES_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, allowance| !allowance.is_untouched(now));
            if self.0.len() >= ALLOWANCES_MAX {
                key.1 = Asker::Others;
            }
        }
        self.0.entry(key).or_insert(Allowance { lines: LINES_MAX, since: now, omitted: 0 }).take(now)
    }
}

impl Allowance {
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        self.refill(now);
        let Some(left) = self.lines.checked_sub(1) else {
            self.omitted = self.omitted.saturating_add(1);
            return None;
        };
        self.lines = left;
        Some(std::mem::take(&mut self.omitted))
    }

    fn refill(&mut self, now: Timestamp) {
        let gained = now.since(self.since).as_secs() / LINE_EVERY.as_secs();
        self.lines = self.lines.saturating_add(gained).min(LINES_MAX);
        // What is left of a minute counts, unless nothing can be gained any more or the clock was set back.
        let counted = self.since.plus(LINE_EVERY.saturating_mul(u32::try_from(gained).unwrap_or(u32::MAX)));
        self.since = if self.lines == LINES_MAX || now < self.since { now } else { counted };
    }

    /// Whether a new one would be the same.
    fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        self.lines == LINES_MAX && self.omitted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn peer(name: &str) -> Asker {
        Asker::Peer(name.to_owned())
    }

    #[test]
    fn after_the_burst_there_is_one_line_a_minute_that_counts_the_others() {
        let mut allowances = Allowances::default();
        let mut take = |seconds| allowances.take("not_granted".to_owned(), peer("a"), at(seconds));
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
    fn one_who_floods_hides_neither_others_nor_other_kinds() {
        let mut allowances = Allowances::default();
        for _ in 0..2 * LINES_MAX {
            allowances.take("not_granted".to_owned(), peer("a"), at(0));
        }
        for (kind, asker) in [("not_granted", peer("b")), ("too_many", peer("a")), ("not_granted", Asker::Stranger)] {
            assert_eq!(allowances.take(kind.to_owned(), asker, at(0)), Some(0));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_full_again_is_forgotten() {
        let mut allowances = Allowances::default();
        for number in 0..2 * ALLOWANCES_MAX {
            allowances.take("not_granted".to_owned(), peer(&number.to_string()), at(0));
        }
        assert_eq!(allowances.0.len(), ALLOWANCES_MAX + 1, "all others share one");
        assert_eq!(allowances.take("not_granted".to_owned(), peer("late"), at(0)), None);
        assert_eq!(allowances.take("not_granted".to_owned(), peer("later"), at(60)), Some(0));
        assert!(allowances.0.len() <= 2);
    }
}
