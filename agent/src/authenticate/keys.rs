//! API keys: from the secret shown to whose it is.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use countersign_credentials::api_key::{ApiKey, Found, KeyDigest, KeyRecord, KeyState};

use super::refusal::CredentialRefusal;
use super::shown::Secret;
use super::subject::{Proof, Subject};
use crate::policy::subject::SubjectNames;
use crate::routes::Snapshot;
use crate::worker::Worker;

/// Verifies a key that a request shows.
pub(super) fn verify(secret: &Secret, worker: &Worker, snapshot: &Snapshot) -> Result<Rc<Subject>, CredentialRefusal> {
    let text = std::str::from_utf8(secret.expose()).map_err(|_not_text| CredentialRefusal::NotText)?;
    let digest = KeyDigest::of_shown(text)?;
    match look_up(&digest, worker, snapshot) {
        Ok(found) => Ok(worker.subjects().of_key(&digest, found, snapshot)),
        // The checksum tells a mistyped key from an unknown one.
        Err(CredentialRefusal::KeyUnknown) => {
            Err(ApiKey::parse(text).err().map_or(CredentialRefusal::KeyUnknown, Into::into))
        }
        Err(refusal) => Err(refusal),
    }
}

/// The key with this secret, if it counts now.
pub(super) fn look_up<'index>(
    digest: &KeyDigest,
    worker: &Worker,
    snapshot: &'index Snapshot,
) -> Result<Found<'index>, CredentialRefusal> {
    let found = snapshot.accepted.keys().and_then(|keys| keys.find(digest)).ok_or(CredentialRefusal::KeyUnknown)?;
    counts(found.key, found.state(worker.clock().now()))?;
    Ok(found)
}

/// Whether a key in this state counts.
pub(crate) fn counts(key: &KeyRecord, state: KeyState) -> Result<(), CredentialRefusal> {
    let id = || key.id.to_string();
    match state {
        KeyState::Active => Ok(()),
        KeyState::Disabled(since) => Err(CredentialRefusal::KeyDisabled { id: id(), since }),
        KeyState::Expired(at) => Err(CredentialRefusal::KeyExpired { id: id(), at }),
        KeyState::Replaced(until) => Err(CredentialRefusal::KeyReplaced { id: id(), until }),
        KeyState::Revoked(since) => Err(CredentialRefusal::KeyRevoked { id: id(), since }),
    }
}

/// Whether a key still gives what it gave when a request was let in with it.
pub(super) fn grants_the_same(now: &KeyRecord, then: &KeyRecord) -> bool {
    let granted = |key: &KeyRecord| {
        (key.team.clone(), key.roles.clone(), key.routes.clone(), key.methods.clone(), key.limits.clone())
    };
    granted(now) == granted(then)
}

/// Who shows a key that was found.
pub(super) fn subject(digest: KeyDigest, found: Found<'_>, snapshot: &Snapshot) -> Rc<Subject> {
    let ends = Cell::new(found.not_after());
    let proof = Proof::Key { digest, key: Arc::clone(found.key), ends };
    Subject::new(names(found.key), proof, snapshot)
}

/// What policies know of whoever shows a key.
pub(crate) fn names(key: &KeyRecord) -> SubjectNames {
    SubjectNames::Key {
        id: key.id.as_str().into(),
        team: key.team.as_deref().map(Into::into),
        grants: key.roles.iter().map(|role| role.as_str().into()).collect(),
    }
}
