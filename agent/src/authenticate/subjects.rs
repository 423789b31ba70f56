//! The users and services that one worker has believed lately, so that a credential that comes again is not verified anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use countersign_credentials::api_key::{Found, KeyDigest};
use tokio::sync::Mutex;

use super::subject::{Proof, Subject};
use super::{keys, passwords};
use crate::routes::Snapshot;

/// How many are remembered before those that were not seen for longest are forgotten.
const REMEMBERED: usize = 8192;

/// Believed subjects by the SHA-256 of their credential.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    remembered: RefCell<Remembered>,
    /// Credentials that are being verified, so that each is once at a time.
    turns: RefCell<HashMap<[u8; 32], Weak<Mutex<()>>>>,
}

/// Nobody can choose the digest of a credential that is believed, so that a fast hash of it will do.
type ByDigest = HashMap<[u8; 32], Rc<Subject>, foldhash::fast::RandomState>;

/// Two halves: what is seen moves to the young one, and when that is full, the old one is forgotten as a whole.
#[derive(Debug, Default)]
struct Remembered {
    young: ByDigest,
    old: ByDigest,
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
        self.insert(*digest.as_bytes(), Rc::clone(&subject));
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
        self.insert(digest, Rc::clone(subject));
    }

    /// Those that have made a request since this was asked last.
    pub(crate) fn take_used(&self) -> Vec<Rc<Subject>> {
        let remembered = self.remembered.borrow();
        let all = remembered.young.values().chain(remembered.old.values());
        all.filter(|subject| subject.take_used()).cloned().collect()
    }

    /// The turn of a credential whose verification takes time. Whoever has it looks again whether it was remembered meanwhile.
    pub(super) fn turn(&self, digest: [u8; 32]) -> Rc<Mutex<()>> {
        let mut turns = self.turns.borrow_mut();
        if let Some(turn) = turns.get(&digest).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Rc::default();
        turns.insert(digest, Rc::downgrade(&turn));
        turn
    }

    /// Somebody who was believed before. Whether that still counts is for the caller to see.
    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<Rc<Subject>> {
        let mut remembered = self.remembered.borrow_mut();
        if let Some(subject) = remembered.young.get(digest) {
            return Some(Rc::clone(subject));
        }
        let subject = remembered.old.remove(digest)?;
        remembered.insert(*digest, Rc::clone(&subject));
        Some(subject)
    }

    fn insert(&self, digest: [u8; 32], subject: Rc<Subject>) {
        self.remembered.borrow_mut().insert(digest, subject);
    }
}

impl Remembered {
    fn insert(&mut self, digest: [u8; 32], subject: Rc<Subject>) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, subject);
    }
}
