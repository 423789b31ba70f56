//! Credentials that a service is given and its callers never see: where they stand, where they come from, and how they change.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::gateway::{Gateway, Reply};
use countersign_tests::pki::write_by_rename;
use countersign_tests::wait;

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

/// A script of the operator's, and a `[[secret_command]]` that runs it.
fn command(gateway: &TestAgent, refresh: &str, keys: &str) -> (std::path::PathBuf, String) {
    let script = gateway.folder().join("print-secret");
    let table = format!(
        "[[secret_command]]\nname = \"vault\"\ncommand = [{script:?}, \"kv\"]\nrefresh = {refresh:?}\n{keys}\n"
    );
    (script, table + ROLE)
}

fn write_script(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

const FROM_COMMAND: &str = "header = \"authorization\"\nvalue = \"Bearer ${command:vault}\"";

/// Calls until the service gets this value.
#[track_caller]
fn wait_for_authorization(gateway: &Gateway, expected: &str) {
    wait::until_so(&format!("the service gets {expected:?}"), || {
        call(gateway, "/", &[]);
        gateway.backend.seen().last().is_some_and(|seen| seen.value("authorization") == Some(expected))
    });
}

#[test]
fn what_a_command_prints_is_given_and_what_it_prints_next_needs_no_restart() {
    let agent = TestAgent::new("gateway").with_environment("NAMED", "n").with_environment("OTHER", "o");
    let (script, before) = command(&agent, "1s", "environment = [\"NAMED\"]");
    write_script(&script, "echo \"hunter2-$1-$NAMED-$OTHER-\"; echo hunter2 >&2");
    let mut gateway = Gateway::start_before(agent, EchoBackend::holding(), &before, &inject(FROM_COMMAND));
    assert_eq!(call(&gateway, "/", &["-H", "Authorization: Bearer own"]).status, 200);
    assert_eq!(gateway.backend.only().values("authorization"), ["Bearer hunter2-kv-n--"]);
    write_script(&script, "echo hunter3");
    wait_for_authorization(&gateway, "Bearer hunter3");
    // One that fails, prints nothing that is a secret, or hangs takes away nothing that was there.
    for failing in ["exit 3", "echo; echo", "head -c 70000 /dev/zero | tr '\\0' a", "printf 'a\\377'"] {
        write_script(&script, failing);
        gateway.agent.wait_for_status("the failure is told", |status| status["sources"][0]["error"].is_string());
        assert_eq!(
            gateway.agent.metric("countersign_credential_source_failing", &[("source", "secret_command vault")]),
            1.0
        );
        assert_eq!(call(&gateway, "/", &[]).status, 200, "{failing}");
        assert_eq!(gateway.backend.seen().last().unwrap().value("authorization"), Some("Bearer hunter3"));
        write_script(&script, "echo hunter3");
        gateway.agent.wait_for_status("it works again", |status| status["sources"][0]["error"].is_null());
    }
    assert!(gateway.backend.seen().iter().all(|seen| seen.value("authorization").is_some()));
    is_told_nowhere(&mut gateway, "hunter");
}

#[test]
fn without_its_credential_nothing_is_forwarded_until_there_is_one() {
    let agent = TestAgent::new("gateway");
    let (script, before) = command(&agent, "5m", "");
    write_script(&script, "sleep 300");
    let mut gateway = Gateway::prepare(agent, EchoBackend::holding(), &before);
    gateway.agent.configure(&gateway.tables(&inject(FROM_COMMAND)));
    gateway.agent.launch();
    let status = gateway.agent.wait_for_status("it listens", |status| status["routes"][0]["listening"].is_string());
    assert_eq!(
        (&status["ready"], &status["routes"][0]["waiting_for"]),
        (&false.into(), &"the credential of its backend".into())
    );
    let reply = call(&gateway, "/", &[]);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    let line = gateway.line(&reply);
    assert_eq!((&line["reason"], &line["outcome"]), (&"backend_credential".into(), &"failed".into()));
    write_script(&script, "echo hunter2");
    // It hangs for its ten seconds, and is run again after a pause.
    gateway.agent.wait_for_status("it is ready", |status| status["ready"] == true);
    assert_eq!(call(&gateway, "/", &[]).status, 200);
    assert_eq!(gateway.backend.only().values("authorization"), ["Bearer hunter2"]);
}

#[test]
fn a_new_command_that_gives_nothing_is_a_refused_config_and_one_that_does_loses_no_request() {
    let agent = TestAgent::new("gateway");
    let (script, before) = command(&agent, "5m", "");
    let mut gateway = Gateway::prepare(agent, EchoBackend::holding(), &before);
    let from_text = inject("header = \"authorization\"\nvalue = \"Bearer hunter1\"");
    write_script(&script, "exit 3");
    let without = gateway.tables(&from_text).replace(before.trim_end_matches(ROLE), "");
    gateway.agent.configure(&without);
    gateway.agent.start();
    let with = gateway.tables(&inject(FROM_COMMAND));
    let refused = gateway.agent.reload_refused(&with);
    assert!(refused.contains("secret_command vault gives no credential: it ended with exit status: 3"), "{refused}");
    assert_eq!(call(&gateway, "/", &[]).status, 200);
    write_script(&script, "sleep 2; echo hunter2");
    gateway.agent.configure(&(with.clone() + "\n"));
    wait::until_so("the command's secret is used, and no request is refused meanwhile", || {
        let reply = call(&gateway, "/", &[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        gateway.backend.seen().last().unwrap().value("authorization") == Some("Bearer hunter2")
    });
    for (mode, place) in [(0o722, "print-secret has mode 0722"), (0o702, "print-secret has mode 0702")] {
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = gateway.agent.reload_refused(&(with.clone() + &"\n".repeat(usize::try_from(mode).unwrap())));
        assert!(refused.contains(place), "{refused}");
    }
}

#[test]
fn what_a_file_holds_is_changed_while_requests_run_and_each_is_given_the_old_or_the_new() {
    let agent = TestAgent::new("gateway");
    let file = agent.folder().join("token");
    write_by_rename(&file, "hunter2\n");
    let keys = format!("query = \"key\"\nvalue = \"${{file:{}}}\"", file.display());
    let gateway = Gateway::start_before(agent, EchoBackend::holding(), ROLE, &inject(&keys));
    let mut call_on =
        gateway.start_call("/hold", &gateway.workload("spiffe://mesh.test/web/a").each_ref().map(String::as_str));
    call_on.wait_for_line(wait::SOON, "an event", |line| line.starts_with("data"));
    write_by_rename(&file, "hunter3\n");
    wait::until_so("the new secret is used, and no request is refused meanwhile", || {
        assert_eq!(call(&gateway, "/", &[]).status, 200);
        gateway.backend.seen().last().unwrap().line().ends_with("/?key=hunter3 HTTP/1.1")
    });
    let lines = gateway.backend.seen().iter().map(|seen| seen.line().to_owned()).collect::<Vec<_>>();
    assert!(lines.iter().all(|line| line.contains("?key=hunter2 ") || line.contains("?key=hunter3 ")), "{lines:?}");
    assert!(call_on.poll_end().is_none(), "a call under way was ended by a new secret");
}

/// A service that takes the keys of a file and refuses others, as its path says: `/forbidden` refuses every key.
fn service_that_takes(keys: &Path) -> EchoBackend {
    let keys = keys.to_owned();
    EchoBackend::answering(move |seen, out| {
        let known = std::fs::read_to_string(&keys).unwrap();
        let takes = known.lines().any(|key| seen.values("x-api-key") == [key]) && !seen.line().contains("/forbidden");
        let status = if takes { "200 OK" } else { "401 Unauthorized" };
        write!(out, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
    })
}

#[test]
fn a_key_that_the_service_takes_back_costs_one_request_and_none_is_sent_twice() {
    let agent = TestAgent::new("gateway");
    let (known, file) = (agent.folder().join("run/known"), agent.folder().join("next"));
    std::fs::write(&known, "hunter1\nhunter2\n").unwrap();
    write_by_rename(&file, "hunter2\n");
    let keys =
        |value: &str, next: &str| inject(&format!("header = \"x-api-key\"\nvalue = \"{value}\"\nnext = \"{next}\""));
    let from_file = format!("${{file:{}}}", file.display());
    let mut gateway = Gateway::start_before(agent, service_that_takes(&known), ROLE, &keys("hunter1", &from_file));
    let used = |gateway: &Gateway| gateway.backend.seen().last().unwrap().value("x-api-key").unwrap().to_owned();
    let ask = |gateway: &Gateway, path: &str| (call(gateway, path, &["-d", "abc"]), used(gateway));
    let (reply, key) = ask(&gateway, "/");
    assert_eq!((reply.status, &*key), (200, "hunter1"));
    std::fs::write(&known, "hunter2\n").unwrap();
    let (reply, key) = ask(&gateway, "/");
    assert_eq!((reply.status, &*key, gateway.backend.seen().len()), (401, "hunter1", 2), "it was not sent twice");
    let line = gateway.agent.wait_for_audit("the refusal by the service", |line| line["status"] == 401);
    assert_eq!((&line["credential_rotated"], &line["outcome"]), (&true.into(), &"allowed".into()), "{line}");
    for _ in 0..4 {
        let (reply, key) = ask(&gateway, "/");
        assert_eq!((reply.status, &*key), (200, "hunter2"), "both workers know");
    }
    assert_eq!(gateway.agent.metric("countersign_credential_rotations_total", &[("route", "llm")]), 1.0);
    // What a caller causes by asking for what nobody may does not put the old key back.
    assert_eq!(ask(&gateway, "/forbidden").0.status, 401);
    assert_eq!(ask(&gateway, "/").0.status, 200);
    assert_eq!(gateway.agent.metric("countersign_credential_rotations_total", &[("route", "llm")]), 1.0);
    // The operator moves the key up and writes the next one; what is in use stays in use.
    let tables = gateway.tables(&keys("hunter2", "hunter3"));
    gateway.agent.reload(&tables);
    let (reply, key) = ask(&gateway, "/");
    assert_eq!((reply.status, &*key), (200, "hunter2"));
    std::fs::write(&known, "hunter3\n").unwrap();
    assert_eq!(ask(&gateway, "/").0.status, 401);
    assert_eq!(ask(&gateway, "/").1, "hunter3");
    is_told_nowhere(&mut gateway, "hunter");
}

#[test]
fn a_service_may_refuse_a_key_by_another_status() {
    let backend = EchoBackend::answering(|seen, out| {
        let status = if seen.line().contains("?key=hunter2 ") { "200 OK" } else { "400 Bad Request" };
        write!(out, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
    });
    let keys = inject("query = \"key\"\nvalue = \"hunter1\"\nnext = \"hunter2\"\nrefused_by = [400]");
    let gateway = Gateway::start_before(TestAgent::new("gateway"), backend, ROLE, &keys);
    assert_eq!([(); 3].map(|()| call(&gateway, "/", &[]).status), [400, 200, 200]);
}

#[test]
fn a_command_is_run_again_when_the_service_refuses_what_it_has_printed() {
    let agent = TestAgent::new("gateway");
    let known = agent.folder().join("run/known");
    std::fs::write(&known, "hunter1\n").unwrap();
    let (script, before) = command(&agent, "5m", "");
    write_script(&script, "echo hunter1");
    let keys = inject("header = \"x-api-key\"\nvalue = \"${command:vault}\"");
    let gateway = Gateway::start_before(agent, service_that_takes(&known), &before, &keys);
    assert_eq!(call(&gateway, "/", &[]).status, 200);
    std::fs::write(&known, "hunter2\n").unwrap();
    write_script(&script, "echo hunter2");
    wait::until_so("it was run again, five minutes before it is due", || call(&gateway, "/", &[]).status == 200);
}
