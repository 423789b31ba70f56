//! Third step: exactly what is signed? From a [`Grant`] and a signing request to a linted [`ReadyToSign`].
//!
//! Everything in the certificate comes from the grant and from our own rules. Of the signing request only the public key
//! is taken.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use crate::authority::Authority;
use crate::authorize::{Grant, Names};
use crate::certs::csr::{self, CheckedCsr, CsrError};
use crate::certs::issuance::Reason;
use crate::certs::revocation::SerialNumber;
use crate::certs::spiffe_id::SpiffeId;
use crate::certs::time::{Timestamp, Validity};
use crate::config::TTL_MIN;
use crate::lint::{self, LintError};

/// Random bytes in a serial number; the CA/Browser Forum asks for 8, we can afford 16.
const SERIAL_BYTES: usize = 16;

/// A certificate in every detail but the signature. Made only here, consumed by the journal.
#[must_use]
#[derive(Debug)]
pub(crate) struct ReadyToSign {
    plan: Plan,
    params: CertificateParams,
    key: SubjectPublicKeyInfo,
    grant: Grant,
}

/// The facts of one certificate, as the journal and the lints know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The one URI.
    pub(crate) id: SpiffeId,
    /// The other names.
    pub(crate) names: Names,
    /// From when until when.
    pub(crate) validity: Validity,
    /// 128 random bits.
    pub(crate) serial: SerialNumber,
    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub(crate) key_fingerprint: [u8; 32],
}

/// Why a grant gives no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unbuildable {
    /// The signing request is refused.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Our own work is not what it should be.
    #[error("the certificate that would be signed breaks a rule")]
    Lint(#[from] LintError),
    /// The library has no such date, or no such name.
    #[error("the certificate cannot be written")]
    Library(#[from] rcgen::Error),
    /// No randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// The intermediate ends too soon.
    #[error("the intermediate ends at {end}, too soon after {now}; it must be renewed")]
    TooShort {
        /// End of the intermediate.
        end: Timestamp,
        /// Our time.
        now: Timestamp,
    },
}

/// Builds the certificate, and lints it before anybody signs.
pub(crate) fn certificate(
    grant: Grant,
    csr: &str,
    authority: &Authority,
    backdate: Duration,
    now: Timestamp,
) -> Result<ReadyToSign, Unbuildable> {
    let csr = csr::check(csr, grant.id())?;
    let validity = validity(&grant, authority, backdate, now)?;
    let plan = plan(&grant, &csr, validity)?;
    let params = params(&plan)?;
    lint::before(&params, &grant, &plan, authority.validity())?;
    let key = SubjectPublicKeyInfo::from_der(&rcgen::PublicKeyData::subject_public_key_info(csr.public_key()))?;
    Ok(ReadyToSign { plan, params, key, grant })
}

/// A certificate never outlives its issuer (RFC 5280 §6.1.3 would refuse it then), and never begins before it.
fn validity(grant: &Grant, authority: &Authority, backdate: Duration, now: Timestamp) -> Result<Validity, Unbuildable> {
    let limit = authority.validity();
    let validity = Validity { not_before: now.minus(backdate), not_after: now.plus(grant.ttl()) }.intersection(&limit);
    if validity.not_after.since(now) < TTL_MIN {
        return Err(Unbuildable::TooShort { end: limit.not_after, now });
    }
    Ok(validity)
}

fn plan(grant: &Grant, csr: &CheckedCsr, validity: Validity) -> Result<Plan, Unbuildable> {
    Ok(Plan {
        id: grant.id().clone(),
        names: grant.names().clone(),
        validity,
        serial: random_serial()?,
        key_fingerprint: csr.key_fingerprint(),
    })
}

/// The shape of every certificate that is issued (X509-SVID.md §3.1, §4).
fn params(plan: &Plan) -> Result<CertificateParams, Unbuildable> {
    let (not_before, not_after) = calendar(plan.validity).ok_or(rcgen::Error::Time)?;
    let mut params = CertificateParams::default();
    params.not_before = not_before;
    params.not_after = not_after;
    params.serial_number = Some(plan.serial.as_bytes().to_vec().into());
    // An empty subject makes the alternative names critical (RFC 5280 §4.2.1.6): nobody reads a name from elsewhere.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = alternative_names(plan)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn alternative_names(plan: &Plan) -> Result<Vec<SanType>, Unbuildable> {
    let mut names = vec![SanType::URI(plan.id.as_str().try_into()?)];
    for name in &plan.names.dns {
        names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    names.extend(plan.names.addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// A positive serial number of 128 random bits, the same count of bytes each time.
pub(crate) fn random_serial() -> Result<SerialNumber, Unbuildable> {
    let mut bytes = [0; SERIAL_BYTES + 1];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_library| Unbuildable::Randomness)?;
    // One more byte in front, with a fixed value below 0x80: the number is positive and no random bit is lost to that.
    if let Some(first) = bytes.first_mut() {
        *first = 1;
    }
    SerialNumber::from_bytes(&bytes).map_err(|_zero| Unbuildable::Randomness)
}

/// A validity in the dates that rcgen takes.
pub(crate) fn calendar(validity: Validity) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let date = |time: Timestamp| OffsetDateTime::from_unix_timestamp(i64::try_from(time.as_unix_seconds()).ok()?).ok();
    Some((date(validity.not_before)?, date(validity.not_after)?))
}

impl ReadyToSign {
    /// The facts.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it was built from.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What is to be signed.
    pub(crate) fn params(&self) -> (&CertificateParams, &SubjectPublicKeyInfo) {
        (&self.params, &self.key)
    }
}

impl Unbuildable {
    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Csr(_) => Reason::CsrRefused,
            Self::Lint(_) | Self::Library(_) | Self::Randomness | Self::TooShort { .. } => Reason::CaUnavailable,
        }
    }
}
