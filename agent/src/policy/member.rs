//! Who belongs to a role: patterns over the typed names of peers.

use std::fmt;
use std::str::FromStr;

use countersign_certs::san::{San, SanError};
use countersign_certs::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};

use super::credential::{CredentialKind, CredentialSet};
use super::local::{LocalCaller, LocalError, LocalPattern};
use super::subject::{SubjectError, SubjectNames, SubjectPattern};

/// Who belongs to a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberPattern {
    /// Exactly this name, of this kind.
    Exact(San),
    /// SPIFFE IDs of one trust domain by path segments.
    Spiffe { trust_domain: TrustDomain, segments: Box<[MemberSegment]> },
    /// Users and services by what their own credential says of them.
    Subject(SubjectPattern),
    /// Programs of this host.
    Local(LocalPattern),
}

/// One segment of a member pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberSegment {
    /// `*`: exactly one segment.
    Any,
    /// `**` at the end: one or more segments.
    AnyRest,
    /// This segment.
    Literal(Box<str>),
}

/// Why a text is no member pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemberError {
    #[error("'**' may only be the last segment")]
    AnyRestNotLast,
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    San(#[from] SanError),
    #[error("{0}")]
    Spiffe(SpiffeIdError),
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("'*' and '**' stand for whole segments after the trust domain")]
    PartialWildcard,
}

impl MemberPattern {
    /// Whether a workload's name belongs. Kinds never mix.
    pub(crate) fn matches(&self, san: &San) -> bool {
        match (self, san) {
            (Self::Exact(expected), found) => expected == found,
            (Self::Spiffe { trust_domain, segments }, San::Spiffe(id)) => {
                trust_domain == id.trust_domain() && segments_match(segments, id)
            }
            (Self::Spiffe { .. }, San::Dns(_) | San::Email(_) | San::Ip(_))
            | (Self::Subject(_) | Self::Local(_), _) => false,
        }
    }

    /// Whether a user or service belongs.
    pub(crate) fn matches_subject(&self, subject: &SubjectNames) -> bool {
        match self {
            Self::Subject(pattern) => pattern.matches(subject),
            Self::Exact(_) | Self::Spiffe { .. } | Self::Local(_) => false,
        }
    }

    /// Whether a program of this host belongs.
    pub(crate) fn matches_local(&self, caller: LocalCaller) -> bool {
        match self {
            Self::Local(pattern) => pattern.matches(caller),
            Self::Exact(_) | Self::Spiffe { .. } | Self::Subject(_) => false,
        }
    }

    /// Whether somebody could belong who comes from another host and shows one of these credentials.
    pub(crate) fn is_shown_by(&self, accepted: CredentialSet) -> bool {
        let any = |kinds: &[CredentialKind]| kinds.iter().any(|kind| accepted.has(*kind));
        match self {
            Self::Exact(_) | Self::Spiffe { .. } => any(&[CredentialKind::Mtls]),
            Self::Subject(SubjectPattern::Key(_) | SubjectPattern::Team(_)) => any(&[CredentialKind::ApiKey]),
            Self::Subject(SubjectPattern::Password(_)) => any(&[CredentialKind::Basic]),
            Self::Subject(SubjectPattern::Token { .. }) => any(&[CredentialKind::Jwt, CredentialKind::OpaqueToken]),
            Self::Local(_) => false,
        }
    }

    /// Whether a program on a Unix socket could belong, or else one that comes over loopback.
    pub(crate) fn is_local(&self, on_unix_socket: bool) -> bool {
        match self {
            Self::Local(LocalPattern::Loopback) => !on_unix_socket,
            Self::Local(LocalPattern::Uid(_) | LocalPattern::Gid(_)) => on_unix_socket,
            Self::Exact(_) | Self::Spiffe { .. } | Self::Subject(_) => false,
        }
    }

    /// What the config must hold for this pattern ever to match a user or service; none for patterns over workloads.
    pub(crate) fn subject(&self) -> Option<&SubjectPattern> {
        match self {
            Self::Subject(pattern) => Some(pattern),
            Self::Exact(_) | Self::Spiffe { .. } | Self::Local(_) => None,
        }
    }

