//! Bytes that are written in one turn go out together.
//!
//! The HTTP/2 library writes and flushes each frame of data by itself, which would be a TLS record and a system call for each
//! answer. Here writing only appends; what has been appended leaves in the next turn of the runtime, and by then the answers of
//! all streams of the connection are there.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much may wait to be sent; more is not taken before some of it has left.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// A piece of this size gains nothing by waiting for others, and is not copied: one TLS record.
const WHOLE_BYTES: usize = 16 * 1024;

/// A stream whose writes are gathered.
pub(crate) struct Batched<S>(Rc<RefCell<Batch<S>>>);

struct Batch<S> {
    stream: S,
    waiting: Vec<u8>,
    sent: usize,
    /// Something was written since the stream itself was flushed.
    unflushed: bool,
    /// The task that sends; it is woken when there is something to send.
    sender: Option<Waker>,
    /// The library's task, if it waits for room. The sender may be the one that hears of it.
    blocked: Option<Waker>,
    /// The library has let go of the stream.
    dropped: bool,
}

impl<S: AsyncWrite + Unpin + 'static> Batched<S> {
    /// Gathers what is written to this stream, and sends it from a task of its own on this worker.
    pub(crate) fn new(stream: S) -> Self {
        let batch = Batch {
            stream,
            waiting: Vec::new(),
            sent: 0,
            unflushed: false,
            sender: None,
            blocked: None,
            dropped: false,
        };
        let batch = Rc::new(RefCell::new(batch));
        let sending = Rc::clone(&batch);
        tokio::task::spawn_local(std::future::poll_fn(move |context| sending.borrow_mut().poll_sending(context)));
        Self(batch)
    }
}

impl<S> Drop for Batched<S> {
    fn drop(&mut self) {
        // The sender ends, and the stream with it.
        let mut batch = self.0.borrow_mut();
        batch.dropped = true;
        batch.wake_sender();
    }
}

impl<S> Batch<S> {
    fn wake_sender(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    fn wake_blocked(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            blocked.wake();
        }
    }

    /// Notes that the library's task waits, if it does.
    fn noting<T>(&mut self, outcome: Poll<T>, context: &Context<'_>) -> Poll<T> {
        if outcome.is_pending() {
            self.blocked = Some(context.waker().clone());
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    /// The sender's task: sends whenever it is woken, until the library has let go.
    fn poll_sending(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.dropped {
            return Poll::Ready(());
        }
        self.sender = Some(context.waker().clone());
        if let Poll::Ready(Err(_failed)) = self.poll_send(context) {
            // The library finds out itself when it writes again.
            self.wake_blocked();
        }
        Poll::Pending
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(context))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        self.wake_blocked();
        Poll::Ready(Ok(()))
    }

    fn poll_empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.unflushed = true;
        }
        // A silent connection holds no buffer.
        self.waiting = Vec::new();
        self.sent = 0;
        self.wake_blocked();
        Poll::Ready(Ok(()))
    }

    /// Waits, as the library, until everything that was appended has left.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = self.poll_empty(context);
        self.noting(left, context)
    }

    /// Appends pieces as far as there is room, or hands a large whole on.
    fn poll_take(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let whole = pieces.iter().map(|piece| piece.len()).sum::<usize>() >= WHOLE_BYTES;
        if whole || self.waiting.len() >= WAITING_BYTES_MAX {
            ready!(self.poll_left(context))?;
        }
        self.wake_sender();
        if whole {
            self.unflushed = true;
            let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
            return self.noting(written, context);
        }
        let before = self.waiting.len();
        for piece in pieces {
            let room = WAITING_BYTES_MAX - self.waiting.len();
            self.waiting.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written leaves in the next turn.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.0.borrow_mut();
        ready!(batch.poll_left(context))?;
        Pin::new(&mut batch.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts how often something was written to the stream below.
    struct Counting(tokio::io::DuplexStream, Rc<std::cell::Cell<usize>>);

    impl AsyncRead for Counting {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            this.1.set(this.1.get() + 1);
            Pin::new(&mut this.0).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_flush(context)
        }

        fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().0).poll_shutdown(context)
        }
    }

    /// Runs on a worker as the agent's are.
    fn on_a_worker(test: impl Future<Output = ()>) {
        let options = tokio::runtime::LocalOptions::default();
        tokio::runtime::Builder::new_current_thread().build_local(options).unwrap().block_on(test);
    }

    #[test]
    fn what_one_turn_writes_is_one_write() {
        on_a_worker(async {
            let (near, mut far) = tokio::io::duplex(1024 * 1024);
            let writes = Rc::default();
            let mut stream = Batched::new(Counting(near, Rc::clone(&writes)));
            for _ in 0..100 {
                stream.write_all(b"0123456789").await.unwrap();
                stream.flush().await.unwrap();
            }
            let mut received = vec![0; 1000];
            far.read_exact(&mut received).await.unwrap();
            assert!(received.chunks(10).all(|chunk| chunk == b"0123456789"));
            assert_eq!(writes.get(), 1);
            drop(stream);
            assert_eq!(far.read(&mut received).await.unwrap(), 0, "the stream ends with its batch");
        });
    }

    #[test]
    fn a_reader_that_is_slow_holds_the_writer_up_and_gets_every_byte_in_order() {
        on_a_worker(async {
            let (near, mut far) = tokio::io::duplex(1000);
            let mut stream = Batched::new(Counting(near, Rc::default()));
            let sent: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
            let expected = sent.clone();
            let writing = async move {
                // Small pieces, pieces that are passed through, and odd ones.
                for (index, piece) in sent.chunks(20_011).enumerate() {
                    let size = [1, 700, 20_011, 16_384][index % 4];
                    for part in piece.chunks(size) {
                        stream.write_all(part).await.unwrap();
                        assert!(stream.0.borrow().waiting.len() <= WAITING_BYTES_MAX);
                    }
                }
                stream.shutdown().await.unwrap();
            };
            let reading = async {
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.unwrap();
                received
            };
            let ((), received) = tokio::join!(writing, reading);
            assert_eq!(received, expected);
        });
    }
}
