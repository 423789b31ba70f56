//! So many requests a second, for a time, whatever the answers are: a flood, or callers who are to be served meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use countersign_credentials::api_key::ApiKey;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::interval_at;

use crate::Shown;
use crate::connection::{Connection, Target, request_with};
use crate::requests::{add, finish};
use crate::window::{Watched, Window};

/// How fast, on how many connections, and for how long.
pub(crate) struct Pace {
    pub(crate) connections: u32,
    pub(crate) per_second: u32,
    pub(crate) length: Duration,
}

/// Answers by their status.
type Answers = Rc<RefCell<BTreeMap<u16, u32>>>;

/// Each connection asks once in its turn and catches up where it was late, so that the sum is what was asked for unless the
/// machine is too slow for it; `done` tells.
pub(crate) async fn run(target: Target, pace: Pace, shown: Shown, watched: Watched) -> io::Result<Value> {
    let shown = Rc::new(shown);
    let answers = Answers::default();
    let mut connections = Vec::new();
    for _ in 0..pace.connections {
        connections.push(Connection::open(&target).await?);
    }
    let window = Window::open(watched)?;
    let start = tokio::time::Instant::now();
    let step = Duration::from_secs(1) / pace.per_second;
    let mut tasks = JoinSet::new();
    for (connection, phase) in connections.into_iter().zip(0_u32..) {
        let turns = interval_at(start + step * phase, step * pace.connections);
        tasks.spawn_local(ask(connection, turns, start + pace.length, Rc::clone(&shown), Rc::clone(&answers)));
    }
    finish(tasks).await?;
    let mut figures = window.close()?;
    let answers = answers.borrow();
    add(&mut figures, "done", answers.values().sum::<u32>().into());
    let by_status = answers.iter().map(|(status, count)| (status.to_string(), Value::from(*count)));
    add(&mut figures, "answers", Value::Object(by_status.collect()));
    Ok(figures)
}

async fn ask(
    mut connection: Connection,
    mut turns: tokio::time::Interval,
    end: tokio::time::Instant,
    shown: Rc<Shown>,
    answers: Answers,
) -> io::Result<()> {
    let same = request_with("/1k", &shown.headers);
    loop {
        if turns.tick().await >= end || tokio::time::Instant::now() >= end {
            return Ok(());
        }
        let head = match shown.unknown_keys {
            true => connection.ask(&with_unknown_key(&shown.headers)?).await?,
            false => connection.ask(&same).await?,
        };
        *answers.borrow_mut().entry(head.status).or_default() += 1;
    }
}

/// A key that has the right form, so that it is looked for.
fn with_unknown_key(headers: &[String]) -> io::Result<Vec<u8>> {
    let key = ApiKey::generate().map_err(io::Error::other)?;
    let shown = format!("authorization: Bearer {}", key.expose());
    Ok(request_with("/1k", &[headers, &[shown]].concat()))
}
