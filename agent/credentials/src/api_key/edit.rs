//! What an operator does to keys: create, rotate, disable, enable, revoke. Nothing here reads or writes a file.

use std::time::Duration;

use countersign_certs::time::Timestamp;

use super::KeyDigest;
use super::file::{KEYS_MAX, KeyFile};
use super::record::{KeyId, KeyRecord, KeySecret, RecordError};

/// The longest that two secrets of one key live side by side: who has not taken up the new one in 90 days never will.
pub const OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What an operator says about a key to be made. The fields are those of [`KeyRecord`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Who is to be asked about it.
    pub owner: String,
    /// The owner's team.
    pub team: Option<String>,
    /// The roles that it gives.
    pub roles: Vec<String>,
    /// The routes on which it is accepted.
    pub routes: Option<Vec<String>>,
    /// The methods with which it is accepted.
    pub methods: Option<Vec<String>>,
    /// The names of the limits that hold for it.
    pub limits: Option<Vec<String>>,
    /// From when on it is not accepted any more.
    pub expires: Option<Timestamp>,
    /// A remark.
    pub note: String,
}

/// What a rotation has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// The last second in which the secret before is accepted; none if it ended at once.
    pub before_ends: Option<Timestamp>,
}

/// Why keys stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Nothing to enable.
    #[error("the API key {0} is not disabled")]
    AlreadyEnabled(KeyId),
    /// Nothing to disable.
    #[error("the API key {id} is disabled since {since}")]
    Disabled {
        /// Which.
        id: KeyId,
        /// Since when.
        since: Timestamp,
    },
    /// A key that would be over before it began.
    #[error("the API key would expire at {expires}, and it is {now}")]
    ExpiresInPast {
        /// When it would expire.
        expires: Timestamp,
        /// What time it is.
        now: Timestamp,
    },
    /// No more room.
    #[error("there are {KEYS_MAX} API keys, the most that one file holds")]
    Full,
    /// The name or the secret of another key.
    #[error("the name or the secret of the new API key is one that is there already")]
    Known,
    /// Too long.
    #[error("two secrets side by side for {} days; the most is {} days", asked.as_secs().div_ceil(86_400), OVERLAP_MAX.as_secs() / 86_400)]
    Overlap {
        /// How long was asked for.
        asked: Duration,
    },
    /// A record that cannot be.
    #[error("such an API key cannot be")]
    Record(#[from] RecordError),
    /// Ended for ever.
    #[error("the API key {id} is revoked since {since}, and that is for ever; make a new one")]
    Revoked {
        /// Which.
        id: KeyId,
        /// Since when.
        since: Timestamp,
    },
    /// The rotation before this one has not ended.
    #[error(
        "the API key {id} is being rotated: the secret before the present one ends at {until}; rotate it after that"
    )]
    Rotating {
        /// Which.
        id: KeyId,
        /// When the older secret ends.
        until: Timestamp,
    },
    /// No such key.
    #[error("there is no API key {0}")]
    Unknown(KeyId),
}

impl KeyFile {
    /// Adds a key and returns it. `secret` is the digest of an [`super::ApiKey`] just generated, which the owner is shown.
    ///
    /// # Errors
    /// Something about it cannot be, it is there already, or there is no room.
    pub fn create(
        &mut self,
        id: KeyId,
        new: NewKey,
        secret: KeyDigest,
        now: Timestamp,
    ) -> Result<KeyRecord, EditError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(EditError::Full);
        }
        if self.key(&id).is_some() || self.knows(&secret) {
            return Err(EditError::Known);
        }
        if let Some(expires) = new.expires.filter(|expires| *expires <= now) {
            return Err(EditError::ExpiresInPast { expires, now });
        }
        let record = KeyRecord {
            id,
            owner: new.owner,
            team: new.team,
            roles: new.roles,
            routes: new.routes,
            methods: new.methods,
            limits: new.limits,
            created: now,
            expires: new.expires,
            disabled: None,
            revoked: None,
            secrets: vec![KeySecret { digest: secret, created: now, not_after: None }],
            note: new.note,
        };
        record.check()?;
        self.keys.push(record.clone());
        Ok(record)
    }

    /// Gives a key a new secret. The one before is accepted for `overlap` more, so that its holders can take up the new one.
    ///
    /// # Errors
    /// No such key, it is revoked, the rotation before has not ended, or the overlap is longer than [`OVERLAP_MAX`].
    pub fn rotate(
        &mut self,
        id: &KeyId,
        secret: KeyDigest,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<Rotated, EditError> {
        if overlap > OVERLAP_MAX {
            return Err(EditError::Overlap { asked: overlap });
        }
        if self.knows(&secret) {
            return Err(EditError::Known);
        }
        let key = self.unrevoked(id)?;
        // The older of two is the one with an end.
        if let Some(until) = key.secrets.iter().filter_map(|older| older.not_after).find(|until| *until >= now) {
            return Err(EditError::Rotating { id: id.clone(), until });
        }
        let before_ends = (!overlap.is_zero()).then(|| now.plus(overlap));
        key.secrets.retain(|older| older.not_after.is_none() && before_ends.is_some());
        for before in &mut key.secrets {
            before.not_after = before_ends;
        }
        key.secrets.push(KeySecret { digest: secret, created: now, not_after: None });
        Ok(Rotated { before_ends })
    }

    /// Switches a key off.
    ///
    /// # Errors
    /// No such key, or it is off already or revoked.
    pub fn disable(&mut self, id: &KeyId, now: Timestamp) -> Result<(), EditError> {
        let key = self.unrevoked(id)?;
        match key.disabled {
            Some(since) => Err(EditError::Disabled { id: id.clone(), since }),
            None => {
                key.disabled = Some(now);
                Ok(())
            }
        }
    }

    /// Switches a key on again. Returns since when it was off.
    ///
    /// # Errors
    /// No such key, or it is not off, or revoked.
    pub fn enable(&mut self, id: &KeyId) -> Result<Timestamp, EditError> {
        let key = self.unrevoked(id)?;
        key.disabled.take().ok_or_else(|| EditError::AlreadyEnabled(id.clone()))
    }

    /// Ends a key for ever. It stays in the file, so that whoever shows it is told so, and its name is never given again.
    ///
    /// # Errors
    /// No such key, or it is revoked already.
    pub fn revoke(&mut self, id: &KeyId, now: Timestamp) -> Result<(), EditError> {
        self.unrevoked(id)?.revoked = Some(now);
        Ok(())
    }

    fn unrevoked(&mut self, id: &KeyId) -> Result<&mut KeyRecord, EditError> {
        let key = self.keys.iter_mut().find(|key| key.id == *id).ok_or_else(|| EditError::Unknown(id.clone()))?;
        match key.revoked {
            Some(since) => Err(EditError::Revoked { id: id.clone(), since }),
            None => Ok(key),
        }
    }

    fn knows(&self, secret: &KeyDigest) -> bool {
        self.keys.iter().flat_map(|key| &key.secrets).any(|known| known.digest == *secret)
    }
}
