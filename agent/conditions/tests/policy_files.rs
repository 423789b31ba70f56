//! Policy files: what is refused, with its place, and what they decide.

#![allow(clippy::unwrap_used, reason = "what does not hold here is a failed test")]

mod common;

use std::sync::Arc;

use common::{alice, llm, local, parties, request, schema, web, workload};
use countersign_conditions::attributes::Attributes;
use countersign_conditions::parties::Parties;
use countersign_conditions::policy_file::{Effect, FILE_BYTES_MAX, FINDINGS_MAX, POLICIES_MAX, PolicyFile};
use countersign_conditions::principal::Principal;
use countersign_conditions::schema::Direction;
use countersign_conditions::uses::Uses;

/// What is shown of a file that is refused.
#[track_caller]
fn refused(text: &str) -> String {
    match PolicyFile::parse("llm.cedar", text, &schema(), Direction::Inbound) {
        Ok(file) => panic!("{text} is {file:?}"),
        Err(errors) => errors.to_string(),
    }
}

/// Refused with exactly these first lines of findings.
#[track_caller]
fn check_refused(text: &str, expected: &[&str]) {
    let shown = refused(text);
    let found: Vec<&str> = shown.lines().filter(|line| line.starts_with("llm.cedar:")).collect();
    assert_eq!(found, expected, "{shown}");
}

fn ids(ids: &[&str]) -> Vec<Arc<str>> {
    ids.iter().map(|id| Arc::from(*id)).collect()
}

/// What a file says of a request of the web frontend.
#[track_caller]
fn check(text: &str, expected: Effect) {
    let schema = schema();
    let file =
        PolicyFile::parse("llm.cedar", text, &schema, Direction::Inbound).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.decide(&request(&schema, &web(&schema))), expected, "{text}");
}

#[test]
fn a_finding_has_line_column_text_and_hint() {
    let shown = refused("permit (principal, action == Action::\"request\", resource)\nwhen { context.houre > 3 };\n");
    let expected = "llm.cedar:2:8: attribute `houre` in context for Action::\"request\" not found\n  |\n\
                    2 | when { context.houre > 3 };\n  |        ^^^^^^^^^^^^^\nhint: did you mean \"hour\"?";
    assert_eq!(shown, expected);
}

#[test]
fn everything_that_is_wrong_is_told_in_order() {
    check_refused(
        "permit (principal, action, resource) when { principal in Role::\"emploee\" };\n\
         permit (principal is Robot, action, resource);\n\
         permit (principal, action == Action::\"conect\", resource);\n\
         permit (principal, action, resource is User);\n\
         permit (principal == User::\"bob\", action, resource);\n\
         permit (principal, action, resource) when { context.weekday == \"Monday\" };\n\
         permit (principal, action, resource) when { false };\n",
        &[
            "llm.cedar:1:58: there is no role \"emploee\"",
            "llm.cedar:2:22: unrecognized entity type `Robot`",
            "llm.cedar:3:30: unrecognized action `Action::\"conect\"`",
            "llm.cedar:4:1: this can never hold: it is false whatever is asked by whomever",
            "llm.cedar:5:22: the user \"bob\" names no issuer",
            "llm.cedar:6:64: there is no weekday \"Monday\"",
            "llm.cedar:7:1: this can never hold: it is false whatever is asked by whomever",
        ],
    );
    check_refused(
        "permit (principal, action, resource) when { a b };\npermit (principal, action\n",
        &["llm.cedar:1:47: unexpected token `b`", "llm.cedar:2:26: unexpected end of input"],
    );
}

#[test]
fn a_forbid_that_never_applies_is_refused_too() {
    check_refused(
        "forbid (principal, action, resource) when { principal is User && principal is Workload };",
        &["llm.cedar:1:1: this can never hold: it is false whatever is asked by whomever"],
    );
}

#[test]
fn templates_are_refused() {
    let text = "permit (principal, action, resource);\npermit (principal == ?principal, action, resource);\n\
                permit (principal, action, resource in ?resource);";
    check_refused(
        text,
        &[
            "llm.cedar:2:1: this is a template, and nothing here fills its slots",
            "llm.cedar:3:1: this is a template, and nothing here fills its slots",
        ],
    );
}

