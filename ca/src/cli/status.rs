//! `status`: what this CA is, and how much it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;

use super::{CommandError, Opened, Said};
use crate::certs::time::Clock;
use crate::registry::hexadecimal;

/// How long to wait for the listener to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

pub(super) async fn run(config: &Path, as_json: bool, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let now = clock.now();
    let authority = ca.authority()?;
    let counts = ca.store.counts(now).await?;
    let (generation, revocations) = ca.store.revocations(now).await?;
    let hosts = ca.store.hosts().await?;
    let listen = ca.settings.listen;
    let facts = json!({
        "trust_domain": ca.trust_domain(),
        "listen": listen.to_string(),
        "advertise": ca.settings.advertise,
        "running": answers(listen).await,
        "root_sha256": hexadecimal(&authority.root_fingerprint()),
        "root_expires": authority.root_validity().not_after.to_string(),
        "intermediate_expires": authority.validity().not_after.to_string(),
        "hosts": hosts.iter().map(|row| json!({ "host": row.host, "enrolled": row.enrolled.to_string() })).collect::<Vec<_>>(),
        "entries": counts.entries,
        "live_certificates": counts.live_certificates,
        "unfinished_intents": counts.unfinished_intents,
        "trust_generation": generation,
        "revoked_ids": revocations.ids,
        "revoked_serials": revocations.serials.keys().map(ToString::to_string).collect::<Vec<_>>(),
    });
    Ok(if as_json { Said::json(&facts) } else { Said::data(as_text(&facts)) })
}

/// Whether anybody listens where this CA would.
async fn answers(listen: SocketAddr) -> bool {
    let address = match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect((address, listen.port()))).await;
    matches!(connected, Ok(Ok(_)))
}

/// One fact a line; of lists their length and their members.
fn as_text(facts: &serde_json::Value) -> String {
    let facts = facts.as_object().into_iter().flatten();
    facts.map(|(name, value)| format!("{:20}  {}\n", name.replace('_', " "), plain(value))).collect()
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        serde_json::Value::Array(members) if members.is_empty() => "none".to_owned(),
        serde_json::Value::Array(members) => members.iter().map(plain).collect::<Vec<_>>().join(", "),
        serde_json::Value::Object(host) => host.get("host").map(plain).unwrap_or_default(),
        serde_json::Value::Null | serde_json::Value::Number(_) => value.to_string(),
    }
}
