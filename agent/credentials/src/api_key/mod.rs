//! API keys: a secret text that its owner shows, and what is kept of it.
//!
//! A key is `csk_`, 43 random letters and digits, and 6 more that are a checksum. Only its SHA-256 is kept. Whoever reads the file
//! of keys can therefore use none of them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_certs::digest::{Fingerprint, FingerprintError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::random;
pub use crate::random::NoRandomness;

pub mod record;

pub mod file;

pub mod edit;

pub mod index;

pub use edit::{EditError, NewKey, Rotated};
pub use file::{FILE_BYTES_MAX, KeyFile, KeyFileError};
pub use index::{Found, KeyChange, KeyChangeKind, KeyIndex};
pub use record::{KeyId, KeyRecord, KeySecret, KeyState};

/// Marks an API key, so that scanners for leaked secrets can find one.
pub const PREFIX: &str = "csk_";

/// Bytes of a whole key.
pub const KEY_BYTES: usize = PREFIX.len() + SECRET_CHARACTERS + CHECKSUM_CHARACTERS;

/// 62 to the power of 43 is a little more than 2 to the power of 256.
const SECRET_CHARACTERS: usize = 43;

/// 62 to the power of 6: one typo in 57 thousand million passes.
const CHECKSUM_CHARACTERS: usize = 6;

/// Letters and digits only: a double click selects the whole key, and no shell, URL or query gives a character a meaning.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key itself: wiped when dropped; no Debug, no Clone, and printed by [`ApiKey::expose`] alone.
pub struct ApiKey(Zeroizing<String>);

/// Why a text is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// A character that no key has.
    #[error("an API key has letters and digits only after {PREFIX}; character {position} is something else")]
    Alphabet {
        /// Position of the first such byte, counted from 0.
        position: usize,
    },
    /// Mistyped.
    #[error("the API key is damaged: its checksum does not fit; was it mistyped?")]
    Damaged,
    /// Cut off, or something was added.
    #[error("an API key has {KEY_BYTES} characters; this one has {bytes}")]
    Length {
        /// How many bytes it has.
        bytes: usize,
    },
    /// Does not begin as a key does.
    #[error("this is no API key: it does not begin with {PREFIX}")]
    Prefix,
}

impl ApiKey {
    /// Makes a new key of 256 random bits.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        // The text never grows beyond its first room, so that no copy of it is left behind.
        let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES));
        text.push_str(PREFIX);
        random::append(&mut text, SECRET_CHARACTERS, ALPHABET)?;
        for character in checksum(text.as_bytes()) {
            text.push(char::from(character));
        }
        Ok(Self(text))
    }

    /// Reads a key as a caller shows it. Nothing is trimmed.
    ///
    /// # Errors
    /// Another length, another beginning, another character than a letter or digit, or a checksum that does not fit.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        check_form(text)?;
        let (secret, shown) = text.split_at_checked(KEY_BYTES - CHECKSUM_CHARACTERS).ok_or(ApiKeyError::Damaged)?;
        // The checksum is computed from what the caller has sent, so how long the comparison takes tells the caller nothing.
        if checksum(secret.as_bytes()) != shown.as_bytes() {
            return Err(ApiKeyError::Damaged);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// All that is kept of it.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.0)
    }

    /// The secret text, to be shown once to the key's owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn check_form(text: &str) -> Result<(), ApiKeyError> {
    let rest = text.strip_prefix(PREFIX).ok_or(ApiKeyError::Prefix)?;
    if text.len() != KEY_BYTES {
        return Err(ApiKeyError::Length { bytes: text.len() });
    }
    // Without a way out of the loop, many bytes are looked at together.
    if rest.bytes().fold(true, |good, byte| good & byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    let position = rest.bytes().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or_default();
    Err(ApiKeyError::Alphabet { position: PREFIX.len() + position })
}

/// Six characters that tell a mistyped key from an unknown one without looking it up.
fn checksum(secret: &[u8]) -> [u8; CHECKSUM_CHARACTERS] {
    let digest = digest(&SHA256, secret);
    let mut number = digest.as_ref().iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    [(); CHECKSUM_CHARACTERS].map(|()| {
        let digit = usize::try_from(number % 62).unwrap_or_default();
        number /= 62;
        ALPHABET.get(digit).copied().unwrap_or_default()
    })
}

