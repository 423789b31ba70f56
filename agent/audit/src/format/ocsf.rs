//! Open Cybersecurity Schema Framework 1.5.0. Each event is of the class that fits it; the line itself is `raw_data`.

use serde_json::{Map, Value, json};

use super::{Gist, Severity, ip_and_port};
use crate::catalogue::{Access, Entry, Event, KeyChange, unix_microseconds};

const VERSION: &str = "1.5.0";

/// A class, and which of its activities.
struct Class {
    uid: u64,
    activity: u64,
    /// Its name, where it is "Other".
    activity_name: Option<String>,
}

impl Class {
    fn new(uid: u64, activity: u64) -> Self {
        Self { uid, activity, activity_name: None }
    }

    fn other(uid: u64, name: &str) -> Self {
        Self { uid, activity: OTHER, activity_name: Some(name.to_owned()) }
    }
}

const ACCOUNT_CHANGE: u64 = 3001;
const AUTHENTICATION: u64 = 3002;
const API_ACTIVITY: u64 = 6003;
const APPLICATION_LIFECYCLE: u64 = 6002;
const DETECTION_FINDING: u64 = 2004;
const NETWORK_ACTIVITY: u64 = 4001;
const OTHER: u64 = 99;

pub(super) fn convert(entry: &Entry, line: &str) -> String {
    let gist = entry.gist();
    let class = class(&entry.event);
    let mut event = Map::new();
    let mut add = |key: &str, value: Value| drop(event.insert(key.to_owned(), value));
    add("class_uid", json!(class.uid));
    add("category_uid", json!(class.uid / 1000));
    add("activity_id", json!(class.activity));
    add("type_uid", json!(class.uid * 100 + class.activity));
    if let Some(name) = &class.activity_name {
        add("activity_name", json!(name));
    }
    add("time", json!(unix_microseconds(&entry.time).unwrap_or_default() / 1000));
    add("severity_id", json!(severity(gist.severity)));
    add("status_id", json!(gist.success.map_or(0, |success| if success { 1 } else { 2 })));
    add("message", json!(gist.message));
    add("raw_data", json!(line));
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": "countersign-agent", "vendor_name": "Countersign", "version": env!("CARGO_PKG_VERSION") },
        "event_code": entry.event.name(),
        "log_name": "audit",
        "log_version": entry.schema.to_string(),
    });
    if let (Some(uid), Some(metadata)) = (decision(&entry.event), metadata.as_object_mut()) {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    add("metadata", metadata);
    for (key, value) in details(entry, &gist) {
        add(key, value);
    }
    Value::Object(event).to_string()
}

fn severity(severity: Severity) -> u64 {
    match severity {
        Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
    }
}

fn class(event: &Event) -> Class {
    match event {
        Event::Request(access) => request(access),
        Event::Connection(access) => Class::new(
            NETWORK_ACTIVITY,
            match access.outcome.as_str() {
                "denied" => 5,
                "failed" => 4,
                "cut" => 3,
                _ => 2,
            },
        ),
        Event::Authentication(_) => Class::new(AUTHENTICATION, 1),
        Event::KeyCreated(_) => Class::new(ACCOUNT_CHANGE, 1),
        Event::KeyEnabled(_) => Class::new(ACCOUNT_CHANGE, 2),
        Event::KeyRotated(_) => Class::new(ACCOUNT_CHANGE, 3),
        Event::KeyDisabled(_) => Class::new(ACCOUNT_CHANGE, 5),
        Event::KeyRevoked(_) => Class::new(ACCOUNT_CHANGE, 6),
        Event::Lockout(_) => Class::new(ACCOUNT_CHANGE, 9),
        Event::AgentStarted(_) => Class::new(APPLICATION_LIFECYCLE, 3),
        Event::AgentStopped(_) => Class::new(APPLICATION_LIFECYCLE, 4),
        Event::ConfigLoaded(_) | Event::CredentialRotated(_) => Class::new(APPLICATION_LIFECYCLE, 8),
        Event::LimitHit(_) | Event::Pattern(_) => Class::new(DETECTION_FINDING, 1),
        Event::AuditGap(_)
        | Event::AuditOpened(_)
        | Event::AuditRecovered(_)
        | Event::AuditRetired(_)
        | Event::AuditSealed(_)
        | Event::ConfigRefused(_)
        | Event::ControlCommand(_)
        | Event::OmittedLines(_)
        | Event::PolicyObserved(_)
        | Event::Unknown
        | Event::UnrecordedRefusals(_) => Class::other(APPLICATION_LIFECYCLE, event.name()),
    }
}

fn request(access: &Access) -> Class {
    match access.method.as_deref() {
        Some("POST") => Class::new(API_ACTIVITY, 1),
        Some("GET" | "HEAD") => Class::new(API_ACTIVITY, 2),
        Some("PUT" | "PATCH") => Class::new(API_ACTIVITY, 3),
        Some("DELETE") => Class::new(API_ACTIVITY, 4),
        other => Class::other(API_ACTIVITY, other.unwrap_or("request")),
    }
}

fn decision(event: &Event) -> Option<&str> {
    let (Event::Request(access) | Event::Connection(access)) = event else { return None };
    Some(&access.decision)
}

