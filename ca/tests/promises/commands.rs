//! The command line: the same beside a running CA and with it stopped, and clear about what is wrong.

use crate::support::{TRUST_DOMAIN, TestCa, contents, id, run};

#[test]
fn init_leaves_keys_open_only_if_told_to_and_prints_the_fingerprint_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let dir = dir.to_str().unwrap();
    let arguments = ["init", "--trust-domain", TRUST_DOMAIN, "--name", "ca.prod.example", "--dir", dir];
    let said = run(&arguments).failed_with(1);
    assert!(said.contains("to leave the keys unencrypted, say --no-passphrase"), "{said}");
    assert!(!std::path::Path::new(dir).exists());
    let made = run(&[&arguments[..], &["--no-passphrase"]].concat());
    assert!(made.talk.starts_with("WARNING: THE PRIVATE KEYS OF THIS CA ARE NOT ENCRYPTED."), "{}", made.talk);
    let printed = made.succeeded();
    let openssl = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &format!("{dir}/root.pem")])
        .output()
        .unwrap();
    let openssl = String::from_utf8(openssl.stdout).unwrap().replace(':', "").to_lowercase();
    assert_eq!(openssl.trim().rsplit('=').next(), Some(printed.trim()));
}

#[test]
fn a_second_init_is_refused_and_changes_nothing() {
    let ca = TestCa::init();
    let before = contents(&ca.dir());
    let dir = ca.dir();
    let arguments = ["init", "--trust-domain", "other.example", "--name", "ca.example", "--dir", dir.to_str().unwrap()];
    let said = run(&arguments).failed_with(1);
    assert!(said.contains("already holds a CA, which is left as it is; choose another --dir"), "{said}");
    assert_eq!(contents(&ca.dir()), before);
}

#[test]
fn an_init_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, passphrase) = (folder.path().join("ca"), folder.path().join("passphrase"));
    let init = |more: &[&str]| {
        let base = ["init", "--trust-domain", TRUST_DOMAIN, "--name", "ca.example", "--dir", dir.to_str().unwrap()];
        run(&[&base, more].concat())
    };
    std::fs::write(&passphrase, "\n").unwrap();
    init(&["--passphrase-file", passphrase.to_str().unwrap()]).failed_with(1);
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("ca.sqlite"), "").unwrap();
    init(&["--no-passphrase"]).failed_with(1);
    assert_eq!(contents(&dir).len(), 1, "only what was there before");
    std::fs::remove_file(dir.join("ca.sqlite")).unwrap();
    init(&["--no-passphrase"]).succeeded();
}

#[test]
fn every_file_of_a_new_ca_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let ca = TestCa::init();
    let names: Vec<_> = contents(&ca.dir()).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for path in names {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
}

#[tokio::test]
async fn commands_work_beside_a_running_ca_and_with_it_stopped() {
    let mut ca = TestCa::init();
    everything(&ca, "stopped");
    assert_eq!(ca.ask_json("status")["running"], false);
    ca.serve();
    everything(&ca, "running");
    ca.host("late").await;
    assert_eq!(ca.stop(), Some(0));
    everything(&ca, "again");
    let status = ca.ask_json("status");
    assert_eq!(status["entries"], 3);
    assert_eq!(status["journal_lines"], ca.ask_json("journal verify")["lines"]);
    assert_eq!(status["journal_fault"], serde_json::Value::Null);
    assert_eq!(status["intermediate_sha256"].as_str().unwrap().len(), 64);
    assert!(status["hosts"]["late"].is_string(), "{status}");
    ca.ask("journal verify", &[]).succeeded();
}

fn everything(ca: &TestCa, when: &str) {
    let (kept, gone) = (id(&format!("/{when}/kept")), id(&format!("/{when}/gone")));
    ca.grant("gpu-1", &kept);
    ca.grant("gpu-1", &gone);
    ca.ask("entry remove", &["--host", "gpu-1", "--id", &gone]).succeeded();
    let listed = ca.ask("entry list", &["--host", "gpu-1"]).succeeded();
    assert!(listed.contains(&kept) && !listed.contains(&gone), "{listed}");
    assert_eq!(ca.ask("entry list", &["--host", "nobody", "--json"]).succeeded(), "[]\n");
    let token = ca.ask("token create", &["--host", when]).succeeded();
    assert_eq!(token.lines().count(), 1);
    assert!(token.starts_with("countersign-join-1."), "{token}");
    let tokens = ca.ask_json("token list");
    let mine = tokens.as_array().unwrap().iter().find(|token| token["host"] == when).unwrap();
    assert_eq!(mine["state"], "unused");
    ca.ask("revoke", &["--id", &gone]).succeeded();
    assert!(ca.ask("status", &[]).succeeded().contains(&gone));
    ca.ask("revoke", &["--lift", "--id", &gone]).succeeded();
}

