//! Files that are either the old ones or the new ones, never half of each, and that only their owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

/// Largest file that [`read`] takes, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{path}: {operation} failed")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could put another program in its place.
    #[error("{path} has mode {mode:04o} and owner {owner}: others than root and user {user} could change what is run")]
    Changeable {
        /// The program, or a folder above it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner, by number.
        owner: u32,
        /// The user who would run it, by number.
        user: u32,
    },
    /// Anybody on the host could read a secret.
    #[error("{path} has mode {mode:04o} and every user can read it; run: chmod o-rwx {path}")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than it may be.
    #[error("{path} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is taken.
        limit: u64,
    },
}

impl StoreError {
    fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, operation, source }
    }

    /// Whether the file simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Makes a folder, and its parents, that only the owner can enter. Leaves one that exists as it is.
///
/// # Errors
/// The folder cannot be made.
pub fn create_folder(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io(path, "creating the folder"))
}

/// Replaces a file as a whole: a temporary file beside it (mode 0600), flushed to disk, renamed over it, and the folder
/// flushed too. After a crash the file is the old or the new one.
///
/// # Errors
/// Any step failed, for example on a full disk; the old file is untouched then.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The number keeps two threads that write the same file from renaming each other's half.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}.{number}.new", std::process::id()));
    let written = write_and_rename(&temporary, path, contents);
    if written.is_err() {
        // The failed half must not stay behind; that it cannot be removed either changes nothing for the caller.
        fs::remove_file(&temporary).ok();
    }
    written?;
    let folder_file = File::open(folder).map_err(StoreError::io(folder, "opening the folder"))?;
    folder_file.sync_all().map_err(StoreError::io(folder, "flushing the folder"))
}

fn write_and_rename(temporary: &Path, path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    fs::remove_file(temporary).or_else(ignore_not_found).map_err(StoreError::io(temporary, "removing a leftover"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(StoreError::io(temporary, "creating"))?;
    file.write_all(contents).map_err(StoreError::io(temporary, "writing"))?;
    file.sync_all().map_err(StoreError::io(temporary, "flushing"))?;
    fs::rename(temporary, path).map_err(StoreError::io(path, "replacing"))
}

fn ignore_not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes the temporary files that writers of this file left beside it when they were killed: they may hold a secret. Those
/// of a process that runs are not touched. To be called before this process writes the file.
///
/// # Errors
/// The folder cannot be read, or a file not be removed.
pub fn remove_leftovers(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for entry in fs::read_dir(folder).map_err(StoreError::io(folder, "reading the folder"))? {
        let entry = entry.map_err(StoreError::io(folder, "reading the folder"))?.file_name();
        let entry = entry.to_string_lossy();
        let numbers = entry.strip_prefix(&format!(".{name}.")).and_then(|rest| rest.strip_suffix(".new"));
        let writer = numbers.and_then(|numbers| numbers.split_once('.')?.0.parse::<u32>().ok());
        let runs = |id: u32| id != std::process::id() && Path::new("/proc").join(id.to_string()).exists();
        if writer.is_some_and(|id| !runs(id)) {
            remove(&folder.join(&*entry))?;
        }
    }
    Ok(())
}

/// Removes a file; one that is not there is removed already.
///
/// # Errors
/// The system refused.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).or_else(ignore_not_found).map_err(StoreError::io(path, "removing"))
}

/// Keeps every other program that asks for the same lock waiting, until it is dropped.
#[must_use]
pub struct Lock(#[allow(dead_code, reason = "the file is locked while it is open")] File);

/// Waits for the lock of a file that is read, changed and written. The lock is a file of its own, because a written file is a new one.
///
/// # Errors
/// The lock's file cannot be made or locked.
pub fn lock(path: &Path) -> Result<Lock, StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let path = path.with_file_name(name);
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(StoreError::io(&path, "creating"))?;
    file.lock().map_err(StoreError::io(&path, "locking"))?;
    Ok(Lock(file))
}

/// The user who owns a file or folder, by number.
///
/// # Errors
/// It cannot be looked at.
pub fn owner(path: &Path) -> Result<u32, StoreError> {
    fs::metadata(path).map(|metadata| metadata.uid()).map_err(StoreError::io(path, "looking at"))
}

/// Whether nobody but root and `user` can change what is run as a program: neither the file, nor a folder above it. Links on the
/// way are looked at too.
///
/// # Errors
/// It is not there, or somebody else can change it.
pub fn check_program(path: &Path, user: u32) -> Result<(), StoreError> {
    const WRITABLE_BY_GROUP_OR_OTHERS: u32 = 0o022;
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let program = fs::canonicalize(path).map_err(StoreError::io(path, "looking at"))?;
    for place in path.ancestors().chain(program.ancestors()) {
        let metadata = fs::symlink_metadata(place).map_err(StoreError::io(place, "looking at"))?;
        let (mode, owner) = (metadata.mode(), metadata.uid());
        let writable = if metadata.is_symlink() {
            // A link has no mode of its own; it is its owner's.
            false
        } else if metadata.is_dir() {
            // In a sticky folder nobody removes what is somebody else's. Groups keep folders such as /usr/local on some systems.
            mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0
        } else {
            mode & WRITABLE_BY_GROUP_OR_OTHERS != 0
        };
        if writable || (owner != 0 && owner != user) {
            return Err(StoreError::Changeable { path: place.to_owned(), mode: mode & 0o7777, owner, user });
        }
    }
    Ok(())
}

/// Reads a whole file of bounded size.
///
/// # Errors
/// It cannot be read or is too large.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    read_up_to(path, FILE_BYTES_MAX)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read or is too large.
pub fn read_up_to(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "opening"))?;
    read_open(path, file, limit)
}

