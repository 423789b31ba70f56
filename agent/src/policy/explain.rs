//! A decision in words: who asked, which roles it holds and why, each rule, and what was missing.

use std::fmt::Write;

use countersign_certs::san::San;
use http::Method;

use super::decide::{Decision, Missing, Question, first_obstacle, request};
use super::path::CheckedPath;
use super::rule::{Policy, Rule};

/// Writes the whole reasoning about one request, one fact a line.
pub(crate) fn explain(policy: &Policy, peer: &[San], method: &Method, path: CheckedPath<'_>) -> String {
    let roles = policy.roles.of(peer);
    let question = Question { roles: &roles, method, path };
    let mut text = String::new();
    let names = peer.iter().map(San::to_string).collect::<Vec<_>>().join(", ");
    // Writing into a String cannot fail.
    let _ = writeln!(text, "peer: {names}");
    let _ = writeln!(text, "request: {method} {}", path.as_str());
    let held = policy.roles.names(&roles);
    let _ = writeln!(text, "roles: {}", if held.is_empty() { "none".to_owned() } else { held.join(", ") });
    for (role, pattern) in policy.roles.origins(peer) {
        let _ = writeln!(text, "  {role}: member {pattern}");
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let _ = writeln!(
            text,
            "rule {}: {}",
            rule.name,
            obstacle_in_words(policy, rule, first_obstacle(rule, index, question))
        );
    }
    let _ = match request(policy, question) {
        Decision::Allow { rule } => {
            let name = policy.rules.get(rule).map(|rule| &*rule.name).unwrap_or_default();
            writeln!(text, "decision: allowed by {name}")
        }
        Decision::Deny(missing) => writeln!(text, "decision: denied, {}", missing_in_words(policy, missing)),
    };
    text
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
