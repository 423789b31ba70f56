//! Identities in PEM files that somebody else renews: a company's PKI, step-ca, certbot.

use std::path::Path;
use std::sync::Arc;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::pem::{self, PemError};
use countersign_certs::san::San;
use countersign_certs::store::{self, StoreError};
use countersign_certs::svid::{SvidError, X509Svid};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::checked::CertificateFiles;

/// What the files of one `[[certificate]]` hold.
pub(crate) struct FromFiles {
    pub(crate) svid: Arc<X509Svid>,
    /// The bundle of its trust domain; none for an identity without a SPIFFE ID.
    pub(crate) bundle: Option<TrustBundle>,
}

/// Why files hold no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("the bundle {path} cannot be used")]
    Bundle { path: String, source: BundleError },
    #[error("the bundle {path} cannot be read")]
    Pem { path: String, source: PemError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{files} are no identity")]
    Svid { files: String, source: Box<SvidError> },
}

/// Reads chain, key and bundle as one unit: a key that belongs to another chain is an error, not half a change.
pub(crate) fn load(files: &CertificateFiles) -> Result<FromFiles, FilesError> {
    let chain = store::read(&files.chain)?;
    let key = store::read_secret(&files.key)?;
    let svid = X509Svid::from_pem(&chain, &key, &files.identity).map_err(|source| FilesError::Svid {
        files: format!("{} and {}", files.chain.display(), files.key.display()),
        source: Box::new(source),
    })?;
    let bundle = match &files.identity {
        San::Spiffe(id) => {
            let text = store::read(&files.bundle)?;
            let bundle = TrustBundle::from_pem(id.trust_domain().clone(), &text);
            Some(bundle.map_err(|source| FilesError::Bundle { path: files.bundle.display().to_string(), source })?)
        }
        San::Dns(_) | San::Email(_) | San::Ip(_) => None,
    };
    Ok(FromFiles { svid: Arc::new(svid), bundle })
}

/// Reads the authorities of a foreign PKI.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    let text = store::read(path)?;
    pem::certificates(&text).map_err(|source| FilesError::Pem { path: path.display().to_string(), source })
}
