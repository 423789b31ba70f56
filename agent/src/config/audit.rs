//! The audit part of the config as used.

use std::path::PathBuf;
use std::time::Duration;

/// Where audit lines go, and what happens when they cannot go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) output: AuditOutput,
    pub(crate) when_full: WhenFull,
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
