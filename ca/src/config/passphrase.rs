//! Where the passphrase of the CA's keys comes from: a file, a systemd credential, or the terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::certs::store::{self, StoreError};

/// Name of the systemd credential that is looked for if nothing else is said.
pub(crate) const CREDENTIAL: &str = "ca_passphrase";

/// A passphrase: wiped when dropped, never printed.
pub(crate) struct Passphrase(Zeroizing<Vec<u8>>);

/// Where a passphrase is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PassphraseSource {
    /// A systemd credential (`LoadCredential=` or `LoadCredentialEncrypted=`).
    Credential(String),
    /// A file that others cannot read.
    File(PathBuf),
    /// Whoever sits at the terminal.
    Terminal,
}

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassphraseError {
    /// Two different answers.
    #[error("the two passphrases differ")]
    Differ,
    /// Nothing but white space.
    #[error("the passphrase is empty; for a CA whose keys are not encrypted: init --no-passphrase")]
    Empty,
    /// Not started by systemd with credentials.
    #[error("the systemd credential {0} was asked for, but $CREDENTIALS_DIRECTORY is not set")]
    NoCredentials(String),
    /// The terminal cannot be read.
    #[error("the terminal cannot be read")]
    Terminal(#[source] std::io::Error),
    /// The file cannot be read.
    #[error("the passphrase cannot be read")]
    Unreadable(#[from] StoreError),
}

impl PassphraseSource {
    /// `credential:NAME` or `file:PATH`; a relative path is relative to the config's folder.
    pub(crate) fn parse(text: &str, folder: &Path) -> Option<Self> {
        if let Some(name) = text.strip_prefix("credential:") {
            let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
            return plain.then(|| Self::Credential(name.to_owned()));
        }
        text.strip_prefix("file:").filter(|path| !path.is_empty()).map(|path| Self::File(folder.join(path)))
    }

    /// What is there if nobody said anything: the credential, else the terminal, else nothing, with which no key is made.
    pub(crate) fn find() -> Option<Self> {
        let credential = credential_path(CREDENTIAL).filter(|path| path.exists());
        match credential {
            Some(_) => Some(Self::Credential(CREDENTIAL.to_owned())),
            None => std::io::stdin().is_terminal().then_some(Self::Terminal),
        }
    }

    /// Reads the passphrase of an existing key.
    pub(crate) fn read(&self) -> Result<Passphrase, PassphraseError> {
        match self {
            Self::Credential(name) => {
                let path = credential_path(name).ok_or_else(|| PassphraseError::NoCredentials(name.clone()))?;
                Passphrase::new(store::read(&path)?)
            }
            Self::File(path) => Passphrase::new(store::read_secret(path)?),
            Self::Terminal => ask("Passphrase of the CA's key: "),
        }
    }

    /// Reads the passphrase for new keys; at the terminal twice, because a slip would lose the CA.
    pub(crate) fn read_new(&self) -> Result<Passphrase, PassphraseError> {
        let passphrase = self.read()?;
        if *self == Self::Terminal && ask("The same again: ")?.0 != passphrase.0 {
            return Err(PassphraseError::Differ);
        }
        Ok(passphrase)
    }
}

impl Passphrase {
    /// Takes the bytes without the line end that editors add.
    fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseError> {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.iter().all(u8::is_ascii_whitespace) { Err(PassphraseError::Empty) } else { Ok(Self(bytes)) }
    }

    /// The bytes that go into the key derivation.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn for_test(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

fn ask(prompt: &str) -> Result<Passphrase, PassphraseError> {
    let answer = rpassword::prompt_password(prompt).map_err(PassphraseError::Terminal)?;
    Passphrase::new(Zeroizing::new(answer.into_bytes()))
}

#[allow(clippy::disallowed_methods, reason = "the config is the one place that reads the environment")]
fn credential_path(name: &str) -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
}
