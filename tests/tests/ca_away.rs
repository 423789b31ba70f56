//! Promise 4: the agent outlives its CA. And a full disk: the agent goes on with what it has and says so; the CA, which signs
//! nothing that it cannot record, refuses.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::ca::TestCa;
use countersign_tests::clock::WrongClock;
use countersign_tests::disk::SmallDisk;
use countersign_tests::host::{TestHost, TestNetwork};
use countersign_tests::http;
use countersign_tests::mesh::{DOMAIN, FRONTEND, Mesh, OTHER, Places, Plan, SERVICE};
use countersign_tests::process::run;
use countersign_tests::tools;
use countersign_tests::wait;

#[track_caller]
fn serves(mesh: &Mesh) {
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
}

#[test]
fn with_the_ca_stopped_agents_restart_and_serve() {
    let mut mesh = Mesh::enrolled(&Plan::to(EchoBackend::start().url()));
    serves(&mesh);
    mesh.ca().stop();
    serves(&mesh);
    mesh.host_a.stop();
    mesh.host_b.kill();
    mesh.host_b.start();
    mesh.host_a.start();
    serves(&mesh);
    let refused = mesh.host_a.ask("renew", &["--id", FRONTEND]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(FRONTEND) && refused.stderr.contains("localhost:"), "{refused:?}");
    mesh.host_a.wait_for_status("the failed renewal is shown", |status| {
        status["identities"].as_array().unwrap().iter().any(|identity| {
            identity["identity"] == FRONTEND
                && identity["renewal_error"].as_str().is_some_and(|error| error.contains("localhost:"))
        })
    });
    serves(&mesh);

    mesh.ca().start();
    mesh.host_a.ask("renew", &[]).success();
    mesh.host_a.wait_for_status("the error is gone", |status| {
        status["identities"].as_array().unwrap().iter().all(|identity| identity["renewal_error"].is_null())
    });
    serves(&mesh);
    // What the CA has to say reaches agents that were started without it.
    mesh.ca().revoke(FRONTEND);
    wait::until_so("a revocation after the CA's return is heard", || {
        http::get(mesh.frontend, "/a").unwrap().status() != 200
    });
}

/// A host without a battery for its clock starts with an old time, and one whose clock was kept in local time with a future one;
/// both get the right time from the network a little later.
#[test]
fn a_host_that_starts_with_a_wrong_clock_serves_as_soon_as_it_is_right() {
    let folder = tools::folder();
    let offset = folder.path().join("offset");
    let set_clock = |text: &str| std::fs::write(&offset, text).unwrap();
    set_clock("+0");
    let host_a = WrongClock::find().give(TestAgent::new("host-a"), &offset);
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let plan = Plan::to(EchoBackend::start().url());
    let mut mesh = Mesh::enrolled_as(ca, &plan, host_a, TestAgent::new("host-b"), &[]);
    serves(&mesh);
    mesh.ca().stop();
    for wrong in ["-10h", "+9h"] {
        mesh.host_a.stop();
        set_clock(wrong);
        mesh.host_a.launch();
        let unused = |status: &serde_json::Value| status["identities"].as_array().is_some_and(|all| all.len() >= 3);
        mesh.host_a.wait_for_status("it has its stored identities", unused);
        set_clock("+0");
        wait::until_so("it serves again", || http::get(mesh.frontend, "/a").is_ok_and(|answer| answer.status() == 200));
        serves(&mesh);
    }
    // It asks the CA as soon as that is back, not when the wrong clock would have said.
    mesh.ca().start();
    mesh.host_a.wait_for_status("nothing is overdue", |status| {
        status["identities"].as_array().unwrap().iter().all(|identity| identity["renewal_error"].is_null())
    });
}

#[test]
fn lost_trust_is_asked_for_again_by_the_fingerprint_of_the_root() {
    let mut mesh = Mesh::enrolled(&Plan::to(EchoBackend::start().url()));
    serves(&mesh);
    mesh.ca().stop();
    mesh.host_a.stop();
    std::fs::remove_file(mesh.host_a.state().join("trust.json")).unwrap();
    mesh.host_a.launch();
    let status =
        mesh.host_a.wait_for_status("it says that it believes nobody", |status| status["ca"]["trust_lost"] == true);
    assert_eq!(status["ready"], false);
    mesh.ca().start();
    mesh.host_a.wait_for_status("it has asked", |status| status["ca"]["trust_lost"] == false);
    wait::until_so("it serves again", || http::get(mesh.frontend, "/a").is_ok_and(|answer| answer.status() == 200));
}

#[test]
fn certificates_that_live_for_seconds_are_renewed_at_half_of_that_and_not_in_a_loop() {
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let plan = Plan::to(EchoBackend::start().url());
    let (host_a, host_b) = (TestAgent::new("host-a"), TestAgent::new("host-b"));
    let mesh = Mesh::enrolled_as(ca, &plan, host_a, host_b, &["--ttl", "10s"]);
    let issued = || mesh.ca.as_ref().unwrap().journal_of("issued").len();
    let before = issued();
    std::thread::sleep(Duration::from_secs(12));
    let renewals = issued() - before;
    // Three identities, each due every five seconds or so.
    assert!((3..=12).contains(&renewals), "{renewals} certificates in 12 s");
    serves(&mesh);
}

