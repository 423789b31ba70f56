//! The CA's private keys at rest: PKCS#8 in PEM, encrypted under a passphrase (PBES2, RFC 8018 §6.2) where there is one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pkcs8::der::Decode;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::certs::key::{KeyError, PrivateKey};
use crate::certs::pem;
use crate::config::Passphrase;

/// scrypt with N = 2^14, r = 8, p = 5: as costly for a guesser as N = 2^17, p = 1, and within the 32 MiB that OpenSSL
/// allows a key derivation, so that `openssl pkey` can read the file.
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;

const PLAIN: &str = "PRIVATE KEY";

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// Why a key cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtectError {
    /// The passphrase does not fit, or the file is damaged.
    #[error("the key cannot be decrypted; is the passphrase right?")]
    Decrypt,
    /// The library refuses.
    #[error("the key cannot be encrypted")]
    Encrypt,
    /// Not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An encrypted key and no passphrase.
    #[error(
        "the key is encrypted and no passphrase was given; set passphrase in ca.toml, or give the systemd credential \
         ca_passphrase, or start at a terminal"
    )]
    PassphraseMissing,
    /// Not PEM of a private key.
    #[error("the key's file is not a private key in PKCS#8 PEM")]
    Pem,
}

/// The key as it is written: encrypted if there is a passphrase.
pub(crate) fn protect(key: &PrivateKey, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, ProtectError> {
    let Some(passphrase) = passphrase else { return Ok(key.to_pem()) };
    let mut salt = [0; 16];
    let mut iv = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_no_randomness| ProtectError::Encrypt)?;
    aws_lc_rs::rand::fill(&mut iv).map_err(|_no_randomness| ProtectError::Encrypt)?;
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P).map_err(|_constant| ProtectError::Encrypt)?;
    let parameters =
        pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|_constant| ProtectError::Encrypt)?;
    let plain = PrivateKeyInfoRef::from_der(key.pkcs8()).map_err(|_library| ProtectError::Encrypt)?;
    let encrypted =
        plain.encrypt_with_params(parameters, passphrase.as_bytes()).map_err(|_library| ProtectError::Encrypt)?;
    Ok(Zeroizing::new(pem::encode(ENCRYPTED, encrypted.as_bytes())))
}

/// Whether a passphrase is needed to read this file.
pub(crate) fn is_encrypted(pem: &[u8]) -> bool {
    section(pem).is_ok_and(|section| section.encrypted)
}

/// Reads a key that [`protect`] wrote.
pub(crate) fn unprotect(pem: &[u8], passphrase: Option<&Passphrase>) -> Result<PrivateKey, ProtectError> {
    let section = section(pem)?;
    if !section.encrypted {
        return Ok(PrivateKey::from_pkcs8(section.der)?);
    }
    let passphrase = passphrase.ok_or(ProtectError::PassphraseMissing)?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(section.der.as_slice()).map_err(|_der| ProtectError::Pem)?;
    // The document wipes itself.
    let plain = encrypted.decrypt(passphrase.as_bytes()).map_err(|_wrong| ProtectError::Decrypt)?;
    Ok(PrivateKey::from_pkcs8(Zeroizing::new(plain.as_bytes().to_vec()))?)
}

struct Section {
    encrypted: bool,
    der: Zeroizing<Vec<u8>>,
}

/// The first key in the text. Read here and not by a library, so that no copy of an open key is left unwiped.
fn section(pem: &[u8]) -> Result<Section, ProtectError> {
    let text = std::str::from_utf8(pem).map_err(|_binary| ProtectError::Pem)?;
    let found = [(false, PLAIN), (true, ENCRYPTED)].into_iter();
    let mut found = found.filter_map(|(encrypted, label)| Some((encrypted, body(text, label)?)));
    let (encrypted, body) = found.next().ok_or(ProtectError::Pem)?;
    // Capacity up front: a vector that grows leaves what it held behind.
    let mut joined = Zeroizing::new(String::with_capacity(body.len()));
    joined.extend(body.split_ascii_whitespace());
    let mut der = Zeroizing::new(Vec::with_capacity(joined.len()));
    STANDARD.decode_vec(joined.as_bytes(), &mut der).map_err(|_not_base64| ProtectError::Pem)?;
    Ok(Section { encrypted, der })
}

fn body<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    rest.split_once(&format!("-----END {label}-----")).map(|(body, _)| body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::key::KeyAlgorithm;

    #[test]
    fn a_protected_key_needs_its_own_passphrase() {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let right = Passphrase::for_test("correct horse");
        let text = protect(&key, Some(&right)).unwrap();
        assert!(is_encrypted(text.as_bytes()));
        assert_eq!(unprotect(text.as_bytes(), Some(&right)).unwrap().pkcs8(), key.pkcs8());
        let wrong = Passphrase::for_test("battery staple");
        assert!(matches!(unprotect(text.as_bytes(), Some(&wrong)), Err(ProtectError::Decrypt)));
        assert!(matches!(unprotect(text.as_bytes(), None), Err(ProtectError::PassphraseMissing)));
    }

    #[test]
    fn an_unprotected_key_is_read_as_it_is() {
        let key = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let text = protect(&key, None).unwrap();
        assert!(!is_encrypted(text.as_bytes()));
        assert_eq!(unprotect(text.as_bytes(), None).unwrap().pkcs8(), key.pkcs8());
        assert!(matches!(unprotect(b"nonsense", None), Err(ProtectError::Pem)));
    }
}
