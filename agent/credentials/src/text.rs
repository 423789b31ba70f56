//! Bounds on text that somebody else wrote.

/// Whether a text can be a name: not empty, at most `bytes_max` bytes, and no control characters, which could break a line of a
/// log or of a header.
pub(crate) fn is_name(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && is_note(text, bytes_max)
}

/// Whether a text can be a remark: as a name, or empty.
pub(crate) fn is_note(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Whether a text may stand behind `Bearer` (RFC 6750 §2.1), and has at most `bytes_max` bytes.
pub fn is_bearer_token(text: &str, bytes_max: usize) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(plain)
}

/// The beginning of a text that a stranger wrote, short enough for a log.
pub(crate) fn shown(text: &str) -> String {
    const CHARACTERS: usize = 120;
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}
