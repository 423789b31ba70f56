//! Signed access tokens of a real OpenID provider and of a forger: who is let in, and every way in which a bad one is refused.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::collections::HashMap;
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::{Gateway, bearer};
use countersign_tests::issuer::{Forger, Provider, SERVICE_CLIENT};
use countersign_tests::pki::TestPki;
use countersign_tests::{tools, wait};
use serde_json::{Value, json};

const ROLES: &str = r#"
[[role]]
name    = "research"
members = ["group:corp/research", "group:corp/staff"]

[[role]]
name    = "reader"
members = ["scope:corp/llm:read"]

[[role]]
name    = "tenant"
members = ["claim:corp/tenant=blue"]

[[role]]
name    = "service"
members = ["client:corp/reader-service"]

[[role]]
name    = "alice"
members = ["user:corp/alice"]

[[role]]
name    = "frontend"
members = ["spiffe://mesh.test/web/*", "group:corp/operators"]
"#;

const RULES: &str = r#"
[[inbound.allow]]
roles   = ["research"]
paths   = ["/group", "/hold"]

[[inbound.allow]]
roles   = ["reader"]
paths   = ["/scope"]

[[inbound.allow]]
roles   = ["tenant"]
paths   = ["/claim"]

[[inbound.allow]]
roles   = ["service"]
paths   = ["/client"]

[[inbound.allow]]
roles   = ["alice"]
paths   = ["/user"]
"#;

/// For workloads, where an inbound takes certificates.
const OF_WORKLOADS: &str = r#"
[[inbound.allow]]
roles   = ["frontend"]
paths   = ["/frontend"]
"#;

/// The keys of an inbound that demands this.
fn keys_of(demand: &str) -> String {
    let of_workloads = if demand.contains("mtls") { OF_WORKLOADS } else { "" };
    format!("{demand}\n{RULES}{of_workloads}")
}

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

/// A provider, and a gateway that believes it.
struct Site {
    provider: Provider,
    gateway: Gateway,
}

fn site(demand: &str, arguments: &[&str]) -> Site {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start_with(&pki, agent.folder(), arguments);
    let before = provider.table("") + ROLES;
    let gateway = Gateway::start_of(pki, agent, &before, &keys_of(demand));
    Site { provider, gateway }
}

/// A gateway that believes the forger, or would if there were a reason to.
fn forged(demand: &str, keys: &str) -> (Forger, Gateway) {
    let agent = TestAgent::new("gateway");
    let forger = Forger::new(agent.folder());
    let before = forger.table(keys) + &ROLES.replace("corp/", "own/");
    let gateway = Gateway::start_as(agent, &before, &keys_of(demand));
    (forger, gateway)
}

/// The tokens of a user who logs in: for the service, and for the application itself.
fn log_in(provider: &Provider) -> (String, String) {
    let said = provider.client(&["--client", "chat-app", "--flow", "code"]);
    let text = |name: &str| said[0][name].as_str().unwrap().to_owned();
    (text("access_token"), text("id_token"))
}

#[test]
fn a_token_opens_what_its_group_scope_claim_client_and_subject_may_and_no_more() {
    let Site { provider, gateway } = site("any_of = [\"jwt\"]", &[]);
    let service = provider.token(SERVICE_CLIENT);
    let line = gateway.allowed("/client", &["-H", &bearer(&service)]);
    assert_eq!(line["subject"], "client:corp/reader-service");
    assert_eq!(line["principal"], "service");
    assert_eq!(line["credential"], "jwt");
    assert_eq!(line["peer"], Value::Null);
    assert_eq!(line["subject_roles"], json!(["reader", "tenant", "service"]));
    let seen = gateway.backend.seen();
    let seen = seen.last().unwrap();
    assert_eq!(seen.value("x-countersign-subject"), Some("client:corp/reader-service"));
    assert_eq!(seen.value("x-countersign-roles"), Some("reader,tenant,service"));
    assert!(!seen.names().contains(&"authorization".to_owned()), "{:?}", seen.names());
    gateway.allowed("/scope", &["-H", &bearer(&service)]);
    gateway.allowed("/claim", &["-H", &bearer(&service)]);
    gateway.refused("/group", &["-H", &bearer(&service)], 403, "path_not_allowed");
    gateway.refused("/user", &["-H", &bearer(&service)], 403, "path_not_allowed");

    let (user, _) = log_in(&provider);
    let line = gateway.allowed("/user", &["-H", &bearer(&user)]);
    assert_eq!(line["subject"], "user:corp/alice");
    assert_eq!(line["principal"], "user");
    assert_eq!(line["rule"], "llm.allow[4]");
    gateway.allowed("/group", &["-H", &bearer(&user)]);
    gateway.refused("/client", &["-H", &bearer(&user)], 403, "path_not_allowed");

    let other = provider.token("reader-es256");
    assert_eq!(gateway.allowed("/scope", &["-H", &bearer(&other)])["subject"], "client:corp/reader-es256");
    gateway.refused("/client", &["-H", &bearer(&other)], 403, "path_not_allowed");
    let audit = gateway.agent.audit_text();
    for token in [&service, &user, &other] {
        assert!(!audit.contains(token.as_str()));
        assert!(!audit.contains(token.rsplit('.').next().unwrap()));
    }
}

