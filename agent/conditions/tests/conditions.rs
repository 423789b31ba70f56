//! Conditions: what they say of a request, and what is refused as an answer.

#![allow(
    clippy::expect_used,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what does not hold here is a failed test"
)]

mod common;

use common::{
    ALICE, NOW, alice, another_schema, certificate, check, check_for, llm, local, now, parse, parties, request, san,
    schema, web, workload,
};
use countersign_certs::time::Timestamp;
use countersign_conditions::attributes::{AttributeError, Attributes};
use countersign_conditions::clock::Zone;
use countersign_conditions::condition::{Condition, ConditionFailure};
use countersign_conditions::parties::{Parties, Service};
use countersign_conditions::principal::{Claim, LocalCaller, Principal, User, Workload};
use countersign_conditions::schema::{Direction, Schema};
use countersign_conditions::uses::Uses;
use countersign_conditions::value::{MEMBERS_MAX, TEXT_BYTES_MAX};
use countersign_conditions::vocabulary::ClaimKind;

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
        ("principal is User && principal.issuer == \"corp\"", true),
        ("principal == User::\"corp#alice\"", true),
        ("principal == User::\"basic#alice\"", false),
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
        let condition = Condition::parse(text, &schema, Direction::Outbound).expect(text);
        let mut attributes = Attributes::request(&Parties::new(who, &llm(&schema), None).unwrap(), "GET", "/").unwrap();
        attributes.local(7, 8);
        condition.holds(&attributes).unwrap()
    };
    let text = "principal has uid && principal.uid == 1000 && principal has gid && principal.gid == 100";
    assert!(holds(text, &local(&schema)));
    assert!(holds("principal == LocalCaller::\"1000\"", &local(&schema)));
    assert!(holds("principal in Role::\"employee\"", &local(&schema)));
    let unknown = Principal::local_caller(&schema, LocalCaller { user: None, roles: &[] }).unwrap();
    assert!(!holds(text, &unknown));
    assert!(!holds("principal in Role::\"employee\"", &unknown));
    assert!(holds("principal == LocalCaller::\"loopback\" && !(principal has gid)", &unknown));
    assert!(holds("context has local && context.local.uid == 7 && context.local.gid == 8", &unknown));
}

#[test]
fn an_ipv4_peer_of_an_ipv6_socket_is_one_of_its_network() {
    let schema = schema();
    let condition = Condition::parse("context.address.isInRange(ip(\"10.20.0.0/16\"))", &schema, Direction::Inbound);
    let condition = condition.unwrap();
    for (address, expected) in
        [("::ffff:10.20.1.2", true), ("10.20.1.2", true), ("::ffff:10.21.1.2", false), ("fd00::1", false)]
    {
        let parties = Parties::new(&web(&schema), &llm(&schema), Some(address.parse().unwrap())).unwrap();
        assert_eq!(condition.holds(&Attributes::request(&parties, "GET", "/").unwrap()), Ok(expected), "{address}");
    }
}

