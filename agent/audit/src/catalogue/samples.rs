//! One of each event with every key, for tests of what is made from events.

use std::time::{Duration, SystemTime};

use countersign_certs::digest::Fingerprint;

use super::{
    Access, AgentStarted, AgentStopped, AuditGap, AuditOpened, AuditRecovered, AuditRetired, AuditSealed,
    Authentication, ConfigChange, ControlCommand, CredentialRotated, Entry, Event, KeyChange, LimitHit, Lockout,
    OmittedLines, Pattern, PolicyObserved, UnrecordedRefusals,
};

/// 2026-11-23T03:00:00.000001Z.
pub(crate) fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_402_800_000_001)
}

/// A request with every key.
pub(crate) fn access() -> Access {
    Access {
        decision: "5f0c2a9e11d07b44-0000000007".to_owned(),
        direction: "inbound".to_owned(),
        route: "llm".to_owned(),
        address: "192.0.2.7:40412".to_owned(),
        peer: text("spiffe://prod.example/web/frontend"),
        names: vec!["spiffe://prod.example/web/frontend".to_owned(), "dns:web.prod.example".to_owned()],
        serial: text("0a0b"),
        roles: Some(vec!["inference_client".to_owned()]),
        principal: text("workload_on_behalf"),
        subject: text("user:company/alice"),
        subject_facts: vec!["group:company/employees".to_owned()],
        subject_roles: Some(vec!["employee".to_owned()]),
        credential: text("jwt"),
        claimed: text("spiffe://prod.example/somebody"),
        outcome: "denied".to_owned(),
        reason: text("path_not_allowed"),
        detail: text("denied: a=b|c\\d]\"\n\u{1b}"),
        rule: text("llm.allow[0]"),
        observed: text("would be denied, soon denies it"),
        limit: text("twenty-a-minute"),
        method: text("POST"),
        path: text("/v1/chat/completions"),
        headers: vec!["user-agent: curl/8".to_owned()],
        query: vec!["api-version=2026".to_owned()],
        status: Some(403),
        credential_rotated: true,
        received_bytes: 1,
        sent_bytes: 2,
        duration_us: 3,
        omitted: Some(4),
        more: serde_json::Map::new(),
    }
}

/// One of each.
pub(crate) fn all() -> Vec<Entry> {
    let key = || KeyChange {
        key: "key_abc".to_owned(),
        owner: text("batch"),
        caller_uid: Some(0),
        expires: text("2027-01-01T00:00:00Z"),
    };
    let config = |error: Option<String>| ConfigChange {
        path: "/etc/countersign/agent.toml".to_owned(),
        sha256: Some("0".repeat(64)),
        owner_uid: Some(0),
        modified: text("2026-11-23T02:59:00Z"),
        error,
    };
    let zeros = Fingerprint([0; 32]);
    let events = vec![
        Event::AgentStarted(AgentStarted { version: "0.1.0".to_owned(), pid: 7 }),
        Event::AgentStopped(AgentStopped { version: "0.1.0".to_owned(), pid: 7 }),
        Event::AuditGap(AuditGap { count: 3, sink: text("siem") }),
        Event::AuditOpened(AuditOpened {
            segment: 1,
            previous: zeros,
            version: "0.1.0".to_owned(),
            host: "host-a".to_owned(),
            public_key: "AAAA".to_owned(),
        }),
        Event::AuditRecovered(AuditRecovered { segment: 1, lines: 2, last: zeros, torn_bytes: 3, torn_sha256: zeros }),
        Event::AuditRetired(AuditRetired { through: 3, reason: "age".to_owned() }),
        Event::AuditSealed(AuditSealed { segment: 1, lines: 2, last: zeros, signature: text("AAAA") }),
        Event::Authentication(Authentication {
            method: "api_key".to_owned(),
            outcome: "success".to_owned(),
            reason: None,
            subject: text("key:key_abc"),
            address: text("192.0.2.7:40412"),
            route: text("llm"),
            omitted: Some(4),
        }),
        Event::Authentication(Authentication {
            method: "api_key or jwt".to_owned(),
            outcome: "failure".to_owned(),
            reason: text("key_unknown"),
            subject: None,
            address: text("192.0.2.7:40412"),
            route: text("llm"),
            omitted: None,
        }),
        Event::ConfigLoaded(config(None)),
        Event::ConfigRefused(config(text("agent.toml:1:1: unknown key \"a\""))),
        Event::Connection(Access { method: None, path: None, status: None, ..access() }),
        Event::ControlCommand(ControlCommand {
            command: "renew".to_owned(),
            caller_uid: Some(0),
            subject: text("spiffe://prod.example/llm"),
        }),
        Event::CredentialRotated(CredentialRotated {
            credential: "certificate".to_owned(),
            name: "spiffe://prod.example/llm".to_owned(),
            serial: text("0a0b"),
            not_after: text("2026-11-23T04:00:00Z"),
        }),
        Event::KeyCreated(key()),
        Event::KeyDisabled(key()),
        Event::KeyEnabled(key()),
        Event::KeyRevoked(key()),
        Event::KeyRotated(key()),
        Event::LimitHit(LimitHit {
            limit: "tokens".to_owned(),
            subject: text("spiffe://prod.example/web/frontend"),
            route: text("llm"),
            count: 2,
        }),
        Event::Lockout(Lockout {
            subject: "basic:alice at 192.0.2.7".to_owned(),
            until: text("2026-11-23T03:10:00Z"),
            omitted: Some(4),
        }),
        Event::OmittedLines(OmittedLines { of: "refusal".to_owned(), reason: text("key_unknown"), count: 299 }),
        Event::Pattern(Pattern {
            pattern: "refusal_burst".to_owned(),
            subject: text("spiffe://prod.example/web/frontend"),
            route: text("llm"),
            count: 200,
            seconds: 60,
            omitted: Some(4),
        }),
        Event::PolicyObserved(PolicyObserved {
            decision: "5f0c2a9e11d07b44-0000000007".to_owned(),
            policy: "would be denied, soon denies it".to_owned(),
            outcome: "denied".to_owned(),
            route: "llm".to_owned(),
            peer: text("spiffe://prod.example/web/frontend"),
            omitted: Some(4),
        }),
        Event::Request(access()),
        Event::UnrecordedRefusals(UnrecordedRefusals { count: 9 }),
    ];
    events.into_iter().map(|event| Entry::new(event, time())).collect()
}

#[allow(clippy::unnecessary_wraps, reason = "every key of a sample is there")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}
