//! Issuers that are down, slow, moved, somebody else, or rotate their keys: what counts meanwhile, and how often they are asked.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::clock::WrongClock;
use countersign_tests::gateway::{Gateway, bearer};
use countersign_tests::issuer::{Forger, Provider, SERVICE_CLIENT};
use countersign_tests::pki::TestPki;
use countersign_tests::{tools, wait};

const RULES: &str = "any_of = [\"jwt\"]\n[[inbound.allow]]\nroles = [\"reader\"]\n";

/// How long an agent waits before it asks an issuer again because of a key that it does not know.
const PAUSE: Duration = Duration::from_secs(11);

fn roles(issuer: &str) -> String {
    format!("[[role]]\nname = \"reader\"\nmembers = [\"scope:{issuer}/llm:read\"]\n")
}

struct Site {
    provider: Provider,
    gateway: Gateway,
    /// Made before the agent was started.
    token: String,
}

/// A provider that answers in this way, and a gateway with these keys in its `[[issuer]]`.
fn site(mode: &str, keys: &str) -> Site {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let token = provider.token(SERVICE_CLIENT);
    provider.mode(mode);
    let before = provider.table(keys) + &roles("corp");
    let gateway = Gateway::start_of(pki, agent, &before, RULES);
    Site { provider, gateway, token }
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.call("/", &["-H", &bearer(token)]).status
}

/// The log of the agent has a line of the issuer's failure with this in it.
#[track_caller]
fn logged(gateway: &mut Gateway, what: &str) {
    wait::until_so(&format!("{what:?} is in the log"), || {
        let lines = gateway.agent.process().stderr().into_iter().chain(gateway.agent.process().stdout());
        lines.into_iter().any(|line| line.contains("the keys of an issuer cannot be fetched") && line.contains(what))
    });
}

#[test]
fn an_issuer_that_is_down_at_the_start_is_asked_again_until_it_is_back() {
    for mode in ["refuse", "fail", "hang"] {
        let Site { provider, gateway, token } = site(mode, "");
        let began = wait::now();
        let line = gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
        assert!(began.elapsed() < Duration::from_secs(8), "{mode}: the refusal took {:?}", began.elapsed());
        assert!(line["detail"].as_str().unwrap().contains("\"corp\""), "{line}");
        let reply = gateway.call("/", &["-H", &bearer(&token)]);
        assert_eq!(reply.header("retry-after"), Some("1"), "{mode}: {reply:?}");
        provider.mode("serve");
        wait::until_so("the issuer is asked again", || status(&gateway, &token) == 200);
    }
}

#[test]
fn known_keys_count_while_the_issuer_is_down_until_they_are_too_old() {
    let Site { provider, gateway, token } = site("serve", "refresh = \"1s\"\nstale_max = \"8s\"");
    let second = provider.token(SERVICE_CLIENT);
    gateway.allowed("/", &["-H", &bearer(&token)]);
    provider.mode("fail");
    std::thread::sleep(Duration::from_secs(3));
    gateway.allowed("/", &["-H", &bearer(&token)]);
    gateway.allowed("/", &["-H", &bearer(&second)]);
    for token in [&token, &second] {
        wait::until_so("the keys are too old", || status(&gateway, token) == 503);
        gateway.refused("/", &["-H", &bearer(token)], 503, "issuer_unavailable");
    }
    provider.mode("serve");
    for token in [&token, &second] {
        wait::until_so("the issuer is asked again", || status(&gateway, token) == 200);
    }
}

