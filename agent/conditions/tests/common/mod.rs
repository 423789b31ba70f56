//! One config and the people in it, for all tests of this crate.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a helper that fails has failed its test")]

use std::sync::LazyLock;

use countersign_certs::san::San;
use countersign_certs::time::{Timestamp, Validity};
use countersign_conditions::attributes::Attributes;
use countersign_conditions::clock::Zones;
use countersign_conditions::condition::{Condition, ConditionError};
use countersign_conditions::parties::{Parties, Service};
use countersign_conditions::principal::{Claim, LocalCaller, Principal, User, UserKind, Workload};
use countersign_conditions::schema::{Direction, Schema};
use countersign_conditions::vocabulary::{ClaimKind, Vocabulary};

/// Tuesday, 2026-11-24 10:30 in Berlin.
pub(crate) const NOW: u64 = 1_795_512_600;

pub(crate) fn vocabulary() -> Vocabulary {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Vocabulary {
        roles: names(&["employee", "contractor", "gateway", "batch"]),
        issuers: names(&["corp", "api_key", "basic"]),
        services: names(&["llm", "embeddings"]),
        labels: names(&["tier", "data"]),
        claims: vec![
            ("department".to_owned(), ClaimKind::Text),
            ("clearance".to_owned(), ClaimKind::Number),
            ("email_verified".to_owned(), ClaimKind::Boolean),
            ("https://example.com/projects".to_owned(), ClaimKind::Texts),
        ],
        headers: names(&["x-tenant", "X-Purpose"]),
        queries: names(&["model", "stream"]),
    }
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(another_schema);

/// The schema of this config.
pub(crate) fn schema() -> Schema {
    SCHEMA.clone()
}

/// The schema of the same config after a reload.
pub(crate) fn another_schema() -> Schema {
    Schema::new(&vocabulary()).unwrap()
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_seconds(NOW)
}

/// Valid since an hour ago, for two more.
pub(crate) fn certificate() -> Validity {
    Validity {
        not_before: Timestamp::from_unix_seconds(NOW - 3600),
        not_after: Timestamp::from_unix_seconds(NOW + 7200),
    }
}

pub(crate) fn san(text: &str) -> San {
    text.parse().unwrap()
}

pub(crate) fn workload(schema: &Schema, id: &str, roles: &[&str]) -> Principal {
    let id = san(id);
    let names = [id.clone(), san("dns:a.prod.example")];
    Principal::workload(schema, Workload { id: &id, names: &names, roles, certificate: certificate() }).unwrap()
}

pub(crate) fn web(schema: &Schema) -> Principal {
    workload(schema, "spiffe://prod.example/web/frontend", &["employee", "gateway"])
}

pub(crate) const ALICE: User<'static> = User {
    kind: UserKind::User,
    id: "alice",
    issuer: "corp",
    team: Some("research"),
    scopes: &["chat", "embed"],
    groups: &["ml", "staff"],
    roles: &["employee"],
    claims: &[
        ("department", Claim::Text("physics")),
        ("clearance", Claim::Number(3)),
        ("email_verified", Claim::Boolean(true)),
        ("https://example.com/projects", Claim::Texts(&["apollo", "gemini"])),
        ("undeclared", Claim::Text("x")),
    ],
    via: None,
};

pub(crate) fn alice(schema: &Schema) -> Principal {
    let id = san("spiffe://prod.example/gateway");
    let via = Workload { id: &id, names: &[], roles: &["gateway"], certificate: certificate() };
    Principal::user(schema, User { via: Some(via), ..ALICE }).unwrap()
}

pub(crate) fn local(schema: &Schema) -> Principal {
    Principal::local_caller(schema, LocalCaller { user: Some((1000, 100)), roles: &["employee"] }).unwrap()
}

pub(crate) fn llm(schema: &Schema) -> Service {
    Service::new(schema, "llm", &[("tier", "gold"), ("unknown", "x")]).unwrap()
}

pub(crate) fn parties(schema: &Schema, principal: &Principal) -> Parties {
    Parties::new(principal, &llm(schema), Some("10.20.1.2".parse().unwrap())).unwrap()
}

/// A request with everything that can be known.
pub(crate) fn request(schema: &Schema, principal: &Principal) -> Attributes {
    let mut attributes = Attributes::request(&parties(schema, principal), "POST", "/v1/chat/completions").unwrap();
    attributes.headers([("X-Tenant", "acme"), ("cookie", "a"), ("cookie", "b")]).unwrap();
    attributes.query([("model", "llama3:70b"), ("unknown", "x")]).unwrap();
    attributes.time(&Zones::of_system().find("Europe/Berlin").unwrap().at(now()));
    attributes.certificate(now()).unwrap();
    attributes
}

pub(crate) fn parse(text: &str, direction: Direction) -> Result<Condition, ConditionError> {
    Condition::parse(text, &schema(), direction)
}

/// What a condition says of a request of `who`.
#[track_caller]
pub(crate) fn check_for(text: &str, who: impl Fn(&Schema) -> Principal, expected: bool) {
    let schema = schema();
    let condition = Condition::parse(text, &schema, Direction::Inbound)
        .unwrap_or_else(|error| panic!("{text}: {:?}", error.into_finding()));
    assert_eq!(condition.holds(&request(&schema, &who(&schema))), Ok(expected), "{text}");
}

/// What a condition says of a request of the web frontend.
#[track_caller]
pub(crate) fn check(text: &str, expected: bool) {
    check_for(text, web, expected);
}
