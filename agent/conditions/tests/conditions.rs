//! Conditions: what is refused when they are read, and what they say of a request.

#![allow(
    clippy::expect_used,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what does not hold here is a failed test"
)]

mod common;

use common::{
    ALICE, NOW, alice, another_schema, certificate, llm, local, now, parties, request, san, schema, vocabulary, web,
    workload,
};
use countersign_certs::time::Timestamp;
use countersign_conditions::attributes::{AttributeError, Attributes};
use countersign_conditions::clock::Zone;
use countersign_conditions::condition::{CONDITION_BYTES_MAX, Condition, ConditionError, ConditionFailure};
use countersign_conditions::parties::{Parties, Service};
use countersign_conditions::principal::{Claim, LocalCaller, Principal, User, Workload};
use countersign_conditions::schema::{Action, Direction, Schema};
use countersign_conditions::uses::Uses;
use countersign_conditions::value::{MEMBERS_MAX, TEXT_BYTES_MAX};
use countersign_conditions::vocabulary::{ClaimKind, Vocabulary};

fn parse(text: &str, direction: Direction, action: Action) -> Result<Condition, ConditionError> {
    Condition::parse(text, &schema(), direction, action)
}

/// Refused with this message, about this part of the text, with this hint.
#[track_caller]
fn refused_as(text: &str, direction: Direction, action: Action, message: &str, part: &str, hint: &str) {
    let finding = parse(text, direction, action).expect_err(text).into_finding();
    assert_eq!(finding.message, message, "{text}");
    assert_eq!(text.get(finding.span.clone()), Some(part), "{text}: {:?}", finding.span);
    assert_eq!(finding.hint.as_deref().unwrap_or_default(), hint, "{text}");
}

