//! Bytes in both directions, without a buffer for connections that are silent.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::record::Transfer;

/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// One buffer for all connections of a worker: it is filled and emptied within one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// One direction.
#[derive(Default)]
struct Pump {
    /// What the writer did not take at once.
    pending: Vec<u8>,
    sent: usize,
    state: State,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Reading,
    /// The reader has ended; the writer is told.
    Ending,
    Ended,
}

/// Carries bytes until both directions have ended, each half by itself (a half-closed connection goes on in the other
/// direction).
pub(super) async fn both_ways<P, B>(
    mut peer: P,
    mut backend: B,
    transfer: &Transfer,
    touch: impl Fn(),
) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut inward, mut outward) = (Pump::default(), Pump::default());
    std::future::poll_fn(|context| {
        let inward = inward.poll(&mut peer, &mut backend, context, |bytes| {
            touch();
            transfer.add_received(bytes);
        })?;
        let outward = outward.poll(&mut backend, &mut peer, context, |bytes| {
            touch();
            transfer.add_sent(bytes);
        })?;
        if inward.is_ready() && outward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

impl Pump {
    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        context: &mut Context<'_>,
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_pending(writer, context))?;
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Reading => {
                    let read = self.poll_read(reader, writer, context)?;
                    if read.is_pending() {
                        // What was written may still lie in the TLS layer.
                        ready!(Pin::new(&mut *writer).poll_flush(context))?;
                    }
                    count(ready!(read));
                }
            }
        }
    }

    /// Reads into the worker's buffer and writes at once; only what is not taken is kept.
    fn poll_read<R, W>(&mut self, reader: &mut R, writer: &mut W, context: &mut Context<'_>) -> io::Result<Poll<usize>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(reader).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(outcome) => outcome?,
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
                return Ok(Poll::Ready(0));
            }
            let written = match Pin::new(writer).poll_write(context, bytes) {
                Poll::Pending => 0,
                Poll::Ready(outcome) => outcome?,
            };
            self.pending.extend_from_slice(bytes.get(written..).unwrap_or_default());
            Ok(Poll::Ready(bytes.len()))
        })
    }

    fn poll_pending<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *writer).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        // The memory goes back as soon as the writer has caught up.
        self.pending = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}
