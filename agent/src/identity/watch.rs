//! The stream on which the CA tells whom to trust: bundle changes and revocations, at once.

use std::sync::Arc;
use std::time::Duration;

use countersign_certs::issuance::{ANSWER_BYTES_MAX, TrustUpdate};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// The CA repeats itself every 30 s; a stream silent for longer than this is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// Why a stream of news ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("the stream broke")]
    Broken(#[from] hyper::Error),
    #[error("the CA ended the stream")]
    Ended,
    #[error("a line of the stream cannot be read")]
    Malformed(#[from] serde_json::Error),
    #[error("nothing came for {SILENCE_MAX:?}")]
    Silent,
    #[error("a line of the stream is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads one update after the other and hands each on. Returns only when the stream has ended.
pub(crate) async fn follow(mut stream: Incoming, mut take: impl FnMut(Arc<TrustUpdate>)) -> WatchError {
    let mut line = Vec::new();
    let mut last_generation = 0;
    loop {
        let frame = match tokio::time::timeout(SILENCE_MAX, stream.frame()).await {
            Err(_elapsed) => return WatchError::Silent,
            Ok(None) => return WatchError::Ended,
            Ok(Some(Err(error))) => return error.into(),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if line.len() + piece.len() > ANSWER_BYTES_MAX {
                return WatchError::TooLong;
            }
            line.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            let update: TrustUpdate = match serde_json::from_slice(&line) {
                Ok(update) => update,
                Err(error) => return error.into(),
            };
            line.clear();
            // Within one stream a smaller generation is an old message; the same one is the CA's sign of life.
            if update.generation > last_generation {
                last_generation = update.generation;
                take(Arc::new(update));
            }
        }
    }
}
