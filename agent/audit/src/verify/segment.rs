//! One segment, line by line.

use std::io::{BufRead, Read};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_certs::digest::Fingerprint;

use super::Verifier;
use crate::catalogue::{AuditOpened, AuditRecovered, AuditSealed, Entry, Event, LINE_BYTES_MAX, SCHEMA};
use crate::chain::{Chain, LineError, is_signed_by};
use crate::key::PublicKey;

/// What a segment was.
pub(super) struct Segment {
    pub(super) chain: Chain,
    pub(super) seal: Seal,
    /// What it says of segments that were not sealed.
    pub(super) recovered: Vec<AuditRecovered>,
    /// The number of the last segment that was removed, as it says.
    pub(super) retired_through: u64,
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    pub(super) torn_bytes: u64,
    /// See [`super::Unsealed`].
    pub(super) is_odd: bool,
    pub(super) torn_sha256: Fingerprint,
}

/// What vouches for the lines of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// Nobody has signed them.
    Absent,
    /// They are as they were signed.
    Good,
    /// The signature is that of something or somebody else.
    Wrong,
}

/// What follows the last whole line.
struct Torn {
    bytes: u64,
    context: Context,
}

impl Segment {
    pub(super) fn read(
        verifier: &mut Verifier,
        file: &str,
        number: u64,
        mut lines: impl BufRead,
    ) -> std::io::Result<Self> {
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut torn = Torn { bytes: 0, context: Context::new(&SHA256) };
        let mut segment = Self {
            chain: Chain::after(verifier.chain.unwrap_or(Fingerprint([0; 32]))),
            seal: Seal::Absent,
            recovered: Vec::new(),
            retired_through: 0,
            first: None,
            last: None,
            torn_bytes: 0,
            is_odd: false,
            torn_sha256: Fingerprint([0; 32]),
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match line.strip_suffix(b"\n") {
                // What follows a seal, or a piece that is no line, is told as one piece.
                Some(whole) if segment.seal == Seal::Absent && torn.bytes == 0 && !segment.ends_here(whole) => {
                    segment.line(verifier, file, number, whole);
                }
                Some(_) | None => {
                    segment.is_odd |= line.ends_with(b"\n") || segment.is_whole_but_for_its_end(&line);
                    torn.take(&line);
                }
            }
        }
        segment.torn_bytes = torn.bytes;
        segment.torn_sha256.0.copy_from_slice(torn.context.finish().as_ref());
        Ok(segment)
    }

    /// Whether a line is no line of a chain at all, as what a crash of the whole machine leaves behind. A line that has a value,
    /// though a wrong one, is one.
    fn ends_here(&self, line: &[u8]) -> bool {
        let mut ahead = self.chain;
        ahead.follow(line) == Err(LineError::NoValue)
    }

    /// A whole line with another byte where its newline should be.
    fn is_whole_but_for_its_end(&self, piece: &[u8]) -> bool {
        let mut ahead = self.chain;
        piece.split_last().is_some_and(|(_, line)| ahead.follow(line).is_ok())
    }

