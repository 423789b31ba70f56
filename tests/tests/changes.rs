//! What a changed config takes back, it takes back from what is under way too; what it refuses changes nothing; and what cannot
//! be recorded, or comes from strangers, makes nothing grow.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::disk::SmallDisk;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, Plan, SERVICE, certificate};
use countersign_tests::part::Part;
use countersign_tests::pki::Leaf;
use countersign_tests::stream::{LONG_STREAM, Stream};
use countersign_tests::{tools, wait};

/// How long after a change what it takes back may still be in use.
const AT_ONCE: Duration = Duration::from_secs(2);

fn member(mesh: &Mesh) -> HostilePeer {
    HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(FRONTEND))))
}

#[test]
fn a_refused_config_leaves_the_mode_of_a_socket_as_it_was() {
    let backend = EchoBackend::start();
    let folder = tools::folder();
    let socket = folder.path().join("own.sock");
    let host_a = format!(
        "[[outbound]]\nname = \"own\"\nidentity = \"{FRONTEND}\"\nlisten = \"unix:{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"127.0.0.1:1\"]\n\n",
        socket.display()
    );
    let mut mesh = Mesh::of_files(&Plan { host_a, ..Plan::to(backend.url()) });
    let mode = || std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o660);
    let good = mesh.host_a.tables();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let allow =
        "[[outbound.allow]]\nroles = [\"owner\"]\n\n[[role]]\nname = \"owner\"\nmembers = [\"local:uid=4242\"]\n\n";
    let more = format!(
        "[[outbound]]\nname = \"more\"\nidentity = \"{FRONTEND}\"\nlisten = \"{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"127.0.0.1:1\"]\n",
        taken.local_addr().unwrap()
    );
    mesh.host_a.reload_refused(&format!("{good}\n{allow}{more}"));
    assert_eq!(mode(), 0o660, "the config that was refused says that every user may connect");
    mesh.host_a.reload(&format!("{good}\n{allow}"));
    wait::until_so("the socket is open to whom the kernel names", || mode() == 0o666);
    mesh.host_a.reload(&good);
    assert_eq!(mode(), 0o660);
}

#[test]
fn a_tunnel_does_not_outlive_the_change_to_a_service_with_rules() {
    let service = Part::serve("plain_server", &[]);
    let outbound = "protocol = \"tcp\"".to_owned();
    let mut mesh = Mesh::of_files(&Plan { outbound, ..Plan::to(service.url("tcp")) });
    let tunnel = Stream::open(mesh.frontend, LONG_STREAM);
    let changed = mesh.host_b.tables().replace(&service.url("tcp"), &service.url("http"));
    let changed =
        changed.replace("roles   = [\"inference_client\"]", "roles = [\"inference_client\"]\npaths = [\"/ok\"]");
    let begun = wait::now();
    mesh.host_b.reload(&changed);
    let end = tunnel.wait_for_end(AT_ONCE);
    assert!(end.error.is_some() && end.at - begun < AT_ONCE, "{end:?}");
    mesh.host_b.wait_for_audit("the cut tunnel", |line| line["reason"] == "withdrawn_route");
}

#[test]
fn a_connection_that_was_made_with_one_identity_is_not_served_by_another() {
    let backend = EchoBackend::start();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let mut client = member(&mesh).client(mesh.inbound).unwrap();
    assert_eq!(client.ask("GET", "/a", &[], b"").unwrap().status(), 200);
    let other = "spiffe://mesh.test/somebody";
    let table = certificate(mesh.pki(), mesh.host_b.folder(), other, &Leaf::of(other));
    let changed = mesh
        .host_b
        .tables()
        .replace(&format!("identity = \"{SERVICE}\"\nlisten"), &format!("identity = \"{other}\"\nlisten"));
    mesh.host_b.reload(&(table + &changed));
    wait::until_so("it is refused or closed", || {
        client.ask("GET", "/b", &[], b"").map_or(true, |answer| answer.status() != 200)
    });
    assert!(backend.seen().iter().all(|seen| !seen.line().contains("/b")), "{:?}", backend.seen());
}

#[test]
fn a_call_to_a_service_that_is_no_longer_named_ends_at_once() {
    // It does not answer: what flows would wake whoever sleeps through the end.
    let backend = EchoBackend::answering(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let mut client = Client::connect(mesh.frontend).unwrap();
    client.send_request("GET", "/slow", &[], b"").unwrap();
    wait::until_so("the call has arrived", || !backend.seen().is_empty());
    let changed = mesh
        .host_a
        .tables()
        .replace(&format!("service   = \"{SERVICE}\""), "service   = \"spiffe://mesh.test/elsewhere\"");
    let begun = wait::now();
    mesh.host_a.reload(&changed);
    assert_eq!(client.head().unwrap().status, 403);
    assert!(wait::now() - begun < AT_ONCE, "it took {:?}", wait::now() - begun);
    let line = mesh.host_a.wait_for_audit("the cut call", |line| line["event"] == "request");
    assert_eq!(line["outcome"], "cut", "{line}");
}

/// A service that answers as soon as it has read a head, and goes on reading.
fn early_answering() -> (TcpListener, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let (accepting, counted) = (listener.try_clone().unwrap(), Arc::clone(&read));
    std::thread::spawn(move || {
        for stream in accepting.incoming() {
            let (mut stream, counted) = (stream.unwrap(), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                let mut answered = false;
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    counted.fetch_add(count, Ordering::Relaxed);
                    if !std::mem::replace(&mut answered, true) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok();
                    }
                }
            });
        }
    });
    (listener, read)
}

