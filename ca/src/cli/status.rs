//! `status`: what this CA is, and how much it holds.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{CommandError, Opened, Said};
use crate::certs::digest::hexadecimal;
use crate::certs::digest::sha256;
use crate::certs::time::Clock;

/// How long to wait for the listener to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

pub(super) async fn run(config: &Path, as_json: bool, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let now = clock.now();
    let authority = ca.authority()?;
    let counts = ca.store.counts(now).await?;
    let published = crate::watch::read(&ca.store, &authority, now).await?;
    let (generation, revocations) = (published.update.generation, &published.update.revocations);
    let hosts = ca.store.hosts().await?;
    let journal = ca.store.verify_journal().await?;
    let listen = ca.settings.listen;
    let hosts: Vec<_> = hosts.into_iter().map(|row| (row.host, row.enrolled.to_string().into())).collect();
    let serials: Vec<_> = revocations.serials.keys().map(ToString::to_string).collect();
    let facts = [
        ("trust_domain", json!(ca.trust_domain())),
        ("listen", json!(listen.to_string())),
        ("advertise", json!(ca.settings.advertise)),
        ("running", json!(answers(listen).await)),
        ("root_sha256", json!(hexadecimal(&authority.root_fingerprint()))),
        ("root_expires", json!(authority.root_validity().not_after.to_string())),
        ("intermediate_sha256", json!(hexadecimal(&sha256(authority.intermediate())))),
        ("intermediate_expires", json!(authority.validity().not_after.to_string())),
        ("warnings", json!(authority.warnings(&ca.settings.files, now))),
        ("hosts", Value::Object(hosts.into_iter().collect())),
        ("entries", json!(counts.entries)),
        ("live_certificates", json!(counts.live_certificates)),
        ("unfinished_intents", json!(counts.unfinished_intents)),
        ("trust_generation", json!(generation)),
        ("trust_fault", json!(published.fault())),
        ("revoked_ids", json!(revocations.ids)),
        ("revoked_serials", json!(serials)),
        ("journal_lines", json!(journal.as_ref().ok().map(|(lines, _)| lines))),
        ("journal_hash", json!(journal.as_ref().ok().map(|(_, hash)| hash))),
        ("journal_fault", json!(journal.as_ref().err().map(ToString::to_string))),
    ];
    if as_json {
        return Ok(Said::json(&facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
    }
    Ok(Said::data(facts.iter().map(as_text).collect::<String>()))
}

/// Whether anybody listens where this CA would.
async fn answers(listen: SocketAddr) -> bool {
    let address = match listen {
        SocketAddr::V4(any) if any.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, any.port())),
        SocketAddr::V6(any) if any.ip().is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, any.port())),
        SocketAddr::V4(_) | SocketAddr::V6(_) => listen,
    };
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
    matches!(connected, Ok(Ok(_)))
}

/// One fact a line; a list with its length.
fn as_text((name, value): &(&str, Value)) -> String {
    let list = |members: Vec<String>| match members.len() {
        0 => "none".to_owned(),
        count => format!("{count}: {}", members.join(", ")),
    };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(members) => list(members.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        Value::Object(members) => list(members.keys().cloned().collect()),
        Value::Null => "none".to_owned(),
        Value::Number(number) => number.to_string(),
    };
    format!("{:20}  {text}\n", name.replace('_', " "))
}
