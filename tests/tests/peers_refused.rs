//! Peers that must be refused: each gets a TLS alert, one audit line with the reason, and a count in the metrics. And peers
//! that send garbage, too much, too slowly, or nothing: each connection is closed within a bound.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use countersign_tests::backend::EchoBackend;
use countersign_tests::hostile::{HostilePeer, Knock};
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, OTHER, Plan};
use countersign_tests::part::Part;
use countersign_tests::pki::{HOUR, Leaf, TestPki};
use countersign_tests::raw_http2::{End, RawHttp2};
use countersign_tests::stream::LONG_STREAM;
use countersign_tests::wait;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::AlertDescription;

fn good() -> Leaf {
    Leaf::of(FRONTEND)
}

#[test]
fn a_good_peer_is_let_in() {
    let mesh = Mesh::of_files(&Plan::to(EchoBackend::start().url()));
    assert_eq!(HostilePeer::showing(Some(&mesh.pki().issue(&good()))).knock(mesh.inbound), Knock::Answered(200));
}

#[test]
fn each_bad_certificate_gets_an_alert_one_audit_line_and_a_count() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let strangers = TestPki::new("strangers");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let with_usage = |usage| Leaf { usages: vec![usage], ..good() };
    let self_signed = Leaf { self_signed: true, ..good() };
    let no_name = Leaf { names: Vec::new(), common_name: Some(FRONTEND.to_owned()), ..good() };
    let ours = mesh.pki();
    use AlertDescription as Alert;
    let cases = [
        ("no certificate", None, "certificate_missing", Some(Alert::CertificateRequired)),
        (
            "expired",
            Some(ours.issue(&good().valid(-2 * HOUR, -60))),
            "certificate_expired",
            Some(Alert::CertificateExpired),
        ),
        ("not yet valid", Some(ours.issue(&good().valid(HOUR, 2 * HOUR))), "certificate_not_yet_valid", None),
        ("foreign root", Some(strangers.issue(&good())), "unvouched", Some(Alert::UnknownCA)),
        ("self-signed", Some(ours.issue(&self_signed)), "unvouched", Some(Alert::UnknownCA)),
        (
            "foreign trust domain",
            Some(ours.issue(&Leaf::of("spiffe://elsewhere.test/web/frontend"))),
            "untrusted_domain",
            None,
        ),
        ("two URIs", Some(ours.issue(&good().and(uri("spiffe://mesh.test/web/second")))), "uri_count", None),
        (
            "two URIs, one of them no SPIFFE ID",
            Some(ours.issue(&good().and(uri("https://mesh.test/")))),
            "uri_count",
            None,
        ),
        (
            "server's usage only",
            Some(ours.issue(&with_usage(ExtendedKeyUsagePurpose::ServerAuth))),
            "wrong_usage",
            None,
        ),
        ("another usage", Some(ours.issue(&with_usage(ExtendedKeyUsagePurpose::CodeSigning))), "wrong_usage", None),
        ("no SPIFFE ID", Some(ours.issue(&Leaf::of_dns("frontend.mesh.test"))), "foreign_not_admitted", None),
        ("the name in the subject only", Some(ours.issue(&no_name)), "certificate_malformed", None),
        (
            "a trust domain and no path",
            Some(ours.issue(&Leaf::of("spiffe://mesh.test"))),
            "certificate_malformed",
            None,
        ),
        (
            "a path with two dots",
            Some(ours.issue(&Leaf::of("spiffe://mesh.test/web/../x"))),
            "certificate_malformed",
            None,
        ),
    ];
    let mut failures = Vec::new();
    for (name, certificate, reason, alert) in &cases {
        let labels = [("direction", "inbound"), ("route", "llm"), ("reason", *reason)];
        let lines = || mesh.host_b.audit().into_iter().filter(|line| line["reason"] == *reason).collect::<Vec<_>>();
        let (before, counted) = (lines().len(), mesh.host_b.metric("countersign_refusals_total", &labels));
        let knock = HostilePeer::showing(certificate.as_ref()).knock(mesh.inbound);
        let right = match alert {
            Some(alert) => knock == Knock::Alert(*alert),
            None => matches!(knock, Knock::Alert(_)),
        };
        if !right {
            failures.push(format!("{name}: {knock:?}, expected was the alert {alert:?}"));
        }
        let bound = wait::now() + Duration::from_secs(3);
        while lines().len() == before && wait::now() < bound {
            std::thread::sleep(Duration::from_millis(20));
        }
        let found = lines();
        let line = found.last();
        let right = found.len() == before + 1
            && line.is_some_and(|line| {
                line["event"] == "connection" && line["outcome"] == "denied" && line["peer"].is_null()
            });
        if !right {
            failures.push(format!("{name}: audit lines with {reason}: {found:?}"));
        }
        let counts = mesh.host_b.metric("countersign_refusals_total", &labels);
        if counts != counted + 1.0 {
            failures.push(format!("{name}: counted as {reason}: {counted} before, {counts} after"));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(backend.seen().len(), 0);
    let connections = mesh.host_b.audit().iter().filter(|line| line["event"] == "connection").count();
    assert_eq!(connections, cases.len(), "one line for each connection:\n{}", mesh.host_b.audit_text());
}

#[test]
fn tls_1_2_is_refused() {
    let mesh = Mesh::of_files(&Plan::to("http://127.0.0.1:9"));
    let files = mesh.pki().issue_files(mesh.host_a.folder(), "old", &good());
    let address = mesh.inbound.to_string();
    let finished = countersign_tests::process::run(
        std::process::Command::new("openssl")
            .args(["s_client", "-connect", &address, "-tls1_2", "-cert"])
            .arg(&files.chain)
            .arg("-key")
            .arg(&files.key),
    );
    assert_ne!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("alert protocol version"), "{finished:?}");
}

