//! Errors in words, for logs, audit lines and operators.

/// An error with everything that caused it; no text repeats its source, so joining them tells the story once.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
