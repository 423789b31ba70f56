//! A real `redis-server`, in which agents count together.

use std::process::Command;

use rustix::process::Signal;

use crate::process::Process;
use crate::{tools, wait};

/// A server on a port of its own. It keeps nothing on disk.
pub struct TestStore {
    process: Option<Process>,
    port: u16,
}

impl TestStore {
    /// Starts it.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start() -> Self {
        let mut store = Self { process: None, port: tools::free_port() };
        store.start_again();
        store
    }

    /// Starts it on the same port. It remembers nothing.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"]);
        command.args(["--port", &self.port.to_string()]);
        let mut process = Process::start("redis-server (tests/parts/install installs it)", &command);
        process.wait_for_line(wait::SOON, "it is ready", |line| line.contains("Ready to accept connections"));
        self.process = Some(process);
    }

    /// Ends it.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::KILL);
        process.wait_for_end(wait::SOON);
    }

    /// From now on it takes connections, and answers nothing.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn hang(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::STOP);
    }

    /// It goes on.
    ///
    /// # Panics
    /// It does not run.
    #[track_caller]
    pub fn go_on(&mut self) {
        self.process.as_mut().unwrap().signal(Signal::CONT);
    }

    /// For a config.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}
