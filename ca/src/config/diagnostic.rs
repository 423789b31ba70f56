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
    /// None if it may hold a secret.
    text: Option<String>,
    message: String,
    hint: String,
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
        Diagnostic::new(file, text, self.span, Message::OfValue(self.message), self.hint)
    }
}

/// What is said of a fault.
enum Message {
    /// It names a key.
    OfKey(String),
    /// It may repeat the value.
    OfValue(String),
}

/// What is said instead where a passphrase may have been written in place of its source.
const OF_SECRET: (&str, &str) = (
    "this line is wrong, and may hold a secret",
    "passphrase says where the passphrase is, never what it is: \"credential:ca_passphrase\" (systemd) or \
     \"file:/etc/countersign/passphrase\"",
);

impl Diagnostic {
    fn new(file: &Path, text: &str, span: Range<usize>, message: Message, hint: String) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_text = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let column = before.get(line_start..).map_or(0, |prefix| prefix.chars().count());
        let within = text.get(start..span.end.min(line_start + line_text.len())).unwrap_or_default();
        let is_secret = may_be_secret(line_text) || goes_on_with_a_secret(before.get(..line_start).unwrap_or_default());
        let (message, hint) = match message {
            Message::OfKey(message) => (message, hint),
            Message::OfValue(_) if is_secret => (OF_SECRET.0.to_owned(), OF_SECRET.1.to_owned()),
            Message::OfValue(message) => (message, hint),
        };
        Self {
            file: file.display().to_string(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            width: within.chars().count().max(1),
            text: (!is_secret).then(|| line_text.to_owned()),
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
                (Message::OfKey(format!("unknown key `{unknown}`")), nearest(unknown, known))
            }
            ([missing, ..], _) if found.starts_with("missing field") => {
                (Message::OfKey(format!("missing key `{missing}`")), format!("add a line: {missing} = ..."))
            }
            _ if found.starts_with("invalid type") || found.starts_with("invalid value") => (
                Message::OfValue(found.to_owned()),
                "the comments of the ca.toml that `countersign-ca init` writes show each form".into(),
            ),
            _ => {
                let message = found.lines().next().unwrap_or(found).to_owned();
                (Message::OfValue(message), "the text must be TOML 1.0".to_owned())
            }
        };
        Self::new(file, text, span, message, hint)
    }
}

/// Whether a passphrase may stand in this line: every line that speaks of one, also with a slip of the pen. The key cannot be
/// relied on, because the text need not be TOML.
fn may_be_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let mut words = line.split(|char: char| !char.is_ascii_alphanumeric() && char != '_' && char != '-');
    line.contains("pass") || words.any(|word| strsim::jaro_winkler(word, "passphrase") > 0.8)
}

/// Whether a value that may be secret was begun before and may go on: a text of several lines, or a list.
fn goes_on_with_a_secret(before: &str) -> bool {
    let is_open = |line: &str| {
        let value = line.split_once('=').map_or("", |(_, value)| value);
        ["\"\"\"", "'''"].iter().any(|quotes| value.matches(quotes).count() % 2 == 1) || value.contains(['[', '{'])
    };
    before.lines().any(|line| may_be_secret(line) && is_open(line))
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
        match &self.text {
            None => writeln!(formatter, "  (the line is not shown)")?,
            Some(text) => {
                let before = text.chars().take(self.column - 1);
                let tabs_kept: String = before.map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
                writeln!(formatter, "  {text}\n  {tabs_kept}{}", "^".repeat(self.width))?;
            }
        }
        write!(formatter, "hint: {}", self.hint)
    }
}
