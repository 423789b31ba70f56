//! Claims as values with types and bounds (RFC 7519 §4.1, RFC 8693 §4, RFC 9068 §2.2).

use std::time::Duration;

use countersign_certs::time::Timestamp;
use serde_json::{Map, Value};

use crate::text;

/// Longest subject in bytes. OpenID Connect allows 255; some providers write distinguished names.
pub const SUBJECT_BYTES_MAX: usize = 1024;

/// Longest `jti` and client in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// Most audiences and scopes of one token.
pub const LIST_MAX: usize = 128;

/// The last second that a claim may name, in the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A claim that is missing or not what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claim {name:?} is missing, of another type, or out of bounds")]
pub struct ClaimError {
    /// Which.
    pub name: &'static str,
}

/// Reads claims by name.
#[derive(Clone, Copy)]
pub(crate) struct Claims<'claims>(pub(crate) &'claims Map<String, Value>);

/// Where a fraction of a second goes: a token must not live longer for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Down,
    Up,
}

impl<'claims> Claims<'claims> {
    /// A text that is a name, if the claim is there.
    pub(crate) fn name(self, name: &'static str, bytes_max: usize) -> Result<Option<&'claims str>, ClaimError> {
        match self.0.get(name) {
            Some(Value::String(text)) if text::is_name(text, bytes_max) => Ok(Some(text)),
            Some(_) => Err(ClaimError { name }),
            None => Ok(None),
        }
    }

    /// A point in time, if the claim is there: a JSON number of seconds since 1970, whole or not (RFC 7519 §2, NumericDate).
    pub(crate) fn time(self, name: &'static str, round: Round) -> Result<Option<Timestamp>, ClaimError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_u64().or_else(|| fraction(value.as_f64()?, round));
        match seconds {
            Some(seconds) if seconds <= LAST_SECOND => Ok(Some(Timestamp::from_unix_seconds(seconds))),
            Some(_) | None => Err(ClaimError { name }),
        }
    }

    /// The audiences: one text, or a list of them, not empty (RFC 7519 §4.1.3).
    pub(crate) fn audiences(self) -> Result<Option<Vec<&'claims str>>, ClaimError> {
        let name = "aud";
        match self.0.get(name) {
            Some(Value::Array(list)) if list.is_empty() => Err(ClaimError { name }),
            Some(value) => texts(value, name).map(Some),
            None => Ok(None),
        }
    }

    /// The client for whom it was issued: `client_id`, or `azp` as OpenID Connect calls it. If both are there, they agree.
    pub(crate) fn client(self) -> Result<Option<&'claims str>, ClaimError> {
        match (self.name("client_id", ID_BYTES_MAX)?, self.name("azp", ID_BYTES_MAX)?) {
            (Some(client), Some(party)) if client != party => Err(ClaimError { name: "azp" }),
            (client, party) => Ok(client.or(party)),
        }
    }

    /// The scopes: `scope`, words with a space between them (RFC 8693 §4.2), or `scp`, as words or as a list, as some providers call
    /// it. If both are there, they agree.
    pub(crate) fn scopes(self) -> Result<Vec<String>, ClaimError> {
        let read = |name: &'static str| match self.0.get(name) {
            Some(Value::String(words)) => {
                let words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
                scopes(words, name).map(Some)
            }
            Some(value) => scopes(texts(value, name)?, name).map(Some),
            None => Ok(None),
        };
        match (read("scope")?, read("scp")?) {
            (Some(scope), Some(scp)) if scope != scp => Err(ClaimError { name: "scp" }),
            (scope, scp) => Ok(scope.or(scp).unwrap_or_default()),
        }
    }

    /// The sign by which a token that is no access token is known. An ID token tells a client about a login, and every client that a
    /// user logs in to gets one.
    pub(crate) fn sign_of_another_kind(self) -> Option<&'static str> {
        let present =
            ["nonce", "at_hash", "c_hash", "s_hash", "events"].into_iter().find(|name| self.0.contains_key(*name));
        present.or_else(|| {
            let says = |name: &str, kinds: &[&str]| {
                self.0.get(name).and_then(Value::as_str).is_some_and(|it| kinds.contains(&it))
            };
            if says("typ", &["ID", "Logout", "Refresh", "Offline"]) {
                return Some("typ");
            }
            says("token_use", &["id", "refresh_token"]).then_some("token_use")
        })
    }
}

/// Whole seconds of a fraction. Negative and endless numbers are no [`Duration`].
fn fraction(number: f64, round: Round) -> Option<u64> {
    let duration = Duration::try_from_secs_f64(number).ok()?;
    let up = u64::from(round == Round::Up && duration.subsec_nanos() > 0);
    duration.as_secs().checked_add(up)
}

fn texts<'claims>(value: &'claims Value, name: &'static str) -> Result<Vec<&'claims str>, ClaimError> {
    let list = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(list) if list.len() <= LIST_MAX => list,
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) | Value::Object(_) => {
            return Err(ClaimError { name });
        }
    };
    let text = |value: &'claims Value| value.as_str().filter(|text| text::is_name(text, SUBJECT_BYTES_MAX));
    list.iter().map(|value| text(value).ok_or(ClaimError { name })).collect()
}

/// The characters of a scope are those of RFC 6749 §3.3.
fn scopes(words: Vec<&str>, name: &'static str) -> Result<Vec<String>, ClaimError> {
    let is_scope = |word: &&str| word.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    if words.len() > LIST_MAX || !words.iter().all(is_scope) {
        return Err(ClaimError { name });
    }
    Ok(words.into_iter().map(str::to_owned).collect())
}
