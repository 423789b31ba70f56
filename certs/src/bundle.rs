//! Trust bundles: the CA certificates of one trust domain, as SPIFFE writes them (SPIFFE_Trust_Domain_and_Bundle.md §4,
//! X509-SVID.md §6) and as PEM.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::certificate::{CertificateError, check_authority, parse_der};
use crate::pem::{self, PemError};
use crate::spiffe_id::TrustDomain;

/// Most authorities in one bundle.
pub const AUTHORITIES_MAX: usize = 64;

/// The CA certificates that may vouch for the IDs of one trust domain. An empty bundle trusts nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    sequence: u64,
}

/// Why a text is no trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// One certificate cannot be an authority.
    #[error("authority {position} of the bundle cannot be used")]
    Authority {
        /// Position in the text, from 0.
        position: usize,
        /// The broken rule.
        source: CertificateError,
    },
    /// Not base64 in `x5c`.
    #[error("key {position} of the bundle has no base64 certificate in x5c")]
    Encoding {
        /// Position in the text, from 0.
        position: usize,
    },
    /// Not the JSON of a bundle.
    #[error("the bundle is not a JWK set")]
    Json(#[from] serde_json::Error),
    /// Not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// More than [`AUTHORITIES_MAX`].
    #[error("the bundle has {count} authorities, the limit is {AUTHORITIES_MAX}")]
    TooMany {
        /// Authorities found.
        count: usize,
    },
    /// Two bundles are for one trust domain.
    #[error("there are two bundles for the trust domain {trust_domain}")]
    Twice {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
}

impl TrustBundle {
    /// A bundle of these authorities. `sequence` grows with each change of content.
    ///
    /// # Errors
    /// A certificate is no CA certificate, or there are too many.
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        if authorities.len() > AUTHORITIES_MAX {
            return Err(BundleError::TooMany { count: authorities.len() });
        }
        for (position, authority) in authorities.iter().enumerate() {
            check_authority(authority).map_err(|source| BundleError::Authority { position, source })?;
        }
        Ok(Self { trust_domain, authorities, sequence })
    }

    /// Reads the PEM file of a trust domain whose bundle somebody else keeps.
    ///
    /// # Errors
    /// The text holds no certificate, or one that is no CA certificate.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        Self::new(trust_domain, pem::certificates(pem)?, 0)
    }

    /// Reads a SPIFFE bundle document. Passed over are keys of other uses and of kinds not known here, entries without
    /// `x5c`, entries whose members are not of their type (RFC 7517 §5), and every value of `x5c` after the first
    /// (X509-SVID.md §6).
    ///
    /// # Errors
    /// The document is not JSON of this form or an entry is no CA certificate.
    pub fn from_json(trust_domain: TrustDomain, json: &str) -> Result<Self, BundleError> {
        let document: Document<serde_json::Value> = serde_json::from_str(json)?;
        let mut authorities = Vec::new();
        for (position, key) in document.keys.into_iter().enumerate() {
            let Some(encoded) = x509_authority(key) else { continue };
            let der = STANDARD.decode(encoded).map_err(|_not_base64| BundleError::Encoding { position })?;
            authorities.push(CertificateDer::from(der));
        }
        Self::new(trust_domain, authorities, document.spiffe_sequence)
    }

    /// Writes the SPIFFE bundle document. `refresh_hint` tells readers how often to look again.
    ///
    /// # Errors
    /// An authority has a kind of key that a JWK of this project cannot describe.
    pub fn to_json(&self, refresh_hint: Duration) -> Result<String, BundleError> {
        let keys = self
            .authorities
            .iter()
            .enumerate()
            .map(|(position, authority)| {
                web_key(authority).map_err(|source| BundleError::Authority { position, source })
            })
            .collect::<Result<_, _>>()?;
        let document =
            Document { keys, spiffe_sequence: self.sequence, spiffe_refresh_hint: Some(refresh_hint.as_secs()) };
        Ok(serde_json::to_string_pretty(&document)?)
    }

    /// The trust domain for whose IDs these authorities vouch.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA certificates.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Grows with each change of content; 0 where nobody counts.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

const X509_SVID: &str = "x509-svid";

#[derive(Serialize, Deserialize)]
struct Document<K> {
    keys: Vec<K>,
    #[serde(default)]
    spiffe_sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

/// The members of a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2) that a bundle uses.
#[derive(Serialize, Deserialize, Default)]
struct WebKey {
    kty: String,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

/// The certificate, in base64, of an entry that a reader of X509-SVIDs looks at.
fn x509_authority(key: serde_json::Value) -> Option<String> {
    let key: WebKey = serde_json::from_value(key).ok()?;
    let known = matches!(key.kty.as_str(), "EC" | "OKP" | "RSA") && key.usage.as_deref() == Some(X509_SVID);
    key.x5c.filter(|_certificates| known)?.into_iter().next()
}

fn web_key(authority: &CertificateDer<'_>) -> Result<WebKey, CertificateError> {
    let certificate = parse_der(authority)?;
    let key = certificate.public_key();
    let unreadable = CertificateError::Malformed("public key cannot be read");
    let base =
        WebKey { usage: Some(X509_SVID.to_owned()), x5c: Some(vec![STANDARD.encode(authority)]), ..WebKey::default() };
    let encode = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    match key.parsed().map_err(|_unreadable| unreadable.clone())? {
        PublicKey::EC(point) => {
            // An uncompressed point is 0x04, then x and y of equal length (SEC 1 §2.3.3).
            let coordinates = point.data().split_first().filter(|(form, _)| **form == 4).map(|(_, rest)| rest);
            let (x, y) = coordinates.map(|both| both.split_at(both.len() / 2)).ok_or(unreadable)?;
            let curve = curve(key)?.to_owned();
            Ok(WebKey { kty: "EC".to_owned(), crv: Some(curve), x: encode(x), y: encode(y), ..base })
        }
        PublicKey::RSA(rsa) => {
            let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            let exponent = rsa.exponent.strip_prefix(&[0]).unwrap_or(rsa.exponent);
            Ok(WebKey { kty: "RSA".to_owned(), n: encode(modulus), e: encode(exponent), ..base })
        }
        PublicKey::Unknown(bytes) if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            Ok(WebKey { kty: "OKP".to_owned(), crv: Some("Ed25519".to_owned()), x: encode(bytes), ..base })
        }
        PublicKey::Unknown(_) | PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) => {
            Err(CertificateError::WeakKey("neither EC, RSA nor Ed25519"))
        }
    }
}

/// The name of a curve (RFC 7518 §6.2.1.1) by its identifier (RFC 5480 §2.1.1.1); other curves have points as long.
fn curve(key: &SubjectPublicKeyInfo<'_>) -> Result<&'static str, CertificateError> {
    let identifier = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match identifier.map(|identifier| identifier.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7") => Ok("P-256"),
        Some("1.3.132.0.34") => Ok("P-384"),
        Some("1.3.132.0.35") => Ok("P-521"),
        _ => Err(CertificateError::WeakKey("a curve other than P-256, P-384 and P-521")),
    }
}
