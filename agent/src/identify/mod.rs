//! Who is on the other side, and which roles that gives.

pub(crate) mod headers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use countersign_certs::certificate::PeerCertificate;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, TrustDomain};
use countersign_certs::svid::X509Svid;
use countersign_certs::time::{Timestamp, Validity};
use countersign_certs::verify::VerifiedPeer;

use crate::policy::local::LocalCaller;
use crate::policy::role::{RoleSet, Roles};
use crate::record::line::peer_in_json;
use crate::refusal::Refusal;
use crate::routes::InboundRoute;
use headers::IdentityHeaders;

/// Somebody who may or may not be allowed something. Made from evidence only: a verified certificate, or what the kernel
/// says of a local program.
#[derive(Debug)]
pub(crate) struct Peer {
    principal: Box<str>,
    sans: Box<[San]>,
    evidence: Evidence,
    /// Follows the config: names are looked at again when roles change.
    held: RefCell<Held>,
    headers: RefCell<Option<(u64, Rc<IdentityHeaders>)>>,
}

#[derive(Debug)]
enum Evidence {
    Certificate(Arc<VerifiedPeer>),
    Local(LocalCaller),
}

#[derive(Debug, Clone)]
struct Held {
    roles: Rc<RoleSet>,
    names: Box<[Arc<str>]>,
    in_json: Rc<str>,
}

impl Held {
    fn nothing() -> Self {
        Self { roles: Rc::default(), names: Box::default(), in_json: Rc::from("") }
    }
}

/// The peers that are connected to one worker. All connections of one peer to one route share what is known of it.
#[derive(Debug, Default)]
pub(crate) struct Peers(RefCell<HashMap<PeerOfRoute, Weak<Peer>>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct PeerOfRoute {
    fingerprint: [u8; 32],
    route: Arc<str>,
}

impl Peers {
    /// The peer of a connection whose certificate was verified in the handshake.
    pub(crate) fn identify(&self, verified: &Arc<VerifiedPeer>, route: &InboundRoute, roles: &Roles) -> Rc<Peer> {
        let key = PeerOfRoute { fingerprint: *verified.certificate().fingerprint(), route: Arc::clone(&route.name) };
        let mut known = self.0.borrow_mut();
        // The same leaf may have come with another chain, or been verified under another trust: that is other evidence.
        let same = |peer: &Rc<Peer>| peer.verified().is_some_and(|known| Arc::ptr_eq(known, verified));
        if let Some(peer) = known.get(&key).and_then(Weak::upgrade).filter(same) {
            return peer;
        }
        let own = route.tls.identity.leaf().spiffe_id().map(SpiffeId::trust_domain);
        let peer = Peer::new(Arc::clone(verified), own, roles);
        known.insert(key, Rc::downgrade(&peer));
        peer
    }

    /// Forgets those that are gone.
    pub(crate) fn tidy(&self) {
        self.0.borrow_mut().retain(|_, peer| peer.strong_count() > 0);
    }
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

/// Our own certificate is as good as it must be before we show it.
pub(crate) fn own_certificate(own: &X509Svid, now: Timestamp) -> Result<Validity, Refusal> {
    let usable = own.usable();
    if now > usable.not_after {
        let identity = own.leaf().principal().map(ToString::to_string).unwrap_or_default();
        return Err(Refusal::OwnCertificate { identity, not_after: usable.not_after });
    }
    Ok(usable)
}

/// The program of this host that uses an outbound.
pub(crate) fn local_caller(caller: LocalCaller, roles: &Roles) -> Rc<Peer> {
    let peer = Peer {
        principal: caller.to_string().into(),
        sans: Box::default(),
        evidence: Evidence::Local(caller),
        held: RefCell::new(Held::nothing()),
        headers: RefCell::default(),
    };
    peer.hold(roles);
    Rc::new(peer)
}

impl Peer {
    /// `own` is the trust domain of the identity that we have shown.
    fn new(verified: Arc<VerifiedPeer>, own: Option<&TrustDomain>, roles: &Roles) -> Rc<Self> {
        let sans = names_that_count(&verified, own);
        let peer = Self {
            principal: verified.principal().to_string().into(),
            sans: sans.into(),
            evidence: Evidence::Certificate(verified),
            held: RefCell::new(Held::nothing()),
            headers: RefCell::default(),
        };
        peer.hold(roles);
        Rc::new(peer)
    }

    /// The headers that tell a backend of this peer, made once for each generation of the config.
    pub(crate) fn identity_headers(&self, generation: u64, own: &PeerCertificate) -> Option<Rc<IdentityHeaders>> {
        let known = self.headers.borrow().clone();
        if let Some((_, headers)) = known.filter(|(made_for, _)| *made_for == generation) {
            return Some(headers);
        }
        let headers = Rc::new(IdentityHeaders::new(own, self.verified()?, &self.sans, &self.held.borrow().names)?);
        self.headers.replace(Some((generation, Rc::clone(&headers))));
        Some(headers)
    }

    /// The name under which it is recorded.
    pub(crate) fn principal(&self) -> &str {
        &self.principal
    }

    /// The verified certificate; none for local programs.
    pub(crate) fn verified(&self) -> Option<&Arc<VerifiedPeer>> {
        match &self.evidence {
            Evidence::Certificate(verified) => Some(verified),
            Evidence::Local(_) => None,
        }
    }

    /// What is known of a program of this host; none for whoever has shown a certificate.
    pub(crate) fn local(&self) -> Option<LocalCaller> {
        match &self.evidence {
            Evidence::Certificate(_) => None,
            Evidence::Local(caller) => Some(*caller),
        }
    }

    /// Every name that a role can be given to.
    pub(crate) fn sans(&self) -> &[San] {
        &self.sans
    }

    /// Looks at the roles anew, after they have changed.
    pub(crate) fn hold(&self, roles: &Roles) {
        let held = match &self.evidence {
            Evidence::Certificate(_) => roles.of(&self.sans),
            Evidence::Local(caller) => roles.of_local(*caller),
        };
        let names = roles.names(&held);
        let in_json = self.to_json(&names);
        self.held.replace(Held { roles: Rc::new(held), names: names.into(), in_json });
    }

    fn to_json(&self, roles: &[Arc<str>]) -> Rc<str> {
        let names: Vec<String> = self.sans.iter().map(San::to_string).collect();
        let serial = self.verified().map(|verified| verified.certificate().serial().to_string());
        // Roles of local programs are seldom named; that they hold none is no news.
        let told = (serial.is_some() || !roles.is_empty()).then_some(roles);
        peer_in_json(&self.principal, &names, serial.as_deref(), told).into()
    }

    /// The roles that it holds.
    pub(crate) fn roles(&self) -> Rc<RoleSet> {
        Rc::clone(&self.held.borrow().roles)
    }

    /// What audit lines tell of it.
    pub(crate) fn as_json(&self) -> Rc<str> {
        Rc::clone(&self.held.borrow().in_json)
    }
}
