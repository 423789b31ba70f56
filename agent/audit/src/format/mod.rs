//! The same events in the formats of other people's tools. A line is converted by itself; nothing is remembered.

mod cef;
mod ecs;
mod ocsf;

use std::str::FromStr;

use crate::catalogue::{Access, Entry, Event};

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// ArcSight's Common Event Format, version 0.
    Cef,
    /// Elastic Common Schema 8, as JSON.
    Ecs,
    /// As it is stored.
    #[default]
    Json,
    /// Open Cybersecurity Schema Framework 1.5, as JSON.
    Ocsf,
}

/// A word that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {0:?}; it is json, ocsf, ecs or cef")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cef" => Ok(Self::Cef),
            "ecs" => Ok(Self::Ecs),
            "json" => Ok(Self::Json),
            "ocsf" => Ok(Self::Ocsf),
            other => Err(FormatError(other.to_owned())),
        }
    }
}

/// What of an event every format wants to know.
pub(crate) struct Gist<'entry> {
    /// Whether it went well; nothing where that is no question.
    pub(crate) success: Option<bool>,
    pub(crate) severity: Severity,
    /// A sentence for people.
    pub(crate) message: String,
    /// Who did it, or tried to.
    pub(crate) subject: Option<&'entry str>,
    /// Where it came from, with its port.
    pub(crate) address: Option<&'entry str>,
}

/// How much an event should worry somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to worry about.
    Informational,
    /// Somebody was refused.
    Low,
    /// Something does not work, or somebody tries.
    Medium,
    /// The record itself has a hole, or somebody is locked out.
    High,
}

impl Format {
    /// A stored line, without its newline, in this format, without a newline.
    ///
    /// # Errors
    /// It is no line of the catalogue.
    pub fn convert(self, line: &str) -> Result<String, serde_json::Error> {
        if self == Self::Json {
            return Ok(line.to_owned());
        }
        let entry = Entry::parse(line)?;
        Ok(match self {
            Self::Cef => cef::convert(&entry),
            Self::Ecs => ecs::convert(&entry, line),
            Self::Json => line.to_owned(),
            Self::Ocsf => ocsf::convert(&entry, line),
        })
    }
}

impl Entry {
    /// How much it should worry somebody.
    pub fn severity(&self) -> Severity {
        self.gist().severity
    }

    /// A sentence for people.
    pub fn message(&self) -> String {
        self.gist().message
    }

    pub(crate) fn gist(&self) -> Gist<'_> {
        use Severity::{High, Informational, Low, Medium};
        let of = |success, severity, message: String| Gist { success, severity, message, subject: None, address: None };
        match &self.event {
            Event::Connection(access) => Gist::of_access(access, "connection"),
            Event::Request(access) => Gist::of_access(access, "request"),
            Event::AgentStarted(agent) => of(Some(true), Informational, format!("agent {} started", agent.version)),
            Event::AgentStopped(agent) => of(Some(true), Informational, format!("agent {} stopped", agent.version)),
            Event::AuditGap(gap) => of(Some(false), High, format!("{} audit lines were left out", gap.count)),
            Event::AuditOpened(opened) => {
                of(Some(true), Informational, format!("audit segment {} opened", opened.segment))
            }
            Event::AuditRecovered(found) => {
                of(Some(true), Medium, format!("audit segment {} was not sealed", found.segment))
            }
            Event::AuditRetired(retired) => {
                of(Some(true), Informational, format!("audit segments through {} removed", retired.through))
            }
            Event::AuditSealed(sealed) => {
                of(Some(true), Informational, format!("audit segment {} sealed", sealed.segment))
            }
            Event::Authentication(tried) => {
                let success = tried.outcome == "success";
                let message = format!("authentication by {}: {}", tried.method, tried.outcome);
                let severity = if success { Informational } else { Medium };
                let (subject, address) = (tried.subject.as_deref(), tried.address.as_deref());
                Gist { subject, address, ..of(Some(success), severity, message) }
            }
            Event::ConfigLoaded(change) => of(Some(true), Informational, format!("config {} taken up", change.path)),
            Event::ConfigRefused(change) => of(Some(false), Medium, format!("config {} refused", change.path)),
            Event::ControlCommand(command) => {
                of(Some(true), Informational, format!("command {} given", command.command))
            }
            Event::CredentialRotated(rotated) => {
                of(Some(true), Informational, format!("{} {} rotated", rotated.credential, rotated.name))
            }
            Event::KeyCreated(key)
            | Event::KeyDisabled(key)
            | Event::KeyEnabled(key)
            | Event::KeyRevoked(key)
            | Event::KeyRotated(key) => {
                let done = self.event.name().trim_start_matches("key_");
                Gist { subject: Some(&key.key), ..of(Some(true), Informational, format!("API key {} {done}", key.key)) }
            }
            Event::LimitHit(hit) => Gist {
                subject: hit.subject.as_deref(),
                ..of(Some(false), Low, format!("limit {} reached {} times", hit.limit, hit.count))
            },
            Event::Lockout(lockout) => Gist {
                subject: Some(&lockout.subject),
                ..of(Some(true), High, format!("{} locked out", lockout.subject))
            },
            Event::OmittedLines(lines) => {
                of(None, Medium, format!("{} more lines of {} were left out", lines.count, lines.of))
            }
            Event::Pattern(pattern) => Gist {
                subject: pattern.subject.as_deref(),
                ..of(None, Medium, format!("pattern {} seen {} times", pattern.pattern, pattern.count))
            },
            Event::PolicyObserved(observed) => Gist {
                subject: observed.peer.as_deref(),
                ..of(None, Informational, format!("policy {} would say: {}", observed.policy, observed.outcome))
            },
            Event::Unknown => of(None, Informational, "an event that this version does not know".to_owned()),
            Event::UnrecordedRefusals(refusals) => {
                of(Some(false), High, format!("{} refusals were only counted", refusals.count))
            }
        }
    }
}

impl<'entry> Gist<'entry> {
    fn of_access(access: &'entry Access, what: &str) -> Self {
        let (success, severity) = match access.outcome.as_str() {
            "allowed" | "cancelled" => (true, Severity::Informational),
            "denied" | "cut" => (false, Severity::Low),
            _ => (false, Severity::Medium),
        };
        // Whom a request is made for comes before the workload that makes it.
        let subject = access.subject.as_deref().or(access.peer.as_deref()).or(access.claimed.as_deref());
        let who = subject.unwrap_or("somebody");
        let Access { direction, route, outcome, method, path, reason, .. } = access;
        let mut message = format!("{direction} {what} of {who} at {route}");
        if let (Some(method), Some(path)) = (method, path) {
            message.push_str(&format!(", {method} {path}"));
        }
        message.push_str(&format!(": {outcome}"));
        if let Some(reason) = reason {
            message.push_str(&format!(" ({reason})"));
        }
        Gist { success: Some(success), severity, message, subject, address: Some(&access.address) }
    }
}

/// The two parts of an address; a Unix socket has no port.
pub(crate) fn ip_and_port(address: &str) -> Option<(String, u16)> {
    let parsed: std::net::SocketAddr = address.parse().ok()?;
    Some((parsed.ip().to_string(), parsed.port()))
}

#[cfg(test)]
mod tests;