#[test]
fn ids_are_unique_and_fit_into_a_line() {
    let permit = "permit (principal, action, resource);\n";
    check_refused(
        &format!("@id(\"a\") {permit}@id(\"b\") {permit}@id(\"a\") {permit}"),
        &["llm.cedar:3:1: two policies have the id \"a\""],
    );
    check_refused(
        &format!("@id(\"policy1\") {permit}{permit}"),
        &["llm.cedar:2:1: two policies have the id \"policy1\""],
    );
    let bound = "llm.cedar:1:1: an id has 1 to 128 bytes and no control characters";
    for id in ["", &"a".repeat(129), "a\\n"] {
        check_refused(&format!("@id(\"{id}\") {permit}"), &[bound]);
    }
    check_refused(&format!("@id {permit}"), &[bound]);
    check(&format!("@id(\"{}\") {permit}", "a".repeat(128)), Effect::Permit { ids: ids(&[&"a".repeat(128)]) });
    check(&format!("@id(\"a\") {permit}{permit}"), Effect::Permit { ids: ids(&["a", "policy1"]) });
}

#[test]
fn size_number_and_findings_are_bounded() {
    let permit = "permit(principal,action,resource);\n";
    let largest = format!("{permit}//{}", " ".repeat(FILE_BYTES_MAX - permit.len() - 2));
    assert_eq!(largest.len(), FILE_BYTES_MAX);
    check(&largest, Effect::Permit { ids: ids(&["policy0"]) });
    check_refused(&format!("{largest} "), &["llm.cedar:1:1: the file has 1048577 bytes; 1048576 are allowed"]);
    let many = permit.repeat(POLICIES_MAX + 1);
    check_refused(&many, &["llm.cedar:1:1: the file has 10001 policies; 10000 are allowed"]);
    let long = format!("permit(principal,action,resource) when {{ context.unix_time > {} }};", "1 + ".repeat(3000));
    check_refused(&long, &["llm.cedar:1:8142: one policy has more than 4096 bytes"]);
    let deep = format!("permit(principal,action,resource) when {{ {}true }};", "(".repeat(40));
    check_refused(&deep, &["llm.cedar:1:73: brackets are nested deeper than 32"]);
    let chain =
        format!("{permit}permit(principal,action,resource) when {{ {} }};", vec!["context.hour>1"; 130].join("||"));
    check_refused(&chain, &["llm.cedar:2:1: operators are nested deeper than 24, or chained longer than 128"]);
    let wrong = "permit(principal, action, resource) when { false };\n".repeat(FINDINGS_MAX + 5);
    let shown = refused(&wrong);
    assert_eq!(shown.matches("llm.cedar:").count(), FINDINGS_MAX);
    assert!(shown.ends_with("... and 5 more"), "{shown}");
    let errors = PolicyFile::parse("llm.cedar", &wrong, &schema(), Direction::Inbound).unwrap_err();
    assert_eq!(errors.findings().len(), FINDINGS_MAX);
    let few = refused("permit(principal, action, resource) when { false };");
    assert!(!few.contains("more"), "{few}");
}

#[test]
fn a_forbid_wins_and_nothing_allows_nobody() {
    let permit = "@id(\"p\") permit (principal, action, resource);";
    let forbid = "@id(\"f\") forbid (principal in Role::\"employee\", action, resource);";
    let other = "@id(\"o\") forbid (principal in Role::\"batch\", action, resource);";
    check(permit, Effect::Permit { ids: ids(&["p"]) });
    check(&format!("{permit}{forbid}"), Effect::Forbid { ids: ids(&["f"]) });
    check(&format!("{permit}{other}"), Effect::Permit { ids: ids(&["p"]) });
    check(other, Effect::Nothing);
    check("", Effect::Nothing);
    check("permit (principal in Role::\"batch\", action, resource);", Effect::Nothing);
    check("permit (principal, action, resource == Service::\"embeddings\");", Effect::Nothing);
    // Whatever is asked about has headers.
    let tenant = "permit (principal, action, resource) when { context.headers has x_tenant };";
    check(tenant, Effect::Permit { ids: ids(&["policy0"]) });
    check("permit (principal, action in [Action::\"request\"], resource);", Effect::Permit { ids: ids(&["policy0"]) });
}

