//! One audit line: a JSON object with fixed keys, so that a program can read it for years.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Direction;
use super::counters::Outcome;
use crate::identify::Peer;
use crate::listener::PeerAddress;

/// Names one decision for ever: a random part for each worker at each start, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecisionId {
    pub(crate) worker: u64,
    pub(crate) number: u64,
}

impl DecisionId {
    /// Bytes of the text: 16 digits, a hyphen, 10 digits.
    pub(crate) const LENGTH: usize = 27;

    /// The text without an allocation.
    pub(crate) fn text(self) -> [u8; Self::LENGTH] {
        let mut text = [b'-'; Self::LENGTH];
        let (worker, number) = text.split_at_mut(17);
        hexadecimal(self.worker, worker.get_mut(..16).unwrap_or_default());
        hexadecimal(self.number, number);
        text
    }
}

/// Writes the last digits of a number, as many as there is room for.
fn hexadecimal(mut number: u64, room: &mut [u8]) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef".get(usize::try_from(number & 15).unwrap_or_default()).copied().unwrap_or(b'0');
        number >>= 4;
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl Serialize for DecisionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// A connection, written when it ends.
    Connection,
    /// An HTTP request, written when the last byte of its answer is gone.
    Request,
}

/// The facts of one line, borrowed from where they are.
pub(crate) struct Line<'record> {
    pub(crate) event: Event,
    pub(crate) decision: DecisionId,
    pub(crate) direction: Direction,
    pub(crate) route: &'record str,
    pub(crate) address: &'record PeerAddress,
    pub(crate) claimed: Option<String>,
    pub(crate) peer: Option<&'record Peer>,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<&'static str>,
    pub(crate) detail: Option<&'record str>,
    pub(crate) rule: Option<&'record str>,
    pub(crate) method: Option<&'record Method>,
    pub(crate) path: Option<&'record str>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) duration: Duration,
}

/// The line as it is written. Keys are only added, never renamed.
#[derive(Serialize)]
struct Written<'line> {
    time: &'line str,
    event: Event,
    decision: DecisionId,
    direction: &'static str,
    route: &'line str,
    address: Displayed<'line, PeerAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'line str>,
    /// Every name of the peer, if it has more than the one above: a decision may have hung on another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<&'line RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'line RawValue>,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'line str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    received_bytes: u64,
    sent_bytes: u64,
    duration_us: u64,
}

struct Displayed<'line, T>(&'line T);

impl<T: fmt::Display> Serialize for Displayed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

impl Line<'_> {
    /// Appends the line and its newline. Control characters in what a peer sent are escaped by the JSON writer.
    pub(crate) fn write_to(&self, time: &str, buffer: &mut Vec<u8>) {
        let roles = self.peer.and_then(Peer::roles_in_json);
        let written = Written {
            time,
            event: self.event,
            decision: self.decision,
            direction: self.direction.as_str(),
            route: self.route,
            address: Displayed(self.address),
            peer: self.peer.map(Peer::principal),
            names: self.peer.and_then(Peer::names_in_json),
            claimed: self.claimed.as_deref(),
            serial: self.peer.and_then(Peer::serial),
            roles: roles.as_deref(),
            outcome: self.outcome,
            reason: self.reason,
            detail: self.detail,
            rule: self.rule,
            method: self.method.map(Method::as_str),
            path: self.path,
            status: self.status.map(|status| status.as_u16()),
            received_bytes: self.received,
            sent_bytes: self.sent,
            duration_us: u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
        };
        let start = buffer.len();
        if serde_json::to_writer(&mut *buffer, &written).is_err() {
            // Nothing in the line can fail to serialize; should that ever change, half a line must not stay.
            buffer.truncate(start);
            return;
        }
        buffer.push(b'\n');
    }
}

/// Writes `2026-11-23T03:00:00.000000Z`, remembering the text of the last second: at thousands of lines a second only the
/// fraction changes.
#[derive(Debug, Default)]
pub(crate) struct TimeText {
    second: u64,
    text: Vec<u8>,
}

impl TimeText {
    /// The text of a point in time.
    pub(crate) fn of(&mut self, time: SystemTime) -> &str {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.text.is_empty() {
            self.second = since.as_secs();
            let whole = countersign_certs::time::Timestamp::from_unix_seconds(self.second).to_string();
            self.text.clear();
            self.text.extend_from_slice(whole.trim_end_matches('Z').as_bytes());
        }
        let length = self.second_length();
        self.text.truncate(length);
        // Writing into a Vec cannot fail.
        let _ = write!(self.text, ".{:06}Z", since.subsec_micros());
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    fn second_length(&self) -> usize {
        self.text.iter().position(|byte| *byte == b'.').unwrap_or(self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_six_digits_after_the_second() {
        let mut text = TimeText::default();
        let at = |micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        assert_eq!(text.of(at(1_795_402_800_000_001)), "2026-11-23T03:00:00.000001Z");
        assert_eq!(text.of(at(1_795_402_800_999_999)), "2026-11-23T03:00:00.999999Z");
        assert_eq!(text.of(at(1_795_402_801_000_000)), "2026-11-23T03:00:01.000000Z");
    }

    #[test]
    fn decision_ids_are_text_of_fixed_length() {
        let id = DecisionId { worker: 0xabc, number: 31 };
        assert_eq!(id.to_string(), "0000000000000abc-000000001f");
    }
}
