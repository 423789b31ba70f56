//! Limits that one agent counts: what is too much is refused, whoever is not meant is not touched, and everybody is told.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::gateway::{Gateway, Reply};
use countersign_tests::http::{self, Client};
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::part::{self, Part};
use countersign_tests::wait;
use serde_json::{Value, json};

const RULES: &str = "any_of = [\"api_key\"]\n[[inbound.allow]]\nroles = [\"everybody\"]\n";

const QUOTA: &str = "/.well-known/countersign/quota";

/// An agent whose one service takes API keys, under these limits.
fn gateway(limits: &str) -> Gateway {
    let agent = TestAgent::new("gateway");
    let keys = agent.folder().join("api-keys.json");
    let before = format!("[api_keys]\nfile = {keys:?}\n[[role]]\nname = \"everybody\"\n[[role]]\nname = \"batch\"\n");
    Gateway::start_as(agent, &before, &(RULES.to_owned() + limits))
}

/// A new key that counts already, as curl shows it. Asking for the quota uses nothing.
fn new_key(gateway: &Gateway, arguments: &[&str]) -> String {
    let mut all = vec!["create", "--owner", "alice@mesh.test", "--role", "everybody"];
    all.extend(arguments);
    let key = format!("Authorization: Bearer {}", gateway.key(&all));
    wait::until_so("the agent takes up the key", || {
        matches!(gateway.call(QUOTA, &["-H", &key]).status, 200 | 403 | 404)
    });
    key
}

fn call(gateway: &Gateway, key: &str) -> Reply {
    gateway.call("/v1/models", &["-H", key])
}

/// The statuses of so many calls, one after the other.
fn statuses(gateway: &Gateway, key: &str, count: usize) -> Vec<u16> {
    (0..count).map(|_| call(gateway, key).status).collect()
}

#[test]
fn a_team_gets_its_burst_and_then_one_by_one() {
    let gateway = gateway("[[limit]]\nname = \"team-hourly\"\nby = \"team\"\nrequests = \"20/1h\"\nburst = 5\n");
    let (one, other) = (new_key(&gateway, &["--team", "research"]), new_key(&gateway, &["--team", "research"]));
    for remaining in (0..5).rev() {
        let reply = call(&gateway, if remaining % 2 == 0 { &one } else { &other });
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("ratelimit-policy"), Some("\"team-hourly\";q=20;w=3600"));
        let told = reply.header("ratelimit").unwrap();
        let rest = told.strip_prefix(&format!("\"team-hourly\";r={remaining};t=")).unwrap_or_else(|| panic!("{told}"));
        let (reset, whole): (u64, u64) = (rest.parse().unwrap(), (5 - remaining) * 180);
        assert!((whole - 60..=whole).contains(&reset), "{told}");
        assert_eq!(reply.header("retry-after"), None);
    }
    let line = gateway.refused("/v1/models", &["-H", &one], 429, "limit_rate");
    assert_eq!(
        (&line["limit"], &line["outcome"], &line["rule"]),
        (&json!("team-hourly"), &json!("denied"), &json!("llm.allow[0]"))
    );
    let refused = call(&gateway, &other);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((120..=180).contains(&wait), "{refused:?}");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"team-hourly\";r=0;t="), "{refused:?}");
    assert!(refused.body.contains("\"status\":429") && !refused.body.contains("team-hourly"), "{refused:?}");
    let grpc = gateway.call("/a.B/C", &["-H", &one, "-H", "content-type: application/grpc", "-X", "POST"]);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("8")), "{grpc:?}");
    // Another team is not touched, and whoever has no team is not counted.
    let sales = new_key(&gateway, &["--team", "sales"]);
    assert_eq!(statuses(&gateway, &sales, 6), [200, 200, 200, 200, 200, 429]);
    let alone = new_key(&gateway, &[]);
    assert_eq!(statuses(&gateway, &alone, 7), [200; 7]);
    assert_eq!(call(&gateway, &alone).header("ratelimit-policy"), None);
    let hits = [("limit", "team-hourly"), ("mode", "enforce")];
    assert_eq!(gateway.agent.metric("countersign_limit_hits_total", &hits), 4.0);
}

