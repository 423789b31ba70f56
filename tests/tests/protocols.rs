//! Everything that AI services speak passes through two agents as it would pass without them: streamed, whole, and in time.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::http::{self, Address, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, Plan};
use countersign_tests::part::{self, Part};
use countersign_tests::process::{Finished, run};
use countersign_tests::stream::LONG_STREAM;
use countersign_tests::{tools, wait};

fn curl(arguments: &[&str]) -> Finished {
    run(Command::new("curl").args(["-sS", "--max-time", "30"]).args(arguments))
}

#[test]
fn http_1_1_requests_of_each_kind_pass() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let mut client = Client::connect(mesh.frontend).unwrap();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = client.ask(method, "/echo-headers", &[], b"").unwrap();
        assert_eq!((answer.status(), answer.json()["method"].as_str()), (200, Some(method)));
    }
    let answer = client.ask("HEAD", "/bytes/1000", &[], b"").unwrap();
    assert_eq!((answer.status(), answer.head.header("content-length")), (200, Some("1000")));
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let direct = http::post(service.tcp(), "/length", &body).unwrap();
    let answer = client.ask("POST", "/length", &[], &body).unwrap();
    assert_eq!(answer.json(), direct.json(), "twelve megabytes arrive unchanged");
    assert_eq!(client.ask("GET", "/bytes/100000", &[], b"").unwrap().body, vec![0; 100_000]);
}

#[test]
fn chunked_bodies_pass() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let mut client = Client::connect(mesh.frontend).unwrap();
    client.send("POST /length HTTP/1.1\r\nhost: service.test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..1000 {
        client.send("5\r\nhello\r\n").unwrap();
    }
    client.send("0\r\n\r\n").unwrap();
    assert_eq!(client.answer().unwrap().json()["length"], 5000);
}

#[test]
fn http_2_passes_from_a_local_program() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let url = format!("http://{}/echo-headers", mesh.frontend);
    // One request for each call: Debian 12's curl breaks a connection with prior knowledge when it uses it again.
    for _ in 0..2 {
        let said = curl(&["--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}", &url]).success();
        assert!(said.ends_with("\n2 200"), "{said}");
        assert!(said.contains(FRONTEND), "{said}");
    }
    let url = format!("http://{}/length", mesh.frontend);
    let finished =
        curl(&["--http2-prior-knowledge", "--data-binary", &format!("@{}", tools::agent_path().display()), &url]);
    let size = std::fs::metadata(tools::agent_path()).unwrap().len();
    assert!(finished.success().contains(&format!("\"length\": {size}")));
    let url = format!("http://{}/echo-headers", mesh.other);
    assert_eq!(curl(&["--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}", &url]).success(), "403");
}

#[test]
fn a_program_that_waits_for_100_continue_gets_it() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let mut client = Client::connect(mesh.frontend).unwrap();
    client
        .send("POST /length HTTP/1.1\r\nhost: service.test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.answer().unwrap().json()["length"], 5);
}

