//! What callers may show besides certificates, and what each inbound demands of it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use countersign_certs::store::{self, StoreError};
use countersign_credentials::api_key::{FILE_BYTES_MAX, KeyFile, KeyIndex};
use countersign_credentials::password::{PasswordHash, USER_BYTES_MAX};
use http::{HeaderName, header};
use toml::Spanned;

use super::super::address::{BackendAddress, Protocol};
use super::super::checked::{Accepted, ApiKeys, Issuer, Passwords};
use super::super::{Secrets, file};
use super::issuers;
use super::scalars::absolute;
use crate::authenticate::shown::KeyPlaces;
use crate::in_words::in_one_line;
use crate::policy::credential::{CredentialKind, CredentialSet, Demand, DemandError};
use crate::policy::subject::SubjectPattern;
use crate::request::{is_hop_by_hop, is_identity_header};

/// The name of the file of API keys in the state folder.
const KEYS_FILE: &str = "api-keys.json";

/// Where API keys may stand besides `Authorization`, if the config does not say.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// Most headers in which an API key may stand.
const KEY_HEADERS_MAX: usize = 16;

pub(super) fn accepted(file: &file::Agent, secrets: Secrets, files: &mut Vec<PathBuf>) -> Result<Accepted, Finding> {
    let issuers = issuers::issuers(&file.issuer, secrets, files)?;
    if let Some(demand) = demands(file, "jwt").next().filter(|_| issuers.is_empty()) {
        let hint = "write an [[issuer]]";
        return Err(Finding::with_hint(
            demand.span(),
            "no issuer of tokens is configured, so that nobody could show one",
            hint,
        ));
    }
    let asked = issuers.iter().any(|issuer| issuer.introspection.is_some());
    if let Some(demand) = demands(file, "opaque_token").next().filter(|_| !asked) {
        let hint = "write an [issuer.introspection]";
        return Err(Finding::with_hint(demand.span(), "no issuer can be asked about opaque tokens", hint));
    }
    Ok(Accepted { api_keys: api_keys(file, secrets, files)?, passwords: passwords(file, secrets, files)?, issuers })
}

/// Keys are accepted where the config speaks of them: in a table of their own, or in an inbound.
fn api_keys(file: &file::Agent, secrets: Secrets, files: &mut Vec<PathBuf>) -> Result<Option<ApiKeys>, Finding> {
    let written = file.api_keys.as_ref().map(Spanned::get_ref);
    let Some(span) = keys_stand_at(file) else { return Ok(None) };
    let path = match (written.and_then(|written| written.file.as_ref()), &file.state_dir) {
        (Some(path), _) => absolute(path)?,
        (None, Some(state)) => state.join(KEYS_FILE),
        (None, None) => {
            let hint = "write [api_keys] with file = \"/PATH\", or set state_dir";
            return Err(Finding::with_hint(span, "nothing says where API keys are kept", hint));
        }
    };
    let index = match secrets {
        Secrets::Named => KeyIndex::default(),
        Secrets::Read => read_keys(&path)
            .map(|keys| KeyIndex::new(&keys))
            .map_err(|error| Finding::new(span, in_one_line(&error)))?,
    };
    files.push(path.clone());
    let headers = match written.and_then(|written| written.headers.as_ref()) {
        Some(headers) => key_headers(headers)?,
        None => vec![KEY_HEADER],
    };
    let query = written.and_then(|written| written.query.as_ref()).map(query_name).transpose()?;
    Ok(Some(ApiKeys { file: path, places: KeyPlaces { headers, query }, index }))
}

/// Where the config speaks of API keys.
pub(super) fn keys_stand_at(file: &file::Agent) -> Option<Range<usize>> {
    match (&file.api_keys, demands(file, "api_key").next()) {
        (Some(table), _) => Some(table.span()),
        (None, Some(demand)) => Some(demand.span()),
        (None, None) => None,
    }
}

/// Why there are no API keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("the API keys in {path} cannot be used")]
    Content { path: PathBuf, source: countersign_credentials::api_key::KeyFileError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys of a file; none where there is no file yet.
pub(crate) fn read_keys(path: &std::path::Path) -> Result<KeyFile, KeysError> {
    let bytes = match store::read_up_to(path, u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX)) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(KeyFile::default()),
        Err(error) => return Err(error.into()),
    };
    KeyFile::parse(&bytes).map_err(|source| KeysError::Content { path: path.to_owned(), source })
}

/// Most users with a password.
const USERS_MAX: usize = 10_000;

