//! Our decisions beside those of Cedar's own library, on policies and people that are drawn at random; and nothing that a caller can
//! send makes a decision panic.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cedar_policy::{AuthorizationError, Authorizer, Decision, Entities, PolicySet as LibraryPolicies, Request};
use countersign_certs::san::San;
use countersign_certs::time::{Timestamp, Validity};
use proptest::prelude::*;

use super::*;
use crate::clock::Zone;
use crate::condition::Condition;
use crate::parties::{Parties, Service};
use crate::principal::{Claim, Principal, User, UserKind, Workload};
use crate::vocabulary::{ClaimKind, Vocabulary};

/// Made once: a thousand cases are decided with it.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let vocabulary = Vocabulary {
        roles: names(&["a", "b", "c"]),
        issuers: vec!["keys".to_owned()],
        services: names(&["llm", "other"]),
        labels: names(&["tier"]),
        claims: vec![("level".to_owned(), ClaimKind::Number)],
        headers: names(&["x-tenant"]),
        queries: names(&["model"]),
    };
    Schema::new(&vocabulary).unwrap()
});

static CONDITIONS_ON_TEXTS: LazyLock<Vec<Condition>> = LazyLock::new(|| {
    let texts = [
        "context.path like \"*a*b*\" || context.method == \"GET\"",
        "context.headers has x_tenant && context.headers.x_tenant like \"*\\*\"",
        "context.query has model && context.query.model == context.path",
        "principal is User && principal.groups.contains(principal.id) && principal.scopes.containsAny([context.path])",
        "principal is User && principal.claims has level && principal.claims.level * 3 - 1 > context.unix_time",
        "principal == User::\"keys#a\" || context.address.isInRange(ip(\"10.0.0.0/8\")) || context.address.isMulticast()",
    ];
    let parse = |text: &str| Condition::parse(text, &SCHEMA, Direction::Inbound).unwrap();
    texts.into_iter().map(parse).collect()
});

fn workload(schema: &Schema, id: &str, roles: &[&str]) -> Principal {
    let id: San = id.parse().unwrap();
    let second = Timestamp::from_unix_seconds;
    let certificate = Validity { not_before: second(1_000), not_after: second(5_000) };
    Principal::workload(schema, Workload { id: &id, names: &[], roles, certificate }).unwrap()
}

fn user(schema: &Schema, id: &str, roles: &[&str], level: i64, via: bool) -> Principal {
    let gateway: San = "spiffe://td/gateway".parse().unwrap();
    let second = Timestamp::from_unix_seconds;
    let certificate = Validity { not_before: second(1_000), not_after: second(5_000) };
    let via = via.then_some(Workload { id: &gateway, names: &[], roles: &["c"], certificate });
    let user = User {
        kind: UserKind::Service,
        id,
        issuer: "keys",
        team: None,
        scopes: &[],
        groups: &["g"],
        roles,
        claims: &[("level", Claim::Number(level))],
        via,
    };
    Principal::user(schema, user).unwrap()
}

const SCOPES: [&str; 9] = [
    "principal",
    "principal is User",
    "principal is Workload",
    "principal in Role::\"a\"",
    "principal in Role::\"b\"",
    "principal is Workload in Role::\"a\"",
    "principal is User in Role::\"c\"",
    "principal == Workload::\"spiffe://td/0\"",
    "principal == User::\"keys#1\"",
];

const ACTIONS: [&str; 3] = ["action", "action == Action::\"request\"", "action in [Action::\"request\"]"];

const RESOURCES: [&str; 2] = ["resource", "resource == Service::\"llm\""];

const CONDITIONS: [&str; 9] = [
    "",
    "when { context.hour < 12 }",
    "when { context.hour * 1000000000000000000 > 10 }",
    "unless { principal in Role::\"b\" }",
    "when { principal is User && principal.claims has level && principal.claims.level + 1 > 3 }",
    "when { principal is User && principal has via && principal.via in Role::\"c\" }",
    "when { resource.labels has tier && resource.labels.tier like \"g*\" }",
    "when { context.address.isInRange(ip(\"10.0.0.0/8\")) }",
    "unless { principal is Workload && principal.certificate_age_seconds < 100 }",
];

/// What the library says, and the ids of its reasons and errors, by which policies are found to be the same.
fn library(text: &str, attributes: &Attributes) -> (Decision, BTreeSet<String>, BTreeSet<String>) {
    let policies: LibraryPolicies = text.parse().unwrap();
    let request = Request::from(attributes.to_request());
    let entities = Entities::from(attributes.entities().clone());
    let response = Authorizer::new().is_authorized(&request, &policies, &entities);
    let reasons = response.diagnostics().reason().map(ToString::to_string).collect();
    let policy_of = |error: &AuthorizationError| match error {
        AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
    };
    let errors = response.diagnostics().errors().map(policy_of).collect();
    (response.decision(), reasons, errors)
}

/// Ours must follow from the library's: the same where nothing went wrong, an error where it skipped a policy.
fn compare(text: &str, ours: &Effect, (decision, reasons, errors): &(Decision, BTreeSet<String>, BTreeSet<String>)) {
    let same = |ids: &[Arc<str>]| ids.iter().map(|id| id.to_string()).collect::<BTreeSet<_>>() == *reasons;
    let agree = match ours {
        Effect::Error { policy, .. } => {
            errors.contains(&**policy) && (*decision == Decision::Allow || reasons.is_empty())
        }
        Effect::Forbid { ids } => *decision == Decision::Deny && same(ids),
        Effect::Nothing => *decision == Decision::Deny && reasons.is_empty() && errors.is_empty(),
        Effect::Permit { ids } => *decision == Decision::Allow && errors.is_empty() && same(ids),
    };
    assert!(agree, "{text}\nours: {ours:?}\nlibrary: {decision:?} {reasons:?} {errors:?}");
}

