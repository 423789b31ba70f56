//! ArcSight Common Event Format, version 0: a head of seven fields between bars, and `key=value` pairs.

use super::{Severity, ip_and_port};
use crate::catalogue::{Entry, Event, unix_microseconds};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn convert(entry: &Entry) -> String {
    let gist = entry.gist();
    // 0 to 3 are low, 4 to 6 medium, 7 and 8 high.
    let severity = match gist.severity {
        Severity::Informational => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
    };
    let name = entry.event.name();
    let mut line = format!(
        "CEF:0|Countersign|countersign-agent|{}|{}|{}|{severity}|",
        head(VERSION),
        head(name),
        head(&title(name))
    );
    let mut pairs = Pairs(&mut line);
    if let Some(microseconds) = unix_microseconds(&entry.time) {
        pairs.add("rt", &(microseconds / 1000).to_string());
    }
    pairs.add("msg", &gist.message);
    pairs.may("suser", gist.subject);
    match gist.address.map(|address| (ip_and_port(address), address)) {
        Some((Some((ip, port)), _)) => {
            pairs.add("src", &ip);
            pairs.add("spt", &port.to_string());
        }
        Some((None, address)) => pairs.add("shost", address),
        None => {}
    }
    match gist.success {
        Some(true) => pairs.add("outcome", "success"),
        Some(false) => pairs.add("outcome", "failure"),
        None => {}
    }
    details(entry, &mut pairs);
    line
}

/// What the events have that CEF has a key for.
fn details(entry: &Entry, pairs: &mut Pairs<'_>) {
    if let Event::Request(access) | Event::Connection(access) = &entry.event {
        pairs.add("act", &access.outcome);
        pairs.add("externalId", &access.decision);
        pairs.add("deviceDirection", if access.direction == "inbound" { "0" } else { "1" });
        pairs.add("in", &access.received_bytes.to_string());
        pairs.add("out", &access.sent_bytes.to_string());
        pairs.may("requestMethod", access.method.as_deref());
        pairs.may("request", access.path.as_deref());
        pairs.may("reason", access.reason.as_deref());
        pairs.custom(1, "route", Some(&access.route));
        pairs.custom(2, "rule", access.rule.as_deref());
        pairs.custom(3, "serial", access.serial.as_deref());
        pairs.custom(4, "detail", access.detail.as_deref());
        let roles = access.roles.as_ref().map(|roles| roles.join(","));
        pairs.custom(5, "roles", roles.as_deref());
        if let Some(status) = access.status {
            pairs.add("cn1Label", "status");
            pairs.add("cn1", &status.to_string());
        }
    }
    pairs.custom(6, "chain", entry.chain.as_deref());
}

struct Pairs<'line>(&'line mut String);

impl Pairs<'_> {
    fn add(&mut self, key: &str, value: &str) {
        if !self.0.ends_with('|') {
            self.0.push(' ');
        }
        self.0.push_str(key);
        self.0.push('=');
        extension(value, self.0);
    }

    fn may(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn custom(&mut self, number: u8, label: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(&format!("cs{number}Label"), label);
            self.add(&format!("cs{number}"), value);
        }
    }
}

/// In the head a bar and a backslash are escaped, and there are no line breaks.
fn head(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '\\' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// In values an equals sign and a backslash are escaped, and line breaks are written as `\n` and `\r`. Other control characters
/// have no escape, and are replaced: a terminal may be what reads this.
fn extension(text: &str, line: &mut String) {
    for character in text.chars() {
        match character {
            '=' | '\\' => line.extend(['\\', character]),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            control if control.is_control() => line.push('?'),
            other => line.push(other),
        }
    }
}

fn title(name: &str) -> String {
    name.replace('_', " ")
}
