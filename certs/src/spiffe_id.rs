//! SPIFFE IDs and trust domains, parsed once at the edge (SPIFFE-ID.md, sections 2 to 2.4).
//!
//! A [`SpiffeId`] that exists is valid. Nothing inside the project carries an identity as a bare string.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest SPIFFE ID in bytes (SPIFFE-ID.md §2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Longest trust domain name in bytes (SPIFFE-ID.md §2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

const SCHEME: &str = "spiffe://";

/// A namespace of identities and the keys that sign them, for example `prod.example`. Always lower-case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The name of one workload, for example `spiffe://prod.example/llm`. Scheme and trust domain are lower-case, the path
/// keeps its case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

/// Why a text is not a SPIFFE ID or not a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// A path segment holds a character outside `a-z A-Z 0-9 . - _`.
    #[error("a path segment may only hold letters, digits, '.', '-' and '_'")]
    BadPathCharacter,
    /// The trust domain holds a character outside `a-z 0-9 . - _`.
    #[error("a trust domain may only hold letters, digits, '.', '-' and '_'")]
    BadTrustDomainCharacter,
    /// `.` or `..` as a path segment.
    #[error("a path segment may not be '.' or '..'")]
    DotSegment,
    /// Two slashes in a row.
    #[error("a path segment is empty")]
    EmptySegment,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A path is required here (a workload's ID, X509-SVID.md §3.1).
    #[error("the ID names a trust domain but no workload: the path is missing")]
    MissingPath,
    /// Longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("the ID has {bytes} bytes, the limit is {SPIFFE_ID_BYTES_MAX}")]
    TooLong {
        /// Length of the refused text.
        bytes: usize,
    },
    /// The path ends in a slash.
    #[error("the path ends in a slash")]
    TrailingSlash,
    /// Longer than [`TRUST_DOMAIN_BYTES_MAX`].
    #[error("the trust domain has {bytes} bytes, the limit is {TRUST_DOMAIN_BYTES_MAX}")]
    TrustDomainTooLong {
        /// Length of the refused name.
        bytes: usize,
    },
    /// Does not begin with `spiffe://`.
    #[error("the ID does not begin with spiffe://")]
    WrongScheme,
}

impl TrustDomain {
    /// Parses a name such as `prod.example`; upper-case letters are taken as lower-case (SPIFFE-ID.md §2.4).
    ///
    /// # Errors
    /// Says which rule of SPIFFE-ID.md §2.1 the name breaks. Ports, user information and percent-encoding break the
    /// character rule; names that look like addresses are names like any other.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::EmptyTrustDomain);
        }
        if name.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(SpiffeIdError::TrustDomainTooLong { bytes: name.len() });
        }
        if !name.bytes().all(is_name_byte) {
            return Err(SpiffeIdError::BadTrustDomainCharacter);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name, lower-case, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of a member of this trust domain. `path` begins with a slash.
    ///
    /// # Errors
    /// The path breaks SPIFFE-ID.md §2.2 or makes the ID too long.
    pub fn member(&self, path: &str) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::parse(&format!("{SCHEME}{self}{path}"))
    }
}

impl SpiffeId {
    /// Parses a workload's ID: the path is required.
    ///
    /// # Errors
    /// Says which rule of SPIFFE-ID.md the text breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let (trust_domain, path) = split(text)?;
        if path.is_empty() {
            return Err(SpiffeIdError::MissingPath);
        }
        check_path(path)?;
        Ok(Self { uri: format!("{SCHEME}{trust_domain}{path}").into(), trust_domain })
    }

    /// The whole ID, `spiffe://trust-domain/path`.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain, whose bundle is the only one that may vouch for this ID.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        self.uri.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(self.trust_domain.as_str())).unwrap_or_default()
    }

    /// The path's segments, at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Whether the ID lies under `/countersign/`, which is kept for the CA and for hosts.
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some(RESERVED_SEGMENT)
    }
}

/// First path segment of the IDs that only the CA itself and hosts may have.
pub const RESERVED_SEGMENT: &str = "countersign";

/// The ID that the CA of a trust domain shows on its own listener.
///
/// # Errors
/// The trust domain is so long that the ID would pass [`SPIFFE_ID_BYTES_MAX`]; no valid trust domain is.
pub fn ca_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    trust_domain.member(&format!("/{RESERVED_SEGMENT}/ca"))
}

/// The ID that an enrolled host has; its agent asks for everything else with it.
///
/// # Errors
/// `host` is not one valid path segment.
pub fn host_id(trust_domain: &TrustDomain, host: &str) -> Result<SpiffeId, SpiffeIdError> {
    if host.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if !host.bytes().all(is_name_byte) {
        return Err(SpiffeIdError::BadPathCharacter);
    }
    trust_domain.member(&format!("/{RESERVED_SEGMENT}/host/{host}"))
}

/// The host's name, if `id` is a host's ID.
pub fn host_of(id: &SpiffeId) -> Option<&str> {
    let mut segments = id.segments();
    let reserved = segments.next() == Some(RESERVED_SEGMENT) && segments.next() == Some("host");
    let host = segments.next()?;
    (reserved && segments.next().is_none()).then_some(host)
}

