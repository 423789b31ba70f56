//! The CA's keys at rest.

use std::process::Command;
use std::time::Duration;

use countersign_certs::csr;
use countersign_certs::issuance::Reason;
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use countersign_certs::pem;

use crate::support::{Answer, Host, TestCa, command, id, run, until};

const PASSPHRASE: &str = "correct horse";

#[test]
fn openssl_reads_the_encrypted_keys_and_the_ca_serves_with_the_passphrase_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let passphrase = folder.path().join("ca_passphrase");
    std::fs::write(&passphrase, format!("{PASSPHRASE}\n")).unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut ca = TestCa::init_with(&["--passphrase-file", passphrase.to_str().unwrap()]);
    for (name, pass, opens) in [("root.key", PASSPHRASE, true), ("intermediate.key", "wrong", false)] {
        let output = Command::new("openssl")
            .args(["pkey", "-noout", "-passin", &format!("pass:{pass}"), "-in"])
            .arg(ca.dir().join(name))
            .output()
            .unwrap();
        assert_eq!(output.status.success(), opens, "{output:?}");
    }
    let text = std::fs::read_to_string(ca.config()).unwrap();
    let line = format!("passphrase = \"file:{}\"", passphrase.display());
    assert!(text.contains(&line), "{text}");

    std::fs::write(ca.config(), text.replace(&line, "")).unwrap();
    let said = ca.ask("serve", &[]).failed_with(1);
    assert!(said.contains("the key is encrypted and no passphrase was given"), "{said}");
    // The systemd credential is found without being named.
    ca.serve_in(command().env("CREDENTIALS_DIRECTORY", folder.path()));
    assert_eq!(ca.stop(), Some(0));
}

#[test]
fn a_passphrase_that_everybody_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (dir, passphrase) = (folder.path().join("ca"), folder.path().join("passphrase"));
    std::fs::write(&passphrase, PASSPHRASE).unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (dir, passphrase) = (dir.to_str().unwrap(), passphrase.to_str().unwrap());
    let base = ["init", "--trust-domain", "prod.example", "--name", "ca.example", "--dir", dir];
    let said = run(&[&base[..], &["--passphrase-file", passphrase]].concat()).failed_with(1);
    assert!(said.contains("every user can read it; run: chmod o-rwx"), "{said}");
}

