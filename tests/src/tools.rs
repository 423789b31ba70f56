//! What tests need of this machine: the programs under test, the Python environment, folders, ports, root.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use tempfile::TempDir;

/// A command line of the agent.
///
/// # Panics
/// It was not built.
pub fn agent() -> Command {
    Command::new(agent_path())
}

/// The agent's executable.
///
/// # Panics
/// It was not built.
pub fn agent_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| program("countersign-agent"))
}

/// A command line of the CA.
///
/// # Panics
/// It was not built.
pub fn ca() -> Command {
    Command::new(ca_path())
}

/// The CA's executable.
///
/// # Panics
/// It was not built.
pub fn ca_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| program("countersign-ca"))
}

/// The demo's executable. It runs the programs that lie beside it, which are looked at too.
///
/// # Panics
/// One of them was not built.
pub fn demo_path() -> PathBuf {
    agent_path();
    ca_path();
    program("demo-openai-service");
    program("countersign-demo")
}

/// `target/debug/deps/TEST-HASH` stands below `target/debug/PROGRAM`. `cargo test` alone does not build the programs again:
/// a program that is older than its sources would be tested in place of them.
fn program(name: &str) -> PathBuf {
    const BUILD: &str = "build it first: cargo build -p countersign-agent -p countersign-ca -p countersign-examples";
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join(name);
    assert!(path.exists(), "{} is missing; {BUILD}", path.display());
    let built = modified(&path);
    let crates: &[&str] = match name {
        "countersign-agent" => {
            &["certs", "agent", "agent/audit", "agent/conditions", "agent/credentials", "agent/limits"]
        }
        "countersign-ca" => &["certs", "ca"],
        _ => &["examples"],
    };
    let sources = crates.iter().map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join("src"));
    let newest = sources.flat_map(|folder| files_in(&folder)).max_by_key(|file| modified(file)).unwrap();
    assert!(modified(&newest) <= built, "{} is older than {}; {BUILD}", path.display(), newest.display());
    path
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// The Python of the real parts. Installs them, once for each machine.
///
/// # Panics
/// They cannot be installed.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let install = parts().join("install");
        let done = Command::new(&install).output().unwrap_or_else(|error| panic!("{}: {error}", install.display()));
        let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{} failed; run it by hand:\n{stderr}", install.display());
        Path::new(stdout.trim_end().lines().last().unwrap()).join("bin/python")
    })
}

/// The Node.js of the real parts.
///
/// # Panics
/// It cannot be installed.
pub fn node() -> PathBuf {
    python().with_file_name("node")
}

/// The folder of the real parts.
pub fn parts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parts")
}

/// A folder of the test's own. It is removed when this is dropped.
///
/// # Panics
/// It cannot be made.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("countersign-test-").tempdir().unwrap()
}

/// Ports are taken from below the range from which the kernel serves outgoing connections, so that a program that is
/// restarted finds its port free.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port of 127.0.0.1 that nobody uses, and that no other test of this machine is given while this process runs.
///
/// # Panics
/// None is free.
pub fn free_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes that run at once begin at different places.
    let start = u16::try_from(std::process::id() * 61 % u32::from(PORTS.end - PORTS.start)).unwrap() + PORTS.start;
    for _ in PORTS {
        let port = next.unwrap_or(start);
        *next = Some(if port + 1 == PORTS.end { PORTS.start } else { port + 1 });
        // A name in the abstract namespace is a claim that ends with the process, however it ends.
        let name = format!("countersign-test-port-{port}");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// A free port as an address.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Says why a test cannot run without root.
///
/// # Panics
/// This process is not root.
#[track_caller]
pub fn need_root(what: &str) {
    assert!(rustix::process::geteuid().is_root(), "{what} needs root: run the tests as root (sudo tests/run)");
}
