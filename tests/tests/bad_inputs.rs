//! Requests that are made to be misread: keys that are patterns, and paths, methods, hosts and names with two readings. Each is refused
//! with its reason in the record, and nothing of it reaches the service.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::pki::Leaf;
use countersign_tests::raw_http2::{End, RawHttp2};
use countersign_tests::wait;
use serde_json::{Value, json};

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const ROLES: &str = r#"
[[role]]
name    = "frontend"
members = ["spiffe://mesh.test/web/*", "team:research"]
"#;

const RULES: &str = r#"
any_of = ["mtls", "api_key"]

[[inbound.allow]]
roles   = ["frontend"]
methods = ["GET"]
"#;

/// An agent whose one service may be read by workloads, and by a team with its keys. The keys lie in the agent's folder.
fn gateway() -> Gateway {
    let agent = TestAgent::new("gateway");
    let keys = agent.folder().join("api-keys.json");
    Gateway::start_as(agent, &format!("[api_keys]\nfile = {keys:?}\nquery = \"key\"\n{ROLES}"), RULES)
}

/// A key of the team that counts already.
fn team_key(gateway: &Gateway) -> String {
    let key = gateway.key(&["create", "--owner", "alice@mesh.test", "--team", "research"]);
    let header = format!("X-API-Key: {key}");
    wait::until_so("the agent takes up the key", || gateway.call("/", &["-H", &header]).status == 200);
    key
}

/// A text as it stands in a query, whatever is in it.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_key_that_is_a_glob_sql_or_a_regex_is_no_key_wherever_it_stands() {
    let gateway = gateway();
    let key = team_key(&gateway);
    let start = &key[..key.len() - 8];
    let of_the_same_length = format!("{}*", &key[..key.len() - 1]);
    let begins = [".*", "*", "%", "?", "\\w+", "' OR '1'='1"].map(|pattern| format!("{start}{pattern}"));
    let whole = [format!("^{key}$"), format!("{key}|x"), format!("'{key}' OR 1=1"), format!("{key} OR 1=1")];
    let alone = [
        "*",
        "**",
        "?",
        "%",
        "_",
        ".*",
        ".+",
        "^.*$",
        "[a-z0-9_]+",
        "(?i)csk_.*",
        "csk_*",
        "csk_%",
        "csk_.*",
        "csk_?",
        "' OR 1=1 --",
        "' OR '1'='1",
        "'; DROP TABLE keys; --",
        "{\"$ne\": null}",
        "$(id)",
        "../api-keys.json",
    ];
    let patterns = alone.map(ToOwned::to_owned).into_iter().chain(begins).chain(whole).chain([of_the_same_length]);
    for pattern in patterns {
        gateway.refused("/", &["-H", &format!("Authorization: Bearer {pattern}")], 401, "key_malformed");
        gateway.refused("/", &["-H", &format!("X-API-Key: {pattern}")], 401, "key_malformed");
        gateway.refused(&format!("/?key={}", escaped(&pattern)), &[], 401, "key_malformed");
    }
    gateway.refused("/?key=*", &[], 401, "key_malformed");
    gateway.refused("/?key=.*", &[], 401, "key_malformed");
    gateway.allowed("/", &["-H", &format!("Authorization: Bearer {key}")]);
    gateway.allowed("/", &["-H", &format!("X-API-Key: {key}")]);
    gateway.allowed(&format!("/?key={key}"), &[]);
}

#[test]
fn a_path_that_two_programs_read_differently_is_refused_with_its_reason() {
    let gateway = gateway();
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let paths = [
        // Percent-encoded.
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/v1%5cmodels",
        "/v1%252fmodels",
        "/v1/%6dodels",
        "/v1/models%00",
        "/v1/models%0d%0aX-Countersign-Id:%20admin",
        "/v1/models%",
        "/v1/models%zz",
        // Doubled.
        "//v1/models",
        "/v1//models",
        "/v1/models//",
        // Dotted.
        "/v1/../admin",
        "/v1/./models",
        "/..",
        "/.",
        "/v1/%2e%2e/admin",
        "/v1/.%2e/admin",
        "/v1/%252e%252e/admin",
        "/v1/..;/admin",
        // With parameters.
        "/v1/models;x=1",
        "/v1;x=1/models",
        "/v1/models;",
        "/v1/models%3bx=1",
    ];
    for path in paths {
        for version in ["--http1.1", "--http2"] {
            let arguments = [&workload[..], &[version]].concat();
            let line = gateway.refused(path, &arguments, 400, "request_ambiguous");
            assert_eq!((&line["path"], &line["outcome"]), (&json!(path), &json!("denied")), "{line}");
        }
    }
    gateway.allowed("/v1/models?path=/../%2f//;x", &workload);
}

