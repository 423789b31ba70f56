//! The command line. Every command reads the config, does one thing, and says what it did: data on standard output, talk on
//! standard error.

mod arguments;
mod entry;
mod init;
mod intermediate;
mod journal;
mod revoke;
mod status;
mod table;
mod token;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, RenewError};
use crate::certs::spiffe_id::TrustDomain;
use crate::certs::time::Clock;
use crate::config::{self, ConfigError, PassphraseError, Settings};
use crate::record::{Journal, Unrecorded, chain_of};
use crate::registry::RegistryError;
use crate::revoke::RevokeError;
use crate::run::{self, ServeError};
use crate::store::{Fault, Store, StoreError};
use crate::watch::WatchError;
use arguments::{Arguments, Command};
use init::InitError;

/// Exit codes beside 0 and clap's own 2 for usage.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 78;

/// Does what the arguments say.
pub(crate) fn main(clock: &Clock) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) => {
            // Also --help and --version come here. If nobody can be told, the exit code is all that is left to say.
            asked.print().ok();
            return ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(FAILED));
        }
    };
    match carry_out(arguments.command, clock).and_then(|said| said.print()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // As above.
            writeln!(std::io::stderr(), "error: {}", chain_of(&error)).ok();
            ExitCode::from(if matches!(error, CommandError::Config(_)) { BAD_CONFIG } else { FAILED })
        }
    }
}

fn carry_out(command: Command, clock: &Clock) -> Result<Said, CommandError> {
    let mut runtime = match &command {
        Command::Serve { .. } => tokio::runtime::Builder::new_multi_thread(),
        Command::Entry(_)
        | Command::Init(_)
        | Command::Intermediate(_)
        | Command::Journal { .. }
        | Command::Revoke(_)
        | Command::Status { .. }
        | Command::Token(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().map_err(CommandError::Runtime)?;
    runtime.block_on(async {
        match command {
            Command::Entry(command) => entry::run(command, clock).await,
            Command::Init(arguments) => Ok(init::run(arguments, clock).await?),
            Command::Intermediate(command) => intermediate::run(command, clock).await,
            Command::Journal { command, list } => journal::run(command, list, clock).await,
            Command::Revoke(arguments) => revoke::run(arguments, clock).await,
            Command::Serve { config } => serve(&config.path, clock).await,
            Command::Status { config, json } => status::run(&config.path, json.wanted, clock).await,
            Command::Token(command) => token::run(command, clock).await,
        }
    })
}

async fn serve(path: &Path, clock: &Clock) -> Result<Said, CommandError> {
    let settings = config::load(path)?;
    start_log(settings.log_level);
    run::serve(settings, clock).await?;
    Ok(Said::default())
}

/// The log goes to standard error: for people on a terminal, as JSON to a service manager.
fn start_log(level: LevelFilter) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() { log.init() } else { log.json().flatten_event(true).init() }
}

/// What a command has to say.
#[derive(Debug, Default)]
struct Said {
    /// Wiped when dropped: it may hold a join token.
    data: Zeroizing<String>,
    talk: String,
}

impl Said {
    fn data(text: impl Into<String>) -> Self {
        Self { data: Zeroizing::new(text.into()), talk: String::new() }
    }

    fn talk(text: impl Into<String>) -> Self {
        Self { data: Zeroizing::default(), talk: text.into() }
    }

    /// One JSON value on one line.
    fn json(value: &serde_json::Value) -> Self {
        Self::data(format!("{value}\n"))
    }

    fn print(&self) -> Result<(), CommandError> {
        std::io::stderr().write_all(self.talk.as_bytes()).map_err(CommandError::Output)?;
        std::io::stdout().write_all(self.data.as_bytes()).map_err(CommandError::Output)
    }
}

/// A CA's files as a command uses them: without its key.
struct Opened {
    settings: Settings,
    store: Arc<Store>,
    journal: Journal,
}

impl Opened {
    async fn open(path: &Path, clock: &Clock) -> Result<Self, CommandError> {
        let settings = config::load(path)?;
        let store = Arc::new(Store::open(&settings.files.store).await?);
        let journal = Journal::new(Arc::clone(&store), clock.clone());
        Ok(Self { settings, store, journal })
    }

    fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    fn authority(&self) -> Result<Authority, CommandError> {
        Ok(Authority::load(&self.settings.trust_domain, &self.settings.files)?)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Journal(#[from] Fault),
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error(transparent)]
    Renew(#[from] RenewError),
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
    #[error("the system gives no randomness")]
    Randomness,
    #[error(transparent)]
    Record(#[from] Unrecorded),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Watch(#[from] WatchError),
}
