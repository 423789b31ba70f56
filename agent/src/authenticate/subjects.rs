//! The users and services that one worker has believed lately, so that a credential that comes again is not verified anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use countersign_credentials::api_key::{Found, KeyDigest};

use super::keys;
use super::subject::{Proof, Subject};
use crate::routes::Snapshot;

/// How many are remembered before those that were not seen for longest are forgotten.
const REMEMBERED: usize = 8192;

/// Believed subjects by the SHA-256 of their credential.
#[derive(Debug, Default)]
pub(crate) struct Subjects(RefCell<Remembered>);

/// Two halves: what is seen moves to the young one, and when that is full, the old one is forgotten as a whole.
#[derive(Debug, Default)]
struct Remembered {
    young: HashMap<[u8; 32], Rc<Subject>>,
    old: HashMap<[u8; 32], Rc<Subject>>,
}

impl Subjects {
    /// The subject of an API key that was found in the index of now.
    pub(super) fn of_key(&self, digest: &KeyDigest, found: Found<'_>, snapshot: &Snapshot) -> Rc<Subject> {
        let is_same = |subject: &Rc<Subject>| match subject.proof() {
            Proof::Key { key, .. } => Arc::ptr_eq(key, found.key),
        };
        if let Some(subject) = self.get(digest.as_bytes()).filter(is_same) {
            subject.hold(snapshot);
            return subject;
        }
        let subject = keys::subject(*digest, found, snapshot);
        self.insert(*digest.as_bytes(), Rc::clone(&subject));
        subject
    }

    /// Those that have made a request since this was asked last.
    pub(crate) fn take_used(&self) -> Vec<Rc<Subject>> {
        let remembered = self.0.borrow();
        let all = remembered.young.values().chain(remembered.old.values());
        all.filter(|subject| subject.take_used()).cloned().collect()
    }

    fn get(&self, digest: &[u8; 32]) -> Option<Rc<Subject>> {
        let mut remembered = self.0.borrow_mut();
        if let Some(subject) = remembered.young.get(digest) {
            return Some(Rc::clone(subject));
        }
        let subject = remembered.old.remove(digest)?;
        remembered.insert(*digest, Rc::clone(&subject));
        Some(subject)
    }

    fn insert(&self, digest: [u8; 32], subject: Rc<Subject>) {
        self.0.borrow_mut().insert(digest, subject);
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
