//! API keys: made, used, rotated and ended while the agent runs; and every way in which a bad one is refused.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::{Gateway, bearer};
use countersign_tests::process::run;
use countersign_tests::wait;
use serde_json::{Value, json};

const ROLES: &str = r#"
[[role]]
name    = "reader"
members = ["team:research"]

[[role]]
name    = "writer"

[[role]]
name    = "frontend"
members = ["spiffe://mesh.test/web/*"]
"#;

const RULES: &str = r#"
[[inbound.allow]]
roles   = ["reader"]
methods = ["GET"]

[[inbound.allow]]
roles   = ["writer"]
methods = ["POST"]

[[inbound.allow]]
roles   = ["frontend"]
paths   = ["/frontend"]
"#;

/// An agent whose one service takes what `demand` says. Keys lie in the agent's folder.
fn gateway(demand: &str) -> Gateway {
    let agent = TestAgent::new("gateway");
    let keys = agent.folder().join("api-keys.json");
    let before = format!("[api_keys]\nfile = {keys:?}\nquery = \"key\"\n{ROLES}");
    Gateway::start_as(agent, &before, &format!("{demand}\n{RULES}"))
}

/// A new key with its ID. It counts as soon as the agent has seen the file.
fn new_key(gateway: &Gateway, arguments: &[&str]) -> (String, String) {
    let mut all = vec!["create", "--owner", "alice@mesh.test", "--json"];
    all.extend(arguments);
    let made: Value = serde_json::from_str(&gateway.key(&all)).unwrap();
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

/// Waits until a key is answered with this status.
fn wait_for(gateway: &Gateway, key: &str, status: u16) {
    wait::until_so("the agent takes up the changed keys", || gateway.call("/", &["-H", &bearer(key)]).status == status);
}

#[test]
fn a_key_made_while_the_agent_runs_opens_what_it_grants_and_no_more() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (id, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let line = gateway.allowed("/v1/models", &["-H", &bearer(&key)]);
    assert_eq!(line["subject"], format!("key:{id}"));
    assert_eq!(line["principal"], "service");
    assert_eq!(line["credential"], "api_key");
    assert_eq!(line["subject_roles"], json!(["reader"]));
    assert_eq!(line["rule"], "llm.allow[0]");
    assert_eq!(line["peer"], Value::Null);
    let seen = gateway.backend.seen();
    let seen = seen.last().unwrap();
    assert_eq!(seen.value("x-countersign-subject"), Some(format!("key:{id}").as_str()));
    assert_eq!(seen.value("x-countersign-roles"), Some("reader"));
    assert!(!seen.names().contains(&"authorization".to_owned()), "{:?}", seen.names());
    gateway.refused("/", &["-H", &bearer(&key), "-X", "POST"], 403, "method_not_allowed");
    assert!(!gateway.agent.audit_text().contains(&key));
    let (_, granted) = new_key(&gateway, &["--role", "writer"]);
    wait_for(&gateway, &granted, 403);
    gateway.allowed("/", &["-H", &bearer(&granted), "-X", "POST"]);
}

#[test]
fn a_key_may_stand_in_a_header_or_in_the_query_and_goes_no_further() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (_, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    gateway.allowed("/", &["-H", &format!("X-API-Key: {key}")]);
    let line = gateway.allowed(&format!("/v1?a=1&key={key}&b=%2F"), &[]);
    assert_eq!(line["path"], "/v1");
    let seen = gateway.backend.seen();
    assert!(seen.last().unwrap().line().starts_with("GET /v1?a=1&b=%2F "), "{}", seen.last().unwrap().line());
    for seen in &seen {
        assert!(!format!("{seen:?}").contains(&key), "{seen:?}");
    }
    assert!(!gateway.agent.audit_text().contains(&key));
}

#[test]
fn bad_keys_are_refused_by_name_and_reach_nobody() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (_, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let refused = |arguments: &[&str], status, reason| gateway.refused("/", arguments, status, reason);
    refused(&[], 401, "credential_missing");
    let mut other = key.clone().into_bytes();
    let last = other.len() - 1;
    other[last] = if other[last] == b'a' { b'b' } else { b'a' };
    let other = String::from_utf8(other).unwrap();
    for text in
        [&other, "csk_*", "csk_%", "csk_' OR '1'='1", "csk_.{49}", "*", "sk-other", &key[..20], &(key.clone() + "a")]
    {
        refused(&["-H", &bearer(text)], 401, "key_malformed");
    }
    // A key that was made and taken back is one that nobody has.
    let path = gateway.agent.folder().join("api-keys.json");
    let before = std::fs::read(&path).unwrap();
    let (_, unknown) = new_key(&gateway, &["--team", "research"]);
    std::fs::write(&path, before).unwrap();
    wait_for(&gateway, &unknown, 401);
    refused(&["-H", &bearer(&unknown)], 401, "key_unknown");
    let twice = bearer(&key);
    refused(&["-H", &twice, "-H", &twice], 400, "request_ambiguous");
    refused(&["-H", &twice, "-H", &format!("X-API-Key: {key}")], 400, "credential_ambiguous");
    refused(&["-H", &format!("X-API-Key: {key}"), "-H", "X-API-Key: a"], 400, "credential_ambiguous");
    refused(&["-H", &format!("Authorization: Basic {key}")], 401, "credential_not_accepted");
    refused(&["-H", &format!("X_API_Key: {key}")], 401, "credential_missing");
    assert_eq!(gateway.call("/", &[]).header("www-authenticate"), Some("Bearer realm=\"countersign\""));
    // Another spelling beside the right one does not reach a service that would read both as the same.
    gateway.allowed("/", &["-H", &twice, "-H", "X_API_Key: forged"]);
    assert!(!gateway.backend.seen().last().unwrap().names().contains(&"x_api_key".to_owned()));
}

#[test]
fn a_key_is_rotated_with_overlap_and_ends_when_it_is_said_to() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (id, first) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &first, 200);
    let second = gateway.key(&["rotate", &id, "--overlap", "1h"]);
    wait_for(&gateway, &second, 200);
    gateway.allowed("/", &["-H", &bearer(&first)]);
    gateway.key(&["disable", &id]);
    wait_for(&gateway, &second, 401);
    gateway.refused("/", &["-H", &bearer(&first)], 401, "key_disabled");
    gateway.key(&["enable", &id]);
    wait_for(&gateway, &second, 200);
    gateway.key(&["revoke", &id]);
    wait_for(&gateway, &second, 401);
    gateway.refused("/", &["-H", &bearer(&first)], 401, "key_revoked");
    let (_, brief) = new_key(&gateway, &["--team", "research", "--expires", "3s"]);
    wait_for(&gateway, &brief, 200);
    wait_for(&gateway, &brief, 401);
    gateway.refused("/", &["-H", &bearer(&brief)], 401, "key_expired");
}

