//! `init`: a new CA. It is made in a folder of its own inside of DIR and moved into place at the end; whatever fails leaves
//! nothing behind.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::slice;

use serde_json::json;
use zeroize::Zeroizing;

use super::Said;
use super::arguments::InitArguments;
use crate::authority::{AuthorityError, Made, ProtectError, make, protect};
use crate::certs::digest::hexadecimal;
use crate::certs::digest::sha256;
use crate::certs::pem::encode_certificates;
use crate::certs::san::DnsName;
use crate::certs::store::{self as files, StoreError as FileError};
use crate::certs::time::Clock;
use crate::config::{CONFIG_FILE, Files, Passphrase, PassphraseError, PassphraseSource, Template, write_template};
use crate::record::Event;
use crate::store::{Change, Store, StoreError, Write};

/// Where the CA is made before it is moved into place.
const WORKSHOP: &str = ".init";

/// Everything that a new CA consists of, in the order in which it is moved; with the config the CA exists.
const MADE: [&str; 6] =
    [Files::ROOT_KEY, Files::ROOT, Files::INTERMEDIATE_KEY, Files::INTERMEDIATE, Files::STORE, CONFIG_FILE];

const UNPROTECTED: &str = "\
WARNING: THE PRIVATE KEYS OF THIS CA ARE NOT ENCRYPTED.
WARNING: Whoever can read root.key or intermediate.key can be every host and every service of the mesh.
WARNING: For anything but a trial, make the CA again with --passphrase-file or the systemd credential ca_passphrase.
";

/// Why no CA was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{found} exists: {dir} already holds a CA, which is left as it is; choose another --dir")]
    Exists { dir: PathBuf, found: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {operation} failed")]
    Folder { path: PathBuf, operation: &'static str, source: io::Error },
    #[error("no host can reach {listen}, and this host's name {found:?} is no DNS name; give --name ca.prod.example")]
    Name { listen: std::net::SocketAddr, found: String },
    #[error(
        "no passphrase for the CA's keys: give --passphrase-file FILE, or the systemd credential ca_passphrase, or start at a \
         terminal; to leave the keys unencrypted, say --no-passphrase"
    )]
    NoPassphrase,
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error(transparent)]
    Protect(#[from] ProtectError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} is there: another init runs, or one was killed; if none runs, remove it and try again")]
    Unfinished { path: PathBuf },
}

pub(super) async fn run(arguments: InitArguments, clock: &Clock) -> Result<Said, InitError> {
    refuse_existing(&arguments.dir)?;
    let name = name(&arguments)?;
    let source = passphrase_source(&arguments)?;
    let passphrase = source.as_ref().map(PassphraseSource::read_new).transpose()?;
    let made = make(&arguments.trust_domain, arguments.key_algorithm, clock.now())?;
    let workshop = Workshop::open(&arguments.dir)?;
    write_keys(&workshop, &made, passphrase.as_ref())?;
    write_store(&workshop, &made, clock).await?;
    let template = Template {
        trust_domain: &arguments.trust_domain,
        name: name.as_ref(),
        listen: arguments.listen,
        passphrase: source.as_ref(),
    };
    files::write(&workshop.path(CONFIG_FILE), write_template(&template).as_bytes())?;
    workshop.finish()?;
    Ok(report(&arguments, &made, passphrase.is_some()))
}

fn refuse_existing(dir: &Path) -> Result<(), InitError> {
    match MADE.iter().map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok()) {
        Some(found) => Err(InitError::Exists { dir: dir.to_owned(), found }),
        None => Ok(()),
    }
}

/// The name by which hosts reach the CA. An address that they can reach needs none.
fn name(arguments: &InitArguments) -> Result<Option<DnsName>, InitError> {
    if arguments.name.is_some() || !arguments.listen.ip().is_unspecified() {
        return Ok(arguments.name.clone());
    }
    let found = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let refused = |_no_dns_name| InitError::Name { listen: arguments.listen, found: found.clone() };
    DnsName::parse(&found).map(Some).map_err(refused)
}

fn passphrase_source(arguments: &InitArguments) -> Result<Option<PassphraseSource>, InitError> {
    if arguments.no_passphrase {
        return Ok(None);
    }
    let Some(path) = &arguments.passphrase_file else {
        return PassphraseSource::find().map(Some).ok_or(InitError::NoPassphrase);
    };
    // `serve` may run in another folder.
    let absolute = std::path::absolute(path);
    let failed = |source| InitError::Folder { path: path.clone(), operation: "finding", source };
    Ok(Some(PassphraseSource::File(absolute.map_err(failed)?)))
}

