//! What `examples/demo` shows once it has built: one program is let in, another is refused and told why, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::process::Command;

use countersign_tests::process::run;
use countersign_tests::tools;

#[test]
fn the_demo_lets_one_in_refuses_another_and_leaves_nothing() {
    let temporary = tools::folder();
    let shown = run(Command::new(tools::demo_path()).env("TMPDIR", temporary.path())).success();
    let (before, refusal) = shown.split_once("== A second program calls it as another identity").unwrap();
    let (_, let_in) = before.split_once("== A program on host-a calls the model as web/frontend").unwrap();
    for line in ["200 OK", "outcome: allowed", "peer: spiffe://demo.example/web/frontend", "rule: llm.allow[0]"] {
        assert!(let_in.contains(&format!("\n    {line}\n")), "no {line:?}:\n{let_in}");
    }
    assert!(refusal.contains("\n    403 Forbidden\n"), "{refusal}");
    assert!(refusal.contains("\n    decision: denied, the caller holds no role\n"), "{refusal}");
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