#[test]
fn what_is_explained_of_a_decision_is_what_its_key_opens_now() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (id, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let line = gateway.allowed("/v1/models", &["-H", &bearer(&key)]);
    let explain = || gateway.agent.ask("explain", &[line["decision"].as_str().unwrap()]).success();
    let said = explain();
    assert!(said.contains("with the config as it is now:") && said.contains("decision: allowed"), "{said}");
    gateway.key(&["revoke", &id]);
    let said = explain();
    let (_, now) = said.split_once("with the config as it is now").unwrap();
    assert!(!now.contains("decision: allowed") && now.contains("revoked"), "{said}");
}

#[test]
fn a_stream_ends_with_the_key_that_opened_it_and_no_other_does() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let begin = |path: &str, key: &str| {
        let held = gateway.start_call(path, &["-H", &bearer(key)]);
        let begun = || gateway.backend.seen().iter().any(|seen| seen.line().contains(path));
        wait::until_so("the stream has begun", begun);
        held
    };
    let (_, other) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &other, 200);
    let mut goes_on = begin("/hold/other", &other);
    for how in ["revoke", "disable"] {
        let (id, key) = new_key(&gateway, &["--team", "research"]);
        wait_for(&gateway, &key, 200);
        let path = format!("/hold/{how}");
        let mut held = begin(&path, &key);
        gateway.key(&[how, &id]);
        held.wait_for_end(std::time::Duration::from_secs(10));
        let line = gateway.agent.wait_for_audit("the stream was cut", |line| line["path"] == path.as_str());
        assert_eq!((&line["outcome"], &line["reason"]), (&json!("cut"), &json!("withdrawn_credential")), "{line}");
        assert_eq!(line["subject"], format!("key:{id}"));
    }
    assert_eq!(goes_on.poll_end(), None);
}

