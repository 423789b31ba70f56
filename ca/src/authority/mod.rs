//! The signing authority: the root that everybody trusts and the intermediate that signs.
//!
//! [`Authority`] is what may be known of it; the key is in a [`Signer`], and only this module and
//! [`crate::sign`] ever see it. There is one root for the life of the store; its intermediate is renewed each year. Rotation
//! (prepare, activate, taint, revoke) of the root adds authorities beside it; that is why the rest asks for
//! [`Authority::bundle`] and not for "the root".

mod follow;
mod make;
mod protect;
mod renew;

use std::time::Duration;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::certs::bundle::{BundleError, TrustBundle};
use crate::certs::certificate::{CertificateError, check_authority};
use crate::certs::digest::sha256;
use crate::certs::key::{KeyError, PrivateKey};
use crate::certs::pem::{self, PemError};
use crate::certs::spiffe_id::TrustDomain;
use crate::certs::store::{self, StoreError};
use crate::certs::time::{Timestamp, Validity};
use crate::config::{Files, Passphrase};
use crate::sign::Signer;

pub(crate) use follow::follow;
pub(crate) use make::{Made, make};
pub(crate) use protect::{ProtectError, is_encrypted, protect, unprotect};
pub(crate) use renew::{RenewError, needs_passphrase, renew};

/// How often readers of the bundle document should look again.
const BUNDLE_REFRESH: Duration = Duration::from_secs(300);

/// How long before its end the operator is told that the intermediate must be renewed: time enough to fetch the root's key
/// from where it lies.
const WARN_BEFORE_END: Duration = Duration::from_secs(60 * 86_400);

/// What may be known of the authority: its certificates.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    root_validity: Validity,
    validity: Validity,
}

/// An authority that can sign: its certificates and the key of its intermediate.
pub(crate) struct Signing {
    /// What may be known.
    pub(crate) authority: Authority,
    /// The key.
    pub(crate) signer: Signer,
}

/// Why there is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A certificate is no CA certificate.
    #[error("the {which} certificate cannot serve as a CA")]
    Certificate {
        /// Root or intermediate.
        which: &'static str,
        /// The broken rule.
        source: CertificateError,
    },
    /// The library refuses.
    #[error("the CA's certificates cannot be made")]
    Generate(#[from] rcgen::Error),
    /// No key could be made, or the stored one is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key in the file is not the intermediate's.
    #[error("{path} does not hold the key of the intermediate certificate")]
    KeyMismatch { path: String },
    /// The config names another trust domain than the root.
    #[error("the root is of trust domain {found}, the config says {expected}; a CA cannot change its trust domain")]
    Domain {
        /// In the root.
        found: String,
        /// In the config.
        expected: TrustDomain,
    },
    /// Outside of its validity.
    #[error("the intermediate is valid from {not_before} to {not_after}, it is {now}")]
    NotNow {
        /// First second.
        not_before: Timestamp,
        /// Last second.
        not_after: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// A certificate file is not PEM.
    #[error("{path} is not a certificate in PEM")]
    Pem { path: String, source: PemError },
    /// The key cannot be decrypted.
    #[error(transparent)]
    Protect(#[from] ProtectError),
    /// A file cannot be read.
    #[error("the CA's files cannot be read")]
    Store(#[from] StoreError),
    /// The intermediate is not signed by the root.
    #[error("the intermediate is not signed by the root")]
    Unrelated,
}

impl Authority {
    /// Reads the certificates, without any key.
    pub(crate) fn load(trust_domain: &TrustDomain, files: &Files) -> Result<Self, AuthorityError> {
        let root = read_certificate(&files.root)?;
        let intermediate = read_certificate(&files.intermediate)?;
        Self::new(trust_domain.clone(), root, intermediate)
    }

    fn new(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        intermediate: CertificateDer<'static>,
    ) -> Result<Self, AuthorityError> {
        let of = |which| move |source| AuthorityError::Certificate { which, source };
        let root_validity = check_authority(&root).map_err(of("root"))?;
        let own_validity = check_authority(&intermediate).map_err(of("intermediate"))?;
        check_signature(&root, &intermediate)?;
        check_domain(&root, &trust_domain)?;
        let validity = own_validity.intersection(&root_validity);
        Ok(Self { trust_domain, root, intermediate, root_validity, validity })
    }

    /// Reads the intermediate's key and joins it to the certificate: from here on it can sign.
    pub(crate) fn signer(
        &self,
        files: &Files,
        passphrase: Option<&Passphrase>,
        now: Timestamp,
    ) -> Result<Signer, AuthorityError> {
        if !self.validity.contains(now) {
            let Validity { not_before, not_after } = self.validity;
            return Err(AuthorityError::NotNow { not_before, not_after, now });
        }
        // A renewal that was killed after it put the certificate in place has left the key beside the old one.
        for path in [&files.intermediate_key, &files.next_intermediate_key()] {
            let pem = match store::read_secret(path) {
                Err(error) if error.is_not_found() && path != &files.intermediate_key => break,
                pem => pem?,
            };
            if let Some(signer) = self.signer_with(&unprotect(&pem, passphrase)?)? {
                return Ok(signer);
            }
        }
        Err(AuthorityError::KeyMismatch { path: files.intermediate_key.display().to_string() })
    }

    /// What an operator should do soon, in sentences.
    pub(crate) fn warnings(&self, files: &Files, now: Timestamp) -> Vec<String> {
        let end = self.validity.not_after;
        let left = end.since(now);
        let ends = (left < WARN_BEFORE_END).then(|| {
            let days = left.as_secs() / 86_400;
            format!(
                "the intermediate ends at {end}, in {days} days, and nothing is signed after that; fetch the root's key and run: \
                 countersign-ca intermediate renew"
            )
        });
        let open = files.root_key.exists().then(|| {
            let path = files.root_key.display();
            format!(
                "{path} lies beside the CA, which does not need it; move it to where no program of this host reads it"
            )
        });
        ends.into_iter().chain(open).collect()
    }

    /// None if the key is another one's.
    fn signer_with(&self, key: &PrivateKey) -> Result<Option<Signer>, AuthorityError> {
        let pair = key.key_pair()?;
        let own = rcgen::PublicKeyData::subject_public_key_info(&pair);
        if spki_of(&self.intermediate) != Some(own) {
            return Ok(None);
        }
        Ok(Some(Signer::new(rcgen::Issuer::from_ca_cert_der(&self.intermediate, pair)?)))
    }

    /// The namespace for which this authority signs.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The certificate that signs.
    pub(crate) fn intermediate(&self) -> &CertificateDer<'static> {
        &self.intermediate
    }

    /// SHA-256 of the root: what a join token carries and an operator compares.
    pub(crate) fn root_fingerprint(&self) -> [u8; 32] {
        sha256(&self.root)
    }

    /// The root's own validity.
    pub(crate) fn root_validity(&self) -> Validity {
        self.root_validity
    }

    /// In which certificates can be signed: the intermediate's and the root's together.
    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whom members of the trust domain must believe.
    pub(crate) fn bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()], 1)
    }

    /// The same as SPIFFE writes it.
    pub(crate) fn bundle_document(&self) -> Result<String, BundleError> {
        self.bundle()?.to_json(BUNDLE_REFRESH)
    }
}

