//! Proofs that were shown already.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_certs::time::Timestamp;

use super::VerifiedProof;
use crate::jwk::Thumbprint;

/// The part of all the room that one key may fill: whoever holds it makes proofs at will.
const PART_OF_KEY: usize = 4;

/// Remembers each proof for as long as it would be accepted. All that serve one place share one: a proof that was spent on one worker
/// could else be shown to another.
#[derive(Debug)]
pub struct ReplayCache {
    entries_max: usize,
    /// SHA-256 of key and name. A caller chooses how long a name is, but not how much is remembered.
    known: HashSet<[u8; 32]>,
    /// The same by the last second in which they would be accepted, with the keys that made them.
    by_end: BTreeMap<Timestamp, Vec<([u8; 32], Thumbprint)>>,
    /// How many each key has made.
    by_key: HashMap<Thumbprint, usize>,
    /// The latest of those ends that were forgotten.
    forgotten: Option<Timestamp>,
}

/// Why a proof is not accepted although it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayRefusal {
    /// The clock was set back to when proofs as this one had been forgotten already: nobody knows whether it was shown.
    #[error("the clock was set back; proofs that end by {until} may have been shown already")]
    ClockSetBack {
        /// The end up to which proofs are forgotten.
        until: Timestamp,
    },
    /// No more room. To forget a proof that would be accepted is to let it be shown twice.
    #[error("{entries_max} DPoP proofs are remembered, the most; none is accepted until the oldest have ended")]
    Full {
        /// The most.
        entries_max: usize,
    },
    /// No more room for proofs of one key.
    #[error(
        "{of_key_max} DPoP proofs of this key are remembered, the most; none is accepted until the oldest have ended"
    )]
    FullOfKey {
        /// The most.
        of_key_max: usize,
    },
    /// Shown before.
    #[error("the DPoP proof was shown before")]
    Replayed,
}

impl ReplayCache {
    /// Remembers at most `entries_max` proofs, of about 150 bytes each, a quarter of them of one key. They are kept for about a minute: it should be more than the
    /// requests of two minutes.
    pub fn new(entries_max: usize) -> Self {
        Self { entries_max, known: HashSet::new(), by_end: BTreeMap::new(), by_key: HashMap::new(), forgotten: None }
    }

    /// Spends a proof.
    ///
    /// # Errors
    /// It was spent before, may have been, or cannot be remembered.
    pub fn spend(&mut self, proof: &VerifiedProof, now: Timestamp) -> Result<(), ReplayRefusal> {
        self.forget(now);
        let name = name_of(proof);
        if self.known.contains(&name) {
            return Err(ReplayRefusal::Replayed);
        }
        if let Some(until) = self.forgotten.filter(|until| proof.not_after <= *until) {
            return Err(ReplayRefusal::ClockSetBack { until });
        }
        if self.known.len() >= self.entries_max {
            return Err(ReplayRefusal::Full { entries_max: self.entries_max });
        }
        let of_key_max = self.entries_max.div_ceil(PART_OF_KEY);
        let of_key = self.by_key.entry(proof.thumbprint).or_default();
        if *of_key >= of_key_max {
            return Err(ReplayRefusal::FullOfKey { of_key_max });
        }
        *of_key += 1;
        self.known.insert(name);
        self.by_end.entry(proof.not_after).or_default().push((name, proof.thumbprint));
        Ok(())
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some(first) = self.by_end.first_entry().filter(|first| *first.key() < now) {
            let (end, names) = first.remove_entry();
            self.forgotten = self.forgotten.max(Some(end));
            for (name, key) in names {
                self.known.remove(&name);
                self.forget_one_of(key);
            }
        }
    }
}

impl ReplayCache {
    fn forget_one_of(&mut self, key: Thumbprint) {
        if let Some(of_key) = self.by_key.get_mut(&key) {
            *of_key = of_key.saturating_sub(1);
            if *of_key == 0 {
                self.by_key.remove(&key);
            }
        }
    }
}