#[test]
fn grpc_calls_of_each_kind_pass_with_trailers_and_error_details() {
    let service = Part::serve("grpc_echo_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("h2c")));
    check_grpc(&service, &mesh.frontend.to_string());
    let refused = part::call("grpc_echo_caller", &["--target", &mesh.other.to_string(), "--call", "unary"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.result()["code"], "PERMISSION_DENIED", "{refused:?}");
}

#[test]
fn grpc_passes_over_unix_sockets() {
    let folder = tools::folder();
    let (service_socket, own) = (folder.path().join("service.sock"), folder.path().join("own.sock"));
    let service = Part::serve("grpc_echo_server", &["--unix", service_socket.to_str().unwrap()]);
    let mesh = mesh_on_sockets(&format!("h2c+unix:{}", service_socket.display()), &own, "");
    check_grpc(&service, &format!("unix:{}", own.display()));
    drop(mesh);
}

/// What the calls say through the mesh is what they say without it.
#[track_caller]
fn check_grpc(service: &Part, target: &str) {
    let call = |target: &str| {
        let finished =
            part::call("grpc_echo_caller", &["--target", target, "--messages", "5", "--metadata", "x-own=1"]);
        assert_eq!(finished.code, Some(0), "{target}: {finished:?}");
        let mut results = finished.json();
        results.retain(|line| line["event"].is_null());
        results
    };
    let (direct, through) = (call(service.address()), call(target));
    assert_eq!(through.len(), 4, "{through:#?}");
    for (direct, through) in direct.iter().zip(&through) {
        for key in ["call", "code", "details", "messages"] {
            assert_eq!(direct[key], through[key], "{key} of {through}");
        }
        let trailers = |result: &serde_json::Value| {
            let names = result["trailing_metadata"].as_object().unwrap().keys().cloned();
            // An answer that is nothing but trailers is a head on the wire, and gets a date as any head.
            let mut names: Vec<String> = names.filter(|name| name != "date").collect();
            names.sort();
            names
        };
        assert_eq!(trailers(direct), trailers(through), "{through}");
        let seen = through["trailing_metadata"]["seen"].to_string();
        assert!(seen.contains(FRONTEND), "{through}");
        assert!(seen.contains("x-own"), "{through}");
    }
}

#[test]
fn a_grpc_stream_is_not_gathered() {
    let service = Part::serve("grpc_echo_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("h2c")));
    let arguments =
        ["--target", &mesh.frontend.to_string(), "--call", "server-stream", "--messages", "2", "--interval", "4"];
    let begun = wait::now();
    let mut caller = part::start_call("grpc_echo_caller", &arguments);
    caller.wait_for_line(Duration::from_millis(3500), "the first message", |line| line.contains("first_message"));
    assert!(wait::now() - begun < Duration::from_millis(3500));
    assert_eq!(caller.wait_for_end(wait::SOON).code(), Some(0));
}

#[test]
fn web_sockets_pass_and_are_refused_with_403() {
    let service = Part::serve("websocket_echo_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let url = format!("ws://{}/v1/realtime?model=a", mesh.frontend);
    let arguments = ["--url", &url, "--messages", "20", "--size", "200000", "--subprotocol", "realtime"];
    let finished = part::call("websocket_caller", &arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines = finished.json();
    assert_eq!(lines[0]["path"], "/v1/realtime?model=a");
    assert_eq!(lines[0]["subprotocol"], "realtime");
    assert!(lines[0]["headers"].to_string().contains(FRONTEND));
    assert_eq!(lines.iter().filter(|line| line["intact"] == true).count(), 20);
    let line = mesh.host_b.wait_for_audit("the web socket", |line| line["event"] == "request");
    assert_eq!((line["status"].as_u64(), line["outcome"].as_str()), (Some(101), Some("allowed")), "{line}");
    // The messages are compressed.
    assert!(line["received_bytes"].as_u64() > Some(2_000), "bytes are counted: {line}");

    let finished = part::call("websocket_caller", &["--url", &format!("ws://{}/", mesh.other)]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let refused = finished.result();
    assert_eq!(refused["status"], 403, "{refused}");
    assert_eq!(refused["content_type"], "application/problem+json", "{refused}");
}

#[test]
fn an_open_web_socket_counts_as_a_connection() {
    let service = Part::serve("websocket_echo_server", &[]);
    let limits = "[limits]\nconnections = 2\n";
    let mut mesh = Mesh::of_files(&Plan { host_b: limits.to_owned(), ..Plan::to(service.url("http")) });
    let url = format!("ws://{}/", mesh.frontend);
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut caller = part::start_call("websocket_caller", &["--url", &url, "--hold", "60"]);
        let line =
            caller.wait_for_line(wait::SOON, "an answer", |line| line.contains("holding") || line.contains("error"));
        refused += usize::from(line.contains("error"));
        open.push(caller);
    }
    let status = mesh.host_b.status();
    assert_eq!(
        status["connections"].as_u64(),
        Some(8 - u64::try_from(refused).unwrap()),
        "{refused} were refused: {status:#}"
    );
    // The limit holds on each of the two workers.
    assert!(refused >= 4, "a limit of two connections let {} in", 8 - refused);
    mesh.host_b.kill();
}

#[test]
fn the_first_event_arrives_before_the_second_is_sent() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let mut client = Client::connect(mesh.frontend).unwrap();
    let begun = wait::now();
    client.send_request("GET", "/events?count=2&interval=4", &[], b"").unwrap();
    assert_eq!(client.head().unwrap().header("content-type"), Some("text/event-stream"));
    assert_eq!(client.piece().unwrap().unwrap(), b"data: 0\n\n");
    let first = wait::now() - begun;
    assert!(first < Duration::from_secs(2), "the first event came after {first:?}");
    assert_eq!(client.piece().unwrap().unwrap(), b"data: 1\n\n");
    assert!(wait::now() - begun >= Duration::from_secs(4));
    assert_eq!(client.piece().unwrap(), None);
}

const MEBIBYTE: u64 = 1024 * 1024;

/// How much the memory of an agent may grow in KiB, however long a body is.
const GROWTH_KIB: u64 = 48 * 1024;

#[test]
fn long_bodies_pass_both_ways_without_being_gathered() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = Mesh::of_files(&Plan::to(service.url("http")));
    let total = 256 * MEBIBYTE;
    let before = memory(&mut mesh);

    let mut client = Client::connect(mesh.frontend).unwrap();
    client.send(format!("POST /length HTTP/1.1\r\nhost: service.test\r\ncontent-length: {total}\r\n\r\n")).unwrap();
    let piece = vec![b'x'; 256 * 1024];
    for _ in 0..total / u64::try_from(piece.len()).unwrap() {
        client.send(&piece).unwrap();
    }
    assert_eq!(client.answer().unwrap().json()["length"].as_u64(), Some(total));

    client.send_request("GET", &format!("/bytes/{total}"), &[], b"").unwrap();
    let head = client.head().unwrap();
    assert_eq!(head.header("content-length"), Some(total.to_string().as_str()), "the length is kept over the hop");
    let mut received = 0;
    while let Some(piece) = client.piece().unwrap() {
        received += u64::try_from(piece.len()).unwrap();
    }
    assert_eq!(received, total);
    let after = memory(&mut mesh);
    for (before, after) in before.iter().zip(&after) {
        assert!(after - before < GROWTH_KIB, "memory grew from {before} to {after} KiB");
    }
}

/// The most that each agent ever used, in KiB.
fn memory(mesh: &mut Mesh) -> [u64; 2] {
    [mesh.host_a.process().memory_kib("VmHWM"), mesh.host_b.process().memory_kib("VmHWM")]
}

#[test]
fn a_caller_that_does_not_read_makes_nobody_read_for_it_and_holds_up_nobody_else() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let backend = EchoBackend::answering(move |seen, out| {
        if !seen.line().starts_with("GET /endless") {
            return out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
        out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")?;
        loop {
            out.write_all(&[b'x'; 64 * 1024])?;
            counted.fetch_add(64 * 1024, Ordering::Relaxed);
        }
    });
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let before = memory(&mut mesh);
    let stalled: Vec<Client> = (0..16)
        .map(|_| {
            let mut client = Client::connect(mesh.frontend).unwrap();
            client.send_request("GET", "/endless", &[], b"").unwrap();
            client.head().unwrap();
            client
        })
        .collect();
    let mut last = u64::MAX;
    wait::until_so("the service is held back", || {
        std::thread::sleep(Duration::from_millis(700));
        let now = sent.load(Ordering::Relaxed);
        std::mem::replace(&mut last, now) == now
    });
    // Each hop's buffers in the kernel hold up to some megabytes; the rest must wait in the service.
    assert!(last < 16 * 24 * MEBIBYTE, "{} MiB were read for callers that do not read", last / MEBIBYTE);
    for _ in 0..20 {
        assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200, "others are served");
    }
    for (before, after) in before.iter().zip(&memory(&mut mesh)) {
        assert!(after - before < GROWTH_KIB, "memory grew from {before} to {after} KiB");
    }
    drop(stalled);
}

#[test]
fn a_service_that_does_not_read_makes_nobody_read_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = format!("http://{}", listener.local_addr().unwrap());
    let mut mesh = Mesh::of_files(&Plan::to(backend));
    let before = memory(&mut mesh);
    let mut stream = TcpStream::connect(mesh.frontend).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: service.test\r\ncontent-length: 1073741824\r\n\r\n").unwrap();
    let mut sent = 0;
    while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {
        sent += 64 * 1024;
        assert!(sent < 64 * MEBIBYTE, "{sent} bytes were taken for a service that does not read");
    }
    for (before, after) in before.iter().zip(&memory(&mut mesh)) {
        assert!(after - before < GROWTH_KIB, "memory grew from {before} to {after} KiB");
    }
}

/// A mesh whose connections are not looked at.
fn tcp_mesh(backend: &str) -> Mesh {
    Mesh::of_files(&Plan { outbound: "protocol = \"tcp\"".to_owned(), ..Plan::to(backend) })
}

/// Accepts one connection after the other and does this with each.
fn tcp_service(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    address
}

#[test]
fn plain_tcp_passes_with_both_half_closes() {
    // Answers only when the caller has said that nothing more comes.
    let address = tcp_service(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    });
    let mesh = tcp_mesh(&format!("tcp://{address}"));
    let mut stream = TcpStream::connect(mesh.frontend).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    stream.write_all(&vec![b'x'; 3_000_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "3000000 bytes");
    let line = mesh.host_b.wait_for_audit("the connection", |line| line["event"] == "connection");
    assert_eq!((line["outcome"].as_str(), line["rule"].as_str()), (Some("allowed"), Some("llm.allow[0]")), "{line}");
    assert_eq!((line["received_bytes"].as_u64(), line["sent_bytes"].as_u64()), (Some(3_000_000), Some(13)), "{line}");
    let counted = |name: &str| mesh.host_b.metric(name, &[("direction", "inbound"), ("route", "llm")]);
    let bytes = ["countersign_received_bytes_total", "countersign_sent_bytes_total"].map(counted);
    assert_eq!(bytes, [3_000_000.0, 13.0]);

    // The service ends its side first, and goes on listening.
    let (told, heard) = std::sync::mpsc::channel();
    let address = tcp_service(move |mut stream| {
        stream.write_all(b"greeting").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        told.send(all).unwrap();
    });
    let mesh = tcp_mesh(&format!("tcp://{address}"));
    let mut stream = TcpStream::connect(mesh.frontend).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "greeting");
    stream.write_all(b"after the end").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(heard.recv_timeout(wait::SOON).unwrap(), "after the end");
}

