//! A decision in words: who asked, which roles that gives and why, each rule, and what stood in the way.

use std::fmt;
use std::net::IpAddr;

use countersign_certs::san::San;
use http::Method;
use serde::Serialize;

use super::condition::Facts;
use super::decide::{Decision, Holders, Obstacle, Question, denies, first_obstacle, observed, request};
use super::local::LocalCaller;
use super::path::CheckedPath;
use super::role::{RoleSet, Roles};
use super::rule::{Effect, Policy, Rule};
use super::subject::SubjectNames;

/// What a policy is asked to explain.
pub(crate) struct Asked<'asked> {
    /// The roles of everybody behind it.
    pub(crate) holders: Holders<'asked>,
    /// The names of the workload; none if none shows a certificate.
    pub(crate) workload: &'asked [San],
    /// The user or service with a credential of its own.
    pub(crate) subject: Option<&'asked SubjectNames>,
    /// The program of this host that asks an outbound.
    pub(crate) local: Option<LocalCaller>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) method: &'asked Method,
    pub(crate) path: CheckedPath<'asked>,
    pub(crate) facts: &'asked Facts<'asked>,
}

/// The whole reasoning about one request. Its text has one fact a line.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    peer: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    method: String,
    path: String,
    /// Of whom the request is made for.
    roles: Vec<String>,
    memberships: Vec<Membership>,
    /// Roles of the workload that makes it for somebody else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via_roles: Vec<String>,
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
    /// What would be decided if the rules that are only observed were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<String>,
    /// Limits that would count it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<String>,
}

/// Why somebody holds a role itself. Roles that include this one are held with it.
#[derive(Debug, Serialize)]
struct Membership {
    role: String,
    member: String,
}

/// What came of one rule.
#[derive(Debug, Serialize)]
struct Looked {
    rule: String,
    effect: &'static str,
    observed: bool,
    /// Whether it says what it is there to say.
    applies: bool,
    finding: String,
}

/// Explains what a policy says to one request.
pub(crate) fn explain(policy: &Policy, asked: &Asked<'_>) -> Explanation {
    let Asked { holders, address, method, path, facts, .. } = *asked;
    let question = Question { holders, address, method, path, facts };
    let decision = request(policy, question);
    let (rule, obstacle) = match &decision {
        Decision::Allow(rule) => (Some(rule.to_string()), None),
        Decision::Deny(obstacle) => (None, Some(obstacle)),
    };
    let names = |set: &RoleSet| policy.roles.names(set).iter().map(ToString::to_string).collect();
    Explanation {
        peer: match asked.local {
            Some(caller) => vec![caller.to_string()],
            None => asked.workload.iter().map(San::to_string).collect(),
        },
        subject: asked.subject.map(SubjectNames::principal),
        method: asked.method.to_string(),
        path: asked.path.as_str().to_owned(),
        roles: names(holders.roles),
        memberships: memberships(&policy.roles, asked),
        via_roles: holders.via.map(names).unwrap_or_default(),
        rules: policy.all_rules().map(|(effect, rule)| looked(policy, effect, rule, question)).collect(),
        allowed: decision.is_allowed(),
        rule,
        reason: obstacle.map(Obstacle::reason),
        detail: obstacle.map(|obstacle| obstacle_in_words(policy, obstacle, facts)),
        observed: observed_in_words(policy, question, &decision),
        limits: Vec::new(),
    }
}

fn memberships(roles: &Roles, asked: &Asked<'_>) -> Vec<Membership> {
    let workload = asked.workload.to_vec();
    let belongs = move |pattern: &super::member::MemberPattern| {
        workload.iter().any(|san| pattern.matches(san))
            || asked.local.is_some_and(|caller| pattern.matches_local(caller))
            || asked.subject.is_some_and(|names| pattern.matches_subject(names))
    };
    let members = roles.origins(belongs);
    let members =
        members.map(|(role, member)| Membership { role: role.to_owned(), member: format!("member {member}") });
    let granted = asked.subject.map(SubjectNames::granted).unwrap_or_default().iter();
    let known = granted.filter(|name| roles.all_names().contains(name));
    members
        .chain(known.map(|role| Membership { role: role.to_string(), member: "granted by its key".to_owned() }))
        .collect()
}

