//! Requests in rounds that somebody else counts: every round goes over the same connections, so that no handshake is in one.

use std::io::{self, Write};
use std::rc::Rc;

use tokio::task::JoinSet;

use crate::connection::{Connection, Target, request_with};
use crate::requests::finish;

/// How many requests a round has, and on how many connections at once.
pub(crate) struct Round {
    pub(crate) connections: u32,
    pub(crate) count: u32,
}

/// Makes a round for each line of standard input, and writes a line when all of it is answered.
pub(crate) async fn run(target: Target, round: Round, headers: Vec<String>) -> io::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..round.connections {
        connections.push(Connection::open(&target).await?);
    }
    let request: Rc<[u8]> = request_with("/1k", &headers).into();
    // Nothing else runs on this thread, so that waiting for a line may block it.
    for line in io::stdin().lines() {
        line?;
        let each = round.count / round.connections;
        let mut tasks = JoinSet::new();
        for mut connection in connections.drain(..) {
            let request = Rc::clone(&request);
            tasks.spawn_local(async move {
                for _ in 0..each {
                    connection.exchange(&request).await?;
                }
                Ok(connection)
            });
        }
        connections = finish(tasks).await?;
        writeln!(io::stdout(), "{}", each * round.connections)?;
    }
    Ok(())
}
