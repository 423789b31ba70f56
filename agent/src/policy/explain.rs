//! A decision in words: who asked, which roles it holds and why, each rule, and what was missing.

use std::fmt;

use countersign_certs::san::San;
use http::Method;
use serde::Serialize;

use super::decide::{Decision, Missing, Question, first_obstacle, request};
use super::path::CheckedPath;
use super::rule::{Policy, Rule};

/// The whole reasoning about one request. Its text has one fact a line.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    peer: Vec<String>,
    method: String,
    path: String,
    roles: Vec<String>,
    memberships: Vec<Membership>,
    rules: Vec<Looked>,
    allowed: bool,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// As in audit lines and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Why a peer holds a role itself. Roles that include this one are held with it.
#[derive(Debug, Serialize)]
struct Membership {
    role: String,
    member: String,
}

/// What came of one rule.
#[derive(Debug, Serialize)]
struct Looked {
    rule: String,
    allows: bool,
    finding: String,
}

/// Explains what a policy says to one request.
pub(crate) fn explain(policy: &Policy, peer: &[San], method: &Method, path: CheckedPath<'_>) -> Explanation {
    let roles = policy.roles.of(peer);
    let question = Question { roles: &roles, method, path };
    let membership =
        |(role, pattern): (&str, _)| Membership { role: role.to_owned(), member: ToString::to_string(pattern) };
    let looked = |(index, rule): (usize, &Rule)| {
        let obstacle = first_obstacle(rule, index, question);
        let finding = obstacle_in_words(policy, rule, obstacle);
        Looked { rule: rule.name.to_string(), allows: obstacle.is_none(), finding }
    };
    let (rule, missing) = match request(policy, question) {
        Decision::Allow { rule } => (policy.rules.get(rule).map(|rule| rule.name.to_string()), None),
        Decision::Deny(missing) => (None, Some(missing)),
    };
    Explanation {
        peer: peer.iter().map(San::to_string).collect(),
        method: method.to_string(),
        path: path.as_str().to_owned(),
        roles: policy.roles.names(&roles).iter().map(ToString::to_string).collect(),
        memberships: policy.roles.origins(peer).map(membership).collect(),
        rules: policy.rules.iter().enumerate().map(looked).collect(),
        allowed: missing.is_none(),
        rule,
        reason: missing.map(Missing::reason),
        detail: missing.map(|missing| missing_in_words(policy, missing)),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "peer: {}", self.peer.join(", "))?;
        writeln!(formatter, "request: {} {}", self.method, self.path)?;
        let roles = if self.roles.is_empty() { "none".to_owned() } else { self.roles.join(", ") };
        writeln!(formatter, "roles: {roles}")?;
        for Membership { role, member } in &self.memberships {
            writeln!(formatter, "  {role}: member {member}")?;
        }
        for Looked { rule, finding, .. } in &self.rules {
            writeln!(formatter, "rule {rule}: {finding}")?;
        }
        match (&self.rule, &self.detail) {
            (_, Some(detail)) => writeln!(formatter, "decision: denied, {detail}"),
            (rule, None) => writeln!(formatter, "decision: allowed by {}", rule.as_deref().unwrap_or_default()),
        }
    }
}

/// What was missing, for the operator.
pub(crate) fn missing_in_words(policy: &Policy, missing: Missing) -> String {
    let rule_at = |index: usize| policy.rules.get(index);
    match missing {
        Missing::AnyRole => "the peer holds no role".to_owned(),
        Missing::Role => "no rule names a role of the peer".to_owned(),
        Missing::Method { rule } => rule_at(rule)
            .map(|rule| format!("{} allows the role but only {}", rule.name, methods_of(rule)))
            .unwrap_or_default(),
        Missing::Path { rule } => rule_at(rule)
            .map(|rule| format!("{} allows role and method but only {}", rule.name, paths_of(rule)))
            .unwrap_or_default(),
    }
}

fn obstacle_in_words(policy: &Policy, rule: &Rule, obstacle: Option<Missing>) -> String {
    match obstacle {
        None => "allows it".to_owned(),
        Some(Missing::AnyRole | Missing::Role) => {
            format!("needs role {}", policy.roles.names(&rule.roles).join(" or "))
        }
        Some(Missing::Method { .. }) => format!("role fits, method must be {}", methods_of(rule)),
        Some(Missing::Path { .. }) => format!("role and method fit, path must be {}", paths_of(rule)),
    }
}

fn methods_of(rule: &Rule) -> String {
    rule.methods.iter().flatten().map(Method::as_str).collect::<Vec<_>>().join(" or ")
}

fn paths_of(rule: &Rule) -> String {
    rule.paths.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}
