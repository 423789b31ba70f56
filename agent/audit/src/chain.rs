//! The hash chain: each line ends with the SHA-256 of the value before it and of the line itself, so that no line can be
//! changed, removed, inserted or moved without every later value being another.
//!
//! A line stays one JSON object: the value is its last key, `"chain"`, and what is hashed is the line without that key. The
//! chain goes on from one segment to the next. Anybody can compute a chain anew; what nobody else can make is the signature in a
//! segment's last line, `audit_sealed`. It covers that line without its keys `signature` and `chain`, and so the number of the
//! segment, its count of lines, and the value of the chain.

use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_certs::digest::Fingerprint;

use crate::catalogue::{AuditSealed, Entry, Event};
use crate::key::{AuditKey, PublicKey};

/// What stands before the value of the chain.
const MEMBER: &[u8] = b",\"chain\":\"";

/// What stands before the signature.
const SIGNATURE: &str = ",\"signature\":\"";

/// Digits of a value.
const DIGITS: usize = 64;

/// What a seal is signed for, so that the signature means nothing elsewhere.
const PURPOSE: &[u8] = b"countersign audit seal 1\0";

/// The state of a chain: its value, and how many lines of the segment led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    last: Fingerprint,
    lines: u64,
}

/// A line that cannot be part of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The value is another one: the line was changed, or something before it was removed, inserted or moved.
    #[error("its chain value does not follow: it was changed, or what stands before it was removed, added or moved")]
    Broken,
    /// No JSON object.
    #[error("it is no JSON object")]
    NoObject,
    /// No value at its end.
    #[error("it has no chain value")]
    NoValue,
}

impl Chain {
    /// A chain that goes on after this value.
    pub fn after(previous: Fingerprint) -> Self {
        Self { last: previous, lines: 0 }
    }

    /// The beginning of all chains.
    pub fn beginning() -> Self {
        Self::after(Fingerprint([0; 32]))
    }

    /// The value.
    pub fn last(&self) -> Fingerprint {
        self.last
    }

    /// How many lines led to it.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Appends a line to `output`, with the value at its end and a newline. The line is one JSON object that has keys, without
    /// a newline.
    ///
    /// # Errors
    /// It is no object; nothing was appended.
    pub fn append(&mut self, line: &[u8], output: &mut Vec<u8>) -> Result<(), LineError> {
        let head = line.strip_suffix(b"}").filter(|head| head.len() > 1).ok_or(LineError::NoObject)?;
        self.advance(head);
        output.reserve(line.len() + MEMBER.len() + DIGITS + 2);
        output.extend_from_slice(head);
        output.extend_from_slice(MEMBER);
        output.extend_from_slice(&digits(&self.last));
        output.extend_from_slice(b"\"}\n");
        Ok(())
    }

    /// Follows a stored line, without its newline. The value that it has is taken over also if it is wrong, so that one change
    /// is one finding.
    ///
    /// # Errors
    /// The value does not follow from the one before, or the line has none.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), LineError> {
        let (head, value) = split(line).ok_or(LineError::NoValue)?;
        self.advance(head);
        // Compared as text, so that the same value in other letters is another one.
        if digits(&self.last).as_slice() == value {
            return Ok(());
        }
        if let Some(stored) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
            self.last = stored;
        }
        Err(LineError::Broken)
    }

    fn advance(&mut self, head: &[u8]) {
        let mut context = Context::new(&SHA256);
        context.update(&self.last.0);
        context.update(head);
        context.update(b"}");
        self.last.0.copy_from_slice(context.finish().as_ref());
        self.lines += 1;
    }

    /// The line that seals this segment, signed but not yet appended.
    pub fn seal(&self, segment: u64, key: &AuditKey, now: SystemTime) -> String {
        let seal = AuditSealed { segment, lines: self.lines, last: self.last, signature: None };
        let mut line = Entry::new(Event::AuditSealed(seal), now).to_line();
        let signature = key.sign(&signed(&line));
        if line.pop() == Some('}') {
            line.push_str(&format!("{SIGNATURE}{signature}\"}}"));
        }
        line
    }
}

/// Whether the stored line, an `audit_sealed`, was signed by this key.
pub fn is_signed_by(line: &str, key: &PublicKey) -> bool {
    let unchained = split(line.as_bytes()).and_then(|(head, _)| std::str::from_utf8(head).ok());
    let parts = unchained.and_then(|head| head.rsplit_once(SIGNATURE));
    let Some((head, signature)) = parts else { return false };
    signature.strip_suffix('"').is_some_and(|signature| key.has_signed(&signed(&format!("{head}}}")), signature))
}

