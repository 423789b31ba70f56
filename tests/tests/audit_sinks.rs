//! Additional audit sinks: real receivers get every line, and dead ones disturb nobody.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::part::Part;
use countersign_tests::pki::{Leaf, TestPki};
use countersign_tests::process::Process;
use countersign_tests::{part, tools, wait};
use rcgen::SanType;
use serde_json::Value;
use tempfile::TempDir;

/// A mesh whose serving side has this sink beside its segments.
fn mesh_with(backend: &EchoBackend, sink: &str) -> Mesh {
    let host_b = TestAgent::new("host-b").with_audit_folder(sink);
    Mesh::of_files_as(&Plan::to(backend.url()), TestAgent::new("host-a"), host_b)
}

fn ask(mesh: &Mesh, count: usize) {
    let mut client = Client::connect(mesh.frontend).unwrap();
    for _ in 0..count {
        assert_eq!(client.ask("GET", "/a", &[], b"").unwrap().status(), 200);
    }
}

/// Debian's rsyslog with TLS, which asks for a certificate of its clients.
struct Rsyslog {
    folder: TempDir,
    address: SocketAddr,
    process: Option<Process>,
}

impl Rsyslog {
    fn new(pki: &TestPki) -> Self {
        tools::python();
        let receiver = Self { folder: tools::folder(), address: tools::free_address(), process: None };
        let files = pki.issue_files(
            receiver.folder.path(),
            "server",
            &Leaf::of_dns("siem.test").and(SanType::IpAddress(Ipv4Addr::LOCALHOST.into())),
        );
        let bundle = receiver.folder.path().join("ca.pem");
        pki.write_bundle(&bundle);
        let (folder, port) = (receiver.folder.path().display(), receiver.address.port());
        let (chain, key) = (files.chain.display(), files.key.display());
        let config = format!(
            r#"global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
    defaultNetstreamDriverCAFile="{bundle}" defaultNetstreamDriverCertFile="{chain}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="seen" type="string" string="%pri% %app-name% %msgid% %structured-data% |%msg%\n")
action(type="omfile" file="{folder}/seen" template="seen")
"#,
            bundle = bundle.display()
        );
        std::fs::write(receiver.folder.path().join("rsyslog.conf"), config).unwrap();
        receiver
    }

    fn start(&mut self) {
        let mut command = Command::new("rsyslogd");
        command.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
        let at = |name: &str| self.folder.path().join(name);
        command.arg("-n").arg("-f").arg(at("rsyslog.conf")).arg("-i").arg(at("pid"));
        self.process = Some(Process::start("rsyslogd", &command));
        wait::until_so("rsyslogd listens", || std::net::TcpStream::connect(self.address).is_ok());
    }

    fn seen(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("seen")).unwrap_or_default()
    }

    /// The table of a sink that delivers here.
    fn sink(&self, files: &str, more: &str) -> String {
        let bundle = self.folder.path().join("ca.pem");
        format!(
            "[[audit.sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tls://{}\"\nbundle = {bundle:?}\n{files}\n{more}\n",
            self.address
        )
    }
}

fn client_files(pki: &TestPki, folder: &Path) -> String {
    let files = pki.issue_files(folder, "client", &Leaf::of_dns("host-b.test"));
    format!("chain = {:?}\nkey = {:?}", files.chain, files.key)
}