impl ReplayRefusal {
    /// A short fixed word for metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ClockSetBack { .. } => "proof_clock_set_back",
            Self::Full { .. } | Self::FullOfKey { .. } => "proof_cache_full",
            Self::Replayed => "proof_replayed",
        }
    }
}

/// The thumbprint has a fixed length, so no other pair gives the same bytes.
fn name_of(proof: &VerifiedProof) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&proof.thumbprint.0);
    context.update(proof.id.as_bytes());
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::jwk::Thumbprint;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn proof(key: u8, id: &str, issued: u64) -> VerifiedProof {
        let (issued, not_after) = (at(issued), at(issued + 60));
        VerifiedProof { thumbprint: Thumbprint([key; 32]), id: id.to_owned(), issued, not_after }
    }

    #[test]
    fn a_proof_is_spent_once() {
        let mut cache = ReplayCache::new(40);
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Err(ReplayRefusal::Replayed));
        assert_eq!(
            cache.spend(&proof(1, "a", 30), at(30)),
            Err(ReplayRefusal::Replayed),
            "made again with the same name"
        );
        assert_eq!(cache.spend(&proof(1, "b", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(2, "a", 0), at(0)), Ok(()), "of another key");
        assert_eq!(cache.spend(&proof(1, "a", 0), at(60)), Err(ReplayRefusal::Replayed), "in its last second");
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn a_full_cache_refuses_rather_than_forgets() {
        let mut cache = ReplayCache::new(2);
        assert!(cache.is_empty());
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(2, "b", 10), at(10)), Ok(()));
        assert_eq!(cache.spend(&proof(3, "c", 60), at(60)), Err(ReplayRefusal::Full { entries_max: 2 }));
        assert_eq!(cache.spend(&proof(1, "a", 0), at(60)), Err(ReplayRefusal::Replayed));
        assert_eq!(cache.spend(&proof(3, "c", 60), at(61)), Ok(()), "the first has ended");
        assert_eq!((cache.len(), cache.is_empty()), (2, false));
        assert_eq!(cache.by_end.len(), 2);
    }

    #[test]
    fn one_key_does_not_fill_the_room_of_others() {
        let mut cache = ReplayCache::new(8);
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(1, "b", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(1, "c", 0), at(0)), Err(ReplayRefusal::FullOfKey { of_key_max: 2 }));
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Err(ReplayRefusal::Replayed));
        assert_eq!(cache.spend(&proof(2, "c", 0), at(0)), Ok(()));
        assert_eq!(cache.spend(&proof(1, "c", 61), at(61)), Ok(()), "its proofs have ended");
        assert_eq!((cache.len(), cache.by_key.len()), (1, 1));
    }

    #[test]
    fn a_clock_set_back_lets_nothing_be_spent_twice() {
        let mut cache = ReplayCache::new(40);
        assert_eq!(cache.spend(&proof(1, "a", 0), at(0)), Ok(()));
        assert_eq!(
            cache.spend(&proof(1, "b", 86_400), at(86_400)),
            Ok(()),
            "the clock jumps ahead, and a is forgotten"
        );
        assert_eq!(cache.len(), 1);
        let refused = Err(ReplayRefusal::ClockSetBack { until: at(60) });
        assert_eq!(cache.spend(&proof(1, "a", 0), at(1)), refused, "and back");
        assert_eq!(cache.spend(&proof(1, "c", 0), at(1)), refused, "nobody knows");
        assert_eq!(cache.spend(&proof(1, "c", 1), at(1)), Ok(()), "made after all that were forgotten");
        assert_eq!(cache.spend(&proof(1, "b", 86_400), at(1)), Err(ReplayRefusal::Replayed));
        assert_eq!(cache.spend(&proof(1, "d", 2), Timestamp::from_unix_seconds(0)), Ok(()));
        assert_eq!(
            cache.spend(&proof(1, "d", 2), Timestamp::from_unix_seconds(u64::MAX)).map_err(|error| error.reason()),
            Err("proof_clock_set_back")
        );
    }
}
