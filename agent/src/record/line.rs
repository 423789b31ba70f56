//! One audit line: a JSON object with fixed keys, so that a program can read it for years.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::counters::Outcome;
use crate::authenticate::caller::Caller;
use crate::direction::Direction;
use crate::identify::Peer;

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
        last_digits::<16>(self.worker, worker.get_mut(..16).unwrap_or_default());
        last_digits::<16>(self.number, number);
        text
    }
}

/// Writes the last digits of a number to a base, as many as there is room for.
fn last_digits<const BASE: u64>(mut number: u64, room: &mut [u8]) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef".get(usize::try_from(number % BASE).unwrap_or_default()).copied().unwrap_or(b'0');
        number /= BASE;
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection, written when it ends.
    Connection,
    /// An HTTP request, written when the last byte of its answer is gone.
    Request,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
        }
    }
}

/// The facts of one line, borrowed from where they are.
pub(crate) struct Line<'record> {
    pub(crate) event: Event,
    pub(crate) decision: DecisionId,
    pub(crate) direction: Direction,
    pub(crate) route: &'record str,
    /// Where it came from, as text.
    pub(crate) address: &'record str,
    pub(crate) claimed: Option<String>,
    pub(crate) peer: Option<&'record Peer>,
    /// Who stands behind a request; none before that is known.
    pub(crate) caller: Option<&'record Caller>,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<&'static str>,
    pub(crate) detail: Option<&'record str>,
    pub(crate) rule: Option<&'record str>,
    pub(crate) observed: Option<&'record str>,
    /// The limit that refused it, or, where the outcome is another, would have if it did not only watch.
    pub(crate) limit: Option<&'record str>,
    pub(crate) method: Option<&'record str>,
    pub(crate) path: Option<&'record str>,
    /// As they stand in the line, already in JSON.
    pub(crate) fields: Option<&'record str>,
    pub(crate) status: Option<StatusCode>,
    /// The backend has refused the credential that it was given.
    pub(crate) rotated: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) duration: Duration,
    /// Lines like this one that were left out before it.
    pub(crate) omitted: u64,
}

impl Line<'_> {
    /// Appends the line and its newline.
    ///
    /// Keys are only added, never renamed. What a peer can choose is escaped by the JSON library; what comes from the config
    /// or from verified names has no character that needs it, and is copied as it is.
    pub(crate) fn write_to(&self, time: &str, buffer: &mut Vec<u8>) {
        let mut object = Object(buffer);
        object.plain("{\"schema\":1,\"time\":\"", time);
        object.plain("\",\"event\":\"", self.event.as_str());
        object.plain("\",\"decision\":\"", std::str::from_utf8(&self.decision.text()).unwrap_or_default());
        object.plain("\",\"direction\":\"", self.direction.as_str());
        object.plain("\",\"route\":\"", self.route);
        object.plain("\",\"address\":\"", self.address);
        object.plain("\"", self.peer.map(Peer::as_json).as_deref().unwrap_or_default());
        // That a workload or a local program speaks for itself goes without saying.
        if let Some((caller, subject)) = self.caller.and_then(|caller| Some((caller, caller.subject()?))) {
            object.plain(",\"principal\":\"", caller.kind());
            object.plain("\"", &subject.as_json());
            object.plain(",\"credential\":\"", subject.proof().kind().as_str());
            object.plain("\"", "");
        }
        object.escaped(",\"claimed\":", self.claimed.as_deref());
        object.plain(",\"outcome\":\"", self.outcome.as_str());
        object.plain("\"", "");
        object.escaped(",\"reason\":", self.reason);
        object.escaped(",\"detail\":", self.detail);
        object.escaped(",\"rule\":", self.rule);
        object.escaped(",\"observed\":", self.observed);
        object.escaped(",\"limit\":", self.limit);
        object.escaped(",\"method\":", self.method);
        object.escaped(",\"path\":", self.path);
        object.plain("", self.fields.unwrap_or_default());
        if let Some(status) = self.status {
            object.plain(",\"status\":", status.as_str());
        }
        if self.rotated {
            object.plain(",\"credential_rotated\":true", "");
        }
        object.number(",\"received_bytes\":", self.received);
        object.number(",\"sent_bytes\":", self.sent);
        object.number(",\"duration_us\":", u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX));
        if self.omitted > 0 {
            object.number(",\"omitted\":", self.omitted);
        }
        object.plain("}\n", "");
    }
}

