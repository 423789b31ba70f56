//! When each API key was used last, so that one that nobody uses can be found and revoked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_certs::store::{self, StoreError};
use countersign_certs::time::Timestamp;
use countersign_credentials::api_key::KeyId;

/// By key, in whole seconds.
pub(crate) type LastUsed = BTreeMap<KeyId, Timestamp>;

/// Of all workers together. Each worker notes what it has seen once a second, so that no request waits for another.
#[derive(Debug, Default)]
pub(crate) struct KeyUsage(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last: LastUsed,
    stored: bool,
}

impl KeyUsage {
    /// Goes on from what was stored beside the keys. If that cannot be read, it begins anew: it is a report, and decides nothing.
    pub(crate) fn load(keys: &Path) -> Self {
        let last = read(keys).unwrap_or_else(|error| {
            tracing::warn!(%error, "when API keys were used last is not known any more");
            LastUsed::new()
        });
        Self(Mutex::new(Known { last, stored: true }))
    }

    /// Notes that these keys were used.
    pub(crate) fn note<'key>(&self, used: impl Iterator<Item = &'key KeyId>, now: Timestamp) {
        let mut known = self.lock();
        for key in used {
            known.last.insert(key.clone(), now);
            known.stored = false;
        }
    }

    /// When each was used last.
    pub(crate) fn all(&self) -> LastUsed {
        self.lock().last.clone()
    }

    /// Stores what has changed, without those that are no keys any more.
    pub(crate) fn store(&self, keys: &Path, is_key: impl Fn(&KeyId) -> bool) -> Result<(), StoreError> {
        let json = {
            let mut known = self.lock();
            if std::mem::replace(&mut known.stored, true) {
                return Ok(());
            }
            known.last.retain(|key, _| is_key(key));
            serde_json::to_vec(&known.last).unwrap_or_default()
        };
        store::write(&beside(keys), &json).inspect_err(|_unwritten| self.lock().stored = false)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why what was stored cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("{path} cannot be read")]
    Content { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was stored beside the keys.
pub(crate) fn read(keys: &Path) -> Result<LastUsed, UsageError> {
    let path = beside(keys);
    let bytes = match store::read_up_to(&path, 64 * 1024 * 1024) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(LastUsed::new()),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes).map_err(|source| UsageError::Content { path, source })
}

fn beside(keys: &Path) -> PathBuf {
    keys.with_extension("used.json")
}
