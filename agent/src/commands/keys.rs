//! `key`: makes and ends API keys, while an agent runs or not. A running agent watches the file and takes up what has changed.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_certs::settings::duration;
use countersign_certs::store::{self, StoreError};
use countersign_certs::time::{Clock, Timestamp};
use countersign_credentials::api_key::{
    ApiKey, EditError, KeyFile, KeyFileError, KeyId, KeyRecord, KeyState, NewKey, NoRandomness,
};
use http::Method;
use serde::Serialize;

use crate::authenticate::usage;
use crate::cli::{KeyCommand, NewKeyArguments};
use crate::config::{KeysError, Secrets, checked, read_keys};
use crate::control::client;
use crate::control::server::KEYS_PATH;
use crate::control::status::KeysStatus;
use crate::run::{self, RunError};

/// Why keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyCommandError {
    #[error("the agent that answers at {socket} runs with {running}, not with {given}; which keys are meant?")]
    AnotherConfig { socket: PathBuf, running: PathBuf, given: PathBuf },
    #[error("{what} {text:?} is no duration: {error}")]
    Duration { what: &'static str, text: String, error: String },
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("no inbound takes API keys; name \"api_key\" in its require or any_of")]
    NotAccepted,
    #[error("{folder} belongs to user {owner}, and this is user {own}; the agent could not read what is written here")]
    NotOwner { folder: PathBuf, owner: u32, own: u32 },
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no {what} {name:?}; there are: {known}")]
    Unknown { what: &'static str, name: String, known: String },
}

/// One key as `key list` shows it.
#[derive(Debug, Serialize)]
struct Listed<'file> {
    key: &'file KeyRecord,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<Timestamp>,
}

/// A key that was just made, with its secret. This is the only time that it is shown.
#[derive(Debug, Serialize)]
struct Made<'key> {
    id: &'key KeyId,
    key: &'key str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    /// Until when the secret before is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    before_ends: Option<Timestamp>,
}

/// Carries out one of the commands; what it returns is printed.
pub(crate) async fn carry_out(command: KeyCommand, clock: &Clock) -> Result<String, KeyCommandError> {
    let now = clock.now();
    match command {
        KeyCommand::Create { config, new, json } => create(&config.path, new, json, now),
        KeyCommand::List { config, unused_for, json } => list(&config.path, unused_for.as_deref(), json, now).await,
        KeyCommand::Rotate { config, id, overlap, json } => rotate(&config.path, &id, &overlap, json, now).await,
        KeyCommand::Disable { config, id } => {
            edit_in_use(&config.path, |keys| keys.disable(&id, now)).await.map(|()| format!("{id} is disabled\n"))
        }
        KeyCommand::Enable { config, id } => {
            edit_in_use(&config.path, |keys| keys.enable(&id).map(drop)).await.map(|()| format!("{id} is enabled\n"))
        }
        KeyCommand::Revoke { config, id } => {
            edit_in_use(&config.path, |keys| keys.revoke(&id, now)).await.map(|()| format!("{id} is revoked\n"))
        }
    }
}

fn create(config: &Path, new: NewKeyArguments, json: bool, now: Timestamp) -> Result<String, KeyCommandError> {
    let (secret, id) = (ApiKey::generate()?, KeyId::generate()?);
    let expires = new.expires.as_deref().map(|text| span("--expires", text)).transpose()?;
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let config = run::load(config, Secrets::Named)?;
    check_names(&config, &new)?;
    let key = edit(&path_of(&config)?, |keys| {
        let new = NewKey {
            owner: new.owner,
            team: new.team,
            roles: new.roles,
            routes: some(new.routes),
            methods: some(new.methods),
            limits: some(new.limits),
            expires: expires.map(|span| now.plus(span)),
            note: new.note.unwrap_or_default(),
        };
        keys.create(id, new, secret.digest(), now)
    })?;
    Ok(made(&Made { id: &key.id, key: secret.expose(), expires: key.expires, before_ends: None }, json))
}

/// Names that nothing has would make a key that opens nothing, and be found out by its owner.
fn check_names(config: &checked::Agent, new: &NewKeyArguments) -> Result<(), KeyCommandError> {
    let check =
        |what, names: &[String], known: Vec<&str>| match names.iter().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(KeyCommandError::Unknown { what, name: name.clone(), known: known.join(", ") }),
            None => Ok(()),
        };
    check("role", &new.roles, config.roles.all_names().iter().map(|name| &**name).collect())?;
    check("inbound", &new.routes, config.inbounds.iter().map(|inbound| &*inbound.name).collect())?;
    let only_named = config.rate_limits.iter().filter(|limit| limit.only_named);
    check("limit with only_named", &new.limits, only_named.map(|limit| &*limit.name).collect())
}

async fn rotate(
    config: &Path,
    id: &KeyId,
    overlap: &str,
    json: bool,
    now: Timestamp,
) -> Result<String, KeyCommandError> {
    let (secret, overlap) = (ApiKey::generate()?, span("--overlap", overlap)?);
    let rotated = edit_in_use(config, |keys| keys.rotate(id, secret.digest(), overlap, now)).await?;
    Ok(made(&Made { id, key: secret.expose(), expires: None, before_ends: rotated.before_ends }, json))
}

fn made(made: &Made<'_>, json: bool) -> String {
    if json { serde_json::to_string(made).unwrap_or_default() + "\n" } else { format!("{}\n", made.key) }
}

