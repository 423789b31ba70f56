//! `allow` and `deny` rules, compiled: which roles may use which methods on which paths of one service.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use super::condition::{Compiler, Condition, PolicyFile, Uses};
use super::network::Network;
use super::path::{CheckedPath, PathPattern};
use super::role::{RoleSet, Roles};
use super::subject::SubjectPattern;

/// Every rule of one service. Nothing is allowed that no rule allows, and nothing that a rule denies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) roles: Arc<Roles>,
    /// What conditions look at; none where there are no conditions.
    pub(crate) uses: Option<Uses>,
    /// What decides.
    pub(crate) enforced: Rules,
    /// What would decide if the rules that are only observed were enforced; none where there are no such rules.
    pub(crate) observed: Option<Rules>,
}

/// Both kinds of rules, and policies that stand in a file of their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) deny: Table,
    pub(crate) allow: Table,
    pub(crate) file: Option<Arc<PolicyFile>>,
}

/// The file of policies of a service.
#[derive(Debug, Clone)]
pub(crate) struct NamedFile {
    pub(crate) file: Arc<PolicyFile>,
    /// Its policies take no part in the decision yet.
    pub(crate) is_observed: bool,
}

/// One `[[inbound.allow]]` or `[[inbound.deny]]`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Where it stands, for example `llm.allow[0]`, or the name that it was given.
    pub(crate) name: Arc<str>,
    /// Holders of any of these roles; none named means everybody, which only a denial may say.
    pub(crate) roles: Option<RoleSet>,
    /// Where a workload acts for somebody else: it must hold one of these roles itself.
    pub(crate) via: Option<RoleSet>,
    /// Callers from these networks; none named means every network.
    pub(crate) networks: Option<Box<[Network]>>,
    /// These methods; none named means every method.
    pub(crate) methods: Option<Box<[Method]>>,
    /// Paths that one of these covers; none named means every path.
    pub(crate) paths: Option<Box<[PathPattern]>>,
    /// What must hold besides.
    pub(crate) condition: Option<Condition>,
    /// It takes no part in the decision yet; what it would change is recorded.
    pub(crate) is_observed: bool,
}

/// Rules by the roles that they name, so that a decision looks only at those that could concern the caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rules: Vec<Rule>,
    /// For each role the rules that name it, in order.
    of_role: Vec<Vec<usize>>,
    /// Rules that concern everybody.
    of_all: Vec<usize>,
}

impl Policy {
    /// Compiles the rules of one service, in the order of the config.
    pub(crate) fn compile(roles: Arc<Roles>, deny: Vec<Rule>, allow: Vec<Rule>, file: Option<NamedFile>) -> Self {
        let all = || deny.iter().chain(&allow);
        let observed = all().any(|rule| rule.is_observed) || file.as_ref().is_some_and(|file| file.is_observed);
        let conditions = || all().filter_map(|rule| rule.condition.as_ref());
        let policies = file.as_ref().map(|named| &*named.file);
        let uses =
            (conditions().next().is_some() || policies.is_some()).then(|| Compiler::uses(conditions(), policies));
        let count = roles.all_names().len();
        let compile = |rules: &[Rule], with_observed: bool| {
            Table::compile(rules.iter().filter(|rule| with_observed || !rule.is_observed).cloned(), count)
        };
        let both = |with_observed| Rules {
            deny: compile(&deny, with_observed),
            allow: compile(&allow, with_observed),
            file: file.as_ref().filter(|file| with_observed || !file.is_observed).map(|named| Arc::clone(&named.file)),
        };
        Self { roles, uses, enforced: both(false), observed: observed.then(|| both(true)) }
    }

    /// Whether anything that counts, and is not only observed, allows anything.
    pub(crate) fn allows_something(&self) -> bool {
        self.enforced.file.is_some() || !self.enforced.allow.rules.is_empty()
    }

    /// Whether anything could be allowed to whoever holds these roles.
    pub(crate) fn could_allow(&self, held: &RoleSet) -> bool {
        self.enforced.file.is_some() || self.enforced.allow.concerning(held).any(|rules| !rules.is_empty())
    }

    /// Whether anything could be allowed to a program of this host that comes over a Unix socket, or else over loopback.
    pub(crate) fn could_allow_local(&self, on_unix_socket: bool) -> bool {
        self.could_allow(&self.roles.held_by(|member| member.is_local(on_unix_socket)))
    }