#[test]
fn keys_of_every_kind_can_be_had_and_openssl_verifies_their_chain() {
    for kind in ["p256", "p384", "ed25519"] {
        let mut ca = TestCa::init_with(&["--no-passphrase", "--key-algorithm", kind]);
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .args([ca.dir().join("root.pem"), ca.dir().join("intermediate.pem")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{kind}: {output:?}");
        ca.serve();
    }
}

#[test]
fn root_and_intermediate_are_what_they_should_be() {
    let ca = TestCa::init();
    let text = |name: &str| {
        let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(ca.dir().join(name)).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let (root, intermediate) = (text("root.pem"), text("intermediate.pem"));
    for certificate in [&root, &intermediate] {
        assert!(certificate.contains("X509v3 Basic Constraints: critical"), "{certificate}");
        assert!(
            certificate.contains("Certificate Sign, CRL Sign") && certificate.contains("URI:spiffe://prod.example")
        );
    }
    assert!(root.contains("CA:TRUE\n") && intermediate.contains("CA:TRUE, pathlen:0"), "{intermediate}");
}

#[test]
fn a_start_removes_what_a_killed_writer_of_keys_left() {
    let mut ca = TestCa::init();
    let left = ca.dir().join(format!(".intermediate.key.{}.0.new", u32::MAX));
    std::fs::write(&left, "half a key").unwrap();
    ca.serve();
    assert!(!left.exists());
}

#[test]
fn serve_needs_no_root_key() {
    let mut ca = TestCa::init();
    std::fs::remove_file(ca.dir().join("root.key")).unwrap();
    ca.serve();
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test]
async fn a_renewed_intermediate_signs_without_a_restart_and_what_the_old_one_signed_stays_good() {
    let mut ca = TestCa::start();
    let host = ca.host("gpu-1").await;
    ca.grant("gpu-1", &id("/llm"));
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let request = csr::create_unnamed(&key).unwrap();
    let before = host.issue_for(&id("/llm"), &request).await;
    let (elsewhere, beside) = (tempfile::tempdir().unwrap(), ca.dir().join("root.key"));
    let away = elsewhere.path().join("root.key");
    assert!(ca.ask_json("status")["warnings"][0].as_str().unwrap().contains("root.key lies beside the CA"));
    assert!(ca.log().iter().any(|line| line.contains("root.key lies beside the CA")));
    std::fs::rename(&beside, &away).unwrap();
    assert_eq!(ca.ask_json("status")["warnings"].as_array().unwrap().len(), 0);

    let said = ca.ask("intermediate renew", &[]).failed_with(1);
    assert!(said.contains("root.key is not there; bring the root's key here"), "{said}");
    let other = ca.dir().join("intermediate.key");
    let said = ca.ask("intermediate renew", &["--root-key", other.to_str().unwrap()]).failed_with(1);
    assert!(said.contains("does not hold the key of the root certificate"), "{said}");
    let lines = ca.journal().len();
    let printed = ca.ask("intermediate renew", &["--root-key", away.to_str().unwrap()]).succeeded();
    let journal = ca.journal();
    assert_eq!(
        journal[lines..].iter().map(|line| line["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["intermediate_intended", "intermediate_issued"]
    );
    assert_eq!(journal[lines + 1]["detail"]["certificate_sha256"], printed.trim());
    assert_eq!(journal[lines]["detail"]["serial"], journal[lines + 1]["detail"]["serial"]);
    assert_eq!(ca.ask_json("status")["intermediate_sha256"], printed.trim());

    until("it is taken up", Duration::from_secs(10), || ca.log().iter().any(|line| line.contains("taken up"))).await;
    let after = host.issue_for(&id("/llm"), &request).await;
    let intermediate = |answer: &Answer| pem::certificates(answer.chain().as_bytes()).unwrap().remove(1);
    assert_ne!(intermediate(&before), intermediate(&after));
    for answer in [&before, &after] {
        let workload = host.showing(&key, answer.chain(), &id("/llm"));
        assert_eq!(workload.issue(&id("/llm")).await.refused().0, Reason::NotAHost, "it is believed who it is");
        openssl_verifies(&ca, answer.chain());
    }
    ca.host("gpu-2").await;
    assert_eq!(ca.stop(), Some(0));
    ca.serve();
    host_comes_back(&ca, &host).await;
    ca.ask("journal verify", &[]).succeeded();
}

/// With the certificate that the old intermediate signed, at the address that the CA has now.
async fn host_comes_back(ca: &TestCa, host: &Host) {
    host.at(ca.address()).issue(&id("/countersign/host/gpu-1")).await.chain();
}

fn openssl_verifies(ca: &TestCa, chain: &str) {
    let path = ca.dir().join("chain.pem");
    std::fs::write(&path, chain).unwrap();
    let verify = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(ca.dir().join("root.pem"))
        .arg("-untrusted")
        .args([&path, &path])
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
}

#[test]
fn a_renewal_that_was_killed_leaves_a_ca_that_serves_and_is_ended_by_the_next() {
    let mut ca = TestCa::init();
    let (key, next) = (ca.dir().join("intermediate.key"), ca.dir().join("intermediate.key.next"));
    let old = ca.dir().join("old.key");
    std::fs::copy(&key, &old).unwrap();
    ca.ask("intermediate renew", &[]).succeeded();
    assert!(!next.exists());
    // As it is when only the certificate was put in place.
    std::fs::rename(&key, &next).unwrap();
    std::fs::rename(&old, &key).unwrap();
    ca.serve();
    assert_eq!(ca.stop(), Some(0));
    ca.ask("intermediate renew", &[]).succeeded();
    assert!(!next.exists());
    ca.serve();
    assert_eq!(ca.stop(), Some(0));
}

#[test]
fn a_renewed_key_is_encrypted_as_the_one_before() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let passphrase = folder.path().join("passphrase");
    std::fs::write(&passphrase, PASSPHRASE).unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut ca = TestCa::init_with(&["--passphrase-file", passphrase.to_str().unwrap(), "--key-algorithm", "p384"]);
    let before = std::fs::read(ca.dir().join("intermediate.key")).unwrap();
    ca.serve();
    ca.ask("intermediate renew", &[]).succeeded();
    let after = std::fs::read(ca.dir().join("intermediate.key")).unwrap();
    let encrypted = format!("-----BEGIN ENCRYPTED {} KEY-----", "PRIVATE");
    assert!(after.starts_with(encrypted.as_bytes()) && after != before);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let taken_up = || ca.log().iter().any(|line| line.contains("taken up"));
    runtime.block_on(until("it is taken up", Duration::from_secs(20), taken_up));
    assert!(!ca.log().iter().any(|line| line.contains("not taken up")));
}

#[test]
fn another_key_than_the_intermediates_is_refused() {
    let ca = TestCa::init();
    std::fs::copy(ca.dir().join("root.key"), ca.dir().join("intermediate.key")).unwrap();
    let said = ca.ask("serve", &[]).failed_with(1);
    assert!(said.contains("does not hold the key of the intermediate certificate"), "{said}");
}