fn drawn_policy() -> impl Strategy<Value = String> {
    let of = |list: &'static [&'static str]| prop::sample::select(list);
    let effect = prop_oneof![2 => Just("permit"), 1 => Just("forbid")];
    (effect, of(&SCOPES), of(&ACTIONS), of(&RESOURCES), of(&CONDITIONS)).prop_map(
        |(effect, scope, action, resource, condition)| {
            // Types that never meet are refused when a file is read.
            let condition = if scope.contains("Workload") && condition.contains("is User") { "" } else { condition };
            format!("{effect} ({scope}, {action}, {resource}) {condition};\n")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_those_of_the_library(
        policies in prop::collection::vec(drawn_policy(), 0..12),
        number in 0_u8..3,
        is_user in any::<bool>(),
        via in any::<bool>(),
        roles in prop::sample::subsequence(vec!["a", "b", "c"], 0..=3),
        level in prop_oneof![Just(1), Just(5), Just(i64::MAX)],
        now in 1_000_u64..90_000,
        address in prop_oneof![Just("10.1.2.3"), Just("192.0.2.1")],
        service in prop_oneof![Just("llm"), Just("other")],
        tier in prop_oneof![Just(None), Just(Some("gold")), Just(Some("tin"))],
    ) {
        let schema = &*SCHEMA;
        let text = policies.concat();
        let principal = if is_user {
            user(schema, &number.to_string(), &roles, level, via)
        } else {
            workload(schema, &format!("spiffe://td/{number}"), &roles)
        };
        let labels: Vec<_> = tier.map(|tier| ("tier", tier)).into_iter().collect();
        let service = Service::new(schema, service, &labels).unwrap();
        let parties = Parties::new(&principal, &service, Some(address.parse().unwrap())).unwrap();
        let mut attributes = Attributes::request(&parties, "GET", "/").unwrap();
        let now = Timestamp::from_unix_seconds(now);
        attributes.time(&Zone::utc().at(now));
        attributes.certificate(now).unwrap();
        let file = PolicyFile::parse("drawn.cedar", &text, schema, Direction::Inbound);
        let file = file.unwrap_or_else(|refused| panic!("{refused}"));
        compare(&text, &file.decide(&attributes), &library(&text, &attributes));
    }

    #[test]
    fn no_value_of_a_caller_makes_a_decision_panic(
        method in ".*",
        path in ".*",
        header in ".*",
        parameter in ".*",
        id in ".*",
        group in ".*",
        level in any::<i64>(),
        now in any::<u64>(),
        address in any::<std::net::IpAddr>(),
    ) {
        let schema = &*SCHEMA;
        let roles = ["a", group.as_str()];
        let subject = User {
            kind: UserKind::User,
            id: &id,
            issuer: "keys",
            team: Some(&group),
            scopes: &[&id, &group],
            groups: &[&group],
            roles: &roles,
            claims: &[("level", Claim::Number(level))],
            via: None,
        };
        let principal = Principal::user(schema, subject).unwrap();
        let service = Service::new(schema, "llm", &[("tier", &header)]).unwrap();
        let parties = Parties::new(&principal, &service, Some(address)).unwrap();
        let mut attributes = Attributes::request(&parties, &method, &path).unwrap();
        attributes.headers([("X-Tenant", header.as_str())]).unwrap();
        // What some server would read as two parameters may be refused.
        prop_assert!(attributes.query([("model", parameter.as_str())]).is_ok() || parameter.contains(';'));
        let now = Timestamp::from_unix_seconds(now);
        attributes.time(&Zone::utc().at(now));
        attributes.certificate(now).unwrap();
        for condition in CONDITIONS_ON_TEXTS.iter() {
            let held = condition.holds(&attributes);
            prop_assert_eq!(condition.failed_part(&attributes).is_none(), held == Ok(true));
        }
    }
}

#[test]
fn only_policies_that_can_be_about_who_asks_are_looked_at() {
    let text = "permit (principal == Workload::\"spiffe://td/0\", action, resource);
        permit (principal == Workload::\"spiffe://td/1\", action, resource);
        permit (principal in Role::\"a\", action, resource);
        permit (principal is Workload in Role::\"b\", action, resource);
        permit (principal is User, action, resource);
        permit (principal, action, resource);";
    let file = PolicyFile::parse("index.cedar", text, &SCHEMA, Direction::Inbound).unwrap();
    let looked_at = |principal: &Principal| {
        let service = Service::new(&SCHEMA, "llm", &[]).unwrap();
        let attributes = Attributes::request(&Parties::new(principal, &service, None).unwrap(), "GET", "/").unwrap();
        file.candidates(&attributes).map(|policy| policy.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(looked_at(&workload(&SCHEMA, "spiffe://td/1", &["b"])), "policy1 policy3 policy4 policy5");
    assert_eq!(looked_at(&workload(&SCHEMA, "spiffe://td/2", &["a"])), "policy2 policy4 policy5");
    assert_eq!(looked_at(&workload(&SCHEMA, "spiffe://td/2", &["c"])), "policy4 policy5");
}
