//! A new intermediate under the same root: a new key and a new certificate, recorded before the root's key is used and before
//! they are put in place. Everybody trusts the root, so certificates under the old one stay good until their own end.
//!
//! Key and certificate are two files. The certificate is what counts: its key is first laid beside the old one, and
//! [`super::Authority::signer`] finds it there if the last step was not reached.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::slice;

use rcgen::{CertificateParams, Issuer, PublicKeyData};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::make::{intermediate, intermediate_params};
use super::{Authority, AuthorityError, ProtectError, is_encrypted, protect, spki_of, unprotect};
use crate::certs::digest::hexadecimal;
use crate::certs::digest::sha256;
use crate::certs::key::{KeyAlgorithm, KeyError, PrivateKey, SigningPair};
use crate::certs::pem::encode_certificates;
use crate::certs::store::{self, StoreError};
use crate::certs::time::{Timestamp, Validity};
use crate::config::{Files, Passphrase};
use crate::record::{Event, Journal, Unrecorded};

/// Why there is no new intermediate. The old one is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewError {
    /// The certificates in place, or the new one, are no authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Two at the same time would mix their files.
    #[error("another renewal runs")]
    Busy,
    /// No new key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The lock cannot be taken.
    #[error("{path} cannot be locked")]
    Lock { path: PathBuf, source: std::io::Error },
    /// A key cannot be decrypted or encrypted.
    #[error(transparent)]
    Protect(#[from] ProtectError),
    /// It was not recorded, and therefore not done.
    #[error(transparent)]
    Record(#[from] Unrecorded),
    /// The root cannot sign any more.
    #[error("the root is valid until {end}, it is {now}; a new CA must be made")]
    RootEnded { end: Timestamp, now: Timestamp },
    /// It is kept elsewhere.
    #[error(
        "{path} is not there; bring the root's key here for as long as this takes, and name it with --root-key FILE"
    )]
    RootKeyElsewhere { path: PathBuf },
    /// Another key.
    #[error("{path} does not hold the key of the root certificate")]
    RootKeyMismatch { path: PathBuf },
    /// A file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key and the certificate that it is to have.
struct Prepared {
    key: PrivateKey,
    params: CertificateParams,
    validity: Validity,
}

/// Whether a passphrase is needed to renew with this root key.
pub(crate) fn needs_passphrase(files: &Files, root_key: &Path) -> Result<bool, RenewError> {
    Ok(is_encrypted(&read_root_key(root_key)?) || is_encrypted(&store::read_secret(&files.intermediate_key)?))
}

/// Renews the intermediate; gives the authority as it is from now on.
pub(crate) async fn renew(
    old: &Authority,
    files: &Files,
    root_key: &Path,
    passphrase: Option<&Passphrase>,
    journal: &Journal,
    now: Timestamp,
) -> Result<Authority, RenewError> {
    let _lock = lock(&files.root)?;
    let root_pair = root_pair(old, root_key, passphrase)?;
    settle(old, files, passphrase)?;
    let prepared = prepare(old, &root_pair, now)?;
    journal.note(intended(&prepared)?).await?;
    let new = sign(old, root_pair, &prepared)?;
    journal.note(issued(&new, &prepared)).await?;
    put_in_place(files, &new, &protect(&prepared.key, passphrase)?)?;
    Ok(new)
}

/// Held until it is dropped.
fn lock(path: &Path) -> Result<File, RenewError> {
    let failed = |source| RenewError::Lock { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RenewError::Busy),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn read_root_key(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, RenewError> {
    store::read_secret(path).map_err(|error| {
        if error.is_not_found() { RenewError::RootKeyElsewhere { path: path.to_owned() } } else { error.into() }
    })
}

fn root_pair(old: &Authority, path: &Path, passphrase: Option<&Passphrase>) -> Result<SigningPair, RenewError> {
    let pair = unprotect(&read_root_key(path)?, passphrase)?.key_pair()?;
    if spki_of(old.root()) != Some(pair.subject_public_key_info()) {
        return Err(RenewError::RootKeyMismatch { path: path.to_owned() });
    }
    Ok(pair)
}

/// Ends a renewal that was killed: a key that waits beside the old one is in use, or nobody's.
fn settle(old: &Authority, files: &Files, passphrase: Option<&Passphrase>) -> Result<(), RenewError> {
    let waiting = match store::read_secret(&files.next_intermediate_key()) {
        Ok(waiting) => waiting,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if old.signer_with(&unprotect(&waiting, passphrase)?)?.is_some() {
        store::write(&files.intermediate_key, &waiting)?;
    }
    Ok(store::remove(&files.next_intermediate_key())?)
}

/// The kind of key is the root's, as `init` chose it.
fn prepare(old: &Authority, root_pair: &SigningPair, now: Timestamp) -> Result<Prepared, RenewError> {
    let root = old.root_validity();
    if !root.contains(now) {
        return Err(RenewError::RootEnded { end: root.not_after, now });
    }
    let algorithm = match root_pair.algorithm() {
        kind if kind == &rcgen::PKCS_ED25519 => KeyAlgorithm::Ed25519,
        kind if kind == &rcgen::PKCS_ECDSA_P384_SHA384 => KeyAlgorithm::P384,
        _ => KeyAlgorithm::P256,
    };
    let (params, validity) = intermediate_params(old.trust_domain(), now, root)?;
    Ok(Prepared { key: PrivateKey::generate(algorithm)?, params, validity })
}

fn intended(prepared: &Prepared) -> Result<Event, RenewError> {
    Ok(Event::IntermediateIntended {
        serial: serial(prepared),
        not_before: prepared.validity.not_before.to_string(),
        not_after: prepared.validity.not_after.to_string(),
        key_sha256: hexadecimal(&sha256(&prepared.key.key_pair()?.subject_public_key_info())),
    })
}

fn issued(new: &Authority, prepared: &Prepared) -> Event {
    Event::IntermediateIssued { serial: serial(prepared), certificate_sha256: hexadecimal(&sha256(new.intermediate())) }
}

fn serial(prepared: &Prepared) -> String {
    prepared.params.serial_number.as_ref().map(|serial| hexadecimal(serial.as_ref())).unwrap_or_default()
}

/// The root's key is used here, once, and wiped.
fn sign(old: &Authority, root_pair: SigningPair, prepared: &Prepared) -> Result<Authority, RenewError> {
    let issuer = Issuer::from_ca_cert_der(old.root(), root_pair).map_err(AuthorityError::Generate)?;
    let certificate: CertificateDer<'static> = intermediate(&prepared.params, &prepared.key.key_pair()?, &issuer)?;
    Ok(Authority::new(old.trust_domain().clone(), old.root().clone(), certificate)?)
}

fn put_in_place(files: &Files, new: &Authority, key: &str) -> Result<(), RenewError> {
    store::write(&files.next_intermediate_key(), key.as_bytes())?;
    store::write(&files.intermediate, encode_certificates(slice::from_ref(new.intermediate())).as_bytes())?;
    store::write(&files.intermediate_key, key.as_bytes())?;
    Ok(store::remove(&files.next_intermediate_key())?)
}
