//! The catalogue of audit events, as far as callers and their credentials cause them; and what may be recorded of a request.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::os::unix::fs::PermissionsExt;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::part;
use countersign_tests::pki::write_by_rename;
use countersign_tests::tools;
use countersign_tests::wait;
use serde_json::Value;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const ROLES: &str = r#"
[[role]]
name    = "research"
members = ["team:research"]

[[role]]
name    = "frontend"
members = ["spiffe://mesh.test/web/*"]

[[limit]]
name     = "one-a-minute"
by       = "team"
requests = "1/1m"
roles    = ["research"]
"#;

const RULES: &str = r#"
any_of = ["mtls", "api_key", "basic"]

[[inbound.deny]]
name    = "soon-no-deletes"
mode    = "observe"
methods = ["DELETE"]

[[inbound.allow]]
roles = ["research", "frontend"]
"#;

fn gateway() -> Gateway {
    let agent = TestAgent::new("gateway");
    let (keys, passwords) = (agent.folder().join("api-keys.json"), agent.folder().join("passwords"));
    std::fs::write(&passwords, "").unwrap();
    std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = format!("[api_keys]\nfile = {keys:?}\n[passwords]\nfile = {passwords:?}\n{ROLES}");
    Gateway::start_as(agent, &before, RULES)
}

/// Waits for an event of this kind that fits.
fn event(gateway: &Gateway, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    gateway.agent.wait_for_audit(kind, |line| line["event"] == kind && fits(line))
}

#[test]
fn what_is_left_out_of_the_audit_is_counted_in_it_at_the_latest_when_the_agent_ends() {
    let mut gateway = gateway();
    let asked = 400;
    // One curl for many: they are over before the first allowance gives a line again, or little after.
    let url = format!("{}/[1-{asked}]", gateway.url());
    gateway.call("/0", &["--no-globoff", "--output", "/dev/null", &url]);
    let of = |event: &'static str, sum: &'static str| move |line: &Value| line["event"] == event || line["of"] == sum;
    let (requests, failures) = (of("request", "refusal"), of("authentication", "authentication"));
    let told = |fits: &dyn Fn(&Value) -> bool| gateway.agent.told(fits);
    wait::until_so("what no line counts is told after a while", || {
        (told(&requests), told(&failures)) == (asked + 1, asked + 1)
    });
    let written = gateway.agent.audit().iter().filter(|line| line["event"] == "request").count();
    assert!(written < 300, "{written} lines");
    gateway.call("/0", &["--no-globoff", "--output", "/dev/null", &url]);
    gateway.agent.stop();
    let told = |fits: &dyn Fn(&Value) -> bool| gateway.agent.told(fits);
    assert_eq!((told(&requests), told(&failures)), (2 * asked + 2, 2 * asked + 2));
}

