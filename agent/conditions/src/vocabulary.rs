//! What can exist: every name that a condition may speak of, as the config declares it.

use std::collections::BTreeMap;

/// Longest name in bytes. Claims of some identity providers are named by URLs.
pub const NAME_BYTES_MAX: usize = 256;

/// Most names of one kind.
pub const NAMES_MAX: usize = 10_000;

/// Everything that the config declares and a condition may name. The order does not matter.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// `[[role]]`: what may stand in `Role::"..."`.
    pub roles: Vec<String>,
    /// Inbounds or outbounds: what may stand in `Service::"..."`.
    pub services: Vec<String>,
    /// Who vouches for users: what may stand before the `#` of `User::"..."`, and in `principal.issuer`.
    pub issuers: Vec<String>,
    /// Labels that at least one service has.
    pub labels: Vec<String>,
    /// Claims of tokens that are read, with their types.
    pub claims: Vec<(String, ClaimKind)>,
    /// Request headers that are read. In conditions `-` is written `_`, and letters are lower-case.
    pub headers: Vec<String>,
    /// Parameters of the query that are read.
    pub queries: Vec<String>,
}

/// The type of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 64 bits.
    Number,
    /// A text.
    Text,
    /// A set of texts.
    Texts,
}

/// Why a vocabulary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// A character that cannot stand in a condition.
    #[error(
        "the {kind} {name:?} has a character that no condition can name: no quotes, backslashes or control characters"
    )]
    Character {
        /// What is named: `role`, `claim`, ...
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Cedar does not take the schema that follows from it.
    #[error("the names of the config make no schema: {0}")]
    Schema(String),
    /// Empty or too long.
    #[error("a {kind} has a name of {found} bytes; 1 to {NAME_BYTES_MAX} are allowed")]
    Length {
        /// What is named.
        kind: &'static str,
        /// The length found.
        found: usize,
    },
    /// Too many names.
    #[error("there are {found} names of the kind {kind}; {NAMES_MAX} are allowed")]
    Many {
        /// What is named.
        kind: &'static str,
        /// The number found.
        found: usize,
    },
    /// Two names that a condition cannot tell apart.
    #[error("the {kind}s {first:?} and {second:?} are both written {attribute:?} in a condition")]
    Same {
        /// What is named.
        kind: &'static str,
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// As a condition writes it.
        attribute: String,
    },
}

impl Vocabulary {
    /// Whether every name can stand in a condition, once.
    pub(crate) fn check(&self) -> Result<(), VocabularyError> {
        let claims: Vec<&str> = self.claims.iter().map(|(name, _)| name.as_str()).collect();
        fn texts(names: &[String]) -> Vec<&str> {
            names.iter().map(String::as_str).collect()
        }
        distinct("claim", &claims, str::to_owned)?;
        distinct("header", &texts(&self.headers), header_attribute)?;
        for (kind, names) in [
            ("issuer", &self.issuers),
            ("label", &self.labels),
            ("query parameter", &self.queries),
            ("role", &self.roles),
            ("service", &self.services),
        ] {
            distinct(kind, &texts(names), str::to_owned)?;
        }
        Ok(())
    }
}

/// How a condition writes a header: `X-Tenant` is `context.headers.x_tenant`.
pub(crate) fn header_attribute(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn distinct(kind: &'static str, names: &[&str], attribute_of: impl Fn(&str) -> String) -> Result<(), VocabularyError> {
    if names.len() > NAMES_MAX {
        return Err(VocabularyError::Many { kind, found: names.len() });
    }
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    for name in names {
        check_name(kind, name)?;
        let attribute = attribute_of(name);
        if let Some(first) = known.insert(attribute.clone(), name) {
            return Err(VocabularyError::Same { kind, first: first.to_owned(), second: (*name).to_owned(), attribute });
        }
    }
    Ok(())
}

fn check_name(kind: &'static str, name: &str) -> Result<(), VocabularyError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(VocabularyError::Length { kind, found: name.len() });
    }
    if name.chars().any(|character| character.is_control() || matches!(character, '"' | '\\')) {
        return Err(VocabularyError::Character { kind, name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vocabulary: &Vocabulary, expected: Option<&str>) {
        let found = vocabulary.check().err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    }

    fn headers(names: &[&str]) -> Vocabulary {
        Vocabulary { headers: names.iter().map(|name| (*name).to_owned()).collect(), ..Vocabulary::default() }
    }

    #[test]
    fn names_that_a_condition_cannot_tell_apart_are_refused() {
        check(&headers(&["X-Tenant", "x-team"]), None);
        let both = "the headers \"X-Tenant\" and \"x_tenant\" are both written \"x_tenant\" in a condition";
        check(&headers(&["X-Tenant", "x_tenant"]), Some(both));
        let claims = vec![("a".to_owned(), ClaimKind::Text), ("a".to_owned(), ClaimKind::Number)];
        let twice = "the claims \"a\" and \"a\" are both written \"a\" in a condition";
        check(&Vocabulary { claims, ..Vocabulary::default() }, Some(twice));
    }

    #[test]
    fn names_are_bounded_and_cannot_leave_their_quotes() {
        check(&headers(&[""]), Some("a header has a name of 0 bytes; 1 to 256 are allowed"));
        check(&headers(&[&"a".repeat(257)]), Some("a header has a name of 257 bytes; 1 to 256 are allowed"));
        check(&headers(&[&"a".repeat(256)]), None);
        let no = " has a character that no condition can name: no quotes, backslashes or control characters";
        for (name, shown) in [("a\"", r#""a\"""#), ("a\\", r#""a\\""#), ("a\n", r#""a\n""#)] {
            let roles = vec![name.to_owned()];
            check(&Vocabulary { roles, ..Vocabulary::default() }, Some(&format!("the role {shown}{no}")));
        }
        let many: Vec<String> = (0..=NAMES_MAX).map(|number| number.to_string()).collect();
        let bound = "there are 10001 names of the kind service; 10000 are allowed";
        check(&Vocabulary { services: many, ..Vocabulary::default() }, Some(bound));
    }
}
