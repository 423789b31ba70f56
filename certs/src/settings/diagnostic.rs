//! What is wrong with a config, where, and what to do about it.

use std::fmt;
use std::ops::Range;

/// One finding, before the text that it is about is at hand.
#[derive(Debug)]
pub struct Finding {
    /// Where in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong, with both values where two were compared.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding without a hint.
    pub fn new(span: Range<usize>, message: impl fmt::Display) -> Self {
        Self { span, message: message.to_string(), hint: None }
    }

    /// The same with a hint.
    pub fn with_hint(span: Range<usize>, message: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { span, message: message.to_string(), hint: Some(hint.to_string()) }
    }
}

/// Which lines of a config may hold a secret, rightly or by mistake. They are not shown: findings go to logs and to `status`.
#[derive(Debug, Clone, Copy)]
pub struct SecretLines {
    /// A key whose value may be one, also with a slip of the pen.
    pub key: &'static str,
    /// Pieces of keys that remind of one.
    pub reminders: &'static [&'static str],
    /// What belongs there.
    pub hint: &'static str,
}

/// A finding with its place as people count it, and the line that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    file: String,
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// None if it may hold a secret, or is too long to be shown.
    source: Option<String>,
    width: usize,
    message: String,
    hint: Option<String>,
}

/// Longest line in bytes that is shown: findings go to logs, and who finds several may be shown one line as often.
const SOURCE_BYTES_MAX: usize = 1000;

/// Whether a message repeats what stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    Key,
    Value,
}

impl Diagnostic {
    /// Looks the place up in the text. `file` is shown as it is given.
    pub fn new(file: &str, text: &str, finding: Finding, secrets: &SecretLines) -> Self {
        Self::of(file, text, finding, Tells::Value, Some(secrets))
    }

    /// The same in a text that holds no secrets, so that every line is shown.
    pub fn public(file: &str, text: &str, finding: Finding) -> Self {
        Self::of(file, text, finding, Tells::Value, None)
    }

    /// What the TOML reader found, in our words: syntax, an unknown key, a wrong type.
    pub fn of_toml(file: &str, text: &str, error: &toml::de::Error, secrets: &SecretLines) -> Self {
        let span = error.span().unwrap_or(0..0);
        let found = error.message();
        let quoted: Vec<&str> = found.split('`').skip(1).step_by(2).collect();
        let (tells, finding) = match quoted.as_slice() {
            [unknown, known @ ..] if found.starts_with("unknown field") => {
                let near = did_you_mean(unknown, known.iter().copied());
                let hint = near.unwrap_or_else(|| format!("known keys here: {}", known.join(", ")));
                (Tells::Key, Finding::with_hint(span, format!("unknown key \"{unknown}\""), hint))
            }
            [missing, ..] if found.starts_with("missing field") => {
                let hint = format!("add a line: {missing} = ...");
                (Tells::Key, Finding::with_hint(span, format!("missing key \"{missing}\""), hint))
            }
            _ => {
                let is_typed = found.starts_with("invalid type") || found.starts_with("invalid value");
                let hint =
                    if is_typed { "the config that is shipped shows each key's form" } else { "the text must be TOML" };
                (Tells::Value, Finding::with_hint(span, found.lines().next().unwrap_or(found), hint))
            }
        };
        Self::of(file, text, finding, tells, Some(secrets))
    }

    fn of(file: &str, text: &str, finding: Finding, tells: Tells, secrets: Option<&SecretLines>) -> Self {
        let Finding { span, message, hint } = finding;
        let start = floor_to_character(text, span.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let marked = text.get(start..floor_to_character(text, span.end)).unwrap_or_default();
        let earlier = before.get(..line_start).unwrap_or_default();
        let is_secret = secrets.is_some_and(|secrets| secrets.cover(source) || secrets.go_on_after(earlier));
        let (message, hint) = match (tells, secrets) {
            (Tells::Value, Some(secrets)) if is_secret => {
                ("this line is wrong, and may hold a secret".to_owned(), Some(secrets.hint.to_owned()))
            }
            (Tells::Key | Tells::Value, _) => (message, hint),
        };
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: text.get(line_start..start).unwrap_or_default().chars().count() + 1,
            source: (!is_secret && source.len() <= SOURCE_BYTES_MAX).then(|| source.to_owned()),
            width: marked.lines().next().unwrap_or_default().chars().count().max(1),
            message,
            hint,
        }
    }
}

