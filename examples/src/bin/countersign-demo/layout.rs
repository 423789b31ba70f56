//! Where things are: a temporary folder for two hosts and a CA, free ports on loopback, and the agents' configs.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// The ports that the demo listens on, all on 127.0.0.1.
pub(crate) struct Ports {
    /// The CA.
    pub(crate) ca: u16,
    /// host-a's way to the service for web/frontend.
    pub(crate) frontend: u16,
    /// host-a's metrics and health.
    pub(crate) health_a: u16,
    /// host-b's metrics and health.
    pub(crate) health_b: u16,
    /// host-b's inbound, the one port that other hosts can reach.
    pub(crate) inbound: u16,
    /// host-a's way to the service for the other identity.
    pub(crate) other: u16,
    /// The built-in service on host-b.
    pub(crate) service: u16,
}

impl Ports {
    /// Takes free ports. All are held until the last is chosen, so that none is given twice.
    pub(crate) fn choose() -> io::Result<Self> {
        let held: Vec<TcpListener> =
            (0..7).map(|_port| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
        let mut ports = held.iter().map(|listener| listener.local_addr().map(|address| address.port()));
        let mut next = || ports.next().unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()));
        Ok(Self {
            ca: next()?,
            frontend: next()?,
            health_a: next()?,
            health_b: next()?,
            inbound: next()?,
            other: next()?,
            service: next()?,
        })
    }
}

/// The folder of the demo. It is removed when this is dropped.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// Makes it, with a folder for the CA's config, and one for each host.
    pub(crate) fn create() -> io::Result<Self> {
        let folder = Self(tempfile::Builder::new().prefix("countersign-demo-").tempdir()?);
        for host in ["host-a", "host-b"] {
            fs::create_dir(folder.file(host))?;
        }
        Ok(folder)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text, for command lines and configs.
    pub(crate) fn text(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }
}

/// host-a's config: two local programs, two identities, one service.
pub(crate) fn host_a(folder: &Folder, ports: &Ports) -> String {
    let Ports { frontend, other, inbound, health_a, .. } = ports;
    let common = common(folder, "host-a", *health_a);
    format!(
        r#"{common}
[[outbound]]
name      = "llm"
identity  = "spiffe://demo.example/web/frontend"
listen    = "127.0.0.1:{frontend}"
service   = "spiffe://demo.example/llm"
endpoints = ["127.0.0.1:{inbound}"]

[[outbound]]
name      = "llm-as-other"
identity  = "spiffe://demo.example/other"
listen    = "127.0.0.1:{other}"
service   = "spiffe://demo.example/llm"
endpoints = ["127.0.0.1:{inbound}"]
"#
    )
}

/// host-b's config: the service, and who may use it.
pub(crate) fn host_b(folder: &Folder, ports: &Ports, backend: &str) -> String {
    let Ports { inbound, health_b, .. } = ports;
    let common = common(folder, "host-b", *health_b);
    let backend = quoted(backend);
    format!(
        r#"{common}
[[role]]
name    = "inference_client"
members = ["spiffe://demo.example/web/*"]

[[inbound]]
name     = "llm"
identity = "spiffe://demo.example/llm"
listen   = "127.0.0.1:{inbound}"
backend  = {backend}

[[inbound.allow]]
roles   = ["inference_client"]
methods = ["GET", "POST"]
paths   = ["/v1/chat/completions", "/v1/embeddings", "/v1/models"]
"#
    )
}

fn common(folder: &Folder, host: &str, health: u16) -> String {
    let path = |name: &str| quoted(&folder.text(&format!("{host}/{name}")));
    let audit = quoted(&format!("file:{}", folder.text(&format!("{host}/audit.jsonl"))));
    format!(
        r#"state_dir = {state}

[control]
socket  = {socket}
metrics = "127.0.0.1:{health}"

[audit]
output = {audit}
"#,
        state = path("state"),
        socket = path("agent.sock"),
    )
}

/// A TOML string. JSON escapes a part of what TOML does, and in the same way.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
