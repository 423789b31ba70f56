//! Private keys: made where they are used, wiped when dropped, never printed, cloned or serialized.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The kinds of key that this project makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// ECDSA on NIST P-256: the default, because every TLS peer takes it and its signatures are the fastest.
    #[default]
    P256,
    /// ECDSA on NIST P-384, where a rule book asks for 192 bits of strength.
    P384,
}

/// A private key in PKCS#8, wiped from memory when dropped.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

/// Why a private key cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The library could not make a key.
    #[error("no key could be generated")]
    Generate,
    /// The certificate holds another public key.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// Encrypted, of an unknown kind, or not a key at all.
    #[error("the private key cannot be read; an unencrypted PKCS#8, SEC 1 or PKCS#1 key in PEM is expected")]
    Unreadable,
}

impl PrivateKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// The library refuses, which it does only where the system has no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        // The document wipes itself. PKCS#8 version 1 for Ed25519 too, because OpenSSL 3.0 reads no other.
        let document = match algorithm {
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()),
            KeyAlgorithm::P256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
            KeyAlgorithm::P384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
        };
        let document = document.map_err(|_no_randomness| KeyError::Generate)?;
        Ok(Self { pkcs8: Zeroizing::new(document.as_ref().to_vec()) })
    }

    /// Takes a key in PKCS#8 DER.
    ///
    /// # Errors
    /// The bytes are no key of a known kind.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let key = Self { pkcs8 };
        any_supported_type(&key.der()).map_err(|_unknown_kind| KeyError::Unreadable)?;
        Ok(key)
    }

    /// Reads the first PKCS#8 private key of a PEM text, such as [`to_pem`](Self::to_pem) writes.
    ///
    /// # Errors
    /// There is none, or it is encrypted or of an unknown kind.
    pub fn from_pkcs8_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_no_key| KeyError::Unreadable)?;
        let pkcs8 = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        zeroize::Zeroize::zeroize(&mut der);
        Self::from_pkcs8(pkcs8)
    }

    /// Reads the first private key of a PEM text, in PKCS#8, SEC 1 or PKCS#1.
    ///
    /// # Errors
    /// There is none, or it is encrypted or of an unknown kind.
    pub fn from_pem(pem: &[u8]) -> Result<KeyInPem, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_no_key| KeyError::Unreadable)?;
        let key = KeyInPem(der);
        any_supported_type(&key.0).map_err(|_unknown_kind| KeyError::Unreadable)?;
        Ok(key)
    }

    /// PKCS#8 PEM, wiped when dropped. For files of mode 0600 only.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    /// PKCS#8 DER, for encryption at rest.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key as rcgen signs with it.
    ///
    /// # Errors
    /// rcgen cannot use this kind of key.
    pub fn key_pair(&self) -> Result<SigningPair, KeyError> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        Ok(SigningPair(Zeroizing::new(pair.map_err(|_library| KeyError::Unreadable)?)))
    }

    /// The key joined to its chain, ready for TLS.
    ///
    /// # Errors
    /// The chain's leaf holds another public key.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>, KeyError> {
        certify(&self.der(), chain)
    }

    fn der(&self) -> PrivateKeyDer<'_> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()))
    }
}

/// A private key that signs certificates and requests. rcgen does not wipe its own pairs; this one is wiped when dropped.
pub struct SigningPair(Zeroizing<KeyPair>);

impl PublicKeyData for SigningPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SigningPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// A private key read from somebody else's PEM file, in whichever of the three encodings it had. Wiped when dropped.
pub struct KeyInPem(PrivateKeyDer<'static>);

impl KeyInPem {
    /// The key joined to its chain, ready for TLS.
    ///
    /// # Errors
    /// The chain's leaf holds another public key.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>, KeyError> {
        certify(&self.0, chain)
    }
}

impl Drop for KeyInPem {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

fn certify(key: &PrivateKeyDer<'_>, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>, KeyError> {
    let signing_key = any_supported_type(key).map_err(|_unknown_kind| KeyError::Unreadable)?;
    let certified = CertifiedKey::new(chain, signing_key);
    certified.keys_match().map_err(|_differs| KeyError::Mismatch)?;
    Ok(Arc::new(certified))
}
