//! Certificate signing requests (RFC 2986): made by the agent, checked by the CA.
//!
//! The CA takes the public key of a request and nothing else. A request that asks for more than the identity that its
//! message names is refused rather than cut down, so that nobody believes to have been given what was dropped.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::key::{KeyAlgorithm, KeyError, PrivateKey};
use crate::spiffe_id::SpiffeId;

/// Largest signing request in bytes of PEM.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// A request whose signature proves that the asker holds the private key, and that asks for nothing unexpected.
#[derive(Debug)]
pub struct CheckedCsr {
    key: SubjectPublicKeyInfo,
    algorithm: KeyAlgorithm,
}

/// Why a signing request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Neither P-256, P-384 nor Ed25519.
    #[error("the key of the signing request is of kind {found}; P-256, P-384 or Ed25519 is required")]
    Algorithm {
        /// Object identifier of the refused kind.
        found: String,
    },
    /// A requested extension or attribute that is not the expected name.
    #[error("the signing request asks for {0}; it may ask for its SPIFFE ID and nothing else")]
    Extra(String),
    /// A URI other than the identity that the message names.
    #[error("the signing request names {found:?}, the message asks for {expected}")]
    ForeignName {
        /// Name in the request.
        found: String,
        /// Identity of the message.
        expected: SpiffeId,
    },
    /// Not a signing request, or bytes after its end.
    #[error("the signing request cannot be read: {0}")]
    Malformed(&'static str),
    /// The signature is not by the key inside.
    #[error("the signature of the signing request does not fit its key")]
    Signature,
}

/// Makes a request for `id` in PEM.
///
/// # Errors
/// The library cannot sign with `key`.
pub fn create(id: &SpiffeId, key: &PrivateKey) -> Result<String, KeyError> {
    let uri = id.as_str().try_into().map_err(|_not_ascii| KeyError::Unreadable)?;
    request(vec![SanType::URI(uri)], key)
}

/// Makes a request that names nobody, in PEM: a host that enrolls does not know its name yet.
///
/// # Errors
/// The library cannot sign with `key`.
pub fn create_unnamed(key: &PrivateKey) -> Result<String, KeyError> {
    request(Vec::new(), key)
}

fn request(names: Vec<SanType>, key: &PrivateKey) -> Result<String, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    let request = params.serialize_request(&key.key_pair()?).map_err(|_library| KeyError::Unreadable)?;
    request.pem().map_err(|_library| KeyError::Unreadable)
}

/// Checks a request in PEM that came with a message asking for `id`.
///
/// # Errors
/// The request cannot be read, its signature does not fit, its key is of a refused kind, or it asks for anything but `id`.
pub fn check(pem: &str, id: &SpiffeId) -> Result<CheckedCsr, CsrError> {
    if pem.len() > CSR_BYTES_MAX {
        return Err(CsrError::Malformed("larger than the limit"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_not_pem| CsrError::Malformed("not a PEM certificate request"))?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|_not_der| CsrError::Malformed("not a DER certificate request"))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes after the end"));
    }
    let info = &request.certification_request_info;
    let algorithm = algorithm(&info.subject_pki)?;
    request.verify_signature().map_err(|_wrong| CsrError::Signature)?;
    check_subject(info)?;
    for attribute in info.iter_attributes() {
        check_attribute(attribute.parsed_attribute(), id)?;
    }
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_library| CsrError::Malformed("public key cannot be read"))?;
    Ok(CheckedCsr { key, algorithm })
}

impl CheckedCsr {
    /// The public key to be certified.
    pub fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// The kind of that key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 of the SubjectPublicKeyInfo, which the CA writes into its journal before it signs.
    pub fn key_fingerprint(&self) -> [u8; 32] {
        crate::digest::sha256(&self.key.subject_public_key_info())
    }
}

/// The kind of a public key, read from its algorithm and curve (RFC 5480 §2.1.1, RFC 8410 §3).
fn algorithm(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<KeyAlgorithm, CsrError> {
    let kind = key.algorithm.algorithm.to_id_string();
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
    match (kind.as_str(), curve.as_deref()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Ok(KeyAlgorithm::P256),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Ok(KeyAlgorithm::P384),
        ("1.3.101.112", None) => Ok(KeyAlgorithm::Ed25519),
        _ => Err(CsrError::Algorithm { found: kind }),
    }
}

fn check_subject(info: &x509_parser::certification_request::X509CertificationRequestInfo<'_>) -> Result<(), CsrError> {
    if info.subject.iter_rdn().next().is_some() {
        return Err(CsrError::Extra(format!("the subject {:?}", info.subject.to_string())));
    }
    Ok(())
}

fn check_attribute(attribute: &ParsedCriAttribute<'_>, id: &SpiffeId) -> Result<(), CsrError> {
    let ParsedCriAttribute::ExtensionRequest(requested) = attribute else {
        return Err(CsrError::Extra("an attribute that is no extension request".to_owned()));
    };
    for extension in &requested.extensions {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(CsrError::Extra(format!("the extension {}", extension.oid.to_id_string())));
        };
        for name in &names.general_names {
            let GeneralName::URI(uri) = name else { return Err(CsrError::Extra(format!("the name {name}"))) };
            if *uri != id.as_str() {
                let found = uri.chars().take(256).collect();
                return Err(CsrError::ForeignName { found, expected: id.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://prod.example/llm").unwrap()
    }

    fn refused(change: impl FnOnce(&mut CertificateParams)) -> CsrError {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        check(&params.serialize_request(&pair).unwrap().pem().unwrap(), &id()).unwrap_err()
    }

    #[test]
    fn own_requests_pass_with_every_kind_of_key() {
        for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::P384] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let checked = check(&create(&id(), &key).unwrap(), &id()).unwrap();
            assert_eq!(checked.algorithm(), algorithm);
        }
    }

    #[test]
    fn requests_for_more_than_the_id_are_refused() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let foreign = refused(|params| params.subject_alt_names = vec![uri("spiffe://prod.example/other")]);
        assert!(matches!(foreign, CsrError::ForeignName { .. }), "{foreign}");
        let extra = [
            refused(|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]),
            refused(|params| params.distinguished_name.push(DnType::CommonName, "root")),
            refused(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            refused(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ];
        for error in extra {
            assert!(matches!(error, CsrError::Extra(_)), "{error}");
        }
    }

    #[test]
    fn damaged_requests_are_refused() {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let pem = create(&id(), &key).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let spoilt = crate::pem::encode("CERTIFICATE REQUEST", &der);
        assert_eq!(check(&spoilt, &id()).unwrap_err(), CsrError::Signature);
        assert!(matches!(check("", &id()), Err(CsrError::Malformed(_))));
        assert!(matches!(check(&"x".repeat(CSR_BYTES_MAX + 1), &id()), Err(CsrError::Malformed(_))));
    }
}