#[test]
fn a_peer_without_a_role_is_answered_with_403_and_a_known_peer_keeps_its_names_apart() {
    let backend = EchoBackend::start();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    assert_eq!(
        HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(OTHER)))).knock(mesh.inbound),
        Knock::Answered(403)
    );
    // A common name, or a DNS name beside the SPIFFE ID, gives nobody a role.
    let disguised = Leaf { common_name: Some(FRONTEND.to_owned()), ..Leaf::of(OTHER) };
    let disguised = disguised.and(SanType::DnsName("frontend.mesh.test".try_into().unwrap()));
    assert_eq!(HostilePeer::showing(Some(&mesh.pki().issue(&disguised))).knock(mesh.inbound), Knock::Answered(403));
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn foreign_peers_are_admitted_by_the_kind_of_name_that_the_rule_names() {
    let backend = EchoBackend::start();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let company = TestPki::new("company");
    let bundle = mesh.host_b.folder().join("company.pem");
    company.write_bundle(&bundle);
    let tables = mesh.host_b.tables();
    let with_member = |member: &str| {
        tables
            .replace(
                "members = [\"spiffe://mesh.test/web/*\"]",
                &format!("members = [\"spiffe://mesh.test/web/*\", \"{member}\"]"),
            )
            .replace(
                "identity = \"spiffe://mesh.test/llm\"\nlisten",
                &format!("identity = \"spiffe://mesh.test/llm\"\nforeign_bundle = {bundle:?}\nlisten"),
            )
    };
    let knock = |pki: &TestPki, leaf: &Leaf| HostilePeer::showing(Some(&pki.issue(leaf))).knock(mesh.inbound);
    let by_dns = Leaf::of_dns("batch.mesh.test");
    let by_email = Leaf::of_email("batch@mesh.test");

    assert!(matches!(knock(&company, &by_dns), Knock::Alert(_)), "without a foreign bundle nobody is admitted");

    mesh.host_b.reload(&with_member("dns:batch.mesh.test"));
    let knock = |pki: &TestPki, leaf: &Leaf| HostilePeer::showing(Some(&pki.issue(leaf))).knock(mesh.inbound);
    assert_eq!(knock(&company, &by_dns), Knock::Answered(200));
    assert_eq!(backend.seen().last().unwrap().value("x-countersign-id"), Some("dns:batch.mesh.test"));
    assert_eq!(knock(&company, &Leaf::of_dns("other.mesh.test")), Knock::Answered(403));
    assert_eq!(knock(&company, &by_email), Knock::Answered(403), "an e-mail address is no DNS name");
    let disguised = Leaf::of_email("batch.mesh.test");
    assert!(matches!(knock(&company, &disguised), Knock::Alert(_) | Knock::Answered(403)), "nor is one without an @");
    let common_name = Leaf { common_name: Some("batch.mesh.test".to_owned()), ..Leaf::of_dns("other.mesh.test") };
    assert_eq!(knock(&company, &common_name), Knock::Answered(403), "nor is a common name");
    let uri = Leaf::of("https://batch.mesh.test/");
    assert!(matches!(knock(&company, &uri), Knock::Alert(_) | Knock::Answered(403)), "nor is a URI");
    assert!(matches!(knock(&company, &good()), Knock::Alert(_)), "a foreign authority cannot make SPIFFE IDs");
    assert!(matches!(knock(mesh.pki(), &by_dns), Knock::Alert(_)), "the mesh's authority vouches for SPIFFE IDs only");
    assert_eq!(knock(mesh.pki(), &good()), Knock::Answered(200));

    mesh.host_b.reload(&with_member("email:batch@mesh.test"));
    let knock = |pki: &TestPki, leaf: &Leaf| HostilePeer::showing(Some(&pki.issue(leaf))).knock(mesh.inbound);
    assert_eq!(knock(&company, &by_email), Knock::Answered(200));
    assert_eq!(knock(&company, &by_dns), Knock::Answered(403), "a DNS name is no e-mail address");
}

