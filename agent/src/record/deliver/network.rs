//! What the two kinds over the network share: names, and the settings of TLS. Files are read for each connection, so that those
//! that somebody renews are taken up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::key::PrivateKey;
use countersign_certs::time::Clock;
use countersign_certs::{pem, store, tls};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use super::DeliverError;
use crate::config::address::Endpoint;
use crate::config::audit::SinkTls;

/// How long connecting to one address may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one reading or writing may take.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of one connection, and the name that the other side must have.
pub(super) fn settings(
    files: &SinkTls,
    endpoint: &Endpoint,
    clock: &Clock,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), DeliverError> {
    let authorities = certificates(&files.bundle)?;
    let identity = match &files.identity {
        Some((chain, key)) => Some(PrivateKey::from_pem(&store::read_secret(key)?)?.certified(certificates(chain)?)?),
        None => None,
    };
    let name = tls::known_name(&endpoint.host).ok_or_else(|| DeliverError::Name(endpoint.host.clone()))?;
    Ok((tls::named_server(&authorities, identity, clock)?, name))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DeliverError> {
    pem::certificates(&store::read(path)?).map_err(|source| DeliverError::Pem { path: path.to_owned(), source })
}
