//! Promise 7: what was authorized is what is forwarded. What two programs could read differently is refused, and no caller
//! can set the headers by which a service knows its caller.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::backend::{EchoBackend, Seen};
use countersign_tests::hostile::{HostilePeer, Knock};
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, Plan, SERVICE};
use countersign_tests::pki::Leaf;
use countersign_tests::raw_http2::{End, RawHttp2};
use countersign_tests::wait;
use serde_json::Value;

/// A peer that is let in, and what reaches the service behind the inbound.
struct Site {
    backend: EchoBackend,
    mesh: Mesh,
    peer: HostilePeer,
}

fn site() -> Site {
    site_of(EchoBackend::start(), "")
}

/// With lines that follow the inbound.
fn site_of(backend: EchoBackend, host_b: &str) -> Site {
    let mesh = Mesh::of_files(&Plan { host_b: host_b.to_owned(), ..Plan::to(backend.url()) });
    let peer = HostilePeer::showing(Some(&mesh.pki().issue(&Leaf::of(FRONTEND))));
    Site { backend, mesh, peer }
}

impl Site {
    fn send(&self, request: &str) -> Knock {
        self.peer.send(self.mesh.inbound, request.as_bytes())
    }

    fn http2(&self) -> RawHttp2 {
        let peer = HostilePeer::showing(Some(&self.mesh.pki().issue(&Leaf::of(FRONTEND)))).speaking(&[b"h2"]);
        RawHttp2::open(peer.connect(self.mesh.inbound).unwrap()).unwrap()
    }

    /// Posts `abc` by HTTP/2 with these fields in its head and these trailers, and returns what reached the service.
    #[track_caller]
    fn post_with_trailers(&self, head: &[(&str, &str)], trailers: &[(&str, &str)]) -> Seen {
        let mut connection = self.http2();
        let names: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "service.test"),
            (":path", "/v1/models"),
            ("trailer", names.as_str()),
        ];
        fields.extend(head);
        connection.headers(1, &fields, false).unwrap();
        connection.data(1, b"abc", false).unwrap();
        connection.headers(1, trailers, true).unwrap();
        assert_eq!(connection.end_of(1), End::Answered(200));
        let seen = self.backend.only();
        assert_eq!(seen.body, b"abc");
        seen
    }
}

#[test]
fn ambiguous_requests_are_refused_and_do_not_reach_the_service() {
    let site = site();
    let paths = [
        "/v1/../admin",
        "/..",
        "/v1/./models",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/v1/%252e%252e/admin",
        "//v1/models",
        "/v1//models",
        "/v1/models;x=1",
        "/v1;x=1/models",
        "/v1/models%3bx",
        "/v1\\models",
        "/v1%5cmodels",
        "/v1/models%00",
        "/v1/models%0d%0a",
        "/v1/%6dodels",
        "/v1/models%",
        "/v1/models%zz",
        "http://other.test/v1/models",
        "ftp://service.test/v1/models",
        "service.test:443",
        "*",
    ];
    for path in paths {
        let request = format!("GET {path} HTTP/1.1\r\nHost: service.test\r\n\r\n");
        assert_eq!(site.send(&request), Knock::Answered(400), "{path}");
    }
    let heads = [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nHost: service.test\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nHost: other.test\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n",
        "GET / HTTP/1.1\r\nHost: user@service.test\r\n",
        "GET / HTTP/1.1\r\nHost: service.test/x\r\n",
        "get / HTTP/1.1\r\nHost: service.test\r\n",
        "Post / HTTP/1.1\r\nHost: service.test\r\n",
        "TRACE / HTTP/1.1\r\nHost: service.test\r\n",
        "CONNECT service.test:443 HTTP/1.1\r\nHost: service.test:443\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nConnection: host\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nConnection: close, Authorization\r\nAuthorization: Bearer a\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nConnection: content-length\r\nContent-Length: 0\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nConnection: upgrade\r\nUpgrade: websocket, other\r\n",
        "POST / HTTP/1.1\r\nHost: service.test\r\nX-HTTP-Method-Override: DELETE\r\n",
        "GET / HTTP/1.1\r\nHost: service.test\r\nX_Original_URL: /admin\r\n",
        "POST / HTTP/1.1\r\nHost: service.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
    ];
    for head in heads {
        assert_eq!(site.send(&format!("{head}\r\n")), Knock::Answered(400), "{head}");
    }
    assert_eq!(site.backend.seen().len(), 0, "something reached the service: {:?}", site.backend.seen());
}

