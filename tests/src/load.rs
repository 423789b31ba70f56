//! Clients that ask without a pause to miss anything, and count every answer that is not as it should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::http::Client;

/// Between two requests of one client: twenty clients then ask about as much as two cores can answer beside everything else
/// that a test does.
const BETWEEN: Duration = Duration::from_millis(10);

/// Programs that keep one connection each and ask until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts so many clients that ask for this path.
    pub fn start(address: SocketAddr, path: &str, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |_| {
            let (stop, answered, path) = (Arc::clone(&stop), Arc::clone(&answered), path.to_owned());
            std::thread::spawn(move || ask_until_told(address, &path, &stop, &answered))
        };
        let clients = (0..clients).map(start).collect();
        Self { stop, answered, clients }
    }

    /// Good answers so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the clients. Returns how many good answers there were, and everything that was not one.
    pub fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

fn ask_until_told(address: SocketAddr, path: &str, stop: &AtomicBool, answered: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let asked = match client.take() {
            Some(client) => Ok(client),
            None => Client::connect(address),
        };
        match asked.and_then(|mut client| client.ask("GET", path, &[], b"").map(|answer| (client, answer))) {
            Ok((open, answer)) if answer.status() == 200 => {
                answered.fetch_add(1, Ordering::Relaxed);
                // A connection whose end was announced with a whole answer is no loss.
                client = (answer.head.header("connection") != Some("close")).then_some(open);
            }
            Ok((_, answer)) => failures.push(format!("status {}: {}", answer.status(), answer.text())),
            Err(error) => failures.push(error.to_string()),
        }
        std::thread::sleep(BETWEEN);
    }
    failures
}
