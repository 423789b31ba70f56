//! The decision itself: an explicit denial first, then what is allowed, then no.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use super::condition::{Evaluation, Facts, FileEffect};
use super::path::CheckedPath;
use super::role::RoleSet;
use super::rule::{Policy, Rule, Rules, Table};

/// What a policy looks at in a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'request> {
    /// Who asks.
    pub(crate) holders: Holders<'request>,
    /// From where; none for a caller on a Unix socket.
    pub(crate) address: Option<IpAddr>,
    /// The method.
    pub(crate) method: &'request Method,
    /// The path.
    pub(crate) path: CheckedPath<'request>,
    /// Everything else, for conditions.
    pub(crate) facts: &'request Facts<'request>,
}

/// The roles of everybody who stands behind a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holders<'request> {
    /// Of whom it is made for: these can allow it.
    pub(crate) roles: &'request RoleSet,
    /// Of the workload that makes it for somebody else.
    pub(crate) via: Option<&'request RoleSet>,
}

/// Yes with what said so, or no with why.
#[derive(Debug, Clone)]
#[must_use]
pub(crate) enum Decision<'policy> {
    /// The name of the first rule that allows it, or of a policy.
    Allow(Arc<str>),
    /// Nothing allows it, or a rule denies it.
    Deny(Obstacle<'policy>),
}

