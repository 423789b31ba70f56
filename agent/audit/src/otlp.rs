//! Lines as an OTLP/HTTP request in JSON (OpenTelemetry protocol 1.x, `ExportLogsServiceRequest`, logs data model 1.x).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalogue::{Entry, unix_microseconds};
use crate::format::{Format, Severity};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    resource: Resource,
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Serialize)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    scope: Scope,
    log_records: Vec<LogRecord>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord {
    /// A 64-bit number is text in the JSON of protocol buffers.
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    event_name: &'static str,
    body: AnyValue,
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct Attribute {
    key: String,
    value: AnyValue,
}

#[derive(Serialize)]
enum AnyValue {
    #[serde(rename = "arrayValue")]
    Array { values: Vec<Self> },
    #[serde(rename = "boolValue")]
    Bool(bool),
    /// A 64-bit number is text in the JSON of protocol buffers.
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "stringValue")]
    Text(String),
}

/// What a receiver answers to what it has not taken as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// None if it has taken all.
    pub partial_success: Option<PartialSuccess>,
}

/// What it has not taken.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialSuccess {
    /// How many records. A 64-bit number is text in the JSON of protocol buffers; some receivers write a number.
    pub rejected_log_records: Value,
    /// Why.
    pub error_message: String,
}

impl PartialSuccess {
    /// How many records.
    pub fn rejected(&self) -> u64 {
        match &self.rejected_log_records {
            Value::Number(number) => number.as_u64().unwrap_or_default(),
            Value::String(text) => text.parse().unwrap_or_default(),
            Value::Array(_) | Value::Bool(_) | Value::Null | Value::Object(_) => 0,
        }
    }
}

/// The body of a request with these lines. `now` is in microseconds since 1970. What is no line of the catalogue is left out.
pub fn body<'line>(lines: impl IntoIterator<Item = &'line str>, format: Format, host: &str, now: u64) -> String {
    let attribute = |key: &str, text: &str| Attribute { key: key.to_owned(), value: AnyValue::Text(text.to_owned()) };
    let request = Request {
        resource_logs: vec![ResourceLogs {
            resource: Resource {
                attributes: vec![
                    attribute("service.name", "countersign-agent"),
                    attribute("service.version", env!("CARGO_PKG_VERSION")),
                    attribute("host.name", host),
                ],
            },
            scope_logs: vec![ScopeLogs {
                scope: Scope { name: "countersign.audit", version: env!("CARGO_PKG_VERSION") },
                log_records: lines.into_iter().filter_map(|line| record(line, format, now)).collect(),
            }],
        }],
    };
    // Every part is text or a number; writing those into memory does not fail.
    serde_json::to_string(&request).unwrap_or_default()
}

fn record(line: &str, format: Format, now: u64) -> Option<LogRecord> {
    let entry = Entry::parse(line).ok()?;
    // SeverityNumber: INFO, WARN and ERROR (logs data model, "Field: SeverityNumber").
    let (severity_number, severity_text) = match entry.severity() {
        Severity::Informational => (9, "INFO"),
        Severity::Low => (10, "INFO2"),
        Severity::Medium => (13, "WARN"),
        Severity::High => (17, "ERROR"),
    };
    let body = match format {
        // The attributes have it all; a sentence is what people look for here.
        Format::Json => entry.message(),
        Format::Cef | Format::Ecs | Format::Ocsf => format.convert(line).ok()?,
    };
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000).to_string();
    let object: serde_json::Map<String, Value> = serde_json::from_str(line).ok()?;
    Some(LogRecord {
        time_unix_nano: nanoseconds(unix_microseconds(&entry.time).unwrap_or_default()),
        observed_time_unix_nano: nanoseconds(now),
        severity_number,
        severity_text,
        event_name: entry.event.name(),
        body: AnyValue::Text(body),
        attributes: object
            .into_iter()
            .filter(|(key, _)| key != "time")
            .map(|(key, value)| Attribute { key: format!("countersign.{key}"), value: AnyValue::from(value) })
            .collect(),
    })
}

impl From<Value> for AnyValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Array(values) => Self::Array { values: values.into_iter().map(Self::from).collect() },
            Value::Bool(truth) => Self::Bool(truth),
            Value::Number(number) => Self::Int(number.to_string()),
            Value::String(text) => Self::Text(text),
            other @ (Value::Null | Value::Object(_)) => Self::Text(json!(other).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Event, samples};

    #[test]
    fn a_body_has_each_line_with_its_keys() {
        let entries = samples::all();
        let lines: Vec<String> = entries.iter().map(Entry::to_line).collect();
        let body = body(lines.iter().map(String::as_str).chain(["no line"]), Format::Json, "host-b", 7);
        let value: Value = serde_json::from_str(&body).unwrap();
        let records = value["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap();
        assert_eq!(records.len(), entries.len());
        let place = entries.iter().position(|entry| matches!(entry.event, Event::Request(_))).unwrap();
        let record = &records[place];
        assert_eq!(record["timeUnixNano"], "1795402800000001000");
        assert_eq!(record["observedTimeUnixNano"], "7000");
        assert_eq!(record["eventName"], "request");
        let attribute = |key: &str| {
            let mut attributes = record["attributes"].as_array().unwrap().iter();
            attributes.find(|attribute| attribute["key"] == key).unwrap()["value"].clone()
        };
        assert_eq!(attribute("countersign.route"), json!({ "stringValue": "llm" }));
        assert_eq!(attribute("countersign.status"), json!({ "intValue": "403" }));
        assert_eq!(
            attribute("countersign.roles"),
            json!({ "arrayValue": { "values": [{ "stringValue": "inference_client" }] } })
        );
    }

    #[test]
    fn answers_tell_how_many_were_not_taken() {
        for (answer, expected) in [
            ("{}", None),
            ("{\"partialSuccess\":{}}", Some(0)),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":\"3\",\"errorMessage\":\"no\"}}", Some(3)),
            ("{\"partialSuccess\":{\"rejectedLogRecords\":4}}", Some(4)),
        ] {
            let answer: Answer = serde_json::from_str(answer).unwrap();
            assert_eq!(answer.partial_success.map(|partial| partial.rejected()), expected);
        }
    }
}