#[test]
fn plain_tcp_is_refused_without_a_role_before_anything_reaches_the_service() {
    let (told, heard) = std::sync::mpsc::channel();
    let address = tcp_service(move |_| told.send(()).unwrap());
    let mesh = tcp_mesh(&format!("tcp://{address}"));
    let mut stream = TcpStream::connect(mesh.other).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    stream.write_all(b"hello").ok();
    let mut rest = Vec::new();
    // Whether as an end or as a reset: nothing comes.
    stream.read_to_end(&mut rest).ok();
    assert_eq!(rest, b"");
    let line = mesh.host_b.wait_for_audit("the refusal", |line| line["event"] == "connection");
    assert_eq!((line["outcome"].as_str(), line["reason"].as_str()), (Some("denied"), Some("no_role")), "{line}");
    assert!(heard.try_recv().is_err(), "the service was called");
}

/// A mesh whose caller comes over a Unix socket.
fn mesh_on_sockets(backend: &str, own: &Path, more: &str) -> Mesh {
    let mut mesh = Mesh::of_files(&Plan { outbound: more.to_owned(), ..Plan::to(backend) });
    let tables =
        mesh.host_a.tables().replace(&format!("\"{}\"", mesh.frontend), &format!("\"unix:{}\"", own.display()));
    mesh.host_a.reload(&tables);
    mesh
}

