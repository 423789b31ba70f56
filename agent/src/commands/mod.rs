//! The commands that are no daemon: each asks, prints its data to standard output, and is done.

pub(crate) mod audit;

pub(crate) mod keys;

pub(crate) mod question;

mod known;

mod shown;

mod recorded;

pub(crate) mod explain;

pub(crate) mod replay;

pub(crate) mod expected;

use std::io::Read;
use std::path::{Path, PathBuf};

use countersign_certs::issuance::Reason;
use countersign_certs::store::{self, StoreError};
use countersign_certs::time::Clock;
use countersign_certs::token::{JoinToken, TOKEN_BYTES_MAX, TokenError};
use countersign_credentials::api_key::NoRandomness;
use countersign_credentials::password::{BasicError, PASSWORD_BYTES_MAX, Password, PasswordHash};
use http::Method;

use crate::config::Secrets;
use crate::control::client::{self, ControlError};
use crate::control::server::{RENEW_PATH, STATUS_PATH};
use crate::control::status::Status;
use crate::identity::ca::CaError;
use crate::identity::enroll::{self, EnrollError};
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
    #[error(transparent)]
    Expected(#[from] expected::ExpectedError),
    #[error(transparent)]
    Question(#[from] question::QuestionError),
    #[error(transparent)]
    Replay(#[from] replay::ReplayError),
    #[error("the answer of the agent cannot be read")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Key(#[from] keys::KeyCommandError),
    #[error("this cannot be a password")]
    Password(#[from] BasicError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("standard input cannot be read")]
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

/// `password-hash`: the Argon2id hash of a password.
pub(crate) fn password_hash() -> Result<String, CommandError> {
    let limit = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = zeroize::Zeroizing::new(String::with_capacity(PASSWORD_BYTES_MAX + 2));
    std::io::stdin().take(limit + 2).read_to_string(&mut text).map_err(CommandError::Stdin)?;
    let password = Password::new(zeroize::Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))?;
    Ok(PasswordHash::new_text(&password)? + "\n")
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

fn socket(config: &Path) -> Result<PathBuf, CommandError> {
    // Only the socket's place is needed, so a config that is wrong elsewhere does not keep an operator from asking.
    Ok(crate::config::control_socket(config).map_err(RunError::Config)?)
}

impl CommandError {
    /// Whether the config is what is wrong.
    pub(crate) fn is_config(&self) -> bool {
        let of_command = match self {
            Self::Key(error) => return error.is_config(),
            Self::Expected(error) => return error.is_config(),
            Self::Audit(audit::AuditError::Run(error)) | Self::Run(error) => Some(error),
            Self::Audit(_)
            | Self::Control(_)
            | Self::Enroll(_)
            | Self::Malformed(_)
            | Self::Password(_)
            | Self::Question(_)
            | Self::Randomness(_)
            | Self::Replay(_)
            | Self::Stdin(_)
            | Self::Store(_)
            | Self::Token(_) => None,
        };
        matches!(of_command, Some(RunError::Config(_)))
    }

    /// What is printed all the same, because it is data.
    pub(crate) fn data(&self) -> Option<&str> {
        if let Self::Audit(audit::AuditError::Unsound { report }) = self {
            return Some(report);
        }
        let Self::Expected(error) = self else { return None };
        error.data()
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        if let Self::Key(error) = self {
            return error.hint();
        }
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
