//! PEM text in and out (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

/// Most certificates that one PEM text may hold.
pub const CERTIFICATES_MAX: usize = 256;

/// Why a PEM text gives no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Nothing between the markers, or a marker without its partner.
    #[error("the PEM text is damaged: {0}")]
    Damaged(String),
    /// No certificate in it.
    #[error("the PEM text holds no certificate")]
    Empty,
    /// More than [`CERTIFICATES_MAX`].
    #[error("the PEM text holds more than {CERTIFICATES_MAX} certificates")]
    TooMany,
}

/// Reads every certificate of a PEM text, in order; other sections are passed over.
///
/// # Errors
/// There is none, there are too many, or the text is damaged.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if found.len() == CERTIFICATES_MAX {
            return Err(PemError::TooMany);
        }
        found.push(certificate.map_err(|error| PemError::Damaged(error.to_string()))?);
    }
    if found.is_empty() { Err(PemError::Empty) } else { Ok(found) }
}

/// The first public key of a PEM text: its SubjectPublicKeyInfo (RFC 7468 §13). None if there is none.
pub fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    SubjectPublicKeyInfoDer::from_pem_slice(pem).ok().map(|key| key.to_vec())
}

/// Writes certificates one after the other.
pub fn encode_certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|certificate| encode("CERTIFICATE", certificate)).collect()
}

/// Writes one section with lines of 64 characters (RFC 7468 §3).
pub fn encode(label: &str, der: &[u8]) -> String {
    let base64 = zeroize::Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(base64.len() + base64.len() / 64 + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
