//! What programs of a host may do with an outbound: by user, group, or having come over loopback, by rules and conditions.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use countersign_tests::backend::EchoBackend;
use countersign_tests::http::{self, Address, Client};
use countersign_tests::mesh::{FRONTEND, Mesh, Plan, SERVICE};
use countersign_tests::part::Part;
use countersign_tests::process::Process;
use countersign_tests::stream::{LONG_STREAM, Stream};
use countersign_tests::{tools, wait};
use serde_json::Value;

const OVER_LOOPBACK: &str = r#"
[[role]]
name    = "programs"
members = ["local:loopback"]
"#;

const RULES: &str = r#"
[[outbound.deny]]
name    = "no-deletes"
methods = ["DELETE"]

[[outbound.allow]]
name    = "chat"
roles   = ["programs"]
paths   = ["/v1/**"]
when    = 'context.hour < 24 && resource.name != "nothing"'

[[outbound.allow]]
name    = "never"
roles   = ["programs"]
paths   = ["/models"]
when    = 'context.hour == 24'
"#;

/// Connects as a user of whom no rule speaks, again and again, many at once; says how many were answered with 200 at the end.
const STORM: &str = r#"
import os, socket, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
won, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    waiting = []
    for _ in range(100):
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(2)
        try:
            caller.connect(sys.argv[1])
            caller.sendall(b"GET /storm HTTP/1.1\r\nHost: llm\r\n\r\n")
            waiting.append(caller)
        except OSError:
            caller.close()
    for caller in waiting:
        try:
            won += caller.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            pass
        caller.close()
    if not waiting:
        time.sleep(0.05)
    print("round", len(waiting), flush=True)
print("won", won, flush=True)
"#;

fn with_rules(backend: &str, rules: &str) -> Mesh {
    Mesh::of_files(&Plan { outbound: rules.to_owned(), host_a: OVER_LOOPBACK.to_owned(), ..Plan::to(backend) })
}

/// The outbound's line of a request for this path.
fn line_of(mesh: &Mesh, path: &str) -> Value {
    mesh.host_a.wait_for_audit("the outbound's line", |line| line["event"] == "request" && line["path"] == path)
}

#[test]
fn a_program_may_do_what_a_rule_of_the_outbound_allows_and_nothing_else() {
    let backend = EchoBackend::start();
    let mesh = with_rules(&backend.url(), RULES);
    let ask = |method: &str, path: &str| {
        Client::connect(mesh.frontend).unwrap().ask(method, path, &[], b"").unwrap().status()
    };
    assert_eq!(ask("GET", "/v1/a"), 200);
    let line = line_of(&mesh, "/v1/a");
    assert_eq!(
        (&line["peer"], &line["rule"], &line["roles"][0]),
        (&"local:loopback".into(), &"chat".into(), &"programs".into())
    );
    for (method, path, reason) in [
        ("GET", "/elsewhere", "path_not_allowed"),
        ("DELETE", "/v1/b", "denied_by_rule"),
        ("GET", "/models", "condition_not_met"),
    ] {
        assert_eq!(ask(method, path), 403, "{method} {path}");
        assert_eq!(line_of(&mesh, path)["reason"], reason, "{method} {path}");
    }
    assert_eq!(backend.seen().len(), 1, "what is refused here reaches nobody");
    assert!(mesh.host_b.audit().iter().all(|line| line["outcome"] != "denied"), "the other agent was not asked");
}

#[test]
fn a_changed_rule_ends_what_a_program_has_under_way() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = with_rules(&service.url("http"), "[[outbound.allow]]\nroles = [\"programs\"]\n");
    let stream = Stream::open(mesh.frontend, LONG_STREAM);
    let tables = mesh.host_a.tables().replace("roles = [\"programs\"]", "roles = [\"programs\"]\npaths = [\"/v1/**\"]");
    mesh.host_a.reload(&tables);
    let end = stream.wait_for_end(wait::SOON);
    assert!(end.error.is_some(), "{end:?}");
    mesh.host_a.wait_for_audit("the cut stream", |line| line["reason"] == "withdrawn_policy");
}

#[test]
fn what_a_program_has_under_way_ends_with_the_socket_that_it_came_by() {
    let service = Part::serve("plain_server", &[]);
    let (folder, backend) = (tools::folder(), service.url("http"));
    let (one, other) = (folder.path().join("one.sock"), folder.path().join("other.sock"));
    let mut mesh = Mesh::of_files(&Plan::to(&backend));
    let before = mesh.host_a.tables();
    let owner =
        format!("\n[[role]]\nname = \"owner\"\nmembers = [\"local:uid={}\"]\n", rustix::process::geteuid().as_raw());
    let endpoint = mesh.inbound;
    let tables = |listen: &Path, rules: &str| {
        format!(
            "{before}[[outbound]]\nname = \"own\"\nidentity = \"{FRONTEND}\"\nlisten = \"unix:{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"{endpoint}\"]\n{rules}{owner}",
            listen.display(),
        )
    };
    let rules = "[[outbound.allow]]\nroles = [\"owner\"]\n";
    let mut ends = |from: String, to: String| {
        mesh.host_a.reload(&from);
        let stream = Stream::open(Address::Unix(one.clone()), LONG_STREAM);
        mesh.host_a.reload(&to);
        let end = stream.wait_for_end(wait::SOON);
        assert!(end.error.is_some(), "{end:?}");
    };
    // Rules open the socket to everybody; without them its mode decides who comes in, and has not decided on whoever came in before.
    ends(tables(&one, rules), tables(&one, ""));
    ends(tables(&one, ""), tables(&other, ""));
    mesh.host_a.reload(&tables(&one, ""));
    let stream = Stream::open(Address::Unix(one.clone()), LONG_STREAM);
    mesh.host_a.reload(&tables(&one, rules));
    stream.wait_for_more();
    assert!(stream.end().is_none(), "whoever the rules let in goes on: {:?}", stream.end());
}

