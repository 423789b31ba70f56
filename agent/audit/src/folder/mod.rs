//! A folder of segments, written: each begins with `audit_opened`, ends with `audit_sealed`, and is followed by the next.
//!
//! Files are appended to and never changed. After a crash the segment that was being written stays as it is, torn last line
//! included; the next one says in an `audit_recovered` line what was found, and is sealed with that at once. Old segments are
//! removed when the `audit_retired` line that says so is sealed. So nobody has to believe such a line without its seal.

mod recover;
mod retire;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::catalogue::{AuditOpened, AuditRecovered, Entry, Event, LINE_BYTES_MAX};
use crate::chain::Chain;
use crate::key::{AuditKey, AuditKeyError};
use retire::Retired;

/// The file that keeps two agents from writing to one folder.
const LOCK_FILE: &str = "audit.lock";

/// How a folder is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder.
    pub folder: PathBuf,
    /// A segment that is this large, in bytes, is sealed.
    pub segment_bytes: u64,
    /// A segment that is this old is sealed, if it holds more than its own beginning.
    pub segment_age: Duration,
    /// Segments that were sealed longer ago are removed; none are if not said.
    pub retention: Option<Duration>,
    /// The oldest segments are removed when all of them are larger than this, in bytes; none are if not said.
    pub keep_bytes: Option<u64>,
    /// The version of the agent, for `audit_opened`.
    pub version: String,
    /// The identity or the name of the host, for `audit_opened`.
    pub host: String,
}

/// Why a folder cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process writes to it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {operation} failed")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The key cannot be had.
    #[error("the audit key cannot be used")]
    Key(#[from] AuditKeyError),
}

/// A folder that is written to. One writer at a time.
pub struct Folder {
    settings: Settings,
    key: AuditKey,
    segment: Segment,
    /// What goes when the segment is sealed that says so.
    retired: Option<Retired>,
    /// Lines for the next writing, and how many bytes of them are written.
    staged: Vec<u8>,
    written: usize,
    /// Lines that this folder has added by itself and nobody has taken yet.
    own: Vec<u8>,
    /// Held for as long as this exists.
    _lock: File,
}

struct Segment {
    number: u64,
    file: File,
    chain: Chain,
    bytes: u64,
    opened: SystemTime,
    /// Lines that every new segment has.
    head_lines: u64,
    sealed: bool,
}

impl Folder {
    /// Opens a folder, which is made if it is not there: looks at how the last segment ended, and begins the next one.
    ///
    /// # Errors
    /// It cannot be read or written, or another process writes to it.
    pub fn open(settings: Settings, key: AuditKey, now: SystemTime) -> Result<Self, FolderError> {
        let path = &settings.folder;
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
        made.map_err(|source| io_error(path, "creating the folder", source))?;
        let lock = lock(path)?;
        let recovered = recover::recover(path)?;
        let segment = Segment::create(path, recovered.next, recovered.chain, now)
            .map_err(|source| io_error(path, "beginning a segment", source))?;
        let mut folder = Self {
            settings,
            key,
            segment,
            retired: None,
            staged: Vec::new(),
            written: 0,
            own: Vec::new(),
            _lock: lock,
        };
        folder.stage_head(&recovered.found, now);
        if !recovered.found.is_empty() {
            folder.stage_seal(now);
        }
        folder.advance(now).map_err(|source| io_error(&folder.settings.folder, "writing", source))?;
        Ok(folder)
    }

    /// The value of the chain, and the number of the segment that is being written.
    pub fn position(&self) -> (u64, Chain) {
        (self.segment.number, self.segment.chain)
    }

