//! `countersign-ca`: the certificate authority of a Countersign mesh.
//!
//! Modules stand in the order in which a newcomer should read them. [`issue`] is the story; the seven modules after it are
//! its steps. This file is the only place that ends the process, and the only one that asks the system for the time.

mod issue;

mod authenticate;
mod authorize;
mod build;
mod lint;
mod record;
mod sign;

mod deliver;

mod authority;
mod registry;
mod revoke;
mod store;
mod watch;

mod listen;
mod run;
mod systemd;

mod cli;
mod config;

use std::process::ExitCode;
use std::time::SystemTime;

use certs::time::Clock;
use countersign_certs as certs;

#[expect(clippy::disallowed_methods, reason = "the one place where the system's clock becomes the program's Clock")]
fn main() -> ExitCode {
    cli::main(&Clock::new(SystemTime::now))
}
