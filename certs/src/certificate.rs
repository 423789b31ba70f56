//! A leaf certificate read strictly: which names it gives, how long it may be used, and whether its form is one that
//! may authenticate anybody.
//!
//! Reading is not trusting: a [`PeerCertificate`] says what a certificate claims. Only [`crate::verify`] says whether
//! somebody trusted vouches for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::{BasicExtension, X509Certificate, X509CertificateParser};
use x509_parser::error::X509Error;
use x509_parser::extensions::{BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage, SubjectAlternativeName};
use x509_parser::nom::Parser;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::digest::sha256;
use crate::revocation::SerialNumber;
use crate::san::{DnsName, EmailAddress, San, SanError};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::time::{Timestamp, Validity};

/// Largest certificate in bytes that is parsed at all.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Most names in one certificate.
pub const SANS_MAX: usize = 64;

/// RSA moduli outside this range of bits are refused: below is breakable, above burns our CPU before anybody is known.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What one leaf certificate says of its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    spiffe_id: Option<SpiffeId>,
    sans: Box<[San]>,
    serial: SerialNumber,
    validity: Validity,
    usage: ExtendedUsage,
    fingerprint: [u8; 32],
}

/// What a certificate may be used for, so far as its extended key usage says (RFC 5280 §4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendedUsage {
    /// The extension is absent: both sides.
    Any,
    /// Listed purposes. `anyExtendedKeyUsage` is neither of the two: RFC 5280 §4.2.1.12 leaves it to the reader, and
    /// OpenSSL and webpki do not take it for a purpose that they ask for by name.
    Only {
        /// id-kp-serverAuth is listed.
        server: bool,
        /// id-kp-clientAuth is listed.
        client: bool,
    },
}

/// Why a certificate may not authenticate anybody, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A CA's certificate was shown as a leaf (X509-SVID.md §5.2).
    #[error("a CA certificate may not authenticate a peer")]
    CertificateAuthority,
    /// keyCertSign or cRLSign in a leaf (X509-SVID.md §4.3).
    #[error("the key usage of a leaf may not hold keyCertSign or cRLSign")]
    ForbiddenKeyUsage,
    /// digitalSignature is missing, or the extension is missing or not critical (X509-SVID.md §4.3).
    #[error("key usage must be present, critical, and hold digitalSignature")]
    KeyUsage,
    /// Not DER, a field out of range, or bytes after the end.
    #[error("the certificate cannot be read: {0}")]
    Malformed(&'static str),
    /// No name at all that could be a principal.
    #[error("the certificate names nobody: it has no URI, DNS, e-mail or IP subject alternative name")]
    NoName,
    /// A name is not valid for its kind.
    #[error("a subject alternative name is not valid")]
    San(#[from] SanError),
    /// The URI SAN is not a SPIFFE ID of a workload.
    #[error("the URI subject alternative name {uri:?} is not a SPIFFE ID")]
    SpiffeId {
        /// The URI, at most 256 characters of it.
        uri: String,
        /// The broken rule.
        source: SpiffeIdError,
    },
    /// More than [`SANS_MAX`] names.
    #[error("the certificate has {count} names, the limit is {SANS_MAX}")]
    TooManyNames {
        /// Names in the certificate.
        count: usize,
    },
    /// More than one URI SAN (X509-SVID.md §2).
    #[error("the certificate has {count} URI subject alternative names, an X509-SVID has exactly one")]
    UriCount {
        /// URI SANs in the certificate.
        count: usize,
    },
    /// An RSA key outside [`RSA_BITS`], or a kind of key that is not accepted.
    #[error("the public key is not accepted: {0}")]
    WeakKey(&'static str),
}

impl PeerCertificate {
    /// Reads a leaf and checks every rule that concerns the leaf alone (X509-SVID.md §2, §4, §5.2).
    ///
    /// A certificate without any URI SAN is read too: peers of an existing PKI have none. Whether such a peer is
    /// admitted is decided where it is verified.
    ///
    /// # Errors
    /// Names the rule that the certificate breaks.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse_der(der)?;
        check_form(&certificate)?;
        check_public_key(&certificate)?;
        let (spiffe_id, sans) = names(&certificate)?;
        Ok(Self {
            spiffe_id,
            sans: sans.into(),
            serial: serial(&certificate)?,
            validity: validity(&certificate)?,
            usage: extended_usage(&certificate)?,
            fingerprint: sha256(der),
        })
    }

    /// The SPIFFE ID; none for a peer of a foreign PKI.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.spiffe_id.as_ref()
    }

    /// Every name, the SPIFFE ID first; at least one.
    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    /// The name under which this peer is recorded: its SPIFFE ID, else its first other name.
    pub fn principal(&self) -> Option<&San> {
        self.sans.first()
    }

    /// The serial number, unique for its issuer.
    pub fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// The leaf's own validity.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// What the leaf may be used for.
    pub fn usage(&self) -> ExtendedUsage {
        self.usage
    }

    /// SHA-256 of the DER, as `Hash=` in `x-forwarded-client-cert` shows it.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl ExtendedUsage {
    /// Whether a client may show the certificate.
    pub fn allows_client(self) -> bool {
        matches!(self, Self::Any | Self::Only { client: true, .. })
    }

    /// Whether a server may show the certificate.
    pub fn allows_server(self) -> bool {
        matches!(self, Self::Any | Self::Only { server: true, .. })
    }
}

