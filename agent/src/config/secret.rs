//! Values with secrets in them: `Bearer ${credential:ollama_token}`.

use std::path::{Path, PathBuf};

use countersign_certs::store::{self, StoreError};
use zeroize::Zeroizing;

use super::Secrets;

/// Why a value with secrets cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error(
        "${{credential:{0}}} needs systemd: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={0}:/PATH to the unit"
    )]
    NoCredentialsDirectory(String),
    #[error("the secret behind ${{{0}}} is empty or not printable ASCII")]
    NotPrintable(String),
    // What stands there is not repeated: it may be the secret itself.
    #[error(
        "what stands between '${{' and '}}' names no secret; write ${{env:NAME}}, ${{file:/PATH}} or ${{credential:NAME}}"
    )]
    Reference,
    #[error("the secret cannot be read")]
    Store(#[from] StoreError),
    #[error("'${{' has no closing '}}'")]
    Unclosed,
    #[error("the environment variable {0} is not set")]
    UnsetVariable(String),
}

/// What a template resolves to, and the files that it came from, to be watched.
pub(crate) struct Resolved {
    pub(crate) value: Zeroizing<String>,
    pub(crate) files: Vec<PathBuf>,
}

/// Replaces every `${kind:name}` by the secret that it names, or, where secrets are not read, by nothing.
pub(crate) fn resolve(template: &str, secrets: Secrets) -> Result<Resolved, SecretError> {
    let mut resolved = Resolved { value: Zeroizing::new(String::with_capacity(512)), files: Vec::new() };
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (reference, behind) = after.split_once('}').ok_or(SecretError::Unclosed)?;
        resolved.value.push_str(before);
        let source = Source::parse(reference)?;
        rest = behind;
        if secrets == Secrets::Named {
            continue;
        }
        let secret = source.read(&mut resolved.files)?;
        if secret.is_empty() || !secret.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(SecretError::NotPrintable(reference.to_owned()));
        }
        resolved.value.push_str(&secret);
    }
    resolved.value.push_str(rest);
    Ok(resolved)
}

/// Where one secret comes from.
enum Source<'reference> {
    Credential(&'reference str),
    File(&'reference Path),
    Variable(&'reference str),
}

impl<'reference> Source<'reference> {
    fn parse(reference: &'reference str) -> Result<Self, SecretError> {
        match reference.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name)),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(Path::new(path))),
            Some(("credential", name)) if !name.is_empty() && !name.contains('/') => Ok(Self::Credential(name)),
            _ => Err(SecretError::Reference),
        }
    }

    fn read(&self, files: &mut Vec<PathBuf>) -> Result<Zeroizing<String>, SecretError> {
        match self {
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
fn variable(name: &str) -> Option<String> {
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
    fn what_cannot_be_resolved_is_an_error() {
        for template in [
            "${file:relative}",
            "${vault:x}",
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
