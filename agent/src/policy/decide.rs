//! The decision itself.

use http::Method;

use super::path::CheckedPath;
use super::role::RoleSet;
use super::rule::{Policy, Rule};

/// What a policy looks at in a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'request> {
    /// The roles of the peer.
    pub(crate) roles: &'request RoleSet,
    /// The method.
    pub(crate) method: &'request Method,
    /// The path.
    pub(crate) path: CheckedPath<'request>,
}

/// Yes with the rule that said so, or no with what was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Decision {
    /// The first rule that allows it, by position.
    Allow { rule: usize },
    /// No rule allows it.
    Deny(Missing),
}

/// What the closest rule still asked for. Of several rules the one that came furthest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Missing {
    /// The peer holds no role at all.
    AnyRole,
    /// It holds roles, but none that a rule here names.
    Role,
    /// A rule names its role, but not this method.
    Method { rule: usize },
    /// A rule names its role and this method, but not this path.
    Path { rule: usize },
}

/// Decides on one HTTP request.
pub(crate) fn request(policy: &Policy, question: Question<'_>) -> Decision {
    let mut missing = nothing_yet(question.roles);
    for (index, rule) in policy.rules.iter().enumerate() {
        match first_obstacle(rule, index, question) {
            None => return Decision::Allow { rule: index },
            Some(obstacle) => missing = missing.max(obstacle),
        }
    }
    Decision::Deny(missing)
}

/// Decides on a connection whose content is not looked at (plain TCP): the role alone.
pub(crate) fn connection(policy: &Policy, roles: &RoleSet) -> Decision {
    match policy.rules.iter().position(|rule| rule.roles.intersects(roles)) {
        Some(rule) => Decision::Allow { rule },
        None => Decision::Deny(nothing_yet(roles)),
    }
}

/// What stands between a request and this rule; nothing if the rule allows it.
pub(super) fn first_obstacle(rule: &Rule, index: usize, question: Question<'_>) -> Option<Missing> {
    if !rule.roles.intersects(question.roles) {
        return Some(nothing_yet(question.roles));
    }
    if rule.methods.as_ref().is_some_and(|methods| !methods.contains(question.method)) {
        return Some(Missing::Method { rule: index });
    }
    let covers_path = |paths: &[super::path::PathPattern]| paths.iter().any(|pattern| pattern.matches(question.path));
    if rule.paths.as_ref().is_some_and(|paths| !covers_path(paths)) {
        return Some(Missing::Path { rule: index });
    }
    None
}

fn nothing_yet(roles: &RoleSet) -> Missing {
    if roles.is_empty() { Missing::AnyRole } else { Missing::Role }
}

impl Missing {
    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::AnyRole => "no_role",
            Self::Role => "role_not_allowed",
            Self::Method { .. } => "method_not_allowed",
            Self::Path { .. } => "path_not_allowed",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::path::PathPattern;
    use super::super::role::{RoleDefinition, Roles};
    use super::*;
    use countersign_certs::san::San;

    fn policy(rules: &[(&str, &[&str], &[&str])]) -> Policy {
        let role = |name: &str, member: &str| RoleDefinition {
            name: name.into(),
            members: vec![member.parse().unwrap()],
            includes: Vec::new(),
        };
        let roles = Roles::compile(&[role("web", "spiffe://td/web"), role("batch", "spiffe://td/batch")]).unwrap();
        let rules = rules
            .iter()
            .map(|(name, methods, paths)| Rule {
                name: (*name).into(),
                roles: roles.set([*name]).unwrap(),
                methods: (!methods.is_empty()).then(|| methods.iter().map(|method| method.parse().unwrap()).collect()),
                paths: (!paths.is_empty())
                    .then(|| paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect()),
            })
            .collect();
        Policy { roles: Arc::new(roles), rules }
    }

    fn check(policy: &Policy, peer: &str, method: &str, path: &str, expected: Decision) {
        let san: San = peer.parse().unwrap();
        let roles = policy.roles.of(&[san]);
        let method = method.parse().unwrap();
        let question = Question { roles: &roles, method: &method, path: CheckedPath::parse(path).unwrap() };
        assert_eq!(request(policy, question), expected, "{peer} {method} {path}");
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let policy = policy(&[("web", &["POST"], &["/v1/chat/completions"]), ("batch", &[], &["/v1/**"])]);
        check(&policy, "spiffe://td/web", "POST", "/v1/chat/completions", Decision::Allow { rule: 0 });
        check(&policy, "spiffe://td/batch", "DELETE", "/v1/models/a", Decision::Allow { rule: 1 });
        check(&policy, "spiffe://td/web", "GET", "/v1/chat/completions", Decision::Deny(Missing::Method { rule: 0 }));
        check(&policy, "spiffe://td/web", "POST", "/v1/models", Decision::Deny(Missing::Path { rule: 0 }));
        check(&policy, "spiffe://td/nobody", "POST", "/v1/chat/completions", Decision::Deny(Missing::AnyRole));
    }

    #[test]
    fn no_rules_allow_nobody() {
        check(&policy(&[]), "spiffe://td/web", "GET", "/", Decision::Deny(Missing::Role));
        assert_eq!(connection(&policy(&[]), &RoleSet::default()), Decision::Deny(Missing::AnyRole));
    }
}