#[test]
fn unix_sockets_do_on_all_sides() {
    let folder = tools::folder();
    let (service, own) = (folder.path().join("service.sock"), folder.path().join("own.sock"));
    let backend = EchoBackend::on_unix_socket(&service);
    let mesh = mesh_on_sockets(&backend.url(), &own, "");
    let answer = http::get(Address::Unix(own), "/a").unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(backend.only().value("x-countersign-id"), Some(FRONTEND));
    let line = mesh.host_a.wait_for_audit("the local caller", |line| line["event"] == "request");
    assert!(line["address"].as_str().unwrap().starts_with("unix:uid="), "{line}");
    drop(mesh);
}

#[test]
fn plain_tcp_passes_over_unix_sockets() {
    let folder = tools::folder();
    let (service, own) = (folder.path().join("service.sock"), folder.path().join("own.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&service).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
    });
    let mesh = mesh_on_sockets(&format!("unix:{}", service.display()), &own, "protocol = \"tcp\"");
    let mut stream = std::os::unix::net::UnixStream::connect(&own).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    stream.write_all(b"there and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "there and back");
    drop(mesh);
}

#[test]
fn injected_credentials_reach_the_service_and_the_callers_own_do_not() {
    let backend = EchoBackend::start();
    let folder = tools::folder();
    let token = folder.path().join("token");
    countersign_tests::pki::write_by_rename(&token, "first-secret\n");
    let inject =
        format!("[inbound.inject]\nheader = \"authorization\"\nvalue = \"Bearer ${{file:{}}}\"\n", token.display());
    let mesh = Mesh::of_files(&Plan { host_b: inject, ..Plan::to(backend.url()) });
    let own = [("Authorization", "Bearer own")];
    let ask = || Client::connect(mesh.frontend).unwrap().ask("GET", "/a", &own, b"").unwrap();
    assert_eq!(ask().status(), 200);
    assert_eq!(backend.only().values("authorization"), ["Bearer first-secret"]);
    // A service that gets a new key needs no restart of the agent.
    countersign_tests::pki::write_by_rename(&token, "second-secret\n");
    wait::until_so("the new secret is used", || {
        ask();
        backend.seen().last().unwrap().values("authorization") == ["Bearer second-secret"]
    });
}

#[test]
fn injected_credentials_reach_the_service_on_a_web_socket_upgrade() {
    let service = Part::serve("websocket_echo_server", &[]);
    let inject = "[[inbound.inject]]\nheader = \"authorization\"\nvalue = \"Bearer ${env:SERVICE_TOKEN}\"\n\n[[inbound.inject]]\nheader = \"x-api-key\"\nvalue = \"${credential:api_key}\"\n";
    let plan = Plan { host_b: inject.to_owned(), ..Plan::to(service.url("http")) };
    let credentials = tools::folder();
    countersign_tests::pki::write_by_rename(&credentials.path().join("api_key"), "from systemd");
    let mesh = Mesh::of_files_as(
        &plan,
        TestAgent::new("host-a"),
        TestAgent::new("host-b")
            .with_environment("SERVICE_TOKEN", "from the environment")
            .with_environment("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap()),
    );
    let mut client = Client::connect(mesh.frontend).unwrap();
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Authorization", "Bearer own"),
        ("X-Api-Key", "own"),
    ];
    client.send_request("GET", "/", &upgrade, b"").unwrap();
    assert_eq!(client.head().unwrap().status, 101);
    let first = wait::until("the first message", || {
        client
            .some_bytes()
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .filter(|text| text.contains("headers"))
    });
    assert!(first.contains("[\"authorization\", \"Bearer from the environment\"]"), "{first}");
    assert!(first.contains("[\"x-api-key\", \"from systemd\"]"), "{first}");
    assert!(!first.contains("own"), "the caller's own credentials are gone: {first}");
}

#[test]
fn the_length_of_a_body_is_told_to_the_service_as_it_was_told_to_us() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    assert_eq!(http::post(mesh.frontend, "/v1/embeddings", b"0123456789").unwrap().status(), 200);
    let seen = backend.only();
    assert_eq!(seen.value("content-length"), Some("10"), "{}", seen.head);
    assert_eq!(seen.values("transfer-encoding"), Vec::<&str>::new(), "{}", seen.head);
    assert_eq!(seen.body, b"0123456789");
}

