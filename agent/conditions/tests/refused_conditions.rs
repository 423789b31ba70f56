//! What is refused when a condition is read: the message, its place in the text, and the hint.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what does not hold here is a failed test")]

mod common;

use common::{check, parse, schema};
use countersign_conditions::condition::{CONDITION_BYTES_MAX, Condition};
use countersign_conditions::schema::{Direction, Schema};
use countersign_conditions::vocabulary::Vocabulary;

/// Refused with this message, about this part of the text, with this hint.
#[track_caller]
fn refused_as(text: &str, direction: Direction, message: &str, part: &str, hint: &str) {
    let finding = parse(text, direction).expect_err(text).into_finding();
    assert_eq!(finding.message, message, "{text}");
    assert_eq!(text.get(finding.span.clone()), Some(part), "{text}: {:?}", finding.span);
    assert_eq!(finding.hint.as_deref().unwrap_or_default(), hint, "{text}");
}

#[track_caller]
fn refused(text: &str, message: &str, part: &str, hint: &str) {
    refused_as(text, Direction::Inbound, message, part, hint);
}

const IMPOSSIBLE: &str = "this can never hold: it is false whatever is asked by whomever";

#[test]
fn what_cannot_exist_is_refused() {
    let compatible =
        "both operands to a `==` expression must have compatible types. Types must be exactly equal to be compatible";
    refused(
        "context.houre > 3",
        "attribute `houre` in context for Action::\"request\" not found",
        "context.houre",
        "did you mean \"hour\"?",
    );
    refused(
        "context.hour == \"3\"",
        "the types Long and String are not compatible",
        "context.hour == \"3\"",
        compatible,
    );
    refused("context.hour", "unexpected type: expected Bool but saw Long", "context.hour", "");
    refused(
        "principal.groups.contains(\"ml\")",
        "attribute `groups` on entity type `Workload` not found",
        "principal.groups.contains(\"ml\")",
        "who asks may be a Workload; write `principal is User && ...`",
    );
    refused(
        "principal.trust_domain == \"a\"",
        "attribute `trust_domain` on entity type `User` not found",
        "principal.trust_domain",
        "who asks may be a User; write `principal is Workload && ...`",
    );
    refused(
        "resource.labels has tier && resource.labels.teir == \"gold\"",
        "attribute `labels.teir` on entity type `Service` not found",
        "resource.labels.teir",
        "did you mean \"tier\"?",
    );
    refused(
        "principal is User && principal.claims.wholly_different == 1",
        "attribute `claims.wholly_different` on entity type `User` not found",
        "principal.claims.wholly_different",
        "",
    );
    let types = "here there are: Workload, User, Role, Service, Action";
    refused("principal is Robot", "unrecognized entity type `Robot`", "Robot", types);
    refused("principal is LocalCaller", "unrecognized entity type `LocalCaller`", "LocalCaller", types);
    refused("principal is Wrkload", "unrecognized entity type `Wrkload`", "Wrkload", "did you mean \"Workload\"?");
    refused("false", IMPOSSIBLE, "false", "");
    refused("principal is User && principal is Workload", IMPOSSIBLE, "principal is User && principal is Workload", "");
}

#[test]
fn what_is_asked_for_with_has_must_be_something() {
    for (text, message, part, hint) in [
        (
            "context.headers has x_tennant",
            "declared header \"x_tennant\"",
            "context.headers has x_tennant",
            "did you mean \"x_tenant\"?",
        ),
        (
            "!(context.query has wholly)",
            "declared parameter \"wholly\"",
            "context.query has wholly",
            "there are: model, stream",
        ),
        (
            "context has query.modell",
            "declared parameter \"modell\"",
            "context has query.modell",
            "did you mean \"model\"?",
        ),
        ("!(context has houre)", "attribute \"houre\"", "context has houre", "did you mean \"hour\"?"),
        ("!(resource.labels has teir)", "label \"teir\"", "resource.labels has teir", "did you mean \"tier\"?"),
        ("!(resource has lables)", "attribute \"lables\"", "resource has lables", "did you mean \"labels\"?"),
        (
            "!(principal has claims.departement)",
            "declared claim \"departement\"",
            "principal has claims.departement",
            "did you mean \"department\"?",
        ),
        ("!(principal has tema)", "attribute \"tema\"", "principal has tema", "did you mean \"team\"?"),
        ("!(principal has via.nmaes)", "attribute \"nmaes\"", "principal has via.nmaes", "did you mean \"names\"?"),
    ] {
        refused(text, &format!("there is no {message}"), part, hint);
    }
    let message = "there is no attribute \"uidd\"";
    let text = "!(context has local.uidd)";
    refused_as(text, Direction::Outbound, message, "context has local.uidd", "did you mean \"uid\"?");
    for text in
        ["principal has uid || context has local.uid", "resource has labels.tier", "context has headers.x_purpose"]
    {
        parse(text, Direction::Outbound).expect(text);
    }
}

