//! Connections that do nothing: what a proxy keeps in memory for each.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::connection::{Connection, Target, request};
use crate::requests::finish;
use crate::window::{Watched, resident_kib};

/// How many connections are being opened at a time.
const OPENERS: u32 = 25;

/// Time for a proxy to notice the silence and to give memory back.
const REST: Duration = Duration::from_secs(2);

/// Opens connections, uses each once, lets them rest, reads the memory, and uses each once more: so all were still held.
pub(crate) async fn run(target: Target, connections: u32, watched: Watched) -> io::Result<Value> {
    let before = resident_kib(&watched.proxies)?;
    let mut tasks = JoinSet::new();
    for _ in 0..OPENERS {
        tasks.spawn_local(open(target.clone(), connections / OPENERS));
    }
    let mut held: Vec<Connection> = finish(tasks).await?.into_iter().flatten().collect();

    tokio::time::sleep(REST).await;
    let after = resident_kib(&watched.proxies)?;

    let request = request("/1k");
    for connection in &mut held {
        connection.exchange(&request).await?;
    }
    Ok(json!({ "done": held.len(), "before_kib": before, "after_kib": after }))
}

async fn open(target: Target, connections: u32) -> io::Result<Vec<Connection>> {
    let request = request("/1k");
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(&target).await?;
        connection.exchange(&request).await?;
        held.push(connection);
    }
    Ok(held)
}