#[test]
fn a_workload_with_a_token_acts_for_the_user_and_not_for_itself() {
    let Site { provider, gateway } = site("require = [\"mtls\", \"jwt\"]", &[]);
    let (user, _) = log_in(&provider);
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let header = bearer(&user);
    let both = [&workload[..], &["-H", &header]].concat();
    let line = gateway.allowed("/user", &both);
    assert_eq!(line["principal"], "workload_on_behalf");
    assert_eq!(line["peer"], FRONTEND);
    assert_eq!(line["subject"], "user:corp/alice");
    assert_eq!(line["credential"], "jwt");
    let seen = gateway.backend.seen();
    assert_eq!(seen.last().unwrap().value("x-countersign-id"), Some(FRONTEND));
    assert_eq!(seen.last().unwrap().value("x-countersign-subject"), Some("user:corp/alice"));
    gateway.refused("/frontend", &both, 403, "path_not_allowed");
    gateway.refused("/user", &workload, 401, "credential_missing");
    gateway.refused("/user", &[&workload[..], &["-H", "Authorization: Bearer a.b.c"]].concat(), 401, "token_malformed");
    assert_eq!(gateway.call("/user", &["-H", &header]).status, 0, "a certificate is required in the handshake");
}

/// Which bad token is refused for which reason.
const BAD: &[(&str, &str)] = &[
    ("alg none", "token_algorithm"),
    ("alg NONE", "token_algorithm"),
    ("hs256 with the rsa key", "token_algorithm"),
    ("kid path", "token_unknown_key"),
    ("kid url", "token_unknown_key"),
    ("kid query", "token_unknown_key"),
    ("kid unknown", "token_unknown_key"),
    ("jku", "token_header"),
    ("x5u", "token_header"),
    ("jwk", "token_header"),
    ("x5c", "token_header"),
    ("crit", "token_header"),
    ("another's key", "token_signature"),
    ("another's signature", "token_signature"),
    ("exp missing", "token_claim"),
    ("exp text", "token_claim"),
    ("exp null", "token_claim"),
    ("exp list", "token_claim"),
    ("exp negative", "token_claim"),
    ("exp huge", "token_malformed"),
    ("exp NaN", "token_malformed"),
    ("expired", "token_expired"),
    ("not yet valid", "token_not_yet_valid"),
    ("issued in the future", "token_not_yet_valid"),
    ("another issuer", "token_issuer"),
    ("another audience", "token_audience"),
    ("no audience", "token_claim"),
    ("no subject", "token_claim"),
    ("id token", "token_type"),
    ("id token in disguise", "token_id_token"),
    ("another type", "token_type"),
    ("unknown confirmation", "token_confirmation"),
    ("claim twice", "token_malformed"),
    ("encrypted", "token_encrypted"),
    ("17 KiB", "token_malformed"),
    ("deep", "token_malformed"),
    ("padded", "token_malformed"),
    ("bound to a key", "token_no_proof"),
];

