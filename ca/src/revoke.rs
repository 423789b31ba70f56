//! Ending trust before its time: of an identity until it is lifted, or of one certificate for ever.

use crate::certs::revocation::SerialNumber;
use crate::certs::spiffe_id::{SpiffeId, TrustDomain, ca_id};
use crate::record::{Event, Journal, Unrecorded};
use crate::registry::{RegistryError, check_domain};
use crate::store::Change;

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    /// The CA would make itself unreachable for everybody who must learn of it.
    #[error("{0} is this CA itself; agents would no longer hear from it, and nothing could be lifted")]
    OwnIdentity(SpiffeId),
    /// The store does not allow it.
    #[error(transparent)]
    Record(#[from] Unrecorded),
    /// Not an identity of ours.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Revokes an identity; for a host's, also every certificate that the host was given.
pub(crate) async fn identity(journal: &Journal, trust_domain: &TrustDomain, id: SpiffeId) -> Result<(), RevokeError> {
    check_domain(trust_domain, &id)?;
    if ca_id(trust_domain).is_ok_and(|own| own == id) {
        return Err(RevokeError::OwnIdentity(id));
    }
    let event = Event::IdentityRevoked { id: id.to_string() };
    Ok(journal.write(Change::RevokeId { id }, event).await?)
}

/// Lets an identity be used again.
pub(crate) async fn lift(journal: &Journal, id: SpiffeId) -> Result<(), RevokeError> {
    let event = Event::IdentityLifted { id: id.to_string() };
    Ok(journal.write(Change::Lift { id }, event).await?)
}

/// Revokes one certificate.
pub(crate) async fn serial(journal: &Journal, serial: SerialNumber) -> Result<(), RevokeError> {
    let event = Event::SerialRevoked { serial: serial.to_string() };
    Ok(journal.write(Change::RevokeSerial { serial }, event).await?)
}
