//! Elastic Common Schema 8.17. What has no field of its own is under `countersign`, as it is stored.

use serde_json::{Map, Value, json};

use super::{Severity, ip_and_port};
use crate::catalogue::{Access, Entry, Event};

pub(super) fn convert(entry: &Entry, line: &str) -> String {
    let gist = entry.gist();
    let (category, kind) = category(&entry.event);
    let severity = match gist.severity {
        Severity::Informational => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
    };
    let mut event = json!({
        "kind": "event",
        "category": [category],
        "type": kind,
        "action": entry.event.name(),
        "module": "countersign",
        "dataset": "countersign.audit",
        "severity": severity,
        "outcome": match gist.success { Some(true) => "success", Some(false) => "failure", None => "unknown" },
    });
    let mut document = json!({
        "@timestamp": entry.time,
        "ecs": { "version": "8.17.0" },
        "message": gist.message,
        "observer": { "vendor": "Countersign", "product": "countersign-agent", "type": "proxy" },
    });
    if let Some(subject) = gist.subject {
        insert(&mut document, "user", json!({ "name": subject }));
    }
    if let Some(address) = gist.address {
        insert(&mut document, "source", source(address));
    }
    if let Event::Request(access) | Event::Connection(access) = &entry.event {
        add_access(&mut document, &mut event, access);
    }
    insert(&mut document, "event", event);
    // The line was read as an object already.
    insert(&mut document, "countersign", serde_json::from_str(line).unwrap_or_default());
    document.to_string()
}

fn add_access(document: &mut Value, event: &mut Value, access: &Access) {
    insert(event, "id", json!(access.decision));
    insert(event, "duration", json!(access.duration_us.saturating_mul(1000)));
    if let Some(reason) = &access.reason {
        insert(event, "reason", json!(reason));
    }
    if let Some(rule) = &access.rule {
        insert(document, "rule", json!({ "name": rule }));
    }
    insert(
        document,
        "network",
        json!({ "direction": access.direction, "bytes": access.received_bytes.saturating_add(access.sent_bytes) }),
    );
    if let (Some(method), Some(path)) = (&access.method, &access.path) {
        insert(document, "url", json!({ "path": path }));
        let mut http = json!({ "request": { "method": method, "body": { "bytes": access.received_bytes } } });
        if let Some(status) = access.status {
            insert(&mut http, "response", json!({ "status_code": status, "body": { "bytes": access.sent_bytes } }));
        }
        insert(document, "http", http);
    }
    if let Some(roles) = access.roles_of_whom_it_is_for() {
        let user = document.get_mut("user").and_then(Value::as_object_mut);
        user.map(|user| user.insert("roles".to_owned(), json!(roles)));
    }
    if let Some(serial) = &access.serial {
        insert(document, "tls", json!({ "client": { "x509": { "serial_number": serial } } }));
    }
}

fn source(address: &str) -> Value {
    match ip_and_port(address) {
        Some((ip, port)) => json!({ "address": address, "ip": ip, "port": port }),
        None => json!({ "address": address }),
    }
}

/// `event.category` and `event.type`, whose words ECS fixes.
fn category(event: &Event) -> (&'static str, Vec<&'static str>) {
    match event {
        Event::Request(access) => ("api", vec![admission(access)]),
        Event::Connection(access) => ("network", vec!["connection", admission(access)]),
        Event::AgentStarted(_) => ("process", vec!["start"]),
        Event::AgentStopped(_) => ("process", vec!["end"]),
        Event::Authentication(_) => ("authentication", vec!["start"]),
        Event::Lockout(_) => ("iam", vec!["user", "change"]),
        Event::KeyCreated(_) => ("iam", vec!["user", "creation"]),
        Event::KeyRevoked(_) => ("iam", vec!["user", "deletion"]),
        Event::KeyDisabled(_) | Event::KeyEnabled(_) | Event::KeyRotated(_) => ("iam", vec!["user", "change"]),
        Event::ConfigLoaded(_)
        | Event::ConfigRefused(_)
        | Event::ControlCommand(_)
        | Event::CredentialRotated(_)
        | Event::PolicyObserved(_) => ("configuration", vec!["change"]),
        Event::LimitHit(_) | Event::Pattern(_) => ("intrusion_detection", vec!["info"]),
        Event::AuditGap(_)
        | Event::AuditOpened(_)
        | Event::AuditRecovered(_)
        | Event::AuditRetired(_)
        | Event::AuditSealed(_)
        | Event::OmittedLines(_)
        | Event::Unknown
        | Event::UnrecordedRefusals(_) => ("configuration", vec!["info"]),
    }
}

fn admission(access: &Access) -> &'static str {
    if access.outcome == "denied" { "denied" } else { "allowed" }
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}
