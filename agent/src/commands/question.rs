//! A request that nobody has made, or that was recorded: what a config says to it.

use std::net::IpAddr;
use std::time::Duration;

use countersign_certs::san::{San, SanError};
use countersign_certs::time::{Timestamp, Validity};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, uri::PathAndQuery};

use super::known;
use super::shown::{self, Shown};
use crate::authenticate::keys;
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
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("{0:?} is no header; write NAME: VALUE")]
    Header(String),
    #[error("there is no inbound {name:?}; there are: {known}")]
    Inbound { name: String, known: String },
    #[error("{0:?} names no program of this host; write local:loopback or local:uid=N,gid=N")]
    Local(String),
    #[error("{0:?} is no method")]
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
        self.method.parse().map_err(|_not_a_method| QuestionError::Method(self.method.clone()))
    }
}

/// What a config and its file of API keys say to it, and which limits would count it.
pub(crate) fn answer(
    config: &checked::Agent,
    question: &Question,
    now: Timestamp,
) -> Result<Explanation, QuestionError> {
    let key = known::key(config, question)?;
    let known = key.as_ref().map(|key| keys::names(key).facts());
    let question = Question { facts: known.unwrap_or_else(|| question.facts.clone()), ..question.clone() };
    let explanation = by_rules(config, &question, now)?;
    let RouteName::Inbound(inbound) = &question.route else { return Ok(explanation) };
    let shown = shown::to(config, &question)?;
    if shown.refused.is_some() {
        return Ok(explanation);
    }
    // A key that the inbound does not look at is no key of this request.
    let key = key.filter(|_key| shown.subject.is_some());
    let explanation = explanation.under(known::limits(config, inbound, &shown, key.as_ref()));
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
    let request =
        RequestFacts { method: &method, path: target.path(), query: target.query(), headers: Some(&headers), now };
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