fn looked(policy: &Policy, effect: Effect, rule: &Rule, question: Question<'_>) -> Looked {
    let (applies, finding) = match effect {
        Effect::Deny => match denies(rule, question) {
            Some(obstacle) => (true, need_in_words(policy, rule, &obstacle, question.facts)),
            None => (false, "does not concern it".to_owned()),
        },
        Effect::Allow => match first_obstacle(rule, question) {
            None => (true, "allows it".to_owned()),
            Some(obstacle) => (false, need_in_words(policy, rule, &obstacle, question.facts)),
        },
    };
    let effect = match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    Looked { rule: rule.name.to_string(), effect, observed: rule.is_observed, applies, finding }
}

impl Explanation {
    /// Whatever the rules say, enforced or observed, what was shown is not good for this.
    pub(crate) fn refused_for(self, reason: &'static str, detail: String) -> Self {
        Self { allowed: false, rule: None, reason: Some(reason), detail: Some(detail), observed: None, ..self }
    }

    /// With the limits that would count it.
    pub(crate) fn under(self, limits: Vec<String>) -> Self {
        Self { limits, ..self }
    }

    /// Whether it would be allowed.
    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Whether it is denied because a condition cannot be decided.
    pub(crate) fn is_unclear(&self) -> bool {
        self.reason == Some("condition_unclear")
    }

    /// The rule that allows it.
    pub(crate) fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// Why it is denied, as in audit lines.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason
    }

    /// The decision in one line.
    pub(crate) fn in_short(&self) -> String {
        match (&self.rule, self.reason, &self.detail) {
            (Some(rule), _, _) => format!("allowed by {rule}"),
            (None, Some(reason), Some(detail)) => format!("denied: {reason}, {detail}"),
            (None, _, _) => "denied".to_owned(),
        }
    }
}

/// What the observed rules would change, for the operator; none if nothing.
pub(crate) fn observed_in_words(policy: &Policy, question: Question<'_>, enforced: &Decision<'_>) -> Option<String> {
    match (enforced, observed(policy, question)?) {
        (Decision::Allow(_), Decision::Deny(obstacle)) => {
            Some(format!("would be denied, {}", obstacle_in_words(policy, &obstacle, question.facts)))
        }
        (Decision::Deny(_), Decision::Allow(rule)) => Some(format!("would be allowed by {rule}")),
        (Decision::Allow(_), Decision::Allow(_)) | (Decision::Deny(_), Decision::Deny(_)) => None,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        writeln!(formatter, "peer: {}", or_none(&self.peer))?;
        if let Some(subject) = &self.subject {
            writeln!(formatter, "for: {subject}")?;
        }
        writeln!(formatter, "request: {} {}", self.method, self.path)?;
        writeln!(formatter, "roles: {}", or_none(&self.roles))?;
        if !self.via_roles.is_empty() {
            writeln!(formatter, "roles of the workload that asks for it: {}", self.via_roles.join(", "))?;
        }
        for Membership { role, member } in &self.memberships {
            writeln!(formatter, "  {role}: {member}")?;
        }
        for Looked { rule, finding, observed, .. } in &self.rules {
            let mode = if *observed { " (observed only)" } else { "" };
            writeln!(formatter, "rule {rule}{mode}: {finding}")?;
        }
        match (&self.rule, &self.detail) {
            (_, Some(detail)) => writeln!(formatter, "decision: denied, {detail}")?,
            (rule, None) => writeln!(formatter, "decision: allowed by {}", rule.as_deref().unwrap_or_default())?,
        }
        if let Some(observed) = &self.observed {
            writeln!(formatter, "with what is only observed: {observed}")?;
        }
        if self.limits.is_empty() {
            return Ok(());
        }
        writeln!(formatter, "limits that count it: {}", self.limits.join(", "))
    }
}

