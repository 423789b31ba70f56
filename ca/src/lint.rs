//! The CA checks its own work: once before the key is used, and once more on the bytes that would leave.
//!
//! The rules are written out here a second time, and not taken from [`crate::build`], so that one mistake there is not
//! made twice.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::authorize::Grant;
use crate::build::Plan;
use crate::certs::certificate::{CertificateError, ExtendedUsage, PeerCertificate};
use crate::certs::digest::sha256;
use crate::certs::san::San;
use crate::certs::time::Validity;

/// RFC 5280 §4.1.2.2 allows 20 bytes; fewer than 16 would hold less than our 128 random bits.
const SERIAL_BYTES: std::ops::RangeInclusive<usize> = 16..=20;

/// Which rule our own certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LintError {
    /// Basic constraints.
    #[error("it is not marked as no CA")]
    BasicConstraints,
    /// Extended key usage is not exactly both sides of TLS.
    #[error("its extended key usage is not serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// Another issuer, or its signature does not verify.
    #[error("it is not signed by the intermediate")]
    Issuer,
    /// Not the key of the signing request.
    #[error("it holds another public key than the signing request")]
    Key,
    /// Authority or subject key identifier is missing.
    #[error("it lacks a key identifier")]
    KeyIdentifier,
    /// Key usage is not exactly digitalSignature.
    #[error("its key usage is not digitalSignature alone")]
    KeyUsage,
    /// The names are not those of the grant.
    #[error("its names are not those that were granted")]
    Names,
    /// The certificate that was signed cannot be read back.
    #[error("it cannot be read back")]
    Read(#[from] CertificateError),
    /// Too few bytes, too many, or another one than recorded.
    #[error("its serial number is not the recorded one of 16 to 20 bytes")]
    Serial,
    /// A subject, or alternative names that are not critical.
    #[error("its subject is not empty, or its alternative names are not critical")]
    Subject,
    /// Outside of the intermediate's validity, or another one than recorded.
    #[error("its validity is not the recorded one inside of the intermediate's")]
    Validity,
}

/// Lints what is about to be signed.
pub(crate) fn before(
    params: &CertificateParams,
    grant: &Grant,
    plan: &Plan,
    issuer: Validity,
) -> Result<(), LintError> {
    check_serial(plan)?;
    check_validity(plan, issuer)?;
    ensure(params.is_ca == IsCa::ExplicitNoCa, LintError::BasicConstraints)?;
    ensure(params.key_usages == [KeyUsagePurpose::DigitalSignature], LintError::KeyUsage)?;
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    ensure(params.extended_key_usages == usages, LintError::ExtendedKeyUsage)?;
    ensure(params.distinguished_name.iter().next().is_none(), LintError::Subject)?;
    ensure(params.custom_extensions.is_empty() && params.name_constraints.is_none(), LintError::Subject)?;
    let names: Vec<String> = params.subject_alt_names.iter().filter_map(text_of).collect();
    ensure(names.len() == params.subject_alt_names.len() && names == granted(grant), LintError::Names)
}

/// Lints what was signed.
pub(crate) fn after(der: &CertificateDer<'_>, plan: &Plan, issuer: &CertificateDer<'_>) -> Result<(), LintError> {
    // The same strict reading that every peer will do: key usage, one URI, typed names, no CA.
    let read = PeerCertificate::parse(der)?;
    ensure(*read.serial() == plan.serial, LintError::Serial)?;
    ensure(read.validity() == plan.validity, LintError::Validity)?;
    ensure(read.usage() == ExtendedUsage::Only { server: true, client: true }, LintError::ExtendedKeyUsage)?;
    ensure(read.sans() == planned(plan), LintError::Names)?;
    let (certificate, issuer) = (parse(der)?, parse(issuer)?);
    ensure(sha256(certificate.public_key().raw) == plan.key_fingerprint, LintError::Key)?;
    ensure(certificate.issuer().as_raw() == issuer.subject().as_raw(), LintError::Issuer)?;
    certificate.verify_signature(Some(issuer.public_key())).map_err(|_wrong| LintError::Issuer)?;
    check_extensions(&certificate)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever is not named here is never in our certificates")]
fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), LintError> {
    ensure(certificate.subject().iter().next().is_none(), LintError::Subject)?;
    let [mut authority_key, mut subject_key] = [false, false];
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_) => ensure(extension.critical, LintError::Subject)?,
            ParsedExtension::BasicConstraints(constraints) => {
                ensure(extension.critical && !constraints.ca, LintError::BasicConstraints)?;
            }
            ParsedExtension::KeyUsage(usage) => ensure(extension.critical && usage.flags == 1, LintError::KeyUsage)?,
            ParsedExtension::AuthorityKeyIdentifier(_) => authority_key = true,
            ParsedExtension::SubjectKeyIdentifier(_) => subject_key = true,
            ParsedExtension::ExtendedKeyUsage(usage) => ensure(usage.other.is_empty(), LintError::ExtendedKeyUsage)?,
            _ => return Err(LintError::Subject),
        }
    }
    ensure(authority_key && subject_key, LintError::KeyIdentifier)
}

fn check_serial(plan: &Plan) -> Result<(), LintError> {
    let bytes = plan.serial.as_bytes();
    let positive = bytes.first().is_some_and(|first| *first < 0x80);
    ensure(SERIAL_BYTES.contains(&bytes.len()) && positive, LintError::Serial)
}

fn check_validity(plan: &Plan, issuer: Validity) -> Result<(), LintError> {
    let Validity { not_before, not_after } = plan.validity;
    let inside = issuer.contains(not_before) && issuer.contains(not_after) && not_before < not_after;
    ensure(inside, LintError::Validity)
}

fn granted(grant: &Grant) -> Vec<String> {
    let dns = grant.names().dns.iter().map(|name| format!("dns:{}", name.as_str()));
    let addresses = grant.names().addresses.iter().map(|address| format!("ip:{address}"));
    std::iter::once(grant.id().to_string()).chain(dns).chain(addresses).collect()
}

fn planned(plan: &Plan) -> Vec<San> {
    let dns = plan.names.dns.iter().cloned().map(San::Dns);
    let addresses = plan.names.addresses.iter().copied().map(San::Ip);
    std::iter::once(San::Spiffe(plan.id.clone())).chain(dns).chain(addresses).collect()
}

/// None for a kind of name that is never granted.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever is not named here is never granted")]
fn text_of(name: &SanType) -> Option<String> {
    match name {
        SanType::URI(uri) => Some(uri.to_string()),
        SanType::DnsName(name) => Some(format!("dns:{name}")),
        SanType::IpAddress(address) => Some(format!("ip:{address}")),
        _ => None,
    }
}

fn parse<'der>(der: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, LintError> {
    let unreadable = LintError::Read(CertificateError::Malformed("not a DER certificate"));
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_not_der| unreadable)
}

fn ensure(holds: bool, otherwise: LintError) -> Result<(), LintError> {
    if holds { Ok(()) } else { Err(otherwise) }
}