#[test]
fn what_cannot_be_decided_is_an_error() {
    let schema = schema();
    let failure = |text: &str, attributes: &Attributes| {
        let condition = Condition::parse(text, &schema, Direction::Inbound).expect(text);
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
    let nowhere = Attributes::request(&Parties::new(&web(&schema), &llm(&schema), None).unwrap(), "GET", "/").unwrap();
    failure("!context.address.isLoopback()", &nowhere);
}

#[test]
fn what_is_asked_for_with_has_but_was_not_gathered_counts_as_used() {
    let uses = |text| parse(text, Direction::Inbound).unwrap().uses();
    assert!(uses("context has hour").contains(Uses::TIME));
    assert!(uses("principal has certificate_age_seconds").contains(Uses::CERTIFICATE));
    assert!(uses("context.headers has x_tenant").contains(Uses::HEADERS));
    assert_eq!(uses("principal in Role::\"batch\""), Uses::default());
}

#[test]
fn attributes_of_another_config_decide_nothing() {
    let (old, new) = (schema(), another_schema());
    let condition = Condition::parse("!(principal is Workload)", &new, Direction::Inbound).unwrap();
    let attributes = request(&old, &web(&old));
    assert_eq!(condition.holds(&attributes), Err(ConditionFailure::OtherConfig));
    assert_eq!(condition.failed_part(&attributes), None);
    assert_eq!(Parties::new(&web(&old), &llm(&new), None).unwrap_err(), AttributeError::OtherConfig);
}

#[test]
fn the_part_that_failed_is_told_as_it_is_written() {
    let schema = schema();
    let failed = |text: &str| {
        let condition = Condition::parse(text, &schema, Direction::Inbound).expect(text);
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
    for found in ["x_tenant", "X_Tenant", "x.tenant"] {
        let spelling = AttributeError::Spelling { found: found.to_owned(), declared: "x-tenant".to_owned() };
        assert_eq!(attributes.headers([(found, "a")]), Err(spelling.clone()));
        assert_eq!(attributes.headers([("x-tenant", "a"), (found, "b")]), Err(spelling));
    }
    assert_eq!(attributes.headers([("x-tenants", "a"), ("xatenant", "a"), ("x-tenan", "a")]), Ok(()));
    assert_eq!(attributes.query([("model", "a"), ("model", "a")]), twice("model"));
    for (name, value, found) in [
        ("Model", "a", "Model"),
        (" model", "a", " model"),
        ("model[]", "a", "model[]"),
        ("model\0x", "a", "model\0x"),
        ("x;model", "a", "model"),
        ("x", "1;model=a", "model"),
    ] {
        let spelling = AttributeError::Spelling { found: found.to_owned(), declared: "model".to_owned() };
        assert_eq!(attributes.query([(name, value)]), Err(spelling), "{name:?}");
    }
    assert_eq!(attributes.query([("models", "a"), ("amodel", "a"), ("x", "1;y=model")]), Ok(()));
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
    let young = Condition::parse(young, &schema, Direction::Inbound).unwrap();
    let id = san("spiffe://prod.example/a");
    let workload = Workload { id: &id, names: &[], roles: &["batch"], certificate: certificate() };
    let parties = parties(&schema, &Principal::workload(&schema, workload).unwrap());
    let mut attributes = Attributes::request(&parties, "GET", "/").unwrap();
    let begin = certificate().not_before;
    for (seconds, expected) in [(0, true), (59, true), (60, false), (100_000, false)] {
        attributes.certificate(Timestamp::from_unix_seconds(begin.as_unix_seconds() + seconds)).unwrap();
        assert_eq!(young.holds(&attributes), Ok(expected), "{seconds}");
    }
    // It still is who it was.
    let role = Condition::parse("principal in Role::\"batch\"", &schema, Direction::Inbound).unwrap();
    assert_eq!(role.holds(&attributes), Ok(true));
}

#[test]
fn office_hours_follow_the_clock_on_the_wall() {
    let schema = schema();
    let open = "context.hour >= 8 && context.hour < 18";
    let open = Condition::parse(open, &schema, Direction::Inbound).unwrap();
    let zones = countersign_conditions::clock::Zones::of_system();
    let berlin = zones.find("Europe/Berlin").unwrap();
    let mut attributes = Attributes::request(&parties(&schema, &web(&schema)), "GET", "/").unwrap();
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
fn nothing_of_a_caller_is_printed() {
    let schema = schema();
    let printed = format!("{:?} {:?}", request(&schema, &alice(&schema)), alice(&schema));
    for secret in ["acme", "physics", "research", "70b"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains("corp#alice"), "{printed}");
    let condition = parse("context.hour > 3", Direction::Inbound).unwrap();
    assert_eq!(format!("{condition:?}"), "Condition(context.hour > 3)");
}
