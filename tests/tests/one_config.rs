//! The config of `examples/one-config`: services by certificate, a team by key, employees by token, and each refusal explained.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::path::Path;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::issuer::{Provider, SERVICE_CLIENT};
use countersign_tests::pki::TestPki;
use countersign_tests::{tools, wait};

/// The provider of the tests; its tokens have a claim of several forms, of which the example declares none.
fn issuer(provider: &Provider) -> String {
    provider.table("").replace("claims = { tenant = \"text\" }\n", "")
}

/// The example with the parts that this machine has others of: the issuer, the trust domain, and an hour that is always.
fn example(provider: &Provider, keys: &Path) -> (String, String) {
    let path = tools::parts().join("../../examples/one-config/agent.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().count() < 50, "it is to be one of under fifty lines");
    let (_, from_conditions) = text.split_once("[conditions]").unwrap();
    let (before, inbound) = from_conditions.split_once("[[inbound]]").unwrap();
    let (conditions, from_issuer) = before.split_once("[[issuer]]").unwrap();
    let (_, roles) = from_issuer.split_once("[[role]]").unwrap();
    let (_, rules) = inbound.split_once("\nany_of").unwrap();
    let adapt = |text: String| {
        text.replace("prod.example", "mesh.test")
            .replace("company/employees", "corp/machines")
            .replace("context.hour >= 8 && context.hour < 18", "context.hour >= 0")
            .replace("![\"saturday\", \"sunday\"].contains(context.weekday)", "context.minute >= 0")
    };
    let before = format!("[api_keys]\nfile = {keys:?}\n[conditions]{conditions}[[role]]{roles}{}", issuer(provider));
    (adapt(before), adapt(format!("any_of{rules}")))
}

#[test]
fn services_a_team_and_employees_are_let_in_and_each_refusal_is_explained() {
    let (pki, agent) = (TestPki::new("gateway"), TestAgent::new("gateway"));
    let provider = Provider::start(&pki, agent.folder());
    let (before, keys) = example(&provider, &agent.folder().join("api-keys.json"));
    let gateway = Gateway::start_of(pki, agent, &before, &keys);

    let frontend = gateway.workload("spiffe://mesh.test/web/frontend");
    let frontend: Vec<&str> = frontend.iter().map(String::as_str).collect();
    gateway.allowed("/v1/models", &frontend);
    let line = gateway.refused("/api/pull", &frontend, 403, "path_not_allowed");
    let decision = line["decision"].as_str().unwrap();
    let explained = gateway.agent.ask("explain", &[decision]).success();
    assert!(explained.contains("rule llm.allow[0]: role and method fit, path must be /v1/**"), "{explained}");

    let key = gateway.key(&["create", "--owner", "alice", "--team", "research"]);
    let header = format!("Authorization: Bearer {key}");
    let key = ["-H", header.as_str()];
    wait::until_so("the key counts", || gateway.call("/other", &key).status == 403);
    for _ in 0..20 {
        gateway.allowed("/v1/models", &key);
    }
    assert_eq!(gateway.refused("/v1/models", &key, 429, "limit_rate")["limit"], "twenty-a-minute");

    let question = ["--inbound", "llm", "--subject", "key:any", "--fact", "team:research", "--path", "/v1/models"];
    let explained = gateway.agent.ask("explain", &question).success();
    assert!(explained.contains("limits that count it: twenty-a-minute"), "{explained}");

    // A workload is of no team, and what counts by team does not count it.
    let question = ["--inbound", "llm", "--peer", "spiffe://mesh.test/web/frontend", "--path", "/v1/models"];
    let explained = gateway.agent.ask("explain", &question).success();
    assert!(explained.contains("decision: allowed") && !explained.contains("twenty-a-minute"), "{explained}");

    let token = format!("Authorization: Bearer {}", provider.token(SERVICE_CLIENT));
    assert_eq!(gateway.allowed("/v1/models", &["-H", &token])["rule"], "working-hours");
    gateway.refused("/v1/models", &[], 401, "credential_missing");
}
