//! Large answers: what a byte costs.

use std::io;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::connection::{Connection, Target, request};
use crate::requests::{add, finish};
use crate::window::{Watched, Window};

pub(crate) async fn run(target: Target, connections: u32, mebibytes: u32, watched: Watched) -> io::Result<Value> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(&target).await?);
    }
    let request = request(&format!("/bytes/{}", u64::from(mebibytes / connections) << 20));
    let window = Window::open(watched)?;
    let mut tasks = JoinSet::new();
    for mut connection in open {
        let request = request.clone();
        tasks.spawn_local(async move { connection.exchange(&request).await });
    }
    let received: u64 = finish(tasks).await?.into_iter().sum();
    let mut figures = window.close()?;
    add(&mut figures, "done", (received >> 20).into());
    Ok(figures)
}
