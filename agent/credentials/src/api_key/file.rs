//! All keys of an agent as one JSON document.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::KeyDigest;
use super::record::{KeyId, KeyRecord, RecordError};

/// The version that is written and read.
pub const VERSION: u32 = 1;

/// Largest document in bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most keys in one document.
pub const KEYS_MAX: usize = 100_000;

/// The keys of an agent. Each has a name and secrets of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile {
    pub(super) keys: Vec<KeyRecord>,
}

/// Why a document holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Too large to be read.
    #[error("the file of API keys has {bytes} bytes; the most is {FILE_BYTES_MAX}")]
    Bytes {
        /// How many it has.
        bytes: usize,
    },
    /// Two keys with one secret: nobody could say whose it is.
    #[error("the API keys {first} and {second} have the same secret, or one has it twice")]
    Digest {
        /// One of them.
        first: KeyId,
        /// The other.
        second: KeyId,
    },
    /// Two keys with one name.
    #[error("there are two API keys with the name {0}")]
    Id(KeyId),
    /// Not the JSON that is expected.
    #[error("the file of API keys cannot be read")]
    Json(#[source] serde_json::Error),
    /// Too many.
    #[error("the file has {count} API keys; the most is {KEYS_MAX}")]
    Keys {
        /// How many there are.
        count: usize,
    },
    /// One key that cannot be.
    #[error("the API key {id} cannot be read")]
    Record {
        /// Which.
        id: KeyId,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// Written by another program.
    #[error("the file of API keys has version {0}; this program reads version {VERSION}")]
    Version(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    version: u32,
    keys: Vec<KeyRecord>,
}

#[derive(Serialize)]
struct Written<'file> {
    version: u32,
    keys: &'file [KeyRecord],
}

impl KeyFile {
    /// Reads a document.
    ///
    /// # Errors
    /// It is too large, of another version, not the JSON that is expected, or holds what no document may.
    pub fn parse(json: &[u8]) -> Result<Self, KeyFileError> {
        if json.len() > FILE_BYTES_MAX {
            return Err(KeyFileError::Bytes { bytes: json.len() });
        }
        let read: Read = serde_json::from_slice(json).map_err(KeyFileError::Json)?;
        if read.version != VERSION {
            return Err(KeyFileError::Version(read.version));
        }
        let file = Self { keys: read.keys };
        file.check()?;
        Ok(file)
    }

    /// The document as it is stored, in lines, so that two of them can be compared.
    ///
    /// # Errors
    /// It would be too large to be read again.
    pub fn to_json(&self) -> Result<Vec<u8>, KeyFileError> {
        let written = Written { version: VERSION, keys: &self.keys };
        let mut json = serde_json::to_vec_pretty(&written).map_err(KeyFileError::Json)?;
        json.push(b'\n');
        if json.len() > FILE_BYTES_MAX {
            return Err(KeyFileError::Bytes { bytes: json.len() });
        }
        Ok(json)
    }

    /// All keys, in the order in which they were made.
    pub fn keys(&self) -> &[KeyRecord] {
        &self.keys
    }

    /// One key.
    pub fn key(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.id == *id)
    }

    pub(super) fn check(&self) -> Result<(), KeyFileError> {
        if self.keys.len() > KEYS_MAX {
            return Err(KeyFileError::Keys { count: self.keys.len() });
        }
        let mut names = HashSet::with_capacity(self.keys.len());
        let mut secrets = HashMap::<KeyDigest, &KeyId>::with_capacity(self.keys.len());
        for key in &self.keys {
            key.check().map_err(|source| KeyFileError::Record { id: key.id.clone(), source })?;
            if !names.insert(&key.id) {
                return Err(KeyFileError::Id(key.id.clone()));
            }
            for secret in &key.secrets {
                if let Some(first) = secrets.insert(secret.digest, &key.id) {
                    return Err(KeyFileError::Digest { first: first.clone(), second: key.id.clone() });
                }
            }
        }
        Ok(())
    }
}
