//! How much is under way at once, counted by one agent: all its workers together.

use std::sync::Arc;

use crate::counted::Counted;
use crate::rate::ENTRIES_MAX;
use crate::sharded::Sharded;

/// What is under way, for each that is counted apart. When there is no room for one more, newcomers share one count.
#[derive(Debug)]
pub struct Concurrency {
    under_way: Sharded<u32>,
}

/// One of those that are under way. It ends when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place {
    concurrency: Arc<Concurrency>,
    counted: Counted,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { under_way: Sharded::new(ENTRIES_MAX) }
    }
}

impl Concurrency {
    /// Begins one more, if fewer than `limit` are under way.
    ///
    /// # Errors
    /// So many are under way that there is no place.
    pub fn enter(this: &Arc<Self>, counted: &Counted, limit: u32) -> Result<Place, u32> {
        let (entered, counted) = this.under_way.change(counted, |under_way| {
            if *under_way >= limit {
                return Err(*under_way);
            }
            *under_way += 1;
            Ok(())
        });
        entered.map(|()| Place { concurrency: Arc::clone(this), counted })
    }

    /// How many are under way.
    pub fn under_way(&self, counted: &Counted) -> u32 {
        self.under_way.look(counted, |under_way| *under_way)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.concurrency.under_way.change_or_forget(&self.counted, |under_way| {
            *under_way = under_way.saturating_sub(1);
            *under_way > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_limit_are_under_way_and_each_leaves_once() {
        let concurrency = Arc::new(Concurrency::default());
        let (one, other) = (Counted::new("team", b"a"), Counted::new("team", b"b"));
        let first = Concurrency::enter(&concurrency, &one, 2).unwrap();
        let second = Concurrency::enter(&concurrency, &one, 2).unwrap();
        assert_eq!(Concurrency::enter(&concurrency, &one, 2).unwrap_err(), 2);
        let elsewhere = Concurrency::enter(&concurrency, &other, 2).unwrap();
        drop(first);
        assert_eq!((concurrency.under_way(&one), concurrency.under_way(&other)), (1, 1));
        let third = Concurrency::enter(&concurrency, &one, 2).unwrap();
        drop((second, third, elsewhere));
        assert_eq!((concurrency.under_way(&one), concurrency.under_way.entries()), (0, 0));
    }

    #[test]
    fn newcomers_to_a_full_table_share_one_count() {
        let concurrency = Arc::new(Concurrency { under_way: Sharded::new(1) });
        let place = |name: &str| Concurrency::enter(&concurrency, &Counted::new("team", name.as_bytes()), 1);
        let first = place("a").unwrap();
        let second = place("b").unwrap();
        assert_eq!(place("c").unwrap_err(), 1);
        drop(second);
        let third = place("c").unwrap();
        drop((first, third));
        assert_eq!(concurrency.under_way.entries(), 0);
        assert!(place("d").is_ok());
    }
}
