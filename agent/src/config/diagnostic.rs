//! What is wrong with a config, where, and what to do about it.

use std::fmt;
use std::ops::Range;

/// One finding, before the text that it is about is at hand.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Where in the text, in bytes.
    pub(crate) span: Range<usize>,
    /// What is wrong, with both values where two were compared.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Finding {
    /// A finding without a hint.
    pub(crate) fn new(span: Range<usize>, message: impl fmt::Display) -> Self {
        Self { span, message: message.to_string(), hint: None }
    }

    /// The same with a hint.
    pub(crate) fn with_hint(span: Range<usize>, message: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { span, message: message.to_string(), hint: Some(hint.to_string()) }
    }
}

/// A finding with its place as people count it, and the line that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    file: String,
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// None if the line may hold a secret: findings go to logs and to `status`.
    source: Option<String>,
    width: usize,
    message: String,
    hint: Option<String>,
}

impl Diagnostic {
    /// Looks the place up in the text.
    pub(crate) fn new(file: &str, text: &str, finding: Finding) -> Self {
        let start = floor_to_character(text, finding.span.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let column = text.get(line_start..start).unwrap_or_default().chars().count() + 1;
        let marked = text.get(start..floor_to_character(text, finding.span.end)).unwrap_or_default();
        let width = marked.lines().next().unwrap_or_default().chars().count().max(1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            source: (!may_hold_secret(text, line_start)).then(|| source.to_owned()),
            width,
            message: finding.message,
            hint: finding.hint,
        }
    }

    /// What the TOML reader found: syntax, an unknown key, a wrong type.
    pub(crate) fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let message = error.message().to_owned();
        let hint = hint_for_unknown_key(&message);
        let mut diagnostic = Self::new(file, text, Finding { span: error.span().unwrap_or(0..0), message, hint });
        if diagnostic.source.is_none() {
            // The reader's message may repeat the value.
            "this key or its value cannot be read".clone_into(&mut diagnostic.message);
        }
        diagnostic
    }
}

/// Whether the key that a line belongs to could have a secret as its value, rightly or by mistake. A line without a key of its
/// own belongs to the one before.
fn may_hold_secret(text: &str, line_start: usize) -> bool {
    let line_end = text.get(line_start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| line_start + end);
    let key = text.get(..line_end).unwrap_or(text).lines().rev().find_map(|line| {
        let line = line.trim_start();
        let key = if line.starts_with('[') { Some((line, "")) } else { line.split_once('=') };
        key.map(|(key, _)| key.to_ascii_lowercase())
    });
    key.is_some_and(|key| {
        key.trim() == "value" || ["pass", "phrase", "secret", "token"].iter().any(|word| key.contains(word))
    })
}

fn floor_to_character(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// serde lists the keys that it knows between backticks; the nearest of them is what was probably meant.
fn hint_for_unknown_key(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (found, known) = rest.split_once('`')?;
    did_you_mean(found, known.split('`').skip(1).step_by(2))
}

/// "did you mean X?", if one of the known names is near.
pub(crate) fn did_you_mean<'name>(found: &str, known: impl IntoIterator<Item = &'name str>) -> Option<String> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .min()
        .map(|(_, name)| format!("did you mean \"{name}\"?"))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, source, width, message, hint } = self;
        write!(formatter, "{file}:{line}:{column}: {message}")?;
        let Some(source) = source else {
            write!(formatter, "\n(the line is not shown, it may hold a secret)")?;
            return hint.iter().try_for_each(|hint| write!(formatter, "\nhint: {hint}"));
        };
        let margin = " ".repeat(line.to_string().len());
        // Tabs keep their width under the caret when they are repeated as tabs.
        let indent: String = source.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(formatter, "\n{margin} |\n{line} | {source}\n{margin} | {indent}{}", "^".repeat(*width))?;
        hint.iter().try_for_each(|hint| write!(formatter, "\nhint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_line_column_caret_and_hint() {
        let text = "a = 1\n  roles = [\"é\", \"inferrence\"]\n";
        let start = text.find("\"inf").unwrap();
        let finding = Finding::with_hint(start..start + 12, "unknown role", "did you mean \"inference\"?");
        let shown = Diagnostic::new("agent.toml", text, finding).to_string();
        let expected = "agent.toml:2:17: unknown role\n  |\n2 |   roles = [\"é\", \"inferrence\"]\n  |                 ^^^^^^^^^^^^\nhint: did you mean \"inference\"?";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_shown() {
        for text in [
            "value = \"Bearer sk-hunter2 ${oops\"\n",
            "value = hunter2\n",
            "value = \"hunter2\n",
            "value = 123hunter2\n",
            "pasphrase = \"hunter2\"\n",
            "value = \"\"\"\nBearer\nhunter2 \\q\"\"\"\n",
        ] {
            let whole = format!("[[inbound]]\nname = \"llm\"\n[inbound.inject]\n{text}");
            let shown = match toml::from_str::<toml::Table>(&whole) {
                Ok(_) => {
                    let start = whole.find("hunter2").unwrap();
                    Diagnostic::new("agent.toml", &whole, Finding::new(start..start + 7, "not this"))
                }
                Err(error) => Diagnostic::of_toml("agent.toml", &whole, &error),
            };
            assert!(!shown.to_string().contains("hunter2"), "{shown}");
            assert!(shown.to_string().contains("agent.toml:"), "{shown}");
        }
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        assert_eq!(did_you_mean("lsten", ["listen", "name"]).as_deref(), Some("did you mean \"listen\"?"));
        assert_eq!(did_you_mean("zzzz", ["listen", "name"]), None);
    }
}
