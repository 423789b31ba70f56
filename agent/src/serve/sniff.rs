//! Which HTTP a local program speaks in clear text: HTTP/2 begins with a preface that no HTTP/1.1 request has.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::rewind::Rewind;
use crate::listener::Stream;

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which protocol this is. The caller bounds the time.
pub(crate) async fn is_http2(mut stream: Stream) -> io::Result<(bool, Rewind<Stream>)> {
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
    let first = Bytes::copy_from_slice(first.get(..length).unwrap_or_default());
    Ok((http2, Rewind::new(first, stream)))
}
