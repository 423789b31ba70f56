//! Request paths in the one form that router, policy and forwarder share, and the patterns of rules.
//!
//! A path that two programs could read differently is refused, not repaired: what was authorized is then, byte for byte,
//! what the backend gets.

use std::fmt;

use http::uri::PathAndQuery;

/// Longest path that is looked at, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 8192;

/// A path that means the same to everybody: absolute, no empty, `.` or `..` segment, no parameter, and percent-encoding
/// only for bytes that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckedPath<'text> {
    text: &'text str,
    /// How many segments it has: most patterns are ruled out by that alone.
    segment_count: usize,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("it holds a byte that a path may not hold")]
    Character,
    #[error("it holds a '.' or '..' segment")]
    DotSegment,
    #[error("it holds an empty segment ('//')")]
    EmptySegment,
    #[error("it percent-encodes a byte that is a separator or needs no encoding")]
    Encoding,
    #[error("it does not begin with '/'")]
    NotAbsolute,
    #[error("it holds ';', which some servers cut off")]
    Parameter,
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
}

/// A request target whose path was checked.
#[derive(Debug, Clone)]
pub(crate) struct CheckedTarget {
    target: PathAndQuery,
    segment_count: usize,
}

impl CheckedTarget {
    /// Checks the path of a target.
    pub(crate) fn parse(target: PathAndQuery) -> Result<Self, PathError> {
        let segment_count = CheckedPath::parse(target.path())?.segment_count;
        Ok(Self { target, segment_count })
    }

    /// The path that a policy looks at.
    pub(crate) fn path(&self) -> CheckedPath<'_> {
        CheckedPath { text: self.target.path(), segment_count: self.segment_count }
    }

    /// The query without its question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// The same path with another query, which may be empty.
    pub(crate) fn with_query(&self, query: &str) -> Result<Self, http::uri::InvalidUri> {
        let mark = if query.is_empty() { "" } else { "?" };
        let target = PathAndQuery::try_from(format!("{}{mark}{query}", self.target.path()))?;
        Ok(Self { target, segment_count: self.segment_count })
    }

    /// The target byte for byte as it came, less what was taken out of it.
    pub(crate) fn into_inner(self) -> PathAndQuery {
        self.target
    }
}

impl<'text> CheckedPath<'text> {
    /// Checks the path of a request target (without query).
    pub(crate) fn parse(path: &'text str) -> Result<Self, PathError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let Some(inner) = path.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
        check_bytes(inner.as_bytes())?;
        let mut segments = inner.split('/').peekable();
        let mut segment_count = 0;
        while let Some(segment) = segments.next() {
            match segment {
                // A slash at the very end is a segment of its own: "/a/" is not "/a".
                "" if segments.peek().is_some() => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::DotSegment),
                _ => {}
            }
            segment_count += 1;
        }
        Ok(Self { text: path, segment_count })
    }

    /// The path as it is forwarded.
    pub(crate) fn as_str(self) -> &'text str {
        self.text
    }

    /// The path that many servers take this one for: the same without a slash at its end.
    fn without_final_slash(self) -> Self {
        match self.text.strip_suffix('/') {
            Some(text) => Self { text, segment_count: self.segment_count.saturating_sub(1) },
            None => self,
        }
    }

    fn segments(self) -> impl Iterator<Item = &'text [u8]> {
        self.text.as_bytes().split(|byte| *byte == b'/').skip(1)
    }
}

fn check_bytes(path: &[u8]) -> Result<(), PathError> {
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => check_escape(bytes.next(), bytes.next())?,
            b';' => return Err(PathError::Parameter),
            b'/' => {}
            _ if is_plain(*byte) => {}
            _ => return Err(PathError::Character),
        }
    }
    Ok(())
}

/// An escape is unambiguous only if nobody would write the byte plainly and no server takes the decoded byte as a
/// separator (RFC 3986 §2.3, §6.2.2.2).
fn check_escape(high: Option<&u8>, low: Option<&u8>) -> Result<(), PathError> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(PathError::Encoding) };
    let decoded = u8::try_from(high * 16 + low).unwrap_or_default();
    let ambiguous = is_unreserved(decoded)
        || matches!(decoded, b'/' | b'\\' | b'%' | b';' | b'?' | b'#')
        || decoded.is_ascii_control();
    if ambiguous { Err(PathError::Encoding) } else { Ok(()) }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 §3.3 without the percent sign and without `;`.
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

/// The `paths` of a rule: literal segments, `*` for exactly one segment, `**` for any number of them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    text: Box<str>,
    segments: Box<[Segment]>,
}

#[derive(Clone, PartialEq, Eq)]
enum Segment {
    Any,
    AnyNumber,
    Literal(Box<[u8]>),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("'**' may appear once")]
    AnyNumberTwice,
    #[error("'*' and '**' stand for whole segments; \"/v1/models*\" is not a pattern")]
    PartialWildcard,
    #[error("a request with this path would be refused before any rule is asked: {0}")]
    Unmatchable(PathError),
}

