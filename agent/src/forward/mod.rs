//! Spends a permit: carries one request, one upgraded connection or one TCP connection to where it was allowed to go.

pub(crate) mod connection;

pub(crate) mod http;

pub(crate) mod body;

pub(crate) mod upgrade;

pub(crate) mod tcp;

pub(crate) mod pump;

pub(crate) mod backend;

pub(crate) mod hop;

pub(crate) mod outgoing;

pub(crate) mod pool;

pub(crate) mod rewind;

mod framing;

pub(crate) mod sniff;

pub(crate) mod executor;

/// Flow-control window of one HTTP/2 stream in bytes: what may be under way before the reader has read.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// Flow-control window of one HTTP/2 connection in bytes. Much larger than a stream's, so that one slow reader does not
/// hold up the others, and so that many small frames of token streams do not exhaust the library's budget for them.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
