//! Limits that several agents count together in a real store, and what happens while it is away.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_tests::gateway::Gateway;
use countersign_tests::pki::{Leaf, TestPki};
use countersign_tests::store::TestStore;
use countersign_tests::{tools, wait};
use rcgen::SanType;
use serde_json::Value;

const ROLES: &str = "[[role]]\nname = \"frontend\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n";

const RULES: &str = "[[inbound.allow]]\nroles = [\"frontend\"]\n";

const QUOTA: &str = "/.well-known/countersign/quota";

/// An agent and a caller that holds a certificate; how it is limited, and where that is counted.
struct Limited {
    gateway: Gateway,
    certificate: [String; 4],
}

impl Limited {
    fn start(store: &str, requests: &str) -> Self {
        let limit =
            format!("[[limit]]\nname = \"together\"\nby = \"identity\"\nshared = true\nrequests = {requests:?}\n");
        let gateway = Gateway::start(&format!("[store]\n{store}\n{ROLES}"), &(RULES.to_owned() + &limit));
        let certificate = gateway.workload("spiffe://mesh.test/web/frontend");
        Self { gateway, certificate }
    }

    fn arguments(&self) -> Vec<&str> {
        self.certificate.iter().map(String::as_str).collect()
    }

    fn status(&self) -> u16 {
        self.gateway.call("/", &self.arguments()).status
    }

    fn statuses(&self, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.status()).collect()
    }

    fn remaining(&self) -> Value {
        let reply = self.gateway.call(QUOTA, &self.arguments());
        assert_eq!(reply.status, 200, "{reply:?}");
        serde_json::from_str::<Value>(&reply.body).unwrap()["limits"][0]["remaining"].clone()
    }
}

#[test]
fn two_agents_share_one_limit() {
    let store = TestStore::start();
    let config = format!("url = {:?}\ntimeout = \"5s\"", store.url());
    let (one, other) = (Limited::start(&config, "6/1h"), Limited::start(&config, "6/1h"));
    assert_eq!(one.remaining(), 6);
    assert_eq!(one.statuses(2), [200, 200]);
    assert_eq!(other.remaining(), 4);
    assert_eq!(other.statuses(3), [200, 200, 200]);
    assert_eq!(one.statuses(2), [200, 429]);
    let refused = other.gateway.call("/", &other.arguments());
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("ratelimit-policy"), Some("\"together\";q=6;w=3600"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"together\";r=0;t="), "{refused:?}");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((540..=600).contains(&wait), "{refused:?}");
    assert_eq!(other.gateway.line(&refused)["limit"], "together");
    assert_eq!(one.remaining(), 0);
}

/// Ends the load when it is dropped, also by a test that fails.
struct Stops<'load>(&'load AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn while_the_store_is_away_nobody_is_let_in_and_it_recovers_by_itself() {
    let mut store = TestStore::start();
    let limited = Limited::start(&format!("url = {:?}\ntimeout = \"5s\"", store.url()), "1000/1h");
    assert_eq!(limited.status(), 200);
    let stopped = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (stopped, limited, seen) = (&stopped, &limited, &seen);
        for _ in 0..2 {
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let status = limited.status();
                    seen.lock().unwrap().push(status);
                }
            });
        }
        let _stops = Stops(stopped);
        for _ in 0..2 {
            store.stop();
            let line = limited.gateway.agent.wait_for_audit("a refusal", |line| line["reason"] == "limit_store_away");
            assert_eq!((line["status"].as_u64(), line["limit"].as_str()), (Some(503), Some("together")), "{line}");
            assert_eq!(line["outcome"], "failed");
            wait::until_so("nobody is let in", || limited.status() == 503);
            store.start_again();
            wait::until_so("everybody is let in again", || limited.status() == 200);
        }
    });
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().all(|status| matches!(status, 200 | 503)), "{seen:?}");
    let labels = [("limit", "together"), ("mode", "enforce")];
    assert!(limited.gateway.agent.metric("countersign_limit_uncounted_total", &labels) > 0.0);
}

#[test]
fn a_store_that_is_away_can_leave_each_agent_its_part() {
    let mut store = TestStore::start();
    let config = format!("url = {:?}\ntimeout = \"5s\"\nwhen_away = \"local\"\nshare = 2", store.url());
    let limited = Limited::start(&config, "8/1h");
    assert_eq!(limited.statuses(2), [200, 200]);
    assert_eq!(limited.remaining(), 6);
    store.stop();
    // Half of it, whatever the store knew.
    assert_eq!(limited.statuses(5), [200, 200, 200, 200, 429]);
    store.start_again();
    // Each worker finds out by itself, and takes some of the questions.
    wait::until_so("the store counts again", || (0..10).all(|_| limited.remaining() == 8));
    assert_eq!(limited.statuses(2), [200, 200]);
    assert_eq!(limited.remaining(), 6);
}

