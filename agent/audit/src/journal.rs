//! One line as an entry of the systemd journal, in its native protocol (systemd: `docs/JOURNAL_NATIVE_PROTOCOL.md`).

use serde_json::{Map, Value};

use crate::catalogue::Entry;
use crate::format::{Format, Severity};

/// Longest entry in bytes. Larger ones would have to be handed over in a file; a line that makes one has its text cut.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// Longest value of one field in bytes.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The datagram for a line: `MESSAGE` in the format that is asked for, and each key of the line as `COUNTERSIGN_KEY`.
///
/// # Errors
/// It is no line of the catalogue.
pub fn entry(line: &str, format: Format) -> Result<Vec<u8>, serde_json::Error> {
    let entry = Entry::parse(line)?;
    let object: Map<String, Value> = serde_json::from_str(line)?;
    let priority = match entry.severity() {
        Severity::Informational => "6",
        Severity::Low => "5",
        Severity::Medium => "4",
        Severity::High => "2",
    };
    let message = if format == Format::Json { entry.message() } else { format.convert(line)? };
    let mut datagram = Vec::with_capacity(line.len() * 2);
    field("MESSAGE", &message, &mut datagram);
    field("PRIORITY", priority, &mut datagram);
    field("SYSLOG_IDENTIFIER", "countersign-agent", &mut datagram);
    // LOG_AUTHPRIV: not every user of the host may read it.
    field("SYSLOG_FACILITY", "10", &mut datagram);
    for (key, value) in object {
        let text = match value {
            Value::String(text) => text,
            other @ (Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) | Value::Object(_)) => {
                other.to_string()
            }
        };
        if datagram.len() + text.len().min(VALUE_BYTES_MAX) + 100 < ENTRY_BYTES_MAX {
            field(&name(&key), &text, &mut datagram);
        }
    }
    Ok(datagram)
}

/// Fields are upper-case letters, digits and underscores, and at most 64 bytes long.
fn name(key: &str) -> String {
    let word = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' };
    "COUNTERSIGN_".chars().chain(key.chars().map(word)).take(64).collect()
}

/// A value with a line break has its length before it; any other stands behind an equals sign.
fn field(name: &str, value: &str, datagram: &mut Vec<u8>) {
    let value = value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        let length = u64::try_from(value.len()).unwrap_or_default();
        datagram.push(b'\n');
        datagram.extend_from_slice(&length.to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Event, samples};

    #[test]
    fn what_a_peer_chooses_makes_no_field() {
        let mut access = samples::access();
        access.detail = Some("a\nPRIORITY=0\n".to_owned());
        let line = Entry::new(Event::Request(access), samples::time()).to_line();
        let datagram = entry(&line, Format::Json).unwrap();
        let text = String::from_utf8_lossy(&datagram);
        assert!(text.contains("\nCOUNTERSIGN_OUTCOME=denied\n"), "{text}");
        assert!(text.contains("\nPRIORITY=5\n"), "{text}");
        let expected = [b"COUNTERSIGN_DETAIL\n".as_slice(), &13_u64.to_le_bytes(), b"a\nPRIORITY=0\n\n"].concat();
        assert!(datagram.windows(expected.len()).any(|window| window == expected), "{text}");
    }

    #[test]
    fn an_entry_is_bounded() {
        let mut access = samples::access();
        access.names = vec!["n".repeat(100); 10_000];
        access.path = Some("/\u{e9}".repeat(100_000));
        let line = Entry::new(Event::Request(access), samples::time()).to_line();
        assert!(entry(&line, Format::Ocsf).unwrap().len() <= ENTRY_BYTES_MAX);
        assert!(entry("no line", Format::Json).is_err());
    }
}
