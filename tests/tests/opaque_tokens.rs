//! Tokens that only their issuer can read: a real provider is asked about each (RFC 7662), and not more often than needed.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::clock::WrongClock;
use countersign_tests::gateway::{Gateway, bearer};
use countersign_tests::issuer::{CONFIG_SECRET, Provider, SERVICE_CLIENT};
use countersign_tests::pki::{Leaf, TestPki};
use countersign_tests::{tools, wait};

const ROLES: &str = "[[role]]\nname = \"reader\"\nmembers = [\"scope:corp/llm:read\", \"spiffe://mesh.test/web/*\"]\n";

const RULES: &str = "[[inbound.allow]]\nroles = [\"reader\"]\n";

const QUESTIONS: &str = "/token/introspection";

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

/// Two workers, each of which asks for itself.
const WORKERS: u64 = 2;

struct Site {
    provider: Provider,
    gateway: Gateway,
}

fn site(demand: &str, keys: &str) -> Site {
    site_as(TestAgent::new("gateway"), demand, keys)
}

fn site_as(agent: TestAgent, demand: &str, keys: &str) -> Site {
    let pki = TestPki::new("corp");
    let provider = Provider::start(&pki, agent.folder());
    let introspection =
        format!("[issuer.introspection]\nclient_id = \"gateway\"\nclient_secret = \"{CONFIG_SECRET}\"\n{keys}");
    let before = provider.table(&introspection) + ROLES;
    let gateway = Gateway::start_of(pki, agent, &before, &format!("{demand}\n{RULES}"));
    Site { provider, gateway }
}

const ONLY: &str = "any_of = [\"opaque_token\"]";

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.call("/", &["-H", &bearer(token)]).status
}

#[test]
fn an_active_token_is_let_in_and_asked_about_once_by_each_worker() {
    let Site { provider, gateway } = site(ONLY, "");
    let token = provider.token("opaque-service");
    let line = gateway.allowed("/", &["-H", &bearer(&token)]);
    assert_eq!(line["credential"], "opaque_token");
    assert_eq!(line["subject"], "client:corp/opaque-service");
    assert_eq!(line["principal"], "service");
    assert!(!gateway.backend.seen().last().unwrap().names().contains(&"authorization".to_owned()));
    for _ in 0..20 {
        gateway.allowed("/", &["-H", &bearer(&token)]);
    }
    let header = bearer(&token);
    let calls: Vec<_> = (0..12).map(|_| gateway.start_call("/", &["-H", &header])).collect();
    for mut call in calls {
        call.wait_for_end(wait::SOON);
    }
    assert!(provider.asked(QUESTIONS) <= WORKERS, "{} questions", provider.asked(QUESTIONS));
    assert!(!gateway.agent.audit_text().contains(&token));
}

#[test]
fn unknown_foreign_and_strange_tokens_are_refused_by_name() {
    let Site { provider, gateway } = site(ONLY, "");
    let signed = provider.token(SERVICE_CLIENT);
    let long = "x".repeat(5000);
    for (token, status, reason) in [
        ("nobody-made-this", 401, "token_inactive"),
        // The provider refuses questions about tokens that others can read.
        (signed.as_str(), 401, "token_inactive"),
        (long.as_str(), 400, "credential_malformed"),
        ("two words", 400, "credential_malformed"),
        ("a&token=b", 400, "credential_malformed"),
        // What is left is a blank at the end.
        ("", 400, "request_ambiguous"),
    ] {
        gateway.refused("/", &["-H", &bearer(token)], status, reason);
    }
    gateway.refused("/", &[], 401, "credential_missing");
    // Beside signed tokens they are told apart by their form.
    let Site { provider, gateway } = site("any_of = [\"opaque_token\", \"jwt\"]", "");
    let (opaque, signed) = (provider.token("opaque-service"), provider.token(SERVICE_CLIENT));
    assert_eq!(gateway.allowed("/", &["-H", &bearer(&opaque)])["credential"], "opaque_token");
    assert_eq!(gateway.allowed("/", &["-H", &bearer(&signed)])["credential"], "jwt");
    let Site { provider, gateway } = site("any_of = [\"jwt\"]", "");
    gateway.refused("/", &["-H", &bearer(&provider.token("opaque-service"))], 401, "token_malformed");
    assert_eq!(provider.asked(QUESTIONS), 0);
}

