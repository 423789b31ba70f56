//! The two slots of a credential that is being replaced: which of them is in use.
//!
//! A service refuses a key that was taken back. The next request is given the other key then, so that a new one can be written beside the
//! old one before the service knows it, and the old one taken back later, without a restart and without a moment at which both must
//! change. A request that was refused is never repeated: the service may have acted on it.
//!
//! Whoever may call can cause refusals too, by asking for what nobody may. So a slot that was just taken and is refused gives way at once
//! to one that was accepted before, and after that a while passes until the other is tried again: it costs others one request a minute.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_certs::time::Timestamp;

use super::place::Written;

/// How long after a change of slots the other one is tried again, if there is no better reason.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which of two slots is in use. Shared by all workers, which only read it until a service refuses.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    current: AtomicUsize,
    /// The slot in use was accepted since it is in use.
    accepted: AtomicBool,
    story: Mutex<Story>,
}

/// What matters when a slot is refused.
#[derive(Debug, Default)]
struct Story {
    /// The credentials in the slots; none before they were told.
    known: Option<[Option<Written>; 2]>,
    /// What was in use under the config before.
    before: Option<Written>,
    other: Other,
    changed: Option<Timestamp>,
}

/// What is known of the slot that is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Other {
    /// It was accepted when it was in use.
    Accepted,
    /// It was refused, and never accepted.
    Refused,
    #[default]
    Untried,
}

impl Rotation {
    /// The slots of a new config: what was in use stays in use, in whatever slot it is now.
    pub(super) fn after(before: Option<&Self>) -> Self {
        let before = before.and_then(Self::in_use);
        Self { story: Mutex::new(Story { before, ..Story::default() }), ..Self::default() }
    }

    fn in_use(&self) -> Option<Written> {
        let story = self.story();
        story.known.as_ref().and_then(|known| known.get(self.current())?.clone())
    }

    /// Notes what is in the slots. A credential that has changed has not been tried.
    pub(super) fn holds(&self, now: [Option<Written>; 2]) {
        let mut story = self.story();
        match &story.known {
            None => {
                let [_, next] = &now;
                if next.is_some() && *next == story.before {
                    self.current.store(1, Ordering::Relaxed);
                    self.accepted.store(true, Ordering::Relaxed);
                }
            }
            Some(known) => {
                let current = self.current();
                if known.get(current) != now.get(current) {
                    self.accepted.store(false, Ordering::Relaxed);
                }
                if known.get(1 - current) != now.get(1 - current) {
                    story.other = Other::Untried;
                }
            }
        }
        story.known = Some(now);
    }

