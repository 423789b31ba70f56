//! What is taken out of a list of keys, passwords or authorities counts at once, also while a newer config is refused.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::issuer::Forger;
use countersign_tests::pki::{CertificateFiles, Leaf, TestPki};
use countersign_tests::{tools, wait};
use serde_json::Value;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

/// The password `correct horse` as the C library hashes it with cost 10.
const BCRYPT: &str = "$2y$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu";

const KEYS: &str = "any_of = [\"api_key\", \"basic\", \"mtls\"]\n[[inbound.allow]]\nroles = [\"everybody\"]\n";

fn write(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn gateway() -> Gateway {
    let agent = TestAgent::new("gateway");
    let (keys, passwords) = (agent.folder().join("api-keys.json"), agent.folder().join("passwords"));
    write(&passwords, &format!("alice:{BCRYPT}\nold:{BCRYPT}\n"));
    let before = format!(
        "[api_keys]\nfile = {keys:?}\n[passwords]\nfile = {passwords:?}\n[[role]]\nname = \"everybody\"\n\
         members = [\"team:research\", \"basic:alice\", \"basic:old\", \"spiffe://mesh.test/web/*\"]\n"
    );
    Gateway::start_as(agent, &before, KEYS)
}

/// A config that is refused, and that names another file of keys besides.
fn refuse_the_next_config(gateway: &mut Gateway) {
    let elsewhere = gateway.tables_before("api-keys.json", "other-keys.json", &KEYS.replace("everybody", "nobody"));
    let refused = gateway.agent.reload_refused(&elsewhere);
    assert!(refused.contains("nobody"), "{refused}");
}

fn new_key(gateway: &Gateway) -> (String, String) {
    let made = gateway.key(&["create", "--owner", "alice@mesh.test", "--team", "research", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    (made["id"].as_str().unwrap().to_owned(), format!("X-API-Key: {}", made["key"].as_str().unwrap()))
}

#[test]
fn a_key_that_is_revoked_while_a_config_is_refused_opens_nothing() {
    let mut gateway = gateway();
    let ((first, key), (_, other)) = (new_key(&gateway), new_key(&gateway));
    for key in [&key, &other] {
        wait::until_so("the key counts", || gateway.call("/", &["-H", key]).status == 200);
    }
    let mut held = gateway.start_call("/hold", &["-H", &key]);
    wait::until_so("the stream has begun", || gateway.backend.seen().iter().any(|seen| seen.line().contains("/hold")));
    refuse_the_next_config(&mut gateway);
    gateway.allowed("/", &["-H", &key]);
    gateway.key(&["revoke", &first]);
    wait::until_so("the key is refused", || gateway.call("/", &["-H", &key]).status == 401);
    held.wait_for_end(wait::SOON);
    gateway.refused("/", &["-H", &key], 401, "key_revoked");
    gateway
        .agent
        .wait_for_audit("an auditor is told", |line| line["event"] == "key_revoked" && line["key"] == first.as_str());
    gateway.allowed("/", &["-H", &other]);
    assert!(gateway.agent.status()["config_error"].is_string(), "the config is still refused");
    assert!(!gateway.agent.folder().join("other-keys.json").exists(), "the file that does not count was written");
}

#[test]
fn a_key_that_is_revoked_opens_nothing_however_broken_other_files_are() {
    let (agent, partner) = (TestAgent::new("gateway"), TestPki::new("partner"));
    let (keys, bundle) = (agent.folder().join("api-keys.json"), agent.folder().join("partner.pem"));
    partner.write_bundle(&bundle);
    let before = format!("[api_keys]\nfile = {keys:?}\n[[role]]\nname = \"research\"\nmembers = [\"team:research\"]\n");
    let rules = format!(
        "any_of = [\"api_key\", \"mtls\"]\nforeign_bundle = {bundle:?}\n[[inbound.allow]]\nroles = [\"research\"]\n"
    );
    let gateway = Gateway::start_as(agent, &before, &rules);
    let (id, key) = new_key(&gateway);
    wait::until_so("the key counts", || gateway.call("/", &["-H", &key]).status == 200);
    // A certificate that can vouch for nobody in place of an authority, and then no certificate at all.
    let leaf = partner.issue(&Leaf::of_dns("partner.test")).chain_pem();
    for broken in [leaf.as_str(), "nothing"] {
        std::fs::write(&bundle, broken).unwrap();
        gateway.agent.wait_for_status("the broken file is noticed", |status| {
            status["config_error"].as_str().is_some_and(|error| error.contains("partner.pem"))
        });
    }
    gateway.key(&["revoke", &id]);
    wait::until_so("the key is refused", || gateway.call("/", &["-H", &key]).status == 401);
}

#[test]
fn a_password_that_is_taken_out_while_a_config_is_refused_opens_nothing() {
    let mut gateway = gateway();
    let (alice, old) = (["-u", "alice:correct horse"], ["-u", "old:correct horse"]);
    gateway.allowed("/", &alice);
    gateway.allowed("/", &old);
    refuse_the_next_config(&mut gateway);
    let passwords = gateway.agent.folder().join("passwords");
    write(&passwords, &format!("alice:{BCRYPT}\n"));
    wait::until_so("the user is refused", || gateway.call("/", &old).status == 401);
    gateway.refused("/", &old, 401, "password_wrong");
    gateway.allowed("/", &alice);
    // A list that cannot be used says nothing: what it said before stays in use.
    write(&passwords, "alice\n");
    let told = || gateway.agent.process().stderr().iter().any(|line| line.contains("what it said before stays in use"));
    wait::until_so("the unusable list is told of", told);
    gateway.allowed("/", &alice);
    gateway.refused("/", &old, 401, "password_wrong");
}

#[test]
fn an_authority_that_is_taken_out_while_a_config_is_refused_vouches_for_nobody() {
    let mut gateway = gateway();
    let (bundle, own) = (gateway.agent.folder().join("bundle.pem"), gateway.agent.folder().join("own.pem"));
    std::fs::copy(&bundle, &own).unwrap();
    // The callers go on with the authorities of before.
    let cacert = ["--cacert", own.to_str().unwrap()];
    let workload = gateway.workload(FRONTEND);
    let workload: Vec<&str> = workload.iter().map(String::as_str).chain(cacert).collect();
    gateway.allowed("/", &workload);
    refuse_the_next_config(&mut gateway);
    // Whatever is wrong with the own certificate, which is read beside it.
    std::fs::write(CertificateFiles::named(gateway.agent.folder(), "llm").chain, "nothing").unwrap();
    TestPki::new("other").write_bundle(&bundle);
    wait::until_so("the workload is refused", || gateway.call("/", &workload).status != 200);
    gateway.allowed("/", &[&cacert[..], &["-u", "alice:correct horse"]].concat());
}

#[test]
fn an_issuers_key_that_is_taken_out_while_a_config_is_refused_signs_nothing() {
    let (agent, other) = (TestAgent::new("gateway"), tools::folder());
    let forger = Forger::new(agent.folder());
    let before = forger.table("") + "[[role]]\nname = \"user\"\nmembers = [\"user:own/mallory\"]\n";
    let rules = "any_of = [\"jwt\"]\n[[inbound.allow]]\nroles = [\"user\"]\n";
    let mut gateway = Gateway::start_as(agent, &before, rules);
    let token = format!("Authorization: Bearer {}", forger.tokens(300)["good"]);
    gateway.allowed("/", &["-H", &token]);
    gateway.agent.reload_refused(&gateway.tables(&rules.replace("user", "nobody")));
    gateway.allowed("/", &["-H", &token]);
    std::fs::copy(Forger::new(other.path()).keys(), forger.keys()).unwrap();
    wait::until_so("the token is refused", || gateway.call("/", &["-H", &token]).status == 401);
}
