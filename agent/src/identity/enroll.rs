//! Enrollment: a new host becomes a member of a trust domain by spending a join token.

use std::path::Path;

use countersign_certs::csr;
use countersign_certs::digest::Fingerprint;
use countersign_certs::issuance::EnrollRequest;
use countersign_certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use countersign_certs::pem;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, SpiffeIdError, ca_id};
use countersign_certs::svid::{SvidError, X509Svid};
use countersign_certs::time::Clock;
use countersign_certs::tls::{self, TlsError};
use countersign_certs::token::JoinToken;

use super::ca::{CaError, Call};
use super::state::{Enrollment, StateDir, StateError, SvidFile};

/// Why a host could not enroll.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    #[error("{folder} already holds the enrollment of {host}; remove the folder to join anew")]
    Already { folder: String, host: SpiffeId },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("the trust domain of the token cannot have a CA")]
    Domain(#[from] SpiffeIdError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("what the CA issued cannot be used")]
    Svid(#[from] SvidError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
}

/// Enrolls this host and stores what it was given. The key never leaves the host.
pub(crate) async fn enroll(token: &JoinToken, folder: &Path, clock: &Clock) -> Result<Enrollment, EnrollError> {
    let state = StateDir::new(folder);
    if let Some(known) = state.enrollment()? {
        return Err(EnrollError::Already { folder: folder.display().to_string(), host: known.host_id });
    }
    // Before the token is spent: a folder that cannot be written would lose what it buys.
    state.create()?;
    state.check_room()?;
    let key = PrivateKey::generate(KeyAlgorithm::default())?;
    let request = EnrollRequest { secret: token.secret.to_base64(), csr: csr::create_unnamed(&key)? };
    let tls = tls::enrollment(token.root_fingerprint, ca_id(&token.trust_domain)?, clock)?;
    let enrolled = Call { address: &token.ca_address, tls }.enroll(&request).await?;
    state.free_room()?;
    let chain = pem::certificates(enrolled.chain.as_bytes()).map_err(SvidError::Pem)?;
    X509Svid::new(chain, &key, &San::Spiffe(enrolled.id.clone()))?;
    state.write_svid(&enrolled.id, &SvidFile::new(&key, &enrolled.chain))?;
    state.write_trust(&enrolled.trust)?;
    let enrollment = Enrollment {
        ca_address: token.ca_address.clone(),
        trust_domain: token.trust_domain.clone(),
        host_id: enrolled.id,
        root_fingerprint: Some(Fingerprint(token.root_fingerprint)),
    };
    // Last, because it is what says that everything else is there.
    state.write_enrollment(&enrollment)?;
    Ok(enrollment)
}
