//! A request that nobody has made, or that was recorded: what a config says to it.

use std::net::IpAddr;
use std::time::Duration;

use countersign_certs::san::{San, SanError};
use countersign_certs::time::{Timestamp, Validity};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, uri::PathAndQuery};

use super::known::{self, Known};
use super::shown::{self, Shown};
use crate::authenticate::keys;
use crate::authenticate::refusal::CredentialRefusal;
use crate::authorize;
use crate::config::{KeysError, checked};
use crate::facts::{self, Parts, RequestFacts};
use crate::in_words::in_one_line;
use crate::policy::condition::ServiceFacts;
use crate::policy::decide::Holders;
use crate::policy::explain::{self, Explanation};
use crate::policy::local::LocalCaller;
use crate::policy::path::{CheckedTarget, PathError};
use crate::policy::role::{RoleSet, Roles};
use crate::policy::rule::Policy;
use crate::policy::subject::{SubjectError, SubjectNames};
use crate::request::check_method;

/// What is asked about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    /// The name of an inbound, or of an outbound.
    pub(crate) route: RouteName,
    /// The names of the workload, or a program of this host as audit lines name it.
    pub(crate) peer: Vec<String>,
    /// The user or service: `user:ISSUER/NAME`, `client:ISSUER/ID`, `key:ID` or `basic:NAME`.
    pub(crate) subject: Option<String>,
    /// What its credential says of it: `group:ISSUER/NAME`, `scope:...`, `claim:...`, `team:NAME`, `grant:ROLE`.
    pub(crate) facts: Vec<String>,
    pub(crate) address: Option<String>,
    pub(crate) method: String,
    /// With its query, if conditions look at that.
    pub(crate) path: String,
    /// `NAME: VALUE`.
    pub(crate) headers: Vec<String>,
    /// It was recorded, and no more is known of it than records hold: no header, no query, no claim.
    pub(crate) is_recorded: bool,
    /// When; now if it does not say.
    pub(crate) at: Option<Timestamp>,
}

/// The route that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouteName {
    Inbound(String),
    Outbound(String),
}

impl Default for RouteName {
    fn default() -> Self {
        Self::Inbound(String::new())
    }
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("{0:?} is no address")]
    Address(String),
    #[error("it hangs on claims of the token, which are not recorded")]
    Claims,
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("{0:?} is no header; write NAME: VALUE")]
    Header(String),
    #[error("there is no inbound {name:?}; there are: {known}")]
    Inbound { name: String, known: String },
    #[error("{0:?} names no program of this host; write local:loopback or local:uid=N,gid=N")]
    Local(String),
    #[error("{0:?} is no method that is taken")]
    Method(String),
    #[error("nobody asks: name a peer or a subject")]
    Nobody,
    #[error("there is no outbound {name:?}; there are: {known}")]
    Outbound { name: String, known: String },
    #[error("a request for {path:?} would be refused before any rule is asked")]
    Path { path: String, source: PathError },
    #[error(transparent)]
    Peer(#[from] SanError),
    #[error("the outbound {0:?} has no rules: whoever can reach its socket may use it")]
    NoRules(String),
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("{0:?} is no path")]
    Target(String),
}

/// For how long the certificate of a workload is taken to be good that nobody has shown.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(60 * 60);

