//! A clock that goes wrong, for one program.

use std::path::{Path, PathBuf};

use crate::agent::TestAgent;
use crate::tools;

/// A library that lies about the time to one process; how far is in a file.
pub struct WrongClock(PathBuf);

impl WrongClock {
    /// The library of this machine.
    ///
    /// # Panics
    /// It cannot be installed.
    pub fn find() -> Self {
        tools::python();
        let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
        let library = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        Self(library.expect("libfaketime is missing: apt-get install faketime"))
    }

    /// An agent that goes by it. The file holds how far the clock is off: `+0`, `-2h`.
    pub fn give(&self, agent: TestAgent, offset: &Path) -> TestAgent {
        agent
            .with_environment("LD_PRELOAD", self.0.to_str().unwrap())
            .with_environment("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
            .with_environment("FAKETIME_NO_CACHE", "1")
            .with_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}