/// What stands between a request and its permission. Of several rules the one that came furthest counts.
#[derive(Debug, Clone)]
pub(crate) enum Obstacle<'policy> {
    /// Whom it is made for holds no role at all.
    AnyRole,
    /// It holds roles, but none that a rule here names.
    Role,
    /// A rule names its role, but the workload that acts for it has none of those that the rule asks for.
    Via(&'policy Rule),
    /// A rule fits so far, but not from this network.
    Network(&'policy Rule),
    /// A rule fits so far, but not this method.
    Method(&'policy Rule),
    /// A rule fits so far, but not this path.
    Path(&'policy Rule),
    /// A rule fits but for its condition.
    Condition(&'policy Rule),
    /// Whether the condition of a rule holds cannot be told.
    Unclear(&'policy Rule),
    /// What the file of policies says cannot be told, because of this policy.
    UnclearPolicy(Arc<str>),
    /// A rule denies it, whatever others allow.
    Denied(&'policy Rule),
    /// A policy of the file forbids it, whatever others allow.
    Forbidden(Arc<str>),
}

/// Decides on one HTTP request.
pub(crate) fn request<'policy>(policy: &'policy Policy, question: Question<'_>) -> Decision<'policy> {
    decide(&policy.enforced, question)
}

/// What would be decided if the rules that are only observed were enforced; none where there are no such rules.
pub(crate) fn observed<'policy>(policy: &'policy Policy, question: Question<'_>) -> Option<Decision<'policy>> {
    policy.observed.as_ref().map(|rules| decide(rules, question))
}

/// Decides on a connection whose content is not looked at (plain TCP): by who asks, and from where.
pub(crate) fn connection<'policy>(
    policy: &'policy Policy,
    holders: Holders<'_>,
    address: Option<IpAddr>,
) -> Decision<'policy> {
    let obstacle_of = |rule: &'policy Rule| who_and_whence(rule, holders, address);
    let denied = |rule: &'policy Rule| {
        let covers = covers_anybody_of(rule, holders) && rule.covers_address(address);
        covers.then_some(Obstacle::Denied(rule))
    };
    if let Some(denied) = first_denial(&policy.enforced.deny, holders, denied) {
        return Decision::Deny(denied);
    }
    allowed_by(&policy.enforced.allow, holders, obstacle_of)
}

fn decide<'policy>(rules: &'policy Rules, question: Question<'_>) -> Decision<'policy> {
    let denied = |rule: &'policy Rule| denies(rule, question);
    if let Some(denied) = first_denial(&rules.deny, question.holders, denied) {
        return Decision::Deny(denied);
    }
    let allowed =
        |question: Question<'_>| allowed_by(&rules.allow, question.holders, |rule| first_obstacle(rule, question));
    let Some(file) = &rules.file else { return allowed(question) };
    match file.decide(question.facts) {
        FileEffect::Forbids(policy) => Decision::Deny(Obstacle::Forbidden(policy)),
        FileEffect::Unclear(policy) => Decision::Deny(Obstacle::UnclearPolicy(policy)),
        FileEffect::Permits(policy) => Decision::Allow(policy),
        FileEffect::SaysNothing => allowed(question),
    }
}

fn allowed_by<'policy>(
    allow: &'policy Table,
    holders: Holders<'_>,
    obstacle_of: impl Fn(&'policy Rule) -> Option<Obstacle<'policy>>,
) -> Decision<'policy> {
    let mut obstacle = nothing_yet(holders);
    let mut allowing: Option<usize> = None;
    for candidates in allow.concerning(holders.roles) {
        for index in candidates.iter().copied() {
            if allowing.is_some_and(|first| first <= index) {
                break;
            }
            let Some(rule) = allow.rule(index) else { continue };
            match obstacle_of(rule) {
                None => allowing = Some(index),
                Some(found) if found.rank() > obstacle.rank() => obstacle = found,
                Some(_nearer) => {}
            }
        }
    }
    match allowing.and_then(|index| allow.rule(index)) {
        Some(rule) => Decision::Allow(Arc::clone(&rule.name)),
        None => Decision::Deny(obstacle),
    }
}

/// The first rule that denies. It concerns whoever stands behind the request: a workload does not get around its own denial by
/// acting for somebody else, nor the other way round.
fn first_denial<'policy>(
    table: &'policy Table,
    holders: Holders<'_>,
    denies: impl Fn(&'policy Rule) -> Option<Obstacle<'policy>>,
) -> Option<Obstacle<'policy>> {
    if table.is_empty() {
        return None;
    }
    let of_carrier = holders.via.into_iter().flat_map(|via| table.concerning(via).skip(1));
    let concerning = table.concerning(holders.roles).chain(of_carrier);
    let indices = concerning
        .filter_map(|list| list.iter().copied().find_map(|index| Some((index, table.rule(index).and_then(&denies)?))));
    indices.min_by_key(|(index, _)| *index).map(|(_, denied)| denied)
}

/// How a denial stands in the way of a request; nothing if it does not cover it. One whose condition is not clear does.
pub(super) fn denies<'policy>(rule: &'policy Rule, question: Question<'_>) -> Option<Obstacle<'policy>> {
    let covers = covers_anybody_of(rule, question.holders)
        && rule.covers_address(question.address)
        && rule.covers_method(question.method)
        && rule.may_cover_path(question.path);
    if !covers {
        return None;
    }
    match rule.condition.as_ref().map(|condition| condition.evaluate(question.facts)) {
        None | Some(Evaluation::Holds) => Some(Obstacle::Denied(rule)),
        Some(Evaluation::Unclear) => Some(Obstacle::Unclear(rule)),
        Some(Evaluation::Fails) => None,
    }
}

fn covers_anybody_of(rule: &Rule, holders: Holders<'_>) -> bool {
    let via = holders.via;
    let named = |roles: &RoleSet| roles.intersects(holders.roles) || via.is_some_and(|via| roles.intersects(via));
    rule.roles.as_ref().is_none_or(named)
}

/// What stands between a request and this rule; nothing if the rule allows it.
pub(super) fn first_obstacle<'policy>(rule: &'policy Rule, question: Question<'_>) -> Option<Obstacle<'policy>> {
    if let Some(obstacle) = who_and_whence(rule, question.holders, question.address) {
        return Some(obstacle);
    }
    if !rule.covers_method(question.method) {
        return Some(Obstacle::Method(rule));
    }
    if !rule.covers_path(question.path) {
        return Some(Obstacle::Path(rule));
    }
    match rule.condition.as_ref().map(|condition| condition.evaluate(question.facts)) {
        None | Some(Evaluation::Holds) => None,
        Some(Evaluation::Fails) => Some(Obstacle::Condition(rule)),
        Some(Evaluation::Unclear) => Some(Obstacle::Unclear(rule)),
    }
}

fn who_and_whence<'policy>(
    rule: &'policy Rule,
    holders: Holders<'_>,
    address: Option<IpAddr>,
) -> Option<Obstacle<'policy>> {
    if !rule.roles.as_ref().is_some_and(|roles| roles.intersects(holders.roles)) {
        return Some(nothing_yet(holders));
    }
    if rule.via.as_ref().is_some_and(|needed| !holders.via.is_some_and(|via| needed.intersects(via))) {
        return Some(Obstacle::Via(rule));
    }
    (!rule.covers_address(address)).then_some(Obstacle::Network(rule))
}

