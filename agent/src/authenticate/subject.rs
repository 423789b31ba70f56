//! A user or a service that has shown a credential of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::time::Timestamp;
use countersign_credentials::api_key::{KeyDigest, KeyId, KeyRecord};
use countersign_credentials::password::PasswordHash;
use http::{HeaderMap, HeaderValue};

use super::tokens::TokenProof;
use crate::policy::credential::CredentialKind;
use crate::policy::role::RoleSet;
use crate::policy::subject::SubjectNames;
use crate::record::line::subject_in_json;
use crate::request::{X_COUNTERSIGN_ID, X_COUNTERSIGN_ROLES, X_COUNTERSIGN_SUBJECT};
use crate::routes::Snapshot;

/// Made from a verified credential only.
#[derive(Debug)]
pub(crate) struct Subject {
    names: SubjectNames,
    principal: Box<str>,
    proof: Proof,
    /// Follows the config: roles are looked at again when they change.
    held: RefCell<Held>,
    /// Since the worker has last looked.
    used: Cell<bool>,
    /// Nobody was told of it yet.
    fresh: Cell<bool>,
}

/// The credential that was verified.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Its end follows the file of keys: a secret that is replaced gets one.
    Key {
        digest: KeyDigest,
        key: Arc<KeyRecord>,
        ends: Cell<Option<Timestamp>>,
    },
    Password {
        name: Box<str>,
        hash: Arc<PasswordHash>,
    },
    Token(Box<TokenProof>),
}

#[derive(Debug)]
struct Held {
    generation: u64,
    roles: Rc<RoleSet>,
    in_json: Rc<str>,
    /// What a backend is told; none if a name could not stand in a header.
    headers: Option<(HeaderValue, HeaderValue)>,
}

impl Subject {
    /// Of a credential that was verified by what this snapshot says.
    pub(crate) fn new(names: SubjectNames, proof: Proof, snapshot: &Snapshot) -> Rc<Self> {
        let principal: Box<str> = names.principal().into();
        let held = RefCell::new(held(&names, &principal, snapshot));
        Rc::new(Self { names, principal, proof, held, used: Cell::new(false), fresh: Cell::new(true) })
    }

    /// The name under which it is recorded.
    pub(crate) fn principal(&self) -> &str {
        &self.principal
    }

    /// Whether it is a person or a program, as in audit lines.
    pub(crate) fn kind(&self) -> &'static str {
        if self.names.is_service() { "service" } else { "user" }
    }

    /// What its credential says of it.
    pub(crate) fn names(&self) -> &SubjectNames {
        &self.names
    }

    /// The credential that was verified.
    pub(crate) fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Looks at the roles anew if they have changed since.
    pub(crate) fn hold(&self, snapshot: &Snapshot) {
        // Never back: a request that began under an older config may still come by.
        if self.held.borrow().generation < snapshot.generation {
            self.held.replace(held(&self.names, &self.principal, snapshot));
        }
    }

    /// Notes that it makes a request.
    pub(crate) fn note_use(&self) {
        self.used.set(true);
    }

    /// Whether this is the first time that it is asked.
    pub(crate) fn take_fresh(&self) -> bool {
        self.fresh.replace(false)
    }

    /// Whether it has made a request since this was asked last.
    pub(crate) fn take_used(&self) -> bool {
        self.used.replace(false)
    }

    /// The roles that it holds.
    pub(crate) fn roles(&self) -> Rc<RoleSet> {
        Rc::clone(&self.held.borrow().roles)
    }

    /// What audit lines tell of it.
    pub(crate) fn as_json(&self) -> Rc<str> {
        Rc::clone(&self.held.borrow().in_json)
    }

    /// Tells a backend of it, beside the workload that acts for it if there is one. False if that cannot be told.
    #[must_use]
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) -> bool {
        let held = self.held.borrow();
        let Some((name, roles)) = &held.headers else { return false };
        if !headers.contains_key(X_COUNTERSIGN_ID) {
            headers.insert(X_COUNTERSIGN_ID, name.clone());
        }
        headers.insert(X_COUNTERSIGN_SUBJECT, name.clone());
        headers.insert(X_COUNTERSIGN_ROLES, roles.clone());
        true
    }
}

impl Proof {
    /// What kind of credential it was.
    pub(crate) fn kind(&self) -> CredentialKind {
        match self {
            Self::Key { .. } => CredentialKind::ApiKey,
            Self::Password { .. } => CredentialKind::Basic,
            Self::Token(token) if token.is_opaque() => CredentialKind::OpaqueToken,
            Self::Token(_) => CredentialKind::Jwt,
        }
    }

    /// The API key that it was.
    pub(crate) fn key_id(&self) -> Option<&KeyId> {
        match self {
            Self::Key { key, .. } => Some(&key.id),
            Self::Password { .. } | Self::Token(_) => None,
        }
    }

    /// The last second in which it counts; none if it has no end of its own.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Key { ends, .. } => ends.get(),
            Self::Password { .. } => None,
            Self::Token(token) => Some(token.ends),
        }
    }
}

fn held(names: &SubjectNames, principal: &str, snapshot: &Snapshot) -> Held {
    let (generation, roles) = (snapshot.generation, &snapshot.roles);
    let set = roles.of_subject(names);
    let role_names = roles.names(&set);
    // A name that a service would read without the spaces around it could be another's.
    let header = |text: &str| {
        Some(text).filter(|text| text.trim() == *text).and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok())
    };
    Held {
        generation,
        in_json: subject_in_json(principal, &names.facts(), &role_names).into(),
        headers: header(principal).zip(header(&role_names.join(","))),
        roles: Rc::new(set),
    }
}
