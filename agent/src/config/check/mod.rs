//! From the config as written to the config as used. The first thing that is wrong ends it.

pub(super) mod domains;

pub(super) mod credentials;

pub(super) mod issuers;

mod conditions;

mod roles;

mod inbound;

mod inject;

mod token;

mod commands;

mod rules;

mod limits;

mod store;

mod outbound;

mod routes;

mod scalars;

mod audit;

mod sinks;

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::tls::KeyExchange;
use toml::Spanned;

use super::checked::{Agent, Control, Limits};
use super::{Secrets, file};
use countersign_certs::settings::diagnostic::Finding;
use credentials::KnownSubjects;
use domains::{Identities, KnownDomains};
use inbound::InboundContext;
use scalars::{absolute, number, span_of_time, whole_seconds};

/// Checks a whole config.
pub(super) fn agent(file: file::Agent, enrolled: Option<&TrustDomain>, secrets: Secrets) -> Result<Agent, Finding> {
    let known = KnownDomains::of(&file, enrolled);
    let mut files = Vec::new();
    let accepted = Arc::new(credentials::accepted(&file, secrets, &mut files)?);
    let roles = Arc::new(roles::roles(&file.role, &known, &KnownSubjects::from(&accepted))?);
    let certificates = domains::certificates(&file.certificate)?;
    let trust_domains = domains::trust_domains(&file.trust_domain, &mut files)?;
    let compiler = conditions::compiler(&file, &accepted.issuers)?;
    let identities = Identities { certificates: &certificates, enrolled, has_state: file.state_dir.is_some() };
    let commands = commands::commands(&file.secret_command, secrets)?;
    let keys_stand_at = credentials::keys_stand_at(&file);
    let context =
        InboundContext { roles: &roles, compiler: &compiler, identities: &identities, commands: &commands, secrets };
    let mut inbounds = Vec::new();
    for inbound in file.inbound {
        inbounds.push(inbound::inbound(inbound, &context, &mut files)?);
    }
    let mut outbounds = Vec::new();
    let compiler = compiler.for_outbounds();
    for outbound in file.outbound {
        outbounds.push(outbound::outbound(outbound, &roles, &compiler, &identities, &known, &mut files)?);
    }
    routes::check_routes(&inbounds, &outbounds)?;
    let subjects = KnownSubjects::from(&accepted);
    let surroundings = limits::Surroundings { roles: &roles, known: &known, subjects: &subjects, inbounds: &inbounds };
    let rate_limits = limits::limits(&file.limit, file.store.as_ref(), &surroundings)?;
    limits::check_keys(&accepted, &rate_limits, keys_stand_at)?;
    let store = store::store(file.store, secrets, &mut files)?.map(Arc::new);
    let control = control(&file.control)?;
    routes::check_control(&control, file.control.metrics.as_ref().map(Spanned::span), &inbounds, &outbounds)?;
    let audit = audit::audit(&file.audit, file.state_dir.as_deref(), accepted.key_places())?;
    Ok(Agent {
        state_dir: file.state_dir,
        workers: workers(file.workers)?,
        key_exchange: match file.require_post_quantum {
            Some(true) => KeyExchange::PostQuantumRequired,
            Some(false) | None => KeyExchange::PostQuantumPreferred,
        },
        control,
        audit,
        log_level: log_level(file.log)?,
        limits: bounds(file.limits)?,
        rate_limits,
        store,
        roles,
        accepted,
        commands,
        trust_domains,
        certificates,
        inbounds: inbounds.into_iter().map(|(inbound, _)| inbound).collect(),
        outbounds: outbounds.into_iter().map(|(outbound, _)| outbound).collect(),
        files,
    })
}

fn control(written: &file::Control) -> Result<Control, Finding> {
    let metrics = match &written.metrics {
        None => None,
        Some(text) => Some(text.get_ref().parse().map_err(|_not_an_address| {
            Finding::new(text.span(), format!("{:?} is no address; write 127.0.0.1:9464", text.get_ref()))
        })?),
    };
    let socket = match &written.socket {
        None => PathBuf::from(super::checked::CONTROL_SOCKET),
        Some(path) => absolute(path)?,
    };
    Ok(Control { socket, metrics })
}

fn log_level(written: file::Log) -> Result<tracing::Level, Finding> {
    let Some(level) = &written.level else { return Ok(tracing::Level::INFO) };
    match level.get_ref().as_str() {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        other => {
            Err(Finding::new(level.span(), format!("unknown level {other:?}; it is error, warn, info, debug or trace")))
        }
    }
}

fn workers(written: Option<Spanned<usize>>) -> Result<usize, Finding> {
    match written {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(count) if (1..=256).contains(count.get_ref()) => Ok(count.into_inner()),
        Some(count) => Err(Finding::new(count.span(), format!("{} workers; it is 1 to 256", count.get_ref()))),
    }
}

fn bounds(written: file::Limits) -> Result<Limits, Finding> {
    let standard = Limits::default();
    Ok(Limits {
        connections: number(written.connections, standard.connections, 1..=1_000_000)?,
        connections_per_peer: number(written.connections_per_peer, standard.connections_per_peer, 1..=1_000_000)?,
        handshakes: number(written.handshakes, standard.handshakes, 1..=100_000)?,
        handshake_timeout: span_of_time(written.handshake_timeout, standard.handshake_timeout)?,
        // hyper's smallest buffer for a header is 8 KiB.
        header_bytes: number(written.header_bytes, standard.header_bytes, 8192..=1_048_576)?,
        streams_per_connection: number(written.streams_per_connection, standard.streams_per_connection, 1..=10_000)?,
        idle_connection: whole_seconds(written.idle_connection, standard.idle_connection)?,
        idle_stream: whole_seconds(written.idle_stream, standard.idle_stream)?,
        connect_timeout: span_of_time(written.connect_timeout, standard.connect_timeout)?,
        backend_connections: number(written.backend_connections, standard.backend_connections, 1..=1_000_000)?,
        backend_idle: span_of_time(written.backend_idle, standard.backend_idle)?,
        drain: span_of_time(written.drain, standard.drain)?,
    })
}
