//! What a store may send. Each question has one answer, and ours are short: numbers, a word or an error. The library reads into memory
//! whatever comes, however long; so what answers no question or is longer breaks the connection before the library has it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest answer in bytes. Two numbers for each of 256 limits, the most that an agent has, are 7 KiB.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Questions without an answer. One that is given up before it was sent stays among them, which lets one more bounded answer pass.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<AtomicUsize>);

impl Questions {
    /// Counts one that is about to be sent.
    pub(super) fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn answer(&self) -> Result<(), AnswerError> {
        let one_less = |questions: usize| questions.checked_sub(1);
        let answered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        answered.map(drop).map_err(|_none| AnswerError::Unasked)
    }
}

/// Why a connection is of no use any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum AnswerError {
    #[error("the store sends an answer of more than {ANSWER_BYTES_MAX} bytes")]
    Long,
    #[error("the store sends what is no answer")]
    Strange,
    #[error("the store sends something without being asked")]
    Unasked,
}

/// A stream on which nothing else arrives than answers.
pub(super) struct Answering<S> {
    stream: S,
    questions: Questions,
    answer: Answer,
}

impl<S> Answering<S> {
    pub(super) fn new(stream: S, questions: Questions) -> Self {
        Self { stream, questions, answer: Answer::default() }
    }
}

/// What has arrived of an answer (RESP2).
#[derive(Default)]
struct Answer {
    /// All of its bytes until now; none between two answers.
    bytes: usize,
    /// How many values are still to come.
    values: usize,
    /// The line that has begun.
    line: Vec<u8>,
    /// Bytes that come before the next line, and are part of a text.
    text: usize,
}

impl Answer {
    fn follow(&mut self, bytes: &[u8], questions: &Questions) -> Result<(), AnswerError> {
        for byte in bytes {
            if self.bytes == 0 {
                questions.answer()?;
                self.values = 1;
            }
            self.bytes += 1;
            if self.bytes > ANSWER_BYTES_MAX {
                return Err(AnswerError::Long);
            }
            self.follow_one(*byte)?;
            if self.values == 0 {
                self.bytes = 0;
            }
        }
        Ok(())
    }

    fn follow_one(&mut self, byte: u8) -> Result<(), AnswerError> {
        if self.text > 0 {
            self.text -= 1;
            self.values -= usize::from(self.text == 0);
            return Ok(());
        }
        self.line.push(byte);
        if !self.line.ends_with(b"\r\n") {
            return Ok(());
        }
        match self.line.as_slice() {
            [b':' | b'+' | b'-', ..] => self.values -= 1,
            [b'*', number @ .., _, _] => self.values = self.values - 1 + announced(number)?,
            // The end of its line comes with a text.
            [b'$', number @ .., _, _] => self.text = announced(number)? + 2,
            _ => return Err(AnswerError::Strange),
        }
        self.line.clear();
        if self.values > ANSWER_BYTES_MAX { Err(AnswerError::Long) } else { Ok(()) }
    }
}

/// How many values or bytes are to come. What is said to be missing (`-1`) is no answer to any question of ours.
fn announced(number: &[u8]) -> Result<usize, AnswerError> {
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<u64>().ok());
    let number = number.ok_or(AnswerError::Strange)?;
    usize::try_from(number).ok().filter(|number| *number <= ANSWER_BYTES_MAX).ok_or(AnswerError::Long)
}

impl<S: AsyncRead + Unpin> AsyncRead for Answering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let Self { answer, questions, .. } = &mut *self;
        let followed = answer.follow(fresh, questions);
        Poll::Ready(followed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes after so many questions, all at once and one by one, and how many questions are left.
    fn follow(asked: usize, bytes: &[u8]) -> Result<usize, AnswerError> {
        let run = |chunks: &[&[u8]]| {
            let (questions, mut answer) = (Questions::default(), Answer::default());
            (0..asked).for_each(|_| questions.ask());
            chunks.iter().try_for_each(|chunk| answer.follow(chunk, &questions))?;
            Ok(questions.0.load(Ordering::Relaxed))
        };
        let outcome = run(&[bytes]);
        assert_eq!(outcome, run(&bytes.chunks(1).collect::<Vec<_>>()));
        outcome
    }

    #[test]
    fn each_question_has_one_answer() {
        let script = format!("${}\r\n{}\r\n", 40, "a".repeat(40));
        let long = format!("*512\r\n{}", ":9223372036854775807\r\n".repeat(512));
        for answer in
            ["*0\r\n", "*2\r\n:1\r\n:0\r\n", "+OK\r\n", "-NOSCRIPT No\r\n", "-a\nb\r\n", &script, &long, "$0\r\n\r\n"]
        {
            assert_eq!(follow(0, answer.as_bytes()), Err(AnswerError::Unasked), "{answer:?}");
            assert_eq!(follow(3, answer.as_bytes()), Ok(2), "{answer:?}");
            assert_eq!(follow(3, answer.repeat(3).as_bytes()), Ok(0), "{answer:?}");
            assert_eq!(follow(3, answer.repeat(4).as_bytes()), Err(AnswerError::Unasked), "{answer:?}");
        }
    }

    #[test]
    fn what_is_long_is_refused_as_soon_as_it_is_announced_or_there() {
        for announced in ["$99999999999\r\n", "*99999999999\r\n", "*16385\r\n", "*16384\r\n*16384\r\n"] {
            assert_eq!(follow(9, announced.as_bytes()), Err(AnswerError::Long), "{announced:?}");
        }
        for begun in ["+", ":", "*", "$16384\r\n", "*16384\r\n:1\r\n"] {
            let room = ANSWER_BYTES_MAX - begun.len();
            assert_eq!(follow(9, (begun.to_owned() + &"1".repeat(room)).as_bytes()), Ok(8), "{begun:?}");
            assert_eq!(follow(9, (begun.to_owned() + &"1".repeat(room + 1)).as_bytes()), Err(AnswerError::Long));
        }
        for strange in ["\r\n", "x\r\n", "*\r\n", "*x\r\n", "*-1\r\n", "$-1\r\n", ">1\r\n", "%1\r\n"] {
            assert_eq!(follow(9, strange.as_bytes()), Err(AnswerError::Strange), "{strange:?}");
        }
    }
}
