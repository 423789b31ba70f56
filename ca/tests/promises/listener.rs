//! One listener for strangers and members, with a bound on everything.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use bytes::Bytes;
use countersign_certs::issuance::{BUNDLE_PATH, ENROLL_PATH, REQUEST_BYTES_MAX, Reason};
use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Anonymous, Answer, TestCa, command, id, until};

#[tokio::test]
async fn anybody_may_read_the_bundle() {
    let ca = TestCa::start();
    let mut stranger = Anonymous::connect(&ca, &ca.token("gpu-1")).await;
    let response = stranger.connection().send(Method::GET, BUNDLE_PATH, Bytes::new()).await.unwrap();
    let answer = Answer::read(response).await.unwrap();
    assert_eq!(answer.body["keys"][0]["use"], "x509-svid");
    assert_eq!(answer.body["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_in_the_table_is_not_answered() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    let mut stranger = Anonymous::connect(&ca, &token).await;
    let large = "x".repeat(REQUEST_BYTES_MAX + 1);
    for (method, path, body, reason) in [
        (Method::GET, "/", "", Reason::NotFound),
        (Method::GET, ENROLL_PATH, "", Reason::NotFound),
        (Method::POST, BUNDLE_PATH, "", Reason::NotFound),
        (Method::POST, ENROLL_PATH, "{}", Reason::MalformedRequest),
        (Method::POST, ENROLL_PATH, "{\"secret\":\"x\",\"csr\":\"\",\"more\":1}", Reason::MalformedRequest),
        (Method::POST, ENROLL_PATH, "{\"secret\":\"x\",\"csr\":\"\"}", Reason::MalformedRequest),
        (Method::GET, "/v1/watch", "", Reason::NotAHost),
        (Method::POST, ENROLL_PATH, &large, Reason::MalformedRequest),
    ] {
        let response = stranger.connection().send(method, path, body.to_owned()).await.unwrap();
        let (found, detail) = Answer::read(response).await.unwrap().refused();
        assert_eq!(found, reason, "{path} {body:.20}: {detail}");
        assert_eq!(detail.contains("larger than 32768 bytes"), body.len() > REQUEST_BYTES_MAX, "{detail}");
    }
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    let ca = TestCa::start_with("[limits]\nrequests_per_second = 5\n");
    let mut stranger = Anonymous::connect(&ca, &ca.token("gpu-1")).await;
    let mut refused = 0;
    for _ in 0..20 {
        let response = stranger.connection().send(Method::GET, BUNDLE_PATH, Bytes::new()).await.unwrap();
        refused += u32::from(response.status() == 429);
        Answer::read(response).await.unwrap();
    }
    assert!((10..=15).contains(&refused), "{refused}");
}

#[tokio::test]
async fn garbage_is_closed_at_once() {
    let ca = TestCa::start();
    let mut stream = TcpStream::connect(ca.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is closed");
    assert!(answer.len() < 100 && !answer.starts_with(b"HTTP"));
}

#[tokio::test]
async fn silent_strangers_keep_nobody_out() {
    let ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    let address = ca.address();
    let mut silent = tokio::task::JoinSet::new();
    for number in 0..400_u32 {
        silent.spawn(async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 2).to_bits() + number % 40);
                socket.bind((own, 0).into()).unwrap();
                if let Ok(stream) = socket.connect(address).await {
                    stream.readable().await.ok();
                }
                // Whoever lost its place comes back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..5 {
        let asking = async {
            host.issue(&id("/countersign/host/gpu-1")).await.chain();
            ca.host(&format!("gpu-1{round}")).await;
        };
        tokio::time::timeout(Duration::from_secs(2), asking).await.expect("a member and a new host get through");
    }
    silent.shutdown().await;
}

#[tokio::test]
async fn a_host_has_a_few_connections_and_the_newest_stay() {
    let ca = TestCa::start_with("[limits]\nconnections_per_host = 3\n");
    let (host, other) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    let mut others = other.connect().await.unwrap();
    let mut watch = host.watch().await;
    watch.next().await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut connection = host.connect().await.unwrap();
        connection.post("/", &serde_json::Value::Null).await.unwrap();
        connections.push(connection);
    }
    let mut answered = Vec::new();
    for connection in &mut connections {
        answered.push(connection.post("/", &serde_json::Value::Null).await.is_ok());
    }
    assert_eq!(answered, [false, false, true, true], "the watch has something to do and keeps its place");
    others.post("/", &serde_json::Value::Null).await.unwrap();
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    assert_eq!(watch.next().await.unwrap().revocations.ids.len(), 1);
}

#[tokio::test]
async fn a_host_that_watches_again_ends_its_older_watch_and_takes_no_place_of_others() {
    let ca = TestCa::start_with("[limits]\nwatchers = 2\n");
    let (host, other) = (ca.host("gpu-1").await, ca.host("gpu-2").await);
    let mut others = other.watch().await;
    others.next().await.unwrap();
    let mut first = host.watch().await;
    first.next().await.unwrap();
    let mut second = host.watch().await;
    second.next().await.unwrap();
    assert_eq!(first.next().await, None);
    ca.ask("revoke", &["--id", &id("/llm")]).succeeded();
    assert!(second.next().await.is_some() && others.next().await.is_some());
}

#[tokio::test]
async fn the_listeners_own_certificate_is_issued_by_the_same_story_and_renewed() {
    // Almost all of it is over when it is issued. Renewed is it at half of what is left.
    let ca = TestCa::start_with("[issuance]\nworkload_ttl = \"10s\"\nworkload_ttl_max = \"10s\"\nbackdate = \"10m\"\n");
    let own = || {
        let journal = ca.journal();
        journal.iter().filter(|line| line["detail"]["id"] == id("/countersign/ca")).count()
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(own(), 1);
    until("a second certificate of its own", Duration::from_secs(5), || own() >= 2).await;
    let token = ca.token("gpu-1");
    let shown = async || Anonymous::connect(&ca, &token).await.shown();
    let first = ca.journal().iter().find(|line| line["kind"] == "issued").unwrap()["detail"]["serial"].clone();
    assert_ne!(shown().await, first.as_str().unwrap(), "the renewed one is shown");
}

#[tokio::test]
async fn a_stop_is_graceful_and_told_to_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let next = || {
        let mut message = [0; 4096];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let mut ca = TestCa::init();
    ca.serve_in(command().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000"));
    let told: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(told.iter().any(|message| message.contains("READY=1")), "{told:?}");
    assert!(told.iter().filter(|message| message.contains("WATCHDOG=1")).count() >= 1, "{told:?}");
    let host = ca.host("gpu-1").await;
    let mut watch = host.watch().await;
    watch.next().await.unwrap();
    assert_eq!(ca.stop(), Some(0));
    assert_eq!(watch.next().await, None);
    let last = ca.journal().pop().unwrap();
    assert_eq!((&last["kind"], &last["detail"]["cause"]), (&"serve_stopped".into(), &"SIGTERM".into()));
    while !next().contains("STOPPING=1") {}
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_is_told_to_systemd_and_restarts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut ca = TestCa::init();
    ca.serve_in(command().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000"));
    ca.tamper("CREATE TRIGGER full BEFORE UPDATE ON probe BEGIN SELECT RAISE(ABORT, 'disk full'); END").await.unwrap();
    let next = || {
        let mut message = [0; 4096];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let told = |what: &str| while !next().contains(what) {};
    told("nothing is signed: the database could not write");
    // As often as it takes to see that it goes on.
    for _ in 0..3 {
        told("WATCHDOG=1");
    }
    ca.tamper("DROP TRIGGER full").await.unwrap();
    told("STATUS=listening on");
}

#[tokio::test]
async fn the_log_is_json_and_holds_no_secret() {
    let ca = TestCa::start();
    let token = ca.token("gpu-1");
    ca.spend(&token, "x").await.refused();
    for line in ca.log() {
        let fact: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(fact["level"].is_string() && fact["timestamp"].is_string(), "{line}");
        assert!(!line.contains(&token[30..60]), "{line}");
    }
}
