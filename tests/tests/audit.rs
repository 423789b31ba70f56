//! The audit trail: segments that show every change, what happens when there is no room, and what other tools get.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::path::Path;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::disk::SmallDisk;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, Plan};
use countersign_tests::part;
use countersign_tests::pki::{HOUR, Leaf, write_by_rename};
use countersign_tests::process::Finished;
use countersign_tests::{tools, wait};
use serde_json::Value;

/// A mesh whose serving side keeps segments.
fn mesh_with(backend: &EchoBackend, host_b: TestAgent) -> Mesh {
    Mesh::of_files_as(&Plan::to(backend.url()), TestAgent::new("host-a"), host_b)
}

#[track_caller]
fn verify(agent: &TestAgent, folder: &Path, more: &[&str]) -> Finished {
    agent.run(&[&["audit", "verify", folder.to_str().unwrap()], more].concat())
}

fn requests(agent: &TestAgent) -> usize {
    agent.audit().iter().filter(|line| line["event"] == "request").count()
}

fn has(agent: &TestAgent, event: &str) -> Vec<Value> {
    agent.audit().into_iter().filter(|line| line["event"] == event).collect()
}

#[test]
fn segments_follow_each_other_under_load_and_are_verified() {
    let backend = EchoBackend::steady();
    let keys = "segment_bytes = 65536\n";
    let mut mesh = mesh_with(&backend, TestAgent::new("host-b").with_audit_folder(keys));
    let mut client = Client::connect(mesh.frontend).unwrap();
    for _ in 0..400 {
        assert_eq!(client.ask("GET", "/a", &[], b"").unwrap().status(), 200);
    }
    wait::until_so("every line is written", || requests(&mesh.host_b) == 400);
    let folder = mesh.host_b.audit_folder().to_owned();
    assert!(mesh.host_b.segments().len() > 2, "{:?}", mesh.host_b.segments());
    let open = verify(&mesh.host_b, &folder, &[]).success();
    assert!(open.contains("open"), "{open}");

    mesh.host_b.stop();
    let key = mesh.host_b.folder().join("host-b.pub");
    let config = mesh.host_b.config_path();
    let pem = mesh.host_b.run(&["audit", "key", "--config", config.to_str().unwrap()]).success();
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem}");
    std::fs::write(&key, pem).unwrap();
    let report = verify(&mesh.host_b, &folder, &["--key", key.to_str().unwrap(), "--closed", "--json"]).success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let segments = report["segments"].as_array().unwrap();
    assert!(segments.iter().all(|segment| segment["end"] == "sealed"), "{report:#}");
    let lines: u64 = segments.iter().map(|segment| segment["lines"].as_u64().unwrap()).sum();
    assert_eq!(usize::try_from(lines).unwrap(), mesh.host_b.audit().len());
    let last = report["last"].as_str().unwrap();
    verify(&mesh.host_b, &folder, &["--expect", last]).success();
}

#[test]
fn whoever_changes_a_segment_is_found_with_file_and_line() {
    let mut mesh = mesh_with(&EchoBackend::start(), TestAgent::new("host-b").with_audit_folder(""));
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
    wait::until_so("both lines are written", || requests(&mesh.host_b) == 2);
    mesh.host_b.stop();
    let file = mesh.host_b.segments().remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let place = text.lines().position(|line| line.contains("\"outcome\":\"denied\"")).unwrap() + 1;
    let folder = mesh.host_b.audit_folder();
    std::fs::write(&file, text.replace("\"outcome\":\"denied\"", "\"outcome\":\"allowed\"")).unwrap();
    let finished = verify(&mesh.host_b, folder, &[]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains(&format!("WRONG: {}:{place}: ", file.display())), "{finished:?}");
    assert!(finished.stderr.starts_with("error: the audit log is not as it was written"), "{finished:?}");

    std::fs::write(&file, text.rsplit_once("{\"schema\"").unwrap().0).unwrap();
    assert!(verify(&mesh.host_b, folder, &[]).stdout.contains("open"));
    let finished = verify(&mesh.host_b, folder, &["--closed"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("is not sealed"), "{finished:?}");
}

#[test]
fn an_agent_that_was_killed_goes_on_with_the_chain() {
    let mut mesh = mesh_with(&EchoBackend::start(), TestAgent::new("host-b").with_audit_folder(""));
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    wait::until_so("its line is written", || requests(&mesh.host_b) == 1);
    mesh.host_b.kill();
    let first = mesh.host_b.segments().remove(0);
    let mut torn = std::fs::read(&first).unwrap();
    torn.extend_from_slice(b"{\"schema\":1,\"time\":\"2026-");
    std::fs::write(&first, &torn).unwrap();

    mesh.host_b.start();
    assert_eq!(std::fs::read(&first).unwrap(), torn, "it is left as it was");
    let second = std::fs::read_to_string(&mesh.host_b.segments()[1]).unwrap();
    let recovered: Value = serde_json::from_str(second.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&recovered["event"], recovered["torn_bytes"].as_u64()), (&"audit_recovered".into(), Some(25)));
    let report = verify(&mesh.host_b, mesh.host_b.audit_folder(), &[]).success();
    assert!(report.contains("lines are not sealed yet, and prove nothing"), "while it runs: {report}");
    mesh.host_b.stop();
    let report = verify(&mesh.host_b, mesh.host_b.audit_folder(), &["--closed"]).success();
    assert!(report.contains("recovered after a crash") && !report.contains("nothing was changed"), "{report}");
    assert!(report.contains("25 torn bytes"), "{report}");
}

