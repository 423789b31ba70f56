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