#[test]
fn whoever_waits_while_rules_are_removed_is_judged_by_the_mode_of_the_socket() {
    let (backend, folder) = (EchoBackend::start(), tools::folder());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let own = folder.path().join("own.sock");
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let (before, endpoint) = (mesh.host_a.tables(), mesh.inbound);
    let tables = |rules: &str| {
        format!(
            "{before}[[outbound]]\nname = \"own\"\nidentity = \"{FRONTEND}\"\nlisten = \"unix:{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"{endpoint}\"]\n{rules}",
            own.display(),
        )
    };
    let rules = "[[outbound.allow]]\nroles = [\"root\"]\n[[role]]\nname = \"root\"\nmembers = [\"local:uid=0\"]\n";
    mesh.host_a.reload(&tables(rules));
    let mut command = std::process::Command::new(tools::python());
    command.args(["-c", STORM, own.to_str().unwrap(), "6"]);
    let mut storm = Process::start("storm", &command);
    storm.wait_for_line(wait::SOON, "it knocks", |line| line == "round 100");
    // Each time there are some in the queue that came while everybody could.
    for _ in 0..3 {
        mesh.host_a.reload(&tables(""));
        assert_eq!(http::get(Address::Unix(own.clone()), "/a").unwrap().status(), 200);
        mesh.host_a.reload(&tables(rules));
    }
    storm.wait_for_line(wait::SOON, "it is over", |line| line == "won 0" || line.starts_with("won "));
    assert!(storm.stdout().contains(&"won 0".to_owned()), "{:?}", storm.stdout().last());
    assert!(backend.seen().iter().all(|seen| !seen.line().contains("/storm")));
}

#[test]
fn what_comes_over_loopback_goes_on_when_rules_are_removed() {
    let service = Part::serve("plain_server", &[]);
    let mut mesh = with_rules(&service.url("http"), "[[outbound.allow]]\nroles = [\"programs\"]\n");
    let stream = Stream::open(mesh.frontend, LONG_STREAM);
    let tables = mesh.host_a.tables().replace("[[outbound.allow]]\nroles = [\"programs\"]\n", "");
    mesh.host_a.reload(&tables);
    stream.wait_for_more();
    assert!(stream.end().is_none(), "nothing was taken from it: {:?}", stream.end());
}

#[test]
fn users_of_a_socket_are_told_apart() {
    let backend = EchoBackend::start();
    let folder = tools::folder();
    let own = folder.path().join("own.sock");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let outbound = |rule: &str| {
        format!(
            "[[outbound]]\nname = \"own\"\nidentity = \"{FRONTEND}\"\nlisten = \"unix:{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"{{inbound}}\"]\n\n[[outbound.allow]]\nroles = [\"owner\"]\n{rule}\n",
            own.display()
        )
    };
    let role = |member: &str| format!("\n[[role]]\nname = \"owner\"\nmembers = [\"{member}\"]\n");
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let before = mesh.host_a.tables();
    let endpoint = mesh.inbound.to_string();
    let mut taken_up = |rule: &str, member: &str| {
        mesh.host_a.reload(&(before.clone() + &outbound(rule).replace("{inbound}", &endpoint) + &role(member)));
    };
    let ask = || http::get(Address::Unix(own.clone()), "/a");
    taken_up("", &format!("local:uid={uid}"));
    assert_eq!(ask().unwrap().status(), 200);
    taken_up("", &format!("local:gid={gid}"));
    assert_eq!(ask().unwrap().status(), 200);
    taken_up(
        &format!("when = 'principal is LocalCaller && principal has uid && principal.uid == {uid}'"),
        &format!("local:uid={uid}"),
    );
    assert_eq!(ask().unwrap().status(), 200);
    taken_up(
        &format!("when = 'principal is LocalCaller && principal has uid && principal.uid != {uid}'"),
        &format!("local:uid={uid}"),
    );
    assert_eq!(ask().unwrap().status(), 403);
    assert_eq!(backend.seen().len(), 3);

    taken_up("", &format!("local:uid={}", uid + 12345));
    let refused = ask();
    assert!(refused.as_ref().map_or(true, |answer| answer.status() == 403), "{refused:?}");
    let line = mesh.host_a.wait_for_audit("the refusal", |line| line["reason"] == "local_caller_not_allowed");
    assert!(line["address"].as_str().unwrap().contains(&format!("uid={uid}")), "{line}");
    assert_eq!(backend.seen().len(), 3);
}

