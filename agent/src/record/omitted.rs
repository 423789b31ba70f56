//! The last word about lines that were left out because there were too many like them. The next line of their kind counts them,
//! if one comes; what none has counted after a while, or when the agent ends, is told here: one line for each reason.

use std::collections::BTreeMap;
use std::time::SystemTime;

use countersign_audit::catalogue::{Event, OmittedLines};

use super::sink::Sink;

/// What lines have in common: the word of their event, and the reason in it. Nothing that a peer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Kind {
    pub(super) of: &'static str,
    pub(super) reason: Option<&'static str>,
}

/// Tells sums.
pub(super) fn tell(sink: &Sink, counts: impl IntoIterator<Item = (Kind, u64)>, now: SystemTime) {
    let mut sums = BTreeMap::<Kind, u64>::new();
    for (kind, count) in counts {
        let sum = sums.entry(kind).or_default();
        *sum = sum.saturating_add(count);
    }
    for (Kind { of, reason }, count) in sums {
        let lines = OmittedLines { of: of.to_owned(), reason: reason.map(ToOwned::to_owned), count };
        sink.event(Event::OmittedLines(lines), now);
    }
}