#[test]
fn a_length_that_two_programs_read_differently_is_refused() {
    let site = site();
    let lengths = [
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "Content-Length: 1, 1\r\n\r\nx",
        "Content-Length: +1\r\n\r\nx",
        "Content-Length: -1\r\n\r\nx",
        "Content-Length: 0x1\r\n\r\nx",
        "Transfer-Encoding: identity\r\n\r\nx",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\nx",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Content-Length : 1\r\n\r\nx",
        "X-A: b\r\n folded: c\r\nContent-Length: 1\r\n\r\nx",
    ];
    let mut taken = Vec::new();
    for length in lengths {
        let knock = site.send(&format!("POST /v1/models HTTP/1.1\r\nHost: service.test\r\n{length}"));
        if knock != Knock::Answered(400) {
            taken.push((length, knock));
        }
    }
    assert_eq!(taken, [], "these were not refused");
    assert_eq!(site.backend.seen().len(), 0, "something reached the service: {:?}", site.backend.seen());
}

#[test]
fn what_follows_a_refused_request_on_the_connection_is_not_a_request_of_its_own() {
    let site = site();
    let mut client = site.peer.client(site.mesh.inbound).unwrap();
    let smuggled = "POST / HTTP/1.1\r\nHost: service.test\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: service.test\r\n\r\n";
    client.send(smuggled).unwrap();
    client.head().ok();
    client.read_to_close().ok();
    assert!(site.backend.seen().iter().all(|seen| !seen.line().contains("smuggled")), "{:?}", site.backend.seen());
}

#[test]
fn the_request_goes_on_byte_for_byte_less_what_concerned_the_connection() {
    let site = site();
    let mut client = site.peer.client(site.mesh.inbound).unwrap();
    client
        .send(
            "PUT /v1/models/a%20b/%C3%A9/llama3:8b/?x=/../y&z=%2f;p HTTP/1.1\r\nHost: Service.Test:8080\r\nConnection: keep-alive, X-Hop\r\nX-Hop: gone\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\nX-Twice: one\r\nX-Twice: two\r\nAuthorization: Bearer own\r\nContent-Length: 3\r\n\r\nabc",
        )
        .unwrap();
    assert_eq!(client.answer().unwrap().status(), 200);
    let seen = site.backend.only();
    assert_eq!(seen.line(), "PUT /v1/models/a%20b/%C3%A9/llama3:8b/?x=/../y&z=%2f;p HTTP/1.1");
    assert_eq!(seen.value("host"), Some("Service.Test:8080"));
    assert_eq!(seen.values("x-twice"), ["one", "two"]);
    assert_eq!(seen.value("authorization"), Some("Bearer own"));
    assert_eq!(seen.value("content-length"), Some("3"));
    assert_eq!(seen.body, b"abc");
    for gone in ["x-hop", "keep-alive", "te", "proxy-connection", "connection", "transfer-encoding"] {
        assert_eq!(seen.values(gone), Vec::<&str>::new(), "{gone}");
    }
}

#[test]
fn a_whole_uri_that_agrees_with_host_is_forwarded_as_a_path() {
    let site = site();
    assert_eq!(
        site.send("GET http://service.test/v1/models?a=b HTTP/1.1\r\nHost: service.test\r\n\r\n"),
        Knock::Answered(200)
    );
    let seen = site.backend.only();
    assert_eq!(seen.line(), "GET /v1/models?a=b HTTP/1.1");
    assert_eq!(seen.value("host"), Some("service.test"));
}

