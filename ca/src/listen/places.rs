//! How many of something may be open at a time, and how many of them one asker may have. Where there is no place left, the
//! newcomer gets that of whoever has been silent for longest: who is quick gets through, and who only sits there does not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::asker::Asker;

/// The places of one kind.
pub(super) struct Places {
    most: usize,
    share: usize,
    when_all_are_taken: WhenAllAreTaken,
    taken: Mutex<Taken>,
}

/// What happens to a newcomer who has not used up its own share.
enum WhenAllAreTaken {
    /// It gets the oldest silent place of the asker that has the most.
    GetsOne,
    /// It is refused.
    IsRefused,
}

#[derive(Default)]
struct Taken {
    next: u64,
    holders: BTreeMap<u64, Holder>,
    counts: HashMap<Asker, usize>,
}

struct Holder {
    asker: Asker,
    activity: Arc<Activity>,
}

/// A place that is taken. Dropping it gives it back.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    activity: Arc<Activity>,
}

/// What the holder of a place does, and whether it must go.
#[derive(Default)]
pub(super) struct Activity {
    running: AtomicUsize,
    lost: Notify,
}

/// Something that is not to be cut off. Dropping it ends it.
pub(super) struct Running(Arc<Activity>);

impl Places {
    /// Places that go to whoever comes, at the cost of the oldest silent one.
    pub(super) fn contested(most: usize, share: usize) -> Arc<Self> {
        Self::new(most, share, WhenAllAreTaken::GetsOne)
    }

    /// Places that an asker loses only to itself.
    pub(super) fn kept(most: usize, share: usize) -> Arc<Self> {
        Self::new(most, share, WhenAllAreTaken::IsRefused)
    }

    fn new(most: usize, share: usize, when_all_are_taken: WhenAllAreTaken) -> Arc<Self> {
        Arc::new(Self { most, share: share.max(1), when_all_are_taken, taken: Mutex::default() })
    }

    /// A place for this asker, if there is one, or one that is taken from somebody.
    pub(super) fn take(self: &Arc<Self>, asker: Asker) -> Option<Place> {
        let mut taken = self.taken();
        if taken.count(&asker) >= self.share {
            let own = taken.oldest_silent_of(&asker)?;
            taken.take_away(own);
        } else if taken.holders.len() >= self.most {
            match self.when_all_are_taken {
                WhenAllAreTaken::GetsOne => {
                    let theirs = taken.oldest_silent_of_the_greediest()?;
                    taken.take_away(theirs);
                }
                WhenAllAreTaken::IsRefused => return None,
            }
        }
        let (number, activity) = taken.give(asker);
        Some(Place { places: Arc::clone(self), number, activity })
    }

    /// Whether more than half is taken.
    pub(super) fn are_scarce(&self) -> bool {
        self.taken().holders.len() > self.most / 2
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn count(&self, asker: &Asker) -> usize {
        self.counts.get(asker).copied().unwrap_or(0)
    }

    fn give(&mut self, asker: Asker) -> (u64, Arc<Activity>) {
        let number = self.next;
        self.next += 1;
        *self.counts.entry(asker.clone()).or_insert(0) += 1;
        let activity = Arc::new(Activity::default());
        self.holders.insert(number, Holder { asker, activity: Arc::clone(&activity) });
        (number, activity)
    }

    fn take_away(&mut self, number: u64) {
        if let Some(activity) = self.take_back(number) {
            activity.lost.notify_one();
        }
    }

    fn take_back(&mut self, number: u64) -> Option<Arc<Activity>> {
        let Holder { asker, activity } = self.holders.remove(&number)?;
        if let Some(count) = self.counts.get_mut(&asker) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&asker);
            }
        }
        Some(activity)
    }

    fn oldest_silent_of(&self, asker: &Asker) -> Option<u64> {
        self.silent().find(|(_, holder)| holder.asker == *asker).map(|(number, _)| number)
    }

    fn oldest_silent_of_the_greediest(&self) -> Option<u64> {
        let greed = |(number, holder): &(u64, &Holder)| (self.count(&holder.asker), Reverse(*number));
        self.silent().max_by_key(greed).map(|(number, _)| number)
    }

    /// In the order in which they were given.
    fn silent(&self) -> impl Iterator<Item = (u64, &Holder)> {
        let silent = self.holders.iter().filter(|(_, holder)| !holder.activity.is_running());
        silent.map(|(number, holder)| (*number, holder))
    }
}

impl Place {
    /// Ends when the place was given to somebody else.
    pub(super) async fn lost(&self) {
        self.activity.lost.notified().await;
    }

    /// What its holder does.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().take_back(self.number);
    }
}

impl Activity {
    /// For as long as this runs, the place stays.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Whether anything runs.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Asker {
        Asker::Host(name.to_owned())
    }

    async fn is_lost(place: &Place) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(1), place.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn who_has_its_share_loses_the_oldest_of_its_own() {
        let places = Places::contested(100, 2);
        let (first, second, other) = (places.take(host("a")), places.take(host("a")), places.take(host("b")));
        let third = places.take(host("a")).unwrap();
        assert!(is_lost(&first.unwrap()).await);
        assert!(!is_lost(&second.unwrap()).await && !is_lost(&other.unwrap()).await && !is_lost(&third).await);
    }

    #[tokio::test]
    async fn when_all_are_taken_the_one_with_the_most_loses_its_oldest() {
        let places = Places::contested(4, 3);
        let modest = places.take(host("modest")).unwrap();
        let greedy = [0; 3].map(|_| places.take(host("greedy")).unwrap());
        let late = places.take(host("late")).unwrap();
        assert!(is_lost(&greedy[0]).await);
        assert!(!is_lost(&modest).await && !is_lost(&greedy[1]).await && !is_lost(&late).await);
        assert!(places.are_scarce());
        drop((greedy, modest));
        assert!(!places.are_scarce(), "a place that was lost is not given back a second time");
    }

    #[tokio::test]
    async fn what_runs_is_not_cut_off() {
        let places = Places::contested(2, 1);
        let (busy, silent) = (places.take(host("busy")).unwrap(), places.take(host("silent")).unwrap());
        let running = busy.activity().begin();
        assert!(places.take(host("busy")).is_none());
        let late = places.take(host("late")).unwrap();
        assert!(is_lost(&silent).await && !is_lost(&busy).await);
        let also_running = late.activity().begin();
        assert!(places.take(host("later")).is_none());
        drop((running, also_running));
        assert!(places.take(host("later")).is_some());
    }

    #[tokio::test]
    async fn kept_places_are_lost_only_to_the_same() {
        let places = Places::kept(2, 1);
        let (first, other) = (places.take(host("a")).unwrap(), places.take(host("b")).unwrap());
        assert!(places.take(host("c")).is_none());
        let second = places.take(host("a")).unwrap();
        assert!(is_lost(&first).await && !is_lost(&other).await);
        drop(second);
        assert!(places.take(host("c")).is_some());
    }
}
