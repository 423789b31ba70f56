//! Which HTTP a local program speaks in clear text: HTTP/2 begins with a preface that no HTTP/1.1 request has.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::listener::Stream;

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes have been read already.
pub(crate) struct Sniffed {
    stream: Stream,
    first: [u8; PREFACE.len()],
    length: u8,
    given: u8,
}

/// Reads until it is clear which protocol this is. The caller bounds the time.
pub(crate) async fn is_http2(mut stream: Stream) -> io::Result<(bool, Sniffed)> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    let http2 = loop {
        let (read, room) = first.split_at_mut(length);
        if PREFACE.get(..length) != Some(read) {
            break false;
        }
        if room.is_empty() {
            break true;
        }
        let count = stream.read(room).await?;
        if count == 0 {
            break false;
        }
        length += count;
    };
    let length = u8::try_from(length).unwrap_or(0);
    Ok((http2, Sniffed { stream, first, length, given: 0 }))
}

impl AsyncRead for Sniffed {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.first.get(usize::from(this.given)..usize::from(this.length)).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        this.given += u8::try_from(count).unwrap_or(0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }
}