#[test]
fn a_syslog_receiver_gets_every_line_over_tls_also_after_it_was_away() {
    let pki = TestPki::new("siem");
    let mut receiver = Rsyslog::new(&pki);
    let files = client_files(&pki, receiver.folder.path());
    let mut mesh = mesh_with(&EchoBackend::steady(), &receiver.sink(&files, ""));
    // It is not there yet, and nobody minds.
    ask(&mesh, 20);
    mesh.host_b.wait_for_status("it is known", |status| status["audit_sinks"][0]["failing"] == true);
    assert_eq!(mesh.host_b.metric("countersign_audit_sink_failing", &[("sink", "siem")]), 1.0);
    receiver.start();
    let requests = |receiver: &Rsyslog| receiver.seen().matches("event=\"request\"").count();
    wait::until_so("every request is there", || requests(&receiver) >= 20);
    // It goes away, and comes again.
    receiver.process = None;
    ask(&mesh, 20);
    receiver.start();
    wait::until_so("every request is there", || requests(&receiver) >= 40);
    let seen = receiver.seen();
    let line = seen.lines().find(|line| line.contains("event=\"request\"")).unwrap();
    // Facility 13 and severity 6.
    assert!(
        line.starts_with("110 countersign-agent request [countersign@32473 event=\"request\" decision=\""),
        "{line}"
    );
    let stored: Value = serde_json::from_str(line.split_once('|').unwrap().1).unwrap();
    assert_eq!(stored["outcome"], "allowed");
    assert!(mesh.host_b.audit_text().contains(stored["chain"].as_str().unwrap()), "the value is that of the record");
    mesh.host_b.stop();
    let written = mesh.host_b.audit_text().matches("\"event\":\"request\"").count();
    assert_eq!((written, requests(&receiver)), (40, 40));
}

#[test]
fn nothing_is_said_to_a_receiver_that_nobody_vouches_for() {
    let (pki, other) = (TestPki::new("siem"), TestPki::new("other"));
    let mut receiver = Rsyslog::new(&pki);
    receiver.start();
    let files = client_files(&pki, receiver.folder.path());
    let sink = receiver.sink(&files, "");
    other.write_bundle(&receiver.folder.path().join("other.pem"));
    let mut mesh = mesh_with(&EchoBackend::start(), &sink.replace("ca.pem", "other.pem"));
    ask(&mesh, 1);
    mesh.host_b.wait_for_status("it is refused", |status| status["audit_sinks"][0]["failing"] == true);
    assert!(!receiver.seen().contains("countersign"), "{}", receiver.seen());
    let log = mesh.host_b.process().stderr().join("\n");
    assert!(log.contains("UnknownIssuer"), "{log}");
    // Vouched for, but under another name.
    let mut mesh = mesh_with(&EchoBackend::start(), &sink.replace("tls://127.0.0.1", "tls://localhost"));
    mesh.host_b.wait_for_status("it is refused", |status| status["audit_sinks"][0]["failing"] == true);
    assert!(!receiver.seen().contains("countersign"), "{}", receiver.seen());
    let log = mesh.host_b.process().stderr().join("\n");
    assert!(log.contains("certificate not valid for name"), "{log}");
}

#[test]
fn syslog_carries_each_format() {
    let pki = TestPki::new("siem");
    let mut receiver = Rsyslog::new(&pki);
    receiver.start();
    let files = client_files(&pki, receiver.folder.path());
    let mesh = mesh_with(&EchoBackend::start(), &receiver.sink(&files, "format = \"cef\""));
    ask(&mesh, 1);
    wait::until_so("the request is there", || {
        receiver.seen().lines().any(|line| line.contains("|CEF:0|Countersign|") && line.contains("act=allowed"))
    });
}

#[test]
fn an_otlp_collector_gets_every_line_as_a_record() {
    let collector = Part::serve("otlp_receiver", &["--unavailable", "2"]);
    let sink = format!(
        "[[audit.sink]]\nname = \"collector\"\nkind = \"otlp\"\nurl = \"http://{}/v1/logs\"\n",
        collector.address()
    );
    let mut mesh = mesh_with(&EchoBackend::steady(), &sink);
    ask(&mesh, 30);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
    let requests = || collector.said().into_iter().filter(|record| record["name"] == "request").collect::<Vec<_>>();
    wait::until_so("every request is there", || requests().len() >= 31);
    mesh.host_b.stop();
    let stored = mesh.host_b.audit().len();
    wait::until_so("every line is there", || collector.said().len() >= stored);
    assert_eq!(collector.said().len(), stored, "none is there twice");
    let denied = requests().into_iter().find(|record| record["attributes"]["countersign.outcome"] == "denied").unwrap();
    assert_eq!(denied["attributes"]["countersign.status"], 403, "{denied}");
    assert_eq!(denied["severity"], 10, "{denied}");
    assert!(denied["body"].as_str().unwrap().contains("denied (no_role)"), "{denied}");
}