/// Reads a file that holds a secret, and refuses if every user of the host could read it too.
///
/// # Errors
/// It cannot be read, is too large, or is readable by others than owner and group.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "opening"))?;
    let mode = file.metadata().map_err(StoreError::io(path, "looking at"))?.mode();
    if mode & 0o007 != 0 {
        return Err(StoreError::Readable { path: path.to_owned(), mode: mode & 0o7777 });
    }
    read_open(path, file, FILE_BYTES_MAX)
}

fn read_open(path: &Path, file: File, limit: u64) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let bytes = file.metadata().map_err(StoreError::io(path, "looking at"))?.len();
    if bytes > limit {
        return Err(StoreError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    // One byte over the limit shows a file that grew since; capacity up front, so that no copy is left unwiped.
    let capacity = usize::try_from(bytes).unwrap_or(0).saturating_add(1);
    let mut contents = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limit.saturating_add(1)).read_to_end(&mut contents).map_err(StoreError::io(path, "reading"))?;
    let read = u64::try_from(contents.len()).unwrap_or(u64::MAX);
    if read > limit {
        return Err(StoreError::TooLarge { path: path.to_owned(), bytes: read, limit });
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_written_file_is_whole_private_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("svid.pem");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_slice(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writers_at_the_same_time_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.pem");
        std::thread::scope(|scope| {
            for byte in *b"abcdefgh" {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write(path, &[byte; 100_000]).unwrap()));
            }
        });
        let contents = read(&path).unwrap();
        assert_eq!(contents.len(), 100_000);
        assert!(contents.iter().all(|byte| *byte == contents[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new").is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_secret(&path), Err(StoreError::Readable { mode: 0o644, .. })));
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.key");
        let (killed, running) = (format!(".ca.key.{}.0.new", u32::MAX), ".ca.key.1.0.new");
        let own = format!(".ca.key.{}.7.new", std::process::id());
        for name in ["ca.key", &killed, running, &own, ".other.key.4294967295.0.new", ".ca.key.new", ".ca.key.x.0.new"]
        {
            fs::write(folder.path().join(name), "secret").unwrap();
        }
        remove_leftovers(&path).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [running, ".ca.key.new", ".ca.key.x.0.new", ".other.key.4294967295.0.new", "ca.key"]);
    }

    #[test]
    fn a_program_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let user = fs::metadata(folder.path()).unwrap().uid();
        let (inner, link) = (folder.path().join("bin"), folder.path().join("link"));
        let program = inner.join("program");
        fs::create_dir(&inner).unwrap();
        fs::write(&program, "#!/bin/sh").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let check = |inner_mode, program_mode, user, expected: Option<&Path>| {
            fs::set_permissions(&inner, fs::Permissions::from_mode(inner_mode)).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(program_mode)).unwrap();
            for path in [&program, &link] {
                let found = match check_program(path, user) {
                    Ok(()) => None,
                    Err(StoreError::Changeable { path, .. }) => Some(path),
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(found.as_deref(), expected, "{inner_mode:o} {program_mode:o}");
            }
        };
        check(0o755, 0o755, user, None);
        check(0o775, 0o755, user, None);
        check(0o755, 0o775, user, Some(&program));
        check(0o755, 0o757, user, Some(&program));
        check(0o757, 0o755, user, Some(&inner));
        check(0o1777, 0o755, user, None);
        assert!(check_program(&folder.path().join("absent"), user).is_err_and(|error| error.is_not_found()));
        if user != 0 {
            assert!(matches!(check_program(&program, user + 1), Err(StoreError::Changeable { .. })));
        }
    }

    #[test]
    fn a_huge_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(StoreError::TooLarge { .. })));
    }
}
