//! The main job: two hosts, one CA, one program let in and one refused, and every refusal explains itself.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::agent::TestAgent;
use countersign_tests::http;
use countersign_tests::mesh::{FRONTEND, Mesh, OTHER, Plan, SERVICE};
use countersign_tests::part::Part;
use serde_json::Value;

const RULE: &str = r#"methods = ["GET", "POST"]
paths   = ["/echo-headers", "/v1/models/*"]"#;

#[test]
fn two_enrolled_hosts_let_one_program_in_and_refuse_another() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::enrolled(&Plan { rule: RULE.to_owned(), ..Plan::to(service.url("http")) });
    one_is_let_in(&mesh);
    let decision = one_is_refused(&mesh);
    the_refusal_is_explained(&mesh.host_b, &decision);
}

#[test]
fn certificates_in_files_do_as_well_as_a_ca() {
    let service = Part::serve("plain_server", &[]);
    let mesh = Mesh::of_files(&Plan { rule: RULE.to_owned(), ..Plan::to(service.url("http")) });
    one_is_let_in(&mesh);
    let decision = one_is_refused(&mesh);
    the_refusal_is_explained(&mesh.host_b, &decision);
}

fn one_is_let_in(mesh: &Mesh) {
    let answer = http::get(mesh.frontend, "/echo-headers").unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let seen = answer.json();
    assert_eq!(header(&seen, "x-countersign-id"), FRONTEND);
    assert_eq!(header(&seen, "x-countersign-roles"), "inference_client");
    let certificate = header(&seen, "x-forwarded-client-cert");
    assert!(certificate.starts_with(&format!("By={SERVICE};Hash=")), "{certificate}");
    assert!(certificate.ends_with(&format!(";URI={FRONTEND}")), "{certificate}");

    let line = mesh.host_b.wait_for_audit("what was let in", |line| line["event"] == "request");
    assert_eq!(line["direction"], "inbound");
    assert_eq!(line["peer"], FRONTEND);
    assert_eq!(line["outcome"], "allowed");
    assert_eq!(line["rule"], "llm.allow[0]");
    assert_eq!(line["roles"], serde_json::json!(["inference_client"]));
    assert_eq!(line["status"], 200);
    assert_eq!(line["decision"], header(&seen, "x-countersign-decision"));
    assert!(line["serial"].is_string(), "{line}");
    let line = mesh.host_a.wait_for_audit("what went out", |line| line["event"] == "request");
    assert_eq!(line["direction"], "outbound");
    assert_eq!(line["route"], "llm");
    assert_eq!(line["status"], 200);
}

/// Returns the decision's ID.
fn one_is_refused(mesh: &Mesh) -> String {
    let answer = http::get(mesh.other, "/echo-headers").unwrap();
    assert_eq!(answer.status(), 403, "{answer:?}");
    assert_eq!(answer.head.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["status"], 403);
    let decision = problem["decision_id"].as_str().unwrap().to_owned();
    for secret in ["inference_client", "llm.allow", "mesh.test", "/v1/models"] {
        assert!(!answer.text().contains(secret), "the refusal tells of the policy: {}", answer.text());
    }
    let line = mesh.host_b.wait_for_audit("the refusal", |line| line["decision"] == decision.as_str());
    assert_eq!(line["peer"], OTHER);
    assert_eq!(line["outcome"], "denied");
    assert_eq!(line["reason"], "no_role");
    assert_eq!(line["status"], 403);
    mesh.host_a.wait_for_audit("the refusal as host-a saw it", |line| {
        line["route"] == "llm-as-other" && line["event"] == "request" && line["status"] == 403
    });
    decision
}

fn the_refusal_is_explained(host_b: &TestAgent, decision: &str) {
    let text = host_b.ask("explain", &[decision]).success();
    for part in [decision, OTHER, "llm.allow[0]: needs role inference_client", "denied, the caller holds no role"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }

    let explain = |peer, method, path| {
        let question = ["--inbound", "llm", "--peer", peer, "--method", method, "--path", path];
        host_b.ask("explain", &question).success()
    };
    let text = explain(OTHER, "POST", "/v1/models/a");
    assert!(text.contains("rule llm.allow[0]: needs role inference_client"), "{text}");
    let text = explain(FRONTEND, "DELETE", "/v1/models/a");
    assert!(text.contains("rule llm.allow[0]: role fits, method must be GET or POST"), "{text}");
    let text = explain(FRONTEND, "POST", "/v1/files");
    assert!(text.contains("path must be /echo-headers or /v1/models/*"), "{text}");
    let text = explain(FRONTEND, "POST", "/v1/models/a");
    assert!(text.contains("inference_client: member spiffe://mesh.test/web/*"), "{text}");
    assert!(text.contains("decision: allowed by llm.allow[0]"), "{text}");
}

#[test]
fn a_decision_that_was_never_made_is_not_explained() {
    let mesh = Mesh::of_files(&Plan::to("http://127.0.0.1:9"));
    let finished = mesh.host_b.ask("explain", &["0000000000000000-0000000000"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("not among the recent ones"), "{finished:?}");
    let finished = mesh.host_b.ask("explain", &["--inbound", "lm", "--peer", OTHER]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("there is no inbound \"lm\"; there are: llm"), "{finished:?}");
}

/// The only value of a header that the plain server saw.
fn header(seen: &Value, name: &str) -> String {
    let fields = seen["headers"].as_array().unwrap().iter();
    let values: Vec<&str> = fields
        .filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name))
        .map(|field| field[1].as_str().unwrap())
        .collect();
    assert_eq!(values.len(), 1, "{name} in {seen}");
    values[0].to_owned()
}
