//! How HTTP/2 is spoken, the same on the side that serves and on the side that calls.

mod batch;

use std::future::Future;
use std::time::Duration;

use tokio::io::AsyncWrite;

pub(crate) use batch::{Outbox, batched};

/// Flow-control window of one stream in bytes: what may be under way before the reader has read.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// Flow-control window of one connection in bytes. Much larger than a stream's, so that one slow reader does not hold up the
/// others, and so that many small frames of token streams do not exhaust the library's budget for them.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How often a silent peer is asked whether it is still there.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to answer.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs hyper's own tasks on the worker that they belong to, and sends what a connection's task has written.
pub(crate) struct SendingOnThisWorker<S>(pub(crate) Outbox<S>);

impl<S> Clone for SendingOnThisWorker<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, F> hyper::rt::Executor<F> for SendingOnThisWorker<S>
where
    S: AsyncWrite + Unpin + 'static,
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let outbox = self.0.clone();
        tokio::task::spawn_local(async move { outbox.sending_for(future).await });
    }
}

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
