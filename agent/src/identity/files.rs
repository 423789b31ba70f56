//! Identities in PEM files that somebody else renews: a company's PKI, step-ca, certbot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::san::San;
use countersign_certs::store::{self, StoreError};
use countersign_certs::svid::{SvidError, X509Svid};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::checked::{self, CertificateFiles};
use crate::config::read_authorities;
use crate::in_words::in_one_line;

/// What all the files of a config hold. Read once, when the config is; a later change of the CA's news or of an enrolled
/// identity cannot fail because of one of them.
#[derive(Clone, Default)]
pub(crate) struct FromFiles {
    /// Identities of `[[certificate]]`.
    pub(crate) svids: BTreeMap<San, Arc<X509Svid>>,
    /// The bundles beside those that are SVIDs, by the identity.
    pub(crate) bundles: BTreeMap<San, TrustBundle>,
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
    #[error("{0}")]
    Authorities(String),
    #[error("the bundle {path} cannot be used")]
    Bundle { path: String, source: BundleError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{files} are no identity")]
    Svid { files: String, source: Box<SvidError> },
}

/// Reads every file that a config names.
pub(crate) fn load(config: &checked::Agent) -> Result<FromFiles, FilesError> {
    let mut read = FromFiles::default();
    for files in &config.certificates {
        read.svids.insert(files.identity.clone(), Arc::new(svid(files)?));
        read.bundles.extend(bundle(files)?.map(|bundle| (files.identity.clone(), bundle)));
    }
    for path in config.foreign_bundles() {
        read.authorities.insert(path.clone(), read_authorities(path).map_err(FilesError::Authorities)?);
    }
    Ok(read)
}

/// Reads the files of a config that stays in use. One that cannot be used stays as it was; why is added to `unusable`.
pub(crate) fn load_again(config: &checked::Agent, before: &FromFiles, unusable: &mut Vec<String>) -> FromFiles {
    let mut read = before.clone();
    for files in &config.certificates {
        match svid(files) {
            Ok(svid) => drop(read.svids.insert(files.identity.clone(), Arc::new(svid))),
            Err(error) => unusable.push(in_one_line(&error)),
        }
        match bundle(files) {
            Ok(bundle) => read.bundles.extend(bundle.map(|bundle| (files.identity.clone(), bundle))),
            Err(error) => unusable.push(in_one_line(&error)),
        }
    }
    for path in config.foreign_bundles() {
        match read_authorities(path) {
            Ok(authorities) => drop(read.authorities.insert(path.clone(), authorities)),
            Err(error) => unusable.push(error),
        }
    }
    read
}

/// Reads chain and key as one unit: a key that belongs to another chain is an error, not half a change.
fn svid(files: &CertificateFiles) -> Result<X509Svid, FilesError> {
    let chain = store::read(&files.chain)?;
    let key = store::read_secret(&files.key)?;
    X509Svid::from_pem(&chain, &key, &files.identity).map_err(|source| FilesError::Svid {
        files: format!("{} and {}", files.chain.display(), files.key.display()),
        source: Box::new(source),
    })
}

/// Reads the bundle that comes with an SVID.
fn bundle(files: &CertificateFiles) -> Result<Option<TrustBundle>, FilesError> {
    let San::Spiffe(id) = &files.identity else { return Ok(None) };
    let text = store::read(&files.bundle)?;
    let bundle = TrustBundle::from_pem(id.trust_domain().clone(), &text)
        .map_err(|source| FilesError::Bundle { path: files.bundle.display().to_string(), source })?;
    Ok(Some(bundle))
}
