//! What the operator sees: one audit line for everything, whatever became of it; metrics; health; and never a secret.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::ca::TestCa;
use countersign_tests::disk::SmallDisk;
use countersign_tests::hostile::{HostilePeer, Knock};
use countersign_tests::http::{self, Client};
use countersign_tests::load::Load;
use countersign_tests::mesh::{DOMAIN, FRONTEND, Mesh, OTHER, Places, Plan, SERVICE};
use countersign_tests::part::{self, Part};
use countersign_tests::pki::{HOUR, Leaf, write_by_rename};
use countersign_tests::process::Process;
use countersign_tests::stream::{LONG_STREAM, Stream};
use countersign_tests::{tools, wait};
use serde_json::Value;

#[track_caller]
fn lines_of(agent: &TestAgent, event: &str) -> Vec<Value> {
    agent.audit().into_iter().filter(|line| line["event"] == event).collect()
}

fn count(agent: &TestAgent) -> u64 {
    u64::try_from(lines_of(agent, "request").len()).unwrap()
}

#[test]
fn each_connection_and_each_request_has_exactly_one_line() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let peer = |leaf: &Leaf| HostilePeer::showing(Some(&mesh.pki().issue(leaf)));
    let frontend = peer(&Leaf::of(FRONTEND));

    // Eight connections with nine requests that are let in or refused...
    let mut client = frontend.client(mesh.inbound).unwrap();
    for path in ["/echo-headers", "/bytes/10", "/nothing-here"] {
        client.ask("GET", path, &[], b"").unwrap();
    }
    drop(client);
    assert_eq!(frontend.send(mesh.inbound, b"GET /a/../b HTTP/1.1\r\nhost: a\r\n\r\n"), Knock::Answered(400));
    assert_eq!(peer(&Leaf::of(OTHER)).knock(mesh.inbound), Knock::Answered(403));
    // ...a stream that its caller leaves, a body that its caller does not finish...
    let mut left = frontend.client(mesh.inbound).unwrap();
    left.send_request("GET", LONG_STREAM, &[], b"").unwrap();
    left.head().unwrap();
    drop(left);
    let mut left = frontend.client(mesh.inbound).unwrap();
    left.send("POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc").unwrap();
    wait::until_so("the unfinished request is under way", || mesh.host_b.status()["connections"].as_u64() >= Some(1));
    drop(left);
    assert_eq!(frontend.client(mesh.inbound).unwrap().ask("HEAD", "/bytes/5", &[], b"").unwrap().status(), 200);
    assert_eq!(frontend.client(mesh.inbound).unwrap().ask("POST", "/length", &[], b"abc").unwrap().status(), 200);
    // ...and four without one.
    assert!(matches!(peer(&Leaf::of(FRONTEND).valid(-2 * HOUR, -60)).knock(mesh.inbound), Knock::Alert(_)));
    TcpStream::connect(mesh.inbound).unwrap();
    TcpStream::connect(mesh.inbound).unwrap().write_all(b"no TLS at all").unwrap();
    drop(frontend.connect(mesh.inbound).unwrap());

    mesh.host_b.wait_for_status("everything has ended", |status| status["connections"] == 0);
    wait::until_so("every line is written", || lines_of(&mesh.host_b, "connection").len() >= 11);
    let (connections, requests) = (lines_of(&mesh.host_b, "connection"), lines_of(&mesh.host_b, "request"));
    let all = mesh.host_b.audit_text();
    assert_eq!(connections.len(), 11, "{all}");
    assert_eq!(requests.len(), 9, "{all}");
    let mut decisions: Vec<&str> =
        connections.iter().chain(&requests).map(|line| line["decision"].as_str().unwrap()).collect();
    decisions.sort_unstable();
    decisions.dedup();
    assert_eq!(decisions.len(), 20, "each has a decision of its own:\n{all}");
    let outcomes = |outcome: &str| requests.iter().filter(|line| line["outcome"] == outcome).count();
    assert_eq!((outcomes("allowed"), outcomes("denied")), (5, 2), "{all}");
    for line in connections.iter().chain(&requests) {
        for key in ["time", "event", "decision", "direction", "route", "address", "outcome", "duration_us"] {
            assert!(!line[key].is_null(), "{key} is missing: {line}");
        }
        let said_why = line["reason"].is_string() && line["detail"].is_string();
        assert!(said_why || matches!(line["outcome"].as_str(), Some("allowed" | "cancelled")), "no reason: {line}");
    }
    let labels = [("direction", "inbound"), ("route", "llm")];
    for name in ["countersign_connections_opened_total", "countersign_connections_closed_total"] {
        assert_eq!(mesh.host_b.metric(name, &labels), 11.0, "{name}");
    }
    assert_eq!(mesh.host_b.metric("countersign_requests_total", &labels), 9.0);
    assert_eq!(mesh.host_b.metric("countersign_requests_total", &[("outcome", "denied")]), 2.0);
}