fn split(text: &str) -> Result<(TrustDomain, &str), SpiffeIdError> {
    if text.len() > SPIFFE_ID_BYTES_MAX {
        return Err(SpiffeIdError::TooLong { bytes: text.len() });
    }
    let scheme = text.get(..SCHEME.len()).ok_or(SpiffeIdError::WrongScheme)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(SpiffeIdError::WrongScheme);
    }
    let rest = text.get(SCHEME.len()..).unwrap_or_default();
    let (name, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    Ok((TrustDomain::parse(name)?, path))
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ if !segment.bytes().all(is_name_byte) => return Err(SpiffeIdError::BadPathCharacter),
            _ => {}
        }
    }
    Ok(())
}

/// The characters of trust domains and of path segments are the same but for case (SPIFFE-ID.md §2.1, §2.2).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TrustDomain({self})")
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SpiffeId({self})")
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(format!("trust domain {text:?}: {error}")))
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(format!("SPIFFE ID {text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<&str, SpiffeIdError>) {
        let parsed = SpiffeId::parse(text);
        assert_eq!(parsed.as_ref().map(SpiffeId::as_str).map_err(|error| *error), expected, "{text}");
    }

    #[test]
    fn ids_of_the_standard_are_taken() {
        check("spiffe://prod.example/llm", Ok("spiffe://prod.example/llm"));
        check("SPIFFE://Prod.Example/LLM", Ok("spiffe://prod.example/LLM"));
        check("spiffe://10.0.0.1/a", Ok("spiffe://10.0.0.1/a"));
        check("spiffe://a_b-c.d/x_y-z.0/.../..a", Ok("spiffe://a_b-c.d/x_y-z.0/.../..a"));
        let longest = format!("spiffe://td/{}", "a".repeat(SPIFFE_ID_BYTES_MAX - 12));
        check(&longest, Ok(&longest));
    }

    #[test]
    fn ids_that_break_a_rule_are_refused_with_that_rule() {
        check("", Err(SpiffeIdError::WrongScheme));
        check("http://prod.example/llm", Err(SpiffeIdError::WrongScheme));
        check("spiffe:/prod.example/llm", Err(SpiffeIdError::WrongScheme));
        check("spiffe://", Err(SpiffeIdError::EmptyTrustDomain));
        check("spiffe:///llm", Err(SpiffeIdError::EmptyTrustDomain));
        check("spiffe://prod.example", Err(SpiffeIdError::MissingPath));
        check("spiffe://prod.example/", Err(SpiffeIdError::TrailingSlash));
        check("spiffe://prod.example/a/", Err(SpiffeIdError::TrailingSlash));
        check("spiffe://prod.example//a", Err(SpiffeIdError::EmptySegment));
        check("spiffe://prod.example/a/./b", Err(SpiffeIdError::DotSegment));
        check("spiffe://prod.example/a/..", Err(SpiffeIdError::DotSegment));
        check("spiffe://prod.example/a%2fb", Err(SpiffeIdError::BadPathCharacter));
        check("spiffe://prod.example/a?b", Err(SpiffeIdError::BadPathCharacter));
        check("spiffe://prod.example/a#b", Err(SpiffeIdError::BadPathCharacter));
        check("spiffe://prod.example/é", Err(SpiffeIdError::BadPathCharacter));
        check("spiffe://prod.example/a\0", Err(SpiffeIdError::BadPathCharacter));
        check("spiffe://prod.example:443/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        check("spiffe://user@prod.example/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        check("spiffe://[::1]/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        check("spiffe://prod%2eexample/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        check("spiffe://prod.example?x/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        check("spiffe://ёж/a", Err(SpiffeIdError::BadTrustDomainCharacter));
        let long = format!("spiffe://td/{}", "a".repeat(SPIFFE_ID_BYTES_MAX));
        check(&long, Err(SpiffeIdError::TooLong { bytes: long.len() }));
        let wide = format!("spiffe://{}/a", "a".repeat(256));
        check(&wide, Err(SpiffeIdError::TrustDomainTooLong { bytes: 256 }));
    }

    #[test]
    fn hosts_have_an_id_under_the_reserved_segment() {
        let domain = TrustDomain::parse("prod.example").unwrap();
        let id = host_id(&domain, "gpu-1").unwrap();
        assert_eq!(id.as_str(), "spiffe://prod.example/countersign/host/gpu-1");
        assert_eq!(host_of(&id), Some("gpu-1"));
        assert!(id.is_reserved());
        assert_eq!(host_of(&ca_id(&domain).unwrap()), None);
        assert!(host_id(&domain, "a/b").is_err());
        assert!(host_id(&domain, "..").is_err());
        assert!(host_id(&domain, "").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_parses_to_itself(text in "\\PC{0,64}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
                prop_assert!(id.as_str().eq_ignore_ascii_case(&text));
                prop_assert!(text.ends_with(id.path()));
            }
        }

        #[test]
        fn every_well_formed_id_parses(
            domain in "[a-zA-Z0-9._-]{1,40}",
            segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}", 1..6),
        ) {
            let id = SpiffeId::parse(&format!("spiffe://{domain}/{}", segments.join("/"))).unwrap();
            prop_assert_eq!(id.trust_domain().as_str(), domain.to_ascii_lowercase());
            prop_assert_eq!(id.segments().collect::<Vec<_>>(), segments);
        }
    }
}