#[test]
fn two_agents_do_not_write_into_one_folder() {
    let mesh = mesh_with(&EchoBackend::start(), TestAgent::new("host-b").with_audit_folder(""));
    let config = mesh.host_b.config_path();
    let finished = mesh.host_b.run(&["run", "--config", config.to_str().unwrap()]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("is in use by another process"), "{finished:?}");
}

#[test]
fn an_agent_that_cannot_begin_seals_what_it_has_written() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut mesh = mesh_with(&EchoBackend::start(), TestAgent::new("host-b").with_audit_folder(""));
    mesh.host_b.stop();
    let config = std::fs::read_to_string(mesh.host_b.config_path()).unwrap();
    let busy = config.replace(&mesh.inbound.to_string(), &taken.local_addr().unwrap().to_string());
    std::fs::write(mesh.host_b.config_path(), busy).unwrap();
    let config = mesh.host_b.config_path();
    assert_eq!(mesh.host_b.run(&["run", "--config", config.to_str().unwrap()]).code, Some(1));
    let report = verify(&mesh.host_b, mesh.host_b.audit_folder(), &["--closed"]).success();
    assert_eq!(report.matches("sealed").count(), 2, "{report}");
}

#[test]
fn what_happens_to_the_agent_itself_is_in_the_record() {
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("secret");
    write_by_rename(&file, "first");
    let inject = format!("[inbound.inject]\nheader = \"x-api-key\"\nvalue = \"${{file:{}}}\"\n", file.display());
    let plan = Plan { host_b: inject, ..Plan::to(EchoBackend::start().url()) };
    let host_b = TestAgent::new("host-b").with_audit_folder("");
    let mut mesh = Mesh::of_files_as(&plan, TestAgent::new("host-a"), host_b);
    let started = mesh.host_b.wait_for_audit("its start", |line| line["event"] == "agent_started");
    assert!(started["pid"].is_u64(), "{started}");
    let loaded = mesh.host_b.wait_for_audit("its config", |line| line["event"] == "config_loaded");
    let sum = std::process::Command::new("sha256sum").arg(mesh.host_b.config_path()).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(loaded["sha256"].as_str().unwrap()), "{loaded}");
    assert_eq!(loaded["owner_uid"], rustix::process::geteuid().as_raw(), "{loaded}");
    assert!(loaded["modified"].is_string(), "{loaded}");

    let tables = mesh.host_b.tables();
    mesh.host_b.reload_refused("[[inbound]]\nnam = \"llm\"\n");
    let refused = mesh.host_b.wait_for_audit("a broken config", |line| line["event"] == "config_refused");
    assert!(refused["error"].as_str().unwrap().contains("nam"), "{refused}");
    assert_ne!(refused["sha256"], loaded["sha256"]);

    mesh.host_b.reload(&(tables.clone() + "\n[limits]\nhandshakes = 100\n"));
    assert_eq!(has(&mesh.host_b, "credential_rotated").len(), 0, "the secret is still the same");
    mesh.host_b.reload(&tables);
    write_by_rename(&file, "second");
    let rotated = mesh.host_b.wait_for_audit("the secret", |line| line["event"] == "credential_rotated");
    assert_eq!(
        (&rotated["credential"], &rotated["name"]),
        (&"injected_secret".into(), &"llm the header x-api-key".into())
    );
    assert!(!mesh.host_b.audit_text().contains("second"), "the secret itself is told to nobody");
    mesh.host_b.stop();
    assert_eq!((has(&mesh.host_b, "agent_stopped").len(), has(&mesh.host_b, "credential_rotated").len()), (1, 1));
}

