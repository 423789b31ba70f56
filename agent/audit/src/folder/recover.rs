//! How the segments of a folder ended, found out before a new one is begun.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_certs::digest::Fingerprint;

use super::{FolderError, io_error, segments};
use crate::catalogue::{AuditRecovered, Entry, Event, LINE_BYTES_MAX};
use crate::chain::Chain;

/// Where the next segment goes on.
pub(super) struct Recovered {
    pub(super) next: u64,
    pub(super) chain: Chain,
    /// Segments that were not sealed since the last one that was, in order.
    pub(super) found: Vec<AuditRecovered>,
}

/// How far a segment can be followed.
pub(super) struct Followed {
    pub(super) chain: Chain,
    pub(super) sealed: bool,
    pub(super) torn_bytes: u64,
    pub(super) torn_sha256: Fingerprint,
}

/// Follows all segments after the last one that is sealed.
pub(super) fn recover(folder: &Path) -> Result<Recovered, FolderError> {
    let segments = segments(folder)?;
    let next = segments.last().map_or(1, |(number, _)| number.saturating_add(1));
    let mut followed = Vec::new();
    for (number, path) in segments.iter().rev() {
        let file = File::open(path).map_err(|source| io_error(path, "opening", source))?;
        let segment = follow(BufReader::new(file)).map_err(|source| io_error(path, "reading", source))?;
        let sealed = segment.sealed;
        followed.push((*number, segment));
        if sealed {
            break;
        }
    }
    let (mut chain, mut found) = (Chain::beginning(), Vec::new());
    for (segment, Followed { chain: own, sealed, torn_bytes, torn_sha256 }) in followed.into_iter().rev() {
        // A segment without a line of its own stands where the chain stood.
        if own.lines() > 0 {
            chain = own;
        }
        if !sealed {
            found.push(AuditRecovered { segment, lines: own.lines(), last: chain.last(), torn_bytes, torn_sha256 });
        }
    }
    Ok(Recovered { next, found, chain })
}

/// Follows whole lines for as long as the chain holds; the rest is torn.
pub(super) fn follow(mut segment: impl BufRead) -> std::io::Result<Followed> {
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut chain = Chain::beginning();
    let (mut line, mut sealed, mut torn_bytes) = (Vec::new(), false, 0);
    let mut torn = Context::new(&SHA256);
    loop {
        line.clear();
        let count = segment.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        let whole = line.strip_suffix(b"\n").filter(|_| torn_bytes == 0 && !sealed);
        let mut ahead = if chain.lines() == 0 { whole.and_then(beginning).unwrap_or(chain) } else { chain };
        match whole {
            Some(whole) if ahead.follow(whole).is_ok() => {
                chain = ahead;
                sealed = is_seal(whole);
            }
            Some(_) | None => {
                torn.update(&line);
                torn_bytes += u64::try_from(count).unwrap_or(u64::MAX);
            }
        }
    }
    let mut torn_sha256 = Fingerprint([0; 32]);
    torn_sha256.0.copy_from_slice(torn.finish().as_ref());
    // What follows a seal is no part of the segment, and it is not sealed then.
    Ok(Followed { chain, sealed: sealed && torn_bytes == 0, torn_bytes, torn_sha256 })
}

/// The chain before a first line, as that line says.
fn beginning(line: &[u8]) -> Option<Chain> {
    let Event::AuditOpened(opened) = parse(line)? else { return None };
    Some(Chain::after(opened.previous))
}

fn is_seal(line: &[u8]) -> bool {
    // Most lines are none, and need not be parsed to see it.
    let mut windows = line.windows(AUDIT_SEALED.len());
    windows.any(|window| window == AUDIT_SEALED) && matches!(parse(line), Some(Event::AuditSealed(_)))
}

const AUDIT_SEALED: &[u8] = b"\"audit_sealed\"";

fn parse(line: &[u8]) -> Option<Event> {
    Entry::parse(std::str::from_utf8(line).ok()?).ok().map(|entry| entry.event)
}