/// Bounds that a test can wait for.
const SHORT_LIMITS: &str = r#"[limits]
handshake_timeout = "1s"
idle_connection = "2s"
header_bytes = 8192
streams_per_connection = 4
"#;

/// The longest of the fixed bounds is ten seconds: of the metrics port and of the control socket.
const BOUND: Duration = Duration::from_secs(14);

#[test]
fn garbage_and_silence_on_every_port_are_ended_within_a_bound() {
    let plan = Plan {
        host_a: SHORT_LIMITS.to_owned(),
        host_b: SHORT_LIMITS.to_owned(),
        ..Plan::to(EchoBackend::start().url())
    };
    let mesh = Mesh::of_files(&plan);
    let ports = [("inbound", mesh.inbound), ("outbound", mesh.frontend), ("metrics", mesh.host_a.metrics_address())];
    let told: [(&str, &[u8]); 7] = [
        ("silence", b""),
        ("zeros", &[0; 4096]),
        ("high bytes", &[0xff; 4096]),
        ("a line that does not end", b"GET / HTTP/1.1\r\nhost: a"),
        ("a TLS record that does not end", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"),
        ("TLS of an unknown version", b"\x16\x09\x09\x00\x05hello"),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nSM"),
    ];
    let begun = wait::now();
    let mut open = Vec::new();
    for (port, address) in ports {
        for (what, bytes) in told {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(BOUND)).unwrap();
            stream.write_all(bytes).ok();
            open.push((format!("{what} at {port}"), stream));
        }
    }
    let mut control = UnixStream::connect(mesh.host_a.socket()).unwrap();
    control.set_read_timeout(Some(BOUND)).unwrap();
    control.write_all(b"GET ").unwrap();
    for (what, mut stream) in open {
        expect_end(&what, &mut stream, begun);
    }
    expect_end("half a request at the control socket", &mut control, begun);
    assert_eq!(http::get(mesh.frontend, "/").unwrap().status(), 200, "everybody else is served");
    mesh.host_b.wait_for_status("nothing is left", |status| status["connections"].as_u64() <= Some(1));
    for line in mesh.host_b.audit() {
        if line["event"] == "connection" && line["outcome"] != "allowed" {
            assert!(line["reason"].is_string(), "{line}");
        }
    }
}

/// The other side closes, whatever it says before.
#[track_caller]
fn expect_end(what: &str, stream: &mut impl Read, begun: std::time::Instant) {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}: {error}");
    }
    let took = wait::now() - begun;
    assert!(took < BOUND, "{what}: ended after {took:?}");
}

#[test]
fn a_handshake_that_trickles_is_ended_at_its_deadline() {
    let plan = Plan { host_b: SHORT_LIMITS.to_owned(), ..Plan::to("http://127.0.0.1:9") };
    let mesh = Mesh::of_files(&plan);
    let begun = wait::now();
    let mut stream = TcpStream::connect(mesh.inbound).unwrap();
    // A record of 16 KiB, of which one byte comes every 50 ms.
    let bytes = [b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03".as_slice(), &[7; 100]].concat();
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(wait::now() - begun < Duration::from_secs(4), "a trickle keeps the connection open");
    }
    let line = mesh.host_b.wait_for_audit("the slow peer", |line| line["reason"] == "handshake_timeout");
    assert_eq!(line["event"], "connection");
}

