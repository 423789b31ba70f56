//! The proof, from the files alone, that nothing in a chain of segments was changed, removed, inserted or moved.
//!
//! Only what a good seal covers is believed, also of what lines say of other segments: whoever can write the files can write any
//! line.
//!
//! What a segment's file cannot show by itself: that lines at the end of the *last* segment are missing while it is not sealed,
//! or that whole segments are missing at the end. Somebody who holds a later chain value (every additional sink gets it in every
//! line) asks for it with [`Verifier::expect`].

mod segment;

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use countersign_certs::digest::Fingerprint;
use serde::Serialize;

use crate::catalogue::AuditRecovered;
use crate::folder::{FolderError, segments};
use crate::key::PublicKey;
use segment::{Seal, Segment};

/// Most faults that a report tells; more are only counted.
const FAULTS_MAX: usize = 1000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every segment, in order.
    pub segments: Vec<SegmentReport>,
    /// What is wrong, in order; at most 1,000 are told.
    pub faults: Vec<Fault>,
    /// Faults beyond those.
    pub more_faults: u64,
    /// Lines of segments that were recovered after a crash. No seal covers how they came to be: they were as they are now when the
    /// agent started again.
    pub recovered_lines: u64,
    /// Lines of the segment that is still written to. They follow each other, which anybody can see to who can write, and are signed
    /// when it is sealed.
    pub unsealed_lines: u64,
    /// The value of the chain at its end, to be asked for later.
    pub last: Option<Fingerprint>,
    /// No key was given, so that the one which the first segment names was believed.
    pub key_from_segments: bool,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its file.
    pub file: String,
    /// Its number.
    pub segment: u64,
    /// Its whole lines.
    pub lines: u64,
    /// The time of its first line.
    pub first: Option<String>,
    /// The time of its last line.
    pub last: Option<String>,
    /// How it ended.
    pub end: End,
    /// Bytes after its last whole line, of a write that was broken off.
    pub torn_bytes: u64,
}

/// How a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It is still written to, or its agent has crashed and was not started since.
    Open,
    /// Its agent crashed; a later segment, which is sealed, says how far it went.
    Recovered,
    /// Signed.
    Sealed,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 if it is about the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

/// Looks at segments one after the other.
pub struct Verifier {
    /// Keys that may have signed. None given: the one that the first segment names.
    keys: Vec<PublicKey>,
    /// Values that must be in the chain.
    expected: Vec<Fingerprint>,
    /// The last segment must be sealed too.
    is_closed: bool,
    report: Report,
    /// Where the chain stands.
    chain: Option<Fingerprint>,
    next: Option<u64>,
    /// What segments since the last seal say of others that were not sealed.
    told: Vec<AuditRecovered>,
    /// The last segment that was removed, as sealed lines say, and as others do.
    retired_through: u64,
    claimed_through: u64,
    /// Segments since the last seal.
    unsealed: Vec<Unsealed>,
}

/// A segment without a seal, until the next seal vouches for it or there is none.
struct Unsealed {
    index: usize,
    found: AuditRecovered,
    /// What is torn is no single piece of a line, as a write that was broken off leaves behind.
    is_odd: bool,
}