    /// The trust domain whose bundle must be known for this pattern ever to match; none for names of other kinds.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Exact(San::Spiffe(id)) => Some(id.trust_domain()),
            Self::Exact(San::Dns(_) | San::Email(_) | San::Ip(_)) | Self::Subject(_) | Self::Local(_) => None,
            Self::Spiffe { trust_domain, .. } => Some(trust_domain),
        }
    }
}

fn segments_match(pattern: &[MemberSegment], id: &SpiffeId) -> bool {
    let mut found = id.segments();
    for expected in pattern {
        match (expected, found.next()) {
            (MemberSegment::AnyRest, Some(_)) => return true,
            (MemberSegment::Any, Some(_)) => {}
            (MemberSegment::Literal(literal), Some(segment)) if **literal == *segment => {}
            (MemberSegment::Any | MemberSegment::AnyRest | MemberSegment::Literal(_), _) => return false,
        }
    }
    found.next().is_none()
}

impl FromStr for MemberPattern {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(pattern) = SubjectPattern::parse(text)? {
            return Ok(Self::Subject(pattern));
        }
        if let Some(pattern) = LocalPattern::parse(text)? {
            return Ok(Self::Local(pattern));
        }
        if !text.contains('*') {
            return Ok(Self::Exact(text.parse()?));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| SanError::Kind(text.to_owned()))?;
        let (domain, path) = rest.split_once('/').ok_or(MemberError::Spiffe(SpiffeIdError::MissingPath))?;
        let trust_domain = TrustDomain::parse(domain).map_err(MemberError::Spiffe)?;
        let segment = |segment: &str| match segment {
            "*" => Ok(MemberSegment::Any),
            "**" => Ok(MemberSegment::AnyRest),
            _ if segment.contains('*') => Err(MemberError::PartialWildcard),
            // A literal obeys the rules of a SPIFFE ID's path.
            _ => trust_domain
                .member(&format!("/{segment}"))
                .map(|_valid| MemberSegment::Literal(segment.into()))
                .map_err(MemberError::Spiffe),
        };
        let segments: Box<[MemberSegment]> = path.split('/').map(segment).collect::<Result<_, _>>()?;
        let last = segments.len().saturating_sub(1);
        if segments.iter().take(last).any(|segment| *segment == MemberSegment::AnyRest) {
            return Err(MemberError::AnyRestNotLast);
        }
        Ok(Self::Spiffe { trust_domain, segments })
    }
}

