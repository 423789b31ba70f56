//! What a user is shipped: every config, unit, rule and command of `deploy/`, `examples/` and the README is read by the program
//! that it is for.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_tests::backend::EchoBackend;
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::process::{Finished, run};
use countersign_tests::{http, tools};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder of the repository whose names end so.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root().join(folder), ending, &mut found);
    assert!(!found.is_empty(), "{folder} has no file that ends with {ending}");
    found
}

fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
}

#[track_caller]
fn check_agent_config(path: &Path) -> Finished {
    run(tools::agent().args(["check", "--config"]).arg(path))
}

#[test]
fn every_agent_config_is_one_that_the_agent_takes() {
    let shipped = root().join("deploy/config/agent.toml");
    let is_config = |path: &PathBuf| !path.ends_with("Cargo.toml") && !path.to_string_lossy().ends_with(".test.toml");
    let examples = files("examples", ".toml").into_iter().filter(is_config);
    for path in examples.chain([shipped]) {
        let finished = check_agent_config(&path);
        assert_eq!(finished.code, Some(0), "{}: {finished:?}", path.display());
    }
}

#[test]
fn every_table_of_expected_decisions_is_met() {
    for path in files("examples", ".test.toml") {
        let finished = run(tools::agent().arg("test").arg(&path));
        assert_eq!(finished.code, Some(0), "{}: {finished:?}", path.display());
    }
}

/// A line that begins with "#" and no space after it is config that is switched off: each key with its default, and examples.
#[test]
fn what_is_switched_off_in_the_agents_config_can_be_switched_on() {
    let folder = tools::folder();
    let bundle = folder.path().join("partner-bundle.pem");
    countersign_tests::pki::TestPki::new("partner").write_bundle(&bundle);
    let on = |line: &str| match line.strip_prefix('#') {
        Some(config) if !config.starts_with(' ') && !config.is_empty() => config.to_owned(),
        _ => line.to_owned(),
    };
    let text: String = read("deploy/config/agent.toml").lines().map(|line| on(line) + "\n").collect();
    let text = text.replace("/etc/countersign/partner-bundle.json", bundle.to_str().unwrap());
    // The record is kept in one place.
    let text = text.replace("\noutput = \"stdout\"\n", "\n").replace("\nformat = \"json\"\n# In", "\n# In");
    let text = text.replace("/etc/countersign/store-ca.pem", bundle.to_str().unwrap());
    let text = text.replace("/etc/countersign/company-ca.pem", bundle.to_str().unwrap());
    // Both ends would be on this machine, and the service behind one of them the other.
    let text = text.replace("listen    = \"127.0.0.1:11434\"", "listen    = \"127.0.0.1:11436\"");
    let policies = folder.path().join("llm.cedar");
    std::fs::write(&policies, "forbid (principal, action, resource) when { context.weekday == \"sunday\" };\n")
        .unwrap();
    let text = text.replace("/etc/countersign/policies/llm.cedar", policies.to_str().unwrap());
    let text = text.replace("/etc/countersign/policies/llm-out.cedar", policies.to_str().unwrap());
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, &text).unwrap();
    let finished = check_agent_config(&path);
    assert_eq!(finished.code, Some(0), "{finished:?}\n{text}");
    assert!(text.contains("\nbackend_connections = "), "nothing was switched on");
}

