//! The page that operators read: each example is one that the agent takes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not hold here is a failed test")]

mod common;

use common::{alice, request, schema, web};
use countersign_conditions::condition::Condition;
use countersign_conditions::policy_file::{Effect, PolicyFile};
use countersign_conditions::schema::Direction;

const PAGE: &str = include_str!("../../../deploy/policy/README.md");

/// The fenced blocks whose first line says so.
fn blocks(kind: &str) -> Vec<&'static str> {
    let mut blocks = Vec::new();
    for fenced in PAGE.split("\n```").skip(1).step_by(2) {
        let (first, content) = fenced.split_once('\n').unwrap();
        if first == kind {
            blocks.push(content);
        }
    }
    blocks
}

/// What stands between the quotes of `when = '...'`.
fn condition(block: &'static str) -> &'static str {
    let quoted = block.trim().strip_prefix("when = ").unwrap();
    quoted.trim_matches('\'')
}

#[track_caller]
fn check(text: &str, direction: Direction) -> Condition {
    Condition::parse(text, &schema(), direction).unwrap_or_else(|error| panic!("{text}: {:?}", error.into_finding()))
}

#[test]
fn every_condition_on_the_page_is_one() {
    let inbound = blocks("toml");
    assert_eq!(inbound.len(), 7, "{inbound:?}");
    for block in inbound {
        check(condition(block), Direction::Inbound);
    }
    let outbound = blocks("toml outbound");
    assert_eq!(outbound.len(), 1);
    check(condition(outbound[0]), Direction::Outbound);
}

#[test]
fn conditions_on_the_page_do_what_it_says() {
    let schema = schema();
    let holds = |number: usize, who| {
        let condition = Condition::parse(condition(blocks("toml")[number]), &schema, Direction::Inbound);
        condition.unwrap().holds(&request(&schema, who)).unwrap()
    };
    // Tuesday, 10:30, from 10.20.1.2, for llama3:70b, of the tenant acme.
    let (web, alice) = (web(&schema), alice(&schema));
    let expected =
        [(true, true), (true, true), (false, true), (false, true), (false, false), (true, false), (false, false)];
    for (number, (of_web, of_alice)) in expected.into_iter().enumerate() {
        assert_eq!((holds(number, &web), holds(number, &alice)), (of_web, of_alice), "{}", blocks("toml")[number]);
    }
}

#[test]
fn inline_examples_on_the_page_are_conditions_too() {
    for text in [
        "principal is User && principal.groups.contains(\"ml\")",
        "context.query has model && context.query.model == \"llama3\"",
    ] {
        assert!(PAGE.contains(text), "{text}");
        check(text, Direction::Inbound);
    }
}

#[test]
fn the_policy_file_on_the_page_decides_as_it_says() {
    let schema = schema();
    let text = blocks("cedar")[0];
    let file =
        PolicyFile::parse("page.cedar", text, &schema, Direction::Inbound).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.count(), 4);
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).into()).collect::<Vec<_>>();
    assert_eq!(file.decide(&request(&schema, &web(&schema))), Effect::Permit { ids: ids(&["employees-chat"]) });
    assert_eq!(file.decide(&request(&schema, &alice(&schema))), Effect::Forbid { ids: ids(&["alice-is-on-leave"]) });
    let batch = common::workload(&schema, "spiffe://prod.example/batch", &["batch"]);
    assert_eq!(file.decide(&request(&schema, &batch)), Effect::Forbid { ids: ids(&["gold-is-for-employees"]) });
}