#[test]
fn a_renewal_that_an_operator_asks_for_is_in_the_record_with_the_user() {
    let host_b = TestAgent::new("host-b").with_audit_folder("");
    let mut ca = countersign_tests::ca::TestCa::init("mesh.test");
    ca.start();
    let plan = Plan::to(EchoBackend::start().url());
    let mesh = Mesh::enrolled_as(ca, &plan, TestAgent::new("host-a"), host_b, &[]);
    mesh.host_b.ask("renew", &[]).success();
    let command = mesh.host_b.wait_for_audit("the command", |line| line["event"] == "control_command");
    assert_eq!(command["caller_uid"], rustix::process::geteuid().as_raw(), "{command}");
    let rotated = mesh.host_b.wait_for_audit("the certificate", |line| line["event"] == "credential_rotated");
    assert_eq!((&rotated["credential"], &rotated["name"]), (&"certificate".into(), &"spiffe://mesh.test/llm".into()));
    assert!(mesh.host_b.state().join("audit.key").exists(), "the key is with the state");
    let opened = has(&mesh.host_b, "audit_opened").remove(0);
    assert_eq!(opened["host"], "spiffe://mesh.test/countersign/host/host-b", "{opened}");
}

/// Fills the disk under an agent, lets it be, and frees the disk.
struct Full {
    disk: SmallDisk,
    mesh: Mesh,
    backend: EchoBackend,
    /// One connection, so that the other agent calls by one connection too: a new one would be closed without an answer.
    client: Client,
}

fn ask(client: &mut Client) -> u16 {
    client.ask("GET", "/a", &[], b"").unwrap().status()
}

impl Full {
    fn with(when_full: &str) -> Self {
        // Room for what is in buffers when the disk is free again.
        let disk = SmallDisk::new(32 * 1024);
        let backend = EchoBackend::start();
        let keys = format!("when_full = \"{when_full}\"\n");
        let host_b = TestAgent::new("host-b").with_audit_folder_in(&disk.path().join("audit"), &keys);
        let mesh = mesh_with(&backend, host_b);
        let mut client = Client::connect(mesh.frontend).unwrap();
        assert_eq!(ask(&mut client), 200);
        wait::until_so("its line is written", || requests(&mesh.host_b) == 1);
        disk.fill();
        Self { disk, mesh, backend, client }
    }

    /// Asks until the agent knows that it cannot write.
    fn until_failing(&mut self) -> usize {
        let mut asked = 0;
        wait::until_so("writing fails", || {
            if self.mesh.host_b.status()["audit_failing"] == true {
                return true;
            }
            assert_eq!(ask(&mut self.client), 200);
            asked += 1;
            false
        });
        asked
    }

    fn free(mut self, allowed: usize) {
        self.disk.free();
        self.mesh.host_b.wait_for_status("lines flow again", |status| status["audit_failing"] == false);
        wait::until_so("every line is written", || requests(&self.mesh.host_b) >= allowed);
        self.mesh.host_b.stop();
        verify(&self.mesh.host_b, self.mesh.host_b.audit_folder(), &["--closed"]).success();
    }
}

#[test]
fn on_a_full_disk_requests_are_refused_if_that_is_asked_for() {
    let mut full = Full::with("refuse");
    let allowed = full.until_failing() + 1;
    let reached = full.backend.seen().len();
    assert_eq!(ask(&mut full.client), 503);
    assert_eq!(full.backend.seen().len(), reached);
    full.free(allowed);
}

