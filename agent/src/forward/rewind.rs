//! A stream that can be taken out of HTTP's hands and given back: it begins with bytes that were read already, and it knows
//! whether everything written to it has left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Bytes that a silent connection is asked for. The first of a request end the silence, the rest are read with a real
/// buffer.
const FIRST_BYTES: usize = 32;

/// A stream with what was read of it already.
pub(crate) struct Rewind<S> {
    first: Bytes,
    stream: S,
    settled: Settled,
}

/// Whether everything that was written has left.
#[derive(Clone)]
pub(crate) struct Settled(Arc<AtomicBool>);

impl Settled {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, settled: bool) {
        self.0.store(settled, Ordering::Relaxed);
    }
}

impl<S> Rewind<S> {
    /// A stream that begins with these bytes.
    pub(crate) fn new(first: Bytes, stream: S) -> Self {
        Self { first, stream, settled: Settled(Arc::new(AtomicBool::new(true))) }
    }

    /// The same stream, with bytes put back to its beginning.
    pub(crate) fn put_back(mut self, bytes: Bytes) -> Self {
        if !bytes.is_empty() {
            self.first = [bytes, self.first].concat().into();
        }
        self
    }

    /// Tells whether everything that was written has left.
    pub(crate) fn settled(&self) -> Settled {
        self.settled.clone()
    }
}

impl<S: AsyncRead + Unpin> Rewind<S> {
    /// Waits, with next to no memory, until there is something to read. False if there never will be.
    pub(crate) async fn wait_for_bytes(&mut self) -> io::Result<bool> {
        if !self.first.is_empty() {
            return Ok(true);
        }
        let mut first = [0; FIRST_BYTES];
        let count = self.stream.read(&mut first).await?;
        self.first = Bytes::copy_from_slice(first.get(..count).unwrap_or_default());
        Ok(count > 0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = this.first.len().min(buffer.remaining());
        buffer.put_slice(this.first.get(..count).unwrap_or_default());
        this.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.settled.set(false);
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        this.settled.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection that is being closed never rests.
        this.settled.set(false);
        Pin::new(&mut this.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.settled.set(false);
        Pin::new(&mut this.stream).poll_write_vectored(context, bytes)
    }
}
