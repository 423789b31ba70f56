//! Tokens that somebody else gives out for a service: fetched ahead of their end, or in exchange for the caller's own.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::gateway::{Gateway, Reply};
use countersign_tests::hostile::HostilePeer;
use countersign_tests::mesh::certificate;
use countersign_tests::part::Part;
use countersign_tests::pki::{CertificateFiles, Leaf, TestPki, write_by_rename};
use countersign_tests::raw_http2::RawHttp2;
use countersign_tests::wait;
use serde_json::Value;

/// How the agent proves itself at the endpoint.
const AGENT: &str = "spiffe://mesh.test/agent";
const BY_SECRET: &str = "client_secret = \"s3cret:& more\"";
const BY_CERTIFICATE: &str = "identity = \"spiffe://mesh.test/agent\"";

const ROLE: &str = "[[role]]\nname = \"caller\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n";
const RULES: &str = "[[inbound.allow]]\nroles = [\"caller\"]\n";

/// A token endpoint, and an agent that asks it.
struct Site {
    gateway: Gateway,
    endpoint: Part,
    mode: PathBuf,
    pki: TestPki,
    bundle: PathBuf,
}

impl Site {
    /// Nothing runs yet but the endpoint.
    fn prepare(before: &str) -> Self {
        let agent = TestAgent::new("gateway");
        let folder = agent.folder().to_owned();
        let (pki, mode, bundle) = (TestPki::new("web"), folder.join("run/mode"), folder.join("web.pem"));
        pki.write_bundle(&bundle);
        std::fs::write(&mode, "ok\n").unwrap();
        let server = pki.issue_files(&folder.join("run"), "endpoint", &Leaf::of_dns("localhost"));
        let own = certificate(&pki, &folder.join("run"), AGENT, &Leaf::of(AGENT));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let arguments = [
            ["--certificate", &text(&server.chain)],
            ["--key", &text(&server.key)],
            ["--clients", &text(&bundle)],
            ["--mode", &text(&mode)],
        ];
        let endpoint = Part::serve("token_endpoint", &arguments.concat());
        let gateway = Gateway::prepare(agent, EchoBackend::holding(), &(own + before));
        Self { gateway, endpoint, mode, pki, bundle }
    }

    fn start(keys: &str) -> Self {
        let mut site = Self::prepare(ROLE);
        site.gateway.agent.configure(&site.tables(keys));
        site.gateway.agent.start();
        site
    }

    fn tables(&self, keys: &str) -> String {
        self.gateway.tables(&format!("{RULES}{}{keys}\n", self.token("client_credentials", "endpoint", "/token")))
    }

    /// `[inbound.token]` but for how the agent proves itself.
    fn token(&self, grant: &str, key: &str, path: &str) -> String {
        let bundle = self.bundle.display();
        let port = self.endpoint.tcp().port();
        format!(
            "[inbound.token]\ngrant = \"{grant}\"\n{key} = \"https://localhost:{port}{path}\"\nbundle = \"{bundle}\"\nprivate_addresses = [\"localhost\"]\nclient_id = \"agent one\"\n"
        )
    }

    fn answers(&self, mode: &str) {
        std::fs::write(&self.mode, format!("{mode}\n")).unwrap();
    }

    /// A caller with the role calls.
    fn call(&self, arguments: &[&str]) -> Reply {
        let certificate = self.gateway.workload("spiffe://mesh.test/web/frontend");
        let whole: Vec<&str> = certificate.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        self.gateway.call("/", &whole)
    }

    /// What the service was given last.
    fn given(&self) -> Option<String> {
        self.gateway.backend.seen().last()?.value("authorization").map(ToOwned::to_owned)
    }

    fn questions(&self) -> Vec<Value> {
        self.endpoint.said().into_iter().filter(|line| line["event"] == "question").collect()
    }

    #[track_caller]
    fn is_told_nowhere(&mut self, secret: &str) {
        let agent = &mut self.gateway.agent;
        let said = agent.process().stderr().concat() + &agent.audit_text() + &agent.ask("status", &["--json"]).stdout;
        assert!(!said.contains(secret), "{secret:?} is told: {said}");
        assert!(!agent.health("/metrics").text().contains(secret));
    }
}

