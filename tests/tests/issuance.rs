//! Promise 8 and the bad input of the CA: of a signing request only the public key is used, what asks for more is refused,
//! and everything that is issued is recorded before and after.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::ca::TestCa;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::http::Answer;
use countersign_tests::mesh::{DOMAIN, FRONTEND, OTHER, Places, Plan, SERVICE};
use countersign_tests::process::run;
use countersign_tests::{tools, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A CA that runs, a host that has joined, and a folder for requests made by hand.
struct Site {
    ca: TestCa,
    host: TestAgent,
    folder: TempDir,
}

fn site() -> Site {
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    ca.grant("host-a", FRONTEND, &["--dns", "frontend.mesh.test", "--ttl", "5m"]);
    ca.grant("host-b", SERVICE, &[]);
    let mut host = TestAgent::new("host-a");
    host.enroll(&ca.token("host-a")).success();
    Site { ca, host, folder: tools::folder() }
}

impl Site {
    fn post(&self, peer: &HostilePeer, path: &str, body: &Value) -> Answer {
        let mut client = peer.client(self.ca.address()).unwrap();
        let headers = [("content-type", "application/json")];
        client.ask("POST", path, &headers, body.to_string().as_bytes()).unwrap()
    }

    fn host_peer(&self) -> HostilePeer {
        HostilePeer::from_pem(&self.host.stored_identity("host-a"))
    }

    /// Asks for a certificate as the host.
    fn issue(&self, id: &str, csr: &str) -> Answer {
        self.post(&self.host_peer(), "/v1/issue", &json!({ "id": id, "csr": csr }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A key of this kind, made by openssl.
    fn key(&self, kind: &[&str]) -> PathBuf {
        let path = self.path(&format!("{}.key", kind.join("-").replace([':', '='], "-")));
        let options = kind.iter().skip(1).flat_map(|option| ["-pkeyopt", option]);
        run(Command::new("openssl").args(["genpkey", "-algorithm", kind[0]]).args(options).arg("-out").arg(&path))
            .success();
        path
    }

    /// A request in PEM, with these extensions.
    fn csr(&self, key: &Path, subject: &str, extensions: &str) -> String {
        let config = self.path("request.cnf");
        let section = if extensions.is_empty() { "" } else { "req_extensions = extensions\n" };
        let text =
            format!("[req]\ndistinguished_name = name\nprompt = no\n{section}[name]\n[extensions]\n{extensions}\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-key"]).arg(key).arg("-config").arg(&config).args(["-subj", subject]);
        run(&command).success() + "\n"
    }
}

const P256: &[&str] = &["EC", "ec_paramgen_curve:P-256"];

#[test]
fn of_a_signing_request_only_the_public_key_is_used() {
    let site = site();
    let csr = site.csr(&site.key(P256), "/", &format!("subjectAltName = URI:{FRONTEND}"));
    let answer = site.issue(FRONTEND, &csr);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let chain = answer.json()["chain"].as_str().unwrap().to_owned();
    let path = site.path("issued.pem");
    std::fs::write(&path, &chain).unwrap();
    let text = run(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&path)).success();
    for part in [
        "X509v3 Subject Alternative Name: critical",
        &format!("URI:{FRONTEND}"),
        "DNS:frontend.mesh.test",
        "X509v3 Key Usage: critical",
        "Digital Signature",
        "X509v3 Basic Constraints: critical",
        "CA:FALSE",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for usage in ["TLS Web Server Authentication", "TLS Web Client Authentication"] {
        assert!(text.contains(usage), "{text}");
    }
    assert_eq!(text.matches("URI:").count(), 1, "{text}");
    let seconds =
        |arguments: &[&str]| run(Command::new("openssl").args(["x509", "-noout", "-in"]).arg(&path).args(arguments));
    assert_eq!(seconds(&["-checkend", "200"]).code, Some(0), "it lives for five minutes");
    assert_eq!(seconds(&["-checkend", "301"]).code, Some(1), "and no longer");
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "leaf and intermediate, without the root");
    let serial = run(Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&path)).success();
    let serial = serial.trim().trim_start_matches("serial=").to_lowercase();
    assert!(serial.len() >= 16, "64 random bits at least: {serial}");
    let lines = site.ca.journal();
    let find =
        |kind: &str| lines.iter().find(|line| line["kind"] == kind && line["detail"]["serial"] == serial.as_str());
    let (intended, issued) = (find("issue_intended").unwrap(), find("issued").unwrap());
    assert!(intended["sequence"].as_u64() < issued["sequence"].as_u64());
    assert_eq!(intended["detail"]["host"], "host-a");
    assert_eq!(intended["detail"]["id"], FRONTEND);
}

#[test]
fn signing_requests_that_are_weak_or_ask_for_more_are_refused_and_recorded() {
    let site = site();
    let good = site.key(P256);
    let name = format!("URI:{FRONTEND}");
    let names = |text: &str| site.csr(&good, "/", &format!("subjectAltName = {text}"));
    let extension = |text: &str| site.csr(&good, "/", &format!("subjectAltName = {name}\n{text}"));
    let unnamed = |kind: &[&str]| site.csr(&site.key(kind), "/", "");
    let whole = names(&name);
    let mut signed_by_another = whole.clone().into_bytes();
    // A character of the signature, which stands at the end.
    let place = signed_by_another.len() - "-----END CERTIFICATE REQUEST-----\n".len() - 12;
    signed_by_another[place] = if signed_by_another[place] == b'A' { b'B' } else { b'A' };
    let cases = [
        ("a short RSA key", unnamed(&["RSA", "rsa_keygen_bits:1024"])),
        ("an RSA key", unnamed(&["RSA", "rsa_keygen_bits:2048"])),
        ("a curve of another world", unnamed(&["EC", "ec_paramgen_curve:secp256k1"])),
        ("a short curve", unnamed(&["EC", "ec_paramgen_curve:P-224"])),
        ("Ed448", unnamed(&["ED448"])),
        ("somebody else's name", names(&format!("URI:{OTHER}"))),
        ("a second name", names(&format!("{name}, URI:{OTHER}"))),
        ("a DNS name, even one that is granted", names(&format!("{name}, DNS:frontend.mesh.test"))),
        ("an IP address", names(&format!("{name}, IP:10.0.0.1"))),
        ("to be an authority", extension("basicConstraints = critical, CA:TRUE")),
        ("to sign certificates", extension("keyUsage = critical, keyCertSign")),
        ("another usage", extension("extendedKeyUsage = codeSigning")),
        ("an unknown extension", extension("1.2.3.4.5.6 = DER:0500")),
        ("a subject", site.csr(&good, "/CN=admin", &format!("subjectAltName = {name}"))),
        ("a signature that does not fit", String::from_utf8(signed_by_another).unwrap()),
        ("half a request", whole[..whole.len() / 2].to_owned()),
        ("nothing", String::new()),
        ("nonsense", "-----BEGIN CERTIFICATE REQUEST-----\naGVsbG8=\n-----END CERTIFICATE REQUEST-----\n".to_owned()),
    ];
    let mut taken = Vec::new();
    let before = site.ca.journal_of("issued").len();
    for (what, csr) in &cases {
        let answer = site.issue(FRONTEND, csr);
        let problem = if answer.head.header("content-type") == Some("application/problem+json") {
            answer.json()
        } else {
            Value::Null
        };
        if answer.status() != 400 || problem["reason"] != "csr_refused" {
            taken.push(format!("{what}: {} {}", answer.status(), answer.text()));
        }
    }
    assert_eq!(taken, Vec::<String>::new());
    assert_eq!(site.ca.journal_of("issued").len(), before);
    let refused = site.ca.journal_of("refused");
    assert_eq!(
        refused.iter().filter(|line| line["detail"]["reason"] == "csr_refused").count(),
        cases.len(),
        "{refused:#?}"
    );
    assert_eq!(site.issue(FRONTEND, &whole).status(), 200, "the good one is good");
}

#[test]
fn identities_are_given_to_the_host_that_was_granted_them_and_to_nobody_else() {
    let mut site = site();
    let key = site.key(P256);
    let unnamed = site.csr(&key, "/", "");
    let reason = |answer: Answer| (answer.status(), answer.json()["reason"].as_str().unwrap().to_owned());
    let not_granted = (403, "not_granted".to_owned());
    for id in [
        SERVICE,
        "spiffe://mesh.test/nobody",
        "spiffe://mesh.test/countersign/host/host-b",
        "spiffe://elsewhere.test/a",
    ] {
        assert_eq!(reason(site.issue(id, &unnamed)), not_granted, "{id}");
    }
    assert_ne!(site.issue("spiffe://mesh.test/countersign/ca", &unnamed).status(), 200);
    let body = json!({ "id": FRONTEND, "csr": unnamed });
    let stranger = HostilePeer::showing(None);
    assert_eq!(reason(site.post(&stranger, "/v1/issue", &body)), (403, "not_a_host".to_owned()));

    // A workload's certificate is not a host's.
    let places = Places::choose();
    site.ca.grant("host-a", OTHER, &[]);
    site.host.configure(&Plan::to("http://127.0.0.1:9").tables_of_a(&places));
    site.host.start();
    let workload = HostilePeer::from_pem(&site.host.stored_identity(FRONTEND));
    assert_eq!(reason(site.post(&workload, "/v1/issue", &body)), (403, "not_a_host".to_owned()));

    // What is no longer granted is no longer renewed.
    site.ca.ask(&["entry", "remove"], &["--host", "host-a", "--id", FRONTEND]).success();
    assert_eq!(reason(site.issue(FRONTEND, &unnamed)), not_granted);
    // And a host that is revoked gets nothing at all.
    site.ca.revoke("spiffe://mesh.test/countersign/host/host-a");
    let peer = site.host_peer();
    wait::until_so("a revoked host is not listened to", || match peer.client(site.ca.address()) {
        Ok(mut client) => {
            let headers = [("content-type", "application/json")];
            let body = json!({ "id": OTHER, "csr": unnamed }).to_string();
            client.ask("POST", "/v1/issue", &headers, body.as_bytes()).map_or(true, |answer| answer.status() != 200)
        }
        Err(_) => true,
    });
}

#[test]
fn messages_that_are_too_long_or_make_no_sense_are_refused_and_do_not_spend_a_token() {
    let site = site();
    let token = site.ca.token("host-b");
    let stranger = HostilePeer::showing(None);
    let peer = site.host_peer();
    let long = "x".repeat(100_000);
    for (what, path, body) in [
        ("a long body", "/v1/issue", json!({ "id": FRONTEND, "csr": long })),
        ("an unknown key", "/v1/issue", json!({ "id": FRONTEND, "csr": "", "more": 1 })),
        ("no ID", "/v1/issue", json!({ "id": "nonsense", "csr": "" })),
        ("a wrong type", "/v1/issue", json!([1, 2, 3])),
        ("a secret that is none", "/v1/enroll", json!({ "secret": "nonsense", "csr": "" })),
    ] {
        let answer = site.post(&peer, path, &body);
        assert_eq!((answer.status(), answer.json()["reason"].as_str()), (400, Some("malformed_request")), "{what}");
    }
    let answer = site.post(&stranger, "/v1/nothing", &json!({}));
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (404, Some("not_found")));
    let body = json!({ "secret": "A".repeat(43), "csr": site.csr(&site.key(P256), "/", "") });
    let answer = site.post(&stranger, "/v1/enroll", &body);
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (403, Some("token_unknown")), "{}", answer.text());
    TestAgent::new("host-b").try_enroll(&token).success();
}