    /// Whether anything hangs on what the claims of a token hold: a condition, a file of policies, or a role that a rule names.
    pub(crate) fn looks_at_claims(&self) -> bool {
        let by_claim = self.roles.held_by(|member| member.subject().and_then(SubjectPattern::claim).is_some());
        let names_such =
            |(_, rule): (Effect, &Rule)| rule.roles.as_ref().is_some_and(|roles| roles.intersects(&by_claim));
        let rules = self.observed.as_ref().unwrap_or(&self.enforced);
        self.uses.is_some_and(Uses::looks_at_claims)
            || (rules.file.is_some() && !by_claim.is_empty())
            || self.all_rules().any(names_such)
    }

    /// Every rule, those that are only observed too: first what denies, then what allows.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = (Effect, &Rule)> {
        let rules = self.observed.as_ref().unwrap_or(&self.enforced);
        let deny = rules.deny.rules.iter().map(|rule| (Effect::Deny, rule));
        deny.chain(rules.allow.rules.iter().map(|rule| (Effect::Allow, rule)))
    }
}

/// What a rule says to what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
}

impl Table {
    fn compile(rules: impl Iterator<Item = Rule>, roles: usize) -> Self {
        let mut table = Self { rules: rules.collect(), of_role: vec![Vec::new(); roles], of_all: Vec::new() };
        for (index, rule) in table.rules.iter().enumerate() {
            match &rule.roles {
                Some(named) => {
                    let rooms =
                        named.indices().filter_map(|role| table.of_role.get_mut(role).map(|room| room.push(index)));
                    // Roles and rules were compiled from one list, so that each has its room.
                    rooms.for_each(drop);
                }
                None => table.of_all.push(index),
            }
        }
        table
    }

    /// The rules that concern everybody, then for each role held those that name it.
    pub(super) fn concerning<'table>(&'table self, held: &'table RoleSet) -> impl Iterator<Item = &'table [usize]> {
        let of_roles = held.indices().filter_map(|role| self.of_role.get(role).map(Vec::as_slice));
        std::iter::once(self.of_all.as_slice()).chain(of_roles)
    }

    pub(super) fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }

    /// Whether there is no rule.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    /// Whether an address lies in one of the rule's networks. Where the address is not known, it does not.
    pub(super) fn covers_address(&self, address: Option<IpAddr>) -> bool {
        self.networks.as_ref().is_none_or(|networks| {
            address.is_some_and(|address| networks.iter().any(|network| network.contains(address)))
        })
    }

    pub(super) fn covers_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }

    pub(super) fn covers_path(&self, path: CheckedPath<'_>) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.iter().any(|pattern| pattern.matches(path)))
    }

    /// Whether it covers what some server could take this path for, which is what a denial is about.
    pub(super) fn may_cover_path(&self, path: CheckedPath<'_>) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.iter().any(|pattern| pattern.may_match(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Written, policy};

    const ALL: Written = ["all", "web", "", "", "", ""];
    const SHADOW: Written = ["?shadow", "batch", "", "", "", ""];

    #[test]
    fn what_is_only_observed_allows_nothing() {
        let could = |allow: &[Written], role: &str| {
            let policy = policy(&[], allow);
            (policy.allows_something(), policy.could_allow(&policy.roles.set([role]).unwrap()))
        };
        assert_eq!(could(&[], "web"), (false, false));
        assert_eq!(could(&[ALL], "web"), (true, true));
        assert_eq!(could(&[ALL], "batch"), (true, false));
        assert_eq!(could(&[SHADOW], "batch"), (false, false));
        assert!(!policy(&[], &[ALL]).could_allow_local(true), "workloads are no programs of this host");
    }

    #[test]
    fn observed_rules_are_kept_apart_and_told() {
        let names = |deny: &[Written], allow: &[Written]| {
            let policy = policy(deny, allow);
            let names: Vec<String> =
                policy.all_rules().map(|(effect, rule)| format!("{effect:?} {}", rule.name)).collect();
            (policy.observed.is_some(), names.join(", "))
        };
        assert_eq!(names(&[], &[ALL]), (false, "Allow all".into()));
        assert_eq!(names(&[SHADOW], &[ALL]), (true, "Deny ?shadow, Allow all".into()));
        assert_eq!(names(&[ALL], &[SHADOW]), (true, "Deny all, Allow ?shadow".into()));
        let policy = policy(&[SHADOW], &[ALL]);
        assert_eq!([policy.enforced.deny.is_empty(), policy.enforced.allow.is_empty()], [true, false]);
    }
}