impl Question {
    /// The names of the workload; none on an outbound, where no certificate is shown.
    pub(super) fn names(&self) -> Result<Vec<San>, SanError> {
        match self.route {
            RouteName::Inbound(_) => self.peer.iter().map(|name| name.parse()).collect(),
            RouteName::Outbound(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn names_of_subject(&self) -> Result<Option<SubjectNames>, SubjectError> {
        self.subject.as_ref().map(|name| SubjectNames::recorded(name, &self.facts)).transpose()
    }

    fn checked_method(&self) -> Result<Method, QuestionError> {
        let method: Option<Method> = self.method.parse().ok();
        let taken = method.filter(|method| check_method(method).is_ok());
        taken.ok_or_else(|| QuestionError::Method(self.method.clone()))
    }
}

/// What a config and its file of API keys say to it, and which limits would count it.
pub(crate) fn answer(
    config: &checked::Agent,
    question: &Question,
    now: Timestamp,
) -> Result<Explanation, QuestionError> {
    let (key, is_unknown) = match known::key(config, question)? {
        Known::Unasked => (None, false),
        Known::Unknown => (None, true),
        Known::Key(key) => (Some(key), false),
    };
    let known = key.as_ref().map(|key| keys::names(key).facts());
    let question = Question { facts: known.unwrap_or_else(|| question.facts.clone()), ..question.clone() };
    let explanation = by_rules(config, &question, now)?;
    let RouteName::Inbound(inbound) = &question.route else { return Ok(explanation) };
    let shown = shown::to(config, &question)?;
    if shown.refused.is_some() {
        return Ok(explanation);
    }
    if is_unknown && shown.subject.is_some() {
        let unknown = CredentialRefusal::KeyUnknown;
        return Ok(explanation.refused_for(unknown.reason(), in_one_line(&unknown)));
    }
    // A key that the inbound does not look at is no key of this request.
    let key = key.filter(|_key| shown.subject.is_some());
    let explanation = explanation.under(known::limits(config, inbound, &shown, key.as_deref()));
    let Some(key) = key else { return Ok(explanation) };
    let method = question.checked_method()?;
    let told = |reason, error: &dyn std::error::Error| (reason, in_one_line(error));
    let counts = keys::counts(&key, key.state(now)).map_err(|refusal| told(refusal.reason(), &refusal));
    let is_for = || authorize::key_is_for(&key, inbound, &method).map_err(|refusal| told(refusal.reason(), &refusal));
    Ok(match counts.and_then(|()| is_for()) {
        Ok(()) => explanation,
        Err((reason, detail)) => explanation.refused_for(reason, detail),
    })
}

/// What the rules of a config say to it, and on an inbound what that demands of its callers.
pub(crate) fn by_rules(
    config: &checked::Agent,
    question: &Question,
    now: Timestamp,
) -> Result<Explanation, QuestionError> {
    let (policy, service_facts) = rules_of(config, &question.route)?;
    let local = match question.route {
        RouteName::Inbound(_) => None,
        RouteName::Outbound(_) => local(&question.peer)?,
    };
    if question.peer.is_empty() && question.subject.is_none() {
        return Err(QuestionError::Nobody);
    }
    let Shown { names, subject, refused } = shown::to(config, question)?;
    if question.is_recorded && matches!(subject, Some(SubjectNames::Token(_))) && policy.looks_at_claims() {
        return Err(QuestionError::Claims);
    }
    let address = question.address.as_deref().map(address).transpose()?;
    let method = question.checked_method()?;
    let target = PathAndQuery::try_from(question.path.as_str())
        .map_err(|_not_a_path| QuestionError::Target(question.path.clone()))?;
    let target =
        CheckedTarget::parse(target).map_err(|source| QuestionError::Path { path: question.path.clone(), source })?;
    let headers = question.headers.iter().map(|line| header(line)).collect::<Result<HeaderMap, _>>()?;
    let now = question.at.unwrap_or(now);
    let certificate = Validity { not_before: now, not_after: now.plus(CERTIFICATE_LIFETIME) };
    let (roles, via) = held(&policy.roles, &names, subject.as_ref(), local);
    let holders = Holders { roles: &roles, via: via.as_ref() };
    let parts = Parts {
        holders,
        workload: (!names.is_empty()).then_some((names.as_slice(), certificate)),
        subject: subject.as_ref(),
        local,
        address,
    };
    let is_known = !question.is_recorded;
    let request = RequestFacts {
        method: &method,
        path: target.path(),
        query: is_known.then(|| target.query().unwrap_or_default()),
        headers: is_known.then_some(&headers),
        now,
    };
    let explanation = facts::with_parts(&parts, policy, service_facts, request, |facts| {
        let asked = explain::Asked {
            holders,
            workload: &names,
            subject: subject.as_ref(),
            local,
            address,
            method: &method,
            path: target.path(),
            facts,
        };
        explain::explain(policy, &asked)
    });
    Ok(match refused {
        Some((reason, detail)) => explanation.refused_for(reason, detail),
        None => explanation,
    })
}

/// The roles of whom it is made for, and of a workload that makes it for somebody else.
fn held(
    roles: &Roles,
    workload: &[San],
    subject: Option<&SubjectNames>,
    local: Option<LocalCaller>,
) -> (RoleSet, Option<RoleSet>) {
    let of_workload = || local.map_or_else(|| roles.of(workload), |caller| roles.of_local(caller));
    match subject {
        Some(subject) => (roles.of_subject(subject), (!workload.is_empty()).then(of_workload)),
        None => (of_workload(), None),
    }
}

fn rules_of<'config>(
    config: &'config checked::Agent,
    route: &RouteName,
) -> Result<(&'config Policy, &'config ServiceFacts), QuestionError> {
    match route {
        RouteName::Inbound(name) => {
            let inbound = config.inbounds.iter().find(|known| *known.name == **name);
            let known = || config.inbounds.iter().map(|inbound| &*inbound.name).collect::<Vec<_>>().join(", ");
            let inbound = inbound.ok_or_else(|| QuestionError::Inbound { name: name.clone(), known: known() })?;
            Ok((&inbound.policy, &inbound.service_facts))
        }
        RouteName::Outbound(name) => {
            let outbound = config.outbounds.iter().find(|known| *known.name == **name);
            let known = || config.outbounds.iter().map(|outbound| &*outbound.name).collect::<Vec<_>>().join(", ");
            let outbound = outbound.ok_or_else(|| QuestionError::Outbound { name: name.clone(), known: known() })?;
            let policy = outbound.policy.as_ref().ok_or_else(|| QuestionError::NoRules(name.clone()))?;
            Ok((policy, &outbound.service_facts))
        }
    }
}

fn local(peer: &[String]) -> Result<Option<LocalCaller>, QuestionError> {
    match peer {
        [] => Ok(None),
        [one] => LocalCaller::recorded(one).map(Some).ok_or_else(|| QuestionError::Local(one.clone())),
        [_, another, ..] => Err(QuestionError::Local(another.clone())),
    }
}

fn address(text: &str) -> Result<IpAddr, QuestionError> {
    // As audit lines write it: with the port.
    let socket = text.parse::<std::net::SocketAddr>().map(|socket| socket.ip());
    socket.or_else(|_without_port| text.parse()).map_err(|_not_one| QuestionError::Address(text.to_owned()))
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), QuestionError> {
    let refused = || QuestionError::Header(line.to_owned());
    let (name, value) = line.split_once(':').ok_or_else(refused)?;
    let name = name.trim().parse().map_err(|_not_a_name| refused())?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|_not_a_value| refused())?))
}

