//! Tells the auditor what happens to the agent itself: its start and end, its configs, its certificates and secrets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use countersign_audit::catalogue::{AgentStarted, AgentStopped, ControlCommand, CredentialRotated, Event, KeyChange};
use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::Clock;
use countersign_credentials::api_key::{KeyChangeKind, KeyIndex};

use crate::assemble::Taken;
use crate::config;
use crate::config::checked::{self, Injection};
use crate::identity::Credentials;
use crate::record::sink::Sink;

/// Writes events, each change once.
pub(crate) struct Teller {
    sink: Sink,
    clock: Clock,
    told: RefCell<Told>,
}

/// What was told last.
#[derive(Default)]
struct Told {
    /// SHA-256 of the config in use.
    config: Option<String>,
    /// Serial numbers of own certificates.
    serials: BTreeMap<San, String>,
}

impl Teller {
    /// Nothing told yet.
    pub(crate) fn new(sink: Sink, clock: Clock) -> Self {
        Self { sink, clock, told: RefCell::default() }
    }

    /// The agent begins with this config.
    pub(crate) fn started(&self, path: &Path, taken: &Taken, credentials: &Credentials) {
        self.told.borrow_mut().serials = serials(taken, credentials).map(|(name, serial, _)| (name, serial)).collect();
        self.tell(Event::AgentStarted(AgentStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }));
        self.config_loaded(path);
    }

    /// The agent ends in order.
    pub(crate) fn stopped(&self) {
        self.tell(Event::AgentStopped(AgentStopped {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        }));
    }

    /// A config was taken up. Its file may be the same as before while the secrets that it names are others.
    pub(crate) fn config_taken_up(&self, path: &Path, before: &checked::Agent, now: &checked::Agent) {
        self.config_loaded(path);
        self.keys_changed(before, now);
        for name in other_secrets(before, now) {
            self.tell(Event::CredentialRotated(CredentialRotated {
                credential: "injected_secret".to_owned(),
                name,
                serial: None,
                not_after: None,
            }));
        }
    }

    /// The file of keys was read again.
    pub(crate) fn keys_changed(&self, before: &checked::Agent, now: &checked::Agent) {
        let Some(keys) = &now.accepted.api_keys else { return };
        let uid = config::provenance(&keys.file).owner_uid;
        let empty = KeyIndex::default();
        let old = before.accepted.keys().unwrap_or(&empty);
        for change in keys.index.changes_since(old) {
            let told = KeyChange {
                key: change.key.id.to_string(),
                owner: Some(change.key.owner.clone()),
                caller_uid: uid,
                expires: change.key.expires.map(|at| at.to_string()),
            };
            self.tell(match change.kind {
                KeyChangeKind::Created => Event::KeyCreated(told),
                KeyChangeKind::Disabled => Event::KeyDisabled(told),
                KeyChangeKind::Enabled => Event::KeyEnabled(told),
                KeyChangeKind::Revoked => Event::KeyRevoked(told),
                KeyChangeKind::Rotated => Event::KeyRotated(told),
            });
        }
    }

    /// A config was refused.
    pub(crate) fn config_refused(&self, path: &Path, error: String) {
        let mut change = config::provenance(path);
        change.error = Some(error);
        self.tell(Event::ConfigRefused(change));
    }

    /// These are the own certificates now.
    pub(crate) fn certificates(&self, taken: &Taken, credentials: &Credentials) {
        for (name, serial, svid) in serials(taken, credentials) {
            let told = self.told.borrow_mut().serials.insert(name.clone(), serial.clone());
            if told.as_ref() != Some(&serial) {
                self.tell(Event::CredentialRotated(CredentialRotated {
                    credential: "certificate".to_owned(),
                    name: name.to_string(),
                    serial: Some(serial),
                    not_after: Some(svid.usable().not_after.to_string()),
                }));
            }
        }
    }

    /// An operator gave a command at the control socket.
    pub(crate) fn command(&self, command: &str, caller_uid: Option<u32>, subject: Option<String>) {
        self.tell(Event::ControlCommand(ControlCommand { command: command.to_owned(), caller_uid, subject }));
    }

    fn config_loaded(&self, path: &Path) {
        let change = config::provenance(path);
        if change.sha256.is_some() && self.told.borrow().config == change.sha256 {
            return;
        }
        self.told.borrow_mut().config.clone_from(&change.sha256);
        self.tell(Event::ConfigLoaded(change));
    }

    fn tell(&self, event: Event) {
        self.sink.event(event, self.clock.precise());
    }
}

fn serials(taken: &Taken, credentials: &Credentials) -> impl Iterator<Item = (San, String, Arc<X509Svid>)> {
    let all = credentials.svids.iter().chain(&taken.files.svids);
    let all: Vec<_> =
        all.map(|(name, svid)| (name.clone(), svid.leaf().serial().to_string(), Arc::clone(svid))).collect();
    all.into_iter()
}

/// Where both configs inject into the same place, but another value.
fn other_secrets(before: &checked::Agent, now: &checked::Agent) -> Vec<String> {
    let mut others = Vec::new();
    for inbound in &now.inbounds {
        let Some(old) = before.inbounds.iter().find(|old| old.name == inbound.name) else { continue };
        let was = |injection: &Injection| old.inject.iter().find(|was| was.form.place() == injection.form.place());
        let is_other = |injection: &&Injection| was(injection).is_some_and(|was| was.value != injection.value);
        others.extend(inbound.inject.iter().filter(is_other).map(|is| format!("{} {}", inbound.name, is.form.place())));
    }
    others
}

/// Who writes: the identity of an enrolled host, or else the machine's name.
pub(crate) fn host(enrolled: Option<String>) -> String {
    enrolled.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