#[track_caller]
fn refused(text: &str, message: &str, part: &str, hint: &str) {
    refused_as(text, Direction::Inbound, Action::Request, message, part, hint);
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
    refused_as(text, Direction::Outbound, Action::Request, message, "context has local.uidd", "did you mean \"uid\"?");
    for text in
        ["principal has uid || context has local.uid", "resource has labels.tier", "context has headers.x_purpose"]
    {
        parse(text, Direction::Outbound, Action::Request).expect(text);
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
    parse("context.query has model && context.query.model == \"a\"", Direction::Inbound, Action::Request).unwrap();
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
            "write User::\"ISSUER#SUBJECT\", for example User::\"https://login.example#alice\"",
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
        Action::Request,
        "\"root\" is no user id",
        "LocalCaller::\"root\"",
        "write `principal has uid && principal.uid == 1000`",
    );
    for text in [
        "principal == Workload::\"dns:a.example\" || principal == User::\"keys#ci\"",
        "context.method == \"PURGE\" || context.method == \"GET\" || context.method == \"purge\"",
        "context.date == \"2026-12-24\" || [\"monday\", \"friday\"].contains(context.weekday)",
        "principal is User && principal.kind == \"service\"",
        "context.path == \"Monday\" || context.path == \"post\"",
    ] {
        parse(text, Direction::Inbound, Action::Request).expect(text);
    }
    for text in ["principal == LocalCaller::\"1000\"", "principal == LocalCaller::\"loopback\""] {
        parse(text, Direction::Outbound, Action::Request).expect(text);
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
        let finding = parse(text, Direction::Inbound, Action::Request).expect_err(text).into_finding();
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
        let finding = parse(text, Direction::Inbound, Action::Request).expect_err(text).into_finding();
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
    let finding = parse("context.address == ip(\"300.1.1.1\")", Direction::Inbound, Action::Request).unwrap_err();
    assert!(finding.to_string().contains("failed to parse as IP address"), "{finding}");
}

#[test]
fn length_and_depth_are_bounded() {
    let longest = format!("true{}", " ".repeat(CONDITION_BYTES_MAX - 4));
    parse(&longest, Direction::Inbound, Action::Request).unwrap();
    let error = parse(&format!("{longest} "), Direction::Inbound, Action::Request).unwrap_err();
    assert_eq!(error.to_string(), "a condition has 4097 bytes; 4096 are allowed");
    assert_eq!(error.into_finding().span, 0..CONDITION_BYTES_MAX);
    let nested = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    parse(&nested(32), Direction::Inbound, Action::Request).unwrap();
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
            let read = Condition::parse(text, &schema, Direction::Inbound, Action::Request);
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
fn a_connection_has_no_method_and_an_outbound_no_address() {
    let text = "context.method == \"GET\"";
    let message = "attribute `method` in context for Action::\"connect\" not found";
    refused_as(text, Direction::Inbound, Action::Connect, message, "context.method", "");
    let message = "attribute `address` in context for Action::\"request\" not found";
    refused_as(
        "context.address.isLoopback()",
        Direction::Outbound,
        Action::Request,
        message,
        "context.address.isLoopback()",
        "",
    );
    refused("context has local", IMPOSSIBLE, "context has local", "");
    parse("context has local && context.local.uid == 1", Direction::Outbound, Action::Connect).unwrap();
    parse("context.address.isLoopback()", Direction::Inbound, Action::Connect).unwrap();
}

/// What a condition says of a request of `who`.
#[track_caller]
fn check_for(text: &str, who: impl Fn(&Schema) -> Principal, expected: bool) {
    let schema = schema();
    let condition = Condition::parse(text, &schema, Direction::Inbound, Action::Request)
        .unwrap_or_else(|error| panic!("{text}: {:?}", error.into_finding()));
    assert_eq!(condition.holds(&request(&schema, &who(&schema))), Ok(expected), "{text}");
}

/// What a condition says of a request of the web frontend.
#[track_caller]
fn check(text: &str, expected: bool) {
    check_for(text, web, expected);
}

#[test]
fn everything_about_a_request_is_known() {
    check("context.method == \"POST\" && context.path == \"/v1/chat/completions\"", true);
    check("context.path like \"/v1/*\" && !(context.path like \"/v2/*\")", true);
    check("context.headers has x_tenant && context.headers.x_tenant == \"acme\"", true);
    check("context.headers has x_purpose", false);
    check("context.query has model && context.query.model like \"*:70b\"", true);
    check("context.query has stream", false);
    check("context.hour == 10 && context.minute == 30 && context.weekday == \"tuesday\"", true);
    check("context.date == \"2026-11-24\" && context.zone == \"Europe/Berlin\"", true);
    check(&format!("context.unix_time == {NOW}"), true);
    check("context.address == ip(\"10.20.1.2\") && context.address.isInRange(ip(\"10.20.0.0/16\"))", true);
    check("context.address.isInRange(ip(\"10.21.0.0/16\"))", false);
    check("resource == Service::\"llm\" && resource.name == \"llm\"", true);
    check("resource.labels has tier && resource.labels.tier == \"gold\"", true);
    check("resource.labels has data", false);
    check("action == Action::\"request\"", true);
}

#[test]
fn everything_about_a_workload_is_known() {
    check("principal is Workload && principal.id == \"spiffe://prod.example/web/frontend\"", true);
    check("principal == Workload::\"spiffe://prod.example/web/frontend\"", true);
    check("principal is Workload && principal.trust_domain == \"prod.example\"", true);
    check("principal is Workload && principal.names.contains(\"dns:a.prod.example\")", true);
    check("principal in Role::\"employee\" && principal in Role::\"gateway\"", true);
    check("principal in Role::\"batch\" || principal is User", false);
    check("principal is Workload && principal.certificate_age_seconds == 3600", true);
    check("principal is Workload && principal.certificate_seconds_left == 7200", true);
    let dns = |schema: &Schema| workload(schema, "dns:a.prod.example", &[]);
    check_for("principal is Workload && principal.trust_domain == \"\"", dns, true);
}

#[test]
fn everything_about_a_user_is_known() {
    for (text, expected) in [
        ("principal is User && principal.kind == \"user\" && principal.id == \"alice\"", true),
        ("principal is User && principal.issuer == \"https://login.example\"", true),
        ("principal == User::\"https://login.example#alice\"", true),
        ("principal == User::\"https://other.example#alice\"", false),
        ("principal is User && principal has team && principal.team == \"research\"", true),
        ("principal is User && principal.scopes.containsAll([\"chat\", \"embed\"])", true),
        ("principal is User && principal.groups.containsAny([\"ml\", \"x\"])", true),
        ("principal has groups && principal.groups.contains(\"x\")", false),
        ("principal has claims.department && principal.claims.department == \"physics\"", true),
        ("principal is User && principal.claims has clearance && principal.claims.clearance == 3", true),
        ("principal is User && principal.claims has email_verified && principal.claims.email_verified", true),
        (
            "principal is User && principal.claims has \"https://example.com/projects\"
             && principal.claims[\"https://example.com/projects\"].contains(\"apollo\")",
            true,
        ),
        ("principal in Role::\"employee\"", true),
        ("principal in Role::\"gateway\"", false),
        ("principal is User && principal has via && principal.via in Role::\"gateway\"", true),
        ("principal is User && principal has via && principal.via.trust_domain == \"prod.example\"", true),
        ("principal is User && principal has via && principal.via.certificate_age_seconds == 3600", true),
    ] {
        check_for(text, alice, expected);
    }
    let alone = |schema: &Schema| Principal::user(schema, User { team: None, ..ALICE }).unwrap();
    check_for("principal has via", alone, false);
    check_for("principal has team", alone, false);
}

#[test]
fn everything_about_a_local_program_is_known() {
    let schema = schema();
    let holds = |text: &str, who: &Principal| {
        let condition = Condition::parse(text, &schema, Direction::Outbound, Action::Connect).expect(text);
        let mut attributes = Attributes::connection(&Parties::new(who, &llm(&schema), None).unwrap());
        attributes.local(7, 8);
        condition.holds(&attributes).unwrap()
    };
    let text = "principal has uid && principal.uid == 1000 && principal has gid && principal.gid == 100";
    assert!(holds(text, &local(&schema)));
    assert!(holds("principal == LocalCaller::\"1000\"", &local(&schema)));
    let unknown = Principal::local_caller(&schema, LocalCaller { user: None }).unwrap();
    assert!(!holds(text, &unknown));
    assert!(holds("principal == LocalCaller::\"loopback\" && !(principal has gid)", &unknown));
    assert!(holds("context has local && context.local.uid == 7 && context.local.gid == 8", &unknown));
}

#[test]
fn an_ipv4_peer_of_an_ipv6_socket_is_one_of_its_network() {
    let schema = schema();
    let condition = Condition::parse(
        "context.address.isInRange(ip(\"10.20.0.0/16\"))",
        &schema,
        Direction::Inbound,
        Action::Connect,
    );
    let condition = condition.unwrap();
    for (address, expected) in
        [("::ffff:10.20.1.2", true), ("10.20.1.2", true), ("::ffff:10.21.1.2", false), ("fd00::1", false)]
    {
        let parties = Parties::new(&web(&schema), &llm(&schema), Some(address.parse().unwrap())).unwrap();
        assert_eq!(condition.holds(&Attributes::connection(&parties)), Ok(expected), "{address}");
    }
}

#[test]
fn what_cannot_be_decided_is_an_error() {
    let schema = schema();
    let failure = |text: &str, attributes: &Attributes| {
        let condition = Condition::parse(text, &schema, Direction::Inbound, Action::Request).expect(text);
        assert!(condition.failed_part(attributes).is_some(), "{text}");
        condition.holds(attributes).expect_err(text).to_string()
    };
    let all = request(&schema, &web(&schema));
    let overflow = failure("context.hour * 9223372036854775807 > 3", &all);
    assert!(overflow.starts_with("the condition cannot be decided: integer overflow"), "{overflow}");
    // Negated, it still is no yes.
    failure("!(context.hour * 9223372036854775807 > 3)", &all);
    failure("context.hour * 9223372036854775807 > 3 || context.method == \"POST\"", &all);
    // What nobody has computed is not taken for something that is not there.
    let bare = Attributes::request(&parties(&schema, &web(&schema)), "GET", "/").unwrap();
    for text in [
        "context.hour < 24",
        "context.weekday != \"monday\"",
        "context.query has model",
        "!(context.query has model)",
        "!(context.headers has x_tenant)",
        "principal is Workload && principal.certificate_age_seconds < 10",
    ] {
        assert!(failure(text, &bare).contains("does not have the attribute"), "{text}: {}", failure(text, &bare));
    }
    let nowhere = Attributes::connection(&Parties::new(&web(&schema), &llm(&schema), None).unwrap());
    failure("!context.address.isLoopback()", &nowhere);
}

#[test]
fn what_is_asked_for_with_has_but_was_not_gathered_counts_as_used() {
    let uses = |text| parse(text, Direction::Inbound, Action::Request).unwrap().uses();
    assert!(uses("context has hour").contains(Uses::TIME));
    assert!(uses("principal has certificate_age_seconds").contains(Uses::CERTIFICATE));
    assert!(uses("context.headers has x_tenant").contains(Uses::HEADERS));
    assert_eq!(uses("principal in Role::\"batch\""), Uses::default());
}

#[test]
fn attributes_of_another_config_decide_nothing() {
    let (old, new) = (schema(), another_schema());
    let condition = Condition::parse("!(principal is Workload)", &new, Direction::Inbound, Action::Request).unwrap();
    let attributes = request(&old, &web(&old));
    assert_eq!(condition.holds(&attributes), Err(ConditionFailure::OtherConfig));
    assert_eq!(condition.failed_part(&attributes), None);
    assert_eq!(Parties::new(&web(&old), &llm(&new), None).unwrap_err(), AttributeError::OtherConfig);
}

#[test]
fn the_part_that_failed_is_told_as_it_is_written() {
    let schema = schema();
    let failed = |text: &str| {
        let condition = Condition::parse(text, &schema, Direction::Inbound, Action::Request).expect(text);
        condition.failed_part(&request(&schema, &web(&schema)))
    };
    let hours = "context.hour >= 8 && context.hour < 10 && principal in Role::\"batch\"";
    assert_eq!(failed(hours).as_deref(), Some("context.hour < 10"));
    assert_eq!(
        failed("context.hour >= 8 && principal in Role::\"batch\"").as_deref(),
        Some("principal in Role::\"batch\"")
    );
    assert_eq!(
        failed("context.hour >= 8 && (context.minute < 3 && context.hour < 10)").as_deref(),
        Some("context.minute < 3")
    );
    let either = "context.hour < 8\n  || context.hour > 18";
    assert_eq!(failed(&format!("  {either} // closed\n")).as_deref(), Some(either));
    assert_eq!(failed(&format!("context.hour == 10 && ({either})")).as_deref(), Some(either));
    assert_eq!(failed("context.hour >= 8 && context.hour < 18"), None);
    let error = "context.hour * 9223372036854775807 > 3";
    assert_eq!(failed(&format!("context.hour == 10 && {error}")).as_deref(), Some(error));
}

#[test]
fn what_is_ambiguous_or_too_much_is_refused() {
    let schema = schema();
    let mut attributes = Attributes::request(&parties(&schema, &web(&schema)), "GET", "/").unwrap();
    let twice = |name: &str| Err(AttributeError::Twice(name.to_owned()));
    assert_eq!(attributes.headers([("x-tenant", "a"), ("X-Tenant", "b")]), twice("x_tenant"));
    assert_eq!(attributes.headers([("x-other", "a"), ("X-Other", "b")]), Ok(()));
    assert_eq!(attributes.query([("model", "a"), ("model", "a")]), twice("model"));
    assert_eq!(attributes.query([("Model", "a"), ("Model", "a")]), Ok(()));
    let long = "a".repeat(TEXT_BYTES_MAX + 1);
    let too_long = |what| Err(AttributeError::Long { what, found: TEXT_BYTES_MAX + 1 });
    assert_eq!(attributes.headers([("x-tenant", long.as_str())]), too_long("a header"));
    assert_eq!(attributes.query([("model", long.as_str())]), too_long("a parameter of the query"));
    assert_eq!(attributes.headers([("x-tenant", &long[1..])]), Ok(()));
    assert_eq!(Attributes::request(&parties(&schema, &web(&schema)), "GET", &long).map(drop), too_long("the path"));
    assert_eq!(Attributes::request(&parties(&schema, &web(&schema)), &long, "/").map(drop), too_long("the method"));
    let service = |labels: &[(&str, &str)]| Service::new(&schema, "llm", labels).map(drop);
    assert_eq!(service(&[("tier", "a"), ("tier", "b")]), twice("tier"));
    assert_eq!(service(&[("tier", &long)]), too_long("a label"));
}

#[test]
fn tokens_that_say_something_else_than_expected_are_refused() {
    let schema = schema();
    let user = |user: User<'_>| Principal::user(&schema, user).map(drop);
    let claims = |claims: &[(&str, Claim<'_>)]| user(User { claims, ..ALICE });
    let other =
        AttributeError::ClaimKind { name: "clearance".to_owned(), declared: ClaimKind::Number, found: ClaimKind::Text };
    assert_eq!(claims(&[("clearance", Claim::Text("9"))]), Err(other));
    let twice = Err(AttributeError::Twice("clearance".to_owned()));
    assert_eq!(claims(&[("clearance", Claim::Number(1)), ("clearance", Claim::Number(2))]), twice);
    let fragment = "https://login.example#eve";
    assert_eq!(user(User { issuer: fragment, ..ALICE }), Err(AttributeError::Issuer(fragment.to_owned())));
    let many = vec!["a"; MEMBERS_MAX + 1];
    let too_many = |what| Err(AttributeError::Many { what, found: MEMBERS_MAX + 1 });
    assert_eq!(user(User { groups: &many, ..ALICE }), too_many("the groups"));
    assert_eq!(user(User { scopes: &many, ..ALICE }), too_many("the scopes"));
    assert_eq!(user(User { roles: &many, ..ALICE }), too_many("the roles"));
    assert_eq!(claims(&[("https://example.com/projects", Claim::Texts(&many))]), too_many("a claim"));
    assert_eq!(user(User { groups: &many[1..], ..ALICE }), Ok(()));
    let long = "a".repeat(TEXT_BYTES_MAX + 1);
    let too_long = |what| Err(AttributeError::Long { what, found: TEXT_BYTES_MAX + 1 });
    assert_eq!(user(User { id: &long, ..ALICE }), too_long("the subject"));
    assert_eq!(user(User { team: Some(&long), ..ALICE }), too_long("the team"));
    assert_eq!(user(User { groups: &[&long], ..ALICE }), too_long("the groups"));
    assert_eq!(claims(&[("department", Claim::Text(&long))]), too_long("a claim"));
}

#[test]
fn time_passes_for_certificates() {
    let schema = schema();
    let young = "principal is Workload && principal.certificate_age_seconds < 60";
    let young = Condition::parse(young, &schema, Direction::Inbound, Action::Connect).unwrap();
    let id = san("spiffe://prod.example/a");
    let workload = Workload { id: &id, names: &[], roles: &["batch"], certificate: certificate() };
    let parties = parties(&schema, &Principal::workload(&schema, workload).unwrap());
    let mut attributes = Attributes::connection(&parties);
    let begin = certificate().not_before;
    for (seconds, expected) in [(0, true), (59, true), (60, false), (100_000, false)] {
        attributes.certificate(Timestamp::from_unix_seconds(begin.as_unix_seconds() + seconds)).unwrap();
        assert_eq!(young.holds(&attributes), Ok(expected), "{seconds}");
    }
    // It still is who it was.
    let role = Condition::parse("principal in Role::\"batch\"", &schema, Direction::Inbound, Action::Connect).unwrap();
    assert_eq!(role.holds(&attributes), Ok(true));
}

#[test]
fn office_hours_follow_the_clock_on_the_wall() {
    let schema = schema();
    let open = "context.hour >= 8 && context.hour < 18";
    let open = Condition::parse(open, &schema, Direction::Inbound, Action::Connect).unwrap();
    let zones = countersign_conditions::clock::Zones::of_system();
    let berlin = zones.find("Europe/Berlin").unwrap();
    let mut attributes = Attributes::connection(&parties(&schema, &web(&schema)));
    let mut at = |seconds| {
        attributes.time(&berlin.at(Timestamp::from_unix_seconds(seconds)));
        open.holds(&attributes).unwrap()
    };
    // 2026-03-27 and 2026-03-30, before and after clocks are set: eight o'clock is 07:00 and 06:00 UTC.
    assert_eq!([1_774_594_799, 1_774_594_800].map(&mut at), [false, true]);
    assert_eq!([1_774_850_399, 1_774_850_400].map(&mut at), [false, true]);
    attributes.time(&Zone::utc().at(now()));
    assert_eq!(open.holds(&attributes), Ok(true));
}

#[test]
fn a_config_without_names_has_a_schema() {
    let schema = Schema::new(&Vocabulary::default()).unwrap();
    Condition::parse("context.hour > 3", &schema, Direction::Inbound, Action::Request).unwrap();
    let none = Condition::parse("principal in Role::\"a\"", &schema, Direction::Inbound, Action::Request).unwrap_err();
    assert_eq!(none.to_string(), "there is no role \"a\"");
    assert!(vocabulary().roles.len() > 1);
}

#[test]
fn nothing_of_a_caller_is_printed() {
    let schema = schema();
    let printed = format!("{:?} {:?}", request(&schema, &alice(&schema)), alice(&schema));
    for secret in ["acme", "physics", "research", "70b"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains("https://login.example#alice"), "{printed}");
}