async fn list(config: &Path, unused_for: Option<&str>, json: bool, now: Timestamp) -> Result<String, KeyCommandError> {
    let unused_for = unused_for.map(|text| span("--unused-for", text)).transpose()?;
    let running = ask_running(config).await?;
    let path = path_in_use(config, running.as_ref())?;
    let keys = read_keys(&path)?;
    // What the running agent knows, or else what it stored last.
    let used = running.map(|running| running.last_used).or_else(|| usage::read(&path).ok()).unwrap_or_default();
    let listed = keys.keys().iter().map(|key| Listed {
        key,
        state: state_word(key.state(now)),
        last_used: used.get(&key.id).copied(),
    });
    // A key that was made just now has had no time to be used.
    let is_idle = |listed: &Listed<'_>| {
        unused_for.is_none_or(|span| now.since(listed.last_used.unwrap_or(listed.key.created)) >= span)
    };
    let listed: Vec<Listed<'_>> = listed.filter(is_idle).collect();
    if json {
        return Ok(serde_json::to_string(&listed).unwrap_or_default() + "\n");
    }
    Ok(listed.iter().fold(String::new(), |text, listed| text + &listed_line(listed)))
}

/// What an agent with this config says of its keys, if one runs. Another one's keys are not what is meant.
async fn ask_running(config: &Path) -> Result<Option<KeysStatus>, KeyCommandError> {
    let Ok(socket) = crate::config::control_socket(config) else { return Ok(None) };
    let answer = client::ask(&socket, Method::GET, KEYS_PATH).await.ok();
    let running: Option<KeysStatus> = answer.and_then(|answer| serde_json::from_str(&answer).ok());
    match running {
        Some(KeysStatus { config: Some(running), file, .. }) if !is_same(&running, file.as_deref(), config) => {
            Err(KeyCommandError::AnotherConfig { socket, running, given: config.to_owned() })
        }
        running => Ok(running),
    }
}

/// Whether a config is the one that an agent runs with, or another that names the same keys: files may have been moved since.
fn is_same(running: &Path, keys: Option<&Path>, config: &Path) -> bool {
    let is_same_file = match (running.canonicalize(), config.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => running == config,
    };
    let names_the_same =
        || run::load(config, Secrets::Named).is_ok_and(|config| path_of(&config).ok().as_deref() == keys);
    is_same_file || (keys.is_some() && names_the_same())
}

/// The file of keys that counts. An agent that has refused the config that is there now goes on with another one, and perhaps with another
/// file: a key is ended where it opens something.
fn path_in_use(config: &Path, running: Option<&KeysStatus>) -> Result<PathBuf, KeyCommandError> {
    match running.and_then(|running| running.file.clone()) {
        Some(path) => Ok(path),
        None => path_of(&run::load(config, Secrets::Named)?),
    }
}

fn listed_line(listed: &Listed<'_>) -> String {
    let Listed { key, state, last_used } = listed;
    let mut line = format!("{} {state} owner={}", key.id, key.owner);
    let some = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(","));
    let details = [
        ("team", key.team.clone()),
        ("roles", Some(key.roles.join(","))),
        ("routes", some(&key.routes)),
        ("methods", some(&key.methods)),
        ("limits", some(&key.limits)),
        ("expires", key.expires.map(|at| at.to_string())),
        ("last_used", Some(last_used.map_or("never".to_owned(), |at| at.to_string()))),
    ];
    for (name, value) in details.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        // Writing into a String cannot fail.
        let _ = write!(line, " {name}={value}");
    }
    line + "\n"
}

fn state_word(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Disabled(_) => "disabled",
        KeyState::Expired(_) => "expired",
        KeyState::Replaced(_) => "replaced",
        KeyState::Revoked(_) => "revoked",
    }
}

fn span(what: &'static str, text: &str) -> Result<Duration, KeyCommandError> {
    duration::parse(text).map_err(|error| KeyCommandError::Duration {
        what,
        text: text.to_owned(),
        error: error.to_string(),
    })
}

async fn edit_in_use<T>(
    config: &Path,
    change: impl FnOnce(&mut KeyFile) -> Result<T, EditError>,
) -> Result<T, KeyCommandError> {
    let running = ask_running(config).await?;
    edit(&path_in_use(config, running.as_ref())?, change)
}

/// Changes the file, one command at a time. It is the old one or the new one at every moment.
fn edit<T>(path: &Path, change: impl FnOnce(&mut KeyFile) -> Result<T, EditError>) -> Result<T, KeyCommandError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let (owner, own) = (store::owner(folder)?, rustix::process::geteuid().as_raw());
    if owner != own {
        return Err(KeyCommandError::NotOwner { folder: folder.to_owned(), owner, own });
    }
    let _turn = store::lock(path)?;
    let mut keys = read_keys(path)?;
    let outcome = change(&mut keys)?;
    store::write(path, &keys.to_json()?)?;
    Ok(outcome)
}

fn path_of(config: &checked::Agent) -> Result<PathBuf, KeyCommandError> {
    Ok(config.accepted.api_keys.as_ref().ok_or(KeyCommandError::NotAccepted)?.file.clone())
}

impl KeyCommandError {
    /// Whether the config is what is wrong.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Run(RunError::Config(_)))
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        if matches!(self, Self::AnotherConfig { .. }) {
            return Some("name that file as --config, or give this one a control socket of its own");
        }
        matches!(self, Self::NotOwner { .. })
            .then_some("run it as the agent's user: sudo -u countersign countersign-agent key ...")
    }
}
