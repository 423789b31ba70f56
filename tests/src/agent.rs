//! One agent as its operator sees it: a config, a process, its status, its audit lines, its metrics.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::TestHost;
use crate::http::{self, Address, Answer};
use crate::process::{Finished, Process, run};
use crate::tools;
use crate::wait;

/// How long an agent may take to end when its drain time is short.
const END_WITHIN: Duration = Duration::from_secs(20);

/// An agent with a folder of its own. Dropping it ends it.
pub struct TestAgent {
    // Before the folder: fields are dropped in this order.
    process: Option<Process>,
    name: String,
    folder: TempDir,
    // A test may put these two on a small disk.
    audit: PathBuf,
    audit_keys: Option<String>,
    has_segments: bool,
    state: PathBuf,
    metrics: SocketAddr,
    enrolled: bool,
    host: Option<Arc<TestHost>>,
    environment: Vec<(String, String)>,
    handed_over: Vec<(String, Address)>,
}

/// Opens sockets and becomes the agent, which is told of them as by systemd (sd_listen_fds(3)).
const HAND_OVER: &str = r#"
import fcntl, os, socket, sys
names, copies = [], []
for place in sys.argv[1].split(","):
    name, host, port = place.rsplit(":", 2)
    if host == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(port)
        listener.listen()
        os.chmod(port, 0o666)  # As systemd does, if SocketMode= says nothing.
    else:
        listener = socket.create_server((host, int(port)))
    names.append(name)
    # Away from the numbers that they are handed over with.
    copies.append(fcntl.fcntl(listener.detach(), fcntl.F_DUPFD, 100))
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
    os.close(copy)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
os.execv(sys.argv[2], sys.argv[2:])
"#;

impl TestAgent {
    /// A folder and free ports; nothing runs yet.
    pub fn new(name: &str) -> Self {
        let folder = tools::folder();
        // What is written all the time stands apart from the files that the agent watches.
        std::fs::create_dir(folder.path().join("run")).unwrap();
        let audit = folder.path().join("run/audit.jsonl");
        let socket = folder.path().join("run/agent.sock");
        std::fs::write(folder.path().join("run/control.toml"), format!("[control]\nsocket = {socket:?}\n")).unwrap();
        let state = folder.path().join("state");
        Self {
            process: None,
            name: name.to_owned(),
            folder,
            audit,
            audit_keys: None,
            has_segments: false,
            state,
            metrics: tools::free_address(),
            enrolled: false,
            host: None,
            environment: Vec::new(),
            handed_over: Vec::new(),
        }
    }

    /// On a host of its own, with its own network.
    #[must_use]
    pub fn on(mut self, host: &Arc<TestHost>) -> Self {
        self.host = Some(Arc::clone(host));
        self
    }

    /// The host that it is on, if it has one of its own.
    pub fn host(&self) -> Option<&Arc<TestHost>> {
        self.host.as_ref()
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From the next start on it is handed these sockets, each with a name.
    pub fn hand_over(&mut self, sockets: &[(&str, Address)]) {
        self.handed_over = sockets.iter().map(|(name, address)| ((*name).to_owned(), address.clone())).collect();
    }

    /// With its audit lines in another file.
    #[must_use]
    pub fn with_audit_in(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.audit);
        self
    }

    /// With its record in segments, in a folder that [`audit_folder`](Self::audit_folder) names, and more keys and tables of
    /// `[audit]`.
    #[must_use]
    pub fn with_audit_folder(mut self, keys: &str) -> Self {
        self.audit = self.folder.path().join("run/audit");
        self.audit_keys = Some(keys.to_owned());
        self.has_segments = true;
        self
    }

    /// The same with the folder elsewhere.
    #[must_use]
    pub fn with_audit_folder_in(self, path: &Path, keys: &str) -> Self {
        let mut agent = self.with_audit_folder(keys);
        path.clone_into(&mut agent.audit);
        agent
    }

    /// With more keys and tables of `[audit]`.
    #[must_use]
    pub fn with_audit_keys(mut self, keys: &str) -> Self {
        self.audit_keys = Some(keys.to_owned());
        self
    }

    /// The folder of its segments, or the file of its lines.
    pub fn audit_folder(&self) -> &Path {
        &self.audit
    }