#[test]
fn a_key_for_some_routes_and_methods_is_for_no_other() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (_, get) = new_key(&gateway, &["--team", "research", "--role", "writer", "--method", "GET", "--route", "llm"]);
    wait_for(&gateway, &get, 200);
    gateway.refused("/", &["-H", &bearer(&get), "-X", "POST"], 403, "key_not_for_this");
    let wrong = gateway.agent.run(&[
        "key",
        "create",
        "--config",
        gateway.agent.config_path().to_str().unwrap(),
        "--owner",
        "a",
        "--role",
        "wrter",
    ]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("there is no role \"wrter\""), "{wrong:?}");
}

#[test]
fn a_workload_with_a_key_acts_for_its_owner_and_not_for_itself() {
    let gateway = gateway("require = [\"mtls\", \"api_key\"]");
    let (id, key) = new_key(&gateway, &["--team", "research"]);
    let workload = gateway.workload("spiffe://mesh.test/web/frontend");
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let header = bearer(&key);
    let both = [&workload[..], &["-H", &header]].concat();
    wait::until_so("the agent takes up the key", || gateway.call("/", &both).status == 200);
    let line = gateway.allowed("/", &both);
    assert_eq!(line["principal"], "workload_on_behalf");
    assert_eq!(line["peer"], "spiffe://mesh.test/web/frontend");
    assert_eq!(line["subject"], format!("key:{id}"));
    let seen = gateway.backend.seen();
    let seen = seen.last().unwrap();
    assert_eq!(seen.value("x-countersign-id"), Some("spiffe://mesh.test/web/frontend"));
    assert_eq!(seen.value("x-countersign-subject"), Some(format!("key:{id}").as_str()));
    assert_eq!(seen.value("x-countersign-roles"), Some("reader"));
    // What the workload may do for itself it may not do for somebody else.
    gateway.refused("/frontend", &[&both[..], &["-X", "POST"]].concat(), 403, "method_not_allowed");
    gateway.refused("/", &workload, 401, "credential_missing");
    assert_eq!(gateway.call("/", &["-H", &header]).status, 0, "a certificate is required in the handshake");
}

