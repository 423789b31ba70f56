//! What was used of a quota, counted by one agent: all its workers together.

use crate::counted::Counted;
use crate::quota::{Quota, Standing};
use crate::sharded::Sharded;

/// Buckets of one quota that have room at once. A bucket takes some 60 bytes, so that this is 6 MB at most.
pub const ENTRIES_MAX: usize = 100_000;

/// A bucket for each that is counted apart.
///
/// A bucket that is full again is forgotten. When there are [`ENTRIES_MAX`] that are not, newcomers share one bucket: whoever was
/// there before keeps what is his, and nobody gets more than before by filling the table.
#[derive(Debug)]
pub struct RateTable {
    quota: Quota,
    /// When each bucket is full again.
    full_at: Sharded<u64>,
}

impl RateTable {
    /// Nothing is used yet.
    pub fn new(quota: Quota) -> Self {
        Self::with_room(quota, ENTRIES_MAX)
    }

    fn with_room(quota: Quota, entries_max: usize) -> Self {
        Self { quota, full_at: Sharded::new(entries_max) }
    }

    /// What is counted.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// What is left now. Uses nothing.
    pub fn look(&self, counted: &Counted, now: u64) -> Standing {
        self.full_at.look(counted, |full_at| self.quota.standing(self.quota.used(*full_at, now)))
    }

    /// Uses one request.
    ///
    /// # Errors
    /// None is left, and none is used; the standing tells for how long to wait.
    pub fn take(&self, counted: &Counted, now: u64) -> Result<Standing, Standing> {
        self.full_at.change(counted, |full_at| self.quota.take(full_at, now)).0
    }

    /// Forgets buckets that are full again. To be called every second or so.
    pub fn forget_full(&self, now: u64) {
        self.full_at.retain(|full_at| {
            // A clock that was set back leaves buckets that seem to be full later than any can be.
            *full_at = now.saturating_add(self.quota.used(*full_at, now));
            *full_at > now
        });
    }

    #[cfg(test)]
    fn entries(&self) -> usize {
        self.full_at.entries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn table(entries_max: usize) -> RateTable {
        RateTable::with_room(Quota::parse("2/1m", None).unwrap(), entries_max)
    }

    fn somebody(number: u32) -> Counted {
        Counted::new("address", &number.to_be_bytes())
    }

    #[test]
    fn everybody_has_a_bucket_of_his_own() {
        let table = table(ENTRIES_MAX);
        for number in 0..1000 {
            assert_eq!(table.take(&somebody(number), 0).unwrap().remaining, 1);
        }
        assert_eq!(table.look(&somebody(1), 0).remaining, 1);
        assert_eq!(table.look(&somebody(1000), 0).remaining, 2);
        assert_eq!(table.entries(), 1000);
    }

    #[test]
    fn full_buckets_are_forgotten_and_others_are_not() {
        let table = table(ENTRIES_MAX);
        assert!((0..10).all(|number| table.take(&somebody(number), 0).is_ok()));
        table.take(&somebody(3), 20 * SECOND).unwrap();
        table.forget_full(30 * SECOND);
        assert_eq!(table.entries(), 1);
        assert!(table.take(&somebody(3), 29 * SECOND).is_err());
    }

    #[test]
    fn buckets_from_before_the_clock_was_set_back_are_forgotten_in_time() {
        let table = table(ENTRIES_MAX);
        table.take(&somebody(1), 1_000_000 * SECOND).unwrap();
        table.forget_full(0);
        table.forget_full(61 * SECOND);
        assert_eq!(table.entries(), 0);
    }

    #[test]
    fn newcomers_to_a_full_table_share_one_bucket() {
        let table = table(100);
        assert!((0..100).all(|number| table.take(&somebody(number), 0).is_ok()));
        assert!(table.take(&somebody(100), 0).is_ok());
        assert_eq!(table.look(&somebody(101), 0).remaining, 1);
        assert!(table.take(&somebody(101), 0).is_ok());
        assert!(table.take(&somebody(102), 0).is_err());
        assert!(table.take(&somebody(7), 0).is_ok(), "whoever was there before keeps his own");
        assert_eq!(table.entries(), 100);
        table.forget_full(61 * SECOND);
        assert!(table.take(&somebody(102), 61 * SECOND).is_ok());
    }

    #[test]
    fn many_threads_never_get_more_than_the_burst() {
        let table = RateTable::new(Quota::parse("1000/1d", None).unwrap());
        let taken: usize = std::thread::scope(|scope| {
            let each = || (0..1000).filter(|_| table.take(&somebody(1), 0).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