fn field<'question>(question: &'question Value, name: &str) -> Vec<&'question str> {
    let fields = question["fields"].as_array().unwrap();
    fields.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

#[test]
fn a_service_is_given_a_token_that_the_agent_gets_by_its_secret() {
    let keys =
        format!("{BY_SECRET}\nscope = \"read write\"\naudience = \"llm\"\nresource = [\"https://a\", \"https://b\"]");
    let mut site = Site::start(&keys);
    for _ in 0..3 {
        assert_eq!(site.call(&["-H", "Authorization: Bearer own"]).status, 200);
        assert_eq!(site.given().as_deref(), Some("Bearer own-1"));
    }
    let questions = site.questions();
    assert_eq!(questions.len(), 1, "one token for all: {questions:?}");
    assert_eq!(questions[0]["client"], "agent one");
    for (name, values) in [
        ("grant_type", &["client_credentials"][..]),
        ("scope", &["read write"]),
        ("audience", &["llm"]),
        ("resource", &["https://a", "https://b"]),
        ("client_id", &[]),
        ("client_secret", &[]),
    ] {
        assert_eq!(field(&questions[0], name), values, "{name}");
    }
    site.is_told_nowhere("own-1");
    site.is_told_nowhere("s3cret");
}

#[test]
fn a_service_is_given_a_token_that_the_agent_gets_by_its_certificate_and_by_its_renewed_one() {
    let mut site = Site::prepare(ROLE);
    let by_issuer = site.token("client_credentials", "issuer", "");
    let tables = site.gateway.tables(&format!("{RULES}{by_issuer}{BY_CERTIFICATE}\n"));
    site.gateway.agent.configure(&tables);
    site.answers("expires 4");
    site.gateway.agent.start();
    assert_eq!(site.call(&[]).status, 200);
    let first = site.questions().remove(0);
    assert_eq!((&first["client"], &first["path"]), (&AGENT.into(), &"/mtls/token".into()), "{first}");
    assert_eq!(field(&first, "client_id"), ["agent one"]);
    let files = CertificateFiles::named(&site.gateway.agent.folder().join("run"), "agent");
    let renewed = site.pki.issue(&Leaf::of(AGENT));
    renewed.write(&files);
    wait::until_so("the renewed certificate is shown", || {
        let serial = site.questions().last().unwrap()["serial"].as_str().unwrap().to_lowercase();
        serial.trim_start_matches('0') == renewed.serial.trim_start_matches('0')
    });
    assert_eq!(site.call(&[]).status, 200);
    assert!(site.questions().iter().all(|question| question["client"] == AGENT));
}