#[test]
fn a_stream_that_is_busy_is_not_idle_however_short_the_idle_time_is() {
    let limits = "[limits]\nidle_stream = \"1s\"\nidle_connection = \"1s\"\n";
    let plan = Plan { host_a: limits.to_owned(), host_b: limits.to_owned(), ..Plan::to(EchoBackend::steady().url()) };
    let mesh = Mesh::of_files(&plan);
    let mut client = Client::connect(mesh.frontend).unwrap();
    client.send_request("GET", "/events", &[], b"").unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let end = wait::now() + Duration::from_secs(3);
    while wait::now() < end {
        assert!(!client.some_bytes().unwrap().is_empty(), "the stream has ended");
    }
}

#[test]
fn a_service_that_is_down_is_a_bad_gateway_and_back_when_it_is_back() {
    let address = tools::free_address();
    let mesh = Mesh::of_files(&Plan::to(format!("http://{address}")));
    let answer = http::get(mesh.frontend, "/a").unwrap();
    assert_eq!(answer.status(), 502, "{answer:?}");
    let line = mesh.host_b.wait_for_audit("the failure", |line| line["event"] == "request");
    assert_eq!(
        (line["outcome"].as_str(), line["reason"].as_str()),
        (Some("failed"), Some("backend_unreachable")),
        "{line}"
    );
    let port = address.port().to_string();
    let _service = Part::serve("plain_server", &["--port", &port]);
    assert_eq!(http::get(mesh.frontend, "/echo-headers").unwrap().status(), 200);
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let backend = EchoBackend::start();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let dead = tools::free_address();
    let tables = mesh.host_a.tables();
    let endpoints = format!("endpoints = [\"{}\"]", mesh.inbound);
    mesh.host_a.reload(&tables.replace(&endpoints, &format!("endpoints = [\"{dead}\", \"{}\"]", mesh.inbound)));
    for _ in 0..10 {
        assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    }
    mesh.host_a.reload(&tables.replace(&endpoints, &format!("endpoints = [\"{dead}\"]")));
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 502);
}

