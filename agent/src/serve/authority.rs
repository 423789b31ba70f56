//! Programs that call over a Unix socket have no host to name. Several gRPC libraries name the socket's path instead, as
//! `:authority: %2Frun%2Fllm.sock` or with its slashes, and the HTTP/2 library refuses what is no host. Here each `%` and `/` of
//! such a name becomes a hyphen, which is one, before the library reads it.
//!
//! Names are changed in place and keep their length, so nothing else of the stream changes, the compression state of the
//! headers (RFC 7541) included. A name that is Huffman-coded is left alone; no library is known to send one so short that way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// Bytes before the payload of a frame (RFC 9113 §4.1).
const FRAME_HEAD_BYTES: usize = 9;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// Index of `:authority` in the static table (RFC 7541 appendix A); some libraries write the name out all the same.
const AUTHORITY: usize = 1;
const AUTHORITY_NAME: &[u8; 10] = b":authority";

/// An HTTP/2 stream whose callers may name a path where a host belongs.
pub(super) struct HostlessStream<S> {
    stream: S,
    names: Names,
}

impl<S> HostlessStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, names: Names::default() }
    }
}

/// How far the frames and the header fields in them were followed.
#[derive(Debug, Default)]
struct Names {
    preface_read: usize,
    frame: Frame,
    field: Field,
}

/// The frame that the next byte belongs to.
#[derive(Debug, Default)]
struct Frame {
    head: [u8; FRAME_HEAD_BYTES],
    head_read: usize,
    /// Bytes of the payload that are still to come, padding included.
    left: usize,
    padding: usize,
    /// Bytes before the header fields that are still to come.
    before_fields: usize,
    pad_length_follows: bool,
}

/// What the next byte of the header fields is (RFC 7541 §6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Field {
    /// The first byte of a field.
    #[default]
    Start,
    /// More of a number that does not fit into its first byte, and what follows it.
    Number { value: usize, shift: u32, then: Then },
    /// The first byte of a name's or a value's length.
    Length { of: Text },
    /// A byte of a name or value.
    Bytes { of: Text, plain: bool, left: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// The value of `:authority`.
    Authority,
    /// A name that is `:authority` as far as it was read.
    AuthorityName,
    Name,
    Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    NextField,
    Value,
    Bytes { of: Text, plain: bool },
}

impl Names {
    fn rewrite(&mut self, bytes: &mut [u8]) {
        let skipped = (PREFACE_BYTES - self.preface_read).min(bytes.len());
        self.preface_read += skipped;
        for byte in bytes.iter_mut().skip(skipped) {
            if self.frame.left == 0 {
                self.frame.take_head(*byte);
                continue;
            }
            if self.frame.is_field(*byte) {
                self.field = self.field.take(byte);
            }
            if self.frame.left == 0 && self.frame.ends_headers() {
                self.field = Field::Start;
            }
        }
    }
}

impl Frame {
    fn flags(&self) -> u8 {
        let [_, _, _, _, flags, ..] = self.head;
        flags
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }

    fn has(&self, flag: u8) -> bool {
        self.flags() & flag != 0
    }

    fn ends_headers(&self) -> bool {
        matches!(self.kind(), HEADERS | CONTINUATION) && self.has(END_HEADERS)
    }

    /// Takes a byte of the next head.
    fn take_head(&mut self, byte: u8) {
        if self.head_read == FRAME_HEAD_BYTES {
            self.head_read = 0;
        }
        if let Some(place) = self.head.get_mut(self.head_read) {
            *place = byte;
        }
        self.head_read += 1;
        if self.head_read == FRAME_HEAD_BYTES {
            let [high, middle, low, ..] = self.head;
            self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            let opens = self.kind() == HEADERS;
            self.pad_length_follows = opens && self.has(PADDED);
            self.before_fields = if opens && self.has(PRIORITY) { PRIORITY_BYTES } else { 0 };
            self.padding = 0;
        }
    }

    /// Counts a byte of the payload; true if it is one of the header fields.
    fn is_field(&mut self, byte: u8) -> bool {
        self.left -= 1;
        if self.pad_length_follows {
            self.pad_length_follows = false;
            self.padding = usize::from(byte);
            return false;
        }
        if self.before_fields > 0 {
            self.before_fields -= 1;
            return false;
        }
        matches!(self.kind(), HEADERS | CONTINUATION) && self.left >= self.padding
    }
}

impl Field {
    /// Takes the next byte, and changes it if it has no place in a host.
    fn take(self, byte: &mut u8) -> Self {
        match self {
            Self::Start => Self::start(*byte),
            Self::Number { value, shift, then } => {
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX);
                let value = value.saturating_add(more);
                match *byte & 0x80 {
                    0 => then.after(value),
                    _ => Self::Number { value, shift: shift.saturating_add(7), then },
                }
            }
            Self::Length { of } => {
                let then = Then::Bytes { of, plain: *byte & 0x80 == 0 };
                number(*byte & 0x7f, 0x7f, then)
            }
            Self::Bytes { of, plain, left } => {
                if of == Text::Authority && plain && matches!(*byte, b'%' | b'/') {
                    *byte = b'-';
                }
                let fits = AUTHORITY_NAME.iter().rev().nth(left.saturating_sub(1)) == Some(&*byte);
                let of = if of == Text::AuthorityName && !fits { Text::Name } else { of };
                after_bytes(of, plain, left.saturating_sub(1))
            }
        }
    }

    fn start(byte: u8) -> Self {
        match byte {
            // Indexed: nothing follows but the rest of the index.
            0x80.. => number(byte & 0x7f, 0x7f, Then::NextField),
            // With incremental indexing.
            0x40.. => named(byte & 0x3f, 0x3f),
            // A new size of the table.
            0x20.. => number(byte & 0x1f, 0x1f, Then::NextField),
            // Without indexing, or never indexed.
            _ => named(byte & 0x0f, 0x0f),
        }
    }
}

