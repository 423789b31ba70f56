//! Sockets that systemd opens are served for as long as the agent runs, whatever becomes of its config.
#![allow(clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::os::unix::fs::PermissionsExt;

use countersign_tests::backend::EchoBackend;
use countersign_tests::http::{self, Address};
use countersign_tests::mesh::{Mesh, Plan};
use countersign_tests::tools;

/// A mesh whose caller was handed the sockets of both its outbounds, and the tables of its config.
fn handed_over(backend: &EchoBackend) -> (Mesh, String) {
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    mesh.host_a.stop();
    let tables = mesh.host_a.tables();
    let tables = tables
        .replace(&mesh.frontend.to_string(), "systemd:frontend")
        .replace(&mesh.other.to_string(), "systemd:other");
    mesh.host_a.hand_over(&[("frontend", mesh.frontend.into()), ("other", mesh.other.into())]);
    mesh.host_a.configure(&tables);
    mesh.host_a.start();
    (mesh, tables)
}

fn both_are_served(mesh: &Mesh) {
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
}

#[test]
fn every_socket_that_was_handed_over_is_served() {
    let backend = EchoBackend::start();
    let (mesh, _) = handed_over(&backend);
    both_are_served(&mesh);
}

#[test]
fn a_socket_that_was_handed_over_outlives_refused_configs_and_removed_routes() {
    let backend = EchoBackend::start();
    let (mut mesh, tables) = handed_over(&backend);
    let (without_other, _) = tables.split_once("[[outbound]]\nname      = \"llm-as-other\"").unwrap();
    mesh.host_a.reload(without_other);
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    // The port of the last route is taken, and only after the socket of the one before was.
    for name in ["taken", "taken-too"] {
        let taken = format!(
            "{tables}\n[[outbound]]\nname = \"{name}\"\nidentity = \"spiffe://mesh.test/other\"\nlisten = \"{}\"\nservice = \"spiffe://mesh.test/llm\"\nendpoints = [\"host-b:1\"]\n",
            mesh.inbound
        );
        let refused = mesh.host_a.reload_refused(&taken);
        assert!(refused.contains(&format!("\"{name}\" cannot listen")), "{refused}");
    }
    mesh.host_a.reload(&tables);
    both_are_served(&mesh);
}

#[test]
fn a_unix_socket_that_every_user_can_reach_has_rules_or_is_refused() {
    let (backend, folder) = (EchoBackend::start(), tools::folder());
    let path = folder.path().join("frontend.sock");
    let uid = rustix::process::geteuid().as_raw();
    let mut mesh = Mesh::of_files(&Plan {
        outbound: "[[outbound.allow]]\nroles = [\"owner\"]\n".to_owned(),
        host_a: format!("[[role]]\nname = \"owner\"\nmembers = [\"local:uid={uid}\", \"local:loopback\"]\n"),
        ..Plan::to(backend.url())
    });
    mesh.host_a.stop();
    let with_rules = mesh.host_a.tables().replacen(&mesh.frontend.to_string(), "systemd:frontend", 1);
    mesh.host_a.hand_over(&[("frontend", Address::Unix(path.clone()))]);
    mesh.host_a.configure(&with_rules);
    mesh.host_a.start();
    let ask = || http::get(Address::Unix(path.clone()), "/a").unwrap().status();
    assert_eq!(ask(), 200);
    let without = with_rules.replacen("[[outbound.allow]]\nroles = [\"owner\"]\n", "", 1);
    let refused = mesh.host_a.reload_refused(&without);
    assert!(refused.contains("every user of this host could reach this socket"), "{refused}");
    assert_eq!(ask(), 200);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    mesh.host_a.reload(&without);
    assert_eq!(ask(), 200);
}