#[test]
fn forged_foreign_and_spoilt_tokens_are_refused_by_name_and_reach_nobody() {
    let (forger, gateway) = forged("any_of = [\"jwt\"]", "");
    let tokens = forger.tokens(300);
    for (name, reason) in BAD {
        let line = gateway.refused("/group", &["-H", &bearer(&tokens[*name])], 401, reason);
        assert_eq!(line["subject"], Value::Null, "{name}: {line}");
        assert!(line["detail"].as_str().unwrap().len() < 1024, "{name}: {line}");
    }
    for good in ["good", "good es256", "good eddsa"] {
        assert_eq!(gateway.allowed("/group", &["-H", &bearer(&tokens[good])])["subject"], "user:own/mallory");
    }
    let known = BAD.iter().map(|(name, _)| *name).chain(["good", "good es256", "good eddsa"]);
    let mut unused: HashMap<_, _> = tokens;
    known.for_each(|name| drop(unused.remove(name)));
    assert!(unused.is_empty(), "{:?} were made and not tried", unused.keys());
}

#[test]
fn a_token_stands_in_one_authorization_header_and_nowhere_else() {
    let (forger, gateway) = forged("any_of = [\"jwt\"]", "");
    let good = &forger.tokens(300)["good"];
    let header = bearer(good);
    gateway.refused("/group", &["-H", &header, "-H", &header], 400, "request_ambiguous");
    gateway.refused("/group", &["-H", &header, "-H", "Authorization: Basic YTpi"], 400, "request_ambiguous");
    gateway.refused(&format!("/group?access_token={good}"), &[], 401, "credential_missing");
    // curl 7.88 stumbles over an HTTP/2 answer that comes before its body has left.
    let form = format!("access_token={good}");
    gateway.refused("/group", &["--http1.1", "--data", &form], 401, "credential_missing");
    gateway.refused("/group", &["-H", &format!("X-API-Key: {good}")], 401, "credential_missing");
    gateway.refused("/group", &["-H", &format!("Cookie: access_token={good}")], 401, "credential_missing");
    gateway.refused("/group", &["-H", &format!("Authorization: Basic {good}")], 401, "credential_not_accepted");
    gateway.refused("/group", &["-H", &format!("Authorization: {good}")], 401, "credential_not_accepted");
    gateway.refused("/group", &["-H", &format!("{header},{good}")], 401, "token_encrypted");
    gateway.refused("/group", &["-H", &format!("{header}.{good}.{good}")], 401, "token_malformed");
    gateway.refused("/group", &["-H", &format!("Authorization: Bearer  {good}")], 401, "token_malformed");
    gateway.allowed("/group", &["-H", &format!("authorization: bEARER {good}")]);
    let reply = gateway.call("/group", &[]);
    let challenges: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "www-authenticate").collect();
    assert!(challenges[0].1.starts_with("Bearer realm="), "{reply:?}");
}

#[test]
fn an_id_token_of_the_provider_is_no_access_token_whatever_types_are_taken() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let table = |keys: &str| provider.table(keys) + ROLES;
    let mut gateway = Gateway::start_of(pki, agent, &table(""), &format!("any_of = [\"jwt\"]\n{RULES}"));
    let (access, id) = log_in(&provider);
    gateway.allowed("/user", &["-H", &bearer(&access)]);
    gateway.refused("/user", &["-H", &bearer(&id)], 401, "token_type");
    // Even where any type is taken and the application's name is taken for the service's.
    let loose = gateway.tables_before(
        &table(""),
        &table("types = \"any_jwt\"").replace("audiences = [", "audiences = [\"chat-app\", "),
        &format!("any_of = [\"jwt\"]\n{RULES}"),
    );
    gateway.agent.reload(&loose);
    wait::until_so("the access token is let in again", || {
        gateway.call("/user", &["-H", &bearer(&access)]).status == 200
    });
    gateway.refused("/user", &["-H", &bearer(&id)], 401, "token_id_token");
}

#[test]
fn groups_are_found_where_the_config_says() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let roles = "[[role]]\nname = \"gold\"\nmembers = [\"group:corp/gold\"]\n";
    let before = provider.table("groups_claim = \"/plan/name\"") + roles;
    let rules = "any_of = [\"jwt\"]\n[[inbound.allow]]\nroles = [\"gold\"]\n";
    let gateway = Gateway::start_of(pki, agent, &before, rules);
    let line = gateway.allowed("/", &["-H", &bearer(&provider.token(SERVICE_CLIENT))]);
    assert_eq!(line["subject_roles"], json!(["gold"]));
}