#[test]
fn what_may_be_missing_must_be_asked_for() {
    refused(
        "context.query.model == \"a\"",
        "unable to guarantee safety of access to optional attribute `query.model` in context for Action::\"request\"",
        "context.query.model",
        "try testing for the attribute's presence with `context.query has model && ..`",
    );
    parse("context.query has model && context.query.model == \"a\"", Direction::Inbound).unwrap();
}

#[test]
fn names_and_texts_that_nothing_equals_are_refused() {
    for (text, message, part, hint) in [
        (
            "principal in Role::\"emploee\"",
            "there is no role \"emploee\"",
            "Role::\"emploee\"",
            "did you mean \"employee\"?",
        ),
        (
            "principal in Role::\"x\"",
            "there is no role \"x\"",
            "Role::\"x\"",
            "there are: batch, contractor, employee, gateway",
        ),
        ("resource == Service::\"lm\"", "there is no service \"lm\"", "Service::\"lm\"", "did you mean \"llm\"?"),
        (
            "principal == User::\"alice\"",
            "the user \"alice\" names no issuer",
            "User::\"alice\"",
            "write User::\"ISSUER#SUBJECT\" with the name of the issuer in the config, for example User::\"corp#alice\"",
        ),
        (
            "principal == Workload::\"spiffe://PROD.example/a\"",
            "no workload is named \"spiffe://PROD.example/a\"",
            "Workload::\"spiffe://PROD.example/a\"",
            "write it as \"spiffe://prod.example/a\"",
        ),
        (
            "principal == Workload::\"web\"",
            "no workload is named \"web\": \"web\" does not begin with spiffe://, dns:, email: or ip:",
            "Workload::\"web\"",
            "write Workload::\"spiffe://TRUST-DOMAIN/PATH\", or dns:, email: or ip: and the name",
        ),
        ("context.weekday == \"Monday\"", "there is no weekday \"Monday\"", "\"Monday\"", "did you mean \"monday\"?"),
        ("\"mon\" == context.weekday", "there is no weekday \"mon\"", "\"mon\"", NO_WEEKDAY),
        ("![\"monday\", \"sun\"].contains(context.weekday)", "there is no weekday \"sun\"", "\"sun\"", NO_WEEKDAY),
        ("context.method == \"post\"", "the method \"post\" is never asked for", "\"post\"", "did you mean \"POST\"?"),
        (
            "context.date != \"24.12.2026\"",
            "\"24.12.2026\" is no date",
            "\"24.12.2026\"",
            "write it like \"2026-11-24\"",
        ),
        ("context.date == \"2026-2-3\"", "\"2026-2-3\" is no date", "\"2026-2-3\"", "write it like \"2026-11-24\""),
        (
            "principal is User && principal.kind == \"person\"",
            "there is no kind of user \"person\"",
            "\"person\"",
            "there are: user, service",
        ),
    ] {
        refused(text, message, part, hint);
    }
    refused_as(
        "principal == LocalCaller::\"root\"",
        Direction::Outbound,
        "\"root\" is no user id",
        "LocalCaller::\"root\"",
        "write `principal has uid && principal.uid == 1000`",
    );
    for text in [
        "principal == Workload::\"dns:a.example\" || principal == User::\"corp#ci\"",
        "context.method == \"PURGE\" || context.method == \"GET\" || context.method == \"purge\"",
        "context.date == \"2026-12-24\" || [\"monday\", \"friday\"].contains(context.weekday)",
        "principal is User && principal.kind == \"service\"",
        "context.path == \"Monday\" || context.path == \"post\"",
    ] {
        parse(text, Direction::Inbound).expect(text);
    }
    for text in ["principal == LocalCaller::\"1000\"", "principal == LocalCaller::\"loopback\""] {
        parse(text, Direction::Outbound).expect(text);
    }
}

const NO_WEEKDAY: &str = "there are: monday, tuesday, wednesday, thursday, friday, saturday, sunday";

#[test]
fn a_condition_cannot_become_two_policies() {
    for (text, part) in [
        ("true }; permit(principal, action, resource) when { true", "}"),
        ("true }; permit(principal, action, resource); //", "}"),
        ("true } unless { false", "}"),
        ("true; true", ";"),
        ("true)", ")"),
    ] {
        let finding = parse(text, Direction::Inbound).expect_err(text).into_finding();
        assert_eq!(finding.message, format!("unexpected token `{part}`"), "{text}");
        assert_eq!(text.get(finding.span).unwrap(), part, "{text}");
    }
    // A comment ends with the text; nothing follows that it could hide.
    let text = "context.method == \"GET\" // }; permit(principal, action, resource)";
    check(text, false);
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    for (text, message, at) in [
        ("", "unexpected end of input", 0..0),
        ("a && ", "unexpected end of input", 4..4),
        ("context.hour > > 3", "unexpected token `>`", 15..16),
        ("'a' == 'b'", "invalid token", 0..10),
        ("context.hour / 2 == 1", "division is not supported", 0..16),
        ("exec(\"rm\")", "`exec` is not a valid function", 0..10),
        ("unknown(\"x\")", "`unknown` is not a valid function", 0..12),
        ("ü", "invalid token", 0..2),
    ] {
        let finding = parse(text, Direction::Inbound).expect_err(text).into_finding();
        assert_eq!(finding.message, message, "{text}");
        assert_eq!(finding.span, at, "{text}");
    }
    let slots = "a condition has no slots such as ?principal";
    refused("?principal == principal", slots, "?principal == principal", "write who it is about, or leave it out");
    refused(
        "\"a\u{202e}b\" == principal.id",
        "string `\"a\u{202e}b\"` contains BIDI control characters",
        "\"a\u{202e}b\"",
        "",
    );
}