#[test]
fn bad_names_are_refused_with_the_reason() {
    let ca = TestCa::init();
    ca.grant("gpu-1", &id("/llm"));
    for (host, wanted, expected) in [
        ("gpu-1", id("/countersign/ca"), "is reserved: IDs under /countersign/ belong to the CA and to hosts"),
        ("gpu-1", id("/countersign/host/gpu-2"), "is reserved"),
        ("gpu-1", "spiffe://other.example/llm".to_owned(), "this CA signs for prod.example"),
        ("gpu/1", id("/web"), "\"gpu/1\" cannot be a host's name"),
        ("", id("/web"), "cannot be a host's name"),
        ("gpu-1", id("/llm"), "host gpu-1 already has an entry for spiffe://prod.example/llm; remove it first"),
    ] {
        let said = ca.ask("entry add", &["--host", host, "--id", &wanted]).failed_with(1);
        assert!(said.contains(expected), "{said}");
    }
    assert!(ca.ask("token create", &["--host", "a b"]).failed_with(1).contains("cannot be a host's name"));
    let missing = ca.ask("entry remove", &["--host", "gpu-1", "--id", &id("/web")]).failed_with(1);
    assert!(missing.contains("host gpu-1 has no entry for"), "{missing}");
    let dns = ca.ask("entry add", &["--host", "gpu-1", "--id", &id("/web"), "--dns", "not a name"]).failed_with(1);
    assert!(dns.starts_with("error: "), "{dns}");
    assert!(ca.ask("token revoke", &["nothing"]).failed_with(1).contains("there is no unused join token nothing"));
}

#[test]
fn wrong_usage_exits_with_2_and_help_shows_an_example() {
    let ca = TestCa::init();
    ca.ask("entry add", &["--host", "gpu-1"]).failed_with(2);
    ca.ask("entry add", &["--host", "gpu-1", "--id", "http://x"]).failed_with(2);
    ca.ask("token create", &["--host", "gpu-1", "--ttl", "soon"]).failed_with(2);
    ca.ask("revoke", &[]).failed_with(2);
    ca.ask("revoke", &["--serial", "ab", "--lift"]).failed_with(2);
    run(&["init"]).failed_with(2);
    run(&["frobnicate"]).failed_with(2);
    for command in [
        "init",
        "serve",
        "status",
        "intermediate renew",
        "revoke",
        "journal",
        "journal list",
        "journal verify",
        "entry add",
        "entry list",
        "entry remove",
        "token create",
        "token list",
        "token revoke",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run(&words).succeeded();
        assert!(help.contains("Example") && help.contains("countersign-ca"), "{command}: {help}");
    }
}

#[test]
fn a_wrong_config_is_refused_with_its_place_and_78() {
    let ca = TestCa::init();
    let good = std::fs::read_to_string(ca.config()).unwrap();
    let path = ca.config().display().to_string();
    std::fs::write(ca.config(), good.replace("listen = ", "lisen = ")).unwrap();
    let line = good.lines().position(|line| line.starts_with("listen = ")).unwrap() + 1;
    for command in ["serve", "status", "entry list"] {
        let said = ca.ask(command, &[]).failed_with(78);
        assert!(said.contains(&format!("{path}:{line}:1: unknown key \"lisen\"")), "{said}");
        assert!(said.contains(&format!("\n{line} | lisen = ")) && said.contains(" | ^^^^^\n"), "{said}");
        assert!(said.contains("hint: did you mean \"listen\"?"), "{said}");
    }
    std::fs::remove_file(ca.config()).unwrap();
    ca.ask("serve", &[]).failed_with(78);
}

#[test]
fn a_second_ca_on_the_same_address_ends_before_it_writes() {
    let mut ca = TestCa::init();
    ca.serve();
    let listen = format!("listen = \"{}\"", ca.address());
    let text = std::fs::read_to_string(ca.config()).unwrap();
    std::fs::write(ca.config(), text.replace("listen = \"127.0.0.1:0\"", &listen)).unwrap();
    let lines = ca.journal().len();
    let said = ca.ask("serve", &[]).failed_with(1);
    assert!(said.contains("cannot be listened on: Address already in use"), "{said}");
    assert_eq!(ca.journal().len(), lines);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let ca = TestCa::init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ca.tamper("INSERT INTO migrations (version) VALUES (99)")).unwrap();
    let said = ca.ask("status", &[]).failed_with(1);
    assert!(said.contains("the store has version 99, this program knows 2"), "{said}");
}