impl fmt::Display for MemberPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(san) => write!(formatter, "{san}"),
            Self::Subject(pattern) => write!(formatter, "{pattern}"),
            Self::Local(pattern) => write!(formatter, "{pattern}"),
            Self::Spiffe { trust_domain, segments } => {
                write!(formatter, "spiffe://{trust_domain}")?;
                segments.iter().try_for_each(|segment| match segment {
                    MemberSegment::Any => formatter.write_str("/*"),
                    MemberSegment::AnyRest => formatter.write_str("/**"),
                    MemberSegment::Literal(text) => write!(formatter, "/{text}"),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str, expected: bool) {
        let pattern: MemberPattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(&name.parse().unwrap()), expected, "{pattern} {name}");
    }

    #[test]
    fn patterns_match_whole_segments_of_one_trust_domain() {
        check("spiffe://td/web/*", "spiffe://td/web/a", true);
        check("spiffe://td/web/*", "spiffe://td/web", false);
        check("spiffe://td/web/*", "spiffe://td/web/a/b", false);
        check("spiffe://td/web/*", "spiffe://td/website", false);
        check("spiffe://td/web/*", "spiffe://other/web/a", false);
        check("spiffe://td/web/**", "spiffe://td/web/a/b", true);
        check("spiffe://td/web/**", "spiffe://td/web", false);
        check("spiffe://td/**", "spiffe://td/a", true);
        check("spiffe://td/*/llm", "spiffe://td/eu/llm", true);
        check("spiffe://td/llm", "spiffe://td/LLM", false);
        check("spiffe://TD/llm", "spiffe://td/llm", true);
    }

    #[test]
    fn a_name_of_another_kind_never_matches() {
        check("dns:batch.example", "dns:batch.example", true);
        check("dns:batch.example", "email:x@batch.example", false);
        check("email:x@batch.example", "dns:batch.example", false);
        check("ip:10.0.0.1", "ip:10.0.0.1", true);
        check("spiffe://td/**", "dns:td", false);
    }

    #[test]
    fn patterns_that_mean_nothing_are_errors() {
        for text in
            ["spiffe://td/web*", "spiffe://td/a**", "spiffe://*/a", "dns:*.example", "web/*", "spiffe://td/a//*", "*"]
        {
            assert!(text.parse::<MemberPattern>().is_err(), "{text}");
        }
        assert_eq!("spiffe://td/**/a".parse::<MemberPattern>(), Err(MemberError::AnyRestNotLast));
        assert_eq!("spiffe://td/we*b".parse::<MemberPattern>(), Err(MemberError::PartialWildcard));
    }

    /// `loopback` and `unix` are whether a program that comes so could belong.
    #[track_caller]
    fn check_kind(pattern: &str, subject: bool, local: bool, shown_by: &str, [loopback, unix]: [bool; 2]) {
        let parsed: MemberPattern = pattern.parse().unwrap();
        assert_eq!(parsed.to_string(), pattern);
        let key = SubjectNames::recorded("key:key_a", &["team:research".to_owned()]).unwrap();
        assert_eq!((parsed.matches_subject(&key), parsed.subject().is_some()), (subject, subject), "{pattern}");
        assert_eq!(parsed.matches_local(LocalCaller::recorded("local:uid=5,gid=6").unwrap()), local, "{pattern}");
        let kinds = CredentialKind::ALL.into_iter().filter(|kind| parsed.is_shown_by([*kind].into_iter().collect()));
        assert_eq!(kinds.map(CredentialKind::as_str).collect::<Vec<_>>().join(" "), shown_by, "{pattern}");
        assert_eq!([parsed.is_local(false), parsed.is_local(true)], [loopback, unix], "{pattern}");
    }

    #[test]
    fn who_belongs_is_of_the_kind_that_the_pattern_names() {
        check_kind("spiffe://td/web/*", false, false, "mtls", [false, false]);
        check_kind("spiffe://td/web/**", false, false, "mtls", [false, false]);
        check_kind("dns:batch.example", false, false, "mtls", [false, false]);
        check_kind("key:key_a", true, false, "api_key", [false, false]);
        check_kind("team:research", true, false, "api_key", [false, false]);
        check_kind("local:uid=5", false, true, "", [false, true]);
        check_kind("local:gid=6", false, true, "", [false, true]);
        check_kind("local:loopback", false, false, "", [true, false]);
        let of = |text: &str| text.parse::<MemberPattern>().unwrap();
        assert!(!of("key:key_b").matches_subject(&SubjectNames::recorded("key:key_a", &[]).unwrap()));
        assert!(of("basic:admin").is_shown_by([CredentialKind::Basic].into_iter().collect()));
        let tokens = [CredentialKind::Jwt, CredentialKind::OpaqueToken];
        assert!(tokens.iter().all(|kind| of("user:company/alice").is_shown_by([*kind].into_iter().collect())));
        assert!(
            !of("user:company/alice").is_shown_by([CredentialKind::Mtls, CredentialKind::ApiKey].into_iter().collect())
        );
        let domain = |text| of(text).trust_domain().map(ToString::to_string);
        assert_eq!([domain("spiffe://td/a"), domain("spiffe://td/*")], [Some("td".into()), Some("td".into())]);
        assert_eq!([domain("dns:a.example"), domain("key:key_a"), domain("local:uid=5")], [None, None, None]);
    }

    #[test]
    fn a_literal_segment_is_no_wildcard() {
        check("spiffe://td/web/*", "spiffe://td/batch/a", false);
    }
}