#[test]
fn policies_are_told_in_the_order_of_the_file() {
    check(
        "@id(\"c\") permit (principal in Role::\"gateway\", action, resource);
         @id(\"b\") permit (principal, action, resource);
         @id(\"a\") permit (principal in Role::\"employee\", action, resource);
         @id(\"none\") permit (principal in Role::\"batch\", action, resource);
         @id(\"d\") permit (principal == Workload::\"spiffe://prod.example/web/frontend\", action, resource);
         @id(\"e\") permit (principal is Workload in Role::\"employee\", action, resource);
         @id(\"not\") permit (principal is User in Role::\"employee\", action, resource);
         @id(\"f\") permit (principal is Workload, action, resource);",
        Effect::Permit { ids: ids(&["c", "b", "a", "d", "e", "f"]) },
    );
}

const OVERFLOW: &str = "context.unix_time * 9223372036854775807 > 1";

#[test]
fn a_policy_that_cannot_be_decided_is_an_error() {
    let permit = "@id(\"p\") permit (principal, action, resource);";
    let text = |effect: &str| format!("@id(\"bad\") {effect} (principal, action, resource) when {{ {OVERFLOW} }};");
    let schema = schema();
    let decide = |text: &str| {
        let file =
            PolicyFile::parse("llm.cedar", text, &schema, Direction::Inbound).unwrap_or_else(|error| panic!("{error}"));
        file.decide(&request(&schema, &web(&schema)))
    };
    for effect in ["permit", "forbid"] {
        for file in [text(effect), format!("{permit}{}", text(effect)), format!("{}{permit}", text(effect))] {
            let Effect::Error { policy, message } = decide(&file) else { panic!("{file}: {:?}", decide(&file)) };
            assert_eq!(&*policy, "bad");
            assert!(message.starts_with("integer overflow"), "{message}");
        }
        // Whatever the other may say, this one forbids.
        let forbid = "@id(\"f\") forbid (principal, action, resource);";
        assert_eq!(decide(&format!("{}{forbid}", text(effect))), Effect::Forbid { ids: ids(&["f"]) });
    }
    // The first is told.
    let two = format!("{}@id(\"worse\") permit (principal, action, resource) when {{ {OVERFLOW} }};", text("permit"));
    assert!(matches!(decide(&two), Effect::Error { policy, .. } if &*policy == "bad"));
    // One that is not about who asks does not matter.
    let other = format!("{permit} permit (principal in Role::\"batch\", action, resource) when {{ {OVERFLOW} }};");
    assert_eq!(decide(&other), Effect::Permit { ids: ids(&["p"]) });
}

#[test]
fn what_was_not_gathered_is_an_error() {
    let schema = schema();
    let text = "permit (principal, action, resource); forbid (principal, action, resource) when { context.hour > 22 };";
    let file = PolicyFile::parse("llm.cedar", text, &schema, Direction::Inbound).unwrap();
    assert_eq!(file.uses(), Uses::TIME);
    let bare = Attributes::request(&parties(&schema, &web(&schema)), "GET", "/").unwrap();
    assert!(matches!(file.decide(&bare), Effect::Error { policy, .. } if &*policy == "policy1"));
    let other = common::another_schema();
    let Effect::Error { policy, message } = file.decide(&request(&other, &web(&other))) else { panic!() };
    assert_eq!(&*policy, "llm.cedar");
    assert_eq!(message, "the attributes were gathered for another config than the condition");
}

#[test]
fn a_file_can_be_about_local_programs() {
    let schema = schema();
    let text =
        "permit (principal is LocalCaller, action, resource) when { principal has uid && principal.uid == 1000 };";
    let file = PolicyFile::parse("out.cedar", text, &schema, Direction::Outbound).unwrap();
    let from =
        |who: &Principal| Attributes::request(&Parties::new(who, &llm(&schema), None).unwrap(), "GET", "/").unwrap();
    assert_eq!(file.decide(&from(&local(&schema))), Effect::Permit { ids: ids(&["policy0"]) });
    assert_eq!(file.decide(&from(&alice(&schema))), Effect::Nothing);
    assert!(PolicyFile::parse("out.cedar", text, &schema, Direction::Inbound).is_err());
}

#[test]
fn thousands_of_policies_find_the_one() {
    let schema = schema();
    let policy = |number| {
        format!(
            "@id(\"w{number}\") permit (principal == Workload::\"spiffe://prod.example/w{number}\", action, resource);\n"
        )
    };
    let text: String = (0..POLICIES_MAX).map(policy).collect();
    let file =
        PolicyFile::parse("many.cedar", &text, &schema, Direction::Inbound).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.count(), POLICIES_MAX);
    assert_eq!(format!("{file:?}"), "PolicyFile(10000 policies)");
    let decide = |id: &str| file.decide(&request(&schema, &workload(&schema, id, &[])));
    assert_eq!(decide("spiffe://prod.example/w9999"), Effect::Permit { ids: ids(&["w9999"]) });
    assert_eq!(decide("spiffe://prod.example/w10000"), Effect::Nothing);
}
