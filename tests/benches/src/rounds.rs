//! Requests in rounds that somebody else counts: every round goes over the same connection, so that no handshake is in one.

use std::io::{self, Write};

use crate::connection::{Connection, Target, request_with};

/// Asks so many requests for each line of standard input, one at a time, and writes a line when they are answered.
pub(crate) async fn run(target: Target, count: u32, headers: Vec<String>) -> io::Result<()> {
    let mut connection = Connection::open(&target).await?;
    let request = request_with("/1k", &headers);
    // Nothing else runs on this thread, so that waiting for a line may block it.
    for line in io::stdin().lines() {
        line?;
        for _ in 0..count {
            connection.exchange(&request).await?;
        }
        writeln!(io::stdout(), "{count}")?;
    }
    Ok(())
}