/// Reads DER strictly: bounded, nothing after the end, no extension twice (RFC 5280 §4.2).
///
/// The contents of extensions are left to [`extension`], because the parser passes over bytes after their end.
pub(crate) fn parse_der<'der>(der: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, CertificateError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(CertificateError::Malformed("larger than the limit"));
    }
    let (rest, certificate) = X509CertificateParser::new()
        .with_deep_parse_extensions(false)
        .parse(der)
        .map_err(|_unreadable| CertificateError::Malformed("not a DER certificate"))?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed("bytes after the end"));
    }
    certificate.extensions_map().map_err(|_twice| CertificateError::Malformed("an extension appears twice"))?;
    Ok(certificate)
}

/// One extension, if it is there; an error, if it cannot be read to its last byte.
fn extension<'der, T: FromDer<'der, X509Error>>(
    certificate: &X509Certificate<'der>,
    oid: &Oid<'_>,
) -> Result<Option<BasicExtension<T>>, CertificateError> {
    let Some(found) = certificate.extensions().iter().find(|extension| extension.oid == *oid) else { return Ok(None) };
    match T::from_der(found.value) {
        Ok(([], value)) => Ok(Some(BasicExtension::new(found.critical, value))),
        Ok(_) | Err(_) => Err(CertificateError::Malformed("an extension cannot be read")),
    }
}

/// The subject alternative names, as they are written.
pub(crate) fn general_names<'der>(
    certificate: &X509Certificate<'der>,
) -> Result<Vec<GeneralName<'der>>, CertificateError> {
    let extension: Option<BasicExtension<SubjectAlternativeName<'_>>> =
        extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)?;
    Ok(extension.map(|names| names.value.general_names).unwrap_or_default())
}

fn key_usage(certificate: &X509Certificate<'_>) -> Result<Option<BasicExtension<KeyUsage>>, CertificateError> {
    extension(certificate, &OID_X509_EXT_KEY_USAGE)
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let constraints: Option<BasicExtension<BasicConstraints>> =
        extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca))
}

/// Serial numbers are positive (RFC 5280 §4.1.2.2): the sign would be lost where they are compared.
pub(crate) fn serial(certificate: &X509Certificate<'_>) -> Result<SerialNumber, CertificateError> {
    let bytes = certificate.raw_serial();
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    SerialNumber::from_bytes(bytes)
        .ok()
        .filter(|_serial| !negative)
        .ok_or(CertificateError::Malformed("serial number out of range"))
}

/// The certificate's own validity.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Result<Validity, CertificateError> {
    let at = |time: x509_parser::time::ASN1Time| {
        u64::try_from(time.timestamp())
            .map(Timestamp::from_unix_seconds)
            .map_err(|_before_1970| CertificateError::Malformed("a date before 1970"))
    };
    Ok(Validity {
        not_before: at(certificate.validity().not_before)?,
        not_after: at(certificate.validity().not_after)?,
    })
}