#[test]
fn a_head_that_trickles_is_ended_within_a_bound() {
    let backend = EchoBackend::start();
    let plan = Plan { host_b: SHORT_LIMITS.to_owned(), ..Plan::to(backend.url()) };
    let mesh = Mesh::of_files(&plan);
    let mut stream = HostilePeer::showing(Some(&mesh.pki().issue(&good()))).connect(mesh.inbound).unwrap();
    let begun = wait::now();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: service.test\r\n").unwrap();
    loop {
        let sent = stream.write_all(b"x: y\r\n").and_then(|()| stream.flush());
        std::thread::sleep(Duration::from_millis(100));
        if sent.is_err() {
            break;
        }
        assert!(wait::now() - begun < Duration::from_secs(8), "a trickle keeps the connection open");
    }
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn heads_beyond_the_limit_are_refused() {
    let backend = EchoBackend::start();
    let plan = Plan { host_b: SHORT_LIMITS.to_owned(), ..Plan::to(backend.url()) };
    let mesh = Mesh::of_files(&plan);
    let issued = mesh.pki().issue(&good());
    let peer = HostilePeer::showing(Some(&issued));
    let long = format!("GET / HTTP/1.1\r\nhost: service.test\r\nx-long: {}\r\n\r\n", "a".repeat(20_000));
    assert_eq!(peer.send(mesh.inbound, long.as_bytes()), Knock::Answered(431));
    let many = format!("GET / HTTP/1.1\r\nhost: service.test\r\n{}\r\n", "x: y\r\n".repeat(500));
    assert_eq!(peer.send(mesh.inbound, many.as_bytes()), Knock::Answered(431));
    let path = format!("GET /{} HTTP/1.1\r\nhost: service.test\r\n\r\n", "a".repeat(100_000));
    assert!(matches!(peer.send(mesh.inbound, path.as_bytes()), Knock::Answered(414 | 431)));

    let peer = HostilePeer::showing(Some(&issued)).speaking(&[b"h2"]);
    let mut connection = RawHttp2::open(peer.connect(mesh.inbound).unwrap()).unwrap();
    connection.get(1, "/", &[("x-long", &"a".repeat(12_000))]).unwrap();
    let end = connection.end_of(1);
    assert!(matches!(end, End::Answered(431) | End::Reset(_) | End::GoAway(_)), "{end:?}");
    assert_eq!(backend.seen().len(), 0);
    assert_eq!(http::get(mesh.frontend, "/").unwrap().status(), 200, "everybody else is served");
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let service = Part::serve("plain_server", &[]);
    let plan = Plan { host_b: SHORT_LIMITS.to_owned(), ..Plan::to(service.url("http")) };
    let mesh = Mesh::of_files(&plan);
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&good()))).speaking(&[b"h2"]);
    let mut connection = RawHttp2::open(peer.connect(mesh.inbound).unwrap()).unwrap();
    for stream in [1, 3, 5, 7] {
        connection.get(stream, LONG_STREAM, &[]).unwrap();
    }
    connection.get(9, "/echo-headers", &[]).unwrap();
    // REFUSED_STREAM (RFC 9113 §8.7): nothing was done, so that it can be tried again.
    assert_eq!(connection.end_of(9), End::Reset(7));
}

#[test]
fn connections_of_one_peer_beyond_the_limit_are_refused() {
    let backend = EchoBackend::start();
    let limits = "[limits]\nconnections_per_peer = 3\n";
    let mesh = Mesh::of_files(&Plan { host_b: limits.to_owned(), ..Plan::to(backend.url()) });
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&good())));
    let mut open: Vec<Client> = Vec::new();
    for _ in 0..12 {
        let mut client = peer.client(mesh.inbound).unwrap();
        if client.ask("GET", "/", &[], b"").is_ok_and(|answer| answer.status() == 200) {
            open.push(client);
        }
    }
    assert_eq!(open.len(), 3, "connections of one identity to one inbound");
    let line = mesh.host_b.wait_for_audit("a refused connection", |line| line["reason"] == "limit");
    assert_eq!(line["event"], "connection");
    drop(open);
    wait::until_so("a place is free again", || peer.knock(mesh.inbound) == Knock::Answered(200));
}

#[test]
fn a_peer_that_opens_connections_and_says_nothing_does_not_keep_others_out() {
    let limits = "[limits]\nhandshakes = 8\nhandshake_timeout = \"1s\"\n";
    let mesh = Mesh::of_files(&Plan { host_b: limits.to_owned(), ..Plan::to(EchoBackend::start().url()) });
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(mesh.inbound).unwrap()).collect();
    wait::within(Duration::from_secs(10), "a good peer is served again", || {
        http::get(mesh.frontend, "/").ok().filter(|answer| answer.status() == 200)
    });
    drop(silent);
}