#[test]
fn handshakes_are_counted_on_both_sides_of_a_hop() {
    let mesh = Mesh::of_files(&Plan::to(EchoBackend::start().url()));
    for _ in 0..3 {
        assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    }
    let counted =
        |agent: &TestAgent, direction| agent.metric("countersign_handshakes_total", &[("direction", direction)]);
    assert_eq!(counted(&mesh.host_b, "outbound"), 0.0);
    assert!(counted(&mesh.host_a, "outbound") >= 1.0, "one hop carries many requests");
    assert_eq!(counted(&mesh.host_a, "outbound"), counted(&mesh.host_b, "inbound"));
}

#[test]
fn a_body_that_its_caller_breaks_off_is_not_the_fault_of_the_service() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(FRONTEND))));
    let mut client = peer.client(mesh.inbound).unwrap();
    client.send("POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc").unwrap();
    wait::until_so("the request is under way", || mesh.host_b.status()["connections"] == 1);
    drop(client);
    let line = mesh.host_b.wait_for_audit("the unfinished request", |line| line["event"] == "request");
    assert_eq!(line["outcome"], "cancelled", "{line}");
    assert_eq!(mesh.host_b.metric("countersign_refusals_total", &[("reason", "backend_broke")]), 0.0);
}

#[test]
fn every_answered_request_of_many_is_in_the_audit_of_both_sides() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let load = Load::start(mesh.frontend, "/a", 8);
    wait::until_so("a thousand requests are answered", || load.answered() >= 1000);
    let (answered, failures) = load.finish();
    assert_eq!(failures, Vec::<String>::new());
    for agent in [&mesh.host_a, &mesh.host_b] {
        wait::until_so("every line is written", || count(agent) >= answered);
        assert_eq!(count(agent), answered);
    }
}

#[test]
fn a_request_that_goes_on_has_its_line_when_the_agent_is_told_to_stop() {
    let service = Part::serve("plain_server", &[]);
    let limits = "[limits]\ndrain = \"300ms\"\n";
    let mut mesh = Mesh::of_files(&Plan { host_b: limits.to_owned(), ..Plan::to(service.url("http")) });
    let stream = Stream::open(mesh.frontend, LONG_STREAM);
    mesh.host_b.stop();
    assert_eq!((lines_of(&mesh.host_b, "request").len(), lines_of(&mesh.host_b, "connection").len()), (1, 1));
    drop(stream);
}

const SECRET: &str = "hunter2-injected-secret";
const OWN_SECRET: &str = "callers-own-secret";

