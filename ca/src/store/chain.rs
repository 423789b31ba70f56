//! The hash chain of the journal: whoever changes, removes or inserts a line breaks every hash after it.

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use crate::certs::digest::hexadecimal;

/// The hash before the first line.
pub(super) const GENESIS: &str = "";

/// One line of the journal as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// Position, from 1, without gaps.
    pub(crate) sequence: u64,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// What happened.
    pub(crate) kind: String,
    /// The facts, in JSON.
    pub(crate) detail: String,
    /// SHA-256 over the hash of the line before and everything above, in hexadecimal.
    pub(crate) hash: String,
}

/// Where and how the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The line's hash is not that of its content and the line before.
    #[error("line {sequence} was changed, or a line before it: its hash is {found}, its content gives {computed}")]
    Hash {
        /// First bad line.
        sequence: u64,
        /// Hash in the table.
        found: String,
        /// Hash of the content.
        computed: String,
    },
    /// A line is missing, or there is one too many.
    #[error("line {expected} is missing, line {found} follows")]
    Sequence {
        /// The line that should follow.
        expected: u64,
        /// The line that follows.
        found: u64,
    },
}

/// The hash of a line that follows `previous`. Lengths are part of it, so that no two lines give the same bytes.
pub(super) fn link(previous: &str, sequence: u64, time: u64, kind: &str, detail: &str) -> String {
    let mut context = Context::new(&SHA256);
    for part in [previous, &sequence.to_string(), &time.to_string(), kind, detail] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    hexadecimal(context.finish().as_ref())
}

/// Checks lines that follow one another.
pub(super) struct Walk {
    sequence: u64,
    hash: String,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { sequence: 0, hash: GENESIS.to_owned() }
    }

    pub(super) fn step(&mut self, line: &Line) -> Result<(), Fault> {
        let expected = self.sequence + 1;
        if line.sequence != expected {
            return Err(Fault::Sequence { expected, found: line.sequence });
        }
        let computed = link(&self.hash, line.sequence, line.time, &line.kind, &line.detail);
        if computed != line.hash {
            return Err(Fault::Hash { sequence: line.sequence, found: line.hash.clone(), computed });
        }
        self.sequence = line.sequence;
        self.hash = computed;
        Ok(())
    }

    /// How many lines there are, and the hash of the last.
    pub(super) fn end(self) -> (u64, String) {
        (self.sequence, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: u64) -> Vec<Line> {
        let mut previous = GENESIS.to_owned();
        (1..=count)
            .map(|sequence| {
                let hash = link(&previous, sequence, 10, "noted", "{}");
                previous.clone_from(&hash);
                Line { sequence, time: 10, kind: "noted".into(), detail: "{}".into(), hash }
            })
            .collect()
    }

    fn walk(lines: &[Line]) -> Result<(), Fault> {
        let mut walk = Walk::new();
        lines.iter().try_for_each(|line| walk.step(line))
    }

    #[test]
    fn an_untouched_chain_verifies() {
        assert_eq!(walk(&lines(5)), Ok(()));
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let mut changed = lines(5);
        changed[2].detail = "{\"a\":1}".to_owned();
        assert!(matches!(walk(&changed), Err(Fault::Hash { sequence: 3, .. })));
        let mut moved = lines(5);
        moved[1].time = 11;
        assert!(matches!(walk(&moved), Err(Fault::Hash { sequence: 2, .. })));
        let mut removed = lines(5);
        removed.remove(3);
        assert_eq!(walk(&removed), Err(Fault::Sequence { expected: 4, found: 5 }));
    }
}
