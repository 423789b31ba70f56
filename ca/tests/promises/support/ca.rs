//! A CA as its operator sees it: a folder, a process, commands.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use super::{Anonymous, Answer, Host, TRUST_DOMAIN};

/// How long a CA may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How long a CA may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

const STOP_LOOK: Duration = Duration::from_millis(20);

/// A CA with a folder of its own. Dropping it ends it.
pub(crate) struct TestCa {
    running: Option<Running>,
    folder: TempDir,
}

struct Running {
    process: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) data: String,
    pub(crate) talk: String,
}

impl TestCa {
    /// `init`, not running.
    pub(crate) fn init() -> Self {
        Self::init_with(&["--no-passphrase"])
    }

    /// `init` with more arguments, not running.
    pub(crate) fn init_with(more: &[&str]) -> Self {
        let ca = Self { running: None, folder: tempfile::tempdir().unwrap() };
        let dir = ca.dir();
        let base = ["init", "--trust-domain", TRUST_DOMAIN, "--listen", "127.0.0.1:0", "--dir", dir.to_str().unwrap()];
        run(&[&base, more].concat()).succeeded();
        ca
    }

    /// `init` and `serve`.
    pub(crate) fn start() -> Self {
        let mut ca = Self::init();
        ca.serve();
        ca
    }

    /// `init`, a changed config, and `serve`.
    pub(crate) fn start_with(config: &str) -> Self {
        let mut ca = Self::init();
        ca.change_config(config);
        ca.serve();
        ca
    }

    /// Adds tables and keys to the end of the config.
    pub(crate) fn change_config(&self, more: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let keys: String = text.lines().filter(|line| !line.starts_with('[')).map(|line| format!("{line}\n")).collect();
        std::fs::write(self.config(), keys + more).unwrap();
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir().join("ca.toml")
    }

    /// Starts `serve` and waits until it listens.
    pub(crate) fn serve(&mut self) {
        self.serve_in(&mut command());
    }

    /// The same with a command of the caller's, for its environment.
    pub(crate) fn serve_in(&mut self, command: &mut Command) {
        let command = command.arg("serve").arg("--config").arg(self.config());
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(process.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (listens, listening) = mpsc::channel();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in errors.lines().map_while(Result::ok) {
                    let fact: Value = serde_json::from_str(&line).unwrap_or_default();
                    if fact["message"] == "listening" {
                        listens.send(fact["address"].as_str().unwrap().parse().unwrap()).ok();
                    }
                    log.lock().unwrap().push(line);
                }
            }
        });
        let Ok(address) = listening.recv_timeout(START_DEADLINE) else {
            process.kill().ok();
            panic!("the CA does not listen: {:?}", log.lock().unwrap());
        };
        self.running = Some(Running { process, address, log });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address
    }

    /// What it has logged, one JSON object a line.
    pub(crate) fn log(&self) -> Vec<String> {
        self.running.as_ref().unwrap().log.lock().unwrap().clone()
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let mut process = self.running.take().unwrap().process;
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        for _ in 0..STOP_DEADLINE.as_millis() / STOP_LOOK.as_millis() {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(STOP_LOOK);
        }
        process.kill().unwrap();
        panic!("the CA does not stop");
    }

    /// Runs `COMMAND --config CONFIG ARGUMENTS...` to its end. `command` is split at its spaces.
    pub(crate) fn ask(&self, command: &str, arguments: &[&str]) -> Finished {
        let config = self.config();
        let words: Vec<&str> = command.split(' ').chain(["--config", config.to_str().unwrap()]).collect();
        run(&[&words, arguments].concat())
    }

    /// The same, and reads the JSON that it prints.
    pub(crate) fn ask_json(&self, command: &str) -> Value {
        serde_json::from_str(&self.ask(command, &["--json"]).succeeded()).unwrap()
    }

    pub(crate) fn token(&self, host: &str) -> String {
        self.ask("token create", &["--host", host]).succeeded().trim().to_owned()
    }

    pub(crate) fn grant(&self, host: &str, id: &str) {
        self.ask("entry add", &["--host", host, "--id", id]).succeeded();
    }

    /// A new host, enrolled.
    pub(crate) async fn host(&self, name: &str) -> Host {
        Host::enroll(self, &self.token(name)).await
    }

    /// Spends a token for a request of the caller's.
    pub(crate) async fn spend(&self, token: &str, csr: &str) -> Answer {
        Anonymous::connect(self, token).await.enroll(token, csr).await
    }

    /// Every line of the journal.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = self.ask("journal list", &["--json"]).succeeded();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many lines of a kind the journal has.
    pub(crate) fn journalled(&self, kind: &str) -> usize {
        self.journal().iter().filter(|line| line["kind"] == kind).count()
    }

    /// Does something to the database behind the CA's back.
    pub(crate) async fn tamper(&self, statement: &'static str) -> Result<(), sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(self.dir().join("ca.sqlite"));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::query(statement).execute(&mut connection).await?;
        connection.close().await
    }
}

impl Drop for TestCa {
    fn drop(&mut self) {
        if let Some(Running { process, .. }) = &mut self.running {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl Finished {
    /// Its data, if it did what it should.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.data
    }

    /// What it said when it failed.
    #[track_caller]
    pub(crate) fn failed_with(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.data, "", "data in spite of a failure");
        self.talk
    }
}

/// The program.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_countersign-ca"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Finished {
    let output = command().args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), data: text(output.stdout), talk: text(output.stderr) }
}

/// Every file of a folder with its content.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect()
}