/// Every spelling in which a caller could claim to be somebody.
const FORGED: &[&str] = &[
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "X_Forwarded_Client_Cert",
    "x-forwarded_client-cert",
    "x-countersign-id",
    "X-COUNTERSIGN-ID",
    "x_countersign_id",
    "x-countersign_roles",
    "x-countersign-roles",
    "x-countersign-decision",
    "x-countersign-of-tomorrow",
];

#[test]
fn forged_identity_headers_never_reach_the_service() {
    let site = site();
    let forged: String = FORGED.iter().map(|name| format!("{name}: spiffe://mesh.test/admin\r\n")).collect();
    let named: String = format!("Connection: {}\r\n", FORGED.join(", "));
    for head in [forged.clone(), format!("{forged}{named}"), named] {
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: service.test\r\n{head}\r\n");
        assert_eq!(site.send(&request), Knock::Answered(200), "{head}");
    }
    let all = site.backend.seen();
    assert_eq!(all.len(), 3);
    all.iter().for_each(check_identity);
}

#[test]
fn forged_identity_headers_of_local_programs_never_reach_the_service() {
    let site = site();
    let mut client = Client::connect(site.mesh.frontend).unwrap();
    let forged: Vec<(&str, &str)> = FORGED.iter().map(|name| (*name, "spiffe://mesh.test/admin")).collect();
    assert_eq!(client.ask("GET", "/v1/models", &forged, b"").unwrap().status(), 200);
    check_identity(&site.backend.only());
}

#[test]
fn forged_identity_in_http2_heads_and_trailers_never_reaches_the_service() {
    let site = site();
    let head = [
        ("x-countersign-id", "spiffe://mesh.test/admin"),
        ("x_countersign_id", "spiffe://mesh.test/admin"),
        ("x-forwarded-client-cert", "URI=spiffe://mesh.test/admin"),
    ];
    let trailers = [
        ("x-countersign-id", "spiffe://mesh.test/admin"),
        ("x_countersign_roles", "admin"),
        ("x-forwarded-client-cert", "URI=spiffe://mesh.test/admin"),
        ("x-checksum", "900150983cd24fb0"),
    ];
    let seen = site.post_with_trailers(&head, &trailers);
    check_identity(&seen);
    assert_eq!(seen.trailers, ["x-checksum: 900150983cd24fb0"], "forged trailers are gone, others are kept");
}

#[test]
fn forged_trailers_of_chunked_bodies_never_reach_the_service() {
    let site = site();
    let request = "POST /v1/models HTTP/1.1\r\nHost: service.test\r\nTransfer-Encoding: chunked\r\nTrailer: x-countersign-id, x-checksum\r\n\r\n3\r\nabc\r\n0\r\nX-Countersign-Id: spiffe://mesh.test/admin\r\nX-Checksum: 1\r\n\r\n";
    assert_eq!(site.send(request), Knock::Answered(200));
    let seen = site.backend.only();
    check_identity(&seen);
    assert_eq!(seen.body, b"abc");
    assert!(seen.trailers.iter().all(|trailer| !trailer.to_lowercase().contains("countersign")), "{seen:?}");
}