impl Verifier {
    /// Trusts these keys, or the first one that is named if there are none.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        let key_from_segments = keys.is_empty();
        let report = Report {
            segments: Vec::new(),
            faults: Vec::new(),
            more_faults: 0,
            recovered_lines: 0,
            unsealed_lines: 0,
            last: None,
            key_from_segments,
        };
        Self {
            keys,
            expected: Vec::new(),
            is_closed: false,
            report,
            chain: None,
            next: None,
            told: Vec::new(),
            retired_through: 0,
            claimed_through: 0,
            unsealed: Vec::new(),
        }
    }

    /// A value that must be somewhere in the chain: it was seen elsewhere.
    #[must_use]
    pub fn expect(mut self, value: Fingerprint) -> Self {
        self.expected.push(value);
        self
    }

    /// The agent has ended in order, so that the last segment must be sealed too.
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.is_closed = true;
        self
    }

    /// Looks at the next segment, by number.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn segment(&mut self, file: &str, number: u64, lines: impl BufRead) -> std::io::Result<()> {
        match self.next {
            Some(next) if next < number => {
                let missing = if next + 1 == number {
                    format!("segment {next} before it is missing")
                } else {
                    format!("segments {next} to {} before it are missing", number - 1)
                };
                self.fault(file, 0, missing);
                // What it says of the chain before is all there is.
                self.chain = None;
            }
            Some(_) | None => {}
        }
        self.next = number.checked_add(1);
        let segment = Segment::read(self, file, number, lines)?;
        self.finish_segment(file, number, segment);
        Ok(())
    }

    fn finish_segment(&mut self, file: &str, number: u64, segment: Segment) {
        let torn_bytes = segment.torn_bytes;
        self.report.segments.push(SegmentReport {
            file: file.to_owned(),
            segment: number,
            lines: segment.chain.lines(),
            first: segment.first,
            last: segment.last,
            end: if segment.seal == Seal::Good { End::Sealed } else { End::Open },
            torn_bytes,
        });
        if segment.chain.lines() > 0 {
            self.chain = Some(segment.chain.last());
        }
        if segment.seal != Seal::Absent && torn_bytes > 0 {
            self.fault(file, segment.chain.lines() + 1, "something follows the seal".to_owned());
        }
        match segment.seal {
            Seal::Absent => {
                self.told.extend(segment.recovered);
                self.claimed_through = self.claimed_through.max(segment.retired_through);
                let last = self.chain.unwrap_or(Fingerprint([0; 32]));
                let (lines, torn_sha256) = (segment.chain.lines(), segment.torn_sha256);
                self.unsealed.push(Unsealed {
                    index: self.report.segments.len() - 1,
                    found: AuditRecovered { segment: number, lines, last, torn_bytes, torn_sha256 },
                    is_odd: segment.is_odd,
                });
            }
            // It covers the chain, and with it what unsealed segments before it say of those before them.
            Seal::Good => {
                self.told.extend(segment.recovered);
                self.retired_through = self.retired_through.max(segment.retired_through);
                let told = std::mem::take(&mut self.told);
                std::mem::take(&mut self.unsealed).iter().for_each(|unsealed| self.judge_recovered(unsealed, &told));
            }
            // What it says is worth nothing.
            Seal::Wrong => {}
        }
    }

    /// The report, when every segment was looked at.
    pub fn finish(mut self) -> Report {
        if self.report.segments.is_empty() {
            self.fault("", 0, "there is no segment".to_owned());
        }
        for unsealed in std::mem::take(&mut self.unsealed) {
            self.judge_open(&unsealed);
        }
        let first = self.report.segments.first().map(|segment| (segment.segment, segment.file.clone()));
        if let Some((number, file)) = first.filter(|(number, _)| *number > self.retired_through.saturating_add(1)) {
            let says = if number > self.claimed_through.saturating_add(1) { "no line" } else { "no sealed line" };
            let what = format!("the segments before {number} are missing, and {says} says that they were removed");
            self.fault(&file, 0, what);
        }
        for value in std::mem::take(&mut self.expected) {
            self.fault("", 0, format!("the chain value {value} is nowhere in it"));
        }
        self.report.recovered_lines = self.report.lines(End::Recovered);
        self.report.unsealed_lines = self.report.lines(End::Open);
        self.report.last = self.chain;
        self.report
    }

    /// A segment without a seal before one that has it: that one must say how it ended.
    fn judge_recovered(&mut self, unsealed: &Unsealed, told: &[AuditRecovered]) {
        let found = &unsealed.found;
        let mut told = told.iter().filter(|told| told.segment == found.segment).peekable();
        let Some(segment) = self.report.segments.get_mut(unsealed.index) else { return };
        let (file, line) = (segment.file.clone(), segment.lines + 1);
        let is_told = told.peek().is_some();
        match told.find(|told| *told != found) {
            Some(told) => {
                let what = format!(
                    "it has {} whole lines and {} torn bytes, but after the crash {} and {} were found",
                    found.lines, found.torn_bytes, told.lines, told.torn_bytes
                );
                self.fault(&file, line, what);
            }
            None if is_told => segment.end = End::Recovered,
            None => self.fault(
                &file,
                line,
                "it is not sealed, and no later segment says why: its end is missing".to_owned(),
            ),
        }
        self.judge_lines(unsealed, &file, line);
    }

    /// A segment without a seal after the last seal: it may be written to, if it is the last. Whatever is said of any other was
    /// signed by nobody.
    fn judge_open(&mut self, unsealed: &Unsealed) {
        let is_last = unsealed.index + 1 == self.report.segments.len();
        let Some(segment) = self.report.segments.get(unsealed.index) else { return };
        let (file, line) = (segment.file.clone(), segment.lines + 1);
        let is_told = self.told.contains(&unsealed.found);
        let what = match (is_last, is_told) {
            (true, _) if !self.is_closed => None,
            (true, _) => Some("it is not sealed: its end is missing, or its agent did not end in order"),
            (false, true) => Some(
                "it is not sealed, and no sealed line says why; if its agent crashed and could not begin again, start it and look again",
            ),
            (false, false) => Some("it is not sealed, and no later segment says why: its end is missing"),
        };
        if let Some(what) = what {
            self.fault(&file, line, what.to_owned());
        }
        self.judge_lines(unsealed, &file, line);
    }

    fn judge_lines(&mut self, unsealed: &Unsealed, file: &str, line: u64) {
        if unsealed.is_odd {
            self.fault(file, line, "from here on the lines do not follow, and it is not sealed".to_owned());
        }
    }

    fn fault(&mut self, file: &str, line: u64, what: String) {
        if self.report.faults.len() < FAULTS_MAX {
            self.report.faults.push(Fault { file: file.to_owned(), line, what });
        } else {
            self.report.more_faults += 1;
        }
    }
}