#[test]
fn what_becomes_of_keys_and_callers_is_told_and_every_line_is_of_the_schema() {
    let gateway = gateway();
    let made: Value =
        serde_json::from_str(&gateway.key(&["create", "--owner", "alice", "--team", "research", "--json"])).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap().to_owned());
    let own = event(&gateway, "key_created", |line| line["key"] == id);
    assert_eq!(own["owner"], "alice");
    let header = format!("Authorization: Bearer {key}");
    gateway.allowed("/", &["-H", &header]);
    let told = event(&gateway, "authentication", |line| line["outcome"] == "success");
    assert_eq!(
        (told["subject"].as_str(), told["method"].as_str()),
        (Some(format!("key:{id}").as_str()), Some("api_key"))
    );

    let line = gateway.refused("/", &["-H", &header], 429, "limit_rate");
    assert_eq!(line["limit"], "one-a-minute");
    let told = event(&gateway, "limit_hit", |_| true);
    assert_eq!(told["limit"], "one-a-minute");

    gateway.refused("/", &["-H", "Authorization: Bearer csk_none"], 401, "key_malformed");
    let told = event(&gateway, "authentication", |line| line["outcome"] == "failure");
    assert_eq!(told["reason"], "key_malformed");

    wait::within(std::time::Duration::from_secs(30), "the one who guesses is locked out", || {
        (gateway.call("/", &["-u", "alice:wrong"]).status == 429).then_some(())
    });
    assert!(event(&gateway, "lockout", |_| true)["subject"].as_str().unwrap().starts_with("basic:alice at 127.0.0.1"));

    let frontend = gateway.workload(FRONTEND);
    let delete: Vec<&str> = frontend.iter().map(String::as_str).chain(["-X", "DELETE"]).collect();
    gateway.allowed("/", &delete);
    assert_eq!(event(&gateway, "policy_observed", |_| true)["outcome"], "denied");

    gateway.key(&["disable", id]);
    event(&gateway, "key_disabled", |line| line["key"] == id);
    gateway.key(&["enable", id]);
    event(&gateway, "key_enabled", |line| line["key"] == id);
    let second = gateway.key(&["rotate", id]);
    event(&gateway, "key_rotated", |line| line["key"] == id);
    gateway.key(&["revoke", id]);
    event(&gateway, "key_revoked", |line| line["key"] == id);

    let text = gateway.agent.audit_text();
    for secret in [&key, &second] {
        assert!(!text.contains(secret.as_str()), "a key stands in the audit log");
    }
    let lines = gateway.agent.folder().join("lines.json");
    std::fs::write(&lines, &text).unwrap();
    let schema = tools::parts().join("../../deploy/audit/schema-1.json");
    let finished = part::call("audit_validator", &["--schema", schema.to_str().unwrap(), lines.to_str().unwrap()]);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
}

#[test]
fn only_headers_and_parameters_that_are_listed_are_recorded() {
    let agent = TestAgent::new("gateway").with_audit_keys("headers = [\"user-agent\"]\nquery = [\"api-version\"]\n");
    let gateway = Gateway::start_as(
        agent,
        "[[role]]\nname = \"frontend\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n",
        "[[inbound.allow]]\nroles = [\"frontend\"]\n",
    );
    let frontend = gateway.workload(FRONTEND);
    let more = ["-A", "test/1", "-H", "X-Secret: s3cret"];
    let arguments: Vec<&str> = frontend.iter().map(String::as_str).chain(more).collect();
    let line = gateway.allowed("/?api-version=2026&token=s3cret", &arguments);
    assert_eq!(line["headers"], serde_json::json!(["user-agent: test/1"]));
    assert_eq!(line["query"], serde_json::json!(["api-version=2026"]));
    assert!(!gateway.agent.audit_text().contains("s3cret"));
}

#[test]
fn a_header_that_may_hold_keys_by_now_is_not_recorded() {
    let agent = TestAgent::new("gateway").with_audit_keys("headers = [\"accept\", \"x-team-key\"]\n");
    let gateway = Gateway::start_as(
        agent,
        "[[role]]\nname = \"frontend\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n",
        "[[inbound.allow]]\nroles = [\"frontend\"]\n",
    );
    let frontend = gateway.workload(FRONTEND);
    let more = ["-H", "X-Team-Key: blue"];
    let arguments: Vec<&str> = frontend.iter().map(String::as_str).chain(more).collect();
    let recorded = || gateway.allowed("/", &arguments)["headers"].clone();
    assert_eq!(recorded(), serde_json::json!(["accept: */*", "x-team-key: blue"]));
    // Both lists change at once; that of the audit is taken up with the next start.
    let path = gateway.agent.config_path();
    let keys = gateway.agent.folder().join("api-keys.json");
    let text = std::fs::read_to_string(&path).unwrap().replace(", \"x-team-key\"", "");
    write_by_rename(&path, &format!("{text}\n[api_keys]\nfile = {keys:?}\nheaders = [\"x-team-key\"]\n"));
    let mut in_a_row = 0;
    wait::until_so("neither worker records it", || {
        in_a_row = if recorded() == serde_json::json!(["accept: */*"]) { in_a_row + 1 } else { 0 };
        in_a_row == 6
    });
}
