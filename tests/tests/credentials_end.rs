//! Promise 2: no connection outlives its credential, streams included.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::time::Duration;

use countersign_tests::hostile::{HostilePeer, Knock};
use countersign_tests::http;
use countersign_tests::mesh::{FRONTEND, Mesh, OTHER, Plan, SERVICE, files_of};
use countersign_tests::part::{self, Part};
use countersign_tests::pki::{HOUR, Leaf};
use countersign_tests::process::Process;
use countersign_tests::stream::{LONG_STREAM, Stream};
use countersign_tests::tools;
use countersign_tests::wait;
use rustls::AlertDescription;

/// How long after its end a credential may still be in use.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A mesh with three routes: events, a WebSocket, and plain TCP to the event server.
struct Site {
    mesh: Mesh,
    web_socket: String,
    tcp: std::net::SocketAddr,
    _parts: [Part; 2],
}

fn plan(events: &Part, sockets: &Part, places: &[std::net::SocketAddr; 4]) -> Plan {
    let [socket_in, socket_out, tcp_in, tcp_out] = places;
    let inbound = |name: &str, listen, backend: String| {
        format!(
            "[[inbound]]\nname = \"{name}\"\nidentity = \"{SERVICE}\"\nlisten = \"{listen}\"\nbackend = \"{backend}\"\n\n[[inbound.allow]]\nroles = [\"inference_client\"]\n\n"
        )
    };
    let outbound = |name: &str, listen, endpoint, protocol: &str| {
        format!(
            "[[outbound]]\nname = \"{name}\"\nidentity = \"{FRONTEND}\"\nlisten = \"{listen}\"\nprotocol = \"{protocol}\"\nservice = \"{SERVICE}\"\nendpoints = [\"{endpoint}\"]\n\n"
        )
    };
    let limits = "[limits]\ndrain = \"1s\"\n";
    Plan {
        host_b: inbound("sockets", socket_in, sockets.url("http"))
            + &inbound("tcp", tcp_in, events.url("tcp"))
            + limits,
        host_a: outbound("sockets", socket_out, socket_in, "http") + &outbound("tcp", tcp_out, tcp_in, "tcp") + limits,
        ..Plan::to(events.url("http"))
    }
}

fn site(make: impl FnOnce(&Plan) -> Mesh) -> Site {
    let (events, sockets) = (Part::serve("plain_server", &[]), Part::serve("websocket_echo_server", &[]));
    let places = [tools::free_address(), tools::free_address(), tools::free_address(), tools::free_address()];
    let mesh = make(&plan(&events, &sockets, &places));
    Site { mesh, web_socket: format!("ws://{}/", places[1]), tcp: places[3], _parts: [events, sockets] }
}

/// One of each kind, all under way.
struct Live {
    events: Stream,
    tcp: Stream,
    web_socket: Process,
}

impl Site {
    fn open(&self) -> Live {
        let mut web_socket = part::start_call("websocket_caller", &["--url", &self.web_socket, "--hold", "60"]);
        web_socket.wait_for_line(wait::SOON, "holding", |line| line.contains("holding"));
        Live {
            events: Stream::open(self.mesh.frontend, LONG_STREAM),
            tcp: Stream::open(self.tcp, LONG_STREAM),
            web_socket,
        }
    }
}

impl Live {
    /// All have ended within the bound, and none by its own end.
    #[track_caller]
    fn all_end_within(&mut self, bound: Duration) {
        let end = wait::now() + bound;
        let left = || end.saturating_duration_since(wait::now());
        for stream in [&self.events, &self.tcp] {
            assert!(stream.wait_for_end(left()).error.is_some(), "a cut stream must not look whole");
        }
        assert_eq!(self.web_socket.wait_for_end(left()).code(), Some(3), "{:?}", self.web_socket.stdout());
    }

    #[track_caller]
    fn all_go_on(&mut self) {
        self.events.wait_for_more();
        self.tcp.wait_for_more();
        assert_eq!(self.web_socket.poll_end(), None);
    }
}

fn nothing_is_left(mesh: &Mesh) {
    mesh.host_b.wait_for_status("no connection is left", |status| status["connections"] == 0);
}

#[track_caller]
fn cut_with(mesh: &Mesh, reason: &str) {
    for (route, event) in [("llm", "request"), ("sockets", "request"), ("tcp", "connection")] {
        let line = mesh.host_b.wait_for_audit(&format!("the cut {event} of {route}"), |line| {
            line["route"] == route && line["event"] == event && line["outcome"] == "cut"
        });
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["peer"], FRONTEND);
    }
    assert!(mesh.host_b.metric("countersign_refusals_total", &[("reason", reason)]) >= 3.0);
}

#[test]
fn revoked_peer_loses_its_open_streams_within_two_seconds() {
    let mut site = site(Mesh::enrolled);
    let mut live = site.open();
    live.all_go_on();
    site.mesh.ca().revoke(FRONTEND);
    live.all_end_within(AT_ONCE);
    nothing_is_left(&site.mesh);
}

