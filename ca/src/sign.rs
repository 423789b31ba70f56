//! Fifth step: the signature. The only place where the CA's key is used, and it is used for nothing that was not recorded
//! before: [`Signer::sign`] takes an [`Intended`], which only the journal makes.

use rcgen::Issuer;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::authority::Authority;
use crate::build::{Plan, ReadyToSign};
use crate::certs::digest::sha256;
use crate::certs::key::SigningPair;
use crate::lint::{self, LintError};
use crate::record::Intended;

/// The intermediate's key. No Debug, no Clone.
pub(crate) struct Signer(Issuer<'static, SigningPair>);

/// A signed and linted certificate that nobody has seen yet. Made only here, consumed by the journal.
#[must_use]
pub(crate) struct Signed {
    ready: ReadyToSign,
    certificate: CertificateDer<'static>,
}

/// Why nothing came of an intent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsigned {
    /// The library refuses.
    #[error("the certificate with serial {serial} cannot be signed")]
    Library {
        /// The recorded serial.
        serial: crate::certs::revocation::SerialNumber,
        /// What the library says.
        source: rcgen::Error,
    },
    /// What was signed is not what was meant. It is thrown away.
    #[error("the signed certificate with serial {serial} breaks a rule and is not delivered")]
    Lint {
        /// The recorded serial.
        serial: crate::certs::revocation::SerialNumber,
        source: LintError,
    },
}

impl Signer {
    pub(crate) fn new(issuer: Issuer<'static, SigningPair>) -> Self {
        Self(issuer)
    }

    /// Signs what was intended, and reads the result back.
    pub(crate) fn sign(&self, intended: Intended, authority: &Authority) -> Result<Signed, Unsigned> {
        let ready = intended.into_ready();
        let serial = || ready.plan().serial.clone();
        let (params, key) = ready.params();
        let signed = params.signed_by(key, &self.0).map_err(|source| Unsigned::Library { serial: serial(), source })?;
        let certificate = CertificateDer::from(signed);
        lint::after(&certificate, ready.plan(), authority.intermediate())
            .map_err(|source| Unsigned::Lint { serial: serial(), source })?;
        Ok(Signed { ready, certificate })
    }
}

impl Signed {
    /// The facts.
    pub(crate) fn plan(&self) -> &Plan {
        self.ready.plan()
    }

    /// The host that becomes a member with it, if it is one that enrolls.
    pub(crate) fn enrolled_host(&self) -> Option<&str> {
        self.ready.grant().claim().and_then(|_token| self.ready.grant().host())
    }

    /// SHA-256 of the certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// The certificate and whom it names.
    pub(crate) fn into_parts(self) -> (Plan, CertificateDer<'static>) {
        (self.ready.plan().clone(), self.certificate)
    }
}
