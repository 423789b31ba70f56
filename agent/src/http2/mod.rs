//! How HTTP/2 is spoken, the same on the side that serves and on the side that calls.

mod batch;

use std::future::Future;
use std::time::Duration;

pub(crate) use batch::Batched;

/// Flow-control window of one stream in bytes: what may be under way before the reader has read. On a network of a millisecond
/// that is 250 MB a second, and 64 streams whose readers have stopped do not fill their connection.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;

/// Flow-control window of one connection in bytes: as much can a peer make us hold for backends that do not read. Much larger than a
/// stream's, so that one slow reader does not hold up the others, and so that many small frames of token streams do not
/// exhaust the library's budget for them, which is half of it.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How often a silent peer is asked whether it is still there.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to answer.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs hyper's own tasks on the worker that they belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnThisWorker;

impl<F> hyper::rt::Executor<F> for OnThisWorker
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
