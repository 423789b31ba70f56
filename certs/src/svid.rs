//! An identity of our own: a certificate chain joined to its private key, checked before anybody sees it.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::certificate::{CertificateError, PeerCertificate, check_authority};
use crate::key::{KeyError, PrivateKey};
use crate::pem::{self, PemError};
use crate::san::San;
use crate::time::Validity;

/// Most certificates in a chain, the leaf included.
pub const CHAIN_LENGTH_MAX: usize = 5;

/// A certificate chain and its key, ready to be shown in a handshake. Usually an X509-SVID; with a name of another kind
/// it is a certificate of somebody else's PKI.
pub struct X509Svid {
    leaf: PeerCertificate,
    usable: Validity,
    certified: Arc<CertifiedKey>,
}

/// Why a chain and a key are no identity that we can show.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// A certificate of the chain cannot be used.
    #[error("certificate {position} of the chain cannot be used")]
    Certificate {
        /// 0 is the leaf.
        position: usize,
        /// The broken rule.
        source: CertificateError,
    },
    /// More than [`CHAIN_LENGTH_MAX`].
    #[error("the chain has {count} certificates, the limit is {CHAIN_LENGTH_MAX}")]
    ChainLength {
        /// Certificates found.
        count: usize,
    },
    /// The private key cannot be used or belongs to another certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The leaf has not the name that was asked for.
    #[error("the certificate does not name {expected}, it names {found}")]
    Name {
        /// The identity that was asked for.
        expected: San,
        /// The certificate's names, joined by commas.
        found: String,
    },
    /// The chain is not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
}

impl X509Svid {
    /// Joins a chain (leaf first) to the key that was made for it, and checks that it is for `expected`.
    ///
    /// # Errors
    /// A certificate breaks a rule, the key belongs to another one, or the name is not the expected one.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey, expected: &San) -> Result<Self, SvidError> {
        let (leaf, usable) = read(&chain, expected)?;
        Ok(Self { leaf, usable, certified: key.certified(chain)? })
    }

    /// The same from PEM files that somebody else keeps: key in PKCS#8, SEC 1 or PKCS#1.
    ///
    /// # Errors
    /// As [`X509Svid::new`].
    pub fn from_pem(chain: &[u8], key: &[u8], expected: &San) -> Result<Self, SvidError> {
        let chain = pem::certificates(chain)?;
        let (leaf, usable) = read(&chain, expected)?;
        Ok(Self { leaf, usable, certified: PrivateKey::from_pem(key)?.certified(chain)? })
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &PeerCertificate {
        &self.leaf
    }

    /// When every certificate of the chain can be used.
    pub fn usable(&self) -> Validity {
        self.usable
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain and its key as the TLS library takes them.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

fn read(chain: &[CertificateDer<'_>], expected: &San) -> Result<(PeerCertificate, Validity), SvidError> {
    if chain.len() > CHAIN_LENGTH_MAX {
        return Err(SvidError::ChainLength { count: chain.len() });
    }
    let Some((first, rest)) = chain.split_first() else { return Err(SvidError::Pem(PemError::Empty)) };
    let leaf = PeerCertificate::parse(first).map_err(|source| SvidError::Certificate { position: 0, source })?;
    if !leaf.sans().contains(expected) {
        let found = leaf.sans().iter().map(San::to_string).collect::<Vec<_>>().join(", ");
        return Err(SvidError::Name { expected: expected.clone(), found });
    }
    let mut usable = leaf.validity();
    for (index, certificate) in rest.iter().enumerate() {
        let its_validity =
            check_authority(certificate).map_err(|source| SvidError::Certificate { position: index + 1, source })?;
        usable = usable.intersection(&its_validity);
    }
    Ok((leaf, usable))
}
