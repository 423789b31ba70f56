//! Bytes that are written in one turn go out together.
//!
//! The HTTP/2 library writes and flushes each frame of data by itself, which would be a TLS record and a system call for each
//! answer. Here writing only appends; what has been appended leaves when the connection's task has been polled, and by then
//! the answers of all its streams are there.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much may wait to be sent; more is not taken before some of it has left.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// A piece of this size gains nothing by waiting for others, and is not copied: one TLS record.
const WHOLE_BYTES: usize = 16 * 1024;

/// The library's end of a stream.
pub(crate) struct Batched<S>(Rc<RefCell<Batch<S>>>);

/// The end of whoever polls the library.
pub(crate) struct Outbox<S>(Rc<RefCell<Batch<S>>>);

struct Batch<S> {
    stream: S,
    waiting: Vec<u8>,
    sent: usize,
    /// Something was written since the stream itself was flushed.
    unflushed: bool,
    /// The library's task, if it waits for room. Another task of the connection may be the one that hears of it.
    blocked: Option<Waker>,
}

/// Both ends of a stream whose writes are gathered.
pub(crate) fn batched<S>(stream: S) -> (Batched<S>, Outbox<S>) {
    let batch = Rc::new(RefCell::new(Batch { stream, waiting: Vec::new(), sent: 0, unflushed: false, blocked: None }));
    (Batched(Rc::clone(&batch)), Outbox(batch))
}

impl<S> Clone for Outbox<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Outbox<S> {
    /// Runs a task, and sends what it has written each time that it has been polled.
    pub(crate) async fn sending_for<F: Future>(&self, task: F) -> F::Output {
        let mut task = std::pin::pin!(task);
        std::future::poll_fn(|context| {
            let outcome = task.as_mut().poll(context);
            // Whether sending fails or has to wait: the task finds out when it writes again or reads, and is woken for it.
            let _ = self.0.borrow_mut().poll_send(context);
            outcome
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> Batch<S> {
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

    /// Waits, as the library, until everything that was appended has left.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = self.poll_empty(context);
        self.noting(left, context)
    }

    /// Makes room if there is none.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= WAITING_BYTES_MAX {
            ready!(self.poll_left(context))?;
        }
        Poll::Ready(Ok(WAITING_BYTES_MAX - self.waiting.len()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut batch = self.0.borrow_mut();
        if bytes.len() >= WHOLE_BYTES {
            ready!(batch.poll_left(context))?;
            batch.unflushed = true;
            let written = Pin::new(&mut batch.stream).poll_write(context, bytes);
            return batch.noting(written, context);
        }
        let room = ready!(batch.poll_room(context))?;
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        batch.waiting.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut batch = self.0.borrow_mut();
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() >= WHOLE_BYTES {
            ready!(batch.poll_left(context))?;
            batch.unflushed = true;
            let written = Pin::new(&mut batch.stream).poll_write_vectored(context, pieces);
            return batch.noting(written, context);
        }
        let mut room = ready!(batch.poll_room(context))?;
        let before = batch.waiting.len();
        for piece in pieces {
            let taken = piece.get(..room.min(piece.len())).unwrap_or_default();
            batch.waiting.extend_from_slice(taken);
            room -= taken.len();
        }
        Poll::Ready(Ok(batch.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written leaves at the end of the turn.
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

    #[tokio::test]
    async fn what_one_turn_writes_is_one_write() {
        let (near, mut far) = tokio::io::duplex(1024 * 1024);
        let writes = Rc::default();
        let (mut stream, outbox) = batched(Counting(near, Rc::clone(&writes)));
        outbox
            .sending_for(async move {
                for _ in 0..100 {
                    stream.write_all(b"0123456789").await.unwrap();
                    stream.flush().await.unwrap();
                }
            })
            .await;
        assert_eq!(writes.get(), 1);
        let mut received = vec![0; 1000];
        far.read_exact(&mut received).await.unwrap();
        assert!(received.chunks(10).all(|chunk| chunk == b"0123456789"));
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_holds_the_writer_up_and_gets_every_byte_in_order() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut stream, outbox) = batched(Counting(near, Rc::default()));
        let sent: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writing = outbox.sending_for(async move {
            // Small pieces, pieces that are passed through, and odd ones.
            for (index, piece) in sent.chunks(20_011).enumerate() {
                let size = [1, 700, 20_011, 16_384][index % 4];
                for part in piece.chunks(size) {
                    stream.write_all(part).await.unwrap();
                }
            }
            assert!(stream.0.borrow().waiting.len() <= WAITING_BYTES_MAX);
            stream.shutdown().await.unwrap();
        });
        let reading = async {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            received
        };
        let ((), received) = tokio::join!(writing, reading);
        assert_eq!(received, expected);
    }
}