#[test]
fn on_a_full_disk_requests_wait_if_that_is_asked_for() {
    let mut full = Full::with("block");
    let allowed = full.until_failing() + 1;
    let reached = full.backend.seen().len();
    let Full { disk, mesh, backend, mut client } = full;
    let began = wait::now();
    let waiting = std::thread::spawn(move || (ask(&mut client), client));
    wait::stays_so(Duration::from_secs(1), "it waits", || !waiting.is_finished());
    assert_eq!(backend.seen().len(), reached, "nothing reaches the service unrecorded");
    // One that has waited long enough is refused...
    let (status, mut client) = waiting.join().unwrap();
    assert_eq!(status, 503);
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    // ...and one for which there is room in time is answered.
    let waiting = std::thread::spawn(move || ask(&mut client));
    wait::stays_so(Duration::from_millis(300), "it waits", || !waiting.is_finished());
    disk.free();
    assert_eq!(waiting.join().unwrap(), 200);
    wait::until_so("every line is written", || requests(&mesh.host_b) > allowed);
}

#[test]
fn on_a_full_disk_lines_are_dropped_and_counted_if_that_is_asked_for() {
    let mut full = Full::with("drop");
    let mut asked = full.until_failing() + 1;
    let path = "/a-long-segment".repeat(500);
    let mut client = Client::connect(full.mesh.frontend).unwrap();
    // Buffers take some, and then lines find no room.
    for _ in 0..1500 {
        assert_eq!(client.ask("GET", &path, &[], b"").unwrap().status(), 200, "requests go on");
        asked += 1;
    }
    full.disk.free();
    full.mesh.host_b.wait_for_audit("the gap", |line| line["event"] == "audit_gap");
    let left_out = || has(&full.mesh.host_b, "audit_gap").iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>();
    wait::until_so("every line is there or counted", || {
        let counted = requests(&full.mesh.host_b) + usize::try_from(left_out()).unwrap();
        assert!(counted <= asked, "{counted} of {asked}");
        counted == asked
    });
    assert!(left_out() > 100, "{}", left_out());
    let Full { mut mesh, disk, .. } = full;
    mesh.host_b.stop();
    verify(&mesh.host_b, mesh.host_b.audit_folder(), &["--closed"]).success();
    drop(disk);
}

/// Everything that one agent has written of much that may happen.
fn written() -> (Mesh, EchoBackend) {
    let backend = EchoBackend::start();
    let mesh = mesh_with(&backend, TestAgent::new("host-b").with_audit_folder(""));
    let mut mesh = mesh;
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
    let expired = HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(FRONTEND).valid(-2 * HOUR, -60))));
    expired.knock(mesh.inbound);
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(FRONTEND))));
    peer.send(mesh.inbound, b"GET /a/../b HTTP/1.1\r\nhost: a\r\n\r\n");
    peer.send(mesh.inbound, b"DELETE /a%22%7c=b HTTP/1.1\r\nhost: a\r\n\r\n");
    std::net::TcpStream::connect(mesh.inbound).unwrap();
    let tables = mesh.host_b.tables();
    mesh.host_b.reload_refused("[[inbound]]\nnam = \"llm\"\n");
    mesh.host_b.reload(&(tables + "\n[limits]\nhandshakes = 100\n"));
    wait::until_so("every line is written", || requests(&mesh.host_b) >= 4);
    mesh.host_b.stop();
    (mesh, backend)
}

#[track_caller]
fn show(agent: &TestAgent, format: &str) -> String {
    agent.run(&["audit", "show", agent.audit_folder().to_str().unwrap(), "--format", format]).success()
}

/// Has lines checked by `audit_validator.py`.
#[track_caller]
fn check_lines(lines: &str, arguments: &[&str]) {
    let folder = tools::folder();
    let file = folder.path().join("lines");
    std::fs::write(&file, lines.to_owned() + "\n").unwrap();
    let finished = part::call("audit_validator", &[arguments, &[file.to_str().unwrap()]].concat());
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(usize::try_from(finished.result()["lines"].as_u64().unwrap()).unwrap(), lines.lines().count());
}

#[test]
fn every_line_is_one_that_the_schema_knows() {
    let (mesh, _backend) = written();
    let schema = tools::parts().join("../../deploy/audit/schema-1.json");
    let lines = mesh.host_b.audit_text();
    for event in ["agent_started", "agent_stopped", "audit_opened", "audit_sealed", "config_loaded", "config_refused"] {
        assert!(!has(&mesh.host_b, event).is_empty(), "{event} is not in:\n{lines}");
    }
    check_lines(lines.trim_end(), &["--schema", schema.to_str().unwrap()]);
    let plain = mesh.host_a.audit_text();
    check_lines(plain.trim_end(), &["--schema", schema.to_str().unwrap()]);
    assert_eq!(show(&mesh.host_b, "json"), lines.trim_end());
}

