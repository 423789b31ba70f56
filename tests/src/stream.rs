//! An answer that goes on for long, read on a thread of its own, with the moment of its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::{Address, Client};
use crate::wait;

/// Path of the plain server's event stream: twenty events a second for a minute.
pub const LONG_STREAM: &str = "/events?count=1200&interval=0.05";

/// A stream of events under way.
pub struct Stream {
    pieces: Arc<AtomicUsize>,
    end: Arc<Mutex<Option<End>>>,
}

/// How and when a stream ended.
#[derive(Debug, Clone)]
pub struct End {
    /// When.
    pub at: Instant,
    /// How it broke; none if it came to its own end.
    pub error: Option<String>,
    /// Pieces that came.
    pub pieces: usize,
}

impl Stream {
    /// Asks for a path, and waits for the first piece of the answer.
    ///
    /// # Panics
    /// The answer is not 200.
    #[track_caller]
    pub fn open(address: impl Into<Address>, path: &str) -> Self {
        let mut client = Client::connect(address).unwrap();
        client.send_request("GET", path, &[], b"").unwrap();
        let head = client.head().unwrap();
        assert_eq!(head.status, 200, "{head:?}");
        Self::of(client)
    }

    /// Reads the rest of an answer, of which the head was read.
    #[track_caller]
    pub fn of(mut client: Client) -> Self {
        let stream = Self { pieces: Arc::default(), end: Arc::default() };
        let (pieces, end) = (Arc::clone(&stream.pieces), Arc::clone(&stream.end));
        std::thread::spawn(move || {
            let error = loop {
                match client.piece() {
                    Ok(Some(_)) => pieces.fetch_add(1, Ordering::Relaxed),
                    Ok(None) => break None,
                    Err(error) => break Some(error.to_string()),
                };
            };
            let ended = End { at: wait::now(), error, pieces: pieces.load(Ordering::Relaxed) };
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        });
        wait::until_so("the first piece of a stream", || stream.pieces() > 0);
        stream
    }

    /// Pieces that came so far.
    pub fn pieces(&self) -> usize {
        self.pieces.load(Ordering::Relaxed)
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_end(&self, bound: Duration) -> End {
        wait::within(bound, "a stream ends", || self.end())
    }

    /// Waits until something more has come.
    #[track_caller]
    pub fn wait_for_more(&self) {
        let before = self.pieces();
        wait::until_so("a stream goes on", || self.pieces() > before);
    }
}