#[test]
fn extension_values_must_be_written_out() {
    let hint =
        "consider applying extension constructors inside attribute values when constructing entity or context data";
    let message = "extension constructors may not be called with non-literal expressions";
    refused("context.address.isInRange(ip(context.path))", message, "ip(context.path)", hint);
    let finding = parse("context.address == ip(\"300.1.1.1\")", Direction::Inbound).unwrap_err();
    assert!(finding.to_string().contains("failed to parse as IP address"), "{finding}");
}

#[test]
fn length_and_depth_are_bounded() {
    let longest = format!("true{}", " ".repeat(CONDITION_BYTES_MAX - 4));
    parse(&longest, Direction::Inbound).unwrap();
    let error = parse(&format!("{longest} "), Direction::Inbound).unwrap_err();
    assert_eq!(error.to_string(), "a condition has 4097 bytes; 4096 are allowed");
    assert_eq!(error.into_finding().span, 0..CONDITION_BYTES_MAX);
    let nested = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    parse(&nested(32), Direction::Inbound).unwrap();
    refused(&nested(33), "brackets are nested deeper than 32", "(", "write several policies, or use roles");
    let deep = "operators are nested deeper than 24, or chained longer than 128";
    let hint = "write several policies, or `[...].contains(...)`";
    let chain = |length: usize| vec!["context.hour>1"; length].join("||");
    check(&chain(120), true);
    check(&chain(120).replace("||", "&&"), true);
    let sum = |length: usize| format!("0 < {}", vec!["context.hour"; length].join("+"));
    check(&sum(18), true);
    refused(&sum(30), deep, &sum(30), hint);
    refused(&chain(130), deep, &chain(130), hint);
    // The validator lets pass what it cannot follow: an attribute that there is not, deep enough.
    let path = format!("context{}", ".a".repeat(2_000));
    refused(&path, deep, &path, hint);
    let has = format!("context has a{}", ".a".repeat(2_000));
    refused(&has, deep, &has, hint);
    let branches = format!("{}true", "if true then true else ".repeat(170));
    refused(&branches, deep, &branches, hint);
    refused(&sum(300), deep, &sum(300), hint);
}

#[test]
fn the_deepest_condition_is_still_checked_on_a_small_stack() {
    // The validator would let pass what does not fit, and the parser would end the program.
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let schema = schema();
    let checked = small.spawn(move || {
        let refused = |text: &str| {
            let read = Condition::parse(text, &schema, Direction::Inbound);
            read.unwrap_err().to_string()
        };
        let text = format!("{}context.houre > 1", "context.hour>1 && ".repeat(115));
        let error = refused(&text);
        let text =
            format!("{}(context.houre > 1)", "context.hour>1 && (context.hour>2 || (".repeat(7)) + &"))".repeat(7);
        (error, refused(&text))
    });
    let (chained, nested) = checked.unwrap().join().unwrap();
    assert_eq!(chained, "attribute `houre` in context for Action::\"request\" not found");
    assert_eq!(nested, chained);
}

#[test]
fn an_outbound_has_no_address_and_no_users() {
    let message = "attribute `address` in context for Action::\"request\" not found";
    refused_as("context.address.isLoopback()", Direction::Outbound, message, "context.address.isLoopback()", "");
    refused("context has local", IMPOSSIBLE, "context has local", "");
    parse("context has local && context.local.uid == 1", Direction::Outbound).unwrap();
    parse("context.address.isLoopback()", Direction::Inbound).unwrap();
    let known = "here there are: LocalCaller, Role, Service, Action";
    refused_as("principal is User", Direction::Outbound, "unrecognized entity type `User`", "User", known);
    parse("principal is User", Direction::Inbound).unwrap();
}

#[test]
fn a_config_without_names_has_a_schema() {
    let schema = Schema::new(&Vocabulary::default()).unwrap();
    Condition::parse("context.hour > 3", &schema, Direction::Inbound).unwrap();
    let none = Condition::parse("principal in Role::\"a\"", &schema, Direction::Inbound).unwrap_err();
    assert_eq!(none.to_string(), "there is no role \"a\"");
}