impl SecretLines {
    /// Whether a secret may stand in this line. The text need not be TOML, so the key is whatever stands before "=".
    fn cover(&self, line: &str) -> bool {
        let line = line.to_ascii_lowercase();
        let key = line.split('=').next().unwrap_or_default();
        let mut words = key.split(|char: char| !char.is_ascii_alphanumeric() && char != '_' && char != '-');
        // A URL may name a user with a password (RFC 3986 §3.2.1).
        let authority = line.split_once("://").and_then(|(_, rest)| rest.split(['/', '"', '\'']).next());
        line.contains("pass")
            || authority.is_some_and(|authority| authority.contains('@'))
            || self.reminders.iter().any(|reminder| key.contains(reminder))
            || words.any(|word| strsim::jaro_winkler(word, self.key) > 0.85)
    }

    /// Whether a value that may be secret was begun before and may go on: a text of several lines, or a list.
    fn go_on_after(&self, before: &str) -> bool {
        let is_open = |line: &str| {
            let value = line.split_once('=').map_or("", |(_, value)| value.trim());
            let is_text = ["\"\"\"", "'''"].iter().any(|quotes| value.matches(quotes).count() % 2 == 1);
            let is_list = value.starts_with(['[', '{']) && !value.ends_with([']', '}']);
            is_text || is_list
        };
        before.lines().any(|line| is_open(line) && self.cover(line))
    }
}

fn floor_to_character(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// "did you mean X?", if one of the known names is near.
pub fn did_you_mean<'name>(found: &str, known: impl IntoIterator<Item = &'name str>) -> Option<String> {
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
        match source {
            None => write!(formatter, "\n(the line is not shown)")?,
            Some(source) => {
                let margin = " ".repeat(line.to_string().len());
                // Tabs keep their width under the caret when they are repeated as tabs.
                let before = source.chars().take(column - 1);
                let indent: String = before.map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
                let carets = "^".repeat(*width);
                write!(formatter, "\n{margin} |\n{line} | {source}\n{margin} | {indent}{carets}")?;
            }
        }
        hint.iter().try_for_each(|hint| write!(formatter, "\nhint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: SecretLines =
        SecretLines { key: "value", reminders: &["secret", "token"], hint: "write where it is" };

    #[test]
    fn a_finding_shows_line_column_caret_and_hint() {
        let text = "a = 1\n  roles = [\"é\", \"inferrence\"]\n";
        let start = text.find("\"inf").unwrap();
        let finding = Finding::with_hint(start..start + 12, "unknown role", "did you mean \"inference\"?");
        let shown = Diagnostic::new("agent.toml", text, finding, &SECRETS).to_string();
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
            "valeu = \"hunter2\"\n",
            "pasphrase = \"hunter2\" # pass\n",
            "value = \"\"\"\nBearer\nhunter2 \\q\"\"\"\n",
            "client_secret = [\n\"hunter2\n",
        ] {
            let whole = format!("[[inbound]]\nname = \"llm\"\n[inbound.inject]\n{text}");
            let shown = match toml::from_str::<toml::Table>(&whole) {
                Ok(_) => {
                    let start = whole.find("hunter2").unwrap();
                    Diagnostic::new("agent.toml", &whole, Finding::new(start..start + 7, "not hunter2"), &SECRETS)
                }
                Err(error) => Diagnostic::of_toml("agent.toml", &whole, &error, &SECRETS),
            };
            assert!(!shown.to_string().contains("hunter2"), "{shown}");
            assert!(shown.to_string().contains("agent.toml:"), "{shown}");
        }
    }

    #[test]
    fn a_text_without_secrets_is_shown_whole() {
        let text = "permit(principal == \"pass\");";
        let shown = Diagnostic::public("llm.cedar", text, Finding::new(7..16, "no")).to_string();
        assert_eq!(shown, format!("llm.cedar:1:8: no\n  |\n1 | {text}\n  |        ^^^^^^^^^"));
    }

    #[test]
    fn a_line_that_is_too_long_is_not_shown() {
        let shown = |length| Diagnostic::public("a", &"x".repeat(length), Finding::new(7..length, "no")).to_string();
        assert!(shown(SOURCE_BYTES_MAX).contains("^^^^"));
        assert_eq!(shown(SOURCE_BYTES_MAX + 1), "a:1:8: no\n(the line is not shown)");
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        assert_eq!(did_you_mean("lsten", ["listen", "name"]).as_deref(), Some("did you mean \"listen\"?"));
        assert_eq!(did_you_mean("zzzz", ["listen", "name"]), None);
    }
}