#[test]
fn either_of_two_credentials_will_do_and_a_bad_one_will_not() {
    let gateway = gateway("any_of = [\"mtls\", \"api_key\"]");
    let (_, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let workload = gateway.workload("spiffe://mesh.test/web/frontend");
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let line = gateway.allowed("/frontend", &workload);
    assert_eq!(line["peer"], "spiffe://mesh.test/web/frontend");
    assert_eq!(line["subject"], Value::Null);
    gateway.refused("/frontend", &[&workload[..], &["-H", "X-API-Key: csk_bad"]].concat(), 401, "key_malformed");
    gateway.refused("/", &[], 401, "credential_missing");
}

#[test]
fn keys_that_nobody_uses_can_be_found() {
    let mut gateway = gateway("any_of = [\"api_key\"]");
    let (used, key) = new_key(&gateway, &["--team", "research"]);
    let (idle, _) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let last_used = |gateway: &Gateway, id: &str| {
        let listed: Vec<Value> = serde_json::from_str(&gateway.key(&["list", "--json"])).unwrap();
        listed.iter().find(|listed| listed["key"]["id"] == id).unwrap()["last_used"].clone()
    };
    wait::until_so("the use of a key is known", || last_used(&gateway, &used).is_number());
    assert_eq!(last_used(&gateway, &idle), Value::Null);
    gateway.agent.stop();
    assert!(last_used(&gateway, &used).is_number(), "what was known is stored when the agent stops");
    gateway.agent.start();
    assert!(last_used(&gateway, &used).is_number());
    assert!(gateway.key(&["list"]).contains(&format!("{idle} active owner=alice@mesh.test team=research")));
    assert!(!gateway.key(&["list", "--unused-for", "1h"]).contains(&used));
}

#[test]
fn a_file_of_keys_that_is_broken_leaves_the_last_good_keys_in_use() {
    let gateway = gateway("any_of = [\"api_key\"]");
    let (_, key) = new_key(&gateway, &["--team", "research"]);
    wait_for(&gateway, &key, 200);
    let path = gateway.agent.folder().join("api-keys.json");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"{").unwrap();
    let status =
        gateway.agent.wait_for_status("the broken file is noticed", |status| status["config_error"].is_string());
    assert!(status["config_error"].as_str().unwrap().contains("api-keys.json"), "{status}");
    gateway.allowed("/", &["-H", &bearer(&key)]);
    std::fs::write(&path, good).unwrap();
    gateway.agent.wait_for_status("the mended file is noticed", |status| status["config_error"].is_null());
    gateway.allowed("/", &["-H", &bearer(&key)]);
}

#[test]
fn metrics_tell_how_often_credentials_are_believed_and_how_long_that_takes() {
    let gateway = gateway("require = [\"api_key\"]");
    let (_, key) = new_key(&gateway, &["--team", "research"]);
    wait::until_so("the key counts", || gateway.call("/", &["-H", &bearer(&key)]).status == 200);
    let count = |credential: &str, outcome: &str| {
        let labels = [("route", "llm"), ("credential", credential), ("outcome", outcome)];
        gateway.agent.metric("countersign_authentications_total", &labels)
    };
    let before = (count("api_key", "success"), count("api_key", "failure"), count("none", "failure"));
    gateway.allowed("/", &["-H", &bearer(&key)]);
    // Believed, though a rule then says no.
    gateway.refused("/", &["-X", "POST", "-H", &bearer(&key)], 403, "method_not_allowed");
    gateway.refused("/", &["-H", "x-api-key: csk_wrong"], 401, "key_malformed");
    gateway.refused("/", &[], 401, "credential_missing");
    let after = (count("api_key", "success"), count("api_key", "failure"), count("none", "failure"));
    assert_eq!(after, (before.0 + 2.0, before.1 + 1.0, before.2 + 1.0));
    assert_eq!(count("jwt", "success"), 0.0);
    let timed = gateway.agent.metric("countersign_authentication_seconds_count", &[("route", "llm")]);
    let counted: f64 =
        ["api_key", "none"].iter().map(|credential| count(credential, "success") + count(credential, "failure")).sum();
    assert_eq!(timed, counted, "each is timed");
}

#[test]
fn explain_asks_the_file_of_keys_for_whom_and_what_a_key_is() {
    let gateway = gateway("require = [\"api_key\"]");
    let (id, _) = new_key(&gateway, &["--team", "research", "--route", "llm", "--method", "POST"]);
    let subject = format!("key:{id}");
    let explain = |method: &str| {
        gateway.agent.ask("explain", &["--inbound", "llm", "--subject", &subject, "--method", method]).success()
    };
    let unknown = format!("key:{}", id.chars().rev().collect::<String>());
    let said = gateway.agent.ask("explain", &["--inbound", "llm", "--subject", &unknown, "--method", "POST"]).success();
    assert!(said.contains("decision: denied, no API key has this secret"), "{said}");
    let said = explain("GET");
    assert!(said.contains("reader: member team:research") && said.contains("rule llm.allow[0]: allows it"), "{said}");
    assert!(said.contains(&format!("decision: denied, the API key {id} is not for the method GET")), "{said}");
    gateway.key(&["revoke", &id]);
    let said = explain("POST");
    assert!(said.contains("revoked") && !said.contains("decision: allowed"), "{said}");
}