fn read_certificate(path: &std::path::Path) -> Result<CertificateDer<'static>, AuthorityError> {
    let found = pem::certificates(&store::read(path)?);
    let damaged = |source| AuthorityError::Pem { path: path.display().to_string(), source };
    let first = found.map_err(damaged)?.into_iter().next();
    first.ok_or_else(|| damaged(PemError::Empty))
}

fn check_signature(root: &CertificateDer<'_>, intermediate: &CertificateDer<'_>) -> Result<(), AuthorityError> {
    let unrelated = |_unreadable| AuthorityError::Unrelated;
    let (_, root) = X509Certificate::from_der(root).map_err(unrelated)?;
    let (_, intermediate) = X509Certificate::from_der(intermediate).map_err(unrelated)?;
    if intermediate.issuer().as_raw() != root.subject().as_raw() {
        return Err(AuthorityError::Unrelated);
    }
    intermediate.verify_signature(Some(root.public_key())).map_err(|_wrong| AuthorityError::Unrelated)
}

/// A root that names a trust domain (X509-SVID.md §3.2) signs for no other.
fn check_domain(root: &CertificateDer<'_>, expected: &TrustDomain) -> Result<(), AuthorityError> {
    let (_, root) = X509Certificate::from_der(root).map_err(|_unreadable| AuthorityError::Unrelated)?;
    let names = root.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut domains =
        names.filter_map(|name| if let GeneralName::URI(uri) = name { uri.strip_prefix("spiffe://") } else { None });
    match domains.find(|domain| *domain != expected.as_str()) {
        Some(other) => Err(AuthorityError::Domain { found: other.to_owned(), expected: expected.clone() }),
        None => Ok(()),
    }
}

fn spki_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate.public_key().raw.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::key::KeyAlgorithm;

    fn domain() -> TrustDomain {
        TrustDomain::parse("prod.example").unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000)
    }

    #[test]
    fn a_made_authority_loads_with_its_own_key_only() {
        for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::P384] {
            let made = make(&domain(), algorithm, now()).unwrap();
            let authority = made.authority;
            assert!(authority.signer_with(&made.intermediate_key).unwrap().is_some());
            assert!(authority.signer_with(&made.root_key).unwrap().is_none());
        }
    }

    #[test]
    fn sixty_days_before_its_end_the_intermediate_is_to_be_renewed() {
        let made = make(&domain(), KeyAlgorithm::P256, now()).unwrap().authority;
        let files = Files::in_folder(std::path::Path::new("/nowhere"));
        let at = |days: u64| made.validity().not_after.minus(Duration::from_secs(days * 86_400));
        assert!(made.warnings(&files, at(60)).is_empty());
        let told = made.warnings(&files, at(59));
        assert!(told[0].contains("in 59 days") && told[0].contains("intermediate renew"), "{told:?}");
    }

    #[test]
    fn a_config_for_another_trust_domain_is_refused() {
        let made = make(&domain(), KeyAlgorithm::P256, now()).unwrap().authority;
        let other = TrustDomain::parse("test.example").unwrap();
        let moved = Authority::new(other, made.root, made.intermediate);
        assert!(matches!(moved, Err(AuthorityError::Domain { .. })));
    }

    #[test]
    fn an_intermediate_of_another_root_is_refused() {
        let one = make(&domain(), KeyAlgorithm::P256, now()).unwrap().authority;
        let other = make(&domain(), KeyAlgorithm::P256, now()).unwrap().authority;
        let mixed = Authority::new(domain(), one.root, other.intermediate);
        assert!(matches!(mixed, Err(AuthorityError::Unrelated)));
    }
}