#[test]
fn no_secret_is_in_any_log_audit_line_metric_or_status() {
    let mut ca = TestCa::init(DOMAIN);
    ca.change_config(|text| text.replace("# log_level = \"info\"", "log_level = \"trace\""));
    ca.start();
    let token = ca.token("host-a");
    let (mut host_a, mut host_b) = (TestAgent::new("host-a"), TestAgent::new("host-b"));
    let mut enrolling = Process::start(
        "enroll",
        &host_a.command(&["enroll", "--token", &token, "--dir", host_a.state().to_str().unwrap()]),
    );
    assert_eq!(enrolling.wait_for_end(wait::SOON).code(), Some(0));
    host_a.is_enrolled();
    // A second use, so that a refusal is written as well.
    let again = TestAgent::new("again").try_enroll(&token);
    host_b.enroll(&ca.token("host-b")).success();
    ca.grant("host-b", SERVICE, &[]);
    ca.grant("host-a", FRONTEND, &[]);
    ca.grant("host-a", OTHER, &[]);
    let secret_file = host_b.folder().join("secret");
    write_by_rename(&secret_file, SECRET);
    let trace = "[log]\nlevel = \"trace\"\n";
    let inject = format!(
        "[inbound.inject]\nheader = \"x-api-key\"\nvalue = \"Key ${{file:{}}}\"\n\n{trace}",
        secret_file.display()
    );
    let backend = EchoBackend::start();
    let places = Places::choose();
    let plan = Plan { host_a: trace.to_owned(), host_b: inject, ..Plan::to(backend.url()) };
    host_a.configure(&plan.tables_of_a(&places));
    host_b.configure(&plan.tables_of_b(&places));
    host_b.start();
    host_a.start();
    let own = [("Authorization", OWN_SECRET), ("Cookie", OWN_SECRET), ("x-api-key", OWN_SECRET)];
    for address in [places.frontend, places.other] {
        Client::connect(address).unwrap().ask("GET", "/a", &own, b"").unwrap();
    }
    let url = format!("http://{}/a", places.frontend);
    let header = format!("authorization: {OWN_SECRET}");
    countersign_tests::process::run(std::process::Command::new("curl").args([
        "-s",
        "--http2-prior-knowledge",
        "-H",
        &header,
        &url,
    ]));
    assert!(backend.seen()[0].head.contains(SECRET), "the secret is in use");
    host_a.ask("renew", &[]).success();
    host_b.wait_for_audit("the requests", |line| line["event"] == "request");
    let explained = host_b.ask("explain", &["--inbound", "llm", "--peer", FRONTEND]);

    let mut said = vec![
        ("enroll", enrolling.stdout().join("\n") + &enrolling.stderr().join("\n")),
        ("enroll again", again.stdout + &again.stderr),
        ("journal", ca.journal().iter().map(ToString::to_string).collect()),
        ("ca log", ca.process().stderr().join("\n")),
        ("explain", explained.stdout + &explained.stderr),
    ];
    for agent in [&mut host_a, &mut host_b] {
        said.push(("audit", agent.audit_text()));
        said.push(("log", agent.process().stderr().join("\n") + &agent.process().stdout().join("\n")));
        said.push(("metrics", agent.health("/metrics").text()));
        said.push(("status", agent.status().to_string()));
    }
    let join_secret = secret_of(&token);
    let keys: Vec<String> = [host_a.stored_identity(FRONTEND), host_b.stored_identity(SERVICE)]
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap().lines().nth(1).unwrap().to_owned())
        .collect();
    for (what, text) in &said {
        for secret in [SECRET, OWN_SECRET, &token, &join_secret, &keys[0], &keys[1], "PRIVATE KEY"] {
            assert!(!text.contains(secret), "{secret} is in the {what}");
        }
    }
    assert!(host_b.process().stderr().iter().any(|line| line.contains("TRACE")), "the log was at its most talkative");
}

/// What a token holds beside the CA's address: its secret, as it travels.
fn secret_of(token: &str) -> String {
    let body = token.split('.').nth(1).unwrap();
    let script = "import base64, json, sys; b = sys.argv[1]; print(json.loads(base64.urlsafe_b64decode(b + '=' * (-len(b) % 4)))['secret'])";
    let mut command = std::process::Command::new(tools::python());
    countersign_tests::process::run(command.args(["-c", script, body])).success().trim().to_owned()
}

#[test]
fn metrics_can_be_read_and_have_no_label_that_a_peer_has_chosen() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let stranger = Leaf::of("spiffe://mesh.test/label-from-a-peer");
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&stranger)));
    for request in [
        "GET /label-from-a-peer HTTP/1.1\r\nhost: label-from-a-peer\r\nuser-agent: label-from-a-peer\r\n\r\n",
        "LABELFROMAPEER / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /label-from-a-peer/../x HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        peer.send(mesh.inbound, request.as_bytes());
    }
    for path in ["/label-from-a-peer", "/v1/\u{20}label"] {
        http::get(mesh.frontend, path).ok();
    }
    let answer = mesh.host_b.health("/metrics");
    let text = answer.text();
    assert!(!text.to_lowercase().contains("label-from-a-peer") && !text.contains("LABELFROMAPEER"), "{text}");
    let content_type = answer.head.header("content-type").unwrap();
    assert!(
        content_type.starts_with("application/openmetrics-text") || content_type.starts_with("text/plain"),
        "{content_type}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut series = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no metric: {line:?}"));
        value.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let (base, labels) = name.split_once('{').unwrap_or((name, "}"));
        assert!(
            base.starts_with("countersign_") && base.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{line}"
        );
        assert!(labels.ends_with('}'), "{line}");
        series.push(name);
    }
    let count = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), count, "a series is written twice");
    // OpenMetrics 1.0: the last bucket of a histogram is +Inf, and holds everything.
    for name in ["countersign_first_byte_seconds", "countersign_request_seconds"] {
        let labels = [("direction", "inbound"), ("route", "llm")];
        let all = mesh.host_b.metric(&format!("{name}_count"), &labels);
        let last = mesh.host_b.metric(&format!("{name}_bucket"), &[labels[0], labels[1], ("le", "+Inf")]);
        assert!(all > 0.0);
        assert_eq!(last, all, "{name} has no bucket without an upper end:\n{text}");
    }
}