#[test]
fn garbage_and_silence_at_the_ca_are_ended_within_a_bound() {
    let site = site();
    let begun = wait::now();
    let mut open = Vec::new();
    for bytes in
        [b"".as_slice(), b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"]
    {
        let mut stream = TcpStream::connect(site.ca.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.write_all(bytes).ok();
        open.push(stream);
    }
    assert_eq!(
        site.host_peer().client(site.ca.address()).unwrap().ask("GET", "/v1/bundle", &[], b"").unwrap().status(),
        200
    );
    for mut stream in open {
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(wait::now() - begun < Duration::from_secs(14));
}

#[test]
fn a_journal_that_was_tampered_with_is_noticed() {
    let mut site = site();
    assert!(site.ca.ask(&["journal", "verify"], &[]).success().contains("none changed"));
    site.ca.stop();
    let script = "import sqlite3, sys\nstore = sqlite3.connect(sys.argv[1])\ntables = [row[0] for row in store.execute(\"select name from sqlite_master where type = 'table'\")]\ntable = next(name for name in tables if 'journal' in name)\nfor trigger in [row[0] for row in store.execute(\"select name from sqlite_master where type = 'trigger'\")]:\n    store.execute(f'drop trigger \"{trigger}\"')\nchanged = store.execute(f\"update {table} set detail = replace(detail, 'host-a', 'host-x') where detail like '%host-a%'\").rowcount\nstore.commit()\nprint(changed)";
    let changed =
        run(Command::new(tools::python()).args(["-c", script]).arg(site.ca.dir().join("ca.sqlite"))).success();
    assert_ne!(changed.trim(), "0");
    let finished = site.ca.ask(&["journal", "verify"], &[]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
}
