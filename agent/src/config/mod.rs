//! The config: read, checked as a whole, and used only when nothing is wrong with it. Only this module reads files of the
//! operator and the environment.

pub(crate) mod file;

pub(crate) mod checked;

pub(crate) mod audit;

pub(crate) mod lists;

pub(crate) mod address;

pub(crate) mod secret;

mod check;

pub(crate) use check::credentials::{KeysError, read_keys};
pub(crate) use check::domains::read_authorities;

#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;

use countersign_audit::catalogue::ConfigChange;
use countersign_certs::digest::{hexadecimal, sha256};
use countersign_certs::settings::diagnostic::{Diagnostic, SecretLines};
use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::store::{self, StoreError};
use countersign_certs::time::Timestamp;

use toml::de::DeTable;

/// What an `[inbound.inject]` adds is a secret, wherever it was written by mistake.
const SECRETS: SecretLines = SecretLines {
    key: "value",
    reminders: &["next", "phrase", "secret", "token"],
    hint: "name a secret where it is, as in value = \"Bearer ${credential:NAME}\", ${file:/PATH} or ${env:NAME}",
};

/// Whether the secrets that a config names are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Only how they are named is checked: an operator's shell has no systemd credentials.
    Named,
    /// They are read; the agent is about to use them.
    Read,
}

/// Why no config can be had from a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// What is written is wrong.
    #[error("{0}")]
    Refused(Diagnostic),
    /// The file cannot be read at all.
    #[error("the config cannot be read")]
    Store(#[from] StoreError),
    /// The file is not text.
    #[error("{0} is not UTF-8")]
    NotText(String),
}

/// Reads and checks a config file. `enrolled` is the trust domain that this host has joined, if any.
pub(crate) fn load(
    path: &Path,
    enrolled: Option<&TrustDomain>,
    secrets: Secrets,
) -> Result<checked::Agent, ConfigError> {
    let (name, text) = read(path)?;
    parse(&name, &text, enrolled, secrets)
}

/// Checks a config text. `name` is shown in errors.
pub(crate) fn parse(
    name: &str,
    text: &str,
    enrolled: Option<&TrustDomain>,
    secrets: Secrets,
) -> Result<checked::Agent, ConfigError> {
    check::agent(written(name, text)?, enrolled, secrets)
        .map_err(|finding| ConfigError::Refused(Diagnostic::new(name, text, finding, &SECRETS)))
}

/// The state folder that a config names, read on its own: what the host has enrolled in must be known before the rest can
/// be checked.
pub(crate) fn state_dir(path: &Path) -> Result<Option<std::path::PathBuf>, ConfigError> {
    let (name, text) = read(path)?;
    Ok(written(&name, &text)?.state_dir)
}

/// Where the control socket of a config is; its other parts are not looked at. An agent goes on with its last good config
/// while its file is broken, and must be reachable then above all: what can be read of a broken file is.
pub(crate) fn control_socket(path: &Path) -> Result<std::path::PathBuf, ConfigError> {
    let (_, text) = read(path)?;
    let (table, _what_is_broken) = DeTable::parse_recoverable(&text);
    let control = table.get_ref().get("control").and_then(|control| control.get_ref().as_table());
    let socket = control.and_then(|control| control.get("socket")).and_then(|socket| socket.get_ref().as_str());
    Ok(socket.unwrap_or(checked::CONTROL_SOCKET).into())
}

/// Opens an audit file to read it again.
pub(crate) fn open_audit(path: &Path) -> std::io::Result<impl std::io::Read> {
    std::fs::File::open(path)
}

/// What an auditor wants to know of a config file: its content's hash, whose it is, and when it was changed.
pub(crate) fn provenance(path: &Path) -> ConfigChange {
    let content = store::read(path).ok();
    let status = rustix::fs::stat(path).ok();
    let modified = status.as_ref().and_then(|status| u64::try_from(status.st_mtime).ok());
    ConfigChange {
        path: path.display().to_string(),
        sha256: content.map(|content| hexadecimal(&sha256(&content))),
        owner_uid: status.map(|status| status.st_uid),
        modified: modified.map(|seconds| Timestamp::from_unix_seconds(seconds).to_string()),
        error: None,
    }
}

fn read(path: &Path) -> Result<(String, String), ConfigError> {
    let name = path.display().to_string();
    let bytes = store::read(path)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok((name, text.to_owned())),
        Err(_not_text) => Err(ConfigError::NotText(name)),
    }
}

fn written(name: &str, text: &str) -> Result<file::Agent, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Refused(Diagnostic::of_toml(name, text, &error, &SECRETS)))
}
