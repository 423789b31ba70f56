//! What is kept of an API key: whose it is, what it may, and until when.

use std::fmt;
use std::str::FromStr;

use countersign_certs::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::KeyDigest;
use crate::random::{self, NoRandomness};
use crate::text;

/// Marks the public name of a key.
const ID_PREFIX: &str = "key_";

/// 36 to the power of 16 is more than 2 to the power of 82: no two names meet by chance.
const ID_CHARACTERS: usize = 16;

const ID_ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Longest owner, team, role, route, method or limit in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest note in bytes.
pub const NOTE_BYTES_MAX: usize = 1024;

/// Most roles, routes, methods or limits of one key.
pub const NAMES_MAX: usize = 64;

/// Most secrets of one key: the one in use, and during a rotation the one before.
pub const SECRETS_MAX: usize = 2;

/// The public name of a key, `key_` and 16 lower-case letters and digits. It stays when the secret is rotated, and is what audit
/// lines and commands use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(String);

/// A text that is no name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key; the name of one is {ID_PREFIX} and {ID_CHARACTERS} lower-case letters and digits")]
pub struct KeyIdError(String);

impl KeyId {
    /// Makes a new name.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut text = ID_PREFIX.to_owned();
        random::append(&mut text, ID_CHARACTERS, ID_ALPHABET)?;
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = |rest: &str| rest.len() == ID_CHARACTERS && rest.bytes().all(|byte| ID_ALPHABET.contains(&byte));
        if text.strip_prefix(ID_PREFIX).is_some_and(fits) { Ok(Self(text)) } else { Err(KeyIdError(text)) }
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One key as it is stored. Its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// Who is to be asked about it.
    pub owner: String,
    /// The owner's team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The roles that it gives to whoever shows it.
    pub roles: Vec<String>,
    /// The routes on which it is accepted; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<String>>,
    /// The methods with which it is accepted; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// The names of the limits that hold for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<String>>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is not accepted any more; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Since when it is not accepted, until it is enabled again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Timestamp>,
    /// Since when it is not accepted, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// The secret in use; the one before it as well, while a rotation lasts.
    pub secrets: Vec<KeySecret>,
    /// What an operator remarks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What is kept of one secret text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySecret {
    /// SHA-256 of the text.
    pub digest: KeyDigest,
    /// When it was made.
    pub created: Timestamp,
    /// The last second in which it is accepted; as long as the key, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

/// Whether a key is accepted, and if not, since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum KeyState {
    /// It is accepted.
    Active,
    /// An operator has switched it off.
    Disabled(Timestamp),
    /// Its time is over.
    Expired(Timestamp),
    /// The secret shown was replaced by another one; the key itself is accepted.
    Replaced(Timestamp),
    /// An operator has ended it for ever.
    Revoked(Timestamp),
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No secret without an end, or two: which one is in use would be open.
    #[error("exactly one secret of a key is without an end, not {count}")]
    Current {
        /// How many are without one.
        count: usize,
    },
    /// A list that names nothing: it would allow nothing, or was meant to be left out.
    #[error("{list} is empty; leave it out, or name something")]
    Empty {
        /// The key of the list.
        list: &'static str,
    },
    /// A text that is empty where it must not be, too long, or has control characters.
    #[error("{field} must have 1 to {NAME_BYTES_MAX} bytes and no control characters, but is {text:?}")]
    Name {
        /// The key of the text.
        field: &'static str,
        /// The text, its beginning at least.
        text: String,
    },
    /// A note that is too long or has control characters.
    #[error("note must have at most {NOTE_BYTES_MAX} bytes and no control characters")]
    Note,
    /// None, or too many.
    #[error("a key has 1 to {SECRETS_MAX} secrets, not {count}")]
    Secrets {
        /// How many there are.
        count: usize,
    },
    /// A list that is too long.
    #[error("{list} has {count} entries; the most is {NAMES_MAX}")]
    TooMany {
        /// The key of the list.
        list: &'static str,
        /// How many there are.
        count: usize,
    },
}

impl KeyRecord {
    /// Whether the key is accepted now. What an operator has said comes before what the clock says.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if let Some(since) = self.revoked {
            return KeyState::Revoked(since);
        }
        if let Some(since) = self.disabled {
            return KeyState::Disabled(since);
        }
        match self.expires {
            Some(end) if now >= end => KeyState::Expired(end),
            Some(_) | None => KeyState::Active,
        }
    }

    /// Refuses what no record may hold. A key without roles is one: it may do what is allowed to everybody.
    pub(super) fn check(&self) -> Result<(), RecordError> {
        name("owner", &self.owner)?;
        self.team.as_deref().map_or(Ok(()), |team| name("team", team))?;
        names("roles", &self.roles)?;
        let restrictions = [("routes", &self.routes), ("methods", &self.methods), ("limits", &self.limits)];
        for (list, restriction) in restrictions {
            match restriction.as_deref() {
                Some([]) => return Err(RecordError::Empty { list }),
                Some(restriction) => names(list, restriction)?,
                None => {}
            }
        }
        if !text::is_note(&self.note, NOTE_BYTES_MAX) {
            return Err(RecordError::Note);
        }
        if self.secrets.is_empty() || self.secrets.len() > SECRETS_MAX {
            return Err(RecordError::Secrets { count: self.secrets.len() });
        }
        match self.secrets.iter().filter(|secret| secret.not_after.is_none()).count() {
            1 => Ok(()),
            count => Err(RecordError::Current { count }),
        }
    }
}

impl KeySecret {
    /// Whether a secret of an accepted key is accepted now.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match self.not_after {
            Some(end) if now > end => KeyState::Replaced(end),
            Some(_) | None => KeyState::Active,
        }
    }
}

fn names(list: &'static str, names: &[String]) -> Result<(), RecordError> {
    if names.len() > NAMES_MAX {
        return Err(RecordError::TooMany { list, count: names.len() });
    }
    names.iter().try_for_each(|text| name(list, text))
}

fn name(field: &'static str, text: &str) -> Result<(), RecordError> {
    if text::is_name(text, NAME_BYTES_MAX) {
        return Ok(());
    }
    Err(RecordError::Name { field, text: text.chars().take(NAME_BYTES_MAX).collect() })
}
