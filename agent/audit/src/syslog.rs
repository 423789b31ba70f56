//! One line as a syslog message (RFC 5424), framed by its length in octets (RFC 6587 §3.4.1, RFC 5425 §4.3.1).

use crate::catalogue::{Entry, Event};
use crate::format::Severity;

/// Longest message in octets, without its length before it. RFC 5425 §4.3.1 asks receivers for 8192 and lets them cut the rest.
/// What would be longer has a shorter text; its structured data still says which line it was.
pub const MESSAGE_BYTES_MAX: usize = 8192;

/// Facility 13, "log audit" (RFC 5424 §6.2.1).
const FACILITY: u8 = 13;

/// The name of our structured data. 32473 is the number that RFC 5612 sets apart for those who have registered none.
const DATA_ID: &str = "countersign@32473";

/// Longest value in structured data, in bytes of the value.
const VALUE_BYTES_MAX: usize = 512;

/// Appends one message. `text` is the line in the format of the receiver.
pub fn append(entry: &Entry, text: &str, host: &str, process_id: u32, output: &mut Vec<u8>) {
    let severity = match entry.severity() {
        Severity::Informational => 6,
        Severity::Low => 5,
        Severity::Medium => 4,
        Severity::High => 2,
    };
    let priority = FACILITY * 8 + severity;
    let name = entry.event.name();
    let mut message = format!(
        "<{priority}>1 {} {} countersign-agent {process_id} {name} ",
        nil(&printable(&entry.time, 32)),
        nil(&printable(host, 255)),
    );
    structured_data(entry, &mut message);
    message.push(' ');
    let room = MESSAGE_BYTES_MAX.saturating_sub(message.len());
    message.push_str(floor(text, room));
    output.extend_from_slice(message.len().to_string().as_bytes());
    output.push(b' ');
    output.extend_from_slice(message.as_bytes());
}

fn structured_data(entry: &Entry, message: &mut String) {
    message.push('[');
    message.push_str(DATA_ID);
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            message.push_str(&format!(" {name}=\"{}\"", escaped(floor(value, VALUE_BYTES_MAX))));
        }
    };
    add("event", Some(entry.event.name()));
    if let Event::Request(access) | Event::Connection(access) = &entry.event {
        add("decision", Some(&access.decision));
        add("route", Some(&access.route));
        add("peer", access.peer.as_deref());
        add("outcome", Some(&access.outcome));
        add("reason", access.reason.as_deref());
    }
    add("chain", entry.chain.as_deref());
    message.push(']');
}

/// RFC 5424 §6.3.3: a quotation mark, a backslash and a closing bracket are escaped. Control characters are replaced, because
/// some receivers read them as the end of a line.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '"' | '\\' | ']' => text.extend(['\\', character]),
            control if control.is_control() => text.push('?'),
            other => text.push(other),
        }
    }
    text
}

/// Head fields are visible ASCII of bounded length (RFC 5424 §6).
fn printable(text: &str, most: usize) -> String {
    text.chars().filter(char::is_ascii_graphic).take(most).collect()
}

fn nil(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn floor(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::samples;

    fn message(entry: &Entry, text: &str) -> String {
        let mut output = Vec::new();
        append(entry, text, "host-b.prod.example", 42, &mut output);
        let framed = String::from_utf8(output).unwrap();
        let (length, message) = framed.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(message.len()));
        message.to_owned()
    }

    #[test]
    fn a_message_has_head_data_and_text() {
        let entry = samples::all().into_iter().find(|entry| matches!(entry.event, Event::Request(_))).unwrap();
        let expected = "<109>1 2026-11-23T03:00:00.000001Z host-b.prod.example countersign-agent 42 request \
                        [countersign@32473 event=\"request\" decision=\"5f0c2a9e11d07b44-0000000007\" route=\"llm\" \
                        peer=\"spiffe://prod.example/web/frontend\" outcome=\"denied\" reason=\"path_not_allowed\"] the text";
        assert_eq!(message(&entry, "the text"), expected);
    }

    #[test]
    fn a_message_is_bounded_and_its_values_end_where_they_should() {
        let mut access = samples::access();
        access.peer = Some("a\"]\\\u{1b}\u{e9}".repeat(1000));
        let entry = Entry::new(Event::Request(access), samples::time());
        let message = message(&entry, &"\u{e9}".repeat(10_000));
        assert!((MESSAGE_BYTES_MAX - 1..=MESSAGE_BYTES_MAX).contains(&message.len()), "{}", message.len());
        assert!(message.contains("peer=\"a\\\"\\]\\\\?\u{e9}a"), "{message}");
    }
}