/// The line that stands for all that was refused while nothing could be written.
pub(crate) fn write_unrecorded(time: &str, count: u64, buffer: &mut Vec<u8>) {
    let mut object = Object(buffer);
    object.plain("{\"schema\":1,\"time\":\"", time);
    object.number("\",\"event\":\"unrecorded_refusals\",\"count\":", count);
    object.plain("}\n", "");
}

/// The line that stands for all that was not written because there was no room, where that is allowed.
pub(crate) fn write_gap(time: &str, count: u64, buffer: &mut Vec<u8>) {
    let mut object = Object(buffer);
    object.plain("{\"schema\":1,\"time\":\"", time);
    object.number("\",\"event\":\"audit_gap\",\"count\":", count);
    object.plain("}\n", "");
}

/// A JSON object while it is written. Writing into memory does not fail.
struct Object<'buffer>(&'buffer mut Vec<u8>);

impl Object<'_> {
    fn plain(&mut self, before: &str, text: &str) {
        self.0.extend_from_slice(before.as_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, before: &str, number: u64) {
        self.0.extend_from_slice(before.as_bytes());
        let _ = serde_json::to_writer(&mut *self.0, &number);
    }

    fn escaped(&mut self, before: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.0.extend_from_slice(before.as_bytes());
            let _ = serde_json::to_writer(&mut *self.0, text);
        }
    }
}

/// What is the same in all lines of a peer, written once: its names, its certificate's serial number and its roles.
pub(crate) fn peer_in_json(
    principal: &str,
    names: &[String],
    serial: Option<&str>,
    roles: Option<&[Arc<str>]>,
) -> String {
    let mut buffer = Vec::with_capacity(256);
    let mut object = Object(&mut buffer);
    object.escaped(",\"peer\":", Some(principal));
    // A decision may have hung on another name than the first.
    if names.len() > 1 {
        object.plain(",\"names\":", &serde_json::to_string(names).unwrap_or_default());
    }
    object.escaped(",\"serial\":", serial);
    if let Some(roles) = roles {
        let roles: Vec<&str> = roles.iter().map(|role| &**role).collect();
        object.plain(",\"roles\":", &serde_json::to_string(&roles).unwrap_or_default());
    }
    String::from_utf8(buffer).unwrap_or_default()
}

/// What is the same in all lines of a user or service: its name, what its credential says of it, and its roles.
pub(crate) fn subject_in_json(principal: &str, facts: &[String], roles: &[Arc<str>]) -> String {
    let mut buffer = Vec::with_capacity(256);
    let mut object = Object(&mut buffer);
    object.escaped(",\"subject\":", Some(principal));
    if !facts.is_empty() {
        object.plain(",\"subject_facts\":", &serde_json::to_string(facts).unwrap_or_default());
    }
    let roles: Vec<&str> = roles.iter().map(|role| &**role).collect();
    object.plain(",\"subject_roles\":", &serde_json::to_string(&roles).unwrap_or_default());
    String::from_utf8(buffer).unwrap_or_default()
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
            self.text.extend_from_slice(b".000000Z");
        }
        let z = self.text.len() - 1;
        last_digits::<10>(since.subsec_micros().into(), self.text.get_mut(z - 6..z).unwrap_or_default());
        std::str::from_utf8(&self.text).unwrap_or_default()
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
    fn what_a_peer_chooses_is_escaped() {
        let line = Line {
            event: Event::Request,
            decision: DecisionId { worker: 1, number: 2 },
            direction: Direction::Inbound,
            route: "llm",
            address: "unix",
            claimed: None,
            peer: None,
            caller: None,
            outcome: Outcome::Denied,
            reason: Some("no_role"),
            detail: Some("a\"b\n\u{1b}[2J"),
            rule: None,
            observed: None,
            limit: None,
            method: Some("GET"),
            path: Some("/\",\"outcome\":\"allowed"),
            fields: None,
            status: Some(StatusCode::FORBIDDEN),
            rotated: false,
            received: 1,
            sent: 2,
            duration: Duration::from_micros(3),
            omitted: 0,
        };
        let mut buffer = Vec::new();
        line.write_to("2026-11-23T03:00:00.000000Z", &mut buffer);
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["outcome"], "denied");
        assert_eq!(value["path"], "/\",\"outcome\":\"allowed");
        assert_eq!(value["detail"], "a\"b\n\u{1b}[2J");
        assert_eq!(value["status"], 403);
        assert_eq!(value["duration_us"], 3);
    }

    #[test]
    fn decision_ids_are_text_of_fixed_length() {
        let id = DecisionId { worker: 0xabc, number: 31 };
        assert_eq!(id.to_string(), "0000000000000abc-000000001f");
    }
}
