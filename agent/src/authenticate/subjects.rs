//! The users and services that one worker has believed lately, so that a credential that comes again is not verified anew.

use std::rc::Rc;
use std::sync::Arc;

use countersign_credentials::api_key::{Found, KeyDigest};
use tokio::sync::Mutex;

use super::subject::{Proof, Subject};
use super::{keys, passwords};
use crate::remembered::{Remembered, Turns};
use crate::routes::Snapshot;

/// Believed subjects by the SHA-256 of their credential.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    remembered: Remembered<[u8; 32], Rc<Subject>>,
    turns: Turns<[u8; 32]>,
}

impl Subjects {
    /// The subject of an API key that was found in the index of now.
    pub(super) fn of_key(&self, digest: &KeyDigest, found: Found<'_>, snapshot: &Snapshot) -> Rc<Subject> {
        let is_same =
            |subject: &Rc<Subject>| matches!(subject.proof(), Proof::Key { key, .. } if Arc::ptr_eq(key, found.key));
        if let Some(subject) = self.get(digest.as_bytes()).filter(is_same) {
            subject.hold(snapshot);
            return subject;
        }
        let subject = keys::subject(*digest, found, snapshot);
        self.remember(*digest.as_bytes(), &subject);
        subject
    }

    /// The user whose password was right before and is still the same.
    pub(super) fn of_password(&self, remembered_as: &[u8; 32], snapshot: &Snapshot) -> Option<Rc<Subject>> {
        let subject = self.get(remembered_as)?;
        let Proof::Password { name, hash } = subject.proof() else { return None };
        passwords::still_right(name, hash, snapshot).ok()?;
        subject.hold(snapshot);
        Some(subject)
    }

    /// Remembers somebody who was believed.
    pub(super) fn remember(&self, digest: [u8; 32], subject: &Rc<Subject>) {
        self.remembered.insert(digest, Rc::clone(subject));
    }

    /// Forgets somebody who is believed no longer.
    pub(super) fn forget(&self, digest: &[u8; 32]) {
        self.remembered.remove(digest);
    }

    /// Those that have made a request since this was asked last.
    pub(crate) fn take_used(&self) -> Vec<Rc<Subject>> {
        self.remembered.all(|subject| subject.take_used())
    }

    /// The turn of a credential whose verification takes time.
    pub(super) fn turn(&self, digest: [u8; 32]) -> Arc<Mutex<()>> {
        self.turns.of(digest)
    }

    /// Somebody who was believed before. Whether that still counts is for the caller to see.
    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<Rc<Subject>> {
        self.remembered.get(digest)
    }
}