#[test]
fn what_was_used_flows_back() {
    let gateway = gateway("[[limit]]\nname = \"keys\"\nby = \"key\"\nrequests = \"1/3s\"\n");
    let key = new_key(&gateway, &[]);
    let begun = wait::now();
    assert_eq!(call(&gateway, &key).status, 200);
    wait::until_so("one request flows back", || call(&gateway, &key).status == 200);
    assert!(begun.elapsed().as_secs_f64() >= 2.9, "{:?}", begun.elapsed());
}

#[test]
fn a_denied_request_uses_nothing() {
    let gateway = gateway("methods = [\"GET\"]\n[[limit]]\nname = \"keys\"\nby = \"key\"\nrequests = \"2/1h\"\n");
    let key = new_key(&gateway, &[]);
    for _ in 0..5 {
        gateway.refused("/", &["-H", &key, "-X", "POST"], 403, "method_not_allowed");
    }
    assert_eq!(statuses(&gateway, &key, 3), [200, 200, 429]);
}

#[test]
fn everybody_behind_one_address_shares_what_is_counted_by_it_and_nobody_what_is_counted_by_key() {
    let by = |by: &str| format!("[[limit]]\nname = \"some\"\nby = \"{by}\"\nrequests = \"3/1h\"\n");
    let shared = gateway(&by("address"));
    let (one, other) = (new_key(&shared, &[]), new_key(&shared, &[]));
    assert_eq!(statuses(&shared, &one, 2), [200, 200]);
    assert_eq!(statuses(&shared, &other, 2), [200, 429]);
    let apart = gateway(&by("key"));
    let (greedy, victim) = (new_key(&apart, &[]), new_key(&apart, &[]));
    assert_eq!(statuses(&apart, &greedy, 5), [200, 200, 200, 429, 429]);
    assert_eq!(statuses(&apart, &victim, 3), [200, 200, 200]);
}

