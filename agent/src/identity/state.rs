//! The state folder: all that an agent needs to start and serve while its CA is away.
//!
//! `enrollment.json` says which CA this host has joined, `trust.json` is what that CA last said of whom to trust, and
//! `svids/` holds one file for each identity, key and chain together, so that no half of a pair can be swapped.

use std::path::{Path, PathBuf};

use countersign_certs::digest::{Fingerprint, hexadecimal, sha256};
use countersign_certs::issuance::TrustUpdate;
use countersign_certs::key::PrivateKey;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, TrustDomain};
use countersign_certs::store::{self, StoreError};
use countersign_certs::svid::{SvidError, X509Svid};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A file that keeps room for a moment, and how much: a chain, a key and a trust update with some revocations.
const ROOM: &str = ".room";
const ROOM_BYTES: usize = 64 * 1024;

/// The state folder of one agent.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

/// Which CA this host has joined, and as whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enrollment {
    /// Address of the CA, `host:port`.
    pub(crate) ca_address: String,
    /// The trust domain that was joined.
    pub(crate) trust_domain: TrustDomain,
    /// The host's own ID.
    pub(crate) host_id: SpiffeId,
    /// The fingerprint of the CA's root, by which the CA is known again if all else is lost. Hosts that joined with an older
    /// agent have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root_fingerprint: Option<Fingerprint>,
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{path} is damaged")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the identity in {path} cannot be used")]
    Svid { path: PathBuf, source: SvidError },
}

/// What the file of an identity holds: key and chain together. Wiped when dropped.
pub(crate) struct SvidFile(Zeroizing<String>);

impl SvidFile {
    /// The contents for a key and its chain in PEM.
    pub(crate) fn new(key: &PrivateKey, chain: &str) -> Self {
        let key = key.to_pem();
        let mut contents = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
        contents.push_str(&key);
        contents.push_str(chain);
        Self(contents)
    }
}

impl StateDir {
    /// The folder at `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes the folders.
    pub(crate) fn create(&self) -> Result<(), StateError> {
        Ok(store::create_folder(&self.0.join("svids"))?)
    }

    /// Finds out whether there is room for what enrolling will store, by storing as much.
    pub(crate) fn check_room(&self) -> Result<(), StateError> {
        Ok(store::write(&self.0.join(ROOM), &[0; ROOM_BYTES])?)
    }

    /// Gives that room back.
    pub(crate) fn free_room(&self) -> Result<(), StateError> {
        Ok(store::remove(&self.0.join(ROOM))?)
    }

    /// What was joined; none before `enroll`.
    pub(crate) fn enrollment(&self) -> Result<Option<Enrollment>, StateError> {
        self.read_json("enrollment.json")
    }

    /// Notes what was joined.
    pub(crate) fn write_enrollment(&self, enrollment: &Enrollment) -> Result<(), StateError> {
        self.write_json("enrollment.json", enrollment)
    }

    /// What the CA last said of whom to trust.
    pub(crate) fn trust(&self) -> Result<Option<TrustUpdate>, StateError> {
        self.read_json("trust.json")
    }

    /// Keeps what the CA said of whom to trust.
    pub(crate) fn write_trust(&self, update: &TrustUpdate) -> Result<(), StateError> {
        self.write_json("trust.json", update)
    }

    /// A stored identity; none if it was never issued.
    pub(crate) fn svid(&self, id: &SpiffeId) -> Result<Option<X509Svid>, StateError> {
        let path = self.svid_path(id);
        let contents = match store::read_secret(&path) {
            Ok(contents) => contents,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        X509Svid::from_pem(&contents, &contents, &San::Spiffe(id.clone()))
            .map(Some)
            .map_err(|source| StateError::Svid { path, source })
    }

    /// Stores an identity.
    pub(crate) fn write_svid(&self, id: &SpiffeId, file: &SvidFile) -> Result<(), StateError> {
        Ok(store::write(&self.svid_path(id), file.0.as_bytes())?)
    }

    /// The file's name tells people the ID's end and is unique by its hash.
    fn svid_path(&self, id: &SpiffeId) -> PathBuf {
        let hash = hexadecimal(&sha256(id.as_str().as_bytes()));
        let hash: String = hash.chars().take(16).collect();
        let last: String = id.segments().last().unwrap_or_default().chars().take(64).collect();
        self.0.join("svids").join(format!("{last}-{hash}.pem"))
    }

    fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        let contents = match store::read(&path) {
            Ok(contents) => contents,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&contents).map(Some).map_err(|source| StateError::Json { path, source })
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.0.join(name);
        let contents = serde_json::to_vec(value).map_err(|source| StateError::Json { path: path.clone(), source })?;
        Ok(store::write(&path, &contents)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_certs::issuance::ANSWER_BYTES_MAX;

    #[test]
    fn what_the_ca_can_say_can_be_read_again_after_a_restart() {
        assert!(u64::try_from(ANSWER_BYTES_MAX).unwrap() <= store::FILE_BYTES_MAX);
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        let update =
            r#"{"generation":3,"trust_domain":"td","bundles":{"td":"{}"},"revocations":{"ids":[],"serials":{}}}"#;
        let update: TrustUpdate = serde_json::from_str(update).unwrap();
        state.write_trust(&update).unwrap();
        // As compact as on the wire: what had room there has room here.
        let stored = store::read(&folder.path().join("trust.json")).unwrap();
        assert_eq!(*stored, serde_json::to_vec(&update).unwrap());
        assert_eq!(state.trust().unwrap(), Some(update));
    }

    #[test]
    fn an_enrollment_of_an_older_agent_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let old = r#"{"ca_address":"ca:8443","trust_domain":"td","host_id":"spiffe://td/countersign/host/a"}"#;
        store::write(&folder.path().join("enrollment.json"), old.as_bytes()).unwrap();
        let enrollment = StateDir::new(folder.path()).enrollment().unwrap().unwrap();
        assert_eq!(enrollment.root_fingerprint, None);
    }
}