/// A file with a line for each user, as htpasswd writes it: `NAME:HASH`.
fn passwords(file: &file::Agent, secrets: Secrets, files: &mut Vec<PathBuf>) -> Result<Option<Passwords>, Finding> {
    let Some(written) = &file.passwords else {
        return match demands(file, "basic").next() {
            Some(demand) => {
                let hint = "write [passwords] with file = \"/PATH\"";
                Err(Finding::with_hint(demand.span(), "nothing says where passwords are kept", hint))
            }
            None => Ok(None),
        };
    };
    let path = absolute(&written.file)?;
    files.push(path.clone());
    let passwords = match secrets {
        Secrets::Named => with_decoy(path, HashMap::new()),
        Secrets::Read => read_passwords(path).map_err(|error| Finding::new(written.file.span(), error))?,
    };
    Ok(Some(passwords))
}

/// The passwords of a file.
pub(in crate::config) fn read_passwords(path: PathBuf) -> Result<Passwords, String> {
    let text = store::read_secret(&path).map_err(|error| in_one_line(&error))?;
    let hashes = hashes(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(with_decoy(path, hashes))
}

fn with_decoy(file: PathBuf, hashes: HashMap<Box<str>, Arc<PasswordHash>>) -> Passwords {
    let decoy = Arc::new(PasswordHash::decoy(hashes.values().map(|hash| &**hash)));
    Passwords { file, hashes, decoy }
}

fn hashes(text: &[u8]) -> Result<HashMap<Box<str>, Arc<PasswordHash>>, String> {
    let text = std::str::from_utf8(text).map_err(|_not_text| "the file is not UTF-8".to_owned())?;
    let mut hashes = HashMap::new();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    for (index, line) in lines {
        // What stands on a line is not repeated: it may be a password itself.
        let at = |error: &dyn std::fmt::Display| format!("line {}: {error}", index + 1);
        let (name, hash) = line.split_once(':').ok_or_else(|| at(&"it is not NAME:HASH"))?;
        let printable = !name.is_empty() && name.len() <= USER_BYTES_MAX && !name.chars().any(char::is_control);
        if !printable {
            return Err(at(&format!("a name has 1 to {USER_BYTES_MAX} bytes and no control characters")));
        }
        let hash = PasswordHash::parse(hash.trim_end()).map_err(|error| at(&error))?;
        if hashes.insert(name.into(), Arc::new(hash)).is_some() {
            return Err(at(&format!("{name:?} has a password already")));
        }
        if hashes.len() > USERS_MAX {
            return Err(at(&format!("the limit is {USERS_MAX} users")));
        }
    }
    Ok(hashes)
}

/// Where inbounds demand a credential of this name.
fn demands<'file>(file: &'file file::Agent, name: &'static str) -> impl Iterator<Item = &'file Spanned<String>> {
    let lists = file.inbound.iter().flat_map(|inbound| inbound.require.iter().chain(&inbound.any_of));
    lists.flat_map(|list| list.get_ref()).filter(move |kind| kind.get_ref() == name)
}

fn key_headers(written: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<HeaderName>, Finding> {
    if written.get_ref().len() > KEY_HEADERS_MAX {
        let count = written.get_ref().len();
        return Err(Finding::new(written.span(), format!("{count} headers; the limit is {KEY_HEADERS_MAX}")));
    }
    let mut headers: Vec<HeaderName> = Vec::new();
    for text in written.get_ref() {
        let name: HeaderName = text
            .get_ref()
            .parse()
            .map_err(|_not_a_name| Finding::new(text.span(), format!("{:?} is no header name", text.get_ref())))?;
        let means_something_else = matches!(
            name,
            header::AUTHORIZATION | header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE | header::COOKIE
        );
        if means_something_else || is_identity_header(&name) || is_hop_by_hop(&name) {
            return Err(Finding::new(
                text.span(),
                format!("{name} means something else; an API key cannot stand in it"),
            ));
        }
        if headers.contains(&name) {
            return Err(Finding::new(text.span(), format!("{name} is named twice")));
        }
        headers.push(name);
    }
    Ok(headers)
}

fn query_name(text: &Spanned<String>) -> Result<Box<str>, Finding> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let name = text.get_ref();
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(name.as_str().into())
    } else {
        Err(Finding::new(
            text.span(),
            format!("{name:?} is no name of a parameter: 1 to 64 letters, digits, '-', '_' or '.'"),
        ))
    }
}

