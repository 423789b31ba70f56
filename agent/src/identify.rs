//! Who is on the other side, and which roles that gives.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::san::San;
use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::verify::VerifiedPeer;

use serde_json::value::{RawValue, to_raw_value};

use crate::listener::LocalUser;
use crate::policy::role::{RoleSet, Roles};

/// Somebody who may or may not be allowed something. Made from evidence only: a verified certificate, or what the kernel
/// says of a local program.
#[derive(Debug)]
pub(crate) struct Peer {
    principal: Box<str>,
    serial: Option<Box<str>>,
    sans: Box<[San]>,
    /// Every name as audit lines have it, if there is more than one: written once, not for each line.
    names_in_json: Option<Box<RawValue>>,
    evidence: Evidence,
    /// Follows the config: names are looked at again when roles change.
    held: RefCell<Held>,
}

#[derive(Debug)]
enum Evidence {
    Certificate(Arc<VerifiedPeer>),
    Local,
}

#[derive(Debug, Default, Clone)]
struct Held {
    roles: Rc<RoleSet>,
    names: Rc<[Arc<str>]>,
    names_in_json: Option<Rc<RawValue>>,
}

/// The peer of a connection whose certificate was verified in the handshake. `own` is the trust domain of the identity that
/// we have shown.
pub(crate) fn peer(verified: Arc<VerifiedPeer>, own: Option<&TrustDomain>, roles: &Roles) -> Rc<Peer> {
    let sans = names_that_count(&verified, own);
    let all: Vec<String> = sans.iter().map(San::to_string).collect();
    let peer = Peer {
        names_in_json: (all.len() > 1).then(|| to_raw_value(&all).ok()).flatten(),
        principal: verified.principal().to_string().into(),
        serial: Some(verified.certificate().serial().to_string().into()),
        sans: sans.into(),
        evidence: Evidence::Certificate(verified),
        held: RefCell::default(),
    };
    peer.hold(roles);
    Rc::new(peer)
}

/// The names by which a peer can hold a role. The DNS, e-mail and IP names of an SVID are its own CA's word, and another
/// trust domain's CA could put our names into its SVIDs; so they count only from our own domain, or from a foreign PKI that
/// the operator has named for this very purpose.
fn names_that_count(verified: &VerifiedPeer, own: Option<&TrustDomain>) -> Vec<San> {
    let certificate = verified.certificate();
    let believed = certificate.spiffe_id().is_none_or(|id| own == Some(id.trust_domain()));
    let counts = |san: &&San| believed || matches!(san, San::Spiffe(_));
    certificate.sans().iter().filter(counts).cloned().collect()
}

/// The program of this host that uses an outbound, so far as the kernel tells.
pub(crate) fn local_caller(user: Option<LocalUser>) -> Rc<Peer> {
    let principal = match user {
        Some(user) => format!("local:uid={},gid={}", user.uid, user.gid),
        None => "local:loopback".to_owned(),
    };
    Rc::new(Peer {
        principal: principal.into(),
        serial: None,
        sans: Box::default(),
        names_in_json: None,
        evidence: Evidence::Local,
        held: RefCell::default(),
    })
}

impl Peer {
    /// The name under which it is recorded.
    pub(crate) fn principal(&self) -> &str {
        &self.principal
    }

    /// The serial number of its certificate.
    pub(crate) fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// The verified certificate; none for local programs.
    pub(crate) fn verified(&self) -> Option<&Arc<VerifiedPeer>> {
        match &self.evidence {
            Evidence::Certificate(verified) => Some(verified),
            Evidence::Local => None,
        }
    }

    /// Every name that a role can be given to.
    pub(crate) fn sans(&self) -> &[San] {
        &self.sans
    }

    /// Looks at the roles anew, after they have changed.
    pub(crate) fn hold(&self, roles: &Roles) {
        let held = roles.of(self.sans());
        let names = roles.names(&held);
        let names_in_json = to_raw_value(&names.iter().map(|name| &**name).collect::<Vec<_>>()).ok().map(Rc::from);
        self.held.replace(Held { roles: Rc::new(held), names: names.into(), names_in_json });
    }

    /// The roles that it holds.
    pub(crate) fn roles(&self) -> Rc<RoleSet> {
        Rc::clone(&self.held.borrow().roles)
    }

    /// Every name, as audit lines have it; none if the principal is the only one.
    pub(crate) fn names_in_json(&self) -> Option<&RawValue> {
        self.names_in_json.as_deref()
    }

    /// The names of its roles, as audit lines have them; none for a local program, which holds no roles.
    pub(crate) fn roles_in_json(&self) -> Option<Rc<RawValue>> {
        self.held.borrow().names_in_json.clone()
    }

    /// Their names.
    pub(crate) fn role_names(&self) -> Rc<[Arc<str>]> {
        Rc::clone(&self.held.borrow().names)
    }
}
