//! Roles: named sets of peers, written as patterns over their typed names.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use countersign_certs::san::{San, SanError};
use countersign_certs::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};

/// Most roles in one config.
pub(crate) const ROLES_MAX: usize = 4096;

/// Every role of a config, compiled: from the names of a peer to the set of roles that it holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roles {
    names: Vec<Arc<str>>,
    members: Vec<Vec<MemberPattern>>,
    /// For each role the set of roles that its members hold: itself and all that include it.
    implied: Vec<RoleSet>,
}

/// One role as the config defines it.
#[derive(Debug, Clone)]
pub(crate) struct RoleDefinition {
    pub(crate) name: Arc<str>,
    pub(crate) members: Vec<MemberPattern>,
    pub(crate) includes: Vec<Arc<str>>,
}

/// Why role definitions contradict each other. The index is that of the definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RolesError {
    #[error("role {name:?} includes itself")]
    Cycle { index: usize, name: Arc<str> },
    #[error("role {name:?} is defined twice")]
    Duplicate { index: usize, name: Arc<str> },
    #[error("role {name:?} can have no member: it lists none and includes no role that does")]
    Empty { index: usize, name: Arc<str> },
    #[error("{count} roles, the limit is {ROLES_MAX}")]
    TooMany { count: usize },
    #[error("unknown role {include:?}")]
    UnknownInclude { index: usize, include: Arc<str> },
}

/// A set of roles, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RoleSet(Box<[u64]>);

/// Who belongs to a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberPattern {
    /// Exactly this name, of this kind.
    Exact(San),
    /// SPIFFE IDs of one trust domain by path segments.
    Spiffe { trust_domain: TrustDomain, segments: Box<[MemberSegment]> },
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
    San(#[from] SanError),
    #[error("{0}")]
    Spiffe(SpiffeIdError),
    #[error("'*' and '**' stand for whole segments after the trust domain")]
    PartialWildcard,
}

impl Roles {
    /// Compiles definitions.
    pub(crate) fn compile(definitions: &[RoleDefinition]) -> Result<Self, RolesError> {
        let count = definitions.len();
        if count > ROLES_MAX {
            return Err(RolesError::TooMany { count });
        }
        let mut index_of = HashMap::new();
        for (index, definition) in definitions.iter().enumerate() {
            if index_of.insert(Arc::clone(&definition.name), index).is_some() {
                return Err(RolesError::Duplicate { index, name: Arc::clone(&definition.name) });
            }
        }
        let included = included(definitions, &index_of)?;
        let mut implied = vec![RoleSet::with_room_for(count); count];
        for (outer, definition) in definitions.iter().enumerate() {
            let reached = reachable(outer, &included);
            let mut deeper = reached.iter().copied().filter(|inner| *inner != outer);
            if deeper.any(|inner| reachable(inner, &included).contains(&outer)) {
                return Err(RolesError::Cycle { index: outer, name: Arc::clone(&definition.name) });
            }
            let has_members = |index: &usize| definitions.get(*index).is_some_and(|role| !role.members.is_empty());
            if !reached.iter().any(has_members) {
                return Err(RolesError::Empty { index: outer, name: Arc::clone(&definition.name) });
            }
            for inner in reached {
                if let Some(set) = implied.get_mut(inner) {
                    set.insert(outer);
                }
            }
        }
        let (names, members) = definitions.iter().map(|role| (Arc::clone(&role.name), role.members.clone())).unzip();
        Ok(Self { names, members, implied })
    }

    /// The roles that a peer with these names holds.
    pub(crate) fn of(&self, sans: &[San]) -> RoleSet {
        let mut held = RoleSet::with_room_for(self.names.len());
        for (members, implied) in self.members.iter().zip(&self.implied) {
            if members.iter().any(|pattern| sans.iter().any(|san| pattern.matches(san))) {
                held.add_all(implied);
            }
        }
        held
    }

    /// The set with these names; the name that no role has, if any.
    pub(crate) fn set<'name>(&self, names: impl IntoIterator<Item = &'name str>) -> Result<RoleSet, &'name str> {
        let mut set = RoleSet::with_room_for(self.names.len());
        for name in names {
            let index = self.names.iter().position(|known| **known == *name).ok_or(name)?;
            set.insert(index);
        }
        Ok(set)
    }

    /// The names of a set, in the order of the config.
    pub(crate) fn names(&self, set: &RoleSet) -> Vec<Arc<str>> {
        self.names
            .iter()
            .enumerate()
            .filter(|(index, _)| set.contains(*index))
            .map(|(_, name)| Arc::clone(name))
            .collect()
    }

    /// Every role's name.
    pub(crate) fn all_names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// For `explain`: the member patterns by which a peer holds its roles directly, with the role's name.
    pub(crate) fn origins<'roles>(
        &'roles self,
        sans: &'roles [San],
    ) -> impl Iterator<Item = (&'roles str, &'roles MemberPattern)> {
        self.names.iter().zip(&self.members).flat_map(move |(name, members)| {
            let holds = move |pattern: &&MemberPattern| sans.iter().any(|san| pattern.matches(san));
            members.iter().filter(holds).map(move |pattern| (&**name, pattern))
        })
    }
}

