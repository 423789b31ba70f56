use serde_json::Value;

use super::Format;
use crate::catalogue::{Entry, Event, samples};

fn converted(format: Format) -> Vec<(Entry, String)> {
    samples::all()
        .into_iter()
        .map(|entry| {
            let line = format.convert(&entry.to_line()).unwrap();
            (entry, line)
        })
        .collect()
}

#[test]
fn each_event_is_one_line_in_each_format() {
    for format in [Format::Cef, Format::Ecs, Format::Json, Format::Ocsf] {
        for (entry, line) in converted(format) {
            assert!(!line.contains(['\n', '\r', '\u{1b}']), "{format:?}: {line}");
            if format != Format::Cef {
                let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(value.is_object(), "{:?}", entry.event);
            }
        }
    }
    assert!(Format::Ocsf.convert("no line").is_err());
}

/// The fields of a CEF line: seven of the head, and the rest.
fn cef_fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut escaped) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        if character == '|' && !escaped && fields.len() < 7 {
            fields.push(std::mem::take(&mut field));
        } else {
            field.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    fields.push(field);
    fields
}

#[test]
fn what_a_peer_chooses_makes_no_field_of_cef() {
    let line = samples::all().into_iter().find(|entry| matches!(entry.event, Event::Request(_))).unwrap().to_line();
    let cef = Format::Cef.convert(&line).unwrap();
    let fields = cef_fields(&cef);
    assert_eq!(fields.len(), 8, "{cef}");
    assert_eq!((fields[0].as_str(), fields[4].as_str(), fields[6].as_str()), ("CEF:0", "request", "3"));
    let extension = &fields[7];
    assert!(extension.contains("rt=1795402800000 "), "{extension}");
    assert!(extension.contains("act=denied"), "{extension}");
    // The detail is a=b|c\d]" with a line break and an escape character.
    assert!(extension.contains("cs4=denied: a\\=b|c\\\\d]\"\\n? "), "{extension}");
}

#[test]
fn formats_say_who_did_what_and_how_it_ended() {
    for (format, pointers) in [
        (
            Format::Ocsf,
            [
                ("/class_uid", "6003"),
                ("/type_uid", "600301"),
                ("/status_id", "2"),
                ("/actor/user/name", "\"user:company/alice\""),
                ("/actor/user/groups", "[{\"name\":\"employee\"}]"),
                ("/api/operation", "\"POST /v1/chat/completions\""),
                ("/src_endpoint/ip", "\"192.0.2.7\""),
            ],
        ),
        (
            Format::Ecs,
            [
                ("/@timestamp", "\"2026-11-23T03:00:00.000001Z\""),
                ("/event/outcome", "\"failure\""),
                ("/event/type", "[\"denied\"]"),
                ("/user/name", "\"user:company/alice\""),
                ("/user/roles", "[\"employee\"]"),
                ("/http/response/status_code", "403"),
                ("/countersign/route", "\"llm\""),
            ],
        ),
    ] {
        let all = converted(format);
        let (_, line) = all.iter().find(|(entry, _)| matches!(entry.event, Event::Request(_))).unwrap();
        let value: Value = serde_json::from_str(line).unwrap();
        for (pointer, expected) in pointers {
            let found = value.pointer(pointer).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(expected), "{format:?} {pointer} in {value:#}");
        }
    }
}
