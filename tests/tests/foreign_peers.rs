//! Peers that are not Countersign: nginx on either side, and openssl.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::http;
use countersign_tests::mesh::{FRONTEND, OTHER, Places, Plan, SERVICE, certificate};
use countersign_tests::part::{self, Part};
use countersign_tests::pki::{CertificateFiles, Leaf, TestPki};
use countersign_tests::process::{Finished, Process};
use countersign_tests::{tools, wait};
use rcgen::SanType;

/// Runs nginx with one of the shipped configs, its placeholders filled in.
struct Nginx {
    process: Process,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start(config: &str, listen: &str, replace: &[(&str, &str)]) -> Self {
        tools::python();
        let folder = tools::folder();
        let path = folder.path().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(tools::parts().join("foreign_peer").join(config)).unwrap();
        let all = [&[("@DIRECTORY@", path.as_str()), ("@LISTEN@", listen)], replace].concat();
        let text = all.iter().fold(text, |text, (word, value)| text.replace(word, value));
        assert!(!text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains('@')), "{text}");
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let search = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
        let mut command = Command::new("nginx");
        command.env("PATH", search).args(["-p", &path, "-c", &format!("{path}/nginx.conf")]);
        let mut process = Process::start("nginx", &command);
        wait::until_so("nginx listens", || {
            assert_eq!(process.poll_end(), None, "{:?}", process.stderr());
            std::net::TcpStream::connect(listen).is_ok()
        });
        Self { process, _folder: folder }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The service's certificate with the DNS name that nginx needs.
fn service_with_dns() -> Leaf {
    Leaf::of(SERVICE).and(SanType::DnsName("llm.mesh.test".try_into().unwrap()))
}

/// Everything in one folder: an agent, its service, and files for foreigners.
struct Site {
    agent: TestAgent,
    places: Places,
    pki: TestPki,
    bundle: String,
}

fn site(backend: &str) -> Site {
    let pki = TestPki::new("mesh");
    let mut agent = TestAgent::new("host-b");
    let places = Places::choose();
    let tables =
        certificate(&pki, agent.folder(), SERVICE, &service_with_dns()) + &Plan::to(backend).tables_of_b(&places);
    agent.configure(&tables);
    agent.start();
    let bundle = path(&agent.folder().join("bundle.pem")).to_owned();
    Site { agent, places, pki, bundle }
}

impl Site {
    fn issue(&self, name: &str, leaf: &Leaf) -> CertificateFiles {
        self.pki.issue_files(self.agent.folder(), name, leaf)
    }

    fn nginx(&self, name: &str, leaf: &Leaf) -> (Nginx, String) {
        let files = self.issue(name, leaf);
        let (listen, peer) = (tools::free_address().to_string(), self.places.inbound.to_string());
        let nginx = Nginx::start(
            "client.conf",
            &listen,
            &[
                ("@CERTIFICATE@", path(&files.chain)),
                ("@KEY@", path(&files.key)),
                ("@CA@", &self.bundle),
                ("@PEER@", &peer),
                ("@PEER_NAME@", "llm.mesh.test"),
            ],
        );
        (nginx, listen)
    }
}

#[test]
fn nginx_calls_an_agent_and_is_let_in_by_its_certificate() {
    let service = Part::serve("plain_server", &[]);
    let site = site(&service.url("http"));
    let (mut nginx, listen) = site.nginx("nginx", &Leaf::of(FRONTEND));
    let address: std::net::SocketAddr = listen.parse().unwrap();
    for _ in 0..3 {
        let answer = http::get(address, "/echo-headers").unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}\n{:?}", nginx.process.stderr());
        assert!(answer.text().contains(FRONTEND), "{}", answer.text());
    }
    let body = vec![7; 3_000_000];
    let answer = http::post(address, "/length", &body).unwrap();
    assert_eq!(answer.json()["length"], 3_000_000);
    assert_eq!(nginx.process.poll_end(), None);
}