impl Then {
    fn after(self, value: usize) -> Field {
        match self {
            Self::NextField => Field::Start,
            Self::Value => Field::Length { of: Text::Value },
            Self::Bytes { of: Text::Name, plain: true } if value == AUTHORITY_NAME.len() => {
                after_bytes(Text::AuthorityName, true, value)
            }
            Self::Bytes { of, plain } => after_bytes(of, plain, value),
        }
    }
}

/// A literal field: its name is text, or an index that may take more bytes.
fn named(index: u8, most: u8) -> Field {
    match usize::from(index) {
        0 => Field::Length { of: Text::Name },
        AUTHORITY => Field::Length { of: Text::Authority },
        _ => number(index, most, Then::Value),
    }
}

fn number(prefix: u8, most: u8, then: Then) -> Field {
    let value = usize::from(prefix);
    if prefix == most { Field::Number { value, shift: 0, then } } else { then.after(value) }
}

fn after_bytes(of: Text, plain: bool, left: usize) -> Field {
    match (left, of) {
        (0, Text::AuthorityName) => Field::Length { of: Text::Authority },
        (0, Text::Name) => Field::Length { of: Text::Value },
        (0, Text::Authority | Text::Value) => Field::Start,
        _ => Field::Bytes { of, plain, left },
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HostlessStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.names.rewrite(buffer.filled_mut().get_mut(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HostlessStream<S> {
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
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [.., high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A connection that sends these frames, and what becomes of it, whole and byte by byte.
    fn check(frames: &[Vec<u8>], expected: &[Vec<u8>]) {
        let whole = |frames: &[Vec<u8>]| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frames.concat().as_slice()].concat();
        let expected = whole(expected);
        for size in [usize::MAX, 1, 3] {
            let (mut bytes, mut names) = (whole(frames), Names::default());
            bytes.chunks_mut(size.min(1 << 20)).for_each(|piece| names.rewrite(piece));
            assert_eq!(bytes, expected, "in pieces of {size}");
        }
    }

    const PATH: &[u8] = b"\x41\x0d%2Frun%2Fllm%";
    const HOST: &[u8] = b"\x41\x0d-2Frun-2Fllm-";

    #[test]
    fn a_path_in_the_place_of_a_host_becomes_a_host() {
        let settings = frame(0x4, 0, b"%/%/%/");
        let data = frame(0x0, 0, b"\x41\x02%/");
        let before = b"\x83\x86\x44\x05/a%2F";
        let after = b"\x40\x03x/%\x02%/\x3f\xe1\x1f\x0f\x2f\x02%/";
        let with = |name: &[u8]| [before, name, after].concat();
        let plain = |name: &[u8]| vec![settings.clone(), frame(HEADERS, END_HEADERS, &with(name)), data.clone()];
        check(&plain(PATH), &plain(HOST));
        let written_out = |name: &[u8]| {
            let fields = [b"\x40\x0a:authoritx\x01%\x40\x0a:authority", &name[1..], b"\x00\x03a%b\x01%"].concat();
            vec![frame(HEADERS, END_HEADERS, &fields)]
        };
        check(&written_out(PATH), &written_out(HOST));
        let never_indexed = |name: &[u8]| vec![frame(HEADERS, END_HEADERS, &[b"\x11", &name[1..]].concat())];
        check(&never_indexed(PATH), &never_indexed(HOST));
        let padded = |name: &[u8]| {
            let payload = [b"\x03\0\0\0\0\x10", with(name).as_slice(), b"\x41\x01%"].concat();
            vec![frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &payload)]
        };
        check(&padded(PATH), &padded(HOST));
        let continued = |name: &[u8]| {
            let whole = with(name);
            let (first, second) = whole.split_at(before.len() + 4);
            vec![frame(HEADERS, 0, first), frame(CONTINUATION, END_HEADERS, second), frame(HEADERS, END_HEADERS, name)]
        };
        check(&continued(PATH), &continued(HOST));
    }

    #[test]
    fn other_fields_long_values_and_coded_names_stay() {
        let long = [b"\x44\x7f\xad\x02", [b'%'; 428].as_slice()].concat();
        let fields = [long.as_slice(), b"\x41\x85/%/%/", PATH].concat();
        let expected = [long.as_slice(), b"\x41\x85/%/%/", HOST].concat();
        check(&[frame(HEADERS, END_HEADERS, &fields)], &[frame(HEADERS, END_HEADERS, &expected)]);
    }

    proptest! {
        #[test]
        fn nothing_but_percent_signs_and_slashes_is_ever_changed(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut changed = bytes.clone();
            Names::default().rewrite(&mut changed);
            for (before, after) in bytes.iter().zip(&changed) {
                prop_assert!(before == after || (matches!(before, b'%' | b'/') && *after == b'-'));
            }
        }
    }
}