#[test]
fn without_its_ca_an_agent_serves_until_its_certificates_end_and_renews_when_the_ca_is_back() {
    // The shortest lifetime that the CA gives.
    let lifetime = Duration::from_secs(60);
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let (host_a, host_b) = (TestAgent::new("host-a"), TestAgent::new("host-b"));
    let plan = Plan::to(EchoBackend::start().url());
    let mut mesh = Mesh::enrolled_as(ca, &plan, host_a, host_b, &["--ttl", "60s"]);
    mesh.ca().stop();
    mesh.host_b.stop();
    mesh.host_b.start();
    let ends = [mesh.host_a.certificate_ends(FRONTEND), mesh.host_b.certificate_ends(SERVICE)];
    let end = ends.into_iter().min().unwrap();
    assert!(end <= wait::now() + lifetime, "the lifetime that was asked for");
    while wait::now() + Duration::from_secs(2) < end {
        serves(&mesh);
        std::thread::sleep(Duration::from_millis(200));
    }
    let left = end.saturating_duration_since(wait::now()) + Duration::from_secs(5);
    wait::within(left, "nobody is served with an ended certificate", || {
        (http::get(mesh.frontend, "/a").unwrap().status() != 200).then_some(())
    });
    mesh.host_b.wait_for_status("an ended certificate is no readiness", |status| status["ready"] == false);
    assert_eq!(mesh.host_b.health("/readyz").status(), 503);
    assert_eq!(mesh.host_b.health("/livez").status(), 200);

    mesh.ca().start();
    // Failed attempts are repeated after a minute at most.
    wait::within(Duration::from_secs(70), "renewal resumes by itself", || {
        (http::get(mesh.frontend, "/a").unwrap().status() == 200).then_some(())
    });
    mesh.host_b.wait_for_status("ready again", |status| status["ready"] == true);
}

#[test]
fn with_a_full_disk_an_agent_goes_on_with_what_it_has_and_says_so() {
    let disk = SmallDisk::new(512);
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let host_b = TestAgent::new("host-b").with_state_in(&disk.path().join("state"));
    let mut mesh = Mesh::enrolled_as(ca, &Plan::to(EchoBackend::start().url()), TestAgent::new("host-a"), host_b, &[]);
    serves(&mesh);
    let before = serial(&mesh.host_b, SERVICE);
    disk.fill();
    mesh.host_b.ask("renew", &[]);
    serves(&mesh);
    let status = mesh
        .host_b
        .wait_for_status("what cannot be stored is said", |status| status["ca"]["storage_error"].is_string());
    assert!(status["ca"]["storage_error"].as_str().unwrap().contains("No space left"), "{status:#}");
    assert_eq!(mesh.host_b.metric("countersign_state_storable", &[]), 0.0);
    assert_eq!(mesh.host_b.health("/livez").status(), 200);
    // A restart falls back to what is on the disk, which nothing has damaged.
    mesh.host_b.kill();
    mesh.host_b.start();
    serves(&mesh);

    disk.free();
    mesh.host_b.ask("renew", &[]).success();
    mesh.host_b.wait_for_status("all is well again", |status| status["ca"]["storage_error"].is_null());
    assert_eq!(mesh.host_b.metric("countersign_state_storable", &[]), 1.0);
    let after = serial(&mesh.host_b, SERVICE);
    assert_ne!(before, after);
    mesh.ca().stop();
    mesh.host_b.kill();
    mesh.host_b.start();
    assert_eq!(serial(&mesh.host_b, SERVICE), after, "the newest identity was stored");
    serves(&mesh);
}

fn serial(agent: &TestAgent, id: &str) -> String {
    let status = agent.status();
    let identities = status["identities"].as_array().unwrap();
    let found = identities.iter().find(|identity| identity["identity"] == id).unwrap();
    found["serial"].as_str().unwrap().to_owned()
}

#[test]
fn enrolling_on_a_full_disk_fails_and_does_not_spend_the_token() {
    let disk = SmallDisk::new(256);
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let token = ca.token("host-a");
    disk.fill();
    let host = TestAgent::new("host-a").with_state_in(&disk.path().join("state"));
    let finished = host.try_enroll(&token);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("No space left"), "{finished:?}");
    disk.free();
    host.try_enroll(&token).success();
}