    /// The slot in use, 0 or 1.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed).min(1)
    }

    /// The service has accepted what was in a slot.
    pub(super) fn accepted(&self, slot: usize) {
        // Written once, so that workers do not take the line from each other with each answer.
        if slot == self.current() && !self.accepted.load(Ordering::Relaxed) {
            self.accepted.store(true, Ordering::Relaxed);
        }
    }

    /// The service has refused what was in a slot. Whether the other one is in use from now on.
    pub(super) fn refused(&self, slot: usize, now: Timestamp) -> bool {
        let mut story = self.story();
        let current = self.current();
        // An answer to an older request says nothing of the slot that is in use by now.
        if slot != current {
            return false;
        }
        let accepted = self.accepted.load(Ordering::Relaxed);
        let pause_is_over =
            story.changed.is_none_or(|changed| changed > now || now.since(changed) >= TRIED_AGAIN_AFTER);
        let turns = match story.other {
            Other::Untried => true,
            Other::Accepted if !accepted => true,
            Other::Accepted | Other::Refused => pause_is_over,
        };
        if turns {
            let was = story.other;
            story.other = if accepted { Other::Accepted } else { Other::Refused };
            story.changed = Some(now);
            self.current.store(1 - current, Ordering::Relaxed);
            // One that gives way back to where it was before needs no new proof.
            self.accepted.store(was == Other::Accepted && !accepted, Ordering::Relaxed);
        }
        turns
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::place::header;

    /// Plays requests: at each second the service accepts the slots that are named. Tells which slot each request was given.
    #[track_caller]
    fn check(rotation: &Rotation, requests: &[(u64, &[usize])], expected: &[usize]) {
        let mut given = Vec::new();
        for (second, good) in requests {
            let slot = rotation.current();
            given.push(slot);
            if good.contains(&slot) {
                rotation.accepted(slot);
            } else {
                rotation.refused(slot, Timestamp::from_unix_seconds(*second));
            }
        }
        assert_eq!(given, expected);
    }

    const BOTH: &[usize] = &[0, 1];
    const FIRST: &[usize] = &[0];
    const NEXT: &[usize] = &[1];
    const NONE: &[usize] = &[];

    fn written(text: &str) -> Option<Written> {
        Some(header([text]).unwrap())
    }

    #[test]
    fn a_key_that_was_taken_back_costs_one_request() {
        check(&Rotation::default(), &[(0, BOTH), (1, NEXT), (1, NEXT), (99, NEXT)], &[0, 0, 1, 1]);
        check(&Rotation::default(), &[(0, NEXT), (0, NEXT)], &[0, 1]);
    }

    #[test]
    fn a_next_key_that_the_service_does_not_know_gives_way_at_once() {
        check(&Rotation::default(), &[(0, FIRST), (1, NONE), (2, FIRST), (3, FIRST)], &[0, 0, 1, 0]);
    }

    #[test]
    fn refusals_that_a_caller_causes_cost_one_request_a_minute() {
        let rotation = Rotation::default();
        let caused = [(0, FIRST), (1, NONE), (1, FIRST), (2, NONE), (2, FIRST), (60, NONE), (60, FIRST), (61, NONE)];
        check(&rotation, &caused, &[0, 0, 1, 0, 0, 0, 0, 0]);
        check(&rotation, &[(62, NONE), (62, FIRST), (62, FIRST), (63, NONE), (63, FIRST)], &[1, 0, 0, 0, 0]);
        // The same when the next key is in use, and the one before is dead.
        let rotation = Rotation::default();
        check(&rotation, &[(0, FIRST), (1, NEXT), (1, NEXT), (2, NONE), (2, NEXT)], &[0, 0, 1, 1, 1]);
        check(&rotation, &[(70, NONE), (70, NEXT), (70, NEXT), (71, NONE), (71, NEXT)], &[1, 0, 1, 1, 1]);
    }

    #[test]
    fn where_both_are_refused_each_is_tried_again_and_again() {
        let none: Vec<(u64, &[usize])> = (0..240).step_by(20).map(|second| (second, NONE)).collect();
        let rotation = Rotation::default();
        check(&rotation, &none, &[0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn an_answer_to_an_older_request_changes_nothing() {
        let rotation = Rotation::default();
        let now = Timestamp::from_unix_seconds(0);
        assert!(rotation.refused(0, now));
        assert!(!rotation.refused(0, now));
        rotation.accepted(0);
        assert_eq!(rotation.current(), 1);
    }

    #[test]
    fn a_new_credential_in_a_slot_has_not_been_tried() {
        let rotation = Rotation::default();
        rotation.holds([written("a"), written("b")]);
        check(&rotation, &[(0, FIRST), (1, NONE), (1, FIRST), (2, NONE)], &[0, 0, 1, 0]);
        assert_eq!(rotation.current(), 0);
        rotation.holds([written("a"), written("c")]);
        check(&rotation, &[(3, NEXT), (3, NEXT)], &[0, 1]);
    }

    #[test]
    fn what_is_in_use_stays_in_use_under_a_new_config() {
        let check = |after: [&str; 2], expected: usize| {
            let rotation = Rotation::default();
            rotation.holds([written("a"), written("b")]);
            assert!(rotation.refused(0, Timestamp::from_unix_seconds(0)));
            let next = Rotation::after(Some(&rotation));
            next.holds(after.map(written));
            assert_eq!(next.current(), expected, "{after:?}");
        };
        check(["a", "b"], 1);
        check(["b", "c"], 0);
        check(["c", "b"], 1);
        check(["c", "d"], 0);
        check(["b", "b"], 1);
    }
}
