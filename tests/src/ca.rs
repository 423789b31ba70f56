//! A certificate authority as its operator sees it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::TestHost;
use crate::pki::write_by_rename;
use crate::process::{Finished, Process, run};
use crate::tools;
use crate::wait;

/// A CA with a folder of its own. Dropping it ends it.
pub struct TestCa {
    // Before the folder: fields are dropped in this order.
    process: Option<Process>,
    folder: TempDir,
    trust_domain: String,
    listen: SocketAddr,
    host: Option<Arc<TestHost>>,
}

impl TestCa {
    /// `init` on this machine; nothing runs yet. Its keys are not encrypted: deriving a key from a passphrase takes a debug
    /// build many seconds.
    pub fn init(trust_domain: &str) -> Self {
        Self::init_in(tools::folder(), trust_domain, tools::free_address(), &["--no-passphrase"])
    }

    /// The same at an address of the test's choice.
    pub fn init_at(trust_domain: &str, listen: SocketAddr) -> Self {
        Self::init_in(tools::folder(), trust_domain, listen, &["--no-passphrase"])
    }

    /// The same with encrypted keys, as an operator makes it.
    pub fn init_encrypted(trust_domain: &str) -> Self {
        let folder = tools::folder();
        let passphrase = folder.path().join("passphrase");
        write_by_rename(&passphrase, "correct horse battery staple\n");
        let passphrase = passphrase.to_str().unwrap().to_owned();
        Self::init_in(folder, trust_domain, tools::free_address(), &["--passphrase-file", &passphrase])
    }

    /// The same in this folder, which may be on a small disk.
    pub fn init_in(folder: TempDir, trust_domain: &str, listen: SocketAddr, keys: &[&str]) -> Self {
        let ca = Self { process: None, folder, trust_domain: trust_domain.to_owned(), listen, host: None };
        ca.initialise("localhost", keys);
        ca
    }

    /// `init` on a host of its own.
    pub fn init_on(host: &Arc<TestHost>, trust_domain: &str) -> Self {
        let listen = SocketAddr::from((host.address(), 8443));
        let (folder, host) = (tools::folder(), Some(Arc::clone(host)));
        let ca = Self { process: None, folder, trust_domain: trust_domain.to_owned(), listen, host };
        ca.initialise("ca.test", &["--no-passphrase"]);
        ca.change_config(|text| {
            let line = text.lines().find(|line| line.starts_with("# advertise =")).unwrap().to_owned();
            text.replace(&line, &format!("advertise = \"{listen}\""))
        });
        ca
    }

    fn initialise(&self, name: &str, keys: &[&str]) {
        let (dir, listen) = (self.dir(), self.listen.to_string());
        let places = ["--dir", dir.to_str().unwrap(), "--listen", &listen, "--name", name];
        let domain = ["--trust-domain", &self.trust_domain];
        run(self.command().arg("init").args(domain).args(places).args(keys)).success();
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// Its config file.
    pub fn config_path(&self) -> PathBuf {
        self.dir().join("ca.toml")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    fn command(&self) -> Command {
        match &self.host {
            Some(host) => host.command(tools::ca_path()),
            None => tools::ca(),
        }
    }

    /// Runs `COMMAND [SUBCOMMAND] --config CONFIG ARGUMENTS...` to its end.
    #[track_caller]
    pub fn ask(&self, command: &[&str], arguments: &[&str]) -> Finished {
        run(self.command().args(command).arg("--config").arg(self.config_path()).args(arguments))
    }

    /// Edits its config.
    pub fn change_config(&self, change: impl FnOnce(String) -> String) {
        let path = self.config_path();
        let text = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, text).unwrap();
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(&mut self) {
        let mut command = self.command();
        command.arg("serve").arg("--config").arg(self.config_path());
        let mut process = Process::start("ca", &command);
        let listen = self.listen;
        wait::until_so("the CA listens", || {
            assert_eq!(process.poll_end(), None, "the CA has ended: {:?}", process.stderr());
            match &self.host {
                None => TcpStream::connect(listen).is_ok(),
                Some(host) => {
                    let script = format!("exec 3<>/dev/tcp/{}/{}", listen.ip(), listen.port());
                    run(host.command(Path::new("/bin/bash")).args(["-c", &script])).code == Some(0)
                }
            }
        });
        self.process = Some(process);
    }

    /// Asks it to end, and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::TERM);
        let status = process.wait_for_end(wait::SOON);
        assert_eq!(status.code(), Some(0), "the CA ends well: {:?}", process.stderr());
    }

    /// The process.
    ///
    /// # Panics
    /// It was not started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Grants an identity to a host.
    #[track_caller]
    pub fn grant(&self, host: &str, id: &str, more: &[&str]) {
        self.ask(&["entry", "add"], &[&["--host", host, "--id", id], more].concat()).success();
    }

    /// Makes a join token.
    #[track_caller]
    pub fn token(&self, host: &str) -> String {
        self.token_for(host, "10m")
    }

    /// Makes a join token that can be spent for so long.
    #[track_caller]
    pub fn token_for(&self, host: &str, ttl: &str) -> String {
        self.ask(&["token", "create"], &["--host", host, "--ttl", ttl]).success().trim().to_owned()
    }

    /// Revokes an identity.
    #[track_caller]
    pub fn revoke(&self, id: &str) {
        self.ask(&["revoke"], &["--id", id]).success();
    }

    /// Lifts the revocation of an identity.
    #[track_caller]
    pub fn lift(&self, id: &str) {
        self.ask(&["revoke"], &["--lift", "--id", id]).success();
    }

    /// The lines of the journal of this kind.
    #[track_caller]
    pub fn journal_of(&self, kind: &str) -> Vec<Value> {
        self.journal().into_iter().filter(|line| line["kind"] == kind).collect()
    }

    /// What `journal --json` prints, one value a line.
    #[track_caller]
    pub fn journal(&self) -> Vec<Value> {
        let text = self.ask(&["journal"], &["--json", "--limit", "100000"]).success();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