#[test]
fn a_method_in_another_case_is_not_the_method_of_a_rule() {
    let gateway = gateway();
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let with = |more: &[&'static str]| [&workload[..], more].concat();
    for version in ["--http1.1", "--http2"] {
        for method in ["get", "Get", "gET", "GeT"] {
            let line = gateway.refused("/", &with(&[version, "-X", method]), 400, "request_ambiguous");
            assert_eq!(line["method"], method, "{line}");
        }
        gateway.refused("/", &with(&[version, "-X", "POST"]), 403, "method_not_allowed");
        gateway.refused("/", &with(&[version, "-X", "GETS"]), 403, "method_not_allowed");
        gateway.allowed("/", &with(&[version]));
    }
}

#[test]
fn a_target_that_names_another_host_than_the_host_header_is_refused() {
    let gateway = gateway();
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let asks = |target: &str, host: &str| {
        let (target, host) = (target.to_owned(), format!("Host: {host}"));
        let more = ["--http1.1".to_owned(), "--request-target".to_owned(), target, "-H".to_owned(), host];
        workload.iter().map(|text| (*text).to_owned()).chain(more).collect::<Vec<String>>()
    };
    let refused = |target, host| {
        let arguments = asks(target, host);
        gateway.refused("/", &arguments.iter().map(String::as_str).collect::<Vec<_>>(), 400, "request_ambiguous");
    };
    for (target, host) in [
        ("http://other.test/v1", "llm.mesh.test"),
        ("https://other.test/v1", "llm.mesh.test"),
        ("http://llm.mesh.test/v1", "other.test"),
        ("http://llm.mesh.test:1/v1", "llm.mesh.test"),
        ("http://llm.mesh.test./v1", "llm.mesh.test"),
        ("http://llm.mesh.test@other.test/v1", "llm.mesh.test"),
    ] {
        refused(target, host);
    }
    let agreeing = asks("http://LLM.mesh.test/v1", "llm.mesh.test");
    let line = gateway.allowed("/", &agreeing.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(line["path"], "/v1");
}

/// Somebody with the frontend's certificate.
fn frontend(gateway: &Gateway) -> HostilePeer {
    HostilePeer::showing(Some(&gateway.pki.issue(&Leaf::of(FRONTEND))))
}

#[test]
fn an_authority_of_http2_that_names_another_host_than_the_host_header_is_refused() {
    let gateway = gateway();
    let peer = frontend(&gateway).speaking(&[b"h2"]);
    let ask = |path, authority: Option<&str>, host| {
        let mut connection = RawHttp2::open(peer.connect(gateway.address()).unwrap()).unwrap();
        let mut head = vec![(":method", "GET"), (":scheme", "https"), (":path", path)];
        head.extend(authority.map(|authority| (":authority", authority)));
        head.push(("host", host));
        connection.headers(1, &head, true).unwrap();
        connection.end_of(1)
    };
    for (path, authority, host) in [
        ("/other", "llm.mesh.test", "other.test"),
        ("/reversed", "other.test", "llm.mesh.test"),
        ("/port", "llm.mesh.test", "llm.mesh.test:1"),
        ("/user", "llm.mesh.test", "user@llm.mesh.test"),
    ] {
        assert_eq!(ask(path, Some(authority), host), End::Answered(400), "{authority} {host}");
        let line = gateway.agent.wait_for_audit("the refusal", |line| line["path"] == path);
        assert_eq!(line["reason"], "request_ambiguous", "{line}");
    }
    assert_eq!(gateway.backend.seen().len(), 0, "{:?}", gateway.backend.seen());
    assert_eq!(ask("/same", Some("llm.mesh.test"), "LLM.mesh.test"), End::Answered(200));
    assert_eq!(ask("/alone", None, "llm.mesh.test"), End::Answered(200));
    assert_eq!(gateway.backend.seen().len(), 2);
}

/// An inbound has one certificate and one service, so that nothing is chosen by a name that the caller says: neither by that of its hello
/// (SNI) nor by Host. Whoever calls by a name that is not ours has found the same door.
#[test]
fn the_name_in_the_hello_changes_neither_certificate_nor_route_nor_decision() {
    let gateway = gateway();
    let asked = |name: Option<&str>, path: &str| {
        let peer = frontend(&gateway);
        let peer = name.into_iter().fold(peer, HostilePeer::asking_for);
        let stream = peer.connect(gateway.address()).unwrap();
        let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
        let mut client = countersign_tests::http::Client::over(stream);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: llm.mesh.test\r\n\r\n")).unwrap();
        let head = client.head().unwrap();
        let decision = head.header("x-countersign-decision").map(ToOwned::to_owned);
        let decision = decision.unwrap_or_else(|| {
            gateway.backend.seen().last().unwrap().value("x-countersign-decision").unwrap().to_owned()
        });
        let line = gateway
            .agent
            .wait_for_audit("its line", |line| line["decision"] == decision.as_str() && line["event"] == "request");
        let facts = ["route", "service", "outcome", "reason", "rule", "peer", "roles"].map(|name| line[name].clone());
        (head.status, shown, facts)
    };
    let (allowed, refused) = (asked(Some("llm.mesh.test"), "/v1"), asked(Some("llm.mesh.test"), "/v1/../admin"));
    assert_eq!((allowed.0, &allowed.2[0], &allowed.2[4]), (200, &json!("llm"), &json!("llm.allow[0]")));
    assert_eq!((refused.0, &refused.2[3]), (400, &json!("request_ambiguous")));
    for name in [None, Some("other.test"), Some("localhost"), Some("xn--bcher-kva.test")] {
        assert_eq!(asked(name, "/v1"), allowed, "{name:?}");
        assert_eq!(asked(name, "/v1/../admin"), refused, "{name:?}");
    }
    let seen = gateway.backend.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|seen| seen.value("host") == Some("llm.mesh.test")), "{seen:?}");
    // The other way round: the hello has our name, and Host another one. The service is told what the caller said.
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    for version in ["--http1.1", "--http2"] {
        let line = gateway.allowed("/v1", &[&workload[..], &[version, "-H", "Host: other.test"]].concat());
        assert_eq!((&line["route"], &line["rule"]), (&json!("llm"), &json!("llm.allow[0]")), "{line}");
        assert_eq!(gateway.backend.seen().last().unwrap().value("host"), Some("other.test"));
    }
}

