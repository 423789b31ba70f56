//! The key that seals segments, and its public half by which anybody can check the seals.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use countersign_certs::key::{KeyAlgorithm, KeyError, PrivateKey};
use countersign_certs::pem;
use countersign_certs::store::{self, StoreError};

/// The SubjectPublicKeyInfo of an Ed25519 key but for its 32 bytes (RFC 8410 §4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The file of the private key, in PEM and mode 0600.
pub const KEY_FILE: &str = "audit.key";

/// The file of the public key, in PEM.
pub const PUBLIC_KEY_FILE: &str = "audit.pub";

/// Signs seals. Never printed; the library wipes it.
pub struct AuditKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// Checks seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum AuditKeyError {
    /// The library has no randomness, or the file holds no key that it knows.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key of another kind.
    #[error("the audit key is of another kind; an Ed25519 key is expected")]
    NotEd25519,
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No public key in it.
    #[error("no Ed25519 public key in PEM")]
    Unreadable,
}

impl AuditKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<(Self, PrivateKey), AuditKeyError> {
        let private = PrivateKey::generate(KeyAlgorithm::Ed25519)?;
        Ok((Self::of(&private)?, private))
    }

    /// The key in a folder; it is made there if there is none yet. The public key is written beside it, in PEM.
    ///
    /// # Errors
    /// The files cannot be read or written, the private one can be read by every user, or it holds another kind of key.
    pub fn load_or_make(folder: &Path) -> Result<Self, AuditKeyError> {
        let path = folder.join(KEY_FILE);
        let key = match store::read_secret(&path) {
            Ok(pem) => Self::of(&PrivateKey::from_pkcs8_pem(&pem)?)?,
            Err(error) if error.is_not_found() => {
                store::create_folder(folder)?;
                let (key, private) = Self::generate()?;
                store::write(&path, private.to_pem().as_bytes())?;
                key
            }
            Err(error) => return Err(error.into()),
        };
        let (public, pem) = (folder.join(PUBLIC_KEY_FILE), key.public.to_pem());
        // Written only if it is another one, so that a key in a folder that is read-only can be used.
        if store::read(&public).ok().as_deref().map(Vec::as_slice) != Some(pem.as_bytes()) {
            store::write(&public, pem.as_bytes())?;
        }
        Ok(key)
    }

    fn of(private: &PrivateKey) -> Result<Self, AuditKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(private.pkcs8()).map_err(|_another_kind| AuditKeyError::NotEd25519)?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref()).map_err(|_length| AuditKeyError::NotEd25519)?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// An Ed25519 signature (RFC 8032), in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.pair.sign(message))
    }
}

impl PublicKey {
    /// Reads the first public key of a PEM text.
    ///
    /// # Errors
    /// There is none, or it is of another kind.
    pub fn from_pem(text: &[u8]) -> Result<Self, AuditKeyError> {
        let der = pem::public_key(text).ok_or(AuditKeyError::Unreadable)?;
        let key = der.strip_prefix(&SPKI_HEAD).ok_or(AuditKeyError::NotEd25519)?;
        Ok(Self(key.try_into().map_err(|_length| AuditKeyError::NotEd25519)?))
    }

    /// Reads 32 bytes in base64, as lines have them.
    ///
    /// # Errors
    /// The text is something else.
    pub fn from_base64(text: &str) -> Result<Self, AuditKeyError> {
        let bytes = STANDARD.decode(text).map_err(|_no_base64| AuditKeyError::Unreadable)?;
        Ok(Self(bytes.try_into().map_err(|_length| AuditKeyError::Unreadable)?))
    }

    /// 32 bytes in base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// PEM as other tools read it (RFC 8410).
    pub fn to_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &[SPKI_HEAD.as_slice(), &self.0].concat())
    }

    /// Whether this key has signed the message. `signature` is in base64.
    pub fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = AuditKey::load_or_make(folder.path()).unwrap();
        let second = AuditKey::load_or_make(folder.path()).unwrap();
        assert_eq!(first.public(), second.public());
        let mode = std::fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let pem = std::fs::read(folder.path().join(PUBLIC_KEY_FILE)).unwrap();
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), first.public());
        assert!(first.public().has_signed(b"a", &second.sign(b"a")));
        assert!(!first.public().has_signed(b"b", &second.sign(b"a")));
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let other = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        store::write(&folder.path().join(KEY_FILE), other.to_pem().as_bytes()).unwrap();
        assert!(matches!(AuditKey::load_or_make(folder.path()), Err(AuditKeyError::NotEd25519)));
        assert!(PublicKey::from_pem(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err());
        assert!(PublicKey::from_base64("AAAA").is_err());
    }
}