#[test]
fn a_backend_gets_no_more_connections_than_configured() {
    let service = Part::serve("plain_server", &[]);
    let host_b = "[limits]\nbackend_connections = 2\n".to_owned();
    let mesh = Mesh::of_files(&Plan { host_b, ..Plan::to(service.url("http")) });
    // Two workers, and connections are dealt to either: no more than four streams can be open at once.
    let mut client = |_| {
        let mut client = Client::connect(mesh.frontend).unwrap();
        client.send_request("GET", LONG_STREAM, &[], b"").unwrap();
        let status = client.head().unwrap().status;
        (client, status)
    };
    let asked: Vec<_> = (0..8).map(&mut client).collect();
    let (open, full): (Vec<_>, Vec<_>) = asked.iter().map(|(_, status)| *status).partition(|status| *status == 200);
    assert!((1..=4).contains(&open.len()), "{open:?} {full:?}");
    assert!(full.iter().all(|status| *status == 503), "{full:?}");
    mesh.host_b.wait_for_audit("the reason", |line| line["reason"] == "backend_full");
    drop(asked);
    wait::until_so("the places are free again", || {
        http::get(mesh.frontend, "/echo-headers").is_ok_and(|answer| answer.status() == 200)
    });
}

#[test]
fn two_routes_may_leave_their_ports_to_the_kernel() {
    let backend = EchoBackend::start();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let tables = mesh.host_a.tables();
    let free =
        tables.replace(&mesh.frontend.to_string(), "127.0.0.1:0").replace(&mesh.other.to_string(), "127.0.0.1:0");
    mesh.host_a.reload(&free);
    let status = mesh.host_a.status();
    let listening = |name: &str| {
        let routes = status["routes"].as_array().unwrap();
        let route = routes.iter().find(|route| route["name"] == name).unwrap();
        route["listening"].as_str().unwrap().parse::<SocketAddr>().unwrap()
    };
    assert_ne!(listening("llm"), listening("llm-as-other"), "{status:#}");
    assert_eq!(http::get(listening("llm"), "/a").unwrap().status(), 200);
    assert_eq!(http::get(listening("llm-as-other"), "/a").unwrap().status(), 403);
}