/// Why there is no permission, for the operator.
pub(crate) fn obstacle_in_words(policy: &Policy, obstacle: &Obstacle<'_>, facts: &Facts<'_>) -> String {
    match obstacle {
        Obstacle::AnyRole => "the caller holds no role".to_owned(),
        Obstacle::Role => "no rule names a role of the caller".to_owned(),
        Obstacle::Via(rule) => format!("{} allows the role but only through certain workloads", rule.name),
        Obstacle::Network(rule) => format!("{} allows the role but only from {}", rule.name, networks_of(rule)),
        Obstacle::Method(rule) => format!("{} allows the role but only {}", rule.name, methods_of(rule)),
        Obstacle::Path(rule) => format!("{} allows role and method but only {}", rule.name, paths_of(rule)),
        Obstacle::Condition(rule) => format!("{} would allow it if {}", rule.name, condition_of(rule, facts)),
        Obstacle::Unclear(rule) => {
            format!("whether {} concerns it cannot be told: {}", rule.name, condition_of(rule, facts))
        }
        Obstacle::UnclearPolicy(id) => {
            let file = policy.enforced.file.as_ref().or_else(|| policy.observed.as_ref()?.file.as_ref());
            let detail = file.map(|file| file.detail(facts)).unwrap_or_default();
            format!("whether the policy {id} concerns it cannot be told: {detail}")
        }
        Obstacle::Denied(rule) => format!("{} denies it", rule.name),
        Obstacle::Forbidden(id) => format!("the policy {id} forbids it"),
    }
}

/// What a rule still asks for.
fn need_in_words(policy: &Policy, rule: &Rule, obstacle: &Obstacle<'_>, facts: &Facts<'_>) -> String {
    let names = |roles: Option<&RoleSet>| roles.map(|roles| policy.roles.names(roles).join(" or ")).unwrap_or_default();
    match obstacle {
        Obstacle::AnyRole | Obstacle::Role => format!("needs role {}", names(rule.roles.as_ref())),
        Obstacle::Via(_) => format!("role fits, the workload that asks for it needs role {}", names(rule.via.as_ref())),
        Obstacle::Network(_) => format!("role fits, the caller must come from {}", networks_of(rule)),
        Obstacle::Method(_) => format!("role fits, method must be {}", methods_of(rule)),
        Obstacle::Path(_) => format!("role and method fit, path must be {}", paths_of(rule)),
        Obstacle::Condition(_) => format!("all fits but the condition: {}", condition_of(rule, facts)),
        Obstacle::Unclear(_) | Obstacle::UnclearPolicy(_) => {
            format!("its condition cannot be decided: {}", condition_of(rule, facts))
        }
        Obstacle::Denied(_) | Obstacle::Forbidden(_) => "denies it".to_owned(),
    }
}

fn condition_of(rule: &Rule, facts: &Facts<'_>) -> String {
    rule.condition.as_ref().map(|condition| condition.in_words(facts)).unwrap_or_default()
}