/// The shipped config by tables, each with its lines, those that are switched off or text among them.
fn tables_of_the_agents_config() -> Vec<(String, Vec<String>)> {
    let mut tables = vec![(String::new(), Vec::new())];
    for line in read("deploy/config/agent.toml").lines() {
        let line = line.trim_start_matches(['#', ' ']);
        let name = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
        match name.map(|name| name.trim_matches(['[', ']'])).filter(|name| !name.contains(['[', '"'])) {
            Some(name) => tables.push((name.to_owned(), Vec::new())),
            None => tables.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    tables
}

/// What the program can read and the shipped config does not show, nobody finds.
#[test]
fn the_agents_config_has_every_key_that_the_agent_reads() {
    let tables = tables_of_the_agents_config();
    let file = read("agent/src/config/file.rs");
    let (mut missing, mut count) = (Vec::new(), 0);
    for (at, _) in file.match_indices("pub(crate) struct ") {
        let (before, body) = file.split_at(at);
        let Some(body) = body.split_once("\n}\n").map(|(body, _)| body) else { continue };
        // The documentation of a struct says which tables it is: `[audit]`, `[[audit.sink]]`, or the whole file.
        let about = before.rsplit_once("\n/// ").unwrap().1.lines().next().unwrap();
        let mut names: Vec<_> = about.split('`').map(|name| name.trim_matches(['[', ']'])).skip(1).step_by(2).collect();
        if names.is_empty() {
            names.push("");
        }
        for field in body.lines().skip(1).filter_map(|line| line.trim_start().strip_prefix("pub(crate) ")) {
            let key = field.split(':').next().unwrap();
            let is_named = |line: &String| {
                let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
                line.match_indices(key).any(|(at, _)| {
                    !line[..at].ends_with(is_word) && line[at + key.len()..].trim_start().starts_with('=')
                })
            };
            let has = |(table, lines): &(String, Vec<String>)| {
                let is_table = names.iter().any(|name| *table == format!("{name}.{key}").trim_start_matches('.'));
                is_table || names.contains(&table.as_str()) && lines.iter().any(is_named)
            };
            count += 1;
            if !tables.iter().any(has) {
                missing.push(format!("{key} of {about}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(count > 150, "only {count} keys were found");
}

#[test]
fn the_cas_config_has_the_keys_of_the_one_that_init_writes() {
    let folder = tools::folder();
    let (ca, passphrase) = (folder.path().join("ca"), folder.path().join("passphrase"));
    std::fs::write(&passphrase, "correct horse battery staple").unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = ["init", "--trust-domain", "prod.example", "--passphrase-file"];
    run(tools::ca().args(arguments).arg(&passphrase).arg("--dir").arg(&ca)).success();
    let keys = |text: &str| {
        let key = |line: &str| {
            let line = line.strip_prefix('#').unwrap_or(line);
            let (key, _) = line.split_once(" = ")?;
            key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then(|| key.to_owned())
        };
        text.lines().filter_map(key).collect::<BTreeSet<_>>()
    };
    let made = std::fs::read_to_string(ca.join("ca.toml")).unwrap();
    assert_eq!(keys(&read("deploy/config/ca.toml")), keys(&made));
    assert!(keys(&made).contains("trust_domain"), "{made}");
}

#[test]
fn units_are_valid_and_well_confined() {
    for unit in files("deploy", ".service") {
        // 20 is an exposure of 2.0, of 10.
        let security = run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
            .arg(&unit));
        assert_eq!(security.code, Some(0), "{}: {}", unit.display(), security.stdout);
        let program = unit.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&unit).unwrap();
        let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let (path, arguments) = command.split_once(' ').unwrap();
        assert_eq!(path, format!("/usr/local/bin/{program}"));
        known_command(program, arguments);
        for key in ["Type=notify", "WatchdogSec=", "LimitCORE=0", "NoNewPrivileges=", "ProtectSystem=strict"] {
            assert!(text.contains(key), "{} lacks {key}", unit.display());
        }
    }
}

#[test]
fn the_installer_installs_what_the_units_start() {
    tools::need_root("deploy/install into another root");
    let (target, binaries) = (tools::folder(), tools::agent_path().parent().unwrap());
    let install = || {
        run(Command::new(root().join("deploy/install")).env("DESTDIR", target.path()).env("BINARIES", binaries))
            .success()
    };
    assert!(install().contains("countersign-agent.service"));
    let at = |path: &str| target.path().join(path);
    for path in ["usr/local/bin/countersign-ca", "etc/countersign/agent.toml", "var/lib/countersign-agent"] {
        assert!(at(path).exists(), "{path}");
    }
    assert_eq!(check_agent_config(&at("etc/countersign/agent.toml")).code, Some(0));
    std::fs::write(at("etc/countersign/agent.toml"), "# mine\n").unwrap();
    assert!(!install().contains("agent.toml"), "a config that is there is left as it is");
    assert_eq!(std::fs::read_to_string(at("etc/countersign/agent.toml")).unwrap(), "# mine\n");
    let mut documents = Vec::new();
    collect(&at("usr/local/share/doc/countersign"), ".md", &mut documents);
    let links: usize = documents.iter().map(|document| check_links(document)).sum();
    assert!(links > 25, "only {links} links were found in {documents:?}");
}

/// Every metric that an alert rule asks for is one that the agent tells, and the page of metrics has each of them.
#[test]
fn alert_rules_and_the_page_of_metrics_name_what_the_agent_tells() {
    // What is counted for each limit is told where there is one.
    let host_b = "[[limit]]\nname = \"all\"\nby = \"all\"\nrequests = \"1000/1h\"\n".to_owned();
    let mut mesh = Mesh::enrolled(&Plan { host_b, ..Plan::to(EchoBackend::start().url()) });
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
    let told = http::get(mesh.host_b.metrics_address(), "/metrics").unwrap().text().to_owned();
    let names = |text: &str| {
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        words.filter(|word| word.starts_with("countersign_")).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let known = names(&told);
    let asked = names(&read("deploy/prometheus/alerts.yml"));
    assert!(!asked.is_empty());
    let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "known are {known:#?}");
    // A family without rows has a line of its type all the same.
    let families = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let families = families.map(|(name, kind)| name.to_owned() + if kind == "counter" { "_total" } else { "" });
    let page = read("deploy/prometheus/README.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    assert_eq!(rows.flat_map(names).collect::<BTreeSet<_>>(), families.collect::<BTreeSet<_>>());
    mesh.host_a.stop();
}

/// The words between the first and the second quote of lines.
fn quoted<'text>(lines: impl Iterator<Item = &'text str>) -> Vec<&'text str> {
    lines.filter_map(|line| line.split('"').nth(1)).collect()
}

#[test]
fn every_reason_is_explained_on_the_page_of_the_audit_log() {
    let counters = read("agent/src/record/counters.rs");
    let (_, list) = counters.split_once("REASONS: [&str; ").unwrap();
    let reasons = quoted(list.split_once("];\n").unwrap().0.lines());
    assert!(reasons.len() > 100, "{reasons:?}");
    let page = read("deploy/audit/README.md");
    let (_, table) = page.split_once("\n## Reasons\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let explained: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(explained, reasons);
}

/// A refusal whose reason the list does not have would be counted as any other.
#[test]
fn every_reason_of_a_refusal_is_counted() {
    // What only ever ends something that was allowed, or the answer of another agent, is told by the word for that.
    let told_by_another = ["key_changed", "token_key_withdrawn", "unexpected_peer"];
    let counters = read("agent/src/record/counters.rs");
    let mut found = 0;
    for file in ["agent/src", "agent/credentials/src", "certs/src"].iter().flat_map(|folder| files(folder, ".rs")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (_, body) in text.match_indices("fn reason(&self)").map(|(at, _)| text.split_at(at)) {
            let body = body.split_once("\n    }\n").unwrap().0;
            for reason in quoted(body.lines().filter(|line| line.contains("=> \""))) {
                found += 1;
                let is_listed = counters.contains(&format!("\n    \"{reason}\",\n"));
                assert_eq!(is_listed, !told_by_another.contains(&reason), "{}: {reason}", file.display());
            }
        }
    }
    assert!(found > 90, "only {found} reasons were found");
}

/// What is replayed is told apart by the words of the policy, and what it does not know is any other.
#[test]
fn every_reason_of_the_policy_is_replayed() {
    let decide = read("agent/src/policy/decide.rs");
    let of = |from: &str, to: &str| decide.split_once(from).unwrap().1.split_once(to).unwrap().0.to_owned();
    let told = of("fn reason(&self)", "\n    }\n");
    let mut told = quoted(told.lines().filter(|line| line.contains("=> \"")));
    told.sort_unstable();
    let known = of("REASONS: [&'static str; ", "];\n");
    assert_eq!(quoted(known.lines()), told);
}

/// The commands of a text: lines of code that begin with one of our programs, or with what the README calls one by.
fn commands(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let Some(code) = line.strip_prefix("    ") else { continue };
        let code = code.split(" #").next().unwrap().trim();
        let words: Vec<&str> = code.split_whitespace().collect();
        // `sudo -u countersign-ca` names a user.
        let is_program = |place: &usize| {
            matches!(words[*place], "countersign-agent" | "countersign-ca" | "ca")
                && (*place == 0 || words[place - 1] != "-u")
        };
        let place = (0..words.len()).find(is_program);
        let Some(place) = place.filter(|place| words.len() > place + 1 && !code.contains("()")) else { continue };
        let program = if words[place] == "countersign-agent" { "countersign-agent" } else { "countersign-ca" };
        let arguments = words[place + 1..].join(" ");
        // An installer or a service manager names a program without calling it.
        if !matches!(words[0], "cargo" | "sudo" if code.contains("systemctl") || code.contains("cargo build")) {
            found.push((program.to_owned(), arguments));
        }
    }
    found
}

/// The program knows the command, and each of its options.
#[track_caller]
fn known_command(program: &str, arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let mut names: Vec<&str> =
        words.iter().take_while(|word| !word.starts_with('-')).filter(is_name).copied().collect();
    let help = loop {
        let mut command = if program == "countersign-agent" { tools::agent() } else { tools::ca() };
        let finished = run(command.args(&names).arg("--help"));
        if finished.code == Some(0) {
            break finished.stdout;
        }
        assert!(names.len() > 1, "{program} does not know {arguments:?}: {finished:?}");
        names.pop();
    };
    let options = words.iter().filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap());
    for option in options {
        assert!(help.contains(option), "{program} {names:?} does not know {option}:\n{help}");
    }
}

#[test]
fn every_command_of_the_documents_is_one_that_the_programs_know() {
    let mut documents = files("deploy", ".md");
    documents.extend(files("examples", ".md"));
    documents.push(root().join("README.md"));
    let mut count = 0;
    for document in documents {
        for (program, arguments) in commands(&std::fs::read_to_string(&document).unwrap()) {
            known_command(&program, &arguments);
            count += 1;
        }
    }
    assert!(count > 15, "only {count} commands were found");
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut documents = files("deploy", ".md");
    documents.extend(files("examples", ".md"));
    for name in
        ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/parts/README.md"]
    {
        documents.push(root().join(name));
    }
    let count: usize = documents.iter().map(|document| check_links(document)).sum();
    assert!(count > 30, "only {count} links were found");
}

/// Each link of a document that is no URL leads to a file or folder. Tells how many there are.
#[track_caller]
fn check_links(document: &Path) -> usize {
    let text = std::fs::read_to_string(document).unwrap();
    let links = text.match_indices("](").filter_map(|(at, _)| text[at + 2..].split([')', '#']).next());
    let mut count = 0;
    for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
        let target = document.parent().unwrap().join(link);
        assert!(target.exists(), "{}: {link} is not there", document.display());
        count += 1;
    }
    count
}