#[test]
fn an_unknown_key_is_asked_for_once_however_many_requests_bring_it() {
    let Site { provider, gateway, token } = site("serve", "");
    gateway.allowed("/", &["-H", &bearer(&token)]);
    assert_eq!((provider.asked("/jwks"), provider.asked("/.well-known/openid-configuration")), (1, 1));
    provider.rotate();
    let rotated = provider.token(SERVICE_CLIENT);
    // Whoever can send a token can ask for a fetch; not for one right after another.
    gateway.refused("/", &["-H", &bearer(&rotated)], 401, "token_unknown_key");
    assert_eq!(provider.asked("/jwks"), 1);
    std::thread::sleep(PAUSE);
    // Slow, so that requests come while it is asked.
    provider.mode("slow");
    let header = bearer(&rotated);
    let begin = |_| {
        std::thread::sleep(Duration::from_millis(150));
        gateway.start_call("/", &["-H", &header])
    };
    let calls: Vec<_> = (0..16).map(begin).collect();
    for mut call in calls {
        call.wait_for_end(wait::SOON);
        assert!(call.stdout().first().is_some_and(|line| line.contains("200")), "{:?}", call.stdout());
    }
    assert_eq!(provider.asked("/jwks"), 2);
    for _ in 0..20 {
        gateway.refused("/", &["-H", &bearer(&token)], 401, "token_unknown_key");
    }
    assert_eq!(provider.asked("/jwks"), 2);
}

#[test]
fn rotated_keys_are_taken_up_and_streams_end_with_the_key_of_their_token() {
    let Site { provider, gateway, token } = site("serve", "refresh = \"1s\"");
    let mut held = gateway.start_call("/hold", &["-H", &bearer(&token)]);
    let has_begun = || gateway.backend.seen().iter().any(|seen| seen.line().contains("/hold"));
    wait::until_so("the stream has begun", has_begun);
    provider.rotate_with_overlap();
    let rotated = provider.token(SERVICE_CLIENT);
    wait::until_so("the new key is taken up", || status(&gateway, &rotated) == 200);
    gateway.allowed("/", &["-H", &bearer(&token)]);
    assert!(held.poll_end().is_none(), "the key of its token is still there");
    provider.rotate();
    let third = provider.token(SERVICE_CLIENT);
    wait::until_so("the third key is taken up", || status(&gateway, &third) == 200);
    held.wait_for_end(Duration::from_secs(10));
    let line = gateway.agent.wait_for_audit("the stream was cut", |line| line["outcome"] == "cut");
    assert_eq!(line["reason"], "withdrawn_credential");
    assert!(line["detail"].as_str().unwrap().contains("token_key_withdrawn"), "{line}");
    gateway.refused("/", &["-H", &bearer(&token)], 401, "token_unknown_key");
    gateway.refused("/", &["-H", &bearer(&rotated)], 401, "token_unknown_key");
}

#[test]
fn keys_in_a_file_are_rotated_as_fetched_ones_are() {
    let agent = TestAgent::new("gateway");
    let forger = Forger::new(agent.folder());
    let gateway = Gateway::start_as(agent, &(forger.table("") + &roles("own")), RULES);
    let tokens = forger.tokens(300);
    let mut held = gateway.start_call("/hold", &["-H", &bearer(&tokens["good"])]);
    let has_begun = || gateway.backend.seen().iter().any(|seen| seen.line().contains("/hold"));
    wait::until_so("the stream has begun", has_begun);
    let set: serde_json::Value = serde_json::from_slice(&std::fs::read(forger.keys()).unwrap()).unwrap();
    let without = |name: &str| {
        let keys = set["keys"].as_array().unwrap().iter().filter(|key| key["kid"] != name).collect::<Vec<_>>();
        std::fs::write(forger.keys(), serde_json::json!({ "keys": keys }).to_string()).unwrap();
    };
    without("ES256");
    wait::until_so("the file is read again", || status(&gateway, &tokens["good es256"]) == 401);
    gateway.allowed("/", &["-H", &bearer(&tokens["good"])]);
    assert!(held.poll_end().is_none(), "the key of its token is still there");
    without("RS256");
    held.wait_for_end(Duration::from_secs(10));
    gateway.refused("/", &["-H", &bearer(&tokens["good"])], 401, "token_unknown_key");
}

#[test]
fn an_issuer_that_sends_us_elsewhere_or_is_another_is_not_believed() {
    for (mode, said) in [("redirect", "302"), ("foreign", "/other")] {
        let Site { provider, mut gateway, token } = site(mode, "");
        gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
        logged(&mut gateway, said);
        assert_eq!(provider.asked("/elsewhere"), 0, "{mode}: it was followed");
    }
}