#[test]
fn what_a_revocation_cuts_is_recorded_as_cut_with_the_reason() {
    let mut site = site(Mesh::enrolled);
    let mut live = site.open();
    site.mesh.ca().revoke(FRONTEND);
    live.all_end_within(wait::SOON);
    cut_with(&site.mesh, "withdrawn_revoked");
}

#[test]
fn revoked_peer_is_refused_with_a_tls_alert_until_the_revocation_is_lifted() {
    let mut site = site(Mesh::enrolled);
    // Somebody has stolen the key, and does not care what the agent of host-a has heard.
    let thief = HostilePeer::from_pem(&site.mesh.host_a.stored_identity(FRONTEND));
    assert_eq!(thief.knock(site.mesh.inbound), Knock::Answered(404));
    site.mesh.ca().revoke(FRONTEND);
    wait::within(AT_ONCE, "the thief is refused", || {
        (thief.knock(site.mesh.inbound) == Knock::Alert(AlertDescription::CertificateRevoked)).then_some(())
    });
    let line = site.mesh.host_b.wait_for_audit("the refused thief", |line| line["reason"] == "certificate_revoked");
    assert_eq!(line["claimed"], FRONTEND);
    assert_eq!(line["outcome"], "denied");
    assert_ne!(http::get(site.mesh.frontend, "/echo-headers").unwrap().status(), 200);
    let refused = site.mesh.host_a.ask("renew", &["--id", FRONTEND]);
    assert_eq!(refused.code, Some(1), "a revoked identity is not renewed: {refused:?}");
    assert!(refused.stderr.contains("revoked"), "{refused:?}");

    site.mesh.ca().lift(FRONTEND);
    wait::until_so("a lifted revocation works again", || {
        http::get(site.mesh.frontend, "/echo-headers").unwrap().status() == 200
    });
    site.mesh.host_a.ask("renew", &["--id", FRONTEND]).success();
    assert_eq!(http::get(site.mesh.frontend, "/echo-headers").unwrap().status(), 200);
}

#[test]
fn revoking_a_serial_number_ends_that_certificate_and_no_other() {
    let mut site = site(Mesh::enrolled);
    let serial_of = |site: &Site| {
        let status = site.mesh.host_a.status();
        let identities = status["identities"].as_array().unwrap().clone();
        let found = identities.into_iter().find(|identity| identity["identity"] == FRONTEND).unwrap();
        found["serial"].as_str().unwrap().to_owned()
    };
    let mut live = site.open();
    let serial = serial_of(&site);
    site.mesh.ca().ask(&["revoke"], &["--serial", &serial]).success();
    live.all_end_within(AT_ONCE);
    wait::until_so("a renewed certificate is good", || {
        let renewed = site.mesh.host_a.ask("renew", &["--id", FRONTEND]).code == Some(0);
        renewed && serial_of(&site) != serial && http::get(site.mesh.frontend, "/echo-headers").unwrap().status() == 200
    });
}

#[test]
fn streams_end_with_the_certificate_of_the_caller() {
    let mut site = site(|plan| Mesh::of_files(&Plan { frontend_lives: 15, ..plan.clone() }));
    let mut live = site.open();
    live.all_go_on();
    let end = site.mesh.host_a.certificate_ends(FRONTEND);
    // The drain before the end is one second: until then nothing may be cut.
    wait::stays_so(end.saturating_duration_since(wait::now()) - AT_ONCE, "streams go on until the end", || {
        live.events.end().is_none() && live.tcp.end().is_none() && live.web_socket.poll_end().is_none()
    });
    live.all_end_within(end.saturating_duration_since(wait::now()) + AT_ONCE);
    nothing_is_left(&site.mesh);
    let answer = http::get(site.mesh.frontend, "/echo-headers").unwrap();
    assert!(matches!(answer.status(), 502 | 503), "nobody is called with a certificate that has ended: {answer:?}");

    // Whoever renews the files has the service back, without a restart.
    let issued = site.mesh.pki().issue(&Leaf::of(FRONTEND).valid(-HOUR, HOUR));
    issued.write(&files_of(&site.mesh.host_a, FRONTEND));
    wait::until_so("the renewed certificate is used", || {
        http::get(site.mesh.frontend, "/echo-headers").unwrap().status() == 200
    });
    site.mesh.host_a.stop();
}

