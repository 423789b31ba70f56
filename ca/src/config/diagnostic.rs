//! What is wrong in a config file, and where: `ca.toml:14:3: unknown key ...`, the line, a caret, a hint.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// One fault with its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    file: String,
    line: usize,
    column: usize,
    width: usize,
    text: String,
    message: String,
    hint: Option<String>,
}

/// A fault whose place is known only as bytes of the text.
#[derive(Debug)]
pub(super) struct Fault {
    span: Range<usize>,
    message: String,
    hint: String,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: hint.into() }
    }

    pub(super) fn at(self, file: &Path, text: &str) -> Diagnostic {
        Diagnostic::new(file, text, self.span, self.message, Some(self.hint))
    }
}

impl Diagnostic {
    fn new(file: &Path, text: &str, span: Range<usize>, message: String, hint: Option<String>) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_text = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let column = before.get(line_start..).map_or(0, |prefix| prefix.chars().count());
        let within = text.get(start..span.end.min(line_start + line_text.len())).unwrap_or_default();
        Self {
            file: file.display().to_string(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            width: within.chars().count().max(1),
            text: line_text.to_owned(),
            message,
            hint,
        }
    }

    /// Says in our words what the TOML reader found.
    pub(super) fn of_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let found = error.message();
        let quoted: Vec<&str> = found.split('`').skip(1).step_by(2).collect();
        let (message, hint) = match (quoted.as_slice(), found) {
            ([unknown, known @ ..], _) if found.starts_with("unknown field") => {
                (format!("unknown key `{unknown}`"), nearest(unknown, known))
            }
            ([missing, ..], _) if found.starts_with("missing field") => {
                (format!("missing key `{missing}`"), format!("add a line: {missing} = ..."))
            }
            _ if found.starts_with("invalid type") || found.starts_with("invalid value") => (
                found.to_owned(),
                "the comments of the ca.toml that `countersign-ca init` writes show each form".into(),
            ),
            _ => (found.lines().next().unwrap_or(found).to_owned(), "the text must be TOML 1.0".to_owned()),
        };
        Self::new(file, text, span, message, Some(hint))
    }
}

fn nearest(unknown: &str, known: &[&str]) -> String {
    let best = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(unknown, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match best {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => format!("known keys here: {}", known.join(", ")),
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        // A passphrase may have been written where its source belongs; such a line is not shown again.
        if self.message.contains("passphrase") {
            writeln!(formatter, "  (the line is not shown, it may hold a secret)")?;
        } else {
            let tabs_kept: String =
                self.text.chars().take(self.column - 1).map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
            writeln!(formatter, "  {}\n  {tabs_kept}{}", self.text, "^".repeat(self.width))?;
        }
        match &self.hint {
            Some(hint) => write!(formatter, "hint: {hint}"),
            None => Ok(()),
        }
    }
}
