//! The audit part of the config as used.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::format::Format;
use http::{HeaderName, Uri};

use super::address::Endpoint;

/// Where audit lines go, and what happens when they cannot go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) output: AuditOutput,
    /// How lines are written to a file or standard output; segments are always as they are stored.
    pub(crate) format: Format,
    pub(crate) when_full: WhenFull,
    pub(crate) sinks: Vec<AuditSink>,
    /// Odd patterns are looked for and told.
    pub(crate) patterns: bool,
    /// Headers of requests whose values may be recorded.
    pub(crate) headers: Vec<HeaderName>,
    /// Keys of queries whose values may be recorded.
    pub(crate) query: Vec<String>,
}

/// Somebody else who gets every line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditSink {
    pub(crate) name: Arc<str>,
    pub(crate) target: SinkTarget,
    pub(crate) format: Format,
    pub(crate) when_full: SinkFull,
}

/// Whither its lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SinkTarget {
    /// Appended to this file.
    File(PathBuf),
    /// The journal's native socket.
    Journald(PathBuf),
    /// An OTLP collector over HTTP.
    Otlp { endpoint: Endpoint, uri: Uri, tls: Option<SinkTls> },
    /// A syslog receiver over TCP.
    Syslog { endpoint: Endpoint, tls: Option<SinkTls> },
}

/// How a receiver is known, and how we show who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SinkTls {
    /// Authorities in PEM.
    pub(crate) bundle: PathBuf,
    /// Chain and key in PEM.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// What happens to lines that a sink cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SinkFull {
    /// They are counted, and the count is in the record.
    #[default]
    Drop,
    /// It is as if the record could not be written.
    Refuse,
}

/// Where the record is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuditOutput {
    /// Appended to this file.
    File(PathBuf),
    /// Segments in a folder, chained and signed.
    Folder(AuditFolder),
    /// Standard output, which systemd hands to the journal.
    Stdout,
}

/// A folder of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditFolder {
    pub(crate) path: PathBuf,
    /// Where the key is: the state folder, or the folder itself for an agent that has none.
    pub(crate) key_folder: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
    pub(crate) retention: Duration,
    pub(crate) keep_bytes: Option<u64>,
}

/// What happens to new work while lines cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WhenFull {
    /// It waits for a while, and is refused then.
    Block,
    /// It goes on, and lines that find no room are only counted.
    Drop,
    /// It is refused: what cannot be recorded is not done.
    #[default]
    Refuse,
}