#[test]
fn an_issuer_whose_certificate_is_not_of_its_roots_is_not_believed() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let token = provider.token(SERVICE_CLIENT);
    let others = agent.folder().join("others.pem");
    TestPki::new("others").write_bundle(&others);
    let table = provider.table("").replace("provider-roots.pem", "others.pem");
    let mut gateway = Gateway::start_of(pki, agent, &(table + &roles("corp")), RULES);
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    logged(&mut gateway, "cannot be reached");
    assert_eq!(provider.asked("/jwks") + provider.asked("/.well-known/openid-configuration"), 0);
}

/// A name that leads to where only this host can go is a way into its network, whoever has made it lead there.
#[test]
fn a_name_that_leads_to_a_private_address_is_not_contacted_unless_it_is_named() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start_with(&pki, agent.folder(), &["--host", "localhost"]);
    let token = provider.token(SERVICE_CLIENT);
    let table = |exceptions: &str| provider.table("").replace("[\"127.0.0.1\"]", exceptions) + &roles("corp");
    let mut gateway = Gateway::start_of(pki, agent, &table("[]"), RULES);
    let none = "private_addresses = []";
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    logged(&mut gateway, "localhost is at ");
    for exceptions in ["[\"10.0.0.0/8\", \"other.test\"]", "[\"127.0.0.2\"]"] {
        let tables = gateway.tables_before(none, &format!("private_addresses = {exceptions}"), RULES);
        gateway.agent.reload(&tables);
        gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    }
    assert_eq!(provider.asked("/jwks") + provider.asked("/.well-known/openid-configuration"), 0);
    for exceptions in ["[\"localhost\"]", "[\"127.0.0.0/8\", \"::1\"]"] {
        let tables = gateway.tables_before(none, &format!("private_addresses = {exceptions}"), RULES);
        gateway.agent.reload(&tables);
        wait::until_so("the issuer is contacted", || status(&gateway, &token) == 200);
    }
}

#[test]
fn an_issuer_may_be_at_an_ipv6_address() {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start_with(&pki, agent.folder(), &["--host", "[::1]"]);
    let token = provider.token(SERVICE_CLIENT);
    let table = provider.table("").replace("[\"127.0.0.1\"]", "[\"::1\"]");
    let gateway = Gateway::start_of(pki, agent, &(table + &roles("corp")), RULES);
    gateway.allowed("/", &["-H", &bearer(&token)]);
}

#[test]
fn metadata_cannot_send_us_to_a_private_address_either() {
    // The keys are said to be at a name that leads to loopback; the issuer itself may be contacted, at its address.
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let token = provider.token(SERVICE_CLIENT);
    let uri = format!("https://localhost:{}/jwks", provider.tcp().port());
    let table = provider.table(&format!("jwks_uri = \"{uri}\"")).replace("[\"127.0.0.1\"]", "[\"127.0.0.2\"]");
    let mut gateway = Gateway::start_of(pki, agent, &(table + &roles("corp")), RULES);
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
    logged(&mut gateway, "localhost is at ");
    assert_eq!(provider.asked("/jwks"), 0);
}

