//! The one catalogue of audit events, as types. [`table`] says the same in words, and makes the JSON Schema and the page of it.
//!
//! A line is one JSON object. Its schema has a number; within one number keys and events are only added, never renamed.

pub mod table;

#[cfg(test)]
pub(crate) mod samples;

use std::time::SystemTime;

use countersign_certs::digest::Fingerprint;
use countersign_certs::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The number of the schema that lines are written in.
pub const SCHEMA: u32 = 1;

/// Longest line in bytes, its newline included. Six times the largest header that the agent takes, which is what escaping can
/// make of one, and room beside it.
pub const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One line, as it is read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The number of its schema.
    pub schema: u32,
    /// When, in UTC with microseconds (RFC 3339).
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
    /// The value of the hash chain after this line; only in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The agent began.
    AgentStarted(AgentStarted),
    /// The agent ended in order.
    AgentStopped(AgentStopped),
    /// Lines were left out: there was no more room for them, or an additional sink did not get them.
    AuditGap(AuditGap),
    /// The first line of a segment.
    AuditOpened(AuditOpened),
    /// A segment before this one was not sealed, because the agent did not end in order.
    AuditRecovered(AuditRecovered),
    /// Old segments are removed because of their age or size.
    AuditRetired(AuditRetired),
    /// The last line of a segment.
    AuditSealed(AuditSealed),
    /// Somebody proved, or failed to prove, who they are by something other than the certificate of the connection.
    Authentication(Authentication),
    /// A config was taken up.
    ConfigLoaded(ConfigChange),
    /// A config was refused; the one before stays in use.
    ConfigRefused(ConfigChange),
    /// A connection has ended.
    Connection(Access),
    /// An operator gave a command that changes something.
    ControlCommand(ControlCommand),
    /// An own certificate or an injected secret is another one now.
    CredentialRotated(CredentialRotated),
    /// An API key was made.
    KeyCreated(KeyChange),
    /// An API key may not be used for now.
    KeyDisabled(KeyChange),
    /// A disabled API key may be used again.
    KeyEnabled(KeyChange),
    /// An API key is ended for ever.
    KeyRevoked(KeyChange),
    /// An API key has a new secret.
    KeyRotated(KeyChange),
    /// A limit refused something.
    LimitHit(LimitHit),
    /// Somebody failed too often and is not listened to for a while.
    Lockout(Lockout),
    /// Lines were left out because there were too many like them, and no later line counts them.
    OmittedLines(OmittedLines),
    /// Something odd was seen.
    Pattern(Pattern),
    /// A policy that is only observed would have decided so.
    PolicyObserved(PolicyObserved),
    /// A request has ended.
    Request(Access),
    /// What was refused while nothing could be written was only counted.
    UnrecordedRefusals(UnrecordedRefusals),
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A connection or a request: who, whereto, what was decided and why, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Access {
    /// The ID of the decision, by which `explain` finds it.
    pub decision: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The name of the route in the config.
    pub route: String,
    /// Where the peer called from.
    pub address: String,
    /// The peer's verified name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// All of its verified names, if it has more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The serial number of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// Who asks, if it is not the peer for itself: `service`, `user` or `workload_on_behalf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The user or service with a credential of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What its credential says of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_facts: Vec<String>,
    /// Its roles, on which was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_roles: Option<Vec<String>>,
    /// What it showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Whom a refused certificate named. Nobody vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// `allowed`, `cancelled`, `cut`, `denied` or `failed`. A connection on which nobody has proved who asks was not allowed anything: it
    /// is cancelled when it ends.
    pub outcome: String,
    /// Why, in one fixed word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The rule that allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the rules that are only observed would have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// The limit that refused it, or would have if it did not only watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// The method that was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path as it was sent, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Request headers that the config lists, `name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Parameters of the query that the config lists, `name=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
    /// The HTTP status that the peer got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The backend has refused the credential that it was given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credential_rotated: bool,
    /// Bytes from the peer: of a request's body, a WebSocket or plain TCP. Zero in the line of an HTTP connection.
    pub received_bytes: u64,
    /// Bytes to the peer, likewise.
    pub sent_bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Lines like this one that were left out before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<u64>,
    /// Keys that were added to the catalogue later than this type.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// See [`Event::AgentStarted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStarted {
    /// Its version.
    pub version: String,
    /// Its process ID.
    pub pid: u32,
}

