//! What a backend is told of the caller.

use std::sync::Arc;

use countersign_certs::certificate::PeerCertificate;
use countersign_certs::digest::hexadecimal;
use countersign_certs::san::San;
use countersign_certs::verify::VerifiedPeer;
use http::HeaderMap;
use http::HeaderValue;

use crate::request::{X_COUNTERSIGN_ID, X_COUNTERSIGN_ROLES, X_FORWARDED_CLIENT_CERT};

/// How many headers a backend gets from us.
pub(crate) const IDENTITY_HEADERS: usize = 5;

/// The headers that tell who calls, made once for each peer.
#[derive(Debug)]
pub(crate) struct IdentityHeaders {
    certificate: HeaderValue,
    id: HeaderValue,
    roles: HeaderValue,
}

impl IdentityHeaders {
    /// From our own certificate, the verified peer and its roles.
    pub(crate) fn new(own: &PeerCertificate, peer: &VerifiedPeer, names: &[San], roles: &[Arc<str>]) -> Option<Self> {
        Some(Self {
            certificate: HeaderValue::from_str(&forwarded_client_certificate(own, peer.certificate(), names)).ok()?,
            id: HeaderValue::from_str(&peer.principal().to_string()).ok()?,
            roles: HeaderValue::from_str(&roles.join(",")).ok()?,
        })
    }

    /// Puts them into a request, in place of whatever was there.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(X_FORWARDED_CLIENT_CERT, self.certificate.clone());
        headers.insert(X_COUNTERSIGN_ID, self.id.clone());
        headers.insert(X_COUNTERSIGN_ROLES, self.roles.clone());
    }
}

/// One element of `x-forwarded-client-cert` as Envoy writes it (envoyproxy.io, HTTP header manipulation): keys By, Hash,
/// URI and DNS. No name that was verified has a character that would need quoting.
fn forwarded_client_certificate(own: &PeerCertificate, peer: &PeerCertificate, names: &[San]) -> String {
    let by = own.principal().map(uri_or_name).unwrap_or_default();
    let hash = hexadecimal(peer.fingerprint());
    let mut element = format!("By={by};Hash={hash}");
    for san in names {
        match san {
            San::Spiffe(id) => element.push_str(&format!(";URI={id}")),
            San::Dns(name) => element.push_str(&format!(";DNS={}", name.as_str())),
            San::Email(_) | San::Ip(_) => {}
        }
    }
    element
}

fn uri_or_name(san: &San) -> String {
    match san {
        San::Spiffe(id) => id.to_string(),
        San::Dns(name) => name.as_str().to_owned(),
        San::Email(_) | San::Ip(_) => san.to_string(),
    }
}