    /// Takes whole lines, each with its newline, for the next [`advance`](Self::advance). What is no JSON object is left out.
    ///
    /// Returns the lines as they will be written.
    pub fn stage(&mut self, lines: &[u8]) -> &[u8] {
        let before = self.staged.len();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Lines are made by this program, as objects; a piece of something else would break every reader.
            self.segment.chain.append(line, &mut self.staged).ok();
        }
        self.staged.get(before..).unwrap_or_default()
    }

    /// Writes what is staged, and seals the segment if it is large or old enough. If it fails, nothing is lost: the next call
    /// goes on where this one stopped. Nothing may be staged in between.
    ///
    /// # Errors
    /// The system refused, for example because the disk is full.
    pub fn advance(&mut self, now: SystemTime) -> io::Result<()> {
        self.flush()?;
        if !self.segment.sealed && self.is_due(now) {
            self.retired = retire::plan(&self.settings, &self.segment, now);
            if let Some(retired) = &self.retired {
                self.stage_entry(Event::AuditRetired(retired.event()), now);
            }
            self.stage_seal(now);
            self.flush()?;
        }
        if self.segment.sealed {
            self.segment.file.sync_all()?;
            if let Some(retired) = self.retired.take() {
                retired.remove(&self.settings.folder);
            }
            let next = Segment::create(&self.settings.folder, self.segment.number + 1, self.segment.chain, now)?;
            self.segment = next;
            self.stage_head(&[], now);
            self.flush()?;
        }
        Ok(())
    }

    /// Writes and seals what is staged: nothing comes after it.
    ///
    /// # Errors
    /// The system refused; it can be tried again.
    pub fn finish(&mut self, now: SystemTime) -> io::Result<()> {
        self.flush()?;
        if !self.segment.sealed {
            self.stage_seal(now);
        }
        self.flush()?;
        self.segment.file.sync_all()
    }

    /// Lines that were added here, such as seals, for others who get every line.
    pub fn take_own(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.own)
    }

    fn is_due(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.segment.opened).unwrap_or_default();
        let holds_something = self.segment.chain.lines() > self.segment.head_lines;
        holds_something && (self.segment.bytes >= self.settings.segment_bytes || age >= self.settings.segment_age)
    }

    fn stage_head(&mut self, recovered: &[AuditRecovered], now: SystemTime) {
        let opened = AuditOpened {
            segment: self.segment.number,
            previous: self.segment.chain.last(),
            version: self.settings.version.clone(),
            host: self.settings.host.clone(),
            public_key: self.key.public().to_base64(),
        };
        self.stage_entry(Event::AuditOpened(opened), now);
        for found in recovered {
            self.stage_entry(Event::AuditRecovered(found.clone()), now);
        }
        self.segment.head_lines = self.segment.chain.lines();
    }

    fn stage_entry(&mut self, event: Event, now: SystemTime) {
        let line = Entry::new(event, now).to_line();
        self.stage_own(&line);
    }

    fn stage_seal(&mut self, now: SystemTime) {
        let seal = self.segment.chain.seal(self.segment.number, &self.key, now);
        self.stage_own(&seal);
        self.segment.sealed = true;
    }

    fn stage_own(&mut self, line: &str) {
        let staged = self.stage(line.as_bytes()).to_vec();
        self.own.extend(staged);
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.staged.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.segment.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    self.segment.bytes += u64::try_from(count).unwrap_or(u64::MAX);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.staged.clear();
        self.written = 0;
        Ok(())
    }
}

impl Segment {
    /// Begins a file. One that exists, empty because nothing could be written to it, is taken over.
    fn create(folder: &Path, number: u64, chain: Chain, now: SystemTime) -> io::Result<Self> {
        let path = folder.join(file_name(number));
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        if file.metadata()?.len() != 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        File::open(folder)?.sync_all()?;
        let chain = Chain::after(chain.last());
        Ok(Self { number, file, chain, bytes: 0, opened: now, head_lines: 0, sealed: false })
    }
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join(LOCK_FILE);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o640).open(&path);
    let file = opened.map_err(|source| io_error(&path, "opening", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse { path }),
        Err(TryLockError::Error(source)) => Err(io_error(&path, "locking", source)),
    }
}

fn io_error(path: &Path, operation: &'static str, source: io::Error) -> FolderError {
    FolderError::Io { path: path.to_owned(), operation, source }
}

/// The name of the file of a segment.
pub fn file_name(number: u64) -> String {
    format!("audit-{number:010}.jsonl")
}

/// The segments of a folder by number. Other files are passed over.
///
/// # Errors
/// The folder cannot be read.
pub fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, FolderError> {
    let refused = |source| io_error(folder, "reading the folder", source);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if let Some(number) = path.file_name().and_then(|name| number_of(name.to_str()?)) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Every whole line of every segment, in order and without its newline, until `take` says otherwise. A torn last line and what is
/// no UTF-8 are passed over.
///
/// # Errors
/// A file cannot be read, or `take` failed.
pub fn lines(folder: &Path, mut take: impl FnMut(&str) -> io::Result<()>) -> Result<(), FolderError> {
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    for (_, path) in segments(folder)? {
        let refused = |source| io_error(&path, "reading", source);
        let mut file = BufReader::new(File::open(&path).map_err(refused)?);
        let mut line = Vec::new();
        while file.by_ref().take(limit).read_until(b'\n', &mut line).map_err(refused)? > 0 {
            let whole = line.strip_suffix(b"\n").and_then(|whole| std::str::from_utf8(whole).ok());
            whole.map_or(Ok(()), &mut take).map_err(refused)?;
            line.clear();
        }
    }
    Ok(())
}

/// The number in the name of a segment's file; none if it is another file.
pub fn number_of(name: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}
