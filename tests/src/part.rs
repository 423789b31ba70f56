//! The real parts in `tests/parts`: programs that know nothing of this project.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Finished, Process, run};
use crate::tools::{node, parts, python};

/// A model is loaded from disk before a server is ready.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// No part outlives its test by more than this, in seconds, even if the test is killed.
const LIMIT: &str = "300";

/// A server that was started and is ready.
pub struct Part {
    process: Process,
    address: String,
}

impl Part {
    /// Starts `tests/parts/NAME.py`, or `tests/parts/NAME` if that has an ending, and waits until it is ready.
    pub fn serve(name: &str, arguments: &[&str]) -> Self {
        let mut process = Process::start(name, &command(name, arguments));
        let line = process.wait_for_line(READY_WITHIN, "ready", |line| line.starts_with("ready "));
        Self { process, address: line.trim_start_matches("ready ").to_owned() }
    }

    /// `127.0.0.1:PORT` or `unix:/PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The TCP address.
    pub fn tcp(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    /// The backend of a config: `http://127.0.0.1:PORT`, `h2c://...`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The JSON lines that it has printed so far.
    pub fn said(&self) -> Vec<Value> {
        json_lines(&self.process.stdout())
    }

    /// Ends it as a service manager would.
    pub fn stop(mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait_for_end(crate::wait::SOON);
    }
}

/// Runs a caller to its end.
#[track_caller]
pub fn call(name: &str, arguments: &[&str]) -> Finished {
    run(&command(name, arguments))
}

/// Starts a caller that goes on.
pub fn start_call(name: &str, arguments: &[&str]) -> Process {
    Process::start(name, &command(name, arguments))
}

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = if name.ends_with(".mjs") {
        let mut command = Command::new(node());
        command.arg(parts().join(name));
        command
    } else {
        let mut command = Command::new(python());
        command.arg(parts().join(format!("{name}.py")));
        command
    };
    command.args(["--limit", LIMIT]).args(arguments);
    command
}

/// The lines that are JSON.
pub fn json_lines(lines: &[String]) -> Vec<Value> {
    lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Finished {
    /// The JSON lines that were printed.
    pub fn json(&self) -> Vec<Value> {
        json_lines(&self.stdout.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
    }

    /// The last of them: a caller's result.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn result(&self) -> Value {
        self.json().pop().unwrap_or_else(|| panic!("no result: {self:?}"))
    }
}
