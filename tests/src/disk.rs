//! A disk that can be filled: a small file system in memory. Needs root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::run;
use crate::tools::{self, need_root};

/// A small disk. It is unmounted when this is dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many KiB.
    ///
    /// # Panics
    /// This process is not root.
    pub fn new(kib: u32) -> Self {
        need_root("a test with a full disk");
        let disk = Self { folder: tools::folder() };
        let size = format!("size={kib}k,mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "countersign-test"]).arg(disk.path())).success();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut filler = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for size in [64 * 1024, 4096, 512, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that is about to end may still have a file open.
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}