/// What a class needs beside the keys that all have.
fn details(entry: &Entry, gist: &Gist<'_>) -> Vec<(&'static str, Value)> {
    match &entry.event {
        Event::Request(access) => of_request(access, gist),
        Event::Connection(access) => of_connection(access),
        Event::Authentication(tried) => {
            let mut details = vec![
                ("user", json!({ "name": gist.subject.unwrap_or("unknown") })),
                ("service", json!({ "name": tried.route.as_deref().unwrap_or("countersign-agent") })),
                ("auth_protocol_id", json!(OTHER)),
                ("auth_protocol", json!(tried.method)),
            ];
            details.extend(gist.address.map(|address| ("src_endpoint", endpoint(address))));
            details.extend(tried.reason.as_ref().map(|reason| ("status_detail", json!(reason))));
            details
        }
        Event::KeyCreated(key)
        | Event::KeyDisabled(key)
        | Event::KeyEnabled(key)
        | Event::KeyRevoked(key)
        | Event::KeyRotated(key) => of_key(key),
        Event::Lockout(lockout) => vec![("user", json!({ "name": lockout.subject }))],
        Event::LimitHit(hit) => finding(&hit.limit, &entry.time, gist),
        Event::Pattern(pattern) => finding(&pattern.pattern, &entry.time, gist),
        Event::AgentStarted(_)
        | Event::AgentStopped(_)
        | Event::AuditGap(_)
        | Event::AuditOpened(_)
        | Event::AuditRecovered(_)
        | Event::AuditRetired(_)
        | Event::AuditSealed(_)
        | Event::ConfigLoaded(_)
        | Event::ConfigRefused(_)
        | Event::ControlCommand(_)
        | Event::CredentialRotated(_)
        | Event::OmittedLines(_)
        | Event::PolicyObserved(_)
        | Event::Unknown
        | Event::UnrecordedRefusals(_) => vec![(
            "app",
            json!({ "name": "countersign-agent", "vendor_name": "Countersign", "version": env!("CARGO_PKG_VERSION") }),
        )],
    }
}

fn of_request(access: &Access, gist: &Gist<'_>) -> Vec<(&'static str, Value)> {
    let method = access.method.as_deref().unwrap_or("request");
    let path = access.path.as_deref().unwrap_or("/");
    let mut request = json!({ "http_method": method });
    if let Some(request) = request.as_object_mut() {
        request.insert("url".to_owned(), json!({ "path": path }));
    }
    let mut api = json!({
        "operation": format!("{method} {path}"),
        "service": { "name": access.route },
        "request": { "uid": access.decision },
    });
    if let (Some(status), Some(api)) = (access.status, api.as_object_mut()) {
        api.insert("response".to_owned(), json!({ "code": status }));
    }
    let mut details = vec![
        ("actor", json!({ "user": user(gist.subject.unwrap_or("unknown"), access) })),
        ("api", api),
        ("src_endpoint", endpoint(&access.address)),
        ("http_request", request),
        ("duration", json!(access.duration_us / 1000)),
    ];
    details.extend(
        access.status.map(|status| ("http_response", json!({ "code": status, "body_length": access.sent_bytes }))),
    );
    details.extend(access.status.map(|status| ("status_code", json!(status.to_string()))));
    details.extend(access.reason.as_ref().map(|reason| ("status_detail", json!(reason))));
    details
}

fn of_connection(access: &Access) -> Vec<(&'static str, Value)> {
    let direction = if access.direction == "inbound" { 1 } else { 2 };
    let mut details = vec![
        ("src_endpoint", endpoint(&access.address)),
        ("dst_endpoint", json!({ "svc_name": access.route })),
        ("connection_info", json!({ "direction_id": direction, "uid": access.decision })),
        ("traffic", json!({ "bytes_in": access.received_bytes, "bytes_out": access.sent_bytes })),
        ("duration", json!(access.duration_us / 1000)),
    ];
    details.extend(access.reason.as_ref().map(|reason| ("status_detail", json!(reason))));
    details
}

fn of_key(key: &KeyChange) -> Vec<(&'static str, Value)> {
    let mut user = json!({ "uid": key.key, "credential_uid": key.key });
    if let (Some(owner), Some(user)) = (&key.owner, user.as_object_mut()) {
        user.insert("name".to_owned(), json!(owner));
    }
    let mut details = vec![("user", user)];
    details.extend(key.caller_uid.map(|uid| ("actor", json!({ "user": { "uid": uid.to_string() } }))));
    details
}

fn finding(name: &str, time: &str, gist: &Gist<'_>) -> Vec<(&'static str, Value)> {
    let uid = format!("{name} {} {time}", gist.subject.unwrap_or_default());
    vec![("finding_info", json!({ "uid": uid, "title": name, "desc": gist.message, "types": [name] }))]
}

fn user(name: &str, access: &Access) -> Value {
    let mut user = json!({ "name": name });
    if let Some(user) = user.as_object_mut() {
        // The certificate is the workload's, which may act for somebody else.
        if let (Some(serial), None) = (&access.serial, &access.subject) {
            user.insert("credential_uid".to_owned(), json!(serial));
        }
        if let Some(roles) = access.roles_of_whom_it_is_for() {
            let groups: Vec<Value> = roles.iter().map(|role| json!({ "name": role })).collect();
            user.insert("groups".to_owned(), json!(groups));
        }
    }
    user
}

fn endpoint(address: &str) -> Value {
    match ip_and_port(address) {
        Some((ip, port)) => json!({ "ip": ip, "port": port }),
        None => json!({ "name": address }),
    }
}
