//! Policies for tests, written in a line.

use std::sync::Arc;

use super::condition::Facts;
use super::decide::{Holders, Question};
use super::path::{CheckedPath, PathPattern};
use super::role::{RoleDefinition, Roles};
use super::rule::{Policy, Rule};

/// `[name, roles, via, networks, methods, paths]`, each a list in one text; a name that begins with `?` is only observed.
pub(super) type Written = [&'static str; 6];

pub(super) fn policy(deny: &[Written], allow: &[Written]) -> Policy {
    let role = |name: &str| RoleDefinition {
        name: name.into(),
        members: vec![format!("spiffe://td/{name}").parse().unwrap()],
        includes: Vec::new(),
    };
    let roles = Arc::new(Roles::compile(&["web", "batch", "user", "front"].map(role), false).unwrap());
    let rule = |written: &Written| {
        let [name, named, via, networks, methods, paths] = written.map(|text| text.split_whitespace());
        let set =
            |names: std::str::SplitWhitespace<'static>| names.clone().next().map(|_first| roles.set(names).unwrap());
        let some = |list: std::str::SplitWhitespace<'static>| list.clone().next().map(|_first| list);
        let name = name.collect::<String>();
        Rule {
            condition: None,
            is_observed: name.starts_with('?'),
            name: name.into(),
            roles: set(named),
            via: set(via),
            networks: some(networks).map(|list| list.map(|text| text.parse().unwrap()).collect()),
            methods: some(methods).map(|list| list.map(|text| text.parse().unwrap()).collect()),
            paths: some(paths).map(|list| list.map(|text| PathPattern::parse(text).unwrap()).collect()),
        }
    };
    Policy::compile(Arc::clone(&roles), deny.iter().map(rule).collect(), allow.iter().map(rule).collect(), None)
}

/// `asked`: the roles of whom it is made for, `>` and those of the workload that makes it, the address, method and path.
pub(super) fn ask<T>(policy: &Policy, asked: &str, answer: impl Fn(Question<'_>) -> T) -> T {
    let [who, address, method, path] = asked.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
    let set = |names: &str| policy.roles.set(names.split('+').filter(|name| *name != "-")).unwrap();
    let (holder, via) = who.split_once('>').map_or((who, None), |(holder, via)| (holder, Some(set(via))));
    let (roles, method) = (set(holder), method.parse().unwrap());
    answer(Question {
        facts: &Facts::not_gathered(),
        holders: Holders { roles: &roles, via: via.as_ref() },
        address: address.parse().ok(),
        method: &method,
        path: CheckedPath::parse(path).unwrap(),
    })
}