#[test]
fn a_revoked_token_counts_no_longer_than_its_answer_is_kept() {
    let Site { provider, gateway } = site(ONLY, "cache = \"3s\"");
    let token = provider.token("opaque-service");
    gateway.allowed("/", &["-H", &bearer(&token)]);
    provider.revoke("opaque-service", &token);
    let revoked = wait::now();
    let mut refused_in_a_row = 0;
    wait::until_so("both workers ask again", || {
        refused_in_a_row = if status(&gateway, &token) == 401 { refused_in_a_row + 1 } else { 0 };
        assert!(refused_in_a_row > 0 || revoked.elapsed() < Duration::from_secs(5), "it counts for too long");
        refused_in_a_row == 16
    });
    gateway.refused("/", &["-H", &bearer(&token)], 401, "token_inactive");

    let Site { provider, gateway } = site(ONLY, "cache = \"0s\"");
    let token = provider.token("opaque-service");
    gateway.allowed("/", &["-H", &bearer(&token)]);
    provider.revoke("opaque-service", &token);
    std::thread::sleep(Duration::from_millis(1100));
    gateway.refused("/", &["-H", &bearer(&token)], 401, "token_inactive");
}

#[test]
fn a_token_that_was_refused_is_not_believed_again_when_the_clock_is_set_back() {
    let folder = tools::folder();
    let offset = folder.path().join("offset");
    let set_clock = |text: &str| std::fs::write(&offset, text).unwrap();
    set_clock("+0");
    let agent = WrongClock::find().give(TestAgent::new("gateway"), &offset);
    let Site { provider, gateway } = site_as(agent, ONLY, "cache = \"5m\"");
    let token = provider.token("opaque-service");
    let all_are = |what: &str, expected: u16| {
        let mut in_a_row = 0;
        wait::until_so(what, || {
            in_a_row = if status(&gateway, &token) == expected { in_a_row + 1 } else { 0 };
            in_a_row == 8
        });
    };
    all_are("both workers believe it", 200);
    provider.revoke("opaque-service", &token);
    set_clock("+6m");
    all_are("both workers have asked again", 401);
    set_clock("+0");
    for _ in 0..16 {
        assert_eq!(status(&gateway, &token), 401, "what was said before it was revoked counts again");
    }
}

#[test]
fn a_flood_of_one_bad_token_is_one_question_of_each_worker() {
    let Site { provider, gateway } = site(ONLY, "");
    let began = wait::now();
    for _ in 0..30 {
        gateway.refused("/", &["-H", &bearer("nobody-made-this")], 401, "token_inactive");
    }
    let header = bearer("nobody-made-this-either");
    provider.mode("slow");
    let calls: Vec<_> = (0..12).map(|_| gateway.start_call("/", &["-H", &header])).collect();
    for mut call in calls {
        call.wait_for_end(wait::SOON);
        assert!(call.stdout().first().is_some_and(|line| line.contains("401")), "{:?}", call.stdout());
    }
    // A refusal is remembered for ten seconds; on a busy machine this takes longer.
    let spans = 1 + began.elapsed().as_secs() / 10;
    assert!(provider.asked(QUESTIONS) <= 2 * WORKERS * spans, "{} questions", provider.asked(QUESTIONS));
    // One that the provider cannot make anything of is no better.
    provider.mode("serve");
    let (before, began) = (provider.asked(QUESTIONS), wait::now());
    let signed = provider.token(SERVICE_CLIENT);
    for _ in 0..20 {
        gateway.refused("/", &["-H", &bearer(&signed)], 401, "token_inactive");
    }
    let spans = 1 + began.elapsed().as_secs() / 10;
    assert!(provider.asked(QUESTIONS) - before <= WORKERS * spans, "{} questions", provider.asked(QUESTIONS) - before);
}

#[test]
fn a_flood_of_different_tokens_is_bounded_and_hits_nobody_else() {
    let Site { provider, gateway } = site("any_of = [\"mtls\", \"opaque_token\"]", "");
    let good = provider.token("opaque-service");
    // Both workers know the good token.
    for _ in 0..12 {
        gateway.allowed("/", &["-H", &bearer(&good)]);
    }
    provider.mode("hang");
    let flood: Vec<_> =
        (0..80).map(|number| gateway.start_call("/", &["-H", &bearer(&format!("bad{number}"))])).collect();
    wait::until_so("the questions have reached their bound", || {
        gateway.agent.audit().iter().any(|line| line["reason"] == "issuer_busy")
    });
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    let began = wait::now();
    gateway.allowed("/", &workload);
    gateway.allowed("/", &["-H", &bearer(&good)]);
    assert!(began.elapsed() < Duration::from_secs(5), "others had to wait for {:?}", began.elapsed());
    for mut call in flood {
        call.wait_for_end(wait::SOON);
        assert!(call.stdout().first().is_some_and(|line| line.contains("503")), "{:?}", call.stdout());
    }
    assert!(provider.asked(QUESTIONS) <= 16 * WORKERS + WORKERS, "{} questions", provider.asked(QUESTIONS));
}

