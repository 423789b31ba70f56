//! One agent before an echoing service, and curl as the client that calls it: with a certificate, with another credential, or both.

use std::net::SocketAddr;
use std::process::Command;

use rcgen::SanType;

use crate::agent::TestAgent;
use crate::backend::EchoBackend;
use crate::mesh::{SERVICE, certificate};
use crate::pki::{CertificateFiles, Leaf, TestPki};
use crate::process::{self, Process};
use crate::tools;

/// The host name that the agent's certificate holds beside its SPIFFE ID.
const HOST: &str = "llm.mesh.test";

/// An agent whose one inbound is `llm`.
pub struct Gateway {
    /// The agent.
    pub agent: TestAgent,
    /// The service behind it.
    pub backend: EchoBackend,
    /// Who signs the certificates of both sides.
    pub pki: TestPki,
    port: u16,
    before: String,
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status; 0 if there was no answer.
    pub status: u16,
    /// Header lines, lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// What curl said.
    pub error: String,
}

impl Reply {
    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The ID of the decision.
    ///
    /// # Panics
    /// The answer has none.
    #[track_caller]
    pub fn decision(&self) -> String {
        self.header("x-countersign-decision").unwrap_or_else(|| panic!("no decision in {self:?}")).to_owned()
    }
}

impl Gateway {
    /// Starts it. `keys` stand in the `[[inbound]]`, its rules among them; `before` stands before that table.
    #[track_caller]
    pub fn start(before: &str, keys: &str) -> Self {
        Self::start_as(TestAgent::new("gateway"), before, keys)
    }

    /// The same with an agent of the test's choice.
    #[track_caller]
    pub fn start_as(agent: TestAgent, before: &str, keys: &str) -> Self {
        Self::start_of(TestPki::new("gateway"), agent, before, keys)
    }

    /// The same with certificates of a PKI that others know already.
    #[track_caller]
    pub fn start_of(pki: TestPki, agent: TestAgent, before: &str, keys: &str) -> Self {
        Self::prepare_of(pki, agent, EchoBackend::holding(), before).started(keys)
    }

    /// The same with a service of the test's choice.
    #[track_caller]
    pub fn start_before(agent: TestAgent, backend: EchoBackend, before: &str, keys: &str) -> Self {
        Self::prepare(agent, backend, before).started(keys)
    }

    fn started(mut self, keys: &str) -> Self {
        self.agent.configure(&self.tables(keys));
        self.agent.start();
        self
    }

    /// Everything but the config; nothing runs yet.
    pub fn prepare(agent: TestAgent, backend: EchoBackend, before: &str) -> Self {
        Self::prepare_of(TestPki::new("gateway"), agent, backend, before)
    }

    fn prepare_of(pki: TestPki, agent: TestAgent, backend: EchoBackend, before: &str) -> Self {
        let leaf = Leaf::of(SERVICE).and(SanType::DnsName(HOST.try_into().unwrap()));
        let before = certificate(&pki, agent.folder(), SERVICE, &leaf) + before;
        Self { agent, backend, pki, port: tools::free_port(), before }
    }

    /// The tables with other keys in the `[[inbound]]`.
    pub fn tables(&self, keys: &str) -> String {
        tables(&self.before, keys, &self.backend.url(), self.port)
    }

    /// The tables with other ones in place of those that stand before the `[[inbound]]`.
    pub fn tables_before(&self, old: &str, new: &str, keys: &str) -> String {
        assert!(self.before.contains(old), "{old:?} is not in the config");
        tables(&self.before.replace(old, new), keys, &self.backend.url(), self.port)
    }

    /// Where it listens, as a URL begins.
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}", self.port)
    }

    /// Where it listens, for clients that are no curl.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A certificate for a workload, as curl takes it.
    pub fn workload(&self, id: &str) -> [String; 4] {
        let name = id.rsplit('/').next().unwrap();
        let CertificateFiles { chain, key } = self.pki.issue_files(self.agent.folder(), name, &Leaf::of(id));
        ["--cert".to_owned(), chain.display().to_string(), "--key".to_owned(), key.display().to_string()]
    }

    /// curl, about to call a path with more arguments.
    fn curl(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        let bundle = self.agent.folder().join("bundle.pem");
        command.args(["--silent", "--show-error", "--include", "--path-as-is", "--globoff", "--max-time", "60"]);
        command.arg("--cacert").arg(bundle);
        command.args(["--resolve", &format!("{HOST}:{}:127.0.0.1", self.port)]);
        command.args(arguments).arg(format!("{}{path}", self.url()));
        command
    }

    /// Has curl call a path, and goes on while it does.
    pub fn start_call(&self, path: &str, arguments: &[&str]) -> Process {
        Process::start("curl", &self.curl(path, arguments))
    }

    /// Has curl call a path with more arguments.
    pub fn call(&self, path: &str, arguments: &[&str]) -> Reply {
        let finished = process::run(&self.curl(path, arguments));
        let text = finished.stdout.replace("\r\n", "\n");
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Reply { status, headers: lines.filter_map(split).collect(), body: body.to_owned(), error: finished.stderr }
    }

    /// The audit line of a reply.
    #[track_caller]
    pub fn line(&self, reply: &Reply) -> serde_json::Value {
        self.line_of(&reply.decision())
    }

    fn line_of(&self, decision: &str) -> serde_json::Value {
        let of_it = |line: &serde_json::Value| line["decision"] == decision && line["event"] == "request";
        self.agent.wait_for_audit("the line of a decision", of_it)
    }

    /// Calls and expects a refusal: this status, this reason in the audit, and nothing at the service. Returns the line.
    #[track_caller]
    pub fn refused(&self, path: &str, arguments: &[&str], status: u16, reason: &str) -> serde_json::Value {
        let before = self.backend.seen().len();
        let reply = self.call(path, arguments);
        assert_eq!(reply.status, status, "{arguments:?} {reply:?}");
        let line = self.line(&reply);
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(self.backend.seen().len(), before, "what was refused reached the service");
        line
    }

    /// Calls and expects to be let in. Returns the audit line.
    #[track_caller]
    pub fn allowed(&self, path: &str, arguments: &[&str]) -> serde_json::Value {
        let before = self.backend.seen().len();
        let reply = self.call(path, arguments);
        assert_eq!(reply.status, 200, "{arguments:?} {reply:?}");
        let seen = self.backend.seen();
        assert_eq!(seen.len(), before + 1, "{reply:?}");
        self.line_of(seen.last().unwrap().value("x-countersign-decision").unwrap())
    }

    /// Carries out `countersign-agent key ...` and returns what it printed.
    #[track_caller]
    pub fn key(&self, arguments: &[&str]) -> String {
        let (command, rest) = arguments.split_first().unwrap();
        let mut whole = vec!["key", command, "--config"];
        let config = self.agent.config_path();
        whole.push(config.to_str().unwrap());
        whole.extend(rest);
        self.agent.run(&whole).success().trim_end().to_owned()
    }
}

/// The header line of somebody who shows a key or a token, as curl takes it.
pub fn bearer(secret: &str) -> String {
    format!("Authorization: Bearer {secret}")
}

fn tables(before: &str, keys: &str, backend: &str, port: u16) -> String {
    format!(
        "{before}\n[[inbound]]\nname = \"llm\"\nidentity = \"{SERVICE}\"\nlisten = \"127.0.0.1:{port}\"\nbackend = \"{backend}\"\n{keys}\n"
    )
}