impl PathPattern {
    /// Compiles a pattern. One that no accepted request can match is an error.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        CheckedPath::parse(text).map_err(PatternError::Unmatchable)?;
        let segments: Box<[Segment]> = text
            .split('/')
            .skip(1)
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                "**" => Ok(Segment::AnyNumber),
                _ if segment.contains('*') => Err(PatternError::PartialWildcard),
                _ => Ok(Segment::Literal(decoded(segment.as_bytes()).collect())),
            })
            .collect::<Result<_, _>>()?;
        if segments.iter().filter(|segment| **segment == Segment::AnyNumber).count() > 1 {
            return Err(PatternError::AnyNumberTwice);
        }
        Ok(Self { text: text.into(), segments })
    }

    /// Whether the pattern covers a path. Takes time proportional to the path.
    pub(crate) fn matches(&self, path: CheckedPath<'_>) -> bool {
        // What has no percent sign is its own decoding.
        covers(&self.segments, path, |literal, found| match found.contains(&b'%') {
            true => decoded(found).eq(literal.iter().copied()),
            false => *literal == *found,
        })
    }

    /// Whether some server could take a path for one that the pattern covers: one that looks neither at the case of letters nor at a
    /// slash at the end.
    pub(crate) fn may_match(&self, path: CheckedPath<'_>) -> bool {
        let segments = match &*self.segments {
            [before @ .., Segment::Literal(last)] if last.is_empty() => before,
            all => all,
        };
        covers(segments, path.without_final_slash(), |literal, found| {
            decoded(found).map(|byte| byte.to_ascii_lowercase()).eq(literal.iter().map(u8::to_ascii_lowercase))
        })
    }
}

fn covers(segments: &[Segment], path: CheckedPath<'_>, is_same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    let all_match = |pattern: &[Segment], skipped: usize| {
        pattern.iter().zip(path.segments().skip(skipped)).all(|(expected, found)| match expected {
            // An empty segment (a final slash) is not something that "*" should stand for.
            Segment::Any | Segment::AnyNumber => !found.is_empty(),
            Segment::Literal(literal) => is_same(literal, found),
        })
    };
    let Some(split) = segments.iter().position(|segment| *segment == Segment::AnyNumber) else {
        return path.segment_count == segments.len() && all_match(segments, 0);
    };
    let (before, after) = (segments.get(..split).unwrap_or_default(), segments.get(split + 1..).unwrap_or_default());
    let Some(skipped) = path.segment_count.checked_sub(after.len()).filter(|end| *end >= before.len()) else {
        return false;
    };
    all_match(before, 0) && all_match(after, skipped)
}

