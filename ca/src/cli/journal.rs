//! `journal list` and `journal verify`.

use std::path::Path;

use serde_json::json;

use super::arguments::{JournalCommand, JournalListArguments};
use super::{CommandError, Opened, Said};
use crate::certs::time::{Clock, Timestamp};
use crate::store::Line;

pub(super) async fn run(
    command: Option<JournalCommand>,
    alone: JournalListArguments,
    clock: &Clock,
) -> Result<Said, CommandError> {
    match command {
        None => list(&alone, clock).await,
        Some(JournalCommand::List(arguments)) => list(&arguments, clock).await,
        Some(JournalCommand::Verify { config, json }) => verify(&config.path, json.wanted, clock).await,
    }
}

async fn list(arguments: &JournalListArguments, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(&arguments.config.path, clock).await?;
    let lines = ca.store.journal_tail(arguments.limit).await?;
    let write = if arguments.json.wanted { as_json } else { as_text };
    Ok(Said::data(lines.iter().map(write).collect::<String>()))
}

fn as_json(line: &Line) -> String {
    let Line { sequence, kind, hash, .. } = line;
    // A detail that is no JSON was tampered with; it is shown all the same.
    let detail = serde_json::from_str(&line.detail).unwrap_or_else(|_tampered| json!(line.detail));
    let time = Timestamp::from_unix_seconds(line.time).to_string();
    format!("{}\n", json!({ "sequence": sequence, "time": time, "kind": kind, "detail": detail, "hash": hash }))
}

fn as_text(line: &Line) -> String {
    let Line { sequence, kind, detail, .. } = line;
    format!("{sequence}  {}  {kind}  {detail}\n", Timestamp::from_unix_seconds(line.time))
}

async fn verify(config: &Path, as_json: bool, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let (lines, hash) = ca.store.verify_journal().await??;
    if as_json {
        return Ok(Said::json(&json!({ "lines": lines, "hash": hash })));
    }
    Ok(Said::data(format!("{lines} lines, none changed; the last hash is {hash}\n")))
}