/// SHA-256 of an API key, by which it is known; 64 hexadecimal digits in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(Fingerprint);

impl KeyDigest {
    /// Of a text that a caller shows, if it has a key's length, beginning and characters. Its checksum is not looked at: a text that is
    /// a key of ours needs none, and [`ApiKey::parse`] tells for any other whether it is mistyped.
    ///
    /// # Errors
    /// Another length, another beginning, or another character than a letter or digit.
    pub fn of_shown(text: &str) -> Result<Self, ApiKeyError> {
        check_form(text).map(|()| Self::of(text))
    }

    /// SHA-256 of the whole text. A slow hash protects secrets that can be guessed; one of 256 random bits cannot be, however fast the
    /// hash is, and each request would pay for it.
    fn of(text: &str) -> Self {
        Self(Fingerprint(countersign_certs::digest::sha256(text.as_bytes())))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for KeyDigest {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod story;

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that never was anybody's.
    fn key() -> String {
        let secret = format!("{PREFIX}{}", "A1b".repeat(15).get(..SECRET_CHARACTERS).unwrap());
        let sum = checksum(secret.as_bytes());
        format!("{secret}{}", std::str::from_utf8(&sum).unwrap())
    }

    #[track_caller]
    fn check(text: &str, expected: Result<(), ApiKeyError>) {
        let parsed = ApiKey::parse(text).map(|key| key.digest());
        assert_eq!(parsed.map(drop), expected, "{text:?}");
        // Only the checksum is not looked at.
        let shown = KeyDigest::of_shown(text);
        let is_damaged = expected == Err(ApiKeyError::Damaged);
        assert!(if is_damaged { shown.is_ok() } else { shown == parsed }, "{text:?}");
    }

    #[test]
    fn only_a_whole_key_is_a_key() {
        let key = key();
        check(&key, Ok(()));
        check("", Err(ApiKeyError::Prefix));
        check(PREFIX, Err(ApiKeyError::Length { bytes: 4 }));
        check(&key.to_uppercase(), Err(ApiKeyError::Prefix));
        check(&format!(" {key}"), Err(ApiKeyError::Prefix));
        check(&format!("{key}\n"), Err(ApiKeyError::Length { bytes: 54 }));
        check(key.get(..52).unwrap(), Err(ApiKeyError::Length { bytes: 52 }));
        check(&key.replacen('A', "a", 1), Err(ApiKeyError::Damaged));
        for (position, _) in key.char_indices().skip(PREFIX.len()) {
            let mut typo = key.clone().into_bytes();
            typo[position] = if typo[position] == b'x' { b'y' } else { b'x' };
            check(std::str::from_utf8(&typo).unwrap(), Err(ApiKeyError::Damaged));
        }
    }

    #[test]
    fn text_of_another_language_is_refused_before_anything_is_looked_up() {
        for hostile in ["*", "%", "_", "-", ".", "'", "\"", ";", "/", "\\", "\0", " ", "?", "[", "(", "|", "$", "+"] {
            let text = key().replacen('b', hostile, 1);
            check(&text, Err(ApiKeyError::Alphabet { position: 6 }));
        }
        let wide = format!("{PREFIX}{}", "ä".repeat(24) + "A");
        check(&wide, Err(ApiKeyError::Alphabet { position: 4 }));
    }

    #[test]
    fn generated_keys_are_keys_and_differ() {
        let (one, other) = (ApiKey::generate().unwrap(), ApiKey::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one.digest(), other.digest());
        for key in [one, other] {
            assert_eq!(key.expose().len(), KEY_BYTES);
            assert_eq!(ApiKey::parse(key.expose()).unwrap().digest(), key.digest());
        }
    }

    #[test]
    fn the_checksum_and_the_digest_stay_what_they_were() {
        let key = ApiKey::parse(&key()).unwrap();
        assert_eq!(key.expose().get(KEY_BYTES - CHECKSUM_CHARACTERS..), Some("Z2eX2U"));
        assert_eq!(key.digest().to_string(), "10d6e511d798a87ac358c437dc493a7b4fd6e66bb613bf0ab354cb9a8acf365d");
    }

    #[test]
    fn digests_read_as_they_print() {
        let digest = ApiKey::generate().unwrap().digest();
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(countersign_certs::digest::hexadecimal(digest.as_bytes()), digest.to_string());
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<KeyDigest>(&json).unwrap(), digest);
    }
}
