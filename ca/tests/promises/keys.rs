//! The CA's keys at rest.

use std::process::Command;

use crate::support::{TestCa, command, run};

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

#[test]
fn another_key_than_the_intermediates_is_refused() {
    let ca = TestCa::init();
    std::fs::copy(ca.dir().join("root.key"), ca.dir().join("intermediate.key")).unwrap();
    let said = ca.ask("serve", &[]).failed_with(1);
    assert!(said.contains("does not hold the key of the intermediate certificate"), "{said}");
}