#[test]
fn a_token_is_fetched_ahead_of_its_end_and_none_is_used_after_it() {
    let mut site = Site::prepare(ROLE);
    site.answers("expires 4");
    site.gateway.agent.configure(&site.tables(BY_SECRET));
    site.gateway.agent.start();
    wait::until_so("three tokens were used, one after the other, and no request was refused", || {
        let reply = site.call(&[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        site.given().as_deref() == Some("Bearer own-4")
    });
    let used: Vec<_> =
        site.gateway.backend.seen().iter().map(|seen| seen.value("authorization").unwrap().to_owned()).collect();
    assert!(used.is_sorted() && used.first().unwrap() != used.last().unwrap(), "{used:?}");
    // The endpoint is down, the token ends, and nothing is forwarded without one.
    site.answers("error 503 temporarily_unavailable");
    let reply = wait::until("the last token has ended", || Some(site.call(&[])).filter(|reply| reply.status != 200));
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    assert_eq!(site.gateway.line(&reply)["reason"], "backend_credential");
    let status = site.gateway.agent.wait_for_status("it is not ready", |status| status["ready"] == false);
    let error = status["sources"][0]["error"].as_str().unwrap();
    assert!(error.contains("503 Service Unavailable temporarily_unavailable"), "{error}");
    let before = site.questions().len();
    site.answers("ok");
    site.gateway.agent.wait_for_status("it is ready again", |status| status["ready"] == true);
    assert_eq!(site.call(&[]).status, 200);
    assert!(site.questions().len() <= before + 2, "{:?}", site.questions());
}

#[test]
fn what_is_no_token_is_not_given_and_a_redirect_is_not_followed() {
    let mut site = Site::prepare(ROLE);
    site.answers("redirect");
    site.gateway.agent.configure(&site.tables(BY_SECRET));
    site.gateway.agent.launch();
    for (mode, told) in [
        ("redirect", "307 Temporary Redirect"),
        ("text {\"access_token\":\"hunter2\",\"token_type\":\"DPoP\"}", "the token is of type \"DPoP\""),
        ("text {\"access_token\":\"hunter2\\u000d\\u000ax: y\",\"token_type\":\"Bearer\"}", "access_token"),
        ("text <html>hunter2", "no JSON"),
    ] {
        site.answers(mode);
        let status = site.gateway.agent.wait_for_status(told, |status| {
            status["sources"][0]["error"].as_str().is_some_and(|error| error.contains(told))
        });
        assert_eq!(status["ready"], false);
        assert_eq!(site.call(&[]).status, 503);
    }
    assert!(site.questions().iter().all(|question| question["path"] == "/token"), "a redirect was followed");
    assert_eq!(site.gateway.backend.seen().len(), 0);
    site.is_told_nowhere("hunter");
    site.answers("ok");
    site.gateway.agent.wait_for_status("it is ready", |status| status["ready"] == true);
    assert_eq!(site.call(&[]).status, 200);
}

#[test]
fn a_new_secret_that_the_endpoint_does_not_take_is_a_refused_config() {
    let mut site = Site::start(BY_SECRET);
    let tables = site.tables("client_secret = \"hunter2\"");
    let refused = site.gateway.agent.reload_refused(&tables);
    assert!(refused.contains("token of inbound llm gives no credential"), "{refused}");
    assert!(refused.contains("401 Unauthorized invalid_client"), "{refused}");
    assert_eq!((site.call(&[]).status, site.given().as_deref()), (200, Some("Bearer own-1")));
    // An endpoint that other addresses answer for is not believed.
    let elsewhere = site.tables(BY_SECRET).replace("[\"localhost\"]", "[]");
    let refused = site.gateway.agent.reload_refused(&elsewhere);
    assert!(refused.contains("no exception allows it"), "{refused}");
    let tables = site.tables(&format!("{BY_SECRET}\nscope = \"other\""));
    site.gateway.agent.reload(&tables);
    assert_eq!((site.call(&[]).status, site.given().as_deref()), (200, Some("Bearer own-2")));
}

#[test]
fn a_token_that_the_service_refuses_is_fetched_again() {
    let mut site = Site::prepare(ROLE);
    site.gateway.backend = EchoBackend::answering(|seen, out| {
        let takes = seen.value("authorization") == Some("Bearer own-2");
        let status = if takes { "200 OK" } else { "401 Unauthorized" };
        write!(out, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
    });
    site.gateway.agent.configure(&site.tables(BY_SECRET));
    site.gateway.agent.start();
    wait::until_so("a new token was fetched", || site.call(&[]).status == 200);
    assert_eq!(site.questions().len(), 2, "not one for each refusal");
}

/// The secret is one that a command prints.
#[test]
fn the_secret_for_the_endpoint_may_come_from_a_command() {
    let mut site = Site::prepare(&format!(
        "[[secret_command]]\nname = \"vault\"\ncommand = [\"/bin/echo\", \"s3cret:& more\"]\n{ROLE}"
    ));
    let tables = site.tables("client_secret = \"${command:vault}\"");
    site.gateway.agent.configure(&tables);
    site.gateway.agent.start();
    assert_eq!(site.call(&[]).status, 200);
    assert_eq!(site.given().as_deref(), Some("Bearer own-1"));
}

/// The secret of an issuer of signed tokens, and how it signs one.
const SIGNED: &str = r#"
import base64, hashlib, hmac, json, sys, time
def part(value): return base64.urlsafe_b64encode(value).rstrip(b"=")
claims = {"iss": "https://signed.test", "aud": "llm", "sub": sys.argv[1], "exp": int(time.time()) + int(sys.argv[2])}
text = part(json.dumps({"alg": "HS256"}).encode()) + b"." + part(json.dumps(claims).encode())
print((text + b"." + part(hmac.digest(b"k" * 32, text, "sha256"))).decode())
"#;

fn signed_token(subject: &str, lifetime: u32) -> String {
    let mut command = std::process::Command::new(countersign_tests::tools::python());
    command.args(["-c", SIGNED, subject, &lifetime.to_string()]);
    countersign_tests::process::run(&command).success().trim().to_owned()
}

/// A site where callers show tokens, and the service is given others in exchange.
fn exchanging(any_of: &str) -> Site {
    let mut site = Site::prepare("");
    let folder = site.gateway.agent.folder().to_owned();
    let port = site.endpoint.tcp().port();
    let bundle = site.bundle.display();
    let key = r#"{"keys":[{"kty":"oct","alg":"HS256","k":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}]}"#;
    write_by_rename(&folder.join("jwks.json"), key);
    let before = format!(
        "[[issuer]]\nname = \"opaque\"\nissuer = \"https://localhost:{port}\"\naudiences = [\"llm\"]\nbundle = \"{bundle}\"\nprivate_addresses = [\"localhost\"]\n[issuer.introspection]\nendpoint = \"https://localhost:{port}/introspect\"\nclient_id = \"a\"\nclient_secret = \"b\"\nunsafe_any_audience = true\n[[issuer]]\nname = \"signed\"\nissuer = \"https://signed.test\"\naudiences = [\"llm\"]\nalgorithms = [\"HS256\"]\ntypes = \"any_jwt\"\njwks_file = {:?}\n[[role]]\nname = \"caller\"\nmembers = [\"user:opaque/alice\", \"user:opaque/bob\", \"user:opaque/refused\", \"user:signed/carol\"]\n",
        folder.join("jwks.json")
    );
    let token = site.token("token_exchange", "endpoint", "/token");
    let tables = site.gateway.tables(&format!("any_of = {any_of}\n{RULES}{token}{BY_SECRET}\naudience = \"llm\"\n"));
    site.gateway.agent.configure(&(before + &tables));
    site.gateway.agent.start();
    site
}

impl Site {
    fn call_with(&self, token: &str) -> Reply {
        self.gateway.call("/", &["-H", &format!("Authorization: Bearer {token}")])
    }

    #[track_caller]
    fn gives(&self, token: &str, expected: &str) {
        let reply = self.call_with(token);
        assert_eq!((reply.status, self.given().as_deref()), (200, Some(expected)), "{reply:?}");
    }
}

#[test]
fn a_service_is_given_a_token_in_exchange_for_the_callers_own() {
    let mut site = exchanging("[\"jwt\", \"opaque_token\"]");
    site.gives("opaque-alice", "Bearer for-alice-1");
    let question = site.questions().remove(0);
    assert_eq!(question["client"], "agent one");
    assert_eq!(field(&question, "grant_type"), ["urn:ietf:params:oauth:grant-type:token-exchange"]);
    assert_eq!(field(&question, "subject_token"), ["opaque-alice"]);
    assert_eq!(field(&question, "audience"), ["llm"]);
    // Each worker may ask once for each caller, and nobody is given what is another's.
    let before = site.questions().len();
    for _ in 0..10 {
        assert_eq!(site.call_with("opaque-alice").status, 200);
        assert!(site.given().unwrap().starts_with("Bearer for-alice-"));
        assert_eq!(site.call_with("opaque-bob").status, 200);
        assert!(site.given().unwrap().starts_with("Bearer for-bob-"));
    }
    assert!(site.questions().len() <= before + 3, "{:?}", site.questions());
    let signed = signed_token("carol", 600);
    assert_eq!(site.call_with(&signed).status, 200);
    assert!(site.given().unwrap().starts_with("Bearer for-carol-"));
    for seen in site.gateway.backend.seen() {
        assert!(!seen.head.contains("opaque-") && !seen.head.contains(&signed), "{}", seen.head);
    }
    for secret in ["for-alice", "opaque-alice", &signed, "s3cret"] {
        site.is_told_nowhere(secret);
    }
}

#[test]
fn many_requests_of_one_caller_are_one_question_on_each_worker() {
    let site = exchanging("[\"opaque_token\"]");
    let calls: Vec<_> =
        (0..16).map(|_| site.gateway.start_call("/", &["-H", "Authorization: Bearer opaque-alice"])).collect();
    for mut call in calls {
        call.wait_for_end(wait::SOON);
        assert!(call.stdout().first().is_some_and(|line| line.contains("200")), "{:?}", call.stdout());
    }
    assert!(site.questions().len() <= 2, "{:?}", site.questions());
}

#[test]
fn a_caller_that_takes_its_requests_back_has_the_endpoint_work_on_no_more() {
    let site = exchanging("[\"opaque_token\"]");
    site.answers("hang");
    let peer = HostilePeer::showing(None).speaking(&[b"h2"]);
    let mut stream = RawHttp2::open(peer.connect(site.gateway.address()).unwrap()).unwrap();
    let authorization = [("authorization", "Bearer opaque-alice")];
    stream.get(1, "/", &authorization).unwrap();
    wait::until_so("the endpoint is asked", || !site.questions().is_empty());
    stream.reset(1).unwrap();
    stream.get(3, "/", &authorization).unwrap();
    wait::stays_so(Duration::from_secs(1), "it is asked once", || site.questions().len() == 1);
}

#[test]
fn a_caller_whose_token_is_not_exchanged_is_refused_and_another_is_not() {
    let site = exchanging("[\"opaque_token\"]");
    for _ in 0..6 {
        site.gateway.refused("/", &["-H", "Authorization: Bearer opaque-refused"], 403, "backend_credential_refused");
    }
    assert!(site.questions().len() <= 2, "one question for each worker: {:?}", site.questions());
    assert_eq!(site.call_with("opaque-alice").status, 200);
    // Who is not let in is not asked about.
    let before = site.questions().len();
    site.gateway.refused("/", &["-H", "Authorization: Bearer opaque-mallory"], 403, "no_role");
    site.gateway.refused("/", &["-H", "Authorization: Bearer unknown"], 401, "token_inactive");
    assert_eq!(site.questions().len(), before);
}

#[test]
fn an_endpoint_that_fails_over_one_callers_token_goes_on_for_others() {
    let site = exchanging("[\"opaque_token\"]");
    for reply in ["error 400 invalid_token", "error 403 forbidden", "error 500 server_error", "end", "big"] {
        site.answers(&format!("for opaque-bob {reply}"));
        for _ in 0..4 {
            let line =
                site.gateway.refused("/", &["-H", "Authorization: Bearer opaque-bob"], 503, "backend_credential");
            assert_eq!(line["subject"], "user:opaque/bob", "{line}");
            assert_eq!(site.call_with("opaque-alice").status, 200, "{reply}: another caller is refused");
        }
    }
    site.answers("ok");
    wait::until_so("bob is let in again", || site.call_with("opaque-bob").status == 200);
}

#[test]
fn an_issuer_that_fails_over_one_token_is_asked_about_others() {
    let site = exchanging("[\"opaque_token\"]");
    for (number, how) in ["500", "429", "end"].into_iter().cycle().take(9).enumerate() {
        let strange = format!("Authorization: Bearer strange-{how}");
        site.gateway.refused("/", &["-H", &strange], 503, "issuer_unavailable");
        // Each worker has to ask about it: it has not seen this token before.
        let unknown = format!("Authorization: Bearer unknown-{number}");
        site.gateway.refused("/", &["-H", &unknown], 401, "token_inactive");
    }
}

#[test]
fn an_exchange_that_is_down_is_told_and_comes_back() {
    let mut site = exchanging("[\"opaque_token\"]");
    for (mode, told) in [
        ("error 500 server_error", "500 Internal Server Error server_error"),
        ("error 401 invalid_client", "401 Unauthorized invalid_client"),
        ("redirect", "307 Temporary Redirect"),
        ("text {\"access_token\":\"hunter2\",\"token_type\":\"Bearer\"}", "issued_token_type"),
    ] {
        site.answers(mode);
        wait::until_so(told, || {
            site.gateway.refused("/", &["-H", "Authorization: Bearer opaque-alice"], 503, "backend_credential");
            let status = site.gateway.agent.status();
            status["sources"][0]["error"].as_str().is_some_and(|error| error.contains(told))
        });
    }
    assert!(site.questions().iter().all(|question| question["path"] == "/token"), "a redirect was followed");
    site.is_told_nowhere("hunter");
    site.answers("ok");
    wait::until_so("it works again", || site.call_with("opaque-alice").status == 200);
    assert_eq!(site.gateway.agent.status()["sources"][0]["error"], Value::Null);
}

#[test]
fn an_exchanged_token_is_fetched_ahead_of_its_end_and_none_is_used_after_it() {
    let site = exchanging("[\"opaque_token\"]");
    site.answers("expires 5");
    let mut used = std::collections::BTreeSet::new();
    wait::until_so("four tokens were used, one after the other, and no request was refused", || {
        let reply = site.call_with("opaque-alice");
        assert_eq!(reply.status, 200, "{reply:?}");
        used.insert(site.given().unwrap());
        used.len() >= 4
    });
    // Bob has called each of the two workers; then the endpoint hangs.
    site.answers("expires 20");
    let asked =
        || site.questions().iter().filter(|question| field(question, "subject_token") == ["opaque-bob"]).count();
    wait::until_so("each worker has asked for bob", || site.call_with("opaque-bob").status == 200 && asked() == 2);
    site.answers("hang");
    // Those who call while it is asked for anew go on with the one before.
    wait::until_so("it is asked for anew, and nobody waits", || {
        assert_eq!(site.call_with("opaque-bob").status, 200);
        asked() > 2
    });
    wait::within(Duration::from_secs(60), "the last token has ended", || {
        Some(site.call_with("opaque-bob")).filter(|reply| reply.status == 503)
    });
}

#[test]
fn what_was_exchanged_ends_with_the_callers_own_token() {
    let site = exchanging("[\"jwt\"]");
    let token = signed_token("carol", 4);
    assert_eq!(site.call_with(&token).status, 200);
    // The issuer's clock may be 30 s behind, so that the token counts for so much longer.
    let reply = wait::within(Duration::from_secs(60), "the caller's token has ended", || {
        Some(site.call_with(&token)).filter(|reply| reply.status != 200)
    });
    assert_eq!((reply.status, &site.gateway.line(&reply)["reason"]), (401, &"token_expired".into()));
}

#[test]
fn a_web_socket_is_given_a_token_in_exchange_too() {
    let site = exchanging("[\"opaque_token\"]");
    let upgrade = [
        "-H",
        "Authorization: Bearer opaque-alice",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "--http1.1",
    ];
    assert_eq!(site.gateway.call("/", &upgrade).status, 200, "the service does not upgrade");
    assert_eq!(site.given().as_deref(), Some("Bearer for-alice-1"));
}

#[test]
fn a_token_that_was_given_out_for_one_service_is_not_sent_to_another() {
    let mut site = Site::start(BY_SECRET);
    assert_eq!((site.call(&[]).status, site.given().as_deref()), (200, Some("Bearer own-1")));
    let other = EchoBackend::start();
    let tables = site.tables(BY_SECRET).replace(&site.gateway.backend.url(), &other.url());
    site.gateway.agent.reload(&tables);
    assert_eq!(site.call(&[]).status, 200);
    assert_eq!(other.only().value("authorization"), Some("Bearer own-2"));
    let mut site = exchanging("[\"opaque_token\"]");
    site.gives("opaque-alice", "Bearer for-alice-1");
    let other = EchoBackend::start();
    let tables = site.gateway.agent.tables().replace(&site.gateway.backend.url(), &other.url());
    site.gateway.agent.reload(&tables);
    for _ in 0..8 {
        assert_eq!(site.call_with("opaque-alice").status, 200);
    }
    let used: Vec<_> = other.seen().iter().map(|seen| seen.value("authorization").unwrap().to_owned()).collect();
    assert!(!used.contains(&"Bearer for-alice-1".to_owned()), "{used:?}");
}
