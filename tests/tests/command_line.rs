//! The contract of the command lines: help with an example, JSON where data is printed, exit codes.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::process::Command;

use countersign_tests::backend::EchoBackend;
use countersign_tests::ca::TestCa;
use countersign_tests::http;
use countersign_tests::mesh::{DOMAIN, Mesh, OTHER, Plan};
use countersign_tests::process::run;
use countersign_tests::tools;
use serde_json::Value;

const AGENT: &[&[&str]] = &[&["check"], &["enroll"], &["explain"], &["renew"], &["run"], &["status"]];

const CA: &[&[&str]] = &[
    &["entry", "add"],
    &["entry", "list"],
    &["entry", "remove"],
    &["init"],
    &["intermediate", "renew"],
    &["journal"],
    &["revoke"],
    &["serve"],
    &["status"],
    &["token", "create"],
];

/// One of the two programs, and its commands.
struct Program {
    command: fn() -> Command,
    commands: &'static [&'static [&'static str]],
}

const PROGRAMS: [Program; 2] =
    [Program { command: tools::agent, commands: AGENT }, Program { command: tools::ca, commands: CA }];

#[test]
fn every_command_has_help_with_an_example() {
    for Program { command: program, commands } in PROGRAMS {
        for command in commands {
            let help = run(program().args(*command).arg("--help")).success();
            assert!(help.contains("Example"), "{command:?} has no example:\n{help}");
        }
        assert!(run(program().arg("--version")).success().contains("countersign"));
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for Program { command: program, commands } in PROGRAMS {
        for arguments in [&["--no-such-option"], &["no-such-command"]] {
            assert_eq!(run(program().args(arguments)).code, Some(2), "{arguments:?}");
        }
        for command in commands {
            let finished = run(program().args(*command).arg("--no-such-option"));
            assert_eq!(finished.code, Some(2), "{command:?}: {finished:?}");
        }
    }
}

#[test]
fn a_config_that_is_not_there_is_exit_code_78_and_is_named() {
    for (mut program, command) in [(tools::agent(), "check"), (tools::agent(), "run"), (tools::ca(), "serve")] {
        let finished = run(program.args([command, "--config", "/nowhere/at-all.toml"]));
        assert_eq!(finished.code, Some(78), "{command}: {finished:?}");
        assert!(finished.stderr.contains("/nowhere/at-all.toml"), "{finished:?}");
    }
}

#[test]
fn an_agent_that_does_not_run_is_exit_code_1_and_says_so() {
    let mut mesh = Mesh::of_files(&Plan::to("http://127.0.0.1:9"));
    mesh.host_b.stop();
    for command in ["status", "renew"] {
        let finished = mesh.host_b.ask(command, &[]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains("agent.sock"), "{finished:?}");
    }
}

#[test]
fn commands_that_print_data_print_json_when_asked() {
    let mut ca = TestCa::init(DOMAIN);
    ca.start();
    let mesh = Mesh::enrolled_at(ca, &Plan::to(EchoBackend::start().url()));
    let decision = http::get(mesh.other, "/a").unwrap().json()["decision_id"].as_str().unwrap().to_owned();
    mesh.host_b.wait_for_audit("the refusal", |line| line["decision"] == decision.as_str());
    let ca = mesh.ca.as_ref().unwrap();
    let said = [
        ("agent status", mesh.host_b.ask("status", &["--json"])),
        ("agent explain decision", mesh.host_b.ask("explain", &["--json", &decision])),
        ("agent explain question", mesh.host_b.ask("explain", &["--json", "--inbound", "llm", "--peer", OTHER])),
        ("ca status", ca.ask(&["status"], &["--json"])),
        ("ca entry list", ca.ask(&["entry", "list"], &["--json"])),
        ("ca token list", ca.ask(&["token", "list"], &["--json"])),
        ("ca token create", ca.ask(&["token", "create"], &["--host", "host-c", "--json"])),
        ("ca journal", ca.ask(&["journal"], &["--json"])),
    ];
    let mut wrong = Vec::new();
    for (what, finished) in said {
        let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
        if finished.code != Some(0) || finished.stdout.is_empty() || !finished.stdout.lines().all(is_json) {
            wrong.push(format!("{what}: {finished:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_ca_is_managed_while_it_runs_and_while_it_does_not() {
    let mut ca = TestCa::init(DOMAIN);
    for running in [false, true] {
        if running {
            ca.start();
        }
        let id = format!("spiffe://mesh.test/{running}");
        ca.grant("host-a", &id, &["--dns", "a.mesh.test", "--ttl", "10m"]);
        assert!(ca.ask(&["entry", "list"], &[]).success().contains(&id));
        ca.revoke(&id);
        let status: Value = serde_json::from_str(&ca.ask(&["status"], &["--json"]).success()).unwrap();
        assert_eq!(status["running"], running);
        assert!(status["revoked_ids"].to_string().contains(&id), "{status}");
        ca.lift(&id);
        ca.ask(&["entry", "remove"], &["--host", "host-a", "--id", &id]).success();
        assert!(!ca.ask(&["entry", "list"], &[]).success().contains(&id));
        for kind in ["entry_added", "identity_revoked", "identity_lifted", "entry_removed"] {
            let lines = ca.journal_of(kind);
            assert!(lines.iter().any(|line| line["detail"]["id"] == id.as_str()), "{kind} of {id}: {lines:#?}");
        }
    }
    ca.stop();
    assert!(ca.ask(&["journal", "verify"], &[]).success().contains("none changed"));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let ca = TestCa::init(DOMAIN);
    for (what, arguments, said) in [
        ("a foreign trust domain", ["--host", "a", "--id", "spiffe://elsewhere.test/a"], "elsewhere.test"),
        ("the CA's own names", ["--host", "a", "--id", "spiffe://mesh.test/countersign/host/b"], "countersign"),
        ("a host's name with a slash", ["--host", "a/b", "--id", "spiffe://mesh.test/a"], "a/b"),
    ] {
        let finished = ca.ask(&["entry", "add"], &arguments);
        assert!(matches!(finished.code, Some(1 | 2)), "{what}: {finished:?}");
        assert!(finished.stderr.contains(said), "{what}: {finished:?}");
    }
}

#[test]
fn a_ca_with_encrypted_keys_serves_and_one_without_says_so_loudly() {
    let mut ca = TestCa::init_encrypted(DOMAIN);
    for key in ["root.key", "intermediate.key"] {
        let text = std::fs::read_to_string(ca.dir().join(key)).unwrap();
        assert!(text.starts_with(&format!("-----BEGIN ENCRYPTED {} KEY-----", "PRIVATE")), "{key}");
    }
    ca.start();
    assert!(ca.process().stderr().iter().all(|line| !line.contains("not encrypted")));
    let folder = tools::folder();
    let dir = folder.path().join("ca");
    let finished = run(tools::ca()
        .args(["init", "--trust-domain", DOMAIN, "--name", "localhost", "--no-passphrase", "--dir"])
        .arg(&dir));
    assert!(finished.stderr.contains("NOT ENCRYPTED"), "{finished:?}");
    let again = run(tools::ca()
        .args(["init", "--trust-domain", DOMAIN, "--name", "localhost", "--no-passphrase", "--dir"])
        .arg(&dir));
    assert_eq!(again.code, Some(1), "a CA is not made over another: {again:?}");
}
