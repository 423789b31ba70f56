//! Who may do what: denials, networks, conditions, policy files, rules that are only observed; and the tools that explain, replay and
//! test them.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::gateway::Gateway;
use countersign_tests::load::Load;
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::{http, tools, wait};
use serde_json::Value;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";
const BATCH: &str = "spiffe://mesh.test/batch/nightly";

const ROLES: &str = r#"
[conditions]
zone    = "Europe/Berlin"
headers = ["x-tenant"]
query   = ["model"]

[[role]]
name    = "frontend"
members = ["spiffe://mesh.test/web/*"]

[[role]]
name    = "batch"
members = ["spiffe://mesh.test/batch/*"]
"#;

/// Calls as a workload.
fn as_workload<'arguments>(workload: &'arguments [String; 4], more: &[&'arguments str]) -> Vec<&'arguments str> {
    workload.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn a_denial_counts_before_what_is_allowed() {
    let gateway = Gateway::start(
        ROLES,
        r#"
[[inbound.deny]]
name    = "no-deletes"
methods = ["DELETE"]

[[inbound.deny]]
roles    = ["batch"]
networks = ["127.0.0.9/32"]

[[inbound.allow]]
roles = ["frontend", "batch"]
"#,
    );
    let (frontend, batch) = (gateway.workload(FRONTEND), gateway.workload(BATCH));
    gateway.allowed("/", &as_workload(&frontend, &[]));
    let line = gateway.refused("/", &as_workload(&frontend, &["-X", "DELETE"]), 403, "denied_by_rule");
    assert!(line["detail"].as_str().unwrap().contains("no-deletes"), "{line}");
    gateway.allowed("/", &as_workload(&batch, &[]));
    gateway.refused("/", &as_workload(&batch, &["--interface", "127.0.0.9"]), 403, "denied_by_rule");
    gateway.allowed("/", &as_workload(&frontend, &["--interface", "127.0.0.9"]));
}

#[test]
fn a_network_that_a_rule_names_must_be_the_caller_s() {
    let gateway = Gateway::start(
        ROLES,
        "[[inbound.allow]]\nroles = [\"frontend\"]\nnetworks = [\"127.0.0.9/32\", \"10.0.0.0/8\"]\n",
    );
    let frontend = gateway.workload(FRONTEND);
    gateway.allowed("/", &as_workload(&frontend, &["--interface", "127.0.0.9"]));
    gateway.refused("/", &as_workload(&frontend, &[]), 403, "network_not_allowed");
}

#[test]
fn conditions_look_at_request_and_service_and_an_error_in_one_is_a_denial_of_its_own() {
    let gateway = Gateway::start(
        ROLES,
        r#"
labels = { sensitivity = "restricted" }

[[inbound.allow]]
roles = ["frontend"]
paths = ["/tenant"]
when  = 'context.headers has x_tenant && context.headers.x_tenant == "blue" && resource.labels has sensitivity && resource.labels.sensitivity == "restricted"'

[[inbound.allow]]
roles = ["frontend"]
paths = ["/model"]
when  = '!(context.query has model && context.query.model like "*:70b")'

[[inbound.allow]]
roles = ["batch"]
when  = 'principal is Workload && principal.certificate_age_seconds + 9223372036854775807 > 0'
"#,
    );
    let (frontend, batch) = (gateway.workload(FRONTEND), gateway.workload(BATCH));
    gateway.allowed("/tenant", &as_workload(&frontend, &["-H", "X-Tenant: blue"]));
    let line = gateway.refused("/tenant", &as_workload(&frontend, &["-H", "X-Tenant: red"]), 403, "condition_not_met");
    assert!(line["detail"].as_str().unwrap().contains("x_tenant == \"blue\""), "{line}");
    gateway.refused("/tenant", &as_workload(&frontend, &[]), 403, "condition_not_met");
    let twice = as_workload(&frontend, &["-H", "X-Tenant: blue", "-H", "X-Tenant: red"]);
    gateway.refused("/tenant", &twice, 403, "condition_unclear");
    gateway.allowed("/model?model=small", &as_workload(&frontend, &[]));
    gateway.refused("/model?model=llama3:70b", &as_workload(&frontend, &[]), 403, "condition_not_met");
    gateway.refused("/model?mod%65l=llama3%3A70b", &as_workload(&frontend, &[]), 403, "condition_not_met");
    // PHP, ASP.NET and whoever takes ';' for a separator read these as the parameter that the condition looks at.
    for spelling in
        ["Model=", "+model=", "%20model=", "model[]=", "model%00=", "x=1;model=", "x;model=", "x=1%3Bmodel="]
    {
        let path = format!("/model?{spelling}llama3:70b");
        gateway.refused(&path, &as_workload(&frontend, &["--globoff"]), 403, "condition_unclear");
    }
    for other in ["models=a", "a=model", "a=b;c", "mode=l", "amodel=x"] {
        gateway.allowed(&format!("/model?{other}"), &as_workload(&frontend, &[]));
    }
    let line = gateway.refused("/", &as_workload(&batch, &[]), 403, "condition_unclear");
    assert!(line["detail"].as_str().unwrap().contains("overflow"), "{line}");
}

#[test]
fn a_policy_file_permits_and_forbids_and_one_that_is_broken_changes_nothing() {
    let agent = TestAgent::new("gateway");
    let path = agent.folder().join("llm.cedar");
    let permit = "@id(\"chat\")\npermit (principal in Role::\"frontend\", action == Action::\"request\", resource)\n";
    std::fs::write(&path, format!("{permit}when {{ context.path == \"/chat\" }};\n")).unwrap();
    let rule = "[[inbound.allow]]\nroles = [\"batch\"]\n";
    let gateway = Gateway::start_as(agent, ROLES, &format!("[inbound.policy]\nfile = {path:?}\n{rule}"));
    let (frontend, batch) = (gateway.workload(FRONTEND), gateway.workload(BATCH));
    assert_eq!(gateway.allowed("/chat", &as_workload(&frontend, &[]))["rule"], "chat");
    gateway.refused("/other", &as_workload(&frontend, &[]), 403, "role_not_allowed");
    assert_eq!(gateway.allowed("/other", &as_workload(&batch, &[]))["rule"], "llm.allow[0]");

    std::fs::write(&path, format!("{permit}when {{ context.pth == \"/chat\" }};\n")).unwrap();
    let status =
        gateway.agent.wait_for_status("the broken file is noticed", |status| status["config_error"].is_string());
    let error = status["config_error"].as_str().unwrap();
    for part in ["llm.cedar:3:", "pth", "did you mean"] {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
    gateway.allowed("/chat", &as_workload(&frontend, &[]));

    let forbid = "@id(\"nobody\")\nforbid (principal, action, resource);\n";
    std::fs::write(&path, format!("{permit};\n{forbid}")).unwrap();
    gateway.agent.wait_for_status("the mended file is noticed", |status| status["config_error"].is_null());
    let line = gateway.refused("/chat", &as_workload(&frontend, &[]), 403, "forbidden_by_policy");
    assert!(line["detail"].as_str().unwrap().contains("nobody"), "{line}");
    gateway.refused("/other", &as_workload(&batch, &[]), 403, "forbidden_by_policy");
}

#[test]
fn a_user_is_known_to_policies_by_the_name_of_the_issuer_and_the_subject() {
    let agent = TestAgent::new("gateway");
    let (keys, policies) = (agent.folder().join("api-keys.json"), agent.folder().join("llm.cedar"));
    let before =
        format!("[api_keys]\nfile = {keys:?}\n{ROLES}\n[[role]]\nname = \"research\"\nmembers = [\"team:research\"]\n");
    let permit = "permit (principal in Role::\"research\", action, resource)\nwhen { principal is User && principal.issuer == \"api_key\" };\n";
    std::fs::write(&policies, permit).unwrap();
    let rules = format!("any_of = [\"api_key\"]\n[inbound.policy]\nfile = {policies:?}\n");
    let gateway = Gateway::start_as(agent, &before, &rules);
    let new = || {
        let reply: Value = serde_json::from_str(&gateway.key(&[
            "create",
            "--owner",
            "alice@mesh.test",
            "--team",
            "research",
            "--json",
        ]))
        .unwrap();
        (reply["id"].as_str().unwrap().to_owned(), format!("Authorization: Bearer {}", reply["key"].as_str().unwrap()))
    };
    let ((_, one), (other_id, other)) = (new(), new());
    wait::until_so("the key counts", || gateway.call("/", &["-H", &other]).status == 200);
    let mut text =
        format!("{permit}@id(\"leaver\")\nforbid (principal == User::\"api_key#{other_id}\", action, resource);\n");
    std::fs::write(&policies, &text).unwrap();
    wait::until_so("the leaver is refused", || gateway.call("/", &["-H", &other]).status == 403);
    let line = gateway.refused("/", &["-H", &other], 403, "forbidden_by_policy");
    assert!(line["detail"].as_str().unwrap().contains("leaver"), "{line}");
    gateway.allowed("/", &["-H", &one]);
    // An issuer that there is not is a rule that would never hold.
    text = text.replace("api_key#", "https://login.example#");
    std::fs::write(&policies, &text).unwrap();
    let status = gateway.agent.wait_for_status("it is noticed", |status| status["config_error"].is_string());
    assert!(status["config_error"].as_str().unwrap().contains("https://login.example"), "{status}");
    gateway.refused("/", &["-H", &other], 403, "forbidden_by_policy");
}

#[test]
fn a_policy_file_that_gets_a_syntax_error_under_traffic_changes_no_decision() {
    let (folder, backend) = (tools::folder(), EchoBackend::start());
    let path = folder.path().join("llm.cedar");
    let permit =
        "@id(\"chat\")\npermit (principal in Role::\"inference_client\", action == Action::\"request\", resource)\n";
    let good = format!("{permit}when {{ context.path == \"/chat\" }};\n");
    std::fs::write(&path, &good).unwrap();
    let (rule, policy) = ("paths = [\"/plain\"]".to_owned(), format!("[inbound.policy]\nfile = {path:?}\n"));
    let mesh = Mesh::of_files(&Plan { rule, host_b: policy, ..Plan::to(backend.url()) });
    let generation = mesh.host_b.status()["generation"].clone();
    let load = Load::start(mesh.frontend, "/chat", 4);
    let goes_on = || {
        let before = load.answered();
        wait::until_so("traffic goes on", || load.answered() > before + 20);
        assert_eq!(http::get(mesh.frontend, "/other").unwrap().status(), 403);
    };
    for (broken, place) in [
        ("when { context.path == };\n", "llm.cedar:3:24: "),
        ("when context.path == \"/chat\" };\n", "llm.cedar:3:6: "),
        ("when { true }\n", "llm.cedar:3:14: "),
    ] {
        goes_on();
        std::fs::write(&path, format!("{permit}{broken}")).unwrap();
        let told = |status: &Value| status["config_error"].as_str().is_some_and(|error| error.contains(place));
        let status = mesh.host_b.wait_for_status(&format!("{place} is noticed"), told);
        let error = status["config_error"].as_str().unwrap();
        assert!(error.contains('^') && error.contains("hint: "), "{error}");
        assert_eq!(status["generation"], generation, "something was taken up");
        goes_on();
    }
    std::fs::write(&path, &good).unwrap();
    mesh.host_b.wait_for_status("the mended file is noticed", |status| status["config_error"].is_null());
    goes_on();
    let (_, failures) = load.finish();
    assert_eq!(failures, Vec::<String>::new());
    assert!(
        backend.seen().iter().all(|seen| seen.line() == "GET /chat HTTP/1.1"),
        "what was refused reached the service"
    );
}

#[test]
fn a_header_of_a_condition_that_stands_there_in_another_spelling_makes_it_unclear() {
    let rules = r#"
[[inbound.deny]]
when  = 'context.headers has x_tenant && context.headers.x_tenant == "red"'

[[inbound.allow]]
roles = ["frontend"]
"#;
    let gateway = Gateway::start(ROLES, rules);
    let frontend = gateway.workload(FRONTEND);
    let refused = |headers: &[&'static str], reason| {
        gateway.refused("/", &as_workload(&frontend, headers), 403, reason);
    };
    gateway.allowed("/", &as_workload(&frontend, &["-H", "X-Tenant: blue"]));
    refused(&["-H", "X-Tenant: red"], "denied_by_rule");
    // CGI and what came after it read these as the same name (RFC 3875 §4.1.18).
    refused(&["-H", "X_Tenant: red"], "condition_unclear");
    refused(&["-H", "x.tenant: red"], "condition_unclear");
    refused(&["-H", "X-Tenant: blue", "-H", "X_Tenant: red"], "condition_unclear");
    gateway.allowed("/", &as_workload(&frontend, &["-H", "X-Tenants: red"]));
}

#[test]
fn what_is_only_observed_is_recorded_and_decides_nothing() {
    let gateway = Gateway::start(
        ROLES,
        r#"
[[inbound.deny]]
name    = "soon-no-deletes"
mode    = "observe"
methods = ["DELETE"]

[[inbound.allow]]
roles = ["frontend"]

[[inbound.allow]]
name  = "soon-batch"
mode  = "observe"
roles = ["batch"]
"#,
    );
    let (frontend, batch) = (gateway.workload(FRONTEND), gateway.workload(BATCH));
    let line = gateway.allowed("/", &as_workload(&frontend, &[]));
    assert_eq!(line["observed"], Value::Null);
    let line = gateway.allowed("/", &as_workload(&frontend, &["-X", "DELETE"]));
    assert_eq!(line["observed"], "would be denied, soon-no-deletes denies it");
    let line = gateway.refused("/", &as_workload(&batch, &[]), 403, "role_not_allowed");
    assert_eq!(line["observed"], "would be allowed by soon-batch");
}

#[test]
fn explain_tells_of_users_conditions_and_what_is_observed() {
    let agent = TestAgent::new("gateway");
    let keys = agent.folder().join("api-keys.json");
    let before =
        format!("[api_keys]\nfile = {keys:?}\n{ROLES}\n[[role]]\nname = \"research\"\nmembers = [\"team:research\"]\n");
    let rules = r#"
any_of = ["mtls", "api_key"]

[[inbound.allow]]
name  = "office-hours"
roles = ["research"]
when  = 'context.hour >= 8 && context.hour < 18'
"#;
    let gateway = Gateway::start_as(agent, &before, rules);
    let explain = |at: &str, fact: &str| {
        let question = ["--inbound", "llm", "--subject", "key:key_0123456789abcdef", "--fact", fact, "--at", at];
        gateway.agent.ask("explain", &question).success()
    };
    // Nine o'clock in Berlin, in winter and in summer.
    for at in ["2026-01-12T08:00:00Z", "2026-07-12T07:00:00Z"] {
        let text = explain(at, "team:research");
        for part in ["for: key:key_0123456789abcdef", "research: member team:research", "allowed by office-hours"] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
    let text = explain("2026-01-12T17:30:00Z", "team:research");
    assert!(text.contains("all fits but the condition: context.hour < 18"), "{text}");
    let text = explain("2026-01-12T08:00:00Z", "team:other");
    assert!(text.contains("denied, the caller holds no role"), "{text}");
}

#[test]
fn replay_tells_which_recorded_decisions_another_config_would_change() {
    let gateway = Gateway::start(ROLES, "[[inbound.allow]]\nroles = [\"frontend\"]\nmethods = [\"GET\"]\n");
    let (frontend, batch) = (gateway.workload(FRONTEND), gateway.workload(BATCH));
    gateway.allowed("/v1/models", &as_workload(&frontend, &[]));
    gateway.allowed("/admin", &as_workload(&frontend, &[]));
    gateway.refused("/v1/models", &as_workload(&frontend, &["-X", "POST"]), 403, "method_not_allowed");
    gateway.refused("/v1/models", &as_workload(&batch, &[]), 403, "role_not_allowed");
    let audit = gateway.agent.folder().join("recorded.log");
    std::fs::write(&audit, gateway.agent.audit_text()).unwrap();

    let new = gateway.agent.folder().join("new.toml");
    let keys = "[[inbound.allow]]\nroles = [\"frontend\", \"batch\"]\npaths = [\"/v1/**\"]\n";
    std::fs::write(&new, gateway.agent.whole_config(&gateway.tables(keys))).unwrap();
    let arguments = ["--policy", new.to_str().unwrap(), "--audit", audit.to_str().unwrap()];
    let text = gateway.agent.run(&[&["replay"][..], &arguments].concat()).success();
    for part in [
        "spiffe://mesh.test/web/frontend, GET /admin: allowed by llm.allow[0] -> denied: path_not_allowed",
        "spiffe://mesh.test/web/frontend, POST /v1/models: denied: method_not_allowed -> allowed by llm.allow[0]",
        "spiffe://mesh.test/batch/nightly, GET /v1/models: denied: role_not_allowed -> allowed by llm.allow[0]",
        "4 decisions: 1 as before, 2 now allowed, 1 now denied, 0 cannot be told",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let json = gateway.agent.run(&[&["replay", "--json"][..], &arguments].concat()).success();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["changes"].as_array().unwrap().len(), 3, "{json}");

    // No header was recorded, so that nothing is said of what hangs on one.
    let keys = "[[inbound.allow]]\nroles = [\"frontend\"]\nwhen = '!(context.headers has x_tenant)'\n";
    std::fs::write(&new, gateway.agent.whole_config(&gateway.tables(keys))).unwrap();
    let text = gateway.agent.run(&[&["replay"][..], &arguments].concat()).success();
    let sums = "4 decisions: 1 as before, 0 now allowed, 0 now denied, 3 cannot be told";
    assert!(text.contains(sums), "{text}");
}

#[test]
fn a_table_of_expected_decisions_passes_or_says_what_was_found() {
    let gateway = Gateway::start(
        ROLES,
        "[[inbound.allow]]\nroles = [\"frontend\"]\nwhen = '![\"saturday\", \"sunday\"].contains(context.weekday)'\n",
    );
    let table = gateway.agent.folder().join("policy.test.toml");
    let case = |name: &str, at: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\ninbound = \"llm\"\npeer = [\"{FRONTEND}\"]\npath = \"/\"\nat = \"{at}\"\n{expect}\n\n"
        )
    };
    let good = case("on a monday", "2026-11-23T09:00:00Z", "expect = \"allow\"\nrule = \"llm.allow[0]\"")
        + &case("on a sunday", "2026-11-22T09:00:00Z", "expect = \"deny\"\nreason = \"condition_not_met\"");
    std::fs::write(&table, format!("config = \"agent.toml\"\n\n{good}")).unwrap();
    let run = || gateway.agent.run(&["test", table.to_str().unwrap()]);
    assert!(run().success().contains("2 cases, 0 failed"));
    let bad = good + &case("wrong", "2026-11-22T09:00:00Z", "expect = \"allow\"");
    std::fs::write(&table, format!("config = \"agent.toml\"\n\n{bad}")).unwrap();
    let finished = run();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.contains("FAILED wrong: denied: condition_not_met"), "{finished:?}");
    std::fs::write(&table, "config = \"agent.toml\"\n[[case]]\nnme = \"a\"\n").unwrap();
    let finished = run();
    assert!(finished.code == Some(78) && finished.stderr.contains("policy.test.toml:3:1: "), "{finished:?}");
}
