//! Follows an HTTP/1.1 byte stream from head to head, beside the HTTP library, to notice what the library would repair in
//! silence: a head that gives its body more than one length (RFC 9112 §6.3). A program before us may have gone by the other
//! one, and what it took for a body would be a request here.
//!
//! It decides nothing but that. Were a stream read otherwise here than in the library, it could have fewer heads here than
//! there are requests, and then those requests are refused; it could have more, too, and then a head with two lengths would be
//! counted as another request's. So whatever the two might read differently (a line of a length that is not kept whole, a line
//! of a chunked body that a bare line feed ends) makes everything behind it ambiguous.

use memchr::memchr;

/// What is kept of a line that comes in pieces: enough for the name and the value of a length.
const LINE_BYTES_MAX: usize = 64;

/// A byte stream as far as it was followed.
#[derive(Debug, Default)]
pub(super) struct Framing {
    expected: Expected,
    begun: BegunLine,
    head: Head,
    heads: u64,
    first_ambiguous: Option<u64>,
}

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
struct BegunLine {
    kept: Vec<u8>,
    is_cut: bool,
    ends_with_cr: bool,
}

/// A line whose end has come.
struct Line<'bytes> {
    text: &'bytes [u8],
    /// More of it came than is kept.
    is_cut: bool,
    /// CRLF ended it, and not a bare LF.
    ends_with_crlf: bool,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expected {
    /// A body of which so much is still to come.
    Body(u64),
    /// A chunk of which so much is still to come, its line end included.
    Chunk(u64),
    ChunkSize,
    #[default]
    Head,
    Trailers,
}

/// The lines of a head that tell where its body ends.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    begun: bool,
    unreadable: bool,
    lengths: u32,
    codings: u32,
    length: u64,
}

impl Framing {
    /// Heads that have ended.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// The number, from 0, of the first head with two lengths, or from which on nobody can be sure where bodies end.
    pub(super) fn first_ambiguous(&self) -> Option<u64> {
        self.first_ambiguous
    }

    /// Follows the next bytes.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.expected {
                Expected::Body(left) => self.skip(left, bytes, Expected::Body, Expected::Head),
                Expected::Chunk(left) => self.skip(left, bytes, Expected::Chunk, Expected::ChunkSize),
                Expected::ChunkSize | Expected::Head | Expected::Trailers => self.follow_line(bytes),
            };
        }
    }

    fn skip<'bytes>(
        &mut self,
        left: u64,
        bytes: &'bytes [u8],
        still: fn(u64) -> Expected,
        then: Expected,
    ) -> &'bytes [u8] {
        let skipped = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left.saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX));
        self.expected = if left == 0 { then } else { still(left) };
        bytes.get(skipped..).unwrap_or_default()
    }

    fn follow_line<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        let Some((line, rest)) = memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end + 1)) else {
            self.begun = std::mem::take(&mut self.begun).with(bytes);
            return &[];
        };
        let begun = std::mem::take(&mut self.begun);
        let ends_with_crlf = match line {
            [b'\n'] => begun.ends_with_cr,
            line => line.ends_with(b"\r\n"),
        };
        if begun.kept.is_empty() {
            self.end_line(&Line { text: line, is_cut: false, ends_with_crlf });
        } else {
            let BegunLine { kept, is_cut, .. } = begun.with(line);
            self.end_line(&Line { text: &kept, is_cut, ends_with_crlf });
        }
        rest
    }

    fn end_line(&mut self, line: &Line<'_>) {
        let text = line.text.trim_ascii_end();
        match self.expected {
            Expected::ChunkSize => {
                if line.is_cut || !line.ends_with_crlf {
                    self.distrust();
                }
                // A chunk is followed by a line end of its own.
                self.expected = match number(text, 16) {
                    0 => Expected::Trailers,
                    size => Expected::Chunk(size.saturating_add(2)),
                };
            }
            Expected::Trailers if line.text == b"\r\n" => self.expected = Expected::Head,
            Expected::Trailers if !line.ends_with_crlf => self.distrust(),
            Expected::Head if text.is_empty() && self.head.begun => self.end_head(),
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            Expected::Head if text.is_empty() => {}
            Expected::Head => self.head.add(text, line.is_cut),
            Expected::Body(_) | Expected::Chunk(_) | Expected::Trailers => {}
        }
    }

    /// The next head that ends, and whatever comes after it, can no longer be told from a body for sure.
    fn distrust(&mut self) {
        self.first_ambiguous.get_or_insert(self.heads);
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        if head.unreadable || head.lengths.saturating_add(head.codings) > 1 {
            self.distrust();
        }
        self.heads += 1;
        self.expected = match head {
            Head { codings: 1.., .. } => Expected::ChunkSize,
            Head { length: 1.., .. } => Expected::Body(head.length),
            Head { .. } => Expected::Head,
        };
    }
}

impl BegunLine {
    fn with(mut self, bytes: &[u8]) -> Self {
        let room = LINE_BYTES_MAX.saturating_sub(self.kept.len());
        self.kept.extend(bytes.iter().take(room));
        self.is_cut |= bytes.len() > room;
        self.ends_with_cr = bytes.ends_with(b"\r");
        self
    }
}

impl Head {
    fn add(&mut self, line: &[u8], is_cut: bool) {
        if !std::mem::replace(&mut self.begun, true) {
            // The request line.
            return;
        }
        let Some((name, value)) = memchr(b':', line).and_then(|colon| line.split_at_checked(colon)) else { return };
        if name.eq_ignore_ascii_case(b"content-length") {
            self.unreadable |= is_cut;
            self.lengths = self.lengths.saturating_add(1);
            self.length = number(value.get(1..).unwrap_or_default().trim_ascii(), 10);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.unreadable |= is_cut;
            self.codings = self.codings.saturating_add(1);
        }
    }
}

