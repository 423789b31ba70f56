//! Notices that a file of the config has changed: by the kernel's word on its folder, by looking every half a minute (no
//! word comes from network file systems), and on SIGHUP.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_certs::digest::sha256;
use countersign_certs::store;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Editors and renewal tools change several files one after the other; this much quiet means that they are done.
const QUIET: Duration = Duration::from_millis(200);

/// How often quiet is waited for.
const PAUSES_MAX: u32 = 5;

/// The largest file that a config can name: that of the API keys.
const WATCHED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How often the files are looked at without any word.
const POLL: Duration = Duration::from_secs(30);

/// Watches a set of files.
pub(crate) struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
    watched: Arc<Watched>,
    digest: [u8; 32],
    stirred: Arc<Notify>,
    /// Something was heard, or it is time to look, and nobody has looked yet.
    unsettled: bool,
    next_look: Instant,
}

/// The files that are watched, as the watching thread knows them.
#[derive(Default)]
struct Watched(Mutex<BTreeSet<PathBuf>>);

impl Watched {
    fn set(&self, files: &[PathBuf]) {
        let targets = files.iter().filter_map(|file| file.canonicalize().ok());
        let paths = files.iter().cloned().chain(targets).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    /// Whether a file that is watched may have changed. What comes and goes in a folder may be a link that leads to one; what
    /// is only written, a log perhaps, concerns us if it is one of the files itself; and that a file was read, by ourselves
    /// above all, never does.
    fn concerns(&self, event: &notify::Result<Event>) -> bool {
        // Something went wrong, and something may have been missed.
        let Ok(event) = event else { return true };
        let written = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => true,
            EventKind::Access(_) => return false,
            EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Other | EventKind::Remove(_) => {
                false
            }
        };
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !written || event.paths.iter().any(|path| watched.contains(path))
    }
}

impl FileWatcher {
    /// Watches nothing yet.
    pub(crate) fn new() -> Self {
        let stirred = Arc::new(Notify::new());
        let watched = Arc::<Watched>::default();
        let (teller, concerned) = (Arc::clone(&stirred), Arc::clone(&watched));
        let watcher = notify::recommended_watcher(move |event| {
            if concerned.concerns(&event) {
                teller.notify_one();
            }
        });
        let watcher = watcher
            .map_err(|error| tracing::warn!(%error, "folders cannot be watched; files are looked at every 30 s"))
            .ok();
        Self {
            watcher,
            folders: BTreeSet::new(),
            files: Vec::new(),
            watched,
            digest: [0; 32],
            stirred,
            unsettled: false,
            next_look: Instant::now() + POLL,
        }
    }

    /// Watches these files from now on. Their folders are what is watched: replacing a file by renaming gives it a new
    /// inode, of which a watch on the old one would never hear.
    pub(crate) fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.files = files.into_iter().collect();
        self.files.sort();
        self.watched.set(&self.files);
        self.digest = digest(&self.files);
        let folders: BTreeSet<PathBuf> = self.files.iter().flat_map(|file| folders_of(file)).collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.difference(&folders) {
            // The folder may have been removed, which ends the watch by itself.
            watcher.unwatch(gone).ok();
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "a folder cannot be watched; its files are looked at every 30 s");
            }
        }
        self.folders = folders;
    }

    /// Returns when the content of a file is another than it was.
    pub(crate) async fn changed(&mut self) {
        loop {
            // Whoever waits here may be called away at any await; what was heard is kept until it is looked at.
            if !self.unsettled {
                tokio::select! {
                    () = self.stirred.notified() => {}
                    () = tokio::time::sleep_until(self.next_look) => {}
                }
                self.unsettled = true;
            }
            // A folder in which something is written all the time is never quiet; a few pauses must do.
            for _ in 0..PAUSES_MAX {
                if tokio::time::timeout(QUIET, self.stirred.notified()).await.is_err() {
                    break;
                }
            }
            self.unsettled = false;
            self.next_look = Instant::now() + POLL;
            let now = digest(&self.files);
            if now != self.digest {
                self.digest = now;
                return;
            }
        }
    }
}

/// The folder of a file, and the folder of what it points to if it is a link, as tools that keep generations make them.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let target = file.canonicalize().ok().and_then(|target| parent(&target));
    parent(file).into_iter().chain(target).collect()
}

/// A fingerprint of all the files together; one that cannot be read counts as empty.
fn digest(files: &[PathBuf]) -> [u8; 32] {
    let mut joined = Vec::with_capacity(files.len() * 32);
    for file in files {
        let contents = store::read_up_to(file, WATCHED_BYTES_MAX).unwrap_or_default();
        joined.extend_from_slice(&sha256(&contents));
    }
    sha256(&joined)
}