#[test]
fn explain_demands_of_those_it_is_asked_about_what_the_inbound_demands() {
    let gateway = gateway("require = [\"mtls\", \"api_key\"]");
    let explain = |who: &[&str]| gateway.agent.ask("explain", &[&["--inbound", "llm"], who].concat()).success();
    let (frontend, key) =
        (["--peer", "spiffe://mesh.test/web/frontend"], ["--subject", "key:any", "--fact", "grant:reader"]);
    let said = explain(&[&frontend[..], &["--path", "/frontend"]].concat());
    assert!(said.contains("decision: denied, it shows no api_key"), "{said}");
    let said = explain(&key);
    assert!(said.contains("decision: denied, it shows no certificate"), "{said}");
    let said = explain(&[&frontend[..], &["--subject", "basic:alice"]].concat());
    assert!(said.contains("decision: denied") && said.contains("no credential that is accepted here"), "{said}");
    let said = explain(&[&frontend[..], &key].concat());
    assert!(!said.contains("it shows no"), "{said}");

    let of_keys_alone = self::gateway("require = [\"api_key\"]");
    let said = of_keys_alone.agent.ask("explain", &["--inbound", "llm", "--peer", frontend[1]]).success();
    assert!(said.contains("decision: denied, it shows no api_key"), "{said}");
    assert!(!said.contains("frontend: member"), "a certificate that nobody asks for gives no role: {said}");

    let role = "[[role]]\nname = \"frontend\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n";
    let of_workloads =
        Gateway::start_as(TestAgent::new("gateway"), role, "[[inbound.allow]]\nroles = [\"frontend\"]\n");
    let asked = [&["--inbound", "llm", "--path", "/frontend"], &frontend[..], &["--subject", "basic:alice"]].concat();
    let said = of_workloads.agent.ask("explain", &asked).success();
    assert!(said.contains("decision: allowed by llm.allow[0]"), "what nobody looks at decides nothing: {said}");
}

#[test]
fn a_config_that_shares_the_control_socket_of_another_edits_no_keys_of_that() {
    let gateway = gateway("require = [\"api_key\"]");
    let (id, _) = new_key(&gateway, &["--team", "research"]);
    let own = gateway.agent.config_path();
    let staged = gateway.agent.folder().join("staged.toml");
    let text = std::fs::read_to_string(&own).unwrap();
    std::fs::write(&staged, text.replace("api-keys.json", "other-keys.json")).unwrap();
    for command in ["list", "revoke", "disable"] {
        let id: &[&str] = if command == "list" { &[] } else { &[&id] };
        let asked = run(gateway.agent.command(&["key", command, "--config", staged.to_str().unwrap()]).args(id));
        assert_eq!(asked.code, Some(1), "{asked:?}");
        let told = [own.to_str().unwrap(), staged.to_str().unwrap(), "which keys are meant?"];
        assert!(told.iter().all(|told| asked.stderr.contains(told)), "{}", asked.stderr);
    }
    assert!(gateway.key(&["list"]).contains(&format!("{id} active")));
    // Another config that names the same keys means these.
    std::fs::write(&staged, text).unwrap();
    run(gateway.agent.command(&["key", "disable", "--config", staged.to_str().unwrap()]).arg(&id)).success();
    assert!(gateway.key(&["list"]).contains(&format!("{id} disabled")));
    // Another way to the same file is the same config.
    let link = gateway.agent.folder().join("link.toml");
    std::os::unix::fs::symlink(&own, &link).unwrap();
    run(gateway.agent.command(&["key", "revoke", "--config", link.to_str().unwrap()]).arg(&id)).success();
    assert!(gateway.key(&["list"]).contains(&format!("{id} revoked")));
}
