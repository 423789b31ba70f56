//! HTTP/2 by hand (RFC 9113, RFC 7541), for what no proper client would send.

use std::io::{self, Read, Write};

use crate::http::Duplex;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

/// A connection of a client.
pub struct RawHttp2 {
    stream: Box<dyn Duplex>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answered(u16),
    /// The other side took it back, with this error code.
    Reset(u32),
    /// The other side ended the connection, with this error code.
    GoAway(u32),
    /// The connection was closed.
    Closed,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl RawHttp2 {
    /// Sends the preface.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn open(stream: impl Duplex + 'static) -> io::Result<Self> {
        let mut connection = Self { stream: Box::new(stream) };
        connection.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        connection.send(SETTINGS, 0, 0, &[])?;
        Ok(connection)
    }

    /// Sends a header block: the head of a request, or its trailers.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> io::Result<()> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal field without indexing, new name (RFC 7541 §6.2.2); neither string is Huffman-encoded.
            block.push(0);
            push_string(&mut block, name);
            push_string(&mut block, value);
        }
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &block)
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn get(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) -> io::Result<()> {
        let head = [(":method", "GET"), (":scheme", "https"), (":authority", "service.test"), (":path", path)];
        self.headers(stream, &[&head, more].concat(), true)
    }

    /// Sends a piece of a body.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> io::Result<()> {
        self.send(DATA, if end { END_STREAM } else { 0 }, stream, bytes)
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn reset(&mut self, stream: u32) -> io::Result<()> {
        const CANCEL: u32 = 8;
        self.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
    }

    /// Waits for the end of a stream.
    pub fn end_of(&mut self, stream: u32) -> End {
        let mut status = None;
        loop {
            let Ok(frame) = self.receive() else { return End::Closed };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    self.send(SETTINGS, ACK, 0, &[]).ok();
                }
                GOAWAY => return End::GoAway(number(&frame.payload[4..8])),
                RST_STREAM if frame.stream == stream => return End::Reset(number(&frame.payload)),
                HEADERS if frame.stream == stream => status = status.or_else(|| status_of(&frame.payload)),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return End::Answered(status.unwrap_or_default());
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame)?;
        self.stream.flush()
    }

    fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = usize::try_from(number(&[0, head[0], head[1], head[2]])).unwrap();
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok(Frame { kind: head[3], flags: head[4], stream: number(&head[5..9]), payload })
    }
}

fn push_string(block: &mut Vec<u8>, text: &str) {
    // A length of 127 and more has further bytes (RFC 7541 §5.1).
    match u8::try_from(text.len()) {
        Ok(length @ ..127) => block.push(length),
        _ => {
            block.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(text.as_bytes());
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

/// The status at the beginning of a header block: one of the static table, or a literal with an indexed name.
fn status_of(block: &[u8]) -> Option<u16> {
    match block {
        [0x88, ..] => Some(200),
        [0x89, ..] => Some(204),
        [0x8c, ..] => Some(400),
        [0x8d, ..] => Some(404),
        [0x8e, ..] => Some(500),
        [0x08 | 0x48, length, rest @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
        }
        [0x08 | 0x48, length, rest @ ..] => digits(rest.get(..usize::from(length & 0x7f))?),
        _ => None,
    }
}

/// Three digits in the Huffman code of RFC 7541, appendix B: 0 to 2 have five bits, 3 to 9 have six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1));
    let mut value = 0;
    for _ in 0..3 {
        let mut take = |count| (0..count).try_fold(0_u16, |code, _| Some(code << 1 | u16::from(bits.next()?)));
        let five = take(5)?;
        let digit = if five < 3 { five } else { (five << 1 | take(1)?) - 22 };
        value = value * 10 + digit;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_each_form() {
        assert_eq!(status_of(&[0x88]), Some(200));
        assert_eq!(status_of(&[0x48, 3, b'4', b'0', b'3']), Some(403));
        assert_eq!(status_of(&[0x48, 0x83, 0x68, 0x0c, 0xff]), Some(403));
    }
}
