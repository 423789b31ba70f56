//! The keys of one issuer (RFC 7517 §5), each ready to verify.

use serde_json::Value;

use super::Jwk;
use super::material::{JwkError, Thumbprint};
use super::verifier::Verifier;
use crate::algorithm::Algorithm;
use crate::json::{self, JsonError};

/// Largest document in bytes.
pub const SET_BYTES_MAX: usize = 64 * 1024;

/// Most keys in one set, those that are ignored counted.
pub const KEYS_MAX: usize = 64;

/// The keys of an issuer that verify signatures of accepted algorithms.
pub struct KeySet {
    keys: Vec<Key>,
    ignored: Vec<Ignored>,
}

struct Key {
    id: Option<String>,
    thumbprint: Thumbprint,
    verifiers: Vec<(Algorithm, Verifier)>,
}

/// A key of the set that is not used, and why. RFC 7517 §5 lets a set hold keys for other purposes and of unknown kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its position in the set, from 0.
    pub position: usize,
    /// Why.
    pub reason: JwkError,
}

/// Why a document is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Too large.
    #[error("the key set has {bytes} bytes; the most is {SET_BYTES_MAX}")]
    Bytes {
        /// How many it has.
        bytes: usize,
    },
    /// Not the JSON that is expected.
    #[error("the key set cannot be read")]
    Json(#[from] JsonError),
    /// No list of objects.
    #[error("the key set has no list \"keys\" of objects (RFC 7517 §5)")]
    NoKeys,
    /// Two keys of one name: which one a token means would be open.
    #[error("the key set has two different keys named {0:?}")]
    SameId(String),
    /// Too many.
    #[error("the key set has {count} keys; the most is {KEYS_MAX}")]
    TooMany {
        /// How many it has.
        count: usize,
    },
}

/// Why a set has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The key of that name is not for that algorithm.
    Algorithm,
    /// The token names no key, and several would do.
    Ambiguous,
    /// There is none of that name, or none for the algorithm.
    Unknown,
}

impl KeySet {
    /// Reads a set. Keys that no accepted algorithm uses are ignored, so a secret counts only for an issuer with an HMAC in its list.
    ///
    /// # Errors
    /// The document is too large, no JSON, no key set, has too many keys, or two different ones of one name.
    pub fn parse(json: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        if json.len() > SET_BYTES_MAX {
            return Err(KeySetError::Bytes { bytes: json.len() });
        }
        let members = json::object(json)?;
        let list = members.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if list.len() > KEYS_MAX {
            return Err(KeySetError::TooMany { count: list.len() });
        }
        let mut set = Self { keys: Vec::new(), ignored: Vec::new() };
        for (position, members) in list.iter().enumerate() {
            let members = members.as_object().ok_or(KeySetError::NoKeys)?;
            match Jwk::read(members).and_then(|jwk| Key::new(jwk, algorithms)) {
                Ok(key) => set.add(key)?,
                Err(reason) => set.ignored.push(Ignored { position, reason }),
            }
        }
        Ok(set)
    }

    /// How many keys it has, those that are ignored not counted.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no signature can be verified with it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that are not used.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Whether this key is in it.
    pub fn has(&self, thumbprint: &Thumbprint) -> bool {
        self.keys.iter().any(|key| key.thumbprint == *thumbprint)
    }

    /// The key of a token. Without a name there has to be exactly one for the algorithm.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<(Thumbprint, &Verifier), NoKey> {
        if let Some(id) = id {
            let key = self.keys.iter().find(|key| key.id.as_deref() == Some(id)).ok_or(NoKey::Unknown)?;
            return key.verifier(algorithm).ok_or(NoKey::Algorithm);
        }
        let mut fitting = self.keys.iter().filter_map(|key| key.verifier(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
            (None, _) => Err(NoKey::Unknown),
        }
    }

    /// The same key twice is one key.
    fn add(&mut self, key: Key) -> Result<(), KeySetError> {
        let same_id = |known: &&Key| known.id.is_some() && known.id == key.id;
        if let Some(id) = self.keys.iter().find(same_id).filter(|known| known.thumbprint != key.thumbprint) {
            return Err(KeySetError::SameId(id.id.clone().unwrap_or_default()));
        }
        if !self.keys.iter().any(|known| known.id == key.id && known.thumbprint == key.thumbprint) {
            self.keys.push(key);
        }
        Ok(())
    }
}

impl Key {
    fn new(jwk: Jwk, algorithms: &[Algorithm]) -> Result<Self, JwkError> {
        let fitting = algorithms.iter().copied().filter(|algorithm| jwk.fits(*algorithm));
        let verifiers = fitting
            .map(|algorithm| Ok((algorithm, Verifier::new(&jwk.material, algorithm)?)))
            .collect::<Result<Vec<_>, JwkError>>()?;
        if verifiers.is_empty() {
            return Err(jwk.material.unwanted());
        }
        Ok(Self { id: jwk.id, thumbprint: jwk.material.thumbprint(), verifiers })
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<(Thumbprint, &Verifier)> {
        let fitting = self.verifiers.iter().find(|(own, _)| *own == algorithm);
        fitting.map(|(_, verifier)| (self.thumbprint, verifier))
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "KeySet({} keys, {} ignored)", self.keys.len(), self.ignored.len())
    }
}