    fn line(&mut self, verifier: &mut Verifier, file: &str, number: u64, line: &[u8]) {
        let place = self.chain.lines() + 1;
        let text = String::from_utf8_lossy(line);
        let entry = Entry::parse(&text).ok();
        if place == 1 {
            self.open(verifier, file, number, entry.as_ref());
        }
        let before = self.chain;
        if let Err(error) = self.chain.follow(line) {
            verifier.fault(file, place, error.to_string());
        }
        let last = self.chain.last();
        verifier.expected.retain(|value| *value != last);
        let Some(entry) = entry else {
            return verifier.fault(file, place, "it is no event of the catalogue".to_owned());
        };
        if entry.schema != SCHEMA {
            verifier.fault(file, place, format!("its schema is {}, known is {SCHEMA}", entry.schema));
        }
        self.first.get_or_insert_with(|| entry.time.clone());
        self.last = Some(entry.time);
        match entry.event {
            Event::AuditSealed(seal) => {
                self.seal = check_seal(verifier, file, number, before, &seal, &text);
            }
            Event::AuditRecovered(recovered) => self.recovered.push(recovered),
            Event::AuditRetired(retired) => self.retired_through = self.retired_through.max(retired.through),
            Event::AuditOpened(_) if place > 1 => {
                verifier.fault(file, place, "a segment begins in the middle of another".to_owned());
            }
            Event::AgentStarted(_)
            | Event::AgentStopped(_)
            | Event::AuditGap(_)
            | Event::AuditOpened(_)
            | Event::Authentication(_)
            | Event::ConfigLoaded(_)
            | Event::ConfigRefused(_)
            | Event::Connection(_)
            | Event::ControlCommand(_)
            | Event::CredentialRotated(_)
            | Event::KeyCreated(_)
            | Event::KeyDisabled(_)
            | Event::KeyEnabled(_)
            | Event::KeyRevoked(_)
            | Event::KeyRotated(_)
            | Event::LimitHit(_)
            | Event::Lockout(_)
            | Event::OmittedLines(_)
            | Event::Pattern(_)
            | Event::PolicyObserved(_)
            | Event::Request(_)
            | Event::Unknown
            | Event::UnrecordedRefusals(_) => {}
        }
    }

    /// The first line says which segment it is, where the chain goes on, and who will sign.
    fn open(&mut self, verifier: &mut Verifier, file: &str, number: u64, entry: Option<&Entry>) {
        let Some(Event::AuditOpened(opened)) = entry.map(|entry| &entry.event) else {
            return verifier.fault(
                file,
                1,
                "a segment begins with audit_opened, this line is something else".to_owned(),
            );
        };
        let AuditOpened { segment, previous, public_key, .. } = opened;
        if *segment != number {
            verifier.fault(file, 1, format!("it says that it is segment {segment}, but its file is that of {number}"));
        }
        match verifier.chain {
            Some(chain) if chain != *previous => {
                verifier.fault(
                    file,
                    1,
                    format!("it goes on after {previous}, but the segment before ends with {chain}"),
                );
            }
            Some(_) | None => {}
        }
        if verifier.chain.is_none() {
            self.chain = Chain::after(*previous);
            if number == 1 && *previous != Chain::beginning().last() {
                verifier.fault(file, 1, format!("it is the first, but goes on after {previous}"));
            }
        }
        match PublicKey::from_base64(public_key) {
            Ok(key) if verifier.keys.is_empty() => verifier.keys.push(key),
            Ok(key) if verifier.keys.contains(&key) => {}
            Ok(_) => verifier.fault(file, 1, format!("its key {public_key} is none of the known ones")),
            Err(error) => verifier.fault(file, 1, format!("its key cannot be read: {error}")),
        }
    }
}

fn check_seal(verifier: &mut Verifier, file: &str, number: u64, before: Chain, seal: &AuditSealed, line: &str) -> Seal {
    let place = before.lines() + 1;
    let is_signed = verifier.keys.iter().any(|key| is_signed_by(line, key));
    let mut worth = Seal::Good;
    let mut wrong = |what: String| {
        verifier.fault(file, place, what);
        worth = Seal::Wrong;
    };
    if !is_signed {
        wrong("the signature of the seal is wrong".to_owned());
    }
    if seal.segment != number {
        wrong(format!("the seal is that of segment {}, not of {number}", seal.segment));
    }
    if seal.lines != before.lines() {
        wrong(format!("the seal is for {} lines, {} are there", seal.lines, before.lines()));
    }
    if seal.last != before.last() {
        wrong(format!("the seal is for {}, the chain is at {}", seal.last, before.last()));
    }
    worth
}

impl Torn {
    fn take(&mut self, piece: &[u8]) {
        self.context.update(piece);
        self.bytes = self.bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
    }
}