#[test]
fn a_peer_that_does_not_look_at_its_own_certificate_is_cut_at_its_end() {
    let site = site(Mesh::of_files);
    let issued = site.mesh.pki().issue(&Leaf::of(FRONTEND).valid(-HOUR, 5));
    let end = wait::now() + Duration::from_secs(5);
    let peer = HostilePeer::showing(Some(&issued));
    let mut client = peer.client(site.mesh.inbound).unwrap();
    client.send_request("GET", LONG_STREAM, &[], b"").unwrap();
    client.head().unwrap();
    let streaming = Stream::of(client);
    let mut idle = peer.client(site.mesh.inbound).unwrap();
    assert_eq!(idle.ask("GET", "/echo-headers", &[], b"").unwrap().status(), 200);
    let end_of_idle = std::thread::spawn(move || {
        idle.read_to_close().ok();
        wait::now()
    });
    let ended = streaming.wait_for_end(wait::SOON);
    assert!(ended.error.is_some(), "a cut stream must not look whole");
    assert!(ended.at + Duration::from_secs(1) > end && ended.at < end + AT_ONCE, "{:?} too late", ended.at - end);
    assert!(end_of_idle.join().unwrap() < end + AT_ONCE, "an idle connection is open after its certificate");
    nothing_is_left(&site.mesh);
    assert_eq!(peer.knock(site.mesh.inbound), Knock::Alert(AlertDescription::CertificateExpired));
}

#[test]
fn streams_end_with_the_certificate_of_the_service() {
    let site = site(Mesh::of_files);
    let short = site.mesh.pki().issue(&Leaf::of(SERVICE).valid(-HOUR, 8));
    let end = wait::now() + Duration::from_secs(8);
    short.write(&files_of(&site.mesh.host_b, SERVICE));
    let serial = short.serial;
    site.mesh
        .host_b
        .wait_for_status("the short certificate is used", |status| status["identities"][0]["serial"] == serial);
    let mut live = site.open();
    live.all_go_on();
    live.all_end_within(end.saturating_duration_since(wait::now()) + AT_ONCE);
    nothing_is_left(&site.mesh);
    assert_ne!(http::get(site.mesh.frontend, "/echo-headers").unwrap().status(), 200);
    site.mesh
        .host_b
        .wait_for_status("an agent with an ended certificate is not ready", |status| status["ready"] == false);
}

#[test]
fn a_withdrawn_role_ends_the_streams_of_its_members_and_no_others() {
    let mut site = site(Mesh::of_files);
    let tables = site.mesh.host_b.tables();
    let both = tables.replace(
        "members = [\"spiffe://mesh.test/web/*\"]",
        &format!("members = [\"spiffe://mesh.test/web/*\", \"{OTHER}\"]"),
    );
    site.mesh.host_b.reload(&both);
    let mut live = site.open();
    let other = Stream::open(site.mesh.other, LONG_STREAM);
    live.all_go_on();
    site.mesh
        .host_b
        .reload(&tables.replace("members = [\"spiffe://mesh.test/web/*\"]", &format!("members = [\"{OTHER}\"]")));
    live.all_end_within(AT_ONCE);
    cut_with(&site.mesh, "withdrawn_policy");
    other.wait_for_more();
    assert_eq!(http::get(site.mesh.frontend, "/echo-headers").unwrap().status(), 403);
    assert_eq!(http::get(site.mesh.other, "/echo-headers").unwrap().status(), 200);
}

#[test]
fn a_rule_that_no_longer_covers_a_stream_ends_it() {
    let mut site = site(Mesh::of_files);
    let tables = site.mesh.host_b.tables();
    let stream = Stream::open(site.mesh.frontend, LONG_STREAM);
    let narrower = tables.replacen(
        "roles   = [\"inference_client\"]",
        "roles = [\"inference_client\"]\npaths = [\"/echo-headers\"]",
        1,
    );
    site.mesh.host_b.reload(&narrower);
    assert!(stream.wait_for_end(AT_ONCE).error.is_some());
    assert_eq!(http::get(site.mesh.frontend, "/echo-headers").unwrap().status(), 200);
}

#[test]
fn a_route_that_is_removed_takes_its_connections_along() {
    let mut site = site(Mesh::of_files);
    let tables = site.mesh.host_b.tables();
    let tcp = Stream::open(site.tcp, LONG_STREAM);
    let events = Stream::open(site.mesh.frontend, LONG_STREAM);
    let start = tables.find("[[inbound]]\nname = \"tcp\"").unwrap();
    let end = tables.find("[limits]").unwrap();
    site.mesh.host_b.reload(&(tables[..start].to_owned() + &tables[end..]));
    assert!(tcp.wait_for_end(AT_ONCE).error.is_some());
    events.wait_for_more();
}

#[test]
fn an_authority_that_is_no_longer_trusted_takes_its_peers_along() {
    let site = site(Mesh::of_files);
    let mut live = site.open();
    // Another root for host-b: what the old one has signed is believed no longer.
    let new = countersign_tests::pki::TestPki::new("new");
    let files = files_of(&site.mesh.host_b, SERVICE);
    new.issue(&Leaf::of(SERVICE)).write(&files);
    new.write_bundle(&site.mesh.host_b.folder().join("bundle.pem"));
    live.all_end_within(wait::SOON);
    cut_with(&site.mesh, "withdrawn_untrusted");
}
