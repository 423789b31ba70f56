//! Room on the stack for reading policies.

use std::io;
use std::panic::resume_unwind;
use std::thread;

/// Bytes. Parser and validator use some dozen kilobytes for each level, and the bounds of [`text`](crate::text) allow some hundred
/// levels; a thread of the agent has two megabytes. Memory is taken only as far as it is used.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Does the work on a stack of its own, whatever stack the caller has left, and waits for it.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
        Ok(worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