fn signed(line: &str) -> Vec<u8> {
    [PURPOSE, line.as_bytes()].concat()
}

/// A stored line without its last key and brace, and the digits of that key.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_suffix(b"\"}")?;
    let (rest, value) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(MEMBER)?, value))
}

fn digits(value: &Fingerprint) -> [u8; DIGITS] {
    const ALPHABET: &[u8; 16] = b"0123456789abcdef";
    let digit = |number: u8| ALPHABET.get(usize::from(number)).copied().unwrap_or(b'0');
    let mut text = [b'0'; DIGITS];
    for (pair, byte) in text.chunks_exact_mut(2).zip(value.0) {
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::samples;

    fn chained(lines: &[&str]) -> Vec<String> {
        let (mut chain, mut output) = (Chain::beginning(), Vec::new());
        lines.iter().for_each(|line| chain.append(line.as_bytes(), &mut output).unwrap());
        String::from_utf8(output).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    fn follow(lines: &[String]) -> Vec<Result<(), LineError>> {
        let mut chain = Chain::beginning();
        lines.iter().map(|line| chain.follow(line.as_bytes())).collect()
    }

    #[test]
    fn a_chained_line_is_the_line_and_its_value() {
        // SHA-256 of 32 zero bytes and the line, by `(head -c32 /dev/zero; printf '{"a":1}') | sha256sum`.
        let expected = "{\"a\":1,\"chain\":\"VALUE\"}".replace("VALUE", FIRST);
        assert_eq!(chained(&["{\"a\":1}"]), [expected]);
    }

    const FIRST: &str = "b06a229070741292512e8760f470dd7a4c46ccfdf253df781d88dabe58c1ccb1";

    #[test]
    fn one_change_is_one_finding_at_its_line() {
        let lines = chained(&["{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":4}"]);
        assert_eq!(follow(&lines), [Ok(()); 4]);
        let check = |lines: &[String], broken: usize| {
            let expected: Vec<_> =
                (0..lines.len()).map(|line| if line == broken { Err(LineError::Broken) } else { Ok(()) }).collect();
            assert_eq!(follow(lines), expected);
        };
        let mut changed = lines.clone();
        changed[1] = changed[1].replace("\"a\":2", "\"a\":7");
        check(&changed, 1);
        let mut removed = lines.clone();
        removed.remove(1);
        check(&removed, 1);
        let mut upper = lines.clone();
        upper[3] = upper[3].to_uppercase().replace("\"A\"", "\"a\"").replace("CHAIN", "chain");
        check(&upper, 3);
    }

    #[test]
    fn what_is_no_object_is_no_line() {
        let (mut chain, mut output) = (Chain::beginning(), Vec::new());
        for line in ["", "}", "{}", "[1]", "{\"a\":1}\n"] {
            assert_eq!(chain.append(line.as_bytes(), &mut output), Err(LineError::NoObject), "{line:?}");
        }
        assert_eq!((chain, output.len()), (Chain::beginning(), 0));
        for line in ["", "{\"a\":1}", "{\"a\":1,\"chain\":\"00\"}"] {
            assert_eq!(chain.follow(line.as_bytes()), Err(LineError::NoValue), "{line:?}");
        }
    }

    #[test]
    fn a_seal_is_good_for_its_own_words_only() {
        let (key, _) = AuditKey::generate().unwrap();
        let (other, _) = AuditKey::generate().unwrap();
        let (mut chain, mut output) = (Chain::beginning(), Vec::new());
        chain.append(b"{\"a\":1}", &mut output).unwrap();
        output.clear();
        let seal = chain.seal(7, &key, samples::time());
        chain.append(seal.as_bytes(), &mut output).unwrap();
        let line = String::from_utf8(output).unwrap().trim_end().to_owned();
        assert!(is_signed_by(&line, &key.public()));
        assert!(!is_signed_by(&line, &other.public()));
        for (old, new) in [("\"segment\":7", "\"segment\":8"), ("\"lines\":1", "\"lines\":2"), ("2026", "2027")] {
            assert!(line.contains(old));
            assert!(!is_signed_by(&line.replace(old, new), &key.public()), "{new}");
        }
    }
}