/// See [`Event::AgentStopped`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStopped {
    /// Its version.
    pub version: String,
    /// Its process ID.
    pub pid: u32,
}

/// See [`Event::AuditGap`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditGap {
    /// How many lines were left out.
    pub count: u64,
    /// The additional sink that did not get them; none if they are in no record at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
}

/// See [`Event::AuditOpened`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditOpened {
    /// Its number, from 1.
    pub segment: u64,
    /// The value of the chain before it; zeros in the first.
    pub previous: Fingerprint,
    /// The version of the agent.
    pub version: String,
    /// The host's identity, or its name where it has none.
    pub host: String,
    /// The Ed25519 key that will sign the seal, 32 bytes in base64.
    pub public_key: String,
}

/// See [`Event::AuditRecovered`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecovered {
    /// The number of the segment that was not sealed.
    pub segment: u64,
    /// Its whole lines.
    pub lines: u64,
    /// The value of the chain after them.
    pub last: Fingerprint,
    /// Bytes after them, which are left as they are.
    pub torn_bytes: u64,
    /// SHA-256 of those bytes.
    pub torn_sha256: Fingerprint,
}

/// See [`Event::AuditRetired`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRetired {
    /// The number of the last segment that is removed; those before it are gone too.
    pub through: u64,
    /// `age` or `size`.
    pub reason: String,
}

/// See [`Event::AuditSealed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditSealed {
    /// The number of the segment.
    pub segment: u64,
    /// Lines before this one.
    pub lines: u64,
    /// The value of the chain before this line.
    pub last: Fingerprint,
    /// The signature, in base64; see [`crate::chain`] for what it covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// See [`Event::Authentication`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Authentication {
    /// By what: `api_key`, `jwt`, ... Of a failure, what would have been taken.
    pub method: String,
    /// `success` or `failure`.
    pub outcome: String,
    /// Why it failed, in one fixed word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who it is. Not told of a failure: what was shown then is nobody's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where the caller called from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The name of the route in the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Lines like this one that were left out before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<u64>,
}

/// See [`Event::ConfigLoaded`] and [`Event::ConfigRefused`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The file.
    pub path: String,
    /// SHA-256 of its content; none if it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The user who owns the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_uid: Option<u32>,
    /// When it was last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
    /// What is wrong with it, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// See [`Event::ControlCommand`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlCommand {
    /// The command.
    pub command: String,
    /// The user who gave it, as the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_uid: Option<u32>,
    /// What it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// See [`Event::CredentialRotated`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CredentialRotated {
    /// `certificate` or `injected_secret`.
    pub credential: String,
    /// The identity of a certificate; the inbound and the header of a secret.
    pub name: String,
    /// The serial number of the new certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When the new certificate ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// See [`Event::KeyCreated`] and the others of API keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The public ID of the key. Never its secret.
    pub key: String,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The user who owns the file of keys, as whom the command ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_uid: Option<u32>,
    /// When the key ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// See [`Event::LimitHit`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitHit {
    /// The name of the limit.
    pub limit: String,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The name of the route in the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// How often since the last such line.
    pub count: u64,
}

/// See [`Event::Lockout`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lockout {
    /// The name and the address that it was tried from.
    pub subject: String,
    /// Until when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Lines like this one that were left out before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<u64>,
}

/// See [`Event::OmittedLines`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OmittedLines {
    /// The word of their event; `refusal` for connections and requests.
    pub of: String,
    /// The reason, or the name of the pattern, that they have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
}

/// See [`Event::Pattern`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// The name of the pattern.
    pub pattern: String,
    /// Who shows it: a name or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The name of the route in the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// How often.
    pub count: u64,
    /// Within how many seconds.
    pub seconds: u64,
    /// Lines like this one that were left out before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<u64>,
}

/// See [`Event::PolicyObserved`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyObserved {
    /// The ID of the decision that was made all the same.
    pub decision: String,
    /// What would have been decided otherwise, in words.
    pub policy: String,
    /// What it would have said: `allowed` or `denied`.
    pub outcome: String,
    /// The name of the route in the config.
    pub route: String,
    /// The peer's verified name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Lines like this one that were left out before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<u64>,
}