fn check_form(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    if is_authority(certificate)? {
        return Err(CertificateError::CertificateAuthority);
    }
    let Some(usage) = key_usage(certificate)? else { return Err(CertificateError::KeyUsage) };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(CertificateError::ForbiddenKeyUsage);
    }
    if !usage.critical || !usage.value.digital_signature() {
        return Err(CertificateError::KeyUsage);
    }
    Ok(())
}

fn check_public_key(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let key = certificate
        .public_key()
        .parsed()
        .map_err(|_unreadable| CertificateError::Malformed("public key cannot be read"))?;
    match key {
        PublicKey::RSA(rsa) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
        PublicKey::RSA(_) => Err(CertificateError::WeakKey("RSA of fewer than 2048 or more than 8192 bits")),
        PublicKey::EC(_) => Ok(()),
        // Ed25519 has no variant of its own in the parser; rustls refuses what its algorithms do not cover.
        PublicKey::Unknown(_) => Ok(()),
        PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) => {
            Err(CertificateError::WeakKey("DSA or GOST"))
        }
    }
}

fn names(certificate: &X509Certificate<'_>) -> Result<(Option<SpiffeId>, Vec<San>), CertificateError> {
    let names = general_names(certificate)?;
    if names.len() > SANS_MAX {
        return Err(CertificateError::TooManyNames { count: names.len() });
    }
    let mut uris = Vec::new();
    let mut others = Vec::new();
    for name in &names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => match name.strip_prefix("*.") {
                // A wildcard names a set of hosts, not the one that is calling; it gives no role, and harms nobody.
                Some(parent) => drop(DnsName::parse(parent)?),
                None => others.push(San::Dns(DnsName::parse(name)?)),
            },
            GeneralName::RFC822Name(address) => others.push(San::Email(EmailAddress::parse(address)?)),
            GeneralName::IPAddress(bytes) => others.push(San::Ip(ip_address(bytes)?)),
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_) => {}
            GeneralName::Invalid(..) => return Err(CertificateError::Malformed("an unreadable alternative name")),
        }
    }
    let spiffe_id = match uris.as_slice() {
        [] => None,
        [uri] => Some(
            SpiffeId::parse(uri)
                .map_err(|source| CertificateError::SpiffeId { uri: uri.chars().take(256).collect(), source })?,
        ),
        _ => return Err(CertificateError::UriCount { count: uris.len() }),
    };
    let mut sans: Vec<San> = spiffe_id.iter().cloned().map(San::Spiffe).collect();
    sans.append(&mut others);
    if sans.is_empty() {
        return Err(CertificateError::NoName);
    }
    Ok((spiffe_id, sans))
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, CertificateError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(|octets| Ipv6Addr::from(octets).into())
        .map_err(|_other_length| CertificateError::Malformed("an IP address of neither 4 nor 16 bytes"))
}

fn extended_usage(certificate: &X509Certificate<'_>) -> Result<ExtendedUsage, CertificateError> {
    let extension: Option<BasicExtension<ExtendedKeyUsage<'_>>> =
        extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE)?;
    Ok(extension.map_or(ExtendedUsage::Any, |usage| ExtendedUsage::Only {
        server: usage.value.server_auth,
        client: usage.value.client_auth,
    }))
}

/// Whether `der` is a CA certificate that may sign others (RFC 5280 §6.1.4 (k) and (n)).
///
/// X509-SVID.md §4.3 obliges issuers to write a critical key usage with keyCertSign; to readers §5.1 says no more than
/// RFC 5280 does. So a root of a company that has no key usage at all is taken, as OpenSSL makes them by default.
///
/// # Errors
/// It cannot be read, is no CA, or has a key usage without keyCertSign.
pub fn check_authority(der: &CertificateDer<'_>) -> Result<Validity, CertificateError> {
    let certificate = parse_der(der)?;
    check_signs(&certificate)?;
    validity(&certificate)
}

/// The same for a certificate that is already read.
pub(crate) fn check_signs(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    if !is_authority(certificate)? {
        return Err(CertificateError::Malformed("not a CA certificate"));
    }
    if key_usage(certificate)?.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CertificateError::Malformed("a CA certificate whose key usage lacks keyCertSign"));
    }
    Ok(())
}