/// The digits that a text begins with. What is no number has made the library refuse the request already.
fn number(text: &[u8], radix: u32) -> u64 {
    let digits = text.iter().map_while(|byte| char::from(*byte).to_digit(radix));
    digits.fold(0, |number, digit| number.saturating_mul(radix.into()).saturating_add(digit.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn followed(pieces: &[&[u8]]) -> (u64, Option<u64>) {
        let mut framing = Framing::default();
        pieces.iter().for_each(|piece| framing.follow(piece));
        (framing.heads(), framing.first_ambiguous())
    }

    fn check(stream: &str, expected: (u64, Option<u64>)) {
        assert_eq!(followed(&[stream.as_bytes()]), expected, "{stream:?}");
        let pieces: Vec<_> = stream.as_bytes().chunks(1).collect();
        assert_eq!(followed(&pieces), expected, "byte by byte: {stream:?}");
    }

    #[test]
    fn heads_are_counted_and_bodies_are_not() {
        check("", (0, None));
        check("GET / HTTP/1.1\r\nHost: a\r\n\r", (0, None));
        check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\nHost: a\n\n", (2, None));
        check("POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", (2, None));
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{chunked}12;ext=1\r\nGET / HTTP/1.1\r\n\r\n\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            (2, None),
        );
        check(&format!("{chunked}0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), (2, None));
    }

    #[test]
    fn two_lengths_are_noticed() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\n";
        check(&format!("{post}transfer-encoding:chunked\r\nCONTENT-LENGTH:6\r\n\r\n0\r\n\r\n"), (1, Some(0)));
        check(&format!("{get}{post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"), (2, Some(1)));
        check(&format!("{get}{get}{post}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx{get}"), (4, Some(2)));
        check(&format!("{post}Content-Length: 1\r\nX-Content-Length: 2\r\n\r\nx"), (1, None));
    }

    /// In two pieces that meet at `cut`, as a program that sends them so decides.
    fn check_cut(stream: &str, cut: usize, expected: (u64, Option<u64>)) {
        let (first, second) = stream.as_bytes().split_at(cut);
        assert_eq!(followed(&[first, second]), expected, "cut at {cut}: {stream:?}");
    }

    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn a_line_of_a_chunked_body_that_ends_with_a_bare_line_feed_is_ambiguous() {
        check(&format!("{CHUNKED}0\r\nX: y\n\r\n{GET}"), (2, Some(1)));
        check(&format!("{CHUNKED}0\r\nX: y\r\n\n{GET}"), (1, Some(1)));
        check(&format!("{CHUNKED}0\r\n \r\nX: y\r\n\r\n{GET}"), (2, None));
        check(&format!("{CHUNKED}0\n\r\n{GET}"), (2, Some(1)));
        check(&format!("{CHUNKED}1;ext\nx\r\n0\r\n\r\n{GET}"), (2, Some(1)));
        check(&format!("{GET}{CHUNKED}0\r\nX: y\n\r\n{GET}"), (3, Some(2)));
        // Long trailers are not kept whole, and their ends are.
        check(&format!("{CHUNKED}0\r\nX: {}\r\n\r\n{GET}", "y".repeat(500)), (2, None));
        check(&format!("{CHUNKED}0\r\nX: {}\n\r\n{GET}", "y".repeat(500)), (2, Some(1)));
    }

    #[test]
    fn a_length_too_long_to_be_kept_is_ambiguous() {
        let spaces = format!("POST / HTTP/1.1\r\nContent-Length:{}1\r\n\r\nx{GET}", " ".repeat(80));
        check_cut(&spaces, 40, (2, Some(0)));
        let zeros = format!("POST / HTTP/1.1\r\nContent-Length: {}1\r\n\r\nx{GET}", "0".repeat(80));
        check_cut(&zeros, 40, (2, Some(0)));
        let coding = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{}chunked\r\n\r\n0\r\n\r\n", " ".repeat(80));
        check_cut(&coding, 60, (1, Some(0)));
        // What tells no length may be as long as it likes.
        check(&format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n{GET}", "c".repeat(500)), (2, None));
    }

    #[test]
    fn a_chunk_size_too_long_to_be_kept_is_ambiguous() {
        let stream = format!("{CHUNKED}{}1\r\nx\r\n0\r\n\r\n{GET}", "0".repeat(80));
        let (first, second) = stream.as_bytes().split_at(CHUNKED.len() + 10);
        assert_eq!(followed(&[first, second]).1, Some(1));
        let extension = format!("{CHUNKED}1;{}\r\nx\r\n0\r\n\r\n{GET}", "e".repeat(200));
        check_cut(&extension, CHUNKED.len() + 10, (2, Some(1)));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bodies in proptest::collection::vec((".{0,40}", any::<bool>()), 1..6),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let mut stream = Vec::new();
            for (body, chunked) in &bodies {
                stream.extend_from_slice(b"POST /a HTTP/1.1\r\nHost: a\r\n");
                stream.extend(match (chunked, body.is_empty()) {
                    (true, true) => "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
                    (true, false) => {
                        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
                    }
                    (false, _) => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
                }.into_bytes());
            }
            let (mut framing, mut rest) = (Framing::default(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, next) = rest.split_at((*cut).min(rest.len()));
                framing.follow(piece);
                rest = next;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(framing.heads(), u64::try_from(bodies.len()).unwrap());
            prop_assert_eq!(framing.first_ambiguous(), None);
        }

        #[test]
        fn any_bytes_are_followed_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut framing = Framing::default();
            framing.follow(&bytes);
            prop_assert!(framing.begun.kept.len() <= LINE_BYTES_MAX);
        }
    }
}
