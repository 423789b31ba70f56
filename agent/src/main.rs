//! `countersign-agent`: terminates and originates mutual TLS for the AI services of one host.
//!
//! Read [`inbound`] first; it is the story of a connection from another host, and `outbound` is its mirror.

mod inbound;

mod outbound;

mod serve;

mod exchange;

mod identify;

mod authenticate;

mod issuers;

mod web;

mod authorize;

mod limit;

mod forward;

mod given;

mod record;

mod connection;

mod request;

mod query;

mod facts;

mod refusal;

mod direction;

mod in_words;

mod random;

mod remembered;

mod http2;

mod policy;

mod live;

mod worker;

mod routes;

mod listener;

mod assemble;

mod run;

mod teller;

mod identity;

mod config;

mod watcher;

mod control;

mod systemd;

mod commands;

mod cli;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use countersign_certs::time::Clock;

use cli::{Arguments, AuditCommand, Command};
use commands::question::{Question, RouteName};
use commands::{CommandError, audit};
use config::Secrets;
use run::RunError;
use systemd::HandedOver;

/// Requests are many small allocations; this allocator takes them with fewer instructions than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes beside 0 and clap's own 2 for usage.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = system_clock();
    // While this is the only thread: taking them changes the environment.
    let runs = matches!(arguments.command, Command::Run { .. });
    let handed_over = match if runs { HandedOver::take() } else { Ok(HandedOver::default()) } {
        Ok(handed_over) => handed_over,
        Err(source) => {
            return fail(&RunError::System { what: "taking the sockets that systemd opened", source }, None, FAILED);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(carry_out(arguments.command, clock, handed_over)),
        Err(error) => return fail(&error, None, FAILED),
    };
    match outcome {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, None, FAILED),
        },
        Err(error) => {
            // A report that says what is wrong is data, and goes where data goes.
            std::io::stdout().write_all(error.data().unwrap_or_default().as_bytes()).ok();
            fail(&error, error.hint(), if error.is_config() { BAD_CONFIG } else { FAILED })
        }
    }
}

async fn carry_out(command: Command, clock: Clock, handed_over: HandedOver) -> Result<String, CommandError> {
    match command {
        Command::Audit { command } => Ok(carry_out_audit(command)?),
        Command::Check { config } => commands::check(&config.path),
        Command::Enroll { token, token_file, dir } => commands::enroll(token, token_file, &dir, &clock).await,
        Command::Explain { config, decision: Some(decision), json, .. } => {
            commands::explain::decision(&config.path, &decision, json, &clock).await
        }
        Command::Explain {
            config,
            decision: None,
            inbound,
            outbound,
            peer,
            subject,
            facts,
            address,
            headers,
            at,
            method,
            path,
            json,
        } => {
            let route = match outbound {
                Some(outbound) => RouteName::Outbound(outbound),
                None => RouteName::Inbound(inbound.unwrap_or_default()),
            };
            let question =
                Question { route, peer, subject, facts, address, method, path, headers, at, is_recorded: false };
            commands::explain::question(&config.path, &question, json, &clock)
        }
        Command::Replay { policy, audit, json } => commands::replay::replay(&policy, &audit, json, &clock),
        Command::Test { file, json } => Ok(commands::expected::test(&file, json, &clock)?),
        Command::Key(command) => Ok(commands::keys::carry_out(command, &clock).await?),
        Command::PasswordHash => commands::password_hash(),
        Command::Renew { config, id } => commands::renew(&config.path, id.as_deref()).await,
        Command::Run { config } => run_agent(&config.path, clock, handed_over).await,
        Command::Status { config, json } => commands::status(&config.path, json).await,
    }
}

fn carry_out_audit(command: AuditCommand) -> Result<String, audit::AuditError> {
    match command {
        AuditCommand::Key { config } => audit::key(&config.path),
        AuditCommand::Schema { page } => audit::schema(page),
        AuditCommand::Show { config, folder, format } => audit::show(folder, &config.path, format),
        AuditCommand::Verify { folder, key: keys, expect: expected, closed, json } => {
            audit::verify(&audit::Question { folder, keys, expected, closed, json })
        }
    }
}

async fn run_agent(path: &Path, clock: Clock, handed_over: HandedOver) -> Result<String, CommandError> {
    let config = run::load(path, Secrets::Read)?;
    start_log(config.log_level);
    // With huge pages the kernel clears 2 MiB for the first byte of each: memory that is not used, and a late first answer
    // when many streams start at once. If it cannot be said, it costs only that.
    rustix::thread::disable_transparent_huge_pages(true).ok();
    run::run(path, config, clock, handed_over).await?;
    Ok(String::new())
}

/// Logs go to standard error: for people on a terminal, as JSON to a service manager.
fn start_log(level: tracing::Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() { log.init() } else { log.json().flatten_event(true).init() }
}

#[allow(clippy::disallowed_methods, reason = "the one place where the system's clock is read")]
fn system_clock() -> Clock {
    Clock::new(SystemTime::now)
}

fn fail(error: &dyn std::error::Error, hint: Option<&str>, code: u8) -> ExitCode {
    let mut text = format!("error: {}\n", in_words::in_one_line(error));
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // If standard error is gone too, the exit code is all that is left to say.
    std::io::stderr().write_all(text.as_bytes()).ok();
    ExitCode::from(code)
}
