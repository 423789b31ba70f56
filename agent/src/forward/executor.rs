//! Runs hyper's own tasks on the worker that they belong to.

use std::future::Future;

/// Starts tasks on the current thread.
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