fn write_keys(workshop: &Workshop, made: &Made, passphrase: Option<&Passphrase>) -> Result<(), InitError> {
    let (root, intermediate) = (made.authority.root(), made.authority.intermediate());
    files::write(&workshop.path(Files::ROOT_KEY), protect(&made.root_key, passphrase)?.as_bytes())?;
    files::write(&workshop.path(Files::INTERMEDIATE_KEY), protect(&made.intermediate_key, passphrase)?.as_bytes())?;
    files::write(&workshop.path(Files::ROOT), encode_certificates(slice::from_ref(root)).as_bytes())?;
    files::write(&workshop.path(Files::INTERMEDIATE), encode_certificates(slice::from_ref(intermediate)).as_bytes())?;
    Ok(())
}

async fn write_store(workshop: &Workshop, made: &Made, clock: &Clock) -> Result<(), InitError> {
    let path = workshop.path(Files::STORE);
    // An empty file of mode 0600 first: SQLite keeps the mode, for its own files beside it too.
    files::write(&path, b"")?;
    let event = Event::Initialized {
        trust_domain: made.authority.trust_domain().to_string(),
        root_sha256: hexadecimal(&made.authority.root_fingerprint()),
        intermediate_sha256: hexadecimal(&sha256(made.authority.intermediate())),
    };
    Ok(Store::create(&path, &Write::new(Change::Nothing, &event, clock.now())?).await?)
}

fn report(arguments: &InitArguments, made: &Made, encrypted: bool) -> Said {
    let config = arguments.dir.join(CONFIG_FILE);
    let fingerprint = hexadecimal(&made.authority.root_fingerprint());
    let mut talk = if encrypted { String::new() } else { UNPROTECTED.to_owned() };
    talk.push_str(&format!(
        "made the CA of {} in {}; the line on standard output is the SHA-256 fingerprint of its root\n\
         move {} to a medium that lies in a safe; it is needed only to renew the intermediate\n\
         next: countersign-ca serve --config {}\n",
        arguments.trust_domain,
        arguments.dir.display(),
        arguments.dir.join(Files::ROOT_KEY).display(),
        config.display(),
    ));
    let data = if arguments.json.wanted {
        let facts = json!({
            "trust_domain": arguments.trust_domain,
            "root_sha256": fingerprint,
            "config": config,
            "keys_encrypted": encrypted,
        });
        format!("{facts}\n")
    } else {
        format!("{fingerprint}\n")
    };
    Said { data: Zeroizing::new(data), talk }
}

/// The folder in which the CA is made. Dropping it removes it, and what it was moved to if not everything could be.
struct Workshop {
    dir: PathBuf,
    made_dir: bool,
    moved: Vec<PathBuf>,
    finished: bool,
}

impl Workshop {
    fn open(dir: &Path) -> Result<Self, InitError> {
        let made_dir = !dir.exists();
        files::create_folder(dir)?;
        let inside = dir.join(WORKSHOP);
        DirBuilder::new().mode(0o700).create(&inside).map_err(|source| {
            let path = inside.clone();
            if source.kind() == io::ErrorKind::AlreadyExists {
                InitError::Unfinished { path }
            } else {
                InitError::Folder { path, operation: "creating the folder", source }
            }
        })?;
        Ok(Self { dir: dir.to_owned(), made_dir, moved: Vec::new(), finished: false })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(WORKSHOP).join(name)
    }

    /// Moves everything into place, and nothing over anything.
    fn finish(mut self) -> Result<(), InitError> {
        for name in MADE {
            let place = self.dir.join(name);
            let failed = |source| InitError::Folder { path: place.clone(), operation: "moving into place", source };
            fs::hard_link(self.path(name), &place).map_err(failed)?;
            self.moved.push(place);
        }
        let folder = fs::File::open(&self.dir).and_then(|folder| folder.sync_all());
        folder.map_err(|source| InitError::Folder { path: self.dir.clone(), operation: "flushing", source })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What cannot be removed either is named by the next init.
        fs::remove_dir_all(self.dir.join(WORKSHOP)).ok();
        if self.finished {
            return;
        }
        for path in &self.moved {
            fs::remove_file(path).ok();
        }
        if self.made_dir {
            fs::remove_dir(&self.dir).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_that_cannot_be_moved_into_place_is_taken_away_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let workshop = Workshop::open(&dir).unwrap();
        for name in MADE {
            files::write(&workshop.path(name), b"new").unwrap();
        }
        // Somebody else was faster, by one file.
        fs::write(dir.join(CONFIG_FILE), "theirs").unwrap();
        assert!(matches!(workshop.finish(), Err(InitError::Folder { .. })));
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [CONFIG_FILE]);
        assert_eq!(fs::read_to_string(dir.join(CONFIG_FILE)).unwrap(), "theirs");
    }

    #[test]
    fn two_inits_at_the_same_time_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let first = Workshop::open(folder.path()).unwrap();
        assert!(matches!(Workshop::open(folder.path()), Err(InitError::Unfinished { .. })));
        files::write(&first.path(CONFIG_FILE), b"").unwrap();
    }
}