fn networks_of(rule: &Rule) -> String {
    rule.networks.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn methods_of(rule: &Rule) -> String {
    rule.methods.iter().flatten().map(Method::as_str).collect::<Vec<_>>().join(" or ")
}

fn paths_of(rule: &Rule) -> String {
    rule.paths.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Written, ask, policy};
    use super::*;

    const DENY: &[Written] = &[["no-deletes", "web", "", "", "DELETE", ""], ["?no-puts", "", "", "", "PUT", ""]];
    const ALLOW: &[Written] = &[
        ["office", "web", "", "10.0.0.0/8", "GET DELETE PUT", "/v1/** /v2"],
        ["through-front", "user", "front", "", "", ""],
        ["?batch", "batch", "", "", "", ""],
    ];

    fn explained(asked: &str) -> Explanation {
        let policy = policy(DENY, ALLOW);
        let workload = ["spiffe://td/web".parse().unwrap()];
        ask(&policy, asked, |Question { holders, address, method, path, facts }| {
            let asked =
                Asked { holders, workload: &workload, subject: None, local: None, address, method, path, facts };
            explain(&policy, &asked)
        })
    }

    #[test]
    fn what_is_allowed_is_told_with_every_rule() {
        let told = explained("web 10.0.0.1 GET /v1/a");
        assert_eq!((told.is_allowed(), told.rule(), told.reason()), (true, Some("office"), None));
        assert_eq!(told.in_short(), "allowed by office");
        let expected = "peer: spiffe://td/web\nrequest: GET /v1/a\nroles: web\n  web: member spiffe://td/web\n\
            rule no-deletes: does not concern it\nrule ?no-puts (observed only): does not concern it\n\
            rule office: allows it\nrule through-front: needs role user\nrule ?batch (observed only): needs role batch\n\
            decision: allowed by office\n";
        assert_eq!(told.to_string(), expected);
        let told = told.under(vec!["plenty".into()]);
        assert!(told.to_string().ends_with("\nlimits that count it: plenty\n"), "{told}");
        let refused = told.refused_for("key_revoked", "it is over".into());
        assert_eq!((refused.is_allowed(), refused.rule(), refused.reason()), (false, None, Some("key_revoked")));
        assert_eq!(refused.in_short(), "denied: key_revoked, it is over");
        assert!(refused.to_string().contains("\ndecision: denied, it is over\nlimits that count it: plenty\n"));
    }

    #[track_caller]
    fn check(asked: &str, decision: &str, line: &str) {
        let told = explained(asked);
        assert!(!told.is_allowed() && told.rule().is_none() && !told.is_unclear(), "{told}");
        assert_eq!(told.in_short(), format!("denied: {}, {decision}", told.reason().unwrap()));
        let text = told.to_string();
        assert!(text.contains(&format!("\ndecision: denied, {decision}\n")), "{text}");
        assert!(text.contains(&format!("\nrule {line}\n")), "{text}");
    }

    #[test]
    fn what_stands_in_the_way_is_told_in_words() {
        check("- 10.0.0.1 GET /", "the caller holds no role", "office: needs role web");
        check("front 10.0.0.1 GET /", "no rule names a role of the caller", "through-front: needs role user");
        let via = "through-front allows the role but only through certain workloads";
        check(
            "user>web 10.0.0.1 GET /",
            via,
            "through-front: role fits, the workload that asks for it needs role front",
        );
        let from = "office allows the role but only from 10.0.0.0/8";
        check("web 11.0.0.1 GET /v1/a", from, "office: role fits, the caller must come from 10.0.0.0/8");
        let method = "office allows the role but only GET or DELETE or PUT";
        check("web 10.0.0.1 POST /v1/a", method, "office: role fits, method must be GET or DELETE or PUT");
        let path = "office allows role and method but only /v1/** or /v2";
        check("web 10.0.0.1 GET /v3", path, "office: role and method fit, path must be /v1/** or /v2");
        check("web 10.0.0.1 DELETE /v1/a", "no-deletes denies it", "no-deletes: denies it");
        check("front 10.0.0.1 DELETE /", "no rule names a role of the caller", "no-deletes: does not concern it");
    }

    #[test]
    fn what_is_only_observed_is_told_where_it_would_change_something() {
        let observed = |asked| explained(asked).observed;
        assert_eq!(observed("web 10.0.0.1 GET /v1/a"), None);
        assert_eq!(observed("web 10.0.0.1 PUT /v1/a").as_deref(), Some("would be denied, ?no-puts denies it"));
        assert_eq!(observed("batch 10.0.0.1 GET /").as_deref(), Some("would be allowed by ?batch"));
        let text = explained("batch 10.0.0.1 GET /").to_string();
        assert!(text.ends_with("\nwith what is only observed: would be allowed by ?batch\n"), "{text}");
    }
}
