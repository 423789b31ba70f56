//! Evidence of a member: the certificate that it proved in the handshake, looked at again now.

use super::NotAuthenticated;
use crate::certs::spiffe_id::{SpiffeId, host_of};
use crate::certs::time::Timestamp;
use crate::certs::verify::{Side, Trust, VerifiedPeer};

/// The host's name and ID. The handshake may be hours old, so expiry and revocation are checked anew.
pub(super) fn check(
    peer: &VerifiedPeer,
    trust: &Trust,
    now: Timestamp,
) -> Result<(String, SpiffeId), NotAuthenticated> {
    trust.verify_again(peer, Side::Client, now)?;
    let id = peer.certificate().spiffe_id();
    id.and_then(|id| Some((host_of(id)?.to_owned(), id.clone())))
        .ok_or_else(|| NotAuthenticated::NotAHost { found: peer.principal().clone() })
}
