//! Promise 3: nothing drops on rotation or reload.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::http;
use countersign_tests::load::Load;
use countersign_tests::mesh::{FRONTEND, Mesh, Plan, SERVICE, files_of};
use countersign_tests::pki::{CertificateFiles, Leaf, TestPki, write_by_rename};
use countersign_tests::process::run;
use countersign_tests::stream::Stream;
use countersign_tests::wait;

/// Clients that ask all the time, and a stream that must outlive everything.
struct Traffic {
    load: Load,
    stream: Stream,
}

impl Traffic {
    fn start(mesh: &Mesh, clients: usize) -> Self {
        let stream = Stream::open(mesh.frontend, "/events");
        Self { load: Load::start(mesh.frontend, "/a", clients), stream }
    }

    /// Nothing was lost, and enough was asked for that to mean something.
    #[track_caller]
    fn nothing_was_lost(self, at_least: u64) {
        self.stream.wait_for_more();
        wait::until_so("enough is asked for", || self.load.answered() >= at_least);
        let (answered, failures) = self.load.finish();
        assert!(
            failures.is_empty(),
            "{} of {answered} were lost: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        self.stream.wait_for_more();
    }
}

#[test]
fn a_thousand_renewals_and_a_hundred_reloads_under_load_lose_no_request() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::enrolled(&Plan::to(backend.url()));
    let traffic = Traffic::start(&mesh, 20);
    let Mesh { mut host_a, mut host_b, ca, .. } = mesh;
    let renewals = [(&host_a, FRONTEND), (&host_b, SERVICE)].map(|(agent, id)| {
        let mut command = agent.running_command("renew");
        command.args(["--id", id]);
        command
    });
    // Whatever fails in a thread, all are waited for before the agents are dropped.
    std::thread::scope(|scope| {
        for command in renewals {
            scope.spawn(move || (0..500).for_each(|_| drop(run(&command).success())));
        }
        scope.spawn(|| {
            for round in 0..50 {
                reload_once(&mut host_b, round);
                reload_once(&mut host_a, round);
            }
        });
    });
    traffic.nothing_was_lost(5_000);
    let ca = ca.unwrap();
    let intents = ca.journal_of("issue_intended");
    for id in [FRONTEND, SERVICE] {
        let count = intents.iter().filter(|line| line["detail"]["id"] == id).count();
        assert!(count >= 500, "{id} was renewed {count} times");
    }
    assert_eq!(ca.journal_of("issued").len(), intents.len());
}

/// Another good config; every fifth time a broken one before.
fn reload_once(agent: &mut TestAgent, round: usize) {
    let tables = agent.tables();
    let good = tables.lines().filter(|line| !line.starts_with("# round")).collect::<Vec<_>>().join("\n");
    if round.is_multiple_of(5) {
        agent.reload_refused(&format!("{good}\n[limits]\nhandshakes = \"many\"\n"));
    }
    agent.reload(&format!("{good}\n# round {round}\n"));
}

#[test]
fn certificates_in_files_that_are_replaced_under_load_lose_no_request() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let traffic = Traffic::start(&mesh, 8);
    for round in 0..20 {
        for (agent, id) in [(&mesh.host_a, FRONTEND), (&mesh.host_b, SERVICE)] {
            let issued = mesh.pki().issue(&Leaf::of(id));
            if round % 2 == 0 {
                issued.write(&files_of(agent, id));
            } else {
                issued.write_in_place(&files_of(agent, id));
            }
            is_used(agent, id, &issued.serial);
        }
    }
    traffic.nothing_was_lost(1_000);
}

#[track_caller]
fn is_used(agent: &TestAgent, id: &str, serial: &str) {
    agent.wait_for_status(&format!("certificate {serial} of {id} is used"), |status| {
        let mut identities = status["identities"].as_array().unwrap().iter();
        identities.any(|identity| identity["identity"] == id && identity["serial"] == serial)
    });
}

#[test]
fn half_a_pair_changes_nothing_and_the_other_half_completes_it() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let traffic = Traffic::start(&mesh, 4);
    let old = mesh.host_b.status()["identities"][0]["serial"].clone();
    let issued = mesh.pki().issue(&Leaf::of(SERVICE));
    let files = files_of(&mesh.host_b, SERVICE);
    write_by_rename(&files.key, &issued.key.serialize_pem());
    let status = mesh.host_b.wait_for_status("half a pair is noticed", |status| status["config_error"].is_string());
    assert_eq!(status["identities"][0]["serial"], old);
    assert_eq!(mesh.host_b.metric("countersign_config_valid", &[]), 0.0);
    let error = status["config_error"].as_str().unwrap();
    assert!(error.contains("host-b.key") || error.contains("llm.key"), "the files are named: {error}");
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    write_by_rename(&files.chain, &issued.chain_pem());
    is_used(&mesh.host_b, SERVICE, &issued.serial);
    mesh.host_b.wait_for_status("the error is gone", |status| status["config_error"].is_null());
    traffic.nothing_was_lost(50);
}