#[test]
fn a_token_and_a_key_are_told_apart_by_their_form() {
    let agent = TestAgent::new("gateway");
    let forger = Forger::new(agent.folder());
    let keys = agent.folder().join("api-keys.json");
    let before = format!("[api_keys]\nfile = {keys:?}\n{}{}", forger.table(""), ROLES.replace("corp/", "own/"));
    let gateway = Gateway::start_as(agent, &before, &format!("any_of = [\"jwt\", \"api_key\"]\n{RULES}"));
    let key = gateway.key(&["create", "--owner", "a", "--role", "reader"]);
    let token = bearer(&forger.tokens(300)["good"]);
    wait::until_so("the key counts", || gateway.call("/scope", &["-H", &bearer(&key)]).status == 200);
    assert_eq!(gateway.allowed("/scope", &["-H", &bearer(&key)])["credential"], "api_key");
    assert_eq!(gateway.allowed("/scope", &["-H", &token])["credential"], "jwt");
    gateway.refused("/scope", &["-H", &token, "-H", &format!("X-API-Key: {key}")], 400, "credential_ambiguous");
    gateway.refused("/scope", &["-H", &bearer("csk_no.key.atall")], 401, "key_malformed");
}

#[test]
fn a_stream_ends_with_its_token_and_no_sooner() {
    let (forger, gateway) = forged("any_of = [\"jwt\"]", "leeway = \"0s\"");
    let brief = &forger.tokens(5)["good"];
    let began = wait::now();
    let mut held = gateway.start_call("/hold", &["-H", &bearer(brief)]);
    held.wait_for_end(Duration::from_secs(15));
    assert!(began.elapsed() > Duration::from_secs(3), "it ended after {:?}", began.elapsed());
    let line = gateway.agent.wait_for_audit("the stream was cut", |line| line["outcome"] == "cut");
    assert_eq!(line["reason"], "withdrawn_expired");
    gateway.refused("/group", &["-H", &bearer(brief)], 401, "token_expired");
}

#[test]
fn an_issuer_that_is_taken_out_of_the_config_takes_its_streams_along() {
    let agent = TestAgent::new("gateway");
    let (forger, other) = (Forger::new(agent.folder()), tools::folder());
    let stays = Forger::new(other.path());
    let also = stays.table("").replace("\"own\"", "\"also\"").replace(Forger::ISSUER, "https://also.test");
    let roles = ROLES.replace("corp/", "own/");
    let before = forger.table("") + &also + &roles;
    let rules = format!("any_of = [\"jwt\"]\n{RULES}");
    let mut gateway = Gateway::start_as(agent, &before, &rules);
    let token = bearer(&forger.tokens(300)["good"]);
    let mut held = gateway.start_call("/hold", &["-H", &token]);
    let has_begun = |gateway: &Gateway| gateway.backend.seen().iter().any(|seen| seen.line().contains("/hold"));
    wait::until_so("the stream has begun", || has_begun(&gateway));
    gateway.agent.reload(&gateway.tables_before(
        &(forger.table("") + &also + &roles),
        &(also.clone() + &roles.replace("own/", "also/")),
        &rules,
    ));
    held.wait_for_end(Duration::from_secs(10));
    let line = gateway.agent.wait_for_audit("the stream was cut", |line| line["outcome"] == "cut");
    assert_eq!(line["reason"], "withdrawn_credential");
    gateway.refused("/group", &["-H", &token], 401, "token_issuer");
}

#[test]
fn a_token_that_was_believed_ends_when_it_is_too_old() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let before = provider.table("age_max = \"6s\"\nleeway = \"0s\"\n") + ROLES;
    let gateway = Gateway::start_of(pki, agent, &before, &keys_of("any_of = [\"jwt\"]"));
    let header = bearer(&provider.token(SERVICE_CLIENT));
    // Both workers believe it.
    for _ in 0..8 {
        gateway.allowed("/client", &["-H", &header]);
    }
    let mut in_a_row = 0;
    wait::until_so("neither worker believes it any more", || {
        in_a_row = if gateway.call("/client", &["-H", &header]).status == 401 { in_a_row + 1 } else { 0 };
        in_a_row == 8
    });
    gateway.refused("/client", &["-H", &header], 401, "token_lifetime");
}
