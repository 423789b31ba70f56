//! Whoever has proved nothing takes nothing from those who have: no place, no room on the disk. And nobody is somebody else because of
//! where it calls from.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::net::TcpStream;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::http::Client;
use countersign_tests::wait;
use serde_json::Value;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const RULES: &str = "[[inbound.allow]]\nroles = [\"reader\"]\n";

const BY_KEY: &str = "any_of = [\"api_key\"]\n";

/// A gateway with these limits that takes API keys.
fn gateway(limits: &str, demand: &str) -> Gateway {
    let agent = TestAgent::new("gateway");
    let keys = agent.folder().join("api-keys.json");
    let before = format!("[limits]\n{limits}\n[api_keys]\nfile = {keys:?}\n[[role]]\nname = \"reader\"\n");
    Gateway::start_as(agent, &before, &format!("{demand}{RULES}"))
}

/// A key that is taken.
fn key(gateway: &Gateway) -> String {
    let key = gateway.key(&["create", "--owner", "a", "--role", "reader"]);
    wait::until_so("the agent takes up the key", || {
        gateway.call("/", &["-H", &format!("X-API-Key: {key}")]).status == 200
    });
    key
}

#[test]
fn connections_of_strangers_take_no_place_of_who_proves_something_at_the_same_address() {
    let gateway = gateway("connections_per_peer = 3", "any_of = [\"mtls\", \"api_key\"]\n");
    let key = format!("X-API-Key: {}", key(&gateway));
    let stranger = HostilePeer::showing(None);
    let mut open: Vec<Client> = (0..12).map(|_| stranger.client(gateway.address()).unwrap()).collect();
    assert!(open.iter_mut().all(|client| client.ask("GET", "/", &[], b"").is_ok_and(|answer| answer.status() == 401)));
    gateway.allowed("/", &["-H", &key]);
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    gateway.allowed("/", &[&workload[..], &["-H", &key]].concat());
    drop(open);
}

#[test]
fn of_strangers_a_line_has_the_beginning_of_the_path() {
    let gateway = gateway("", BY_KEY);
    let long = format!("/{}", "x".repeat(8000));
    let line = gateway.refused(&long, &[], 401, "credential_missing");
    assert_eq!(line["path"].as_str().map(str::len), Some(256), "{line}");
    let key = format!("X-API-Key: {}", key(&gateway));
    assert_eq!(gateway.allowed(&long, &["-H", &key])["path"].as_str().map(str::len), Some(8001));
}

#[test]
fn strangers_who_say_nothing_give_way_to_newer_ones_and_known_callers_do_not() {
    let gateway = gateway("handshakes = 2", BY_KEY);
    let key = key(&gateway);
    let header = format!("X-API-Key: {key}");
    let stranger = HostilePeer::showing(None);
    let mut known = stranger.client(gateway.address()).unwrap();
    assert_eq!(known.ask("GET", "/", &[("x-api-key", &key)], b"").unwrap().status(), 200);
    let mut silent: Vec<Client> = (0..12).map(|_| stranger.client(gateway.address()).unwrap()).collect();
    let line = gateway.agent.wait_for_audit("a stranger that gives way", |line| line["reason"] == "gave_way");
    assert_eq!(line["event"], "connection");
    gateway.allowed("/", &["-H", &header]);
    assert_eq!(known.ask("GET", "/", &[("x-api-key", &key)], b"").unwrap().status(), 200);
    // Two workers with two strangers each; the last caller above was one for a moment.
    let ended = silent.iter_mut().filter_map(|client| client.ask("GET", "/", &[], b"").err()).count();
    assert!((8..12).contains(&ended), "{ended} of 12 gave way");
}

#[test]
fn strangers_leave_places_of_a_route_to_those_who_prove_who_they_are() {
    let gateway = gateway("connections = 8", BY_KEY);
    let header = format!("X-API-Key: {}", key(&gateway));
    let stranger = HostilePeer::showing(None);
    let silent: Vec<Client> = (0..24).map(|_| stranger.client(gateway.address()).unwrap()).collect();
    // Not even the handshake is done on these.
    let mute: Vec<TcpStream> = (0..24).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    gateway.allowed("/", &["-H", &header]);
    drop((silent, mute));
}

#[test]
fn connections_on_which_nobody_proves_anything_are_not_told_as_allowed_and_fill_no_disk() {
    let gateway = gateway("", BY_KEY);
    let stranger = HostilePeer::showing(None);
    for number in 0..400 {
        let mut client = stranger.client(gateway.address()).unwrap();
        if number % 100 == 0 {
            assert_eq!(client.ask("GET", "/", &[], b"").unwrap().status(), 401);
        }
    }
    let ended = |line: &Value| line["event"] == "connection";
    wait::until_so("all are told of, in lines and in counts", || {
        gateway.agent.told(|line| ended(line) || line["reason"] == "cancelled") >= 400
    });
    let lines: Vec<_> = gateway.agent.audit().into_iter().filter(ended).collect();
    assert!((100..=250).contains(&lines.len()), "{} lines about 400 connections, on two workers", lines.len());
    assert!(lines.iter().all(|line| line["outcome"] == "cancelled"), "nobody was let in: {lines:?}");
    // A connection that a request has proved is told as what it was.
    gateway.allowed("/", &["-H", &format!("X-API-Key: {}", key(&gateway))]);
    gateway.agent.wait_for_audit("its connection", |line| ended(line) && line["outcome"] == "allowed");
}

#[test]
fn a_key_takes_no_more_places_than_one_peer_may_have_wherever_it_is_shown() {
    let gateway = gateway("connections_per_peer = 3", BY_KEY);
    let (greedy, other) = (key(&gateway), key(&gateway));
    let stranger = HostilePeer::showing(None);
    let mut held: Vec<Client> = (0..3).map(|_| stranger.client(gateway.address()).unwrap()).collect();
    wait::until_so("it has all its places", || {
        held.iter_mut()
            .all(|client| client.ask("GET", "/", &[("x-api-key", &greedy)], b"").is_ok_and(|it| it.status() == 200))
    });
    let elsewhere = ["--interface", "127.0.0.9"];
    let header = format!("X-API-Key: {greedy}");
    let line = gateway.refused("/", &[&elsewhere[..], &["-H", &header]].concat(), 429, "limit");
    assert!(line["subject"].as_str().is_some_and(|subject| subject.starts_with("key:")), "whom it hit: {line}");
    gateway.allowed("/", &[&elsewhere[..], &["-H", &format!("X-API-Key: {other}")]].concat());
    drop(held);
    wait::until_so("a place is free again", || gateway.call("/", &["-H", &header]).status == 200);
}

#[test]
fn a_connection_that_has_ended_has_no_place() {
    let gateway = gateway("connections = 4", BY_KEY);
    let key = key(&gateway);
    let stranger = HostilePeer::showing(None);
    for _ in 0..40 {
        let answer = stranger.client(gateway.address()).unwrap().ask("GET", "/", &[("x-api-key", &key)], b"").unwrap();
        assert_eq!(answer.status(), 200);
    }
}