#[cfg(feature = "conditions")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{RIGHT, checked};

    const MORE: &str = r#"
[[role]]
name = "program"
members = ["local:uid=5"]

[[inbound]]
name = "ruled"
identity = "spiffe://prod.example/llm"
listen = "127.0.0.1:9444"
backend = "http://127.0.0.1:11434"

[[inbound.allow]]
name = "hours"
roles = ["inference_client"]
paths = ["/v1"]
when = 'context.hour >= 8'

[[inbound.allow]]
name = "too-much"
roles = ["inference_client"]
paths = ["/too-much"]
when = 'principal is Workload && principal.certificate_age_seconds + 9223372036854775807 + 1 > 0'

[[inbound]]
name = "filed"
identity = "spiffe://prod.example/llm"
listen = "127.0.0.1:9445"
backend = "http://127.0.0.1:11434"
policy = { file = "FILE" }

[[inbound]]
name = "shadowed"
identity = "spiffe://prod.example/llm"
listen = "127.0.0.1:9446"
backend = "http://127.0.0.1:11434"
allow = [{ name = "all", roles = ["inference_client"] }]
policy = { file = "FILE", mode = "observe" }

[[outbound]]
name = "local"
identity = "spiffe://prod.example/llm"
listen = "unix:/run/countersign/other.sock"
service = "spiffe://prod.example/other"
endpoints = ["host-b:9443"]

