//! The commands that are no daemon: each asks, prints its data to standard output, and is done.

pub(crate) mod audit;

use std::io::Read;
use std::path::{Path, PathBuf};

use countersign_certs::issuance::Reason;
use countersign_certs::san::{San, SanError};
use countersign_certs::store::{self, StoreError};
use countersign_certs::time::Clock;
use countersign_certs::token::{JoinToken, TOKEN_BYTES_MAX, TokenError};
use http::Method;
use serde::Deserialize;

use crate::config::Secrets;
use crate::control::client::{self, ControlError};
use crate::control::server::{DECISION_PATH, RENEW_PATH, STATUS_PATH};
use crate::control::status::Status;
use crate::identity::ca::CaError;
use crate::identity::enroll::{self, EnrollError};
use crate::policy::explain::{Explanation, explain};
use crate::policy::path::{CheckedPath, PathError};
use crate::record::Direction;
use crate::refusal::{AMBIGUOUS, in_one_line};
use crate::run::{self, RunError};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    #[error("there is no inbound {name:?}; there are: {known}")]
    Inbound { name: String, known: String },
    #[error("the answer of the agent cannot be read")]
    Malformed(#[from] serde_json::Error),
    #[error("{0:?} is no method")]
    Method(String),
    #[error("a request for {path:?} would be refused before any rule is asked")]
    Path { path: String, source: PathError },
    #[error(transparent)]
    Peer(#[from] SanError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the join token cannot be read from standard input")]
    Stdin(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// `check`: says that a config is right.
pub(crate) fn check(path: &Path) -> Result<String, CommandError> {
    let config = run::load(path, Secrets::Named)?;
    Ok(format!(
        "{}: {} inbounds, {} outbounds, {} roles\n",
        path.display(),
        config.inbounds.len(),
        config.outbounds.len(),
        config.roles.all_names().len()
    ))
}

/// `enroll`: spends a join token.
pub(crate) async fn enroll(
    token: Option<String>,
    token_file: Option<PathBuf>,
    folder: &Path,
    clock: &Clock,
) -> Result<String, CommandError> {
    let text = zeroize::Zeroizing::new(match (token, token_file) {
        (Some(token), _) => token,
        (None, Some(path)) if path == Path::new("-") => standard_input()?,
        (None, Some(path)) => String::from_utf8_lossy(&store::read_secret(&path)?).into_owned(),
        (None, None) => String::new(),
    });
    let token: JoinToken = text.parse()?;
    let enrollment = enroll::enroll(&token, folder, clock).await?;
    Ok(format!("{}\n", enrollment.host_id))
}

fn standard_input() -> Result<String, CommandError> {
    let mut text = String::with_capacity(TOKEN_BYTES_MAX);
    let limit = u64::try_from(TOKEN_BYTES_MAX).unwrap_or(u64::MAX);
    std::io::stdin().take(limit + 1).read_to_string(&mut text).map_err(CommandError::Stdin)?;
    Ok(text)
}

/// `status`: what a running agent does.
pub(crate) async fn status(config: &Path, json: bool) -> Result<String, CommandError> {
    let answer = client::ask(&socket(config)?, Method::GET, STATUS_PATH).await?;
    let status: Status = serde_json::from_str(&answer)?;
    Ok(if json { answer + "\n" } else { status.to_text() })
}

/// `renew`: new certificates now.
pub(crate) async fn renew(config: &Path, id: Option<&str>) -> Result<String, CommandError> {
    let path = match id {
        Some(id) => format!("{RENEW_PATH}?id={id}"),
        None => RENEW_PATH.to_owned(),
    };
    Ok(client::ask(&socket(config)?, Method::POST, &path).await?)
}

/// What `explain` needs of an audit line.
#[derive(Deserialize)]
struct Recorded {
    direction: String,
    route: String,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl Recorded {
    /// What was asked, if it was something that a policy decides on.
    fn question(self) -> Option<Question> {
        if self.reason.as_deref() == Some(AMBIGUOUS) {
            return None;
        }
        let peer = if self.names.is_empty() { self.peer.into_iter().collect() } else { self.names };
        let decided = self.direction == Direction::Inbound.as_str() && !peer.is_empty();
        let (method, path) = self.method.zip(self.path)?;
        decided.then_some(Question { inbound: self.route, peer, method, path })
    }
}

/// What `explain` is asked about.
pub(crate) struct Question {
    pub(crate) inbound: String,
    pub(crate) peer: Vec<String>,
    pub(crate) method: String,
    pub(crate) path: String,
}

/// `explain DECISION_ID`: what was recorded, and what the config says to it now.
pub(crate) async fn explain_decision(config: &Path, decision: &str, json: bool) -> Result<String, CommandError> {
    let line = client::ask(&socket(config)?, Method::GET, &format!("{DECISION_PATH}{decision}")).await?;
    let recorded: Recorded = serde_json::from_str(&line)?;
    let unasked = recorded.reason.as_deref() == Some(AMBIGUOUS);
    // What was recorded is told even where nothing can be said about now, as of a path that is refused before any rule.
    let now = recorded.question().map(|question| decide(config, &question).map_err(|error| in_one_line(&error)));
    if json {
        let recorded: serde_json::Value = serde_json::from_str(&line)?;
        let said = match now.transpose() {
            Ok(now) => serde_json::json!({ "recorded": recorded, "now": now }),
            Err(error) => serde_json::json!({ "recorded": recorded, "error": error }),
        };
        return Ok(format!("{said}\n"));
    }
    let now = match now.transpose() {
        Ok(None) if unasked => "it was refused before any rule was asked, and would be again\n".to_owned(),
        Ok(now) => now.map(|now| format!("with the config as it is now:\n{now}")).unwrap_or_default(),
        Err(error) => format!("with the config as it is now: {error}\n"),
    };
    Ok(format!("recorded: {}\n{now}", line.trim_end()))
}

/// `explain --inbound ...`: what would be decided.
pub(crate) fn explain_question(config: &Path, question: &Question, json: bool) -> Result<String, CommandError> {
    let explanation = decide(config, question)?;
    Ok(if json { serde_json::to_string(&explanation)? + "\n" } else { explanation.to_string() })
}

fn decide(config: &Path, question: &Question) -> Result<Explanation, CommandError> {
    let Question { inbound: name, peer, method, path } = question;
    let config = run::load(config, Secrets::Named)?;
    let known = || config.inbounds.iter().map(|inbound| &*inbound.name).collect::<Vec<_>>().join(", ");
    let inbound = config
        .inbounds
        .iter()
        .find(|known| *known.name == **name)
        .ok_or_else(|| CommandError::Inbound { name: name.clone(), known: known() })?;
    let peer: Vec<San> = peer.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let method: Method = method.parse().map_err(|_not_a_method| CommandError::Method(method.clone()))?;
    let checked = CheckedPath::parse(path).map_err(|source| CommandError::Path { path: path.clone(), source })?;
    Ok(explain(&inbound.policy, &peer, &method, checked))
}

fn socket(config: &Path) -> Result<PathBuf, CommandError> {
    // Only the socket's place is needed, so a config that is wrong elsewhere does not keep an operator from asking.
    Ok(crate::config::control_socket(config).map_err(RunError::Config)?)
}

impl CommandError {
    /// Whether the config is what is wrong.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Run(RunError::Config(_)) | Self::Audit(audit::AuditError::Run(RunError::Config(_))))
    }

    /// What is to be printed although it failed.
    pub(crate) fn output(&self) -> &str {
        match self {
            Self::Audit(audit::AuditError::Unsound { report }) => report,
            Self::Audit(_)
            | Self::Control(_)
            | Self::Enroll(_)
            | Self::Inbound { .. }
            | Self::Malformed(_)
            | Self::Method(_)
            | Self::Path { .. }
            | Self::Peer(_)
            | Self::Run(_)
            | Self::Stdin(_)
            | Self::Store(_)
            | Self::Token(_) => "",
        }
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let Self::Enroll(EnrollError::Ca(CaError::Refused { problem, .. })) = self else { return None };
        match problem.reason {
            Reason::TokenExpired | Reason::TokenSpent => {
                Some("make a new token: countersign-ca token create --host NAME")
            }
            Reason::TokenUnknown => Some("the token was revoked, or it was made by another CA with the same root"),
            Reason::CaUnavailable
            | Reason::CsrRefused
            | Reason::IdentityRevoked
            | Reason::MalformedRequest
            | Reason::NotAHost
            | Reason::NotGranted
            | Reason::NotFound
            | Reason::TooMany
            | Reason::Unknown => None,
        }
    }
}