#[test]
fn what_a_caller_says_after_its_answer_goes_nowhere() {
    let (service, read) = early_answering();
    let mesh = Mesh::of_files(&Plan::to(format!("http://{}", service.local_addr().unwrap())));
    let mut client = member(&mesh).client(mesh.inbound).unwrap();
    client.send("POST /a HTTP/1.1\r\nhost: service.test\r\ncontent-length: 1000000\r\n\r\nhello").unwrap();
    assert_eq!(client.answer().unwrap().status(), 200);
    mesh.host_b.wait_for_audit("the answered request", |line| line["event"] == "request");
    let before = read.load(Ordering::Relaxed);
    // Whether the connection is closed under it or its bytes are thrown away, none arrives.
    for _ in 0..50 {
        if client.send(vec![b'x'; 4096]).is_err() {
            break;
        }
    }
    assert_eq!(http::get(mesh.other, "/b").unwrap().status(), 403, "the agent goes on");
    assert!(
        read.load(Ordering::Relaxed) <= before + 4096,
        "{} bytes more were carried",
        read.load(Ordering::Relaxed) - before
    );
}

#[test]
fn a_service_that_answers_and_reads_no_more_keeps_nobody_for_ever() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = "[limits]\nbackend_idle = \"1s\"\nidle_connection = \"2s\"\n".to_owned();
    let plan = Plan { host_b: limits, ..Plan::to(format!("http://{}", service.local_addr().unwrap())) };
    let mesh = Mesh::of_files(&plan);
    let mut client = member(&mesh).client(mesh.inbound).unwrap();
    client.send("POST /a HTTP/1.1\r\nhost: service.test\r\ncontent-length: 100000000\r\n\r\n").unwrap();
    let (mut stream, _) = service.accept().unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    // Until nothing more fits into any buffer on the way.
    let sending = std::thread::spawn(move || {
        client.send(vec![b'x'; 64 << 20]).ok();
        client
    });
    wait::stays_so(Duration::from_secs(1), "it cannot send more", || !sending.is_finished());
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    mesh.host_b.wait_for_audit("the answered request", |line| line["event"] == "request");
    wait::until_so("its connection has ended", || mesh.host_b.metric("countersign_connections", &[]) < 1.0);
    drop((sending, stream));
}

#[test]
fn what_cannot_be_recorded_makes_no_memory_grow() {
    let backend = EchoBackend::start();
    let disk = SmallDisk::new(256);
    let host_b = TestAgent::new("host-b").with_audit_in(&disk.path().join("audit.jsonl"));
    let mut mesh = Mesh::of_files_as(&Plan::to(backend.url()), TestAgent::new("host-a"), host_b);
    let peer = member(&mesh);
    let mut client = peer.client(mesh.inbound).unwrap();
    let mut ask = || client.ask("GET", &format!("//{}", "a".repeat(30_000)), &[], b"").unwrap().status();
    disk.fill();
    wait::until_so("it says that it cannot record", || ask() == 503);
    let before = mesh.host_b.process().memory_kib("VmRSS");
    for _ in 0..2_000 {
        assert_eq!(ask(), 503);
    }
    let after = mesh.host_b.process().memory_kib("VmRSS");
    assert!(after < before + 24 * 1024, "memory grew from {before} to {after} KiB");
}

#[test]
fn silent_strangers_keep_no_handshake_out_and_are_counted_rather_than_written_out() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let silent: Vec<TcpStream> = (0..700).map(|_| TcpStream::connect(mesh.inbound).unwrap()).collect();
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200, "a handshake goes through beside silent ones");
    drop(silent);
    let refused = |reason: &str| mesh.host_b.metric("countersign_refusals_total", &[("reason", reason)]);
    wait::until_so("all are over", || refused("handshake_abandoned") + refused("limit") >= 700.0);
    let lines = mesh.host_b.audit();
    let strangers = lines.iter().filter(|line| line["peer"].is_null()).count();
    // A hundred at once for each reason and worker, and a few that time gave.
    assert!((100..500).contains(&strangers), "{strangers} lines");
    assert!(lines.iter().all(|line| line["omitted"].is_null() || line["omitted"].as_u64() > Some(0)));
}

#[test]
fn a_request_that_no_rule_was_asked_about_is_explained_so() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let answer = http::get(mesh.frontend, "//a").unwrap();
    assert_eq!(answer.status(), 400);
    let decision = answer.json()["decision_id"].as_str().unwrap().to_owned();
    mesh.host_a.wait_for_audit("the refusal", |line| line["decision"] == decision.as_str());
    let mut client = member(&mesh).client(mesh.inbound).unwrap();
    let answer = client.ask("GET", "//a", &[], b"").unwrap();
    let decision = answer.json()["decision_id"].as_str().unwrap().to_owned();
    mesh.host_b.wait_for_audit("the refusal", |line| line["decision"] == decision.as_str());
    let said = mesh.host_b.ask("explain", &[&decision]).success();
    assert!(said.contains("refused before any rule was asked"), "{said}");
    assert!(!said.contains("allowed by"), "{said}");
}