#[test]
fn ambiguous_http2_requests_are_refused_and_do_not_reach_the_service() {
    let site = site();
    let head = |method, authority, path| {
        vec![(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
    };
    let with = |name, value| {
        let mut fields = head("GET", "service.test", "/");
        fields.push((name, value));
        fields
    };
    let requests = [
        head("GET", "service.test", "/v1/../admin"),
        head("GET", "service.test", "/v1%2fmodels"),
        head("GET", "service.test", "//v1"),
        head("GET", "service.test", "/v1;x"),
        head("GET", "service.test", "v1"),
        head("GET", "service.test", ""),
        head("get", "service.test", "/"),
        head("TRACE", "service.test", "/"),
        head("GET", "user@service.test", "/"),
        with("host", "other.test"),
        with("connection", "close"),
        with("transfer-encoding", "chunked"),
        with("X-Upper", "1"),
        with(":path", "/other"),
        with("x-tenant", "gold "),
        with("x-tenant", "\tgold"),
        with("x-rewrite-url", "/admin"),
        vec![(":method", "GET"), (":scheme", "https"), (":path", "/")],
    ];
    for fields in requests {
        let mut connection = site.http2();
        connection.headers(1, &fields, true).unwrap();
        let end = connection.end_of(1);
        // What breaks RFC 9113 itself is a protocol error of the stream or of the connection.
        let refused = matches!(end, End::Answered(400) | End::Reset(1) | End::GoAway(1));
        assert!(refused, "{fields:?}: {end:?}");
    }
    assert_eq!(site.backend.seen().len(), 0, "something reached the service: {:?}", site.backend.seen());
}

#[test]
fn a_password_in_the_host_is_in_no_line() {
    let site = site();
    for head in
        ["GET http://a:s3cret@service.test/ HTTP/1.1\r\nHost: service.test", "GET / HTTP/1.1\r\nHost: a:s3cret@b"]
    {
        assert_eq!(site.send(&format!("{head}\r\n\r\n")), Knock::Answered(400), "{head}");
    }
    let is_refused = |line: &Value| line["reason"] == "request_ambiguous";
    wait::until_so("both are told of", || site.mesh.host_b.told(is_refused) == 2);
    assert!(!site.mesh.host_b.audit_text().contains("s3cret"), "{}", site.mesh.host_b.audit_text());
}

#[test]
fn what_was_refused_as_ambiguous_is_recorded_with_its_reason() {
    let site = site();
    let answer = http::get(site.mesh.frontend, "/v1/../admin").unwrap();
    assert_eq!(answer.status(), 400);
    let decision = answer.json()["decision_id"].as_str().unwrap().to_owned();
    let line = site.mesh.host_a.wait_for_audit("the refusal", |line| line["decision"] == decision.as_str());
    assert_eq!(line["reason"], "request_ambiguous");
    assert_eq!(line["outcome"], "denied");
    assert_eq!(line["path"], "/v1/../admin");
}

const INJECTED: &str = "[inbound.inject]\nheader = \"x-api-key\"\nvalue = \"of-the-agent\"\n";

#[test]
fn a_credential_of_the_callers_does_not_reach_the_service_beside_the_injected_one_however_it_is_spelt() {
    let site = site_of(EchoBackend::start(), INJECTED);
    let spelt: String = ["X-Api-Key", "X_Api_Key", "x_api-key", "X.Api.Key", "x-api~key"]
        .iter()
        .map(|name| format!("{name}: own\r\n{name}: own again\r\n"))
        .collect();
    let others = "X-Api-Keys: kept\r\nX-Api: kept\r\nXaApiaKey: kept\r\n";
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: service.test\r\n{spelt}{others}\r\n");
    assert_eq!(site.send(&request), Knock::Answered(200));
    let seen = site.backend.only();
    assert!(!seen.head.contains("own"), "{}", seen.head);
    assert_eq!(seen.value("x-api-key"), Some("of-the-agent"), "{}", seen.head);
    assert_eq!(seen.head.matches("kept").count(), 3, "other names are let through: {}", seen.head);
}

#[test]
fn a_credential_of_the_callers_in_trailers_does_not_reach_the_service_where_one_is_injected() {
    let site = site_of(EchoBackend::start(), INJECTED);
    let trailers = [("x-api-key", "own"), ("x_api_key", "own"), ("x-checksum", "900150983cd24fb0")];
    let seen = site.post_with_trailers(&[], &trailers);
    assert_eq!(seen.value("x-api-key"), Some("of-the-agent"), "{}", seen.head);
    assert_eq!(seen.trailers, ["x-checksum: 900150983cd24fb0"]);
}

/// A credential is for the head (RFC 9110 §6.5.1): nobody has looked at one in a trailer.
const CREDENTIALS: &[&str] = &[
    "authorization",
    "x-api-key",
    "x_api_key",
    "x-api_key",
    "cookie",
    "proxy-authorization",
    "proxy_authorization",
    "dpop",
];

#[test]
fn a_credential_in_trailers_of_http2_never_reaches_the_service() {
    let site = site();
    let mut connection = site.http2();
    let announced = format!("{}, x-checksum", CREDENTIALS.join(", "));
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "service.test"),
        (":path", "/v1/models"),
        ("trailer", announced.as_str()),
    ];
    connection.headers(1, &head, false).unwrap();
    connection.data(1, b"abc", false).unwrap();
    let mut trailers: Vec<_> = CREDENTIALS.iter().map(|name| (*name, "s3cret of the caller")).collect();
    trailers.push(("x-checksum", "900150983cd24fb0"));
    connection.headers(1, &trailers, true).unwrap();
    assert_eq!(connection.end_of(1), End::Answered(200));
    let seen = site.backend.only();
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.trailers, ["x-checksum: 900150983cd24fb0"]);
    assert!(!format!("{seen:?}").contains("s3cret"), "{seen:?}");
}