#[test]
fn a_ca_that_cannot_write_its_journal_signs_nothing() {
    let disk = SmallDisk::new(1024);
    let folder = tempfile::Builder::new().tempdir_in(disk.path()).unwrap();
    let mut ca = TestCa::init_in(folder, DOMAIN, tools::free_address(), &["--no-passphrase"]);
    ca.start();
    let mut mesh = Mesh::enrolled_at(ca, &Plan::to(EchoBackend::start().url()));
    disk.fill();
    // A line or two may still fit into what the database has taken already; each of them stands for a certificate.
    let refused = wait::until("the CA refuses", || {
        let finished = mesh.host_a.ask("renew", &["--id", FRONTEND]);
        (finished.code != Some(0)).then_some(finished)
    });
    assert!(refused.stderr.contains("cannot issue now"), "{refused:?}");
    serves(&mesh);
    let last = serial(&mesh.host_a, FRONTEND);
    disk.free();
    wait::until_so("the CA signs again", || mesh.host_a.ask("renew", &["--id", FRONTEND]).code == Some(0));
    let ca = mesh.ca();
    assert!(ca.ask(&["journal", "verify"], &[]).success().contains("none changed"));
    let issued = ca.journal_of("issued");
    assert!(
        issued.iter().any(|line| line["detail"]["serial"] == last.as_str()),
        "{last} is in use and not in the journal"
    );
    let intended = ca.journal_of("issue_intended");
    for line in &issued {
        let before = intended.iter().find(|intent| intent["detail"]["serial"] == line["detail"]["serial"]);
        assert!(before.unwrap()["sequence"].as_u64() < line["sequence"].as_u64(), "the intent comes first");
    }
}

/// Two hosts and a CA, each with a network of its own.
struct Far {
    ca: TestCa,
    ca_host: Arc<TestHost>,
    host_a: TestAgent,
    host_b: TestAgent,
    places: Places,
    caller: Arc<TestHost>,
}

fn far() -> Far {
    let network = TestNetwork::new();
    let (ca_host, caller, server) = (network.host(1), network.host(2), network.host(3));
    let mut ca = TestCa::init_on(&ca_host, DOMAIN);
    ca.start();
    ca.grant("host-b", SERVICE, &[]);
    ca.grant("host-a", FRONTEND, &[]);
    ca.grant("host-a", OTHER, &[]);
    let (mut host_a, mut host_b) = (TestAgent::new("host-a").on(&caller), TestAgent::new("host-b").on(&server));
    host_a.enroll(&ca.token("host-a")).success();
    host_b.enroll(&ca.token("host-b")).success();
    let places = Places {
        frontend: "127.0.0.1:11434".parse().unwrap(),
        other: "127.0.0.1:11435".parse().unwrap(),
        inbound: (server.address(), 9443).into(),
    };
    // The service is on a Unix socket: those are not bound to a network.
    let socket = host_b.folder().join("service.sock");
    let plan = Plan::to(EchoBackend::on_unix_socket(&socket).url());
    host_a.configure(&plan.tables_of_a(&places));
    host_b.configure(&plan.tables_of_b(&places));
    host_b.start();
    host_a.start();
    Far { ca, ca_host, host_a, host_b, places, caller }
}

impl Far {
    fn status(&self, port: u16) -> String {
        let url = format!("http://127.0.0.1:{port}/a");
        let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "80", &url];
        run(self.caller.command(Path::new("curl")).args(arguments)).stdout
    }

    #[track_caller]
    fn serves(&self) {
        assert_eq!(self.status(self.places.frontend.port()), "200");
        assert_eq!(self.status(self.places.other.port()), "403");
    }
}

#[test]
fn hosts_that_are_cut_off_from_the_ca_restart_and_serve_and_hear_of_revocations_when_it_is_back() {
    let mut far = far();
    far.serves();
    far.ca_host.cut_off();
    far.serves();
    far.host_a.stop();
    far.host_b.kill();
    far.host_b.start();
    far.host_a.start();
    far.serves();
    // The CA does not know that nobody hears it.
    far.ca.revoke(FRONTEND);
    wait::stays_so(Duration::from_secs(1), "who is cut off cannot know", || {
        far.status(far.places.frontend.port()) == "200"
    });
    far.ca_host.reconnect();
    // Attempts to reach the CA are a minute apart at most, and one may just be waiting for its answer.
    wait::within(Duration::from_secs(100), "the revocation is heard", || {
        (far.status(far.places.frontend.port()) != "200").then_some(())
    });
    far.ca.lift(FRONTEND);
    wait::within(Duration::from_secs(30), "the lifted revocation is heard", || {
        (far.status(far.places.frontend.port()) == "200").then_some(())
    });
    far.host_b.ask("renew", &[]).success();
    far.serves();
}

#[test]
fn a_service_on_a_host_that_is_cut_off_is_a_bad_gateway_within_a_bound_and_is_back_with_the_host() {
    let far = far();
    far.serves();
    let server = far.host_b.host().unwrap();
    server.cut_off();
    // A connection that was open is found dead by HTTP/2 pings, of which one goes out every half a minute.
    let begun = wait::now();
    let status = far.status(far.places.frontend.port());
    let took = wait::now() - begun;
    assert!(matches!(status.as_str(), "502" | "503" | "504"), "{status} after {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    server.reconnect();
    wait::within(Duration::from_secs(60), "the service is back", || {
        (far.status(far.places.frontend.port()) == "200").then_some(())
    });
}