/// What an inbound demands of a request; a certificate, where it does not say.
pub(super) fn demand(
    require: Option<&Spanned<Vec<Spanned<String>>>>,
    any_of: Option<&Spanned<Vec<Spanned<String>>>>,
    backend: &BackendAddress,
) -> Result<Demand, Finding> {
    let span = match (require, any_of) {
        (None, None) => return Ok(Demand::certificate()),
        (Some(list), _) | (None, Some(list)) => list.span(),
    };
    let named = |list: Option<&Spanned<Vec<Spanned<String>>>>| list.map_or_else(|| Ok(CredentialSet::default()), set);
    let demand = Demand::new(named(require)?, named(any_of)?).map_err(|error| {
        let hint = match error {
            DemandError::Nothing => "leave both keys out to demand a certificate",
            DemandError::RequiredAlready(_) => "name each credential once",
            DemandError::TwoInRequest(_) => "put those of which one will do into any_of",
        };
        Finding::with_hint(span.clone(), error, hint)
    })?;
    if backend.protocol == Protocol::Tcp && demand != Demand::certificate() {
        let hint = "leave require and any_of out, or make the backend http:// or h2c://";
        return Err(Finding::with_hint(
            span,
            "a plain TCP backend has no requests that could carry a credential",
            hint,
        ));
    }
    Ok(demand)
}

fn set(list: &Spanned<Vec<Spanned<String>>>) -> Result<CredentialSet, Finding> {
    let mut set = CredentialSet::default();
    for text in list.get_ref() {
        let known = CredentialKind::ALL.into_iter().find(|kind| kind.as_str() == text.get_ref());
        let Some(kind) = known else {
            let hint = did_you_mean(text.get_ref(), CredentialKind::ALL.into_iter().map(CredentialKind::as_str));
            let message = format!("unknown credential {:?}", text.get_ref());
            return Err(Finding { span: text.span(), message, hint });
        };
        if set.has(kind) {
            return Err(Finding::new(text.span(), format!("{} is named twice", kind.as_str())));
        }
        set = set.with(kind);
    }
    Ok(set)
}

/// Everything that patterns over users and services can name.
pub(super) struct KnownSubjects<'accepted> {
    pub(super) api_keys: bool,
    pub(super) passwords: bool,
    issuers: &'accepted [Arc<Issuer>],
}

impl KnownSubjects<'_> {
    /// An error if a pattern could never match, because nobody could show such a credential.
    pub(super) fn check(&self, text: &Spanned<String>, pattern: &SubjectPattern) -> Result<(), Finding> {
        if let Some(issuer) = pattern.issuer() {
            return self.check_issuer(text, pattern, issuer);
        }
        match pattern {
            SubjectPattern::Key(_) | SubjectPattern::Team(_) if !self.api_keys => {
                let hint = "name \"api_key\" in require or any_of of an inbound";
                Err(Finding::with_hint(text.span(), "this member can never call: no inbound takes API keys", hint))
            }
            SubjectPattern::Password(_) if !self.passwords => {
                let hint = "name a file of passwords in [passwords]";
                Err(Finding::with_hint(text.span(), "this member can never call: there are no passwords", hint))
            }
            SubjectPattern::Key(_)
            | SubjectPattern::Password(_)
            | SubjectPattern::Team(_)
            | SubjectPattern::Token { .. } => Ok(()),
        }
    }
}

impl KnownSubjects<'_> {
    fn check_issuer(&self, text: &Spanned<String>, pattern: &SubjectPattern, issuer: &str) -> Result<(), Finding> {
        let Some(known) = self.issuers.iter().find(|known| *known.name == *issuer) else {
            let hint = did_you_mean(issuer, self.issuers.iter().map(|known| &*known.name));
            let message = format!("this member can never call: there is no issuer {issuer:?}");
            return Err(Finding { span: text.span(), message, hint });
        };
        match pattern.claim() {
            Some(claim) if !known.claims.contains_key(claim) => {
                let hint = format!("add {claim:?} to the claims of the issuer {issuer:?}");
                Err(Finding::with_hint(text.span(), format!("the claim {claim:?} is not looked at"), hint))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl<'accepted> From<&'accepted Arc<Accepted>> for KnownSubjects<'accepted> {
    fn from(accepted: &'accepted Arc<Accepted>) -> Self {
        Self {
            api_keys: accepted.api_keys.is_some(),
            passwords: accepted.passwords.is_some(),
            issuers: &accepted.issuers,
        }
    }
}