/// See [`Event::UnrecordedRefusals`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnrecordedRefusals {
    /// How many.
    pub count: u64,
}

impl Access {
    /// The roles of whom it was made for: of the user or service, and of the peer where it asks for itself.
    pub(crate) fn roles_of_whom_it_is_for(&self) -> Option<&Vec<String>> {
        if self.subject.is_some() { self.subject_roles.as_ref() } else { self.roles.as_ref() }
    }
}

impl Entry {
    /// An entry of this schema, not yet in a chain.
    pub fn new(event: Event, time: SystemTime) -> Self {
        Self { schema: SCHEMA, time: time_text(time), event, chain: None }
    }

    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    /// It is no JSON object of the catalogue.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The line without a newline.
    pub fn to_line(&self) -> String {
        // Every part is text or a number; writing those into memory does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Event {
    /// Its word in lines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AgentStarted(_) => "agent_started",
            Self::AgentStopped(_) => "agent_stopped",
            Self::AuditGap(_) => "audit_gap",
            Self::AuditOpened(_) => "audit_opened",
            Self::AuditRecovered(_) => "audit_recovered",
            Self::AuditRetired(_) => "audit_retired",
            Self::AuditSealed(_) => "audit_sealed",
            Self::Authentication(_) => "authentication",
            Self::ConfigLoaded(_) => "config_loaded",
            Self::ConfigRefused(_) => "config_refused",
            Self::Connection(_) => "connection",
            Self::ControlCommand(_) => "control_command",
            Self::CredentialRotated(_) => "credential_rotated",
            Self::KeyCreated(_) => "key_created",
            Self::KeyDisabled(_) => "key_disabled",
            Self::KeyEnabled(_) => "key_enabled",
            Self::KeyRevoked(_) => "key_revoked",
            Self::KeyRotated(_) => "key_rotated",
            Self::LimitHit(_) => "limit_hit",
            Self::Lockout(_) => "lockout",
            Self::OmittedLines(_) => "omitted_lines",
            Self::Pattern(_) => "pattern",
            Self::PolicyObserved(_) => "policy_observed",
            Self::Request(_) => "request",
            Self::Unknown => "unknown",
            Self::UnrecordedRefusals(_) => "unrecorded_refusals",
        }
    }
}

/// A point in time as lines have it: RFC 3339 in UTC with six digits after the second. Times before 1970 become 1970.
pub fn time_text(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let whole = Timestamp::from_unix_seconds(since.as_secs()).to_string();
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), since.subsec_micros())
}

/// Microseconds since 1970 of a line's time; none if it is no RFC 3339.
pub fn unix_microseconds(time: &str) -> Option<u64> {
    let parsed = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).ok()?;
    u64::try_from(parsed.unix_timestamp_nanos() / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_read_as_they_print() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_402_800_000_001);
        assert_eq!(time_text(at), "2026-11-23T03:00:00.000001Z");
        assert_eq!(unix_microseconds("2026-11-23T03:00:00.000001Z"), Some(1_795_402_800_000_001));
        assert_eq!(unix_microseconds("yesterday"), None);
    }

    #[test]
    fn a_line_of_an_agent_is_read_whole_with_keys_that_came_later() {
        let line = r#"{"schema":1,"time":"2026-11-23T03:00:00.000000Z","event":"request","decision":"a-b","direction":"inbound","route":"llm","address":"127.0.0.1:1","peer":"spiffe://a/b","roles":["r"],"outcome":"allowed","method":"GET","path":"/","status":200,"received_bytes":1,"sent_bytes":2,"duration_us":3,"later":{"a":1},"chain":"00"}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!(entry.chain.as_deref(), Some("00"));
        let Event::Request(access) = &entry.event else { panic!("{entry:?}") };
        assert_eq!((access.status, access.sent_bytes), (Some(200), 2));
        assert_eq!(access.more.get("later"), Some(&serde_json::json!({ "a": 1 })));
        assert_eq!(access.more.len(), 1);
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&entry).unwrap(), value, "nothing is lost");
    }

    #[test]
    fn an_event_of_a_later_version_is_read_as_unknown() {
        let entry = Entry::parse(r#"{"schema":2,"time":"t","event":"moon_phase","phase":3}"#).unwrap();
        assert_eq!(entry.event, Event::Unknown);
    }
}
