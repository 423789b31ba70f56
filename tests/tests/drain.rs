//! An agent that is told to stop takes nothing new, lets finish what runs, and records all of it.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::net::TcpStream;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::part::{self, Part};
use countersign_tests::stream::{LONG_STREAM, Stream};
use countersign_tests::wait;
use rustix::process::Signal;

/// Sixty events in three seconds.
const SHORT_STREAM: &str = "/events?count=60&interval=0.05";

fn mesh(service: &Part, drain: &str) -> Mesh {
    let limits = format!("[limits]\ndrain = \"{drain}\"\n");
    Mesh::of_files(&Plan { host_a: limits.clone(), host_b: limits, ..Plan::to(service.url("http")) })
}

#[track_caller]
fn ends_well(agent: &mut TestAgent, bound: Duration) {
    let status = agent.process().wait_for_end(bound);
    assert_eq!(status.code(), Some(0), "{:?}", agent.process().stderr());
}

#[test]
fn a_stopping_inbound_finishes_its_streams_and_takes_nothing_new() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "20s");
    let stream = Stream::open(mesh.frontend, SHORT_STREAM);
    mesh.host_b.process().signal(Signal::TERM);
    wait::until_so("the port is closed", || TcpStream::connect(mesh.inbound).is_err());
    assert_ne!(http::get(mesh.frontend, "/echo-headers").unwrap().status(), 200);
    assert!(stream.end().is_none(), "the stream goes on meanwhile");
    let end = stream.wait_for_end(wait::SOON);
    assert_eq!(end.error, None, "the stream came to its own end");
    assert_eq!(end.pieces, 60);
    ends_well(&mut mesh.host_b, Duration::from_secs(5));
    let lines = mesh.host_b.audit();
    let request = lines.iter().find(|line| line["event"] == "request" && line["path"] == "/events").unwrap();
    assert_eq!(request["outcome"], "allowed");
    // A connection that came in the moment before the port was closed is recorded too, as one that was not served.
    let connections = lines.iter().filter(|line| line["event"] == "connection");
    let (served, turned_away): (Vec<_>, Vec<_>) = connections.partition(|line| line["outcome"] == "allowed");
    assert_eq!(served.len(), 1, "{lines:#?}");
    assert!(turned_away.iter().all(|line| line["peer"].is_null()), "{lines:#?}");
}

#[test]
fn a_stopping_outbound_finishes_its_streams_and_takes_nothing_new() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "20s");
    let stream = Stream::open(mesh.frontend, SHORT_STREAM);
    mesh.host_a.process().signal(Signal::TERM);
    wait::until_so("the port is closed", || TcpStream::connect(mesh.frontend).is_err());
    let end = stream.wait_for_end(wait::SOON);
    assert_eq!((end.error, end.pieces), (None, 60));
    ends_well(&mut mesh.host_a, Duration::from_secs(5));
    let lines = mesh.host_a.audit();
    assert!(lines.iter().any(|line| line["event"] == "request" && line["outcome"] == "allowed"), "{lines:#?}");
    assert!(lines.iter().any(|line| line["event"] == "connection"), "{lines:#?}");
}

#[test]
fn a_stream_that_does_not_end_is_cut_when_the_drain_time_is_over() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "1500ms");
    let stream = Stream::open(mesh.frontend, LONG_STREAM);
    let begun = wait::now();
    mesh.host_b.process().signal(Signal::TERM);
    ends_well(&mut mesh.host_b, Duration::from_secs(6));
    let took = wait::now() - begun;
    assert!(took >= Duration::from_millis(1500), "the drain time was not given: {took:?}");
    assert!(stream.wait_for_end(Duration::from_secs(2)).error.is_some(), "a cut stream must not look whole");
    let lines = mesh.host_b.audit();
    let request = lines.iter().find(|line| line["event"] == "request").unwrap();
    assert_eq!(request["outcome"], "cut", "{request}");
    assert_eq!(request["reason"], "withdrawn_stopped", "{request}");
    assert!(lines.iter().any(|line| line["event"] == "connection"), "{lines:#?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "60s");
    let stream = Stream::open(mesh.frontend, LONG_STREAM);
    mesh.host_b.process().signal(Signal::TERM);
    wait::until_so("it drains", || TcpStream::connect(mesh.inbound).is_err());
    stream.wait_for_more();
    let begun = wait::now();
    mesh.host_b.process().signal(Signal::TERM);
    ends_well(&mut mesh.host_b, Duration::from_secs(3));
    assert!(wait::now() - begun < Duration::from_secs(3));
    let lines = mesh.host_b.audit();
    assert!(lines.iter().any(|line| line["event"] == "request" && line["outcome"] == "cut"), "{lines:#?}");
    assert!(lines.iter().any(|line| line["event"] == "connection"), "{lines:#?}");
}

#[test]
fn an_agent_with_nothing_under_way_ends_at_once_whatever_is_idle() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "60s");
    // Connections that are kept for later are no reason to wait.
    let mut client = Client::connect(mesh.frontend).unwrap();
    assert_eq!(client.ask("GET", "/echo-headers", &[], b"").unwrap().status(), 200);
    let silent = TcpStream::connect(mesh.frontend).unwrap();
    mesh.host_a.process().signal(Signal::TERM);
    mesh.host_b.process().signal(Signal::INT);
    ends_well(&mut mesh.host_b, Duration::from_secs(5));
    ends_well(&mut mesh.host_a, Duration::from_secs(5));
    drop((client, silent));
}

#[test]
fn a_draining_agent_says_so_and_is_not_ready() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = mesh(&service, "20s");
    let stream = Stream::open(mesh.frontend, SHORT_STREAM);
    mesh.host_b.process().signal(Signal::TERM);
    let status = mesh.host_b.wait_for_status("it drains", |status| status["draining"] == true);
    assert_eq!(status["ready"], false);
    assert_eq!(mesh.host_b.health("/readyz").status(), 503);
    assert_eq!(mesh.host_b.health("/livez").status(), 200);
    stream.wait_for_end(wait::SOON);
    ends_well(&mut mesh.host_b, Duration::from_secs(5));
}

#[test]
fn an_open_web_socket_is_drained_like_any_stream() {
    let service = Part::serve("websocket_echo_server", &[]);
    let mut mesh = mesh(&service, "20s");
    let url = format!("ws://{}/", mesh.frontend);
    let mut caller = part::start_call("websocket_caller", &["--url", &url, "--hold", "2"]);
    caller.wait_for_line(wait::SOON, "holding", |line| line.contains("holding"));
    mesh.host_b.process().signal(Signal::TERM);
    assert_eq!(caller.wait_for_end(wait::SOON).code(), Some(0), "{:?}", caller.stdout());
    ends_well(&mut mesh.host_b, Duration::from_secs(5));
}