    /// With its state in another folder.
    #[must_use]
    pub fn with_state_in(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.state);
        self
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state folder, which is made by `enroll`.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The file in the state folder that holds this identity, key and chain.
    ///
    /// # Panics
    /// There is none.
    pub fn stored_identity(&self, id: &str) -> PathBuf {
        let name = id.rsplit('/').next().unwrap();
        let files = std::fs::read_dir(self.state().join("svids")).unwrap().map(|entry| entry.unwrap().path());
        let mut fitting = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name));
        fitting.next().unwrap_or_else(|| panic!("{id} is not stored"))
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// The address of `/metrics`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// A command line of the agent on this host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.host {
            Some(host) => host.command(tools::agent_path()),
            None => tools::agent(),
        };
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command of the agent on this host to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&self.command(arguments))
    }

    /// The same with `--config`.
    #[track_caller]
    pub fn ask(&self, command: &str, arguments: &[&str]) -> Finished {
        let config = self.config_path();
        run(self.command(&[command, "--config", config.to_str().unwrap()]).args(arguments))
    }

    /// Spends a join token.
    #[track_caller]
    pub fn enroll(&mut self, token: &str) -> Finished {
        let finished = self.try_enroll(token);
        self.enrolled = finished.code == Some(0);
        finished
    }

    /// Says that it was enrolled by other means.
    pub fn is_enrolled(&mut self) {
        self.enrolled = true;
    }

    /// Tries to spend a join token.
    #[track_caller]
    pub fn try_enroll(&self, token: &str) -> Finished {
        self.run(&["enroll", "--token", token, "--dir", self.state().to_str().unwrap()])
    }

    /// Asks the running agent, however broken its config file is at the moment.
    #[track_caller]
    pub fn ask_running(&self, command: &str, arguments: &[&str]) -> Finished {
        run(self.running_command(command).args(arguments))
    }

    /// A command line for the running agent, with a config that only says where it is asked.
    pub fn running_command(&self, command: &str) -> Command {
        let config = self.folder.path().join("run/control.toml");
        self.command(&[command, "--config", config.to_str().unwrap()])
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/agent.sock")
    }

    /// Writes the config: these tables, below the keys that each test agent has.
    pub fn configure(&self, tables: &str) {
        let path = self.config_path();
        let new = path.with_extension("new");
        std::fs::write(&new, self.whole_config(tables)).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    /// The whole text of a config with these tables.
    pub fn whole_config(&self, tables: &str) -> String {
        self.head() + tables
    }

    fn head(&self) -> String {
        let state = if self.enrolled { format!("state_dir = {:?}\n", self.state()) } else { String::new() };
        let (metrics, audit) = (self.metrics, self.audit.display());
        let audit =
            if self.has_segments { format!("folder = \"{audit}\"") } else { format!("output = \"file:{audit}\"") };
        let keys = self.audit_keys.as_deref().unwrap_or_default();
        // Two workers on every machine, so that what must hold across workers is tested everywhere.
        format!(
            "{state}workers = 2\n\n[control]\nsocket = {:?}\nmetrics = \"{metrics}\"\n\n[audit]\n{audit}\n{keys}\n",
            self.socket()
        )
    }

    /// The config as it is, without the head.
    pub fn tables(&self) -> String {
        let text = std::fs::read_to_string(self.config_path()).unwrap();
        text.strip_prefix(&self.head()).unwrap().to_owned()
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Starts it.
    pub fn launch(&mut self) {
        let config = self.config_path();
        let mut command = self.command(&["run", "--config", config.to_str().unwrap()]);
        if !self.handed_over.is_empty() {
            let sockets = self.handed_over.iter().map(|(name, address)| match address {
                Address::Tcp(address) => format!("{name}:{address}"),
                Address::Unix(path) => format!("{name}:unix:{}", path.display()),
            });
            let sockets: Vec<_> = sockets.collect();
            let mut starter = Command::new(tools::python());
            starter.args(["-c", HAND_OVER, &sockets.join(",")]).arg(command.get_program()).args(command.get_args());
            starter.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = starter;
        }
        self.process = Some(Process::start(&self.name, &command));
    }

    /// Waits until it says that it is ready.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let what = format!("{} is ready", self.name);
        wait::until_so(&what, || {
            if let Some(ended) = self.process().poll_end() {
                panic!("{what}: it has ended, {ended}\n{}", self.process().stderr().join("\n"));
            }
            self.try_status().is_some_and(|status| status["ready"] == true)
        });
    }

    /// The process.
    ///
    /// # Panics
    /// It was not started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Asks it to end, and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process().signal(Signal::TERM);
        let status = self.process().wait_for_end(END_WITHIN * 2);
        let said = self.process().stderr();
        assert_eq!(status.code(), Some(0), "{} ends well: {said:?}", self.name);
    }

    /// Ends it without a word, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// What `status --json` says.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        let finished = self.ask_running("status", &["--json"]);
        serde_json::from_str(&finished.clone().success()).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
    }

    /// The same, if it answers.
    pub fn try_status(&self) -> Option<Value> {
        let finished = self.ask_running("status", &["--json"]);
        (finished.code == Some(0)).then(|| serde_json::from_str(&finished.stdout).unwrap())
    }

    /// When the certificate of one of its identities ends.
    #[track_caller]
    pub fn certificate_ends(&self, identity: &str) -> Instant {
        let status = self.status();
        let found = status["identities"].as_array().unwrap().iter().find(|found| found["identity"] == identity);
        wait::now() + Duration::from_secs(found.unwrap()["seconds_left"].as_u64().unwrap())
    }

    /// Waits until its status is so.
    #[track_caller]
    pub fn wait_for_status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{}: {what}", self.name);
        let mut last = Value::Null;
        let bound = wait::now() + wait::SOON;
        while wait::now() < bound {
            // One that was only just started does not answer yet.
            last = self.try_status().unwrap_or_default();
            if fits(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: its status is {last:#}");
    }

    /// Writes another config and waits until it is taken up.
    ///
    /// # Panics
    /// It is refused.
    #[track_caller]
    pub fn reload(&mut self, tables: &str) {
        let before = self.status();
        self.configure(tables);
        self.process().signal(Signal::HUP);
        // What was said of the config before this one says nothing of it.
        let refused =
            |status: &Value| status["config_error"].is_string() && status["config_error"] != before["config_error"];
        let status = self.wait_for_status("the new config is taken up or refused", |status| {
            status["generation"].as_u64() > before["generation"].as_u64() || refused(status)
        });
        assert_eq!(status["config_error"], Value::Null, "{}: the new config is refused", self.name);
    }

    /// Writes another config, waits until it is refused, and returns why.
    #[track_caller]
    pub fn reload_refused(&mut self, tables: &str) -> String {
        let before = self.status();
        self.configure(tables);
        self.process().signal(Signal::HUP);
        let status = self.wait_for_status("the new config is refused", |status| {
            status["config_error"].is_string() && status["config_error"] != before["config_error"]
        });
        status["config_error"].as_str().unwrap().to_owned()
    }

    /// The segments of its audit folder, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries =
            std::fs::read_dir(&self.audit).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        let mut files: Vec<PathBuf> = entries.unwrap_or_default();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        files
    }

    /// The text of the audit file, or of all segments.
    pub fn audit_text(&self) -> String {
        if self.audit.is_dir() {
            return self.segments().iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
        }
        std::fs::read_to_string(&self.audit).unwrap_or_default()
    }

    /// Every whole audit line so far.
    ///
    /// # Panics
    /// One is no JSON.
    #[track_caller]
    pub fn audit(&self) -> Vec<Value> {
        let text = self.audit_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        whole.lines().map(parse).collect()
    }

    /// How much audit lines tell of that fit: themselves, and what they count of lines that were left out.
    #[track_caller]
    pub fn told(&self, fits: impl Fn(&Value) -> bool) -> u64 {
        let lines = self.audit().into_iter().filter(fits);
        let told = |line: Value| match line["event"].as_str() {
            Some("omitted_lines") => line["count"].as_u64().unwrap(),
            _ => 1 + line["omitted"].as_u64().unwrap_or(0),
        };
        lines.map(told).sum()
    }

    /// Waits for the audit line that fits.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn wait_for_audit(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = wait::now() + wait::SOON;
        loop {
            if let Some(line) = self.audit().into_iter().find(|line| fits(line)) {
                return line;
            }
            assert!(wait::now() < end, "{}: no audit line of {what} in:\n{}", self.name, self.audit_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the health port.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    pub fn health(&self, path: &str) -> Answer {
        http::get(self.metrics, path).unwrap()
    }

    /// The sum of a metric over every line whose labels include these.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.health("/metrics").text();
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let fits = |series: &str| {
            let (known, labels) = series.split_once('{').unwrap_or((series, ""));
            known == name && wanted.iter().all(|label| labels.contains(label.as_str()))
        };
        lines.filter(|(series, _)| fits(series)).map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }
}