/// The bytes of a segment that [`check_bytes`] has accepted.
fn decoded(segment: &[u8]) -> impl Iterator<Item = u8> {
    let mut bytes = segment.iter().copied();
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        if byte != b'%' {
            return Some(byte);
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        u8::try_from(high * 16 + low).ok()
    })
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PathPattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(path: &str, expected: Result<(), PathError>) {
        assert_eq!(CheckedPath::parse(path).map(drop), expected, "{path}");
    }

    #[test]
    fn plain_paths_pass_as_they_are() {
        for path in [
            "/",
            "/v1/chat/completions",
            "/v1/models/",
            "/a%20b",
            "/llama3:8b",
            "/%C3%A9",
            "/a%3Ab",
            "/...",
            "/.a",
            "/a+b@c",
            "/%22",
        ] {
            check(path, Ok(()));
            assert_eq!(CheckedPath::parse(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn a_path_is_as_long_as_it_may_be_and_no_longer() {
        let path = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        check(&path(PATH_BYTES_MAX), Ok(()));
        check(&path(PATH_BYTES_MAX + 1), Err(PathError::TooLong));
    }

    #[test]
    fn the_query_of_a_target_is_what_follows_the_question_mark() {
        let query = |target: &'static str| {
            let target = CheckedTarget::parse(PathAndQuery::from_static(target)).unwrap();
            target.query().map(ToOwned::to_owned)
        };
        assert_eq!(query("/a?b=c&d"), Some("b=c&d".to_owned()));
        assert_eq!(query("/a"), None);
    }

    #[test]
    fn patterns_are_shown_as_they_are_written() {
        for text in ["/v1/models/*", "/v1/**", "/"] {
            let pattern = PathPattern::parse(text).unwrap();
            assert_eq!(
                (pattern.to_string(), format!("{pattern:?}")),
                (text.to_owned(), format!("PathPattern({text})"))
            );
        }
    }

    #[test]
    fn paths_that_two_programs_read_differently_are_refused() {
        check("", Err(PathError::NotAbsolute));
        check("v1", Err(PathError::NotAbsolute));
        check("//v1", Err(PathError::EmptySegment));
        check("/v1//models", Err(PathError::EmptySegment));
        check("/v1/./models", Err(PathError::DotSegment));
        check("/v1/../models", Err(PathError::DotSegment));
        check("/..", Err(PathError::DotSegment));
        check("/v1%2fmodels", Err(PathError::Encoding));
        check("/v1%2Fmodels", Err(PathError::Encoding));
        check("/%2e%2e/models", Err(PathError::Encoding));
        check("/v1%252fmodels", Err(PathError::Encoding));
        check("/v1%5cmodels", Err(PathError::Encoding));
        check("/v1%00", Err(PathError::Encoding));
        check("/%6dodels", Err(PathError::Encoding));
        check("/v1%3Bx", Err(PathError::Encoding));
        check("/v1%", Err(PathError::Encoding));
        check("/v1%2", Err(PathError::Encoding));
        check("/v1%zz", Err(PathError::Encoding));
        check("/v1;x=1/models", Err(PathError::Parameter));
        check("/v1\\models", Err(PathError::Character));
        check("/v1 models", Err(PathError::Character));
        check("/v1\u{e9}", Err(PathError::Character));
        check("/v1?x", Err(PathError::Character));
        check(&format!("/{}", "a".repeat(PATH_BYTES_MAX)), Err(PathError::TooLong));
    }

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(CheckedPath::parse(path).unwrap())
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_any_number() {
        assert!(matches("/v1/models/*", "/v1/models/a"));
        assert!(!matches("/v1/models/*", "/v1/models"));
        assert!(!matches("/v1/models/*", "/v1/models/"));
        assert!(!matches("/v1/models/*", "/v1/models/a/b"));
        assert!(matches("/v1/**", "/v1/models/a/b"));
        assert!(matches("/v1/**", "/v1"));
        assert!(!matches("/v1/**", "/v10"));
        assert!(matches("/**", "/"));
        assert!(matches("/**", "/a/b"));
        assert!(matches("/a/**/z", "/a/z"));
        assert!(matches("/a/**/z", "/a/b/c/z"));
        assert!(!matches("/a/**/z", "/a/b/c"));
        assert!(matches("/v1/chat", "/v1/chat"));
        assert!(!matches("/v1/chat", "/v1/Chat"));
        assert!(!matches("/v1/chat", "/v1/chat/"));
        assert!(matches("/m/a:b", "/m/a%3Ab"));
        assert!(!matches("/m/*", "/n/a"));
    }

    #[test]
    fn what_some_server_takes_for_a_covered_path_is_known() {
        let may_match = |pattern: &str, path: &str| {
            PathPattern::parse(pattern).unwrap().may_match(CheckedPath::parse(path).unwrap())
        };
        for path in ["/admin", "/admin/", "/ADMIN", "/Admin/"] {
            assert!(may_match("/admin", path) && may_match("/admin/", path) && may_match("/**/Admin", path), "{path}");
        }
        assert!(may_match("/admin/*", "/admin/x/") && may_match("/admin/*", "/ADMIN/x"));
        assert!(!may_match("/admin/*", "/admin/") && !may_match("/admin/*", "/admin/x/y"));
        assert!(!may_match("/admin", "/admin/x") && !may_match("/admin", "/admins") && !may_match("/admin", "/"));
        assert!(
            may_match("/admin/**", "/admin") && may_match("/", "/") && may_match("/**", "/") && !may_match("/*", "/")
        );
        assert!(may_match("/m/A:b", "/m/a%3AB"));
    }

    #[test]
    fn patterns_that_can_never_match_are_errors() {
        assert_eq!(PathPattern::parse("/v1/../x").unwrap_err(), PatternError::Unmatchable(PathError::DotSegment));
        assert_eq!(PathPattern::parse("v1").unwrap_err(), PatternError::Unmatchable(PathError::NotAbsolute));
        assert_eq!(PathPattern::parse("/v1/models*").unwrap_err(), PatternError::PartialWildcard);
        assert_eq!(PathPattern::parse("/**/a/**").unwrap_err(), PatternError::AnyNumberTwice);
    }

    proptest! {
        #[test]
        fn no_accepted_path_changes_when_it_is_cleaned(path in "/[a-z./%0-9;:~\\\\]{0,24}") {
            if CheckedPath::parse(&path).is_ok() {
                let decoded: Vec<u8> = decoded(path.as_bytes()).collect();
                let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
                prop_assert_eq!(segments.len(), path.split('/').count());
                prop_assert!(segments.iter().all(|segment| *segment != b"." && *segment != b".."));
                prop_assert!(!decoded.contains(&0) && !decoded.contains(&b'\\'));
            }
        }

        #[test]
        fn every_literal_pattern_matches_itself(path in "(/[a-zA-Z0-9._~-]{1,8}){1,5}") {
            if let Ok(checked) = CheckedPath::parse(&path) {
                let pattern = PathPattern::parse(&path).unwrap();
                prop_assert!(pattern.matches(checked) && pattern.may_match(checked));
                prop_assert!(matches("/**", &path));
            }
        }
    }
}
