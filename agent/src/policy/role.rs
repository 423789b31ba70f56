//! Roles: named sets of callers, and which of them include which.

use std::collections::HashMap;
use std::sync::Arc;

use countersign_certs::san::San;

use super::local::LocalCaller;
use super::member::MemberPattern;
use super::subject::SubjectNames;

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

impl Roles {
    /// Compiles definitions. `granted` says that API keys may grant roles, so that one without members can be held too.
    pub(crate) fn compile(definitions: &[RoleDefinition], granted: bool) -> Result<Self, RolesError> {
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
            if !granted && !reached.iter().any(has_members) {
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

    /// The roles that a workload with these names holds.
    pub(crate) fn of(&self, sans: &[San]) -> RoleSet {
        self.held_by(|pattern| sans.iter().any(|san| pattern.matches(san)))
    }

    /// The roles that a user or service holds: those whose member it is, and those that its key grants. A granted name that is
    /// no role grants nothing.
    pub(crate) fn of_subject(&self, subject: &SubjectNames) -> RoleSet {
        let mut held = self.held_by(|pattern| pattern.matches_subject(subject));
        for granted in subject.granted() {
            let index = self.names.iter().position(|name| name == granted);
            if let Some(implied) = index.and_then(|index| self.implied.get(index)) {
                held.add_all(implied);
            }
        }
        held
    }

    /// The roles that a program of this host holds.
    pub(crate) fn of_local(&self, caller: LocalCaller) -> RoleSet {
        self.held_by(|pattern| pattern.matches_local(caller))
    }

    /// The roles with a member that belongs to it, and all that these include.
    pub(crate) fn held_by(&self, belongs: impl Fn(&MemberPattern) -> bool) -> RoleSet {
        let mut held = RoleSet::with_room_for(self.names.len());
        for (members, implied) in self.members.iter().zip(&self.implied) {
            if members.iter().any(&belongs) {
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
        self.named(set).cloned().collect()
    }

    /// The same one by one. Takes time by how many are held, not by how many there are.
    pub(crate) fn named<'roles>(&'roles self, set: &'roles RoleSet) -> impl Iterator<Item = &'roles Arc<str>> {
        set.indices().filter_map(|index| self.names.get(index))
    }

    /// Every role's name.
    pub(crate) fn all_names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// For `explain`: the member patterns by which somebody holds its roles directly, with the role's name.
    pub(crate) fn origins<'roles>(
        &'roles self,
        belongs: impl Fn(&MemberPattern) -> bool + 'roles,
    ) -> impl Iterator<Item = (&'roles str, &'roles MemberPattern)> {
        let each = self.names.iter().zip(&self.members);
        each.flat_map(|(name, members)| members.iter().map(move |pattern| (&**name, pattern)))
            .filter(move |(_, pattern)| belongs(pattern))
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

    /// The roles of the set by their position in the config.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate();
        words.flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = usize::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, members: &[&str], includes: &[&str]) -> RoleDefinition {
        RoleDefinition {
            name: name.into(),
            members: members.iter().map(|member| member.parse().unwrap()).collect(),
            includes: includes.iter().map(|include| (*include).into()).collect(),
        }
    }

    #[test]
    fn members_of_an_included_role_hold_the_including_one_too() {
        let roles = Roles::compile(
            &[
                definition("reader", &[], &["writer"]),
                definition("writer", &["spiffe://td/w"], &["admin"]),
                definition("admin", &["spiffe://td/a"], &[]),
            ],
            false,
        )
        .unwrap();
        let of = |name: &str| roles.names(&roles.of(&[name.parse().unwrap()])).join(" ");
        assert_eq!(of("spiffe://td/a"), "reader writer admin");
        assert_eq!(of("spiffe://td/w"), "reader writer");
        assert_eq!(of("spiffe://td/x"), "");
    }

    #[test]
    fn definitions_that_contradict_are_errors() {
        let error = |definitions: &[RoleDefinition]| Roles::compile(definitions, false).unwrap_err();
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
        let roles = Roles::compile(&definitions, false).unwrap();
        let held = roles.of(&["spiffe://td/129".parse().unwrap()]);
        assert_eq!(roles.names(&held).join(" "), "r129");
        assert_eq!(held.indices().collect::<Vec<_>>(), [129]);
        assert!(!held.intersects(&roles.set(["r65", "r1"]).unwrap()));
    }

    #[test]
    fn users_and_programs_hold_what_they_belong_to_and_what_their_key_grants() {
        let definitions = [
            definition("reader", &["team:research"], &["writer"]),
            definition("writer", &[], &[]),
            definition("local", &["local:uid=5"], &[]),
        ];
        let roles = Roles::compile(&definitions, true).unwrap();
        let of = |name: &str, facts: &[&str]| {
            let facts: Vec<String> = facts.iter().map(|fact| (*fact).to_owned()).collect();
            roles.names(&roles.of_subject(&SubjectNames::recorded(name, &facts).unwrap())).join(" ")
        };
        assert_eq!(of("key:a", &[]), "");
        assert_eq!(of("key:a", &["team:research"]), "reader");
        assert_eq!(of("key:a", &["grant:writer"]), "reader writer");
        assert_eq!(of("key:a", &["grant:nobody-s"]), "");
        let local = |text| roles.names(&roles.of_local(LocalCaller::recorded(text).unwrap())).join(" ");
        assert_eq!([local("local:uid=5,gid=1"), local("local:uid=6,gid=1")], ["local", ""]);
        let origins: Vec<_> = roles.origins(|pattern| pattern.subject().is_some()).collect();
        assert_eq!(
            origins.iter().map(|(role, pattern)| format!("{role} {pattern}")).collect::<Vec<_>>(),
            ["reader team:research"]
        );
    }

    #[test]
    fn roles_are_bounded() {
        let definitions: Vec<_> =
            (0..=ROLES_MAX).map(|index| definition(&format!("r{index}"), &["spiffe://td/a"], &[])).collect();
        assert_eq!(Roles::compile(&definitions, false).unwrap_err(), RolesError::TooMany { count: ROLES_MAX + 1 });
        assert!(Roles::compile(&definitions[1..], false).is_ok());
    }
}