/// Looks at every segment of a folder.
///
/// # Errors
/// It cannot be read.
pub fn folder(path: &Path, mut verifier: Verifier) -> Result<Report, FolderError> {
    for (number, path) in segments(path)? {
        let refused = |source| FolderError::Io { path: path.clone(), operation: "reading", source };
        let file = File::open(&path).map_err(refused)?;
        verifier.segment(&path.display().to_string(), number, BufReader::new(file)).map_err(refused)?;
    }
    Ok(verifier.finish())
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn lines(&self, end: End) -> u64 {
        self.segments.iter().filter(|segment| segment.end == end).map(|segment| segment.lines).sum()
    }

    /// What is proved where nothing is wrong. It promises nothing of lines that no seal covers.
    fn conclusion(&self) -> String {
        let Self { recovered_lines, unsealed_lines, .. } = self;
        if self.segments.iter().all(|segment| segment.end == End::Open) {
            return format!("nothing is sealed yet: the {unsealed_lines} lines prove nothing");
        }
        if (*recovered_lines, *unsealed_lines) == (0, 0) {
            return "nothing was changed".to_owned();
        }
        let mut text = "nothing that is sealed was changed".to_owned();
        if *recovered_lines > 0 {
            text.push_str(&format!(
                "; {recovered_lines} lines of segments that were recovered after a crash are not sealed: they were as they are now when \
                 the agent started again, and nothing proves what they were before"
            ));
        }
        if *unsealed_lines > 0 {
            text.push_str(&format!("; the last {unsealed_lines} lines are not sealed yet, and prove nothing"));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            let SegmentReport { file, lines, first, last, end, torn_bytes, .. } = segment;
            let end = match end {
                End::Open => "open",
                End::Recovered => "recovered after a crash",
                End::Sealed => "sealed",
            };
            write!(formatter, "{file}: {lines} lines, {end}")?;
            if let (Some(first), Some(last)) = (first, last) {
                write!(formatter, ", {first} to {last}")?;
            }
            if *torn_bytes > 0 {
                write!(formatter, ", {torn_bytes} torn bytes at its end")?;
            }
            writeln!(formatter)?;
        }
        for Fault { file, line, what } in &self.faults {
            match (file.as_str(), line) {
                ("", _) => writeln!(formatter, "WRONG: {what}")?,
                (file, 0) => writeln!(formatter, "WRONG: {file}: {what}")?,
                (file, line) => writeln!(formatter, "WRONG: {file}:{line}: {what}")?,
            }
        }
        if self.more_faults > 0 {
            writeln!(formatter, "WRONG: {} more", self.more_faults)?;
        }
        if self.key_from_segments {
            writeln!(formatter, "no key was given: the one that the first segment names was believed")?;
        }
        match &self.last {
            _ if !self.is_sound() => writeln!(formatter, "{} faults", self.faults.len()),
            Some(last) => writeln!(formatter, "{}; the chain ends with {last}", self.conclusion()),
            None => writeln!(formatter, "{}", self.conclusion()),
        }
    }
}