#[test]
fn a_store_that_hangs_costs_one_timeout_and_not_one_for_each_request() {
    let mut store = TestStore::start();
    let limited = Limited::start(&format!("url = {:?}\ntimeout = \"2s\"", store.url()), "1000/1h");
    assert_eq!(limited.status(), 200);
    let workers = 2;
    store.hang();
    let begun = wait::now();
    // Each worker finds out once.
    wait::until_so("nobody is let in", || limited.status() == 503);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let begun = wait::now();
    assert_eq!(limited.statuses(20), [503; 20]);
    let line = limited.gateway.refused("/", &limited.arguments(), 503, "limit_store_away");
    assert_eq!(line["limit"], "together", "{line}");
    let bound = Duration::from_secs(2 * workers + 4);
    assert!(begun.elapsed() < bound, "21 requests took {:?}", begun.elapsed());
    store.go_on();
    wait::until_so("everybody is let in again", || limited.status() == 200);
}

#[test]
fn a_store_that_never_answers_is_away_from_the_beginning() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let local = format!("url = {url:?}\ntimeout = \"100ms\"\nwhen_away = \"local\"\nshare = 1");
    let limited = Limited::start(&local, "2/1h");
    assert_eq!(limited.statuses(3), [200, 200, 429]);
    let refusing = Limited::start(&format!("url = {url:?}\ntimeout = \"100ms\""), "2/1h");
    assert_eq!(refusing.statuses(3), [503; 3]);
}

/// What a store saw that answers the first question on each connection, and the next without end.
#[derive(Default)]
struct Endless {
    connections: AtomicUsize,
    /// Most bytes that were taken of one answer.
    taken: AtomicUsize,
}

impl Endless {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut question = [0; 4096];
        if stream.read(&mut question)? > 0 {
            stream.write_all(b"*0\r\n")?;
        }
        if stream.read(&mut question)? > 0 {
            stream.write_all(b"$99999999999\r\n")?;
        }
        for taken in 0..256 {
            self.taken.fetch_max(taken << 20, Ordering::Relaxed);
            stream.write_all(&[b'a'; 1 << 20])?;
        }
        Ok(())
    }
}

#[test]
fn a_store_that_answers_without_end_is_cut_off_and_tried_less_and_less() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let endless = Arc::new(Endless::default());
    let store = Arc::clone(&endless);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            std::thread::spawn(move || store.serve(stream));
        }
    });
    let limited = Limited::start(&format!("url = {url:?}\ntimeout = \"5s\""), "1000/1h");
    let begun = wait::now();
    assert_eq!(limited.statuses(80), [503; 80]);
    let (workers, seconds) = (2, usize::try_from(begun.elapsed().as_secs()).unwrap());
    let connections = endless.connections.load(Ordering::Relaxed);
    // The pauses grow to one second within two.
    assert!(connections <= workers * (8 + seconds), "{connections} connections in {seconds} seconds");
    let taken = endless.taken.load(Ordering::Relaxed);
    assert!(taken < 64 << 20, "{taken} bytes were taken");
}

#[test]
fn a_store_is_reached_by_tls_with_a_password_and_only_if_it_is_who_it_should_be() {
    let folder = tools::folder();
    let pki = TestPki::new("store");
    let bundle = folder.path().join("store-ca.pem");
    pki.write_bundle(&bundle);
    let secret = folder.path().join("password");
    std::fs::write(&secret, "s3cret\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let of = |name: &str| {
        let leaf = Leaf::of("spiffe://store.test/store").and(SanType::DnsName(name.try_into().unwrap()));
        TestStore::start_guarded(pki.issue_files(folder.path(), name, &leaf), "s3cret")
    };
    let config = |store: &TestStore, bundle: &Path, secret: &Path| {
        let (url, password) = (store.url(), format!("${{file:{}}}", secret.display()));
        format!("url = {url:?}\nbundle = {bundle:?}\npassword = {password:?}\ntimeout = \"5s\"")
    };
    let store = of("localhost");
    let limited = Limited::start(&config(&store, &bundle, &secret), "2/1h");
    assert_eq!(limited.statuses(3), [200, 200, 429]);
    // Under another name, by another authority, or with another password nobody is let in.
    let elsewhere = of("elsewhere.test");
    assert_eq!(Limited::start(&config(&elsewhere, &bundle, &secret), "2/1h").status(), 503);
    let other_bundle = folder.path().join("other-ca.pem");
    TestPki::new("other").write_bundle(&other_bundle);
    assert_eq!(Limited::start(&config(&store, &other_bundle, &secret), "2/1h").status(), 503);
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "s3cre\n").unwrap();
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Limited::start(&config(&store, &bundle, &wrong), "2/1h").status(), 503);
}
