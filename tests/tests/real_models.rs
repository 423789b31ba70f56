//! Real models behind the mesh, and the official client before it, which knows nothing of it.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use std::time::Duration;

use countersign_tests::http;
use countersign_tests::mesh::{FRONTEND, Mesh, Plan};
use countersign_tests::part::{self, Part};
use countersign_tests::wait;
use serde_json::Value;

fn base_url(mesh: &Mesh) -> String {
    format!("http://{}/v1", mesh.frontend)
}

#[test]
fn an_unmodified_openai_program_chats_with_a_language_model() {
    let model = Part::serve("llama_server", &[]);
    let rule = "methods = [\"POST\"]\npaths = [\"/v1/chat/completions\"]";
    let mesh = Mesh::enrolled(&Plan { rule: rule.to_owned(), ..Plan::to(model.url("http")) });
    let url = base_url(&mesh);
    let chat = part::call("openai_caller", &["--base-url", &url, "--mode", "chat"]);
    assert_eq!(chat.code, Some(0), "{chat:?}");
    let whole = chat.result();
    assert_eq!(whole["completion_tokens"], 16, "{whole}");
    assert!(!whole["text"].as_str().unwrap().is_empty());

    let streamed = part::call("openai_caller", &["--base-url", &url, "--mode", "stream"]);
    assert_eq!(streamed.code, Some(0), "{streamed:?}");
    let result = streamed.result();
    assert_eq!(result["text"], whole["text"], "the model says the same, streamed or not");
    assert!(result["chunks"].as_u64() > Some(8), "{result}");
    assert!(result["seconds_to_first_chunk"].as_f64() < result["seconds"].as_f64(), "{result}");

    let url = format!("http://{}/v1", mesh.other);
    let refused = part::call("openai_caller", &["--base-url", &url, "--mode", "chat"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.result()["status"], 403, "{refused:?}");
    for line in mesh.host_b.audit().iter().filter(|line| line["event"] == "request" && line["outcome"] == "allowed") {
        assert_eq!(line["peer"], FRONTEND);
        assert_eq!(line["path"], "/v1/chat/completions");
    }
}

#[test]
fn an_unmodified_openai_program_gets_an_embedding() {
    let model = Part::serve("embedding_server", &[]);
    let mesh = Mesh::enrolled(&Plan::to(model.url("http")));
    let arguments = ["--base-url", &base_url(&mesh), "--mode", "embedding", "--model", "e5-query"];
    let through_the_mesh = part::call("openai_caller", &arguments);
    assert_eq!(through_the_mesh.code, Some(0), "{through_the_mesh:?}");
    let result = through_the_mesh.result();
    assert_eq!(result["length"], 384);
    let url = format!("{}/v1", model.url("http"));
    let direct = part::call("openai_caller", &["--base-url", &url, "--mode", "embedding", "--model", "e5-query"]);
    assert_eq!(direct.result()["first_numbers"], result["first_numbers"], "as without the mesh");
}

#[test]
fn a_caller_that_is_killed_half_way_through_a_stream_leaves_no_connection_behind() {
    let mut model = Part::serve("llama_server", &[]);
    let mut mesh = Mesh::of_files(&Plan::to(model.url("http")));
    let before = [
        established(mesh.host_a.process().pid()),
        established(mesh.host_b.process().pid()),
        established(model.process().pid()),
    ];
    let arguments = ["--base-url", &base_url(&mesh), "--mode", "stream", "--max-tokens", "1500", "--stall-after", "20"];
    let mut caller = part::start_call("openai_caller", &arguments);
    caller.wait_for_line(wait::SOON, "half way", |line| line.contains("\"stalled\""));
    assert!(is_busy(&model), "the model is at work");
    drop(caller);
    wait::within(Duration::from_secs(10), "the model stops", || (!is_busy(&model)).then_some(()));
    mesh.host_b.wait_for_status("no request is under way", |status| status["connections"].as_u64() <= Some(1));
    mesh.host_a.wait_for_status("no caller is left", |status| status["connections"] == 0);
    // One connection between the agents may be kept for the next request; nothing else.
    wait::until_so("no connection is left behind", || {
        let now = [
            established(mesh.host_a.process().pid()),
            established(mesh.host_b.process().pid()),
            established(model.process().pid()),
        ];
        now[0] <= before[0] + 1 && now[1] <= before[1] + 1 && now[2] <= before[2]
    });
    let line = mesh.host_b.wait_for_audit("the broken stream", |line| line["event"] == "request");
    assert_eq!(line["outcome"], "cancelled", "{line}");
    let line = mesh.host_a.wait_for_audit("the broken stream", |line| line["event"] == "request");
    assert_eq!(line["outcome"], "cancelled", "{line}");
}

fn is_busy(model: &Part) -> bool {
    let slots = http::get(model.tcp(), "/slots").unwrap().json();
    slots.as_array().unwrap().iter().any(|slot: &Value| slot["is_processing"] == true)
}

/// Connections of a process that are open, by the kernel's word.
fn established(pid: u32) -> usize {
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    // Fields: number, local, remote, state (01 is ESTABLISHED), queues, timer, retransmits, uid, timeout, inode.
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[3] == "01" && own.iter().any(|inode| inode == fields[9])).count()
}
