//! The place where the record is kept: standard output, a file, or a folder of segments.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use countersign_audit::folder::{Folder, FolderError, Settings};
use countersign_audit::format::Format;
use countersign_audit::key::{AuditKey, AuditKeyError};

use crate::config::audit::{Audit, AuditOutput};
use crate::in_words::in_one_line;

/// Why there is no place to write to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("{path} cannot be opened")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the audit key cannot be used")]
    Key(#[from] AuditKeyError),
}

/// What lines are written to.
pub(super) enum Output {
    Folder(Box<Folder>),
    Plain(Plain),
}

/// Bytes that are written one after the other.
pub(super) struct Plain {
    /// None for standard output.
    path: Option<PathBuf>,
    target: Box<dyn Write + Send>,
    format: Format,
    staged: Arc<Vec<u8>>,
    written: usize,
}

impl Output {
    /// Opens it. `host` is who writes.
    pub(super) fn open(audit: &Audit, host: &str, now: SystemTime) -> Result<Self, OutputError> {
        match &audit.output {
            AuditOutput::File(path) => Plain::file(path.clone(), audit.format).map(Self::Plain),
            AuditOutput::Folder(folder) => {
                let key = AuditKey::load_or_make(&folder.key_folder)?;
                let settings = Settings {
                    folder: folder.path.clone(),
                    segment_bytes: folder.segment_bytes,
                    segment_age: folder.segment_age,
                    retention: Some(folder.retention),
                    keep_bytes: folder.keep_bytes,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    host: host.to_owned(),
                };
                Ok(Self::Folder(Box::new(Folder::open(settings, key, now)?)))
            }
            AuditOutput::Stdout => Ok(Self::Plain(Plain::to(None, Box::new(io::stdout()), audit.format))),
        }
    }

    /// Takes lines for [`advance`](Self::advance), and gives them back as they are stored: whatever format they are written in, that
    /// is what everybody else works with.
    pub(super) fn stage(&mut self, lines: Vec<u8>) -> Arc<Vec<u8>> {
        match self {
            Self::Folder(folder) => Arc::new(folder.stage(&lines).to_vec()),
            Self::Plain(plain) => {
                let lines = Arc::new(lines);
                plain.stage(&lines);
                lines
            }
        }
    }

    /// Writes what is staged. If it fails, the next call goes on where this one stopped.
    pub(super) fn advance(&mut self, now: SystemTime) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.advance(now),
            Self::Plain(plain) => plain.write(),
        }
    }

    /// Writes what must be at the end.
    pub(super) fn finish(&mut self, now: SystemTime) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.finish(now),
            Self::Plain(_) => Ok(()),
        }
    }

    /// Lines that were added on the way, such as seals: others who get every line get them too.
    pub(super) fn take_own(&mut self) -> Vec<u8> {
        match self {
            Self::Folder(folder) => folder.take_own(),
            Self::Plain(_) => Vec::new(),
        }
    }

    /// Opens a file anew under its name. Segments are never moved away.
    pub(super) fn reopen(&mut self) {
        let Self::Plain(plain) = self else { return };
        let Some(path) = plain.path.clone() else { return };
        match Plain::file(path, plain.format) {
            Ok(opened) => plain.target = opened.target,
            Err(error) => {
                let error = in_one_line(&error);
                tracing::error!(error, "the audit output cannot be opened anew, the old one is used");
            }
        }
    }
}

impl Plain {
    fn file(path: PathBuf, format: Format) -> Result<Self, OutputError> {
        match append(&path) {
            Ok(file) => Ok(Self::to(Some(path), Box::new(file), format)),
            Err(source) => Err(OutputError::File { path, source }),
        }
    }

    fn to(path: Option<PathBuf>, target: Box<dyn Write + Send>, format: Format) -> Self {
        Self { path, target, format, staged: Arc::default(), written: 0 }
    }

    fn stage(&mut self, lines: &Arc<Vec<u8>>) {
        self.written = 0;
        if self.format == Format::Json {
            self.staged = Arc::clone(lines);
            return;
        }
        let text = String::from_utf8_lossy(lines);
        // Lines are made by this program; what cannot be read as one is written as it is rather than not at all.
        let converted =
            text.lines().map(|line| self.format.convert(line).unwrap_or_else(|_unknown| line.to_owned()) + "\n");
        self.staged = Arc::new(converted.collect::<String>().into_bytes());
    }

    fn write(&mut self) -> io::Result<()> {
        while let Some(rest) = self.staged.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.target.write(rest).and_then(|count| self.target.flush().map(|()| count)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens a file to append to, which is made if it is not there.
pub(super) fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