#[test]
fn files_that_are_broken_for_a_while_change_nothing() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let traffic = Traffic::start(&mesh, 4);
    let files = files_of(&mesh.host_b, SERVICE);
    let bundle = mesh.host_b.folder().join("bundle.pem");
    let other = TestPki::new("other").issue(&Leaf::of("spiffe://mesh.test/somebody-else"));
    let whole = std::fs::read_to_string(&files.chain).unwrap();
    for (path, broken) in [
        (&files.chain, ""),
        (&files.chain, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"),
        (&files.chain, whole.get(..whole.len() / 2).unwrap()),
        (&files.chain, &other.chain_pem()),
        (&files.key, ""),
        (&bundle, ""),
        (&bundle, "nonsense"),
    ] {
        let good = std::fs::read_to_string(path).unwrap();
        write_by_rename(path, broken);
        mesh.host_b.wait_for_status("it is noticed", |status| status["config_error"].is_string());
        assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
        write_by_rename(path, &good);
        mesh.host_b.wait_for_status("it is mended", |status| status["config_error"].is_null());
    }
    std::fs::rename(&files.key, files.key.with_extension("away")).unwrap();
    mesh.host_b.wait_for_status("a missing file is noticed", |status| status["config_error"].is_string());
    std::fs::rename(files.key.with_extension("away"), &files.key).unwrap();
    mesh.host_b.wait_for_status("it is back", |status| status["config_error"].is_null());
    traffic.nothing_was_lost(200);
}

#[test]
fn certificates_behind_a_link_that_is_moved_are_taken_up() {
    let backend = EchoBackend::steady();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let folder = mesh.host_b.folder().to_owned();
    let generation = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        let issued = mesh.pki().issue(&Leaf::of(SERVICE));
        issued.write(&CertificateFiles::named(&path, "llm"));
        issued.serial
    };
    let (first, second) = (generation("first"), generation("second"));
    symlink("first", folder.join("current")).unwrap();
    for name in ["llm.pem", "llm.key"] {
        std::fs::remove_file(folder.join(name)).unwrap();
        symlink(format!("current/{name}"), folder.join(name)).unwrap();
    }
    is_used(&mesh.host_b, SERVICE, &first);
    symlink("second", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("current")).unwrap();
    is_used(&mesh.host_b, SERVICE, &second);
    mesh.host_b.stop();
}

#[test]
fn a_changed_config_is_taken_up_without_a_signal() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let tables = mesh.host_b.tables();
    mesh.host_b.configure(&tables.replace("spiffe://mesh.test/web/*", "spiffe://mesh.test/*"));
    wait::until_so("the new role counts", || http::get(mesh.other, "/a").unwrap().status() == 200);
    // In place, as an editor may do it.
    let whole = mesh.host_b.whole_config(&tables);
    std::fs::write(mesh.host_b.config_path(), whole).unwrap();
    wait::until_so("the old role counts again", || http::get(mesh.other, "/a").unwrap().status() == 403);
}

#[test]
fn a_change_is_noticed_at_whatever_moment_it_comes() {
    let mesh = Mesh::of_files(&Plan::to("http://127.0.0.1:9"));
    let begun = wait::now();
    let mut slowest = Duration::ZERO;
    // Long enough to meet everything else that an agent does now and then.
    while wait::now() - begun < Duration::from_secs(21) {
        let issued = mesh.pki().issue(&Leaf::of(SERVICE));
        issued.write(&files_of(&mesh.host_b, SERVICE));
        let written = wait::now();
        wait::within(Duration::from_secs(60), "a new certificate is used", || {
            (mesh.host_b.status()["identities"][0]["serial"] == issued.serial).then_some(())
        });
        slowest = slowest.max(wait::now() - written);
    }
    assert!(slowest < Duration::from_secs(5), "a change was taken up only after {slowest:?}");
}

#[test]
fn changes_are_noticed_although_their_folder_is_busy() {
    let backend = EchoBackend::steady();
    let mesh = Mesh::of_files(&Plan::to(backend.url()));
    let busy = Arc::new(AtomicBool::new(true));
    let writer = {
        // A log beside the config, as it lies there when somebody keeps everything in one folder.
        let (busy, path) = (Arc::clone(&busy), mesh.host_b.folder().join("some.log"));
        std::thread::spawn(move || {
            while busy.load(Ordering::Relaxed) {
                std::fs::write(&path, "something happened").unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let tables = mesh.host_b.tables();
    mesh.host_b.configure(&tables.replace("spiffe://mesh.test/web/*", "spiffe://mesh.test/*"));
    let begun = wait::now();
    let mut noticed = false;
    while !noticed && wait::now() - begun < Duration::from_secs(10) {
        noticed = http::get(mesh.other, "/a").unwrap().status() == 200;
        std::thread::sleep(Duration::from_millis(50));
    }
    busy.store(false, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(
        noticed,
        "a change was not noticed for ten seconds, because another file of the folder is written all the time"
    );
}

#[test]
fn an_agent_takes_routes_up_and_down_without_disturbing_others() {
    let backend = EchoBackend::steady();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let traffic = Traffic::start(&mesh, 4);
    let tables = mesh.host_b.tables();
    let extra = countersign_tests::tools::free_address();
    let route = format!(
        "[[inbound]]\nname = \"extra\"\nidentity = \"{SERVICE}\"\nlisten = \"{extra}\"\nbackend = \"{}\"\n[[inbound.allow]]\nroles = [\"inference_client\"]\n",
        backend.url()
    );
    for _ in 0..10 {
        mesh.host_b.reload(&format!("{tables}\n{route}"));
        assert!(std::net::TcpStream::connect(extra).is_ok());
        mesh.host_b.reload(&tables);
        wait::until_so("the port is closed", || std::net::TcpStream::connect(extra).is_err());
    }
    traffic.nothing_was_lost(50);
}

#[test]
fn a_reload_that_cannot_listen_changes_nothing() {
    let backend = EchoBackend::steady();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tables = mesh.host_b.tables();
    let moved = tables.replace(&mesh.inbound.to_string(), &taken.local_addr().unwrap().to_string());
    let error = mesh.host_b.reload_refused(&moved);
    assert!(error.contains("cannot listen on"), "{error}");
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    mesh.host_b.reload(&tables);
}
