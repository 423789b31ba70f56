//! Values with secrets in them: `Bearer ${credential:ollama_token}`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_certs::store::{self, StoreError};
use zeroize::Zeroizing;

use super::Secrets;

/// Why a value with secrets cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("${{command:{0}}} can be named in [[inbound.inject]] and [inbound.token] alone")]
    CommandNotHere(String),
    #[error(
        "${{credential:{0}}} needs systemd: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={0}:/PATH to the unit"
    )]
    NoCredentialsDirectory(String),
    #[error("the secret behind ${{{0}}} is empty or not printable ASCII")]
    NotPrintable(String),
    // What stands there is not repeated: it may be the secret itself.
    #[error(
        "what stands between '${{' and '}}' names no secret; write ${{env:NAME}}, ${{file:/PATH}}, ${{credential:NAME}} or ${{command:NAME}}"
    )]
    Reference,
    #[error("the secret cannot be read")]
    Store(#[from] StoreError),
    #[error("'${{' has no closing '}}'")]
    Unclosed,
    #[error("the environment variable {0} is not set")]
    UnsetVariable(String),
}

/// What a text with secrets resolves to, and the files that they came from, to be watched.
pub(crate) struct Resolved<T> {
    pub(crate) value: T,
    pub(crate) files: Vec<PathBuf>,
}

/// A text whose secrets are at hand, but for those that commands print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    /// What the command of this name prints.
    Command(Arc<str>),
    Text(Zeroizing<String>),
}

impl Template {
    /// The text, if everything that commands print is at hand.
    pub(crate) fn fill(&self, printed: impl Fn(&str) -> Option<Arc<Zeroizing<String>>>) -> Option<Zeroizing<String>> {
        // Enough for most, so that few texts leave a copy behind where they grow.
        let mut text = Zeroizing::new(String::with_capacity(4096));
        for piece in &self.0 {
            match piece {
                Piece::Command(name) => text.push_str(&printed(name)?),
                Piece::Text(piece) => text.push_str(piece),
            }
        }
        Some(text)
    }

    /// The commands whose output it holds.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Command(name) => Some(name),
            Piece::Text(_) => None,
        })
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Template")
    }
}

/// Replaces every `${kind:name}` by the secret that it names, or, where secrets are not read, by nothing.
pub(crate) fn resolve(text: &str, secrets: Secrets) -> Result<Resolved<Zeroizing<String>>, SecretError> {
    let Resolved { value, files } = template(text, secrets)?;
    if let Some(name) = value.commands().next() {
        return Err(SecretError::CommandNotHere(name.to_string()));
    }
    Ok(Resolved { value: value.fill(|_name| None).unwrap_or_default(), files })
}

/// The same for a text in which commands may be named.
pub(crate) fn template(text: &str, secrets: Secrets) -> Result<Resolved<Template>, SecretError> {
    let (mut pieces, mut files) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (reference, behind) = after.split_once('}').ok_or(SecretError::Unclosed)?;
        pieces.push(Piece::Text(Zeroizing::new(before.to_owned())));
        rest = behind;
        match Source::parse(reference)? {
            Source::Command(name) => pieces.push(Piece::Command(name.into())),
            Source::Credential(_) | Source::File(_) | Source::Variable(_) if secrets == Secrets::Named => {}
            source @ (Source::Credential(_) | Source::File(_) | Source::Variable(_)) => {
                let secret = source.read(&mut files)?;
                if !is_printable(&secret) {
                    return Err(SecretError::NotPrintable(reference.to_owned()));
                }
                pieces.push(Piece::Text(secret));
            }
        }
    }
    pieces.push(Piece::Text(Zeroizing::new(rest.to_owned())));
    Ok(Resolved { value: Template(pieces), files })
}

/// Whether a secret can stand in a header, wherever it comes from.
pub(crate) fn is_printable(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Where one secret comes from.
enum Source<'reference> {
    Command(&'reference str),
    Credential(&'reference str),
    File(&'reference Path),
    Variable(&'reference str),
}

impl<'reference> Source<'reference> {
    fn parse(reference: &'reference str) -> Result<Self, SecretError> {
        match reference.split_once(':') {
            Some(("command", name)) if !name.is_empty() => Ok(Self::Command(name)),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name)),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(Path::new(path))),
            Some(("credential", name)) if !name.is_empty() && !name.contains('/') => Ok(Self::Credential(name)),
            _ => Err(SecretError::Reference),
        }
    }

    fn read(&self, files: &mut Vec<PathBuf>) -> Result<Zeroizing<String>, SecretError> {
        match self {
            // A command takes its time; it is run beside the config, and its output filled in.
            Self::Command(name) => Err(SecretError::CommandNotHere((*name).to_owned())),
            Self::Credential(name) => {
                let folder = variable("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentialsDirectory((*name).to_owned()))?;
                read(&Path::new(&folder).join(name), files)
            }
            Self::File(path) => read(path, files),
            Self::Variable(name) => {
                variable(name).map(Zeroizing::new).ok_or_else(|| SecretError::UnsetVariable((*name).to_owned()))
            }
        }
    }
}

fn read(path: &Path, files: &mut Vec<PathBuf>) -> Result<Zeroizing<String>, SecretError> {
    files.push(path.to_owned());
    let bytes = store::read_secret(path)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_not_text| SecretError::NotPrintable(path.display().to_string()))?;
    // A final newline is what editors and `echo` leave; it is not part of anybody's secret.
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[allow(clippy::disallowed_methods, reason = "the config is the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_put_where_the_template_names_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        store::write(&path, b"s3cret\n").unwrap();
        let resolved = resolve(&format!("Bearer ${{file:{}}}!", path.display()), Secrets::Read).unwrap();
        assert_eq!(resolved.value.as_str(), "Bearer s3cret!");
        assert_eq!(resolved.files, [path]);
        assert_eq!(resolve("plain", Secrets::Read).unwrap().value.as_str(), "plain");
    }

    #[test]
    fn what_a_command_prints_is_filled_in_when_it_is_at_hand() {
        let template = template("Bearer ${command:vault}!", Secrets::Read).unwrap().value;
        assert_eq!(template.commands().map(|name| &**name).collect::<Vec<_>>(), ["vault"]);
        assert_eq!(template.fill(|_name| None), None);
        let printed = Arc::new(Zeroizing::new("s3cret".to_owned()));
        let filled = template.fill(|name| (name == "vault").then(|| Arc::clone(&printed)));
        assert_eq!(filled.unwrap().as_str(), "Bearer s3cret!");
    }

    #[test]
    fn what_cannot_be_resolved_is_an_error() {
        for template in [
            "${file:relative}",
            "${vault:x}",
            "${command:x}",
            "${command:}",
            "${",
            "${env:COUNTERSIGN_SURELY_UNSET}",
            "${credential:a/b}",
            "${}",
            "${file:/dev/null}",
        ] {
            assert!(resolve(template, Secrets::Read).is_err(), "{template}");
        }
    }
}
