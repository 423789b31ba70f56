//! New connections, each with a full handshake and one request. The request is what proves that the peer was accepted: in
//! TLS 1.3 a client is done before the server has looked at its certificate.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::connection::{Connection, Target, last_request};
use crate::requests::{Meter, measure};
use crate::window::Watched;

pub(crate) async fn run(target: Target, connections: u32, length: Duration, watched: Watched) -> io::Result<Value> {
    let meter = Rc::new(Meter::default());
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn_local(connect_until_over(target.clone(), Rc::clone(&meter)));
    }
    measure(tasks, &meter, length, watched).await
}

async fn connect_until_over(target: Target, meter: Rc<Meter>) -> io::Result<()> {
    let request = last_request("/1k");
    while !meter.is_over() {
        Connection::open(&target).await?.exchange(&request).await?;
        meter.count();
    }
    Ok(())
}