/// One more outbound, on this socket.
fn outbound_at(socket: &Path, mesh: &Mesh) -> String {
    format!(
        "[[outbound]]\nname = \"own\"\nidentity = \"{FRONTEND}\"\nlisten = \"unix:{}\"\nservice = \"{SERVICE}\"\nendpoints = [\"{}\"]\n",
        socket.display(),
        mesh.inbound,
    )
}

#[test]
fn a_user_of_a_socket_has_no_more_places_than_a_peer() {
    let backend = EchoBackend::start();
    let folder = tools::folder();
    let own = folder.path().join("own.sock");
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let tables = "[limits]\nconnections_per_peer = 2\n".to_owned() + &mesh.host_a.tables() + &outbound_at(&own, &mesh);
    mesh.host_a.reload(&tables);
    let open = || Client::connect(Address::Unix(own.clone())).unwrap();
    let answers = |client: &mut Client| client.ask("GET", "/a", &[], b"").is_ok_and(|answer| answer.status() == 200);
    let mut held = [open(), open()];
    assert!(held.iter_mut().all(answers));
    assert!(!answers(&mut open()));
    let line = mesh.host_a.wait_for_audit("a refused connection", |line| line["reason"] == "limit");
    assert_eq!((&line["event"], &line["route"]), (&"connection".into(), &"own".into()), "{line}");
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200, "other sockets have places of their own");
    drop(held);
    wait::until_so("a place is free again", || answers(&mut open()));
}

#[test]
fn a_program_that_may_do_nothing_does_not_fill_the_audit() {
    let backend = EchoBackend::start();
    let folder = tools::folder();
    let own = folder.path().join("own.sock");
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let nobody =
        "[[outbound.allow]]\nroles = [\"nobody\"]\n[[role]]\nname = \"nobody\"\nmembers = [\"local:uid=65534\"]\n";
    let tables = mesh.host_a.tables() + &outbound_at(&own, &mesh) + nobody;
    mesh.host_a.reload(&tables);
    let knock = || drop(http::get(Address::Unix(own.clone()), "/a"));
    let knocks: u64 = 2000;
    (0..knocks).for_each(|_| knock());
    let refused = |line: &Value| line["reason"] == "local_caller_not_allowed" && line["event"] != "omitted_lines";
    let lines = || mesh.host_a.audit().into_iter().filter(refused).collect::<Vec<_>>();
    let told = || mesh.host_a.told(|line| line["reason"] == "local_caller_not_allowed");
    wait::until_so("all that were refused are told of", || {
        knock();
        told() >= knocks
    });
    assert!(u64::try_from(lines().len()).unwrap() < knocks / 2, "{} lines", lines().len());
}

#[test]
fn what_a_program_may_do_is_explained_tested_and_replayed() {
    let backend = EchoBackend::start();
    let mesh = with_rules(&backend.url(), RULES);
    let explain = |more: &[&str]| {
        let question = ["--outbound", "llm", "--peer", "local:loopback"];
        mesh.host_a.ask("explain", &[&question[..], more].concat()).success()
    };
    let said = explain(&["--path", "/v1/a"]);
    assert!(said.contains("decision: allowed by chat") && said.contains("programs: member local:loopback"), "{said}");
    let said = explain(&["--path", "/models"]);
    assert!(said.contains("decision: denied, never would allow it if context.hour == 24"), "{said}");

    assert_eq!(http::get(mesh.frontend, "/v1/a").unwrap().status(), 200);
    let line = line_of(&mesh, "/v1/a");
    let said = mesh.host_a.ask("explain", &[line["decision"].as_str().unwrap()]).success();
    assert!(said.contains("allowed by chat"), "{said}");

    let cases = mesh.host_a.folder().join("policy.test.toml");
    let case = |name: &str, path: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\noutbound = \"llm\"\npeer = [\"local:loopback\"]\npath = \"{path}\"\nexpect = \"{expect}\"\n"
        )
    };
    let config = format!("config = \"{}\"\n", mesh.host_a.config_path().display());
    fs::write(&cases, config + &case("chat", "/v1/a", "allow") + &case("rest", "/elsewhere", "deny")).unwrap();
    let said = mesh.host_a.run(&["test", cases.to_str().unwrap()]).success();
    assert!(said.contains("2 cases, 0 failed"), "{said}");

    let new = mesh.host_a.folder().join("new.toml");
    let text = fs::read_to_string(mesh.host_a.config_path()).unwrap();
    fs::write(&new, text.replace("paths   = [\"/v1/**\"]", "paths   = [\"/v2/**\"]")).unwrap();
    let audit = mesh.host_a.folder().join("replayed.jsonl");
    fs::write(&audit, mesh.host_a.audit_text()).unwrap();
    let said =
        mesh.host_a.run(&["replay", "--policy", new.to_str().unwrap(), "--audit", audit.to_str().unwrap()]).success();
    assert!(said.contains("llm: local:loopback, GET /v1/a: allowed by chat -> denied: path_not_allowed"), "{said}");
}