#[test]
fn health_tells_life_from_readiness() {
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let mut agent = TestAgent::new("host-b");
    agent.enroll(&ca.token("host-b")).success();
    agent.configure(&Plan::to("http://127.0.0.1:9").tables_of_b(&Places::choose()));
    agent.launch();
    wait::until_so("it is alive", || {
        http::get(agent.metrics_address(), "/livez").is_ok_and(|answer| answer.status() == 200)
    });
    let answer = agent.health("/readyz");
    assert_eq!(answer.status(), 503, "nobody has granted the identity: {answer:?}");
    assert!(answer.text().contains("llm waits for its identity"), "{}", answer.text());
    let status = agent.wait_for_status("the refusal is shown", |status| {
        status["identities"].as_array().unwrap().iter().any(|identity| identity["renewal_error"].is_string())
    });
    assert_eq!(status["ready"], false);
    assert_eq!(status["routes"][0]["listening"], Value::Null);

    ca.grant("host-b", SERVICE, &[]);
    agent.wait_until_ready();
    assert_eq!(agent.health("/readyz").status(), 200);
    assert_eq!(agent.health("/livez").status(), 200);
    assert_eq!(agent.health("/nothing").status(), 404);
    assert_eq!(http::post(agent.metrics_address(), "/metrics", b"").unwrap().status(), 404);
}

#[test]
fn what_cannot_be_recorded_is_refused_until_it_can() {
    let disk = SmallDisk::new(64);
    let backend = EchoBackend::start();
    let host_b = TestAgent::new("host-b").with_audit_in(&disk.path().join("audit.jsonl"));
    let mesh = Mesh::of_files_as(&Plan::to(backend.url()), TestAgent::new("host-a"), host_b);
    let mut client = Client::connect(mesh.frontend).unwrap();
    let mut ask = || client.ask("GET", "/a", &[], b"").unwrap().status();
    let mut answered = 0;
    for _ in 0..5 {
        assert_eq!(ask(), 200);
        answered += 1;
    }
    disk.fill();
    let refused = wait::within(Duration::from_secs(5), "requests are refused", || match ask() {
        200 => {
            answered += 1;
            None
        }
        refused => Some(refused),
    });
    assert_eq!(refused, 503);
    let reached = backend.seen().len();
    for _ in 0..5 {
        assert_eq!(ask(), 503);
    }
    assert_eq!(backend.seen().len(), reached, "nothing reaches the service unrecorded");
    let status = mesh.host_b.status();
    assert_eq!((status["audit_failing"].as_bool(), status["ready"].as_bool()), (Some(true), Some(false)), "{status:#}");
    assert_eq!(mesh.host_b.metric("countersign_audit_failing", &[]), 1.0);
    assert_eq!((mesh.host_b.health("/readyz").status(), mesh.host_b.health("/livez").status()), (503, 200));

    disk.free();
    wait::within(Duration::from_secs(5), "requests are let in again", || (ask() == 200).then_some(()));
    answered += 1;
    mesh.host_b.wait_for_status("all is well", |status| status["ready"] == true);
    wait::until_so("no line was lost", || {
        let allowed = lines_of(&mesh.host_b, "request").iter().filter(|line| line["status"] == 200).count();
        assert!(allowed <= answered, "{allowed} lines for {answered} requests");
        allowed == answered
    });
    assert_eq!(backend.seen().len(), answered);
}

#[test]
fn audit_lines_go_to_standard_output_if_asked_for() {
    let mut mesh = Mesh::of_files(&Plan::to(EchoBackend::start().url()));
    mesh.host_b.stop();
    let whole = std::fs::read_to_string(mesh.host_b.config_path()).unwrap();
    let line = whole.lines().find(|line| line.starts_with("output = ")).unwrap();
    std::fs::write(mesh.host_b.config_path(), whole.replace(line, "output = \"stdout\"")).unwrap();
    mesh.host_b.start();
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    mesh.host_b.process().wait_for_line(wait::SOON, "an audit line", |line| line.contains("\"event\":\"request\""));
    for line in mesh.host_b.process().stdout() {
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(part::json_lines(&mesh.host_b.process().stderr()).len() > 1, "logs go to standard error");
}