#[test]
fn a_trailer_with_the_name_of_an_api_key_header_never_reaches_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("api-keys.json");
    let keys = format!("[api_keys]\nfile = {keys:?}\nheaders = [\"x-team-key\"]\n");
    let site = site_of(EchoBackend::start(), &keys);
    let trailers = [("x-team-key", "s3cret"), ("x_team_key", "s3cret"), ("x-checksum", "900150983cd24fb0")];
    assert_eq!(site.post_with_trailers(&[], &trailers).trailers, ["x-checksum: 900150983cd24fb0"]);
}

#[test]
fn a_credential_in_trailers_of_a_chunked_body_never_reaches_the_service() {
    let site = site();
    let (announced, trailers) = (CREDENTIALS.join(", "), CREDENTIALS.join(": s3cret of the caller\r\n"));
    let request = format!(
        "POST /v1/models HTTP/1.1\r\nHost: service.test\r\nTransfer-Encoding: chunked\r\nTrailer: {announced}, x-checksum\r\n\r\n3\r\nabc\r\n0\r\n{trailers}: s3cret of the caller\r\nX-Checksum: 1\r\n\r\n"
    );
    assert_eq!(site.send(&request), Knock::Answered(200));
    let seen = site.backend.only();
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.trailers, ["x-checksum: 1"]);
    assert!(!format!("{seen:?}").contains("s3cret"), "{seen:?}");
}

#[test]
fn cookies_in_several_fields_of_http2_are_one_line_of_http1() {
    let site = site();
    let mut connection = site.http2();
    connection.get(1, "/v1/models", &[("cookie", "a=1"), ("accept", "b"), ("cookie", "c=2; d=3")]).unwrap();
    assert_eq!(connection.end_of(1), End::Answered(200));
    assert_eq!(site.backend.only().values("cookie"), ["a=1; c=2; d=3"]);
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_a_bad_gateway() {
    let switching = EchoBackend::answering(|_, out| {
        out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    });
    let site = site_of(switching, "");
    assert_eq!(site.send("GET /v1/models HTTP/1.1\r\nHost: service.test\r\n\r\n"), Knock::Answered(502));
    let line = site.mesh.host_b.wait_for_audit("the failure", |line| line["event"] == "request");
    assert_eq!((line["outcome"].as_str(), line["reason"].as_str()), (Some("failed"), Some("upgrade_lost")), "{line}");
}

/// Exactly one of each, with what the agent has verified.
fn check_identity(seen: &Seen) {
    let mut names = seen.names();
    names.retain(|name| name.contains("countersign") || name.replace('_', "-") == "x-forwarded-client-cert");
    names.sort_unstable();
    let expected = ["x-countersign-decision", "x-countersign-id", "x-countersign-roles", "x-forwarded-client-cert"];
    assert_eq!(names, expected, "{}", seen.head);
    assert_eq!(seen.value("x-countersign-id"), Some(FRONTEND));
    assert_eq!(seen.value("x-countersign-roles"), Some("inference_client"));
    let certificate = seen.value("x-forwarded-client-cert").unwrap();
    assert!(
        certificate.starts_with(&format!("By={SERVICE};Hash=")) && certificate.ends_with(&format!(";URI={FRONTEND}"))
    );
    assert!(!seen.head.contains("admin"), "{}", seen.head);
}
