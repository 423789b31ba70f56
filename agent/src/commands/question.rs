//! A request that nobody has made, or that was recorded: what a config says to it.

use std::net::IpAddr;
use std::time::Duration;

use countersign_certs::san::{San, SanError};
use countersign_certs::time::{Timestamp, Validity};
use countersign_credentials::api_key::KeyRecord;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, uri::PathAndQuery};
use serde::Deserialize;

use crate::authenticate::keys;
use crate::authorize;
use crate::config::{KeysError, checked, read_keys};
use crate::direction::Direction;
use crate::facts::{self, Parts, RequestFacts};
use crate::in_words::in_one_line;
use crate::limit::definition::{Held, Limit};
use crate::policy::condition::ServiceFacts;
use crate::policy::explain::{self, Explanation};
use crate::policy::local::LocalCaller;
use crate::policy::path::{CheckedTarget, PathError};
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
    fn names(&self) -> Result<Vec<San>, SanError> {
        match self.route {
            RouteName::Inbound(_) => self.peer.iter().map(|name| name.parse()).collect(),
            RouteName::Outbound(_) => Ok(Vec::new()),
        }
    }

    fn names_of_subject(&self) -> Result<Option<SubjectNames>, SubjectError> {
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
    let key = known_key(config, question)?;
    let known = key.as_ref().map(|key| keys::names(key).facts());
    let question = Question { facts: known.unwrap_or_else(|| question.facts.clone()), ..question.clone() };
    let explanation = by_rules(config, &question, now)?;
    let RouteName::Inbound(inbound) = &question.route else { return Ok(explanation) };
    let explanation = explanation.under(limits(config, inbound, &question, key.as_ref())?);
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

/// What the rules of a config say to it.
pub(crate) fn by_rules(
    config: &checked::Agent,
    question: &Question,
    now: Timestamp,
) -> Result<Explanation, QuestionError> {
    let (policy, service_facts) = rules_of(config, &question.route)?;
    let names = question.names()?;
    let local = match question.route {
        RouteName::Inbound(_) => None,
        RouteName::Outbound(_) => local(&question.peer)?,
    };
    let subject = question.names_of_subject()?;
    if names.is_empty() && subject.is_none() && local.is_none() {
        return Err(QuestionError::Nobody);
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
    let parts = Parts {
        workload: (!names.is_empty()).then_some((names.as_slice(), certificate)),
        subject: subject.as_ref(),
        local,
        address,
    };
    let request =
        RequestFacts { method: &method, path: target.path(), query: target.query(), headers: Some(&headers), now };
    Ok(facts::with_parts(&parts, policy, service_facts, request, |facts| {
        let asked = explain::Asked {
            workload: &names,
            subject: subject.as_ref(),
            local,
            address,
            method: &method,
            path: target.path(),
            facts,
        };
        explain::explain(policy, &asked)
    }))
}

/// The API key that is asked about, as the file of keys has it. Where something is said of it, that is what is asked about.
fn known_key(config: &checked::Agent, question: &Question) -> Result<Option<KeyRecord>, KeysError> {
    let id = question.subject.as_deref().and_then(|subject| subject.strip_prefix("key:"));
    let file = config.accepted.api_keys.as_ref().map(|keys| &keys.file);
    let (Some(id), Some(file), true) = (id, file, question.facts.is_empty()) else { return Ok(None) };
    Ok(read_keys(file)?.keys().iter().find(|key| key.id.as_str() == id).cloned())
}

/// The names of the limits that would count it.
fn limits(
    config: &checked::Agent,
    inbound: &str,
    question: &Question,
    key: Option<&KeyRecord>,
) -> Result<Vec<String>, QuestionError> {
    let (names, subject) = (question.names()?, question.names_of_subject()?);
    let of_workload = config.roles.of(&names);
    let of_subject = subject.as_ref().map(|names| (names, config.roles.of_subject(names)));
    let held = Held {
        workload: (!names.is_empty()).then_some((names.as_slice(), &of_workload)),
        subject: of_subject.as_ref().map(|(names, roles)| (*names, roles)),
        named: key.and_then(|key| key.limits.as_deref()).unwrap_or_default(),
    };
    let holds = |limit: &&Limit| limit.holds_on(inbound) && limit.holds_for(&held);
    Ok(config.rate_limits.iter().filter(holds).map(|limit| limit.name.to_string()).collect())
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

/// What is needed of an audit line to ask again.
#[derive(Debug, Deserialize)]
pub(crate) struct Recorded {
    #[serde(default)]
    event: String,
    #[serde(default)]
    direction: String,
    #[serde(default)]
    pub(crate) route: String,
    #[serde(default)]
    pub(crate) time: String,
    #[serde(default)]
    pub(crate) decision: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    pub(crate) peer: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    pub(crate) subject: Option<String>,
    #[serde(default)]
    subject_facts: Vec<String>,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) rule: Option<String>,
}

impl Recorded {
    /// Whether it is about a request.
    pub(crate) fn is_request(&self) -> bool {
        self.event == "request"
    }

    /// What was asked, if somebody asked whom a policy decides on.
    pub(crate) fn question(&self) -> Option<Question> {
        let peer: Vec<String> =
            if self.names.is_empty() { self.peer.iter().cloned().collect() } else { self.names.clone() };
        let somebody = !peer.is_empty() || self.subject.is_some();
        let (method, path) = self.method.clone().zip(self.path.clone())?;
        let route = match self.direction.as_str() {
            inbound if inbound == Direction::Inbound.as_str() => RouteName::Inbound(self.route.clone()),
            outbound if outbound == Direction::Outbound.as_str() => RouteName::Outbound(self.route.clone()),
            _ => return None,
        };
        somebody.then(|| Question {
            route,
            peer,
            subject: self.subject.clone(),
            facts: self.subject_facts.clone(),
            address: self.address.clone().filter(|address| address.parse::<std::net::SocketAddr>().is_ok()),
            method,
            path,
            headers: Vec::new(),
            at: self.time.parse().ok(),
        })
    }
}
