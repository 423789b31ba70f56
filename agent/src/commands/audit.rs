//! `audit ...`: what an auditor asks of the files that an agent has written. No agent needs to run.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use countersign_audit::catalogue::table;
use countersign_audit::folder::{self, FolderError};
use countersign_audit::format::Format;
use countersign_audit::key::{AuditKeyError, PUBLIC_KEY_FILE, PublicKey};
use countersign_audit::verify::{self, Verifier};
use countersign_certs::digest::{Fingerprint, FingerprintError};
use countersign_certs::store::{self, StoreError};

use crate::config::Secrets;
use crate::config::audit::{AuditFolder, AuditOutput};
use crate::run::{self, RunError};

/// Why a question about audit files has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error(transparent)]
    Expected(#[from] FingerprintError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the audit key in {path} cannot be used")]
    Key { path: PathBuf, source: AuditKeyError },
    #[error("{path} keeps its audit lines in no folder; add folder = \"/PATH\" to [audit]")]
    NoFolder { path: PathBuf },
    #[error("lines cannot be printed")]
    Output(#[source] io::Error),
    #[error("the report cannot be written")]
    Report(#[from] serde_json::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{count} lines are none of the catalogue; audit verify says where")]
    Unread { count: u64 },
    /// The report, which is data all the same.
    #[error("the audit log is not as it was written")]
    Unsound { report: String },
}

/// What `verify` is asked.
pub(crate) struct Question {
    pub(crate) folder: PathBuf,
    pub(crate) keys: Vec<PathBuf>,
    pub(crate) expected: Vec<String>,
    pub(crate) closed: bool,
    pub(crate) json: bool,
}

/// `audit verify`: whether anything was changed.
pub(crate) fn verify(question: &Question) -> Result<String, AuditError> {
    let keys = question.keys.iter().map(|path| public_key(path)).collect::<Result<Vec<_>, _>>()?;
    let mut verifier = Verifier::new(keys);
    for value in &question.expected {
        verifier = verifier.expect(value.parse::<Fingerprint>()?);
    }
    if question.closed {
        verifier = verifier.closed();
    }
    let report = verify::folder(&question.folder, verifier)?;
    let text = if question.json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    if report.is_sound() { Ok(text) } else { Err(AuditError::Unsound { report: text }) }
}

/// `audit key`: the public key of this host.
pub(crate) fn key(config: &Path) -> Result<String, AuditError> {
    let path = folder_of(config)?.key_folder.join(PUBLIC_KEY_FILE);
    Ok(public_key(&path)?.to_pem())
}

/// `audit show`: every stored line, in another format if asked for. Lines go to standard output as they are read: there may be
/// more of them than fit into memory.
pub(crate) fn show(stored: Option<PathBuf>, config: &Path, format: Format) -> Result<String, AuditError> {
    let path = stored.map_or_else(|| folder_of(config).map(|folder| folder.path), Ok)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    let (mut unread, mut gone) = (0_u64, false);
    let shown = folder::lines(&path, |line| match format.convert(line) {
        Ok(line) => writeln!(output, "{line}").inspect_err(|error| gone = error.kind() == io::ErrorKind::BrokenPipe),
        Err(_no_line) => {
            unread += 1;
            Ok(())
        }
    });
    // Whoever reads has seen enough.
    if gone {
        return Ok(String::new());
    }
    shown?;
    output.flush().map_err(AuditError::Output)?;
    if unread > 0 { Err(AuditError::Unread { count: unread }) } else { Ok(String::new()) }
}

/// `audit schema`: what a line may hold, as JSON Schema or as a page.
pub(crate) fn schema(page: bool) -> Result<String, AuditError> {
    Ok(if page { table::page() } else { serde_json::to_string_pretty(&table::schema())? + "\n" })
}

fn public_key(path: &Path) -> Result<PublicKey, AuditError> {
    PublicKey::from_pem(&store::read(path)?).map_err(|source| AuditError::Key { path: path.to_owned(), source })
}

/// The folder that a config names.
fn folder_of(config: &Path) -> Result<AuditFolder, AuditError> {
    match run::load(config, Secrets::Named)?.audit.output {
        AuditOutput::Folder(folder) => Ok(folder),
        AuditOutput::File(_) | AuditOutput::Stdout => Err(AuditError::NoFolder { path: config.to_owned() }),
    }
}