#[test]
fn nginx_with_a_certificate_that_holds_no_role_is_refused() {
    let backend = EchoBackend::start();
    let site = site(&backend.url());
    let (_nginx, listen) = site.nginx("nginx", &Leaf::of(OTHER));
    let address: std::net::SocketAddr = listen.parse().unwrap();
    assert_eq!(http::get(address, "/a").unwrap().status(), 403);
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn web_sockets_pass_from_nginx_through_an_agent() {
    let service = Part::serve("websocket_echo_server", &[]);
    let site = site(&service.url("http"));
    let (_nginx, listen) = site.nginx("nginx", &Leaf::of(FRONTEND));
    let finished =
        part::call("websocket_caller", &["--url", &format!("ws://{listen}/"), "--messages", "4", "--size", "70000"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

/// An agent whose outbound calls nginx.
fn outbound_to_nginx(server: &Leaf, protocol: &str) -> (TestAgent, Nginx, Places, Part) {
    let service = Part::serve("plain_server", &[]);
    let pki = TestPki::new("mesh");
    let mut agent = TestAgent::new("host-a");
    let mut places = Places::choose();
    let mut tables = certificate(&pki, agent.folder(), FRONTEND, &Leaf::of(FRONTEND));
    tables += &certificate(&pki, agent.folder(), OTHER, &Leaf::of(OTHER));
    let files = pki.issue_files(agent.folder(), "nginx", server);
    let bundle = agent.folder().join("bundle.pem");
    let (http1, http2) = (tools::free_address(), tools::free_address());
    let nginx = Nginx::start(
        "server.conf",
        &http1.to_string(),
        &[
            ("@LISTEN_HTTP2@", &http2.to_string()),
            ("@CERTIFICATE@", path(&files.chain)),
            ("@KEY@", path(&files.key)),
            ("@CA@", path(&bundle)),
            ("@BACKEND@", service.address()),
        ],
    );
    places.inbound = if protocol == "h2" { http2 } else { http1 };
    agent.configure(&(tables + &Plan::to("").tables_of_a(&places)));
    agent.start();
    (agent, nginx, places, service)
}

#[test]
fn an_agent_calls_nginx_over_either_protocol_and_is_known_by_its_certificate() {
    for (protocol, spoken) in [("http/1.1", "HTTP/1.1"), ("h2", "HTTP/2.0")] {
        let (_agent, _nginx, places, _service) = outbound_to_nginx(&Leaf::of(SERVICE), protocol);
        let seen = http::get(places.frontend, "/who-called").unwrap();
        assert_eq!(seen.status(), 200, "{protocol}: {seen:?}");
        let seen = seen.json();
        assert_eq!(seen["verify"], "SUCCESS", "{seen}");
        assert_eq!(seen["tls"], "TLSv1.3");
        assert_eq!(seen["http"], spoken);
        let answer = http::post(places.frontend, "/length", &vec![1; 1_000_000]).unwrap();
        assert_eq!(answer.json()["length"], 1_000_000, "{protocol}");
        assert_eq!(http::get(places.frontend, "/bytes/1000000").unwrap().body.len(), 1_000_000, "{protocol}");
    }
}

#[test]
fn an_agent_does_not_speak_to_a_server_that_is_not_who_was_called() {
    for server in [Leaf::of(OTHER), Leaf::of_dns("llm.mesh.test")] {
        let (agent, _nginx, places, service) = outbound_to_nginx(&server, "h2");
        let answer = http::get(places.frontend, "/echo-headers").unwrap();
        assert_eq!(answer.status(), 502, "{answer:?}");
        let line = agent.wait_for_audit("the wrong server", |line| line["event"] == "request");
        assert_eq!(line["reason"], "wrong_service", "{line}");
        assert!(line["detail"].as_str().unwrap().contains(if server.names.len() == 1 { "" } else { OTHER }), "{line}");
        assert_eq!(service.said().len(), 0);
    }
}

/// `openssl s_client` says a request and shows what comes back.
fn s_client(site: &Site, files: &CertificateFiles, request: &str, more: &[&str]) -> Finished {
    let address = site.places.inbound.to_string();
    // -cert takes the leaf alone.
    let above = files.chain.with_extension("above");
    let whole = std::fs::read_to_string(&files.chain).unwrap();
    std::fs::write(&above, whole.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap()).unwrap();
    let script = format!(
        "printf '{request}' | openssl s_client -connect {address} -cert {} -cert_chain {} -key {} -CAfile {} -verify_return_error -quiet {}",
        files.chain.display(),
        above.display(),
        files.key.display(),
        site.bundle,
        more.join(" ")
    );
    let mut command = Command::new("timeout");
    command.args(["20", "bash", "-c", &script]).stdin(Stdio::null());
    countersign_tests::process::run(&command)
}

const REQUEST: &str = r"GET /v1/models HTTP/1.1\r\nhost: service.test\r\nconnection: close\r\n\r\n";

#[test]
fn openssl_is_let_in_or_refused_as_any_peer() {
    let backend = EchoBackend::start();
    let site = site(&backend.url());
    let chain = site.issue("frontend", &Leaf::of(FRONTEND));
    let finished = s_client(&site, &chain, REQUEST, &["-alpn", "http/1.1"]);
    assert!(finished.stdout.starts_with("HTTP/1.1 200 OK"), "{finished:?}");
    let finished = s_client(&site, &chain, REQUEST, &[]);
    assert!(finished.stdout.starts_with("HTTP/1.1 200 OK"), "without ALPN HTTP/1.1 is spoken: {finished:?}");
    let finished = s_client(&site, &site.issue("other", &Leaf::of(OTHER)), REQUEST, &["-alpn", "http/1.1"]);
    assert!(finished.stdout.starts_with("HTTP/1.1 403 Forbidden"), "{finished:?}");
    assert_eq!(backend.seen().len(), 2);

    let expired = site.issue("expired", &Leaf::of(FRONTEND).valid(-7200, -60));
    let finished = s_client(&site, &expired, REQUEST, &["-alpn", "http/1.1"]);
    assert!(finished.stderr.contains("certificate expired"), "{finished:?}");
    let finished = s_client(&site, &chain, REQUEST, &["-alpn", "acme-tls/1"]);
    assert!(finished.stderr.contains("no application protocol"), "{finished:?}");
    assert_eq!(backend.seen().len(), 2);
}

#[test]
fn a_peer_without_post_quantum_key_exchange_is_taken_unless_it_is_required() {
    let backend = EchoBackend::start();
    let mut site = site(&backend.url());
    let files = site.issue("frontend", &Leaf::of(FRONTEND));
    let classic = ["-alpn", "http/1.1", "-groups", "X25519"];
    let finished = s_client(&site, &files, REQUEST, &classic);
    assert!(finished.stdout.starts_with("HTTP/1.1 200 OK"), "{finished:?}");
    site.agent.stop();
    let whole = std::fs::read_to_string(site.agent.config_path()).unwrap();
    std::fs::write(site.agent.config_path(), format!("require_post_quantum = true\n{whole}")).unwrap();
    site.agent.start();
    let finished = s_client(&site, &files, REQUEST, &classic);
    assert!(finished.stderr.contains("handshake failure"), "{finished:?}");
    assert_eq!(backend.seen().len(), 1);
}