/// For each role the indices of those that it includes directly.
fn included(
    definitions: &[RoleDefinition],
    index_of: &HashMap<Arc<str>, usize>,
) -> Result<Vec<Vec<usize>>, RolesError> {
    let resolve = |(index, definition): (usize, &RoleDefinition)| {
        let one = |include: &Arc<str>| {
            index_of
                .get(include)
                .copied()
                .ok_or_else(|| RolesError::UnknownInclude { index, include: Arc::clone(include) })
        };
        definition.includes.iter().map(one).collect()
    };
    definitions.iter().enumerate().map(resolve).collect()
}

/// A role and everything that it includes, directly or not.
fn reachable(start: usize, included: &[Vec<usize>]) -> Vec<usize> {
    let mut reached = vec![start];
    let mut next = 0;
    while let Some(current) = reached.get(next).copied() {
        for inner in included.get(current).into_iter().flatten() {
            if !reached.contains(inner) {
                reached.push(*inner);
            }
        }
        next += 1;
    }
    reached
}

impl RoleSet {
    fn with_room_for(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)].into())
    }

    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    fn add_all(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    /// Whether a role is in both sets.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(one, two)| one & two != 0)
    }

    /// Whether no role is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl MemberPattern {
    /// Whether a name belongs. Kinds never mix.
    pub(crate) fn matches(&self, san: &San) -> bool {
        match (self, san) {
            (Self::Exact(expected), found) => expected == found,
            (Self::Spiffe { trust_domain, segments }, San::Spiffe(id)) => {
                trust_domain == id.trust_domain() && segments_match(segments, id)
            }
            (Self::Spiffe { .. }, San::Dns(_) | San::Email(_) | San::Ip(_)) => false,
        }
    }

    /// The trust domain whose bundle must be known for this pattern ever to match; none for names of other kinds.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Exact(San::Spiffe(id)) => Some(id.trust_domain()),
            Self::Exact(San::Dns(_) | San::Email(_) | San::Ip(_)) => None,
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
    }

    fn definition(name: &str, members: &[&str], includes: &[&str]) -> RoleDefinition {
        RoleDefinition {
            name: name.into(),
            members: members.iter().map(|member| member.parse().unwrap()).collect(),
            includes: includes.iter().map(|include| (*include).into()).collect(),
        }
    }

    #[test]
    fn members_of_an_included_role_hold_the_including_one_too() {
        let roles = Roles::compile(&[
            definition("reader", &[], &["writer"]),
            definition("writer", &["spiffe://td/w"], &["admin"]),
            definition("admin", &["spiffe://td/a"], &[]),
        ])
        .unwrap();
        let of = |name: &str| roles.names(&roles.of(&[name.parse().unwrap()])).join(" ");
        assert_eq!(of("spiffe://td/a"), "reader writer admin");
        assert_eq!(of("spiffe://td/w"), "reader writer");
        assert_eq!(of("spiffe://td/x"), "");
    }

    #[test]
    fn definitions_that_contradict_are_errors() {
        let error = |definitions: &[RoleDefinition]| Roles::compile(definitions).unwrap_err();
        let member = &["spiffe://td/a"];
        assert!(matches!(
            error(&[definition("a", member, &["b"]), definition("b", &[], &["a"])]),
            RolesError::Cycle { .. }
        ));
        assert!(matches!(
            error(&[definition("a", member, &[]), definition("a", member, &[])]),
            RolesError::Duplicate { index: 1, .. }
        ));
        assert!(matches!(error(&[definition("a", &[], &[])]), RolesError::Empty { .. }));
        assert!(matches!(error(&[definition("a", member, &["b"])]), RolesError::UnknownInclude { .. }));
    }

    #[test]
    fn more_than_64_roles_keep_apart() {
        let definitions: Vec<_> =
            (0..130).map(|index| definition(&format!("r{index}"), &[&format!("spiffe://td/{index}")], &[])).collect();
        let roles = Roles::compile(&definitions).unwrap();
        let held = roles.of(&["spiffe://td/129".parse().unwrap()]);
        assert_eq!(roles.names(&held).join(" "), "r129");
        assert!(!held.intersects(&roles.set(["r65", "r1"]).unwrap()));
    }
}