#[test]
fn while_the_issuer_does_not_answer_known_tokens_count_and_others_are_503() {
    let Site { provider, gateway } = site(ONLY, "");
    let (known, other) = (provider.token("opaque-service"), provider.token("opaque-service"));
    for _ in 0..12 {
        gateway.allowed("/", &["-H", &bearer(&known)]);
    }
    for mode in ["refuse", "fail", "redirect-all"] {
        provider.mode(mode);
        gateway.allowed("/", &["-H", &bearer(&known)]);
        gateway.refused("/", &["-H", &bearer(&other)], 503, "issuer_unavailable");
    }
    provider.mode("serve");
    // What was not answered is not remembered as refused.
    wait::until_so("the issuer is asked again", || status(&gateway, &other) == 200);
}

#[test]
fn those_who_bring_the_same_token_do_not_wait_one_after_the_other() {
    let Site { provider, gateway } = site(ONLY, "");
    let token = provider.token("opaque-service");
    // Where to ask is known.
    gateway.refused("/", &["-H", &bearer("nobody-made-this")], 401, "token_inactive");
    provider.mode("hang");
    let (began, header) = (wait::now(), bearer(&token));
    let calls: Vec<_> = (0..12).map(|_| gateway.start_call("/", &["-H", &header])).collect();
    for mut call in calls {
        call.wait_for_end(wait::SOON * 2);
        assert!(call.stdout().first().is_some_and(|line| line.contains("503")), "{:?}", call.stdout());
    }
    assert!(began.elapsed() < Duration::from_secs(19), "the last one waited for {:?}", began.elapsed());
}

#[test]
fn an_issuer_that_is_down_at_the_start_is_asked_where_to_ask_when_a_token_comes() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let token = provider.token("opaque-service");
    provider.mode("refuse");
    let introspection =
        format!("[issuer.introspection]\nclient_id = \"gateway\"\nclient_secret = \"{CONFIG_SECRET}\"\n");
    let before = provider.table(&introspection) + ROLES;
    let gateway = Gateway::start_of(pki, agent, &before, &format!("{ONLY}\n{RULES}"));
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    provider.mode("serve");
    let began = wait::now();
    wait::until_so("the issuer is asked again", || status(&gateway, &token) == 200);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

#[test]
fn a_wrong_secret_of_ours_lets_nobody_in() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let introspection = "[issuer.introspection]\nclient_id = \"gateway\"\nclient_secret = \"wrong hunter2\"\n";
    let before = provider.table(introspection) + ROLES;
    let mut gateway = Gateway::start_of(pki, agent, &before, &format!("{ONLY}\n{RULES}"));
    let token = provider.token("opaque-service");
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    let said = [gateway.agent.process().stdout(), gateway.agent.process().stderr()].concat().concat();
    assert!(said.contains("an issuer does not answer about a token") && said.contains("401"), "{said}");
    assert!(!said.contains("hunter2") && !said.contains(&token), "{said}");
}

#[test]
fn an_opaque_token_bound_to_a_certificate_counts_on_its_connections_only() {
    let Site { provider, gateway } = site("any_of = [\"mtls\", \"opaque_token\"]", "");
    let folder = gateway.agent.folder().to_owned();
    let own = gateway.workload(FRONTEND);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let token = bearer(&provider.bound_token("bound-opaque", &own));
    let line = gateway.allowed("/", &[&own[..], &["-H", &token]].concat());
    assert_eq!(line["principal"], "workload_on_behalf");
    assert_eq!(line["credential"], "opaque_token");
    let other = gateway.pki.issue_files(&folder, "other", &Leaf::of(FRONTEND));
    let other = ["--cert", other.chain.to_str().unwrap(), "--key", other.key.to_str().unwrap()];
    for _ in 0..2 {
        gateway.refused("/", &[&other[..], &["-H", &token]].concat(), 401, "token_other_certificate");
        gateway.refused("/", &["-H", &token], 401, "token_no_certificate");
    }
}
