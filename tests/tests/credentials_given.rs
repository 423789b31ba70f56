//! Credentials that a service is given and its callers never see: where they stand, where they come from, and how they change.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::gateway::{Gateway, Reply};

const ROLE: &str = "[[role]]\nname = \"caller\"\nmembers = [\"spiffe://mesh.test/web/*\"]\n";
const RULES: &str = "[[inbound.allow]]\nroles = [\"caller\"]\n";

fn inject(keys: &str) -> String {
    format!("{RULES}[[inbound.inject]]\n{keys}\n")
}

fn gateway(keys: &str) -> Gateway {
    Gateway::start(ROLE, &inject(keys))
}

/// A caller with the role calls a path.
fn call(gateway: &Gateway, path: &str, arguments: &[&str]) -> Reply {
    let certificate = gateway.workload("spiffe://mesh.test/web/frontend");
    let whole: Vec<&str> = certificate.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    gateway.call(path, &whole)
}

/// Nothing that an operator reads repeats it.
#[track_caller]
fn is_told_nowhere(gateway: &mut Gateway, secret: &str) {
    assert!(!gateway.agent.audit_text().contains(secret), "the audit tells {secret:?}");
    assert!(!gateway.agent.process().stderr().concat().contains(secret), "the log tells {secret:?}");
    assert!(!gateway.agent.ask("status", &["--json"]).stdout.contains(secret), "status tells {secret:?}");
    assert!(!gateway.agent.health("/metrics").text().contains(secret), "metrics tell {secret:?}");
}

#[test]
fn a_key_in_the_query_replaces_the_callers_own_however_it_is_spelt() {
    let log = "[log]\nlevel = \"trace\"\n";
    let before = log.to_owned() + ROLE;
    let mut gateway = Gateway::start(&before, &inject("query = \"api_key\"\nvalue = \"hunter/2 &=+\""));
    let secret = "api_key=hunter%2F2%20%26%3D%2B";
    for (asked, sent) in [
        ("/v1", format!("/v1?{secret}")),
        ("/v1?", format!("/v1?{secret}")),
        ("/v1?a=%20&b", format!("/v1?a=%20&b&{secret}")),
        ("/v1?api_key=own&a=1&api%5Fkey=own&%61PI-key[]=own", format!("/v1?a=1&{secret}")),
    ] {
        let reply = call(&gateway, asked, &[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(gateway.backend.seen().last().unwrap().line(), format!("GET {sent} HTTP/1.1"), "{asked}");
    }
    let reply = call(&gateway, "/v1?a=1;api_key=own", &[]);
    assert_eq!((reply.status, gateway.backend.seen().len()), (400, 4), "{reply:?}");
    assert_eq!(gateway.line(&reply)["reason"], "request_ambiguous");
    is_told_nowhere(&mut gateway, "hunter");
}

#[test]
fn a_name_and_a_password_replace_the_callers_own() {
    let mut gateway = gateway("basic_user = \"Aladdin\"\npassword = \"open sesame\"");
    let reply = call(&gateway, "/", &["-H", "Authorization: Bearer own"]);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(gateway.backend.only().values("authorization"), ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]);
    is_told_nowhere(&mut gateway, "sesame");
    is_told_nowhere(&mut gateway, "QWxhZGRpbjpvcGVuIHNlc2FtZQ");
}

#[test]
fn several_credentials_stand_side_by_side() {
    let gateway = gateway(
        "header = \"x-api-key\"\nvalue = \"one\"\n[[inbound.inject]]\nquery = \"key\"\nvalue = \"two\"\n[[inbound.inject]]\nquery = \"sig\"\nvalue = \"three\"\n[[inbound.inject]]\nbasic_user = \"u\"\npassword = \"four\"",
    );
    assert_eq!(call(&gateway, "/a?sig=own&x_api_key=kept", &["-H", "X_Api_Key: own"]).status, 200);
    let seen = gateway.backend.only();
    assert_eq!(seen.line(), "GET /a?x_api_key=kept&key=two&sig=three HTTP/1.1");
    assert_eq!((seen.value("x-api-key"), seen.value("authorization")), (Some("one"), Some("Basic dTpmb3Vy")));
    assert!(!seen.head.contains("own"), "{}", seen.head);
}

/// A service that sends its callers to another one, and repeats there all that it was asked, as many do.
#[test]
fn a_redirect_is_the_callers_to_follow_and_tells_it_nothing() {
    let elsewhere = EchoBackend::start();
    let place = elsewhere.url();
    let backend = EchoBackend::answering(move |seen, out| {
        let target = seen.line().split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap();
        write!(
            out,
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {place}{path}/?{query}\r\nx-asked: {target}\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n"
        )
    });
    let keys = inject(
        "query = \"key\"\nvalue = \"hunter2/secret\"\n[[inbound.inject]]\nheader = \"x-api-key\"\nvalue = \"hunter3\"",
    );
    let mut gateway = Gateway::start_before(TestAgent::new("gateway"), backend, ROLE, &keys);
    let reply = call(&gateway, "/v1?a=%20", &[]);
    assert_eq!(reply.status, 307, "{reply:?}");
    assert_eq!(reply.header("location"), Some(&*format!("{}/v1/?a=%20", elsewhere.url())));
    assert_eq!(reply.header("x-kept"), Some("1"));
    assert!(!format!("{reply:?}").contains("hunter"), "{reply:?}");
    let seen = gateway.backend.only();
    assert_eq!(seen.line(), "GET /v1?a=%20&key=hunter2%2Fsecret HTTP/1.1");
    assert_eq!(seen.value("x-api-key"), Some("hunter3"));
    assert_eq!(elsewhere.seen().len(), 0, "the agent has followed a redirect");
    is_told_nowhere(&mut gateway, "hunter");
}
