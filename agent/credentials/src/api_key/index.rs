//! From the digest of a secret to its key, as fast as a request needs it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use countersign_certs::time::Timestamp;

use super::KeyDigest;
use super::file::KeyFile;
use super::record::{KeyId, KeyRecord, KeySecret, KeyState};

/// All keys by the digests of their secrets. It never changes: a changed file makes a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyIndex {
    /// Digests are as random as a hash could make them, and none of these is a caller's choice.
    secrets: HashMap<KeyDigest, Entry, foldhash::fast::RandomState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: Arc<KeyRecord>,
    secret: KeySecret,
}

/// The key whose secret was shown. It may have ended: ask [`Found::state`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Found<'index> {
    /// The key.
    pub key: &'index Arc<KeyRecord>,
    /// Which of its secrets was shown.
    pub secret: &'index KeySecret,
}

/// Something that has become of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyChange<'index> {
    /// The key as it is now.
    pub key: &'index Arc<KeyRecord>,
    /// What has become of it.
    pub kind: KeyChangeKind,
}

/// What can become of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChangeKind {
    /// It is new.
    Created,
    /// It may not be used for now.
    Disabled,
    /// It may be used again.
    Enabled,
    /// It has ended for ever.
    Revoked,
    /// It has a new secret.
    Rotated,
}

impl KeyIndex {
    /// Makes the index of a file.
    pub fn new(file: &KeyFile) -> Self {
        let entries = file.keys().iter().flat_map(|record| {
            let key = Arc::new(record.clone());
            record.secrets.iter().map(move |secret| (secret.digest, Entry { key: Arc::clone(&key), secret: *secret }))
        });
        Self { secrets: entries.collect() }
    }

    /// Finds the key of a secret.
    ///
    /// The comparison need not take the same time for every digest. What the time may tell is how far a stored digest agrees with the
    /// SHA-256 of what the caller sent, and nobody can choose a text by the first bytes of its digest and so feel the way to a whole
    /// one, let alone from there to the secret.
    pub fn find(&self, digest: &KeyDigest) -> Option<Found<'_>> {
        self.secrets.get(digest).map(|entry| Found { key: &entry.key, secret: &entry.secret })
    }

    /// Every key; twice while it has two secrets. For reports and checks, not for requests.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyRecord>> {
        self.secrets.values().map(|entry| &entry.key)
    }

    /// What has become of the keys since an older index was made.
    pub fn changes_since(&self, older: &Self) -> Vec<KeyChange<'_>> {
        let before: HashMap<&KeyId, &Arc<KeyRecord>> =
            older.secrets.values().map(|entry| (&entry.key.id, &entry.key)).collect();
        let now: BTreeMap<&KeyId, &Arc<KeyRecord>> =
            self.secrets.values().map(|entry| (&entry.key.id, &entry.key)).collect();
        let mut changes = Vec::new();
        for key in now.into_values() {
            let Some(old) = before.get(&key.id) else {
                changes.push(KeyChange { key, kind: KeyChangeKind::Created });
                continue;
            };
            let kinds = [
                (old.revoked.is_none() && key.revoked.is_some(), KeyChangeKind::Revoked),
                (old.disabled.is_none() && key.disabled.is_some(), KeyChangeKind::Disabled),
                (old.disabled.is_some() && key.disabled.is_none(), KeyChangeKind::Enabled),
                (old.secrets != key.secrets, KeyChangeKind::Rotated),
            ];
            let changed = kinds.into_iter().filter(|(changed, _)| *changed);
            changes.extend(changed.map(|(_, kind)| KeyChange { key, kind }));
        }
        changes
    }

    /// Whether a key of this name is in it. Looks at all of them: for reports, not for requests.
    pub fn has(&self, id: &KeyId) -> bool {
        self.secrets.values().any(|entry| entry.key.id == *id)
    }

    /// How many secrets it knows.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }
}

impl Found<'_> {
    /// Whether the secret that was shown is accepted now.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match self.key.state(now) {
            KeyState::Active => self.secret.state(now),
            ended @ (KeyState::Disabled(_) | KeyState::Expired(_) | KeyState::Replaced(_) | KeyState::Revoked(_)) => {
                ended
            }
        }
    }

    /// The last second in which it will be accepted if nobody changes it; none if it has no end.
    pub fn not_after(&self) -> Option<Timestamp> {
        let key = self.key.expires.map(|end| end.minus(std::time::Duration::from_secs(1)));
        [key, self.secret.not_after].into_iter().flatten().min()
    }
}