#[test]
fn a_limit_holds_for_those_that_it_names_only() {
    let gateway = gateway(
        r#"
[[limit]]
name     = "research"
by       = "all"
members  = ["team:research"]
requests = "1/1h"

[[limit]]
name     = "batch"
by       = "key"
roles    = ["batch"]
inbounds = ["llm"]
requests = "2/1h"

[[limit]]
name       = "trial"
by         = "key"
only_named = true
requests   = "3/1h"
"#,
    );
    let key = |arguments: &[&str]| new_key(&gateway, arguments);
    assert_eq!(statuses(&gateway, &key(&["--team", "research"]), 2), [200, 429]);
    assert_eq!(statuses(&gateway, &key(&["--team", "research"]), 1), [429]);
    assert_eq!(statuses(&gateway, &key(&["--role", "batch"]), 3), [200, 200, 429]);
    assert_eq!(statuses(&gateway, &key(&["--limit", "trial"]), 4), [200, 200, 200, 429]);
    assert_eq!(statuses(&gateway, &key(&["--team", "sales"]), 5), [200; 5]);
    assert!(gateway.key(&["list"]).contains(" limits=trial "), "{}", gateway.key(&["list"]));
    // Of two limits the one that takes longer to have something left is told, and one that refuses leaves the other as it is.
    let both = key(&["--role", "batch", "--limit", "trial"]);
    assert_eq!(statuses(&gateway, &both, 4), [200, 200, 429, 429]);
    let told: Value = serde_json::from_str(&gateway.call(QUOTA, &["-H", &both]).body).unwrap();
    let remaining = |name: &str| {
        told["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == name).unwrap()["remaining"].clone()
    };
    assert_eq!((remaining("batch"), remaining("trial")), (json!(0), json!(1)));
}

#[test]
fn a_key_names_limits_that_there_are_and_keeps_them_from_vanishing() {
    let limit = "[[limit]]\nname = \"trial\"\nby = \"key\"\nonly_named = true\nrequests = \"3/1h\"\n";
    let ordinary = "[[limit]]\nname = \"all\"\nby = \"all\"\nrequests = \"300/1h\"\n";
    let mut gateway = gateway(&format!("{limit}{ordinary}"));
    let config = gateway.agent.config_path();
    for wrong in ["trail", "all"] {
        let create = ["key", "create", "--config", config.to_str().unwrap(), "--owner", "a", "--limit", wrong];
        let refused = gateway.agent.run(&create);
        let expected = format!("there is no limit with only_named {wrong:?}; there are: trial");
        assert!(refused.code == Some(1) && refused.stderr.contains(&expected), "{refused:?}");
    }
    let key = new_key(&gateway, &["--limit", "trial"]);
    let tables = gateway.tables(&format!("{RULES}{ordinary}"));
    let error = gateway.agent.reload_refused(&tables);
    assert!(error.contains("names the limit \"trial\", and there is no such limit"), "{error}");
    assert_eq!(statuses(&gateway, &key, 4), [200, 200, 200, 429]);
}

#[test]
fn a_limit_that_only_watches_refuses_nobody_and_tells_the_operator() {
    let limit = "[[limit]]\nname = \"later\"\nby = \"key\"\nrequests = \"2/1h\"\nconcurrent = 1\nmode = \"observe\"\n";
    let gateway = gateway(limit);
    let key = new_key(&gateway, &[]);
    for hit in [Value::Null, Value::Null, json!("later"), json!("later")] {
        let line = gateway.allowed("/", &["-H", &key]);
        assert_eq!((&line["limit"], &line["outcome"]), (&hit, &json!("allowed")));
    }
    assert_eq!(call(&gateway, &key).header("ratelimit-policy"), None);
    assert_eq!(gateway.agent.metric("countersign_limit_hits_total", &[("limit", "later"), ("mode", "observe")]), 3.0);
}

#[test]
fn a_new_config_keeps_what_was_used() {
    let limit = "[[limit]]\nname = \"keys\"\nby = \"key\"\nrequests = \"3/1h\"\n";
    let mut gateway = gateway(limit);
    let key = new_key(&gateway, &[]);
    assert_eq!(statuses(&gateway, &key, 2), [200, 200]);
    let more = "[[limit]]\nname = \"all\"\nby = \"all\"\nrequests = \"300/1h\"\n";
    let tables = gateway.tables(&format!("{RULES}{more}{limit}"));
    gateway.agent.reload(&tables);
    assert_eq!(statuses(&gateway, &key, 2), [200, 429]);
    let tables = gateway.tables(&format!("{RULES}{}", limit.replace("3/1h", "4/1h")));
    gateway.agent.reload(&tables);
    assert_eq!(statuses(&gateway, &key, 5), [200, 200, 200, 200, 429]);
    let tables = gateway.tables(RULES);
    gateway.agent.reload(&tables);
    assert_eq!(statuses(&gateway, &key, 3), [200, 200, 200]);
}

#[test]
fn a_caller_can_ask_for_its_own_quota() {
    let limit = "[[limit]]\nname = \"keys\"\nby = \"key\"\nrequests = \"20/1h\"\nburst = 4\nconcurrent = 2\n";
    let gateway = gateway(&format!("methods = [\"GET\"]\n{limit}"));
    let key = new_key(&gateway, &[]);
    assert_eq!(call(&gateway, &key).status, 200);
    for _ in 0..10 {
        let reply = gateway.call(QUOTA, &["-H", &key]);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let told: Value = serde_json::from_str(&reply.body).unwrap();
        let told = &told["limits"][0];
        assert!(told["reset_seconds"].as_u64().is_some_and(|reset| (120..=180).contains(&reset)), "{told}");
        assert_eq!((&told["limit"], &told["by"], &told["requests"]), (&json!("keys"), &json!("key"), &json!(20)));
        assert_eq!((&told["window_seconds"], &told["burst"], &told["remaining"]), (&json!(3600), &json!(4), &json!(3)));
        assert_eq!((&told["concurrent"], &told["under_way"]), (&json!(2), &json!(0)));
        let policy = "\"keys\";q=20;w=3600, \"keys:concurrent\";q=2;qu=\"concurrent-requests\"";
        assert_eq!(reply.header("ratelimit-policy"), Some(policy));
    }
    gateway.agent.wait_for_audit("the question is recorded", |line| {
        line["path"] == QUOTA && line["outcome"] == "allowed" && line["status"] == 200
    });
    gateway.refused(QUOTA, &[], 401, "credential_missing");
    gateway.refused(QUOTA, &["-H", &key, "-X", "POST"], 403, "method_not_allowed");
    assert!(gateway.backend.seen().iter().all(|seen| !seen.line().contains(QUOTA)), "the service was asked");
    let without = self::gateway("");
    let key = new_key(&without, &[]);
    without.allowed(QUOTA, &["-H", &key]);
}

/// A mesh whose callers may have so many requests under way.
fn narrow_mesh(backend: &str, outbound: &str) -> Mesh {
    let limit = "[[limit]]\nname = \"two\"\nby = \"identity\"\nconcurrent = 2\n";
    Mesh::of_files(&Plan { host_b: limit.to_owned(), outbound: outbound.to_owned(), ..Plan::to(backend) })
}

#[test]
fn a_request_is_under_way_until_its_last_byte() {
    let service = Part::serve("plain_server", &[]);
    let mesh = narrow_mesh(&service.url("http"), "");
    let open = || {
        let mut client = Client::connect(mesh.frontend).unwrap();
        client.send_request("GET", "/events?count=1200&interval=0.05", &[], b"").unwrap();
        let head = client.head().unwrap();
        (client, head)
    };
    let (first, second) = (open(), open());
    assert_eq!((first.1.status, second.1.status), (200, 200));
    assert_eq!(second.1.header("ratelimit"), Some("\"two:concurrent\";r=0"));
    let refused = http::get(mesh.frontend, "/events?count=1&interval=0").unwrap();
    assert_eq!((refused.status(), refused.head.header("retry-after")), (429, Some("1")));
    mesh.host_b.wait_for_audit("the refusal", |line| line["reason"] == "limit_concurrent" && line["limit"] == "two");
    // A caller that goes away gives its place back, and so does an answer that ends.
    drop(first);
    wait::until_so("a place is free", || http::get(mesh.frontend, "/length").unwrap().status() != 429);
    for _ in 0..20 {
        let whole = http::get(mesh.frontend, "/events?count=2&interval=0").unwrap();
        assert_eq!(whole.status(), 200, "a whole answer leaves its place before the next request comes");
    }
    drop(second);
}

#[test]
fn a_web_socket_is_under_way_until_its_end() {
    let service = Part::serve("websocket_echo_server", &[]);
    let mesh = narrow_mesh(&service.url("http"), "");
    let url = format!("ws://{}/", mesh.frontend);
    let hold = || {
        let mut caller = part::start_call("websocket_caller", &["--url", &url, "--hold", "60"]);
        caller.wait_for_line(wait::SOON, "it holds", |line| line.contains("holding"));
        caller
    };
    let (first, second) = (hold(), hold());
    let refused = part::call("websocket_caller", &["--url", &url]);
    assert_eq!((refused.code, &refused.result()["status"]), (Some(1), &json!(429)), "{refused:?}");
    drop(first);
    wait::until_so("a place is free", || part::call("websocket_caller", &["--url", &url]).code == Some(0));
    drop(second);
}

#[test]
fn a_whole_connection_is_under_way_until_its_end() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = service.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in service.incoming().flatten() {
            std::thread::spawn(move || {
                stream.write_all(b"x").unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    let mesh = narrow_mesh(&format!("tcp://{address}"), "protocol = \"tcp\"");
    let open = || {
        let mut stream = TcpStream::connect(mesh.frontend).unwrap();
        (stream.read(&mut [0]).unwrap_or(0) == 1).then_some(stream)
    };
    let (first, second) = (open().unwrap(), open().unwrap());
    assert!(open().is_none(), "a third connection was carried");
    mesh.host_b.wait_for_audit("the refusal", |line| {
        line["event"] == "connection" && line["reason"] == "limit_concurrent" && line["limit"] == "two"
    });
    drop(first);
    wait::until_so("a place is free", || open().is_some());
    drop(second);
}

#[test]
fn what_a_service_says_of_its_own_limits_is_replaced_where_ours_hold() {
    let backend = EchoBackend::answering(|_, out| {
        let own = "ratelimit: \"own\";r=1\r\nRateLimit-Policy: \"own\";q=1\r\nratelimit-policy: \"two\";q=1";
        out.write_all(format!("HTTP/1.1 200 OK\r\n{own}\r\ncontent-length: 0\r\n\r\n").as_bytes())
    });
    let limit = "[[limit]]\nname = \"ours\"\nby = \"identity\"\nrequests = \"9/1h\"\n";
    for (limit, policies) in [(limit, vec!["\"ours\";q=9;w=3600"]), ("", vec!["\"own\";q=1", "\"two\";q=1"])] {
        let mesh = Mesh::of_files(&Plan { host_b: limit.to_owned(), ..Plan::to(backend.url()) });
        let answer = http::get(mesh.frontend, "/").unwrap();
        let told = answer.head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ratelimit-policy"));
        assert_eq!(told.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), policies);
    }
}
