//! `entry add`, `entry list`, `entry remove`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::arguments::{EntryCommand, EntryKey};
use super::{CommandError, Opened, Said, table};
use crate::certs::time::Clock;
use crate::config::{TTL_MIN, print_duration};
use crate::record::Event;
use crate::registry::{Entry, check_ttl};
use crate::store::{Change, EntryRow};

pub(super) async fn run(command: EntryCommand, clock: &Clock) -> Result<Said, CommandError> {
    match command {
        EntryCommand::Add { config, entry, dns, ttl } => add(&config.path, entry, &dns, ttl, clock).await,
        EntryCommand::List { config, host, json } => list(&config.path, host.as_deref(), json.wanted, clock).await,
        EntryCommand::Remove { config, entry } => remove(&config.path, entry, clock).await,
    }
}

async fn add(
    config: &Path,
    key: EntryKey,
    dns: &[String],
    ttl: Option<Duration>,
    clock: &Clock,
) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    if let Some(ttl) = ttl {
        check_ttl(ttl, TTL_MIN..=ca.settings.issuance.workload_ttl_max)?;
    }
    let entry = Entry::new(ca.trust_domain(), &key.host, key.id, dns, ttl)?.to_row();
    let said = format!("host {} may have {}\n", entry.host, entry.id);
    let event = Event::EntryAdded {
        host: entry.host.clone(),
        id: entry.id.to_string(),
        dns: entry.dns.clone(),
        ttl_seconds: entry.ttl_seconds,
    };
    ca.journal.write(Change::AddEntry(entry), event).await?;
    Ok(Said::talk(said))
}

async fn remove(config: &Path, key: EntryKey, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let EntryKey { host, id } = key;
    let said = format!("host {host} can no longer renew {id}; what it has stays good until its end\n");
    let event = Event::EntryRemoved { host: host.clone(), id: id.to_string() };
    ca.journal.write(Change::RemoveEntry { host, id }, event).await?;
    Ok(Said::talk(said))
}

async fn list(config: &Path, host: Option<&str>, as_json: bool, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let entries = ca.store.entries(host).await?;
    if as_json {
        return Ok(Said::json(&entries.iter().map(to_json).collect()));
    }
    let rows: Vec<_> = entries.into_iter().map(cells).collect();
    Ok(Said::data(table::write(["HOST", "ID", "TTL", "DNS"], &rows)))
}

fn to_json(entry: &EntryRow) -> serde_json::Value {
    let EntryRow { host, id, dns, ttl_seconds } = entry;
    json!({ "host": host, "id": id, "dns": dns, "ttl_seconds": ttl_seconds })
}

fn cells(entry: EntryRow) -> [String; 4] {
    let ttl = entry.ttl_seconds.map_or_else(|| "default".to_owned(), |ttl| print_duration(Duration::from_secs(ttl)));
    [entry.host, entry.id.to_string(), ttl, entry.dns.join(" ")]
}
