//! What `countersign-agent status` tells.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::authenticate::usage::LastUsed;
use crate::given::sources::SourceState;
use crate::record::extra::Queue;

/// The state of an agent at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of the program.
    pub(crate) version: String,
    /// Every route serves, and audit lines flow.
    pub(crate) ready: bool,
    /// Nothing new is taken.
    pub(crate) draining: bool,
    /// Connections that others opened to this agent.
    pub(crate) connections: usize,
    /// Grows with each change of config, identity or trust that was taken up.
    pub(crate) generation: u64,
    /// What is wrong with the newest config; the one before is in use then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config_error: Option<String>,
    /// Audit lines cannot be written, or a sink that must have them all is full.
    pub(crate) audit_failing: bool,
    /// Additional audit sinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) audit_sinks: Vec<AuditSinkStatus>,
    /// The CA that this host has joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<CaStatus>,
    /// Inbounds and outbounds.
    pub(crate) routes: Vec<RouteStatus>,
    /// Own identities.
    pub(crate) identities: Vec<IdentityStatus>,
    /// Where credentials for backends come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<SourceState>,
}

/// The API keys of a running agent, which `countersign-agent key` asks for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct KeysStatus {
    /// The file of its config, as it was started with; not told by every version.
    #[serde(default)]
    pub(crate) config: Option<PathBuf>,
    /// Where the keys are that count; none if no inbound takes any.
    pub(crate) file: Option<PathBuf>,
    /// When each was used last.
    pub(crate) last_used: LastUsed,
}

/// One additional audit sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuditSinkStatus {
    pub(crate) name: String,
    /// Lines cannot be delivered now.
    pub(crate) failing: bool,
    /// Lines that it did not get since the agent began.
    pub(crate) dropped: u64,
}

impl AuditSinkStatus {
    /// The state of a queue.
    pub(crate) fn of(queue: &Queue) -> Self {
        Self { name: queue.name().to_owned(), failing: queue.is_failing(), dropped: queue.dropped() }
    }
}

/// The CA and what it last said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CaStatus {
    pub(crate) address: String,
    pub(crate) trust_domain: String,
    pub(crate) host_id: String,
    /// Generation of the newest trust update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_generation: Option<u64>,
    /// Identities and serial numbers that are revoked.
    pub(crate) revoked: usize,
    /// Nothing is known of whom to trust: nobody is believed until the CA can be asked.
    pub(crate) trust_lost: bool,
    /// Why state cannot be stored; none while it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage_error: Option<String>,
}

/// One inbound or outbound.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RouteStatus {
    pub(crate) direction: String,
    pub(crate) name: String,
    pub(crate) identity: String,
    /// Where it listens; none while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listening: Option<String>,
    /// What it waits for; none while it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_for: Option<String>,
}

/// One own identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IdentityStatus {
    pub(crate) identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_after: Option<String>,
    /// Seconds until it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_left: Option<u64>,
    /// When it will be renewed; none for files that somebody else keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) renewal_due: Option<String>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) renewal_error: Option<String>,
}

impl Status {
    /// As people read it.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = vec![format!(
            "countersign-agent {}: {}{}, {} connections, generation {}",
            self.version,
            if self.ready { "ready" } else { "not ready" },
            if self.draining { ", draining" } else { "" },
            self.connections,
            self.generation
        )];
        if self.audit_failing {
            let becomes = "when_full of [audit] or of a sink says what becomes of new requests";
            lines.push(format!("audit lines cannot be written; {becomes}"));
        }
        for sink in self.audit_sinks.iter().filter(|sink| sink.failing || sink.dropped > 0) {
            let works = if sink.failing { "does not work" } else { "works again" };
            lines.push(format!("audit sink {} {works}, {} lines were dropped", sink.name, sink.dropped));
        }
        if let Some(error) = &self.config_error {
            lines.push(format!("the newest config is refused, the one before is in use:\n{error}"));
        }
        if let Some(ca) = &self.ca {
            lines.push(format!("ca {}: {} as {}, {} revoked", ca.address, ca.trust_domain, ca.host_id, ca.revoked));
            if ca.trust_lost {
                lines.push("  whom to trust is not known; nobody is believed until the CA answers".to_owned());
            }
            lines.extend(ca.storage_error.iter().map(|error| format!("  state cannot be stored: {error}")));
        }
        for route in &self.routes {
            let place = match (&route.listening, &route.waiting_for) {
                (_, Some(cause)) => format!("waits for {cause}"),
                (Some(address), None) => address.clone(),
                (None, None) => "closed".to_owned(),
            };
            lines.push(format!("{} {}: {place} as {}", route.direction, route.name, route.identity));
        }
        for identity in &self.identities {
            let until = identity.not_after.as_deref().unwrap_or("not issued yet");
            let due = identity.renewal_due.as_ref().map(|due| format!(", renewal due {due}")).unwrap_or_default();
            lines.push(format!("identity {}: until {until}{due}", identity.identity));
            lines.extend(identity.renewal_error.iter().map(|error| format!("  last attempt failed: {error}")));
        }
        for source in &self.sources {
            lines.extend(source.error.iter().map(|error| format!("{}: the last attempt failed: {error}", source.name)));
        }
        lines.join("\n") + "\n"
    }
}