fn nothing_yet<'policy>(holders: Holders<'_>) -> Obstacle<'policy> {
    if holders.roles.is_empty() { Obstacle::AnyRole } else { Obstacle::Role }
}

impl Decision<'_> {
    /// Whether it is a yes.
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

impl Obstacle<'_> {
    /// How far the request came.
    fn rank(&self) -> u8 {
        match self {
            Self::AnyRole => 0,
            Self::Role => 1,
            Self::Via(_) => 2,
            Self::Network(_) => 3,
            Self::Method(_) => 4,
            Self::Path(_) => 5,
            Self::Condition(_) => 6,
            Self::Unclear(_) => 7,
            Self::UnclearPolicy(_) => 8,
            Self::Denied(_) => 9,
            Self::Forbidden(_) => 10,
        }
    }

    /// Every reason, as audit lines and metrics have them.
    pub(crate) const REASONS: [&'static str; 10] = [
        "condition_not_met",
        "condition_unclear",
        "denied_by_rule",
        "forbidden_by_policy",
        "method_not_allowed",
        "network_not_allowed",
        "no_role",
        "path_not_allowed",
        "role_not_allowed",
        "via_not_allowed",
    ];

    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::AnyRole => "no_role",
            Self::Role => "role_not_allowed",
            Self::Via(_) => "via_not_allowed",
            Self::Network(_) => "network_not_allowed",
            Self::Method(_) => "method_not_allowed",
            Self::Path(_) => "path_not_allowed",
            Self::Condition(_) => "condition_not_met",
            Self::Unclear(_) | Self::UnclearPolicy(_) => "condition_unclear",
            Self::Denied(_) => "denied_by_rule",
            Self::Forbidden(_) => "forbidden_by_policy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Written, ask, policy};
    use super::*;

    fn plain_policy(allow: &[Written]) -> Policy {
        policy(&[], allow)
    }

    fn said(decision: Decision<'_>) -> String {
        match decision {
            Decision::Allow(rule) => format!("allowed by {rule}"),
            Decision::Deny(Obstacle::Denied(rule)) => format!("denied by {}", rule.name),
            Decision::Deny(obstacle) => obstacle.reason().to_owned(),
        }
    }

    fn check(policy: &Policy, asked: &str, expected: &str) {
        assert_eq!(ask(policy, asked, |question| said(request(policy, question))), expected, "{asked}");
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let policy =
            policy(&[], &[["chat", "web", "", "", "POST", "/v1/chat"], ["all", "batch", "", "", "", "/v1/**"]]);
        check(&policy, "web 10.0.0.1 POST /v1/chat", "allowed by chat");
        check(&policy, "batch 10.0.0.1 DELETE /v1/models/a", "allowed by all");
        check(&policy, "web 10.0.0.1 GET /v1/chat", "method_not_allowed");
        check(&policy, "web 10.0.0.1 POST /v1/models", "path_not_allowed");
        check(&policy, "user 10.0.0.1 POST /v1/chat", "role_not_allowed");
        check(&policy, "- 10.0.0.1 POST /v1/chat", "no_role");
    }

    #[test]
    fn no_rules_allow_nobody() {
        check(&policy(&[], &[]), "web 10.0.0.1 GET /", "role_not_allowed");
        let nobody = Holders { roles: &RoleSet::default(), via: None };
        assert_eq!(said(connection(&policy(&[], &[]), nobody, None)), "no_role");
    }

    #[test]
    fn the_first_rule_that_allows_is_named_whichever_role_it_names() {
        let policy = policy(
            &[],
            &[
                ["second", "batch", "", "", "GET", ""],
                ["first", "batch", "", "", "", ""],
                ["last", "web", "", "", "", ""],
            ],
        );
        check(&policy, "web+batch 10.0.0.1 POST /", "allowed by first");
        check(&policy, "web+batch 10.0.0.1 GET /", "allowed by second");
        check(&policy, "web 10.0.0.1 GET /", "allowed by last");
    }

    #[test]
    fn a_denial_covers_what_a_server_takes_for_its_path_and_an_allowance_does_not() {
        let policy = policy(&[["off", "", "", "", "", "/admin"]], &[["all", "web", "", "", "", "/**"]]);
        for path in ["/admin", "/admin/", "/Admin", "/ADMIN/"] {
            check(&policy, &format!("web 10.0.0.1 GET {path}"), "denied by off");
        }
        check(&policy, "web 10.0.0.1 GET /admin/x", "allowed by all");
        let policy = plain_policy(&[["admin", "web", "", "", "", "/admin"]]);
        check(&policy, "web 10.0.0.1 GET /admin/", "path_not_allowed");
        check(&policy, "web 10.0.0.1 GET /Admin", "path_not_allowed");
    }

    #[test]
    fn a_denial_counts_whatever_is_allowed() {
        let policy = policy(
            &[["no-deletes", "", "", "", "DELETE", ""], ["not-from-there", "web", "", "10.9.0.0/16", "", "/v1/**"]],
            &[["all", "web batch", "", "", "", ""]],
        );
        check(&policy, "web 10.0.0.1 GET /v1/a", "allowed by all");
        check(&policy, "web 10.0.0.1 DELETE /v1/a", "denied by no-deletes");
        check(&policy, "web 10.9.0.1 GET /v1/a", "denied by not-from-there");
        check(&policy, "web 10.9.0.1 GET /v2/a", "allowed by all");
        check(&policy, "batch 10.9.0.1 GET /v1/a", "allowed by all");
        check(&policy, "web 10.9.0.1 DELETE /v1/a", "denied by no-deletes");
    }

    #[test]
    fn a_workload_that_acts_for_somebody_has_neither_its_own_permission_nor_escapes_its_own_denial() {
        let policy = policy(
            &[["blocked", "batch", "", "", "", ""]],
            &[["own", "web", "", "", "", "/own"], ["users", "user", "front", "", "", "/users"]],
        );
        check(&policy, "web 10.0.0.1 GET /own", "allowed by own");
        check(&policy, "user>web 10.0.0.1 GET /own", "via_not_allowed");
        check(&policy, "user>front+web 10.0.0.1 GET /own", "path_not_allowed");
        check(&policy, "user>front 10.0.0.1 GET /users", "allowed by users");
        check(&policy, "user>web 10.0.0.1 GET /users", "via_not_allowed");
        check(&policy, "user 10.0.0.1 GET /users", "via_not_allowed");
        check(&policy, "user>front+batch 10.0.0.1 GET /users", "denied by blocked");
        check(&policy, "user+batch>front 10.0.0.1 GET /users", "denied by blocked");
    }

    #[test]
    fn a_network_that_is_named_must_be_the_caller_s() {
        let policy = policy(&[], &[["inside", "web", "", "10.0.0.0/8 2001:db8::/32", "", ""]]);
        check(&policy, "web 10.0.0.1 GET /", "allowed by inside");
        check(&policy, "web 2001:db8::1 GET /", "allowed by inside");
        check(&policy, "web 11.0.0.1 GET /", "network_not_allowed");
        check(&policy, "web unix GET /", "network_not_allowed");
        let web = policy.roles.set(["web"]).unwrap();
        let holders = Holders { roles: &web, via: None };
        assert_eq!(said(connection(&policy, holders, "10.0.0.1".parse().ok())), "allowed by inside");
        assert_eq!(said(connection(&policy, holders, None)), "network_not_allowed");
    }

    #[test]
    fn a_whole_connection_is_denied_by_what_denies_any_of_it() {
        let policy = policy(&[["no-web", "web", "", "", "DELETE", ""]], &[["all", "web", "", "", "", ""]]);
        let web = policy.roles.set(["web"]).unwrap();
        assert_eq!(said(connection(&policy, Holders { roles: &web, via: None }, None)), "denied by no-web");
    }

    #[test]
    fn an_observed_rule_decides_nothing_and_shows_what_it_would() {
        let policy = policy(&[["?no-deletes", "", "", "", "DELETE", ""]], &[["all", "web", "", "", "", ""]]);
        check(&policy, "web 10.0.0.1 DELETE /", "allowed by all");
        let shadow = |asked| ask(&policy, asked, |question| observed(&policy, question).map(said)).unwrap();
        assert_eq!(shadow("web 10.0.0.1 DELETE /"), "denied by ?no-deletes");
        assert_eq!(shadow("web 10.0.0.1 GET /"), "allowed by all");
        let without = plain_policy(&[["all", "web", "", "", "", ""]]);
        assert!(ask(&without, "web 10.0.0.1 GET /", |question| observed(&without, question).is_none()));
    }

    #[test]
    fn the_reason_is_of_the_rule_that_came_furthest_and_of_several_the_first() {
        let of_reader = |allow: &[Written], expected: &str| {
            let policy = plain_policy(allow);
            let furthest = |question: Question<'_>| match request(&policy, question) {
                Decision::Deny(Obstacle::Path(rule) | Obstacle::Method(rule)) => rule.name.to_string(),
                decision @ (Decision::Allow(_) | Decision::Deny(_)) => said(decision),
            };
            assert_eq!(ask(&policy, "web 10.0.0.1 GET /v1/a", furthest), expected);
        };
        let (path, method) = (["path", "web", "", "", "", "/v2"], ["method", "web", "", "", "POST", ""]);
        of_reader(&[path, method], "path");
        of_reader(&[method, path], "path");
        of_reader(&[path, ["later", "web", "", "", "", "/v3"]], "path");
    }

    #[test]
    fn a_denial_concerns_those_whom_it_names_and_only_those() {
        let policy =
            policy(&[["no-batch", "batch", "", "10.0.0.0/8", "", ""]], &[["all", "web batch", "", "", "", ""]]);
        check(&policy, "web 10.0.0.1 GET /", "allowed by all");
        check(&policy, "web+batch 10.0.0.1 GET /", "denied by no-batch");
        let [web, batch] = ["web", "batch"].map(|role| policy.roles.set([role]).unwrap());
        let of = |roles, address: &str| said(connection(&policy, Holders { roles, via: None }, address.parse().ok()));
        assert_eq!(of(&batch, "10.0.0.1"), "denied by no-batch");
        assert_eq!(of(&batch, "11.0.0.1"), "allowed by all");
        assert_eq!(of(&web, "10.0.0.1"), "allowed by all");
    }

    #[test]
    fn a_decision_is_a_yes_or_a_no() {
        let policy = plain_policy(&[["all", "web", "", "", "", ""]]);
        let allowed = |asked| ask(&policy, asked, |question| request(&policy, question).is_allowed());
        assert_eq!([allowed("web - GET /"), allowed("user - GET /")], [true, false]);
    }
}