[[outbound.allow]]
name = "program"
roles = ["program"]
when = 'principal is LocalCaller && principal has uid && principal.uid == 5'
"#;

    const POLICIES: &str = r#"
@id("gets")
permit (principal in Role::"inference_client", action, resource) when { context.method == "GET" };
@id("no-puts")
forbid (principal, action, resource) when { context.method == "PUT" };
@id("too-much")
forbid (principal, action, resource)
when { context.method == "POST" && principal is Workload && principal.certificate_age_seconds + 9223372036854775807 + 1 > 0 };
"#;

    struct Site {
        _folder: tempfile::TempDir,
        config: checked::Agent,
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.cedar");
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&file, POLICIES).unwrap();
        let more = MORE.replace("FILE", file.to_str().unwrap());
        Site { config: checked(&format!("{RIGHT}{more}")).unwrap(), _folder: folder }
    }

    fn asked(site: &Site, question: Question) -> Explanation {
        answer(&site.config, &question, Timestamp::from_unix_seconds(0)).unwrap()
    }

    fn of_frontend(site: &Site, inbound: &str, method: &str, path: &str, hour: u64) -> Explanation {
        asked(
            site,
            Question {
                route: RouteName::Inbound(inbound.to_owned()),
                peer: vec!["spiffe://prod.example/web/a".to_owned()],
                method: method.to_owned(),
                path: path.to_owned(),
                at: Some(Timestamp::from_unix_seconds(hour * 3600)),
                ..Question::default()
            },
        )
    }

    #[test]
    fn a_condition_is_told_with_what_of_it_fails_and_why_it_cannot_be_told() {
        let site = site();
        assert_eq!(of_frontend(&site, "ruled", "GET", "/v1", 9).in_short(), "allowed by hours");
        let told = of_frontend(&site, "ruled", "GET", "/v1", 7);
        assert_eq!(told.in_short(), "denied: condition_not_met, hours would allow it if context.hour >= 8");
        assert!(!told.is_unclear());
        assert!(told.to_string().contains("\nrule hours: all fits but the condition: context.hour >= 8\n"), "{told}");
        let told = of_frontend(&site, "ruled", "GET", "/too-much", 9);
        assert!(told.is_unclear() && told.in_short().contains("overflow"), "{told}");
    }

    #[test]
    fn a_file_of_policies_is_told_by_the_names_of_its_policies() {
        let site = site();
        assert_eq!(of_frontend(&site, "filed", "GET", "/", 9).in_short(), "allowed by gets");
        let told = of_frontend(&site, "filed", "PUT", "/", 9).in_short();
        assert_eq!(told, "denied: forbidden_by_policy, the policy no-puts forbids it");
        let told = of_frontend(&site, "filed", "POST", "/", 9);
        assert!(told.is_unclear() && told.in_short().contains("overflow"), "{told}");
        let told = of_frontend(&site, "shadowed", "PUT", "/", 9);
        assert_eq!(told.in_short(), "allowed by all");
        let observed = "\nwith what is only observed: would be denied, the policy no-puts forbids it\n";
        assert!(told.to_string().contains(observed), "{told}");
        assert!(!of_frontend(&site, "shadowed", "GET", "/", 9).to_string().contains("only observed: "));
    }

    #[test]
    fn a_program_is_told_by_what_the_kernel_says_of_it() {
        let site = site();
        let of = |caller: &str| {
            asked(
                &site,
                Question {
                    route: RouteName::Outbound("local".to_owned()),
                    peer: vec![caller.to_owned()],
                    method: "GET".to_owned(),
                    path: "/".to_owned(),
                    ..Question::default()
                },
            )
        };
        let told = of("local:uid=5,gid=1");
        assert_eq!(told.in_short(), "allowed by program");
        assert!(told.to_string().contains("\n  program: member local:uid=5\n"), "{told}");
        assert_eq!(of("local:uid=6,gid=1").in_short(), "denied: no_role, the caller holds no role");
        let rules = site.config.outbounds[1].policy.as_ref().unwrap();
        assert_eq!([rules.could_allow_local(true), rules.could_allow_local(false)], [true, false]);
    }

    #[test]
    fn of_what_was_not_recorded_nothing_is_said() {
        let roles = "[api_keys]\nfile = \"/nowhere.json\"\n[[issuer]]\nname = \"corp\"\nissuer = \"https://i.example\"\naudiences = [\"a\"]\nclaims = { tenant = \"text\" }\n[conditions]\nheaders = [\"x-tenant\"]\nquery = [\"model\"]\n\
            [[role]]\nname = \"blue\"\nmembers = [\"claim:corp/tenant=blue\"]\n[[role]]\nname = \"ada\"\nmembers = [\"user:corp/ada\"]\n";
        let said = |rules: &str| {
            let written = format!("{RIGHT}{roles}").replacen(
                "backend = \"http://127.0.0.1:11434\"",
                &format!("backend = \"http://127.0.0.1:11434\"\nany_of = [\"mtls\", \"jwt\"]\n{rules}\n"),
                1,
            );
            let config = checked(&written).unwrap();
            let question = Question {
                route: RouteName::Inbound("llm".to_owned()),
                subject: Some("user:corp/ada".to_owned()),
                method: "POST".to_owned(),
                path: "/v1".to_owned(),
                is_recorded: true,
                ..Question::default()
            };
            by_rules(&config, &question, Timestamp::from_unix_seconds(0))
        };
        let allowed = "[[inbound.allow]]\nroles = [\"ada\"]\n";
        assert!(said(allowed).unwrap().is_allowed());
        for condition in ["!(context.headers has x_tenant)", "!(context.query has model)"] {
            assert!(said(&format!("{allowed}when = '{condition}'")).unwrap().is_unclear(), "{condition}");
        }
        let on_claim = "!(principal is User && principal.claims has tenant)";
        for rules in [&format!("when = '{on_claim}'"), "[[inbound.deny]]\nroles = [\"blue\"]"] {
            assert!(matches!(said(&format!("{allowed}{rules}")), Err(QuestionError::Claims)), "{rules}");
        }
    }

    #[test]
    fn what_is_refused_before_any_rule_is_asked_is_no_question() {
        let site = site();
        for method in ["get", "TRACE", "CONNECT", "G T"] {
            let question = Question {
                route: RouteName::Inbound("ruled".to_owned()),
                peer: vec!["spiffe://prod.example/web/a".to_owned()],
                method: method.to_owned(),
                path: "/v1".to_owned(),
                ..Question::default()
            };
            let refused = answer(&site.config, &question, Timestamp::from_unix_seconds(0));
            assert!(matches!(refused, Err(QuestionError::Method(_))), "{method}");
        }
    }

    #[test]
    fn only_conditions_over_the_time_are_looked_at_again() {
        let looks_at_time = |text: &str| {
            let rule = format!("methods = [\"POST\"]\nwhen = '{text}'");
            let config = checked(&RIGHT.replacen("methods = [\"POST\"]", &rule, 1)).unwrap();
            config.inbounds[0].policy.uses.unwrap().looks_at_time()
        };
        assert!(looks_at_time("context.hour >= 8"));
        assert!(looks_at_time("principal is Workload && principal.certificate_age_seconds < 60"));
        assert!(!looks_at_time("context.method == \"GET\""));
    }
}