#[test]
fn a_name_with_underscores_is_neither_credential_nor_identity_and_goes_no_further() {
    let gateway = gateway();
    let key = team_key(&gateway);
    for name in ["x_api_key", "X_API_KEY", "x-api_key", "X_Api-Key"] {
        gateway.refused("/", &["-H", &format!("{name}: {key}")], 401, "credential_missing");
    }
    let identity = ["x_countersign_id", "X_Countersign-Id", "x-countersign_subject", "x_countersign_roles"];
    for name in identity.into_iter().chain(["x_forwarded_client_cert"]) {
        gateway.refused("/", &["-H", &format!("{name}: {FRONTEND}")], 401, "credential_missing");
    }
    // Beside what counts, they are taken out: a service that reads other spellings as the same name would believe them.
    let workload = gateway.workload(FRONTEND);
    let forged: Vec<String> = identity
        .into_iter()
        .chain(["x_forwarded_client_cert", "x_api_key"])
        .map(|name| format!("{name}: spiffe://mesh.test/admin"))
        .collect();
    let forged: Vec<&str> = forged.iter().flat_map(|header| ["-H", header]).collect();
    let genuine = format!("X-API-Key: {key}");
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    for credential in [&workload[..], &["-H", &genuine]] {
        let line = gateway.allowed("/", &[credential, &forged].concat());
        assert_ne!(line["peer"], Value::from("spiffe://mesh.test/admin"));
        let seen = gateway.backend.seen();
        let seen = seen.last().unwrap();
        assert!(!seen.head.contains("admin") && !seen.head.contains(&key), "{}", seen.head);
        assert!(seen.names().iter().all(|name| !name.contains('_')), "{}", seen.head);
        assert!(seen.value("x-countersign-id").is_some(), "exactly one: {}", seen.head);
    }
}