#[test]
fn every_line_is_shown_as_ocsf_that_its_schema_knows() {
    let (mesh, _backend) = written();
    check_lines(&show(&mesh.host_b, "ocsf"), &[]);
    let count = mesh.host_b.audit().len();
    for line in show(&mesh.host_b, "ecs").lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value["@timestamp"].is_string() && value["event"]["category"].is_array(), "{line}");
    }
    let cef = show(&mesh.host_b, "cef");
    assert_eq!(cef.lines().count(), count);
    assert!(cef.lines().all(|line| line.starts_with("CEF:0|Countersign|countersign-agent|")), "{cef}");
}

/// Events that take other programs, or days, to happen: their lines as the catalogue has them.
#[test]
fn what_seldom_happens_is_known_to_the_schemas_too() {
    let hash = "0".repeat(64);
    let events = [
        r#""event":"audit_gap","count":3,"sink":"siem""#.to_owned(),
        format!(r#""event":"audit_recovered","segment":1,"lines":2,"last":"{hash}","torn_bytes":3,"torn_sha256":"{hash}""#),
        r#""event":"audit_retired","through":3,"reason":"age""#.to_owned(),
        r#""event":"authentication","method":"api_key","outcome":"failure","reason":"key_unknown","subject":"key_a","address":"192.0.2.7:4","route":"llm""#.to_owned(),
        r#""event":"control_command","command":"renew","caller_uid":0"#.to_owned(),
        r#""event":"credential_rotated","credential":"certificate","name":"spiffe://a/b","serial":"01""#.to_owned(),
        r#""event":"key_created","key":"key_a","owner":"batch","caller_uid":0,"expires":"2027-01-01T00:00:00Z""#.to_owned(),
        r#""event":"key_disabled","key":"key_a""#.to_owned(),
        r#""event":"key_enabled","key":"key_a""#.to_owned(),
        r#""event":"key_revoked","key":"key_a""#.to_owned(),
        r#""event":"key_rotated","key":"key_a""#.to_owned(),
        r#""event":"limit_hit","limit":"tokens","subject":"spiffe://a/b","route":"llm","count":2"#.to_owned(),
        r#""event":"lockout","subject":"192.0.2.7","until":"2027-01-01T00:00:00Z""#.to_owned(),
        r#""event":"omitted_lines","of":"refusal","reason":"key_unknown","count":299"#.to_owned(),
        r#""event":"pattern","pattern":"refusal_burst","subject":"spiffe://a/b","route":"llm","count":200,"seconds":60"#.to_owned(),
        r#""event":"policy_observed","decision":"a-b","policy":"next","outcome":"denied","route":"llm","peer":"spiffe://a/b""#.to_owned(),
        r#""event":"unrecorded_refusals","count":9"#.to_owned(),
    ];
    let agent = TestAgent::new("host-b").with_audit_folder("");
    std::fs::create_dir(agent.audit_folder()).unwrap();
    let line = |event: &String| format!("{{\"schema\":1,\"time\":\"2026-11-23T03:00:00.000001Z\",{event}}}\n");
    let lines: String = events.iter().map(line).collect();
    std::fs::write(agent.audit_folder().join("audit-0000000001.jsonl"), &lines).unwrap();
    let schema = tools::parts().join("../../deploy/audit/schema-1.json");
    check_lines(show(&agent, "json").trim_end(), &["--schema", schema.to_str().unwrap()]);
    check_lines(&show(&agent, "ocsf"), &[]);
}

#[test]
fn a_file_is_written_in_the_format_that_is_asked_for_and_decisions_are_explained_all_the_same() {
    let host_b = TestAgent::new("host-b").with_audit_keys("format = \"ocsf\"\n");
    let mut mesh = mesh_with(&EchoBackend::start(), host_b);
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    let line = mesh.host_b.wait_for_audit("the request", |line| line["class_uid"] == 6003);
    let explained = mesh.host_b.ask("explain", &[line["metadata"]["uid"].as_str().unwrap()]).success();
    assert!(explained.contains("recorded: {\"schema\":1,"), "{explained}");
    mesh.host_b.stop();
    check_lines(mesh.host_b.audit_text().trim_end(), &[]);
}