#[test]
fn without_tls_only_this_machine_is_asked_and_only_if_that_was_said() {
    let agent = TestAgent::new("gateway");
    let provider = Provider::start_plain();
    let token = provider.token(SERVICE_CLIENT);
    let gateway = Gateway::start_as(agent, &(provider.table("") + &roles("corp")), RULES);
    gateway.allowed("/", &["-H", &bearer(&token)]);
    let silent = gateway.tables_before("unsafe_http_on_loopback = true", "", RULES);
    gateway.agent.configure(&silent);
    let finished = gateway.agent.ask("check", &[]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!(finished.stderr.contains("clear text"), "{finished:?}");
}

#[test]
fn a_changed_config_loses_no_request_while_the_issuer_is_down() {
    let Site { provider, mut gateway, token } = site("serve", "");
    gateway.allowed("/", &["-H", &bearer(&token)]);
    let other = provider.token(SERVICE_CLIENT);
    let mut held = gateway.start_call("/hold", &["-H", &bearer(&token)]);
    let has_begun = || gateway.backend.seen().iter().any(|seen| seen.line().contains("/hold"));
    wait::until_so("the stream has begun", has_begun);
    provider.mode("refuse");
    // How keys are fetched does not concern what runs.
    let tables = gateway.tables_before("claims = {", "refresh = \"5m\"\nclaims = {", RULES);
    gateway.agent.reload(&tables);
    gateway.allowed("/", &["-H", &bearer(&token)]);
    assert!(held.poll_end().is_none(), "a stream was cut although its token still counts");
    // What is expected of tokens does: those that run are not there any more to be looked at again.
    let tables = gateway.tables_before(
        "claims = { tenant = \"text\" }",
        "claims = { tenant = \"text\", plan = \"text\" }\nleeway = \"10s\"",
        RULES,
    );
    gateway.agent.reload(&tables);
    gateway.allowed("/", &["-H", &bearer(&token)]);
    gateway.allowed("/", &["-H", &bearer(&other)]);
    held.wait_for_end(Duration::from_secs(10));
    // Other roots are other trust: what was fetched by the ones before does not count.
    let others = gateway.agent.folder().join("others.pem");
    TestPki::new("others").write_bundle(&others);
    let tables = gateway.tables_before("provider-roots.pem", "others.pem", RULES);
    gateway.agent.reload(&tables);
    gateway.refused("/", &["-H", &bearer(&token)], 503, "issuer_unavailable");
}

#[test]
fn a_clock_that_goes_wrong_lets_nothing_in_and_breaks_nothing() {
    let folder = tools::folder();
    let offset = folder.path().join("offset");
    let set_clock = |text: &str| std::fs::write(&offset, text).unwrap();
    set_clock("+0");
    let agent = WrongClock::find().give(TestAgent::new("gateway"), &offset);
    let (forger, pki) = (Forger::new(agent.folder()), TestPki::new("gateway"));
    let provider = Provider::start(&pki, agent.folder());
    let before = provider.table("")
        + &forger.table("")
        + &roles("own").replace("members = [", "members = [\"scope:corp/llm:read\", ");
    let gateway = Gateway::start_of(pki, agent, &before, RULES);
    let (first, second) = (provider.token(SERVICE_CLIENT), provider.token(SERVICE_CLIENT));
    let bound = &forger.tokens(300)["bound to a key"];
    let proofs = forger.proofs(&format!("{}/", gateway.url()), bound, 3);
    let by_proof = |name: &str| [format!("Authorization: DPoP {bound}"), format!("DPoP: {}", proofs[name])];
    let call = |headers: &[String; 2]| gateway.call("/", &["-H", &headers[0], "-H", &headers[1]]);
    gateway.allowed("/", &["-H", &bearer(&first)]);
    assert_eq!(call(&by_proof("good 0")).status, 200);
    // Both certificates are valid for an hour in each direction.
    set_clock("-40m");
    gateway.refused("/", &["-H", &bearer(&second)], 401, "token_not_yet_valid");
    gateway.refused("/", &["-H", &bearer(&first)], 401, "token_not_yet_valid");
    let reply = call(&by_proof("good 0"));
    assert_eq!((reply.status, gateway.line(&reply)["reason"].as_str()), (401, Some("token_not_yet_valid")));
    set_clock("+40m");
    gateway.refused("/", &["-H", &bearer(&second)], 401, "token_expired");
    gateway.refused("/", &["-H", &bearer(&first)], 401, "token_expired");
    let reply = call(&by_proof("good 1"));
    assert_eq!(reply.status, 401);
    set_clock("+0");
    gateway.allowed("/", &["-H", &bearer(&first)]);
    gateway.allowed("/", &["-H", &bearer(&second)]);
    // What was forgotten while the clock was ahead is not taken twice now.
    let reply = call(&by_proof("good 0"));
    assert_eq!(reply.status, 401, "{reply:?}");
    let reason = gateway.line(&reply)["reason"].clone();
    assert!(reason == "proof_clock_set_back" || reason == "proof_replayed", "{reason}");
    // Keys of a provider that rotates meanwhile are taken up as ever.
    provider.rotate();
    let rotated = provider.token(SERVICE_CLIENT);
    wait::until_so("the new key is taken up", || status(&gateway, &rotated) == 200);
}
