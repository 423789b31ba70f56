//! A real `redis-server`, in which agents count together.

use std::process::Command;

use rustix::process::Signal;

use crate::pki::CertificateFiles;
use crate::process::Process;
use crate::{tools, wait};

/// A server on a port of its own. It keeps nothing on disk.
pub struct TestStore {
    process: Option<Process>,
    port: u16,
    certificate: Option<CertificateFiles>,
    password: Option<String>,
}

impl TestStore {
    /// Starts it.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start() -> Self {
        let mut store = Self { process: None, port: tools::free_port(), certificate: None, password: None };
        store.start_again();
        store
    }

    /// Starts one that takes TLS only, with this certificate, and wants a password.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start_guarded(certificate: CertificateFiles, password: &str) -> Self {
        let (certificate, password) = (Some(certificate), Some(password.to_owned()));
        let mut store = Self { process: None, port: tools::free_port(), certificate, password };
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
        let port = self.port.to_string();
        match &self.certificate {
            None => command.args(["--port", &port]),
            Some(CertificateFiles { chain, key }) => {
                command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
                command.arg("--tls-cert-file").arg(chain).arg("--tls-key-file").arg(key);
                // A file of authorities is demanded, also where nobody is asked for a certificate.
                command.arg("--tls-ca-cert-file").arg(chain)
            }
        };
        command.args(self.password.iter().flat_map(|password| ["--requirepass", password]));
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
        match self.certificate {
            None => format!("redis://127.0.0.1:{}", self.port),
            Some(_) => format!("rediss://localhost:{}", self.port),
        }
    }
}
