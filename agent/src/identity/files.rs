//! Identities in PEM files that somebody else renews: a company's PKI, step-ca, certbot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::pem::{self, PemError};
use countersign_certs::san::San;
use countersign_certs::store::{self, StoreError};
use countersign_certs::svid::{SvidError, X509Svid};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::checked::{self, CertificateFiles};

/// What all the files of a config hold. Read once, when the config is; a later change of the CA's news or of an enrolled
/// identity cannot fail because of one of them.
#[derive(Clone, Default)]
pub(crate) struct FromFiles {
    /// Identities of `[[certificate]]`.
    pub(crate) svids: BTreeMap<San, Arc<X509Svid>>,
    /// The bundles beside those that are SVIDs.
    pub(crate) bundles: Vec<TrustBundle>,
    /// The authorities of foreign PKIs, by file.
    pub(crate) authorities: BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
}

impl FromFiles {
    /// Whether there is nothing new in the other ones.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let leaves = |read: &Self| -> Vec<_> { read.svids.values().map(|svid| svid.leaf().clone()).collect() };
        leaves(self) == leaves(other) && (&self.bundles, &self.authorities) == (&other.bundles, &other.authorities)
    }
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

/// Reads every file that a config names.
pub(crate) fn load(config: &checked::Agent) -> Result<FromFiles, FilesError> {
    let mut read = FromFiles::default();
    for files in &config.certificates {
        let (svid, bundle) = load_one(files)?;
        read.svids.insert(files.identity.clone(), svid);
        read.bundles.extend(bundle);
    }
    for path in config.foreign_bundles() {
        read.authorities.insert(path.clone(), authorities(path)?);
    }
    Ok(read)
}

/// Reads chain, key and bundle as one unit: a key that belongs to another chain is an error, not half a change.
fn load_one(files: &CertificateFiles) -> Result<(Arc<X509Svid>, Option<TrustBundle>), FilesError> {
    let chain = store::read(&files.chain)?;
    let key = store::read_secret(&files.key)?;
    let svid = X509Svid::from_pem(&chain, &key, &files.identity).map_err(|source| FilesError::Svid {
        files: format!("{} and {}", files.chain.display(), files.key.display()),
        source: Box::new(source),
    })?;
    let San::Spiffe(id) = &files.identity else { return Ok((Arc::new(svid), None)) };
    let text = store::read(&files.bundle)?;
    let bundle = TrustBundle::from_pem(id.trust_domain().clone(), &text)
        .map_err(|source| FilesError::Bundle { path: files.bundle.display().to_string(), source })?;
    Ok((Arc::new(svid), Some(bundle)))
}

/// Reads the authorities of a foreign PKI.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    let text = store::read(path)?;
    pem::certificates(&text).map_err(|source| FilesError::Pem { path: path.display().to_string(), source })
}
