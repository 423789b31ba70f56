//! What happens: a CA comes up, two hosts join it, one program is let in, another is refused, and the refusal says why.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::ask::{self, Answer, AskError};
use crate::layout::{self, Folder, Ports};
use crate::narrate;
use crate::program::{Daemons, Program, ProgramError};
use countersign_examples::openai_service;

/// How often the demo looks whether something is there by now, and how long it waits at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the story did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoryError {
    /// A request of ours.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A file of ours.
    #[error("{path} cannot be written")]
    File { path: PathBuf, source: std::io::Error },
    /// The folder or the ports.
    #[error("no temporary folder or no free port can be had")]
    Layout(#[source] std::io::Error),
    /// Something is not there in time.
    #[error("{what}: nothing within {READY_TIMEOUT:?}")]
    Late { what: String },
    /// One of the programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for")]
    Signal(#[source] std::io::Error),
    /// The mesh answered, and not as it should.
    #[error("{who} should be answered with {expected}, and was answered with {found}: {body}")]
    Unexpected { who: &'static str, expected: StatusCode, found: StatusCode, body: String },
}

/// Everything that the story needs before it begins.
pub(crate) struct Story {
    ca: Program,
    agent: Program,
    service: Program,
    folder: Folder,
    ports: Ports,
    /// The reader's own service; the built-in one if there is none.
    backend: Option<String>,
    model: String,
}

impl Story {
    /// Finds the programs, and makes a folder.
    pub(crate) fn new(backend: Option<&str>, model: Option<&str>) -> Result<Self, StoryError> {
        Ok(Self {
            ca: Program::beside_this_one("countersign-ca")?,
            agent: Program::beside_this_one("countersign-agent")?,
            service: Program::beside_this_one("demo-openai-service")?,
            folder: Folder::create().map_err(StoryError::Layout)?,
            ports: Ports::choose().map_err(StoryError::Layout)?,
            backend: backend.map(ToOwned::to_owned),
            model: model.unwrap_or(openai_service::MODEL).to_owned(),
        })
    }

    /// Tells it, from the CA's root key to the refusal's reason.
    pub(crate) async fn tell(&self, daemons: &mut Daemons) -> Result<(), StoryError> {
        narrate::line(&format!("A CA and two hosts on this machine, in {}", self.folder.path().display()));
        self.start_ca(daemons).await?;
        self.register().await?;
        self.enroll("host-a").await?;
        self.enroll("host-b").await?;
        self.start_service(daemons).await?;
        self.start_host_b(daemons).await?;
        self.start_host_a(daemons).await?;
        self.frontend_is_let_in().await?;
        self.other_is_refused().await?;
        narrate::line("");
        narrate::line("One was let in, one was refused. Nothing but the two agents and the CA held a key.");
        Ok(())
    }

    async fn start_ca(&self, daemons: &mut Daemons) -> Result<(), StoryError> {
        narrate::heading("The CA of the trust domain demo.example");
        let (dir, address) = (self.folder.text("ca"), format!("127.0.0.1:{}", self.ports.ca));
        let names = ["init", "--trust-domain", "demo.example", "--name", "localhost"];
        // The folder is temporary, and so is everything that these keys could sign.
        let places = ["--dir", &dir, "--listen", &address, "--no-passphrase"];
        self.run(&self.ca, &[&names[..], &places].concat()).await?;
        self.start("countersign-ca", &self.ca, &["serve", "--config", &self.ca_config()], "ca.log", daemons)?;
        self.wait(daemons, "the CA listens", async || is_open(self.ports.ca).await).await
    }

    async fn register(&self) -> Result<(), StoryError> {
        narrate::heading("Which host may have which identity");
        let config = self.ca_config();
        for (host, id) in [
            ("host-b", "spiffe://demo.example/llm"),
            ("host-a", "spiffe://demo.example/web/frontend"),
            ("host-a", "spiffe://demo.example/other"),
        ] {
            self.run(&self.ca, &["entry", "add", "--config", &config, "--host", host, "--id", id]).await?;
        }
        Ok(())
    }

    async fn enroll(&self, host: &str) -> Result<(), StoryError> {
        narrate::heading(&format!("{host} joins: its key is made here and stays here"));
        let (config, dir) = (self.ca_config(), self.folder.text(&format!("{host}/state")));
        let create = ["token", "create", "--config", &config, "--host", host];
        let enroll = ["enroll", "--dir", &dir, "--token-file", "-"];
        narrate::command(&format!("{} | {}", self.ca.command_line(&create), self.agent.command_line(&enroll)));
        let token = self.ca.run(&create).await?;
        narrate::quote(&self.agent.run_with_input(&enroll, &token).await?);
        Ok(())
    }

    async fn start_service(&self, daemons: &mut Daemons) -> Result<(), StoryError> {
        if self.backend.is_some() {
            return Ok(());
        }
        narrate::heading(
            "The service on host-b: built in, shaped like OpenAI's API, no model; it knows nothing of TLS",
        );
        let port = self.ports.service.to_string();
        self.start("demo-openai-service", &self.service, &["--port", &port], "host-b/service.log", daemons)?;
        self.wait(daemons, "the service listens", async || is_open(self.ports.service).await).await
    }

    async fn start_host_b(&self, daemons: &mut Daemons) -> Result<(), StoryError> {
        narrate::heading("The agent of host-b takes mTLS from other hosts, and lets in who holds a role");
        let built_in = format!("http://127.0.0.1:{}", self.ports.service);
        let config = layout::host_b(&self.folder, &self.ports, self.backend.as_deref().unwrap_or(&built_in));
        self.start_agent("the agent of host-b", "host-b", &config, self.ports.health_b, daemons).await
    }

    async fn start_host_a(&self, daemons: &mut Daemons) -> Result<(), StoryError> {
        narrate::heading("The agent of host-a takes plain HTTP from local programs, and speaks mTLS for them");
        let config = layout::host_a(&self.folder, &self.ports);
        self.start_agent("the agent of host-a", "host-a", &config, self.ports.health_a, daemons).await
    }

    async fn start_agent(
        &self,
        name: &'static str,
        host: &str,
        config: &str,
        health: u16,
        daemons: &mut Daemons,
    ) -> Result<(), StoryError> {
        let path = self.folder.file(&format!("{host}/agent.toml"));
        narrate::command(&format!("cat {}", path.display()));
        narrate::quote(config);
        std::fs::write(&path, config).map_err(|source| StoryError::File { path, source })?;
        let arguments = ["run", "--config", &self.agent_config(host)];
        self.start(name, &self.agent, &arguments, &format!("{host}/agent.log"), daemons)?;
        self.wait(daemons, &format!("{name} is ready"), async || is_ready(health).await).await?;
        self.run(&self.agent, &["status", "--config", &self.agent_config(host)]).await
    }

    async fn frontend_is_let_in(&self) -> Result<(), StoryError> {
        narrate::heading("A program on host-a calls the model as web/frontend");
        let answer = self.call(self.ports.frontend).await?;
        expect("web/frontend", StatusCode::OK, &answer)?;
        let words = answer.text("/choices/0/message/content").unwrap_or(answer.body);
        narrate::quote(&format!("{}\n{words}", answer.status));
        narrate::line("What host-b recorded:");
        let record = self.recorded("spiffe://demo.example/web/frontend").await?;
        for key in ["outcome", "peer", "roles", "rule", "decision"] {
            let value = record.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            narrate::quote(&format!("{key}: {}", value.unwrap_or_default()));
        }
        Ok(())
    }

    async fn other_is_refused(&self) -> Result<(), StoryError> {
        narrate::heading("A second program calls it as another identity");
        let answer = self.call(self.ports.other).await?;
        expect("the other identity", StatusCode::FORBIDDEN, &answer)?;
        narrate::quote(&format!("{}\n{}", answer.status, answer.body));
        narrate::line("The caller learns a decision ID, and nothing of the policy. The operator of host-b asks why:");
        let Some(decision) = answer.text("/decision_id") else {
            return Err(StoryError::Late { what: "a decision ID in the refusal".to_owned() });
        };
        self.recorded("spiffe://demo.example/other").await?;
        self.run(&self.agent, &["explain", "--config", &self.agent_config("host-b"), &decision]).await
    }

    async fn call(&self, port: u16) -> Result<Answer, StoryError> {
        let body = ask::chat(&self.model);
        narrate::command(&ask::curl(port, &body));
        Ok(ask::post(port, ask::CHAT_PATH, &body).await?)
    }

    /// The audit line of a peer's request on host-b. Lines are written a moment after the answer.
    async fn recorded(&self, peer: &str) -> Result<Value, StoryError> {
        let path = self.folder.file("host-b/audit.jsonl");
        let find = async || {
            let lines = std::fs::read_to_string(&path).unwrap_or_default();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| is(line, "event", "request") && is(line, "peer", peer))
        };
        within(&format!("the audit line of {peer}"), find).await
    }

    /// Runs a command to its end, and shows it.
    async fn run(&self, program: &Program, arguments: &[&str]) -> Result<(), StoryError> {
        narrate::command(&program.command_line(arguments));
        narrate::quote(&program.run(arguments).await?);
        Ok(())
    }

    /// Starts a daemon, and shows how.
    fn start(
        &self,
        name: &'static str,
        program: &Program,
        arguments: &[&str],
        log: &str,
        daemons: &mut Daemons,
    ) -> Result<(), StoryError> {
        narrate::command(&format!("{} &", program.command_line(arguments)));
        Ok(daemons.start(name, program, arguments, &self.folder.file(log))?)
    }

    /// Waits until something holds while every daemon runs.
    async fn wait(&self, daemons: &mut Daemons, what: &str, holds: impl AsyncFn() -> bool) -> Result<(), StoryError> {
        within(what, async || match daemons.check() {
            Ok(()) => holds().await.then_some(Ok(())),
            Err(ended) => Some(Err(ended)),
        })
        .await??;
        Ok(())
    }

    fn ca_config(&self) -> String {
        self.folder.text("ca/ca.toml")
    }

    fn agent_config(&self, host: &str) -> String {
        self.folder.text(&format!("{host}/agent.toml"))
    }

    /// What a reader can do while everything is kept running.
    pub(crate) fn how_to_call(&self) {
        let body = ask::chat(&self.model);
        narrate::heading("Everything runs until Ctrl-C. To be let in:");
        narrate::command(&ask::curl(self.ports.frontend, &body));
        narrate::line("To be refused:");
        narrate::command(&ask::curl(self.ports.other, &body));
        narrate::line("What the agents record:");
        narrate::command(&format!("tail -f {}", self.folder.text("host-?/audit.jsonl")));
    }
}

fn expect(who: &'static str, expected: StatusCode, answer: &Answer) -> Result<(), StoryError> {
    if answer.status == expected {
        return Ok(());
    }
    Err(StoryError::Unexpected { who, expected, found: answer.status, body: answer.body.clone() })
}

/// Looks again and again until something is there.
async fn within<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> Result<T, StoryError> {
    let looking = async {
        loop {
            match find().await {
                Some(found) => return found,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    tokio::time::timeout(READY_TIMEOUT, looking).await.map_err(|_elapsed| StoryError::Late { what: what.to_owned() })
}

async fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

async fn is_ready(health: u16) -> bool {
    ask::get(health, "/readyz").await.is_ok_and(|answer| answer.status == StatusCode::OK)
}

fn is(line: &Value, key: &str, expected: &str) -> bool {
    line.get(key).and_then(Value::as_str) == Some(expected)
}
