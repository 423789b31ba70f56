//! A stream that can be taken out of HTTP's hands and given back: it begins with bytes that were read already, and it knows
//! whether everything written to it has left, and how many heads of requests have come in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::framing::Framing;

/// Bytes that a silent connection is asked for. The first of a request end the silence, the rest are read with a real
/// buffer.
const FIRST_BYTES: usize = 32;

/// A stream with what was read of it already.
pub(crate) struct Rewind<S> {
    first: Bytes,
    stream: S,
    /// None until the stream is known to be HTTP/1.1.
    framing: Option<Framing>,
    watch: Watch,
}

/// What whoever answers the requests of a stream can ask about it.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Watched>);

struct Watched {
    settled: AtomicBool,
    heads: AtomicU64,
    first_ambiguous: AtomicU64,
    taken: AtomicU64,
    upgraded: AtomicBool,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            settled: AtomicBool::new(true),
            heads: AtomicU64::new(0),
            first_ambiguous: AtomicU64::new(u64::MAX),
            taken: AtomicU64::new(0),
            upgraded: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// Whether everything that was written has left.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Relaxed)
    }

    /// Takes the next request of the stream; false if its head, or one before it, gave its body two lengths.
    pub(crate) fn next_is_unambiguous(&self) -> bool {
        let number = self.0.taken.fetch_add(1, Ordering::Relaxed);
        number < self.0.heads.load(Ordering::Relaxed) && number < self.0.first_ambiguous.load(Ordering::Relaxed)
    }

    /// From now on the stream carries something else than HTTP.
    pub(crate) fn upgraded(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }

    fn settle(&self, settled: bool) {
        self.0.settled.store(settled, Ordering::Relaxed);
    }
}

impl<S> Rewind<S> {
    /// A stream that begins with these bytes.
    pub(crate) fn new(first: Bytes, stream: S) -> Self {
        Self { first, stream, framing: None, watch: Watch::default() }
    }

    /// The same stream, of which it is now known that it is HTTP/1.1.
    pub(crate) fn into_http1(mut self) -> Self {
        let first = self.first.clone();
        self.framing = Some(Framing::default());
        self.follow(&first);
        self
    }

    /// The same stream, with bytes put back to its beginning.
    pub(crate) fn put_back(mut self, bytes: Bytes) -> Self {
        if !bytes.is_empty() {
            self.first = [bytes, self.first].concat().into();
        }
        self
    }

    /// What can be asked about it while HTTP has it.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Bytes are followed when they come from below, so that those that are put back are not followed twice.
    fn follow(&mut self, bytes: &[u8]) {
        let Some(framing) = &mut self.framing else { return };
        let watched = &self.watch.0;
        if watched.upgraded.load(Ordering::Relaxed) {
            self.framing = None;
            return;
        }
        framing.follow(bytes);
        watched.heads.store(framing.heads(), Ordering::Relaxed);
        watched.first_ambiguous.store(framing.first_ambiguous().unwrap_or(u64::MAX), Ordering::Relaxed);
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
        let bytes = first.get(..count).unwrap_or_default();
        self.follow(bytes);
        self.first = Bytes::copy_from_slice(bytes);
        Ok(count > 0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            this.follow(buffer.filled().get(before..).unwrap_or_default());
            return Poll::Ready(Ok(()));
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
        this.watch.settle(false);
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        this.watch.settle(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection that is being closed never rests.
        this.watch.settle(false);
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
        this.watch.settle(false);
        Pin::new(&mut this.stream).poll_write_vectored(context, bytes)
    }
}