/// A collector that refuses every line for good, and the sink that leads to it.
fn refusing_collector() -> (Part, String) {
    let collector = Part::serve("otlp_receiver", &["--refuse"]);
    let url = format!("http://{}/v1/logs", collector.address());
    (collector, format!("[[audit.sink]]\nname = \"collector\"\nkind = \"otlp\"\nurl = \"{url}\"\n"))
}

#[test]
fn what_a_collector_refuses_for_good_is_counted_in_the_record() {
    let (_collector, sink) = refusing_collector();
    let mesh = mesh_with(&EchoBackend::start(), &sink);
    ask(&mesh, 1);
    let gap = mesh.host_b.wait_for_audit("the gap", |line| line["event"] == "audit_gap");
    assert_eq!(gap["sink"], "collector", "{gap}");
    assert!(mesh.host_b.metric("countersign_audit_sink_dropped_lines_total", &[("sink", "collector")]) >= 1.0);
    assert_eq!(mesh.host_b.status()["ready"], true);
}

#[test]
fn what_tells_of_a_gap_causes_none_and_the_sums_add_up() {
    let (_collector, sink) = refusing_collector();
    let begun = wait::now();
    let mut mesh = mesh_with(&EchoBackend::start(), &sink);
    ask(&mesh, 1);
    let gaps_max = || usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 1;
    let gaps = |agent: &TestAgent| {
        let gaps = agent.audit().into_iter().filter(|line| line["event"] == "audit_gap");
        gaps.map(|gap| gap["count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    mesh.host_b.wait_for_audit("the gap", |line| line["event"] == "audit_gap");
    // Nobody asks for anything. Each line about a gap is refused as well.
    wait::stays_so(Duration::from_secs(3), "few lines tell of it", || gaps(&mesh.host_b).len() <= gaps_max());
    let dropped = |mesh: &Mesh| mesh.host_b.status()["audit_sinks"][0]["dropped"].as_u64().unwrap();
    ask(&mesh, 20);
    wait::until_so("every line is refused", || {
        dropped(&mesh) == u64::try_from(mesh.host_b.audit().len()).unwrap() && dropped(&mesh) >= 20
    });
    let dropped = dropped(&mesh);
    mesh.host_b.stop();
    let (told, lines) = (gaps(&mesh.host_b), mesh.host_b.audit());
    assert!(told.len() <= gaps_max() + 1, "one more at the end: {told:?}");
    let last = lines.iter().rposition(|line| line["event"] == "audit_gap").unwrap();
    let sum = told.iter().sum::<u64>();
    assert!((dropped..=u64::try_from(last).unwrap()).contains(&sum), "{told:?}, {dropped} refused, {last} before");
    let log = mesh.host_b.process().stderr().join("\n");
    assert_eq!(log.matches("refuses audit lines for good").count(), 1, "{log}");
}

#[test]
fn a_file_gets_every_line_in_its_format() {
    let folder = tools::folder();
    let file = folder.path().join("audit.ecs");
    let sink = format!("[[audit.sink]]\nname = \"copy\"\nkind = \"file\"\npath = {file:?}\nformat = \"ecs\"\n");
    let mut mesh = mesh_with(&EchoBackend::start(), &sink);
    ask(&mesh, 3);
    mesh.host_b.stop();
    let text = std::fs::read_to_string(file).unwrap();
    let lines = part::json_lines(&text.lines().map(ToOwned::to_owned).collect::<Vec<_>>());
    assert_eq!(lines.len(), mesh.host_b.audit().len());
    assert_eq!(lines.iter().filter(|line| line["event"]["action"] == "request").count(), 3);
}

/// A journal of its own, which the real journald keeps.
struct Journal {
    name: String,
    process: Process,
}

impl Journal {
    fn start() -> Self {
        tools::need_root("a test with a journal");
        let name = format!("cst{}", std::process::id());
        let journald = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"].map(Path::new);
        let journald = journald
            .iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("no systemd-journald: install systemd"));
        let process = Process::start("journald", Command::new(journald).arg(&name));
        let journal = Self { name, process };
        wait::until_so("journald listens", || journal.socket().exists());
        journal
    }

    fn socket(&self) -> PathBuf {
        format!("/run/systemd/journal.{}/socket", self.name).into()
    }

    fn entries(&self) -> Vec<Value> {
        let mut command = Command::new("journalctl");
        command.args(["--namespace", &self.name, "--output", "json", "--no-pager", "COUNTERSIGN_EVENT=request"]);
        let output = command.output().unwrap();
        part::json_lines(&String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect::<Vec<_>>())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait_for_end(wait::SOON);
        std::fs::remove_dir_all(format!("/run/systemd/journal.{}", self.name)).ok();
        let ending = format!(".{}", self.name);
        for folder in ["/var/log/journal", "/run/log/journal"] {
            let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
            for entry in entries.unwrap_or_default() {
                if entry.file_name().to_string_lossy().ends_with(&ending) {
                    std::fs::remove_dir_all(entry.path()).ok();
                }
            }
        }
    }
}

#[test]
fn the_journal_gets_every_line_with_its_fields() {
    let journal = Journal::start();
    let sink = format!("[[audit.sink]]\nname = \"journal\"\nkind = \"journald\"\npath = {:?}\n", journal.socket());
    let mesh = mesh_with(&EchoBackend::start(), &sink);
    ask(&mesh, 3);
    let entries = wait::until("every request is there", || Some(journal.entries()).filter(|found| found.len() == 3));
    assert_eq!(entries[0]["COUNTERSIGN_OUTCOME"], "allowed", "{}", entries[0]);
    assert_eq!(entries[0]["SYSLOG_IDENTIFIER"], "countersign-agent");
    let message = entries[0]["MESSAGE"].as_str().unwrap();
    assert!(
        message.starts_with("inbound request of spiffe://mesh.test/web/frontend at llm, GET /a: allowed"),
        "{message}"
    );
}

#[test]
fn a_dead_sink_loses_lines_that_are_counted_unless_it_may_lose_none() {
    let path = "/a-long-segment".repeat(500);
    // Longer than its queue: 16 MiB.
    let many = 2600;
    let sink = |more: &str| {
        format!(
            "[[audit.sink]]\nname = \"dead\"\nkind = \"syslog\"\naddress = \"tcp://{}\"\n{more}",
            tools::free_address()
        )
    };
    let mesh = mesh_with(&EchoBackend::start(), &sink(""));
    let mut client = Client::connect(mesh.frontend).unwrap();
    for _ in 0..many {
        assert_eq!(client.ask("GET", &path, &[], b"").unwrap().status(), 200, "nobody minds");
    }
    mesh.host_b.wait_for_status("lines are dropped", |status| status["audit_sinks"][0]["dropped"].as_u64() > Some(0));
    assert_eq!(mesh.host_b.status()["ready"], true);

    let mesh = mesh_with(&EchoBackend::start(), &sink("when_full = \"refuse\"\n"));
    let mut client = Client::connect(mesh.frontend).unwrap();
    let refused = (0..many).any(|_| client.ask("GET", &path, &[], b"").unwrap().status() == 503);
    assert!(refused, "it is as a full disk");
    assert_eq!(mesh.host_b.status()["audit_sinks"][0]["dropped"], 0);
}
