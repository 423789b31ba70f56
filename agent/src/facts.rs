//! What conditions may look at: gathered of the caller, the service, the request and the hour, and only if a condition asks.

use std::net::IpAddr;

use countersign_certs::san::San;
use countersign_certs::time::{Timestamp, Validity};
use http::HeaderMap;

use crate::authenticate::caller::Caller;
use crate::connection::Connection;
use crate::policy::condition::{Facts, ServiceFacts};
use crate::policy::decide::Holders;
use crate::policy::local::LocalCaller;
use crate::policy::path::CheckedPath;
use crate::policy::rule::Policy;
use crate::policy::subject::SubjectNames;

/// A request as conditions see it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "conditions"), expect(dead_code, reason = "only conditions look at all of it"))]
pub(crate) struct RequestFacts<'request> {
    pub(crate) method: &'request http::Method,
    pub(crate) path: CheckedPath<'request>,
    /// Empty where the request has none; none where it is not known.
    pub(crate) query: Option<&'request str>,
    /// None where they are not known, and where no condition looks at them.
    pub(crate) headers: Option<&'request HeaderMap>,
    pub(crate) now: Timestamp,
}

/// Somebody behind a request, with what conditions look at.
#[cfg_attr(not(feature = "conditions"), expect(dead_code, reason = "only conditions look at all of it"))]
pub(crate) struct Parts<'caller> {
    /// The roles that the config of now gives it.
    pub(crate) holders: Holders<'caller>,
    pub(crate) workload: Option<(&'caller [San], Validity)>,
    pub(crate) subject: Option<&'caller SubjectNames>,
    /// A program of this host; none on an inbound.
    pub(crate) local: Option<LocalCaller>,
    pub(crate) address: Option<IpAddr>,
}

/// Lets something be decided with the facts of a live request, which are gathered if a condition asks for them.
pub(crate) fn with<T>(
    caller: &Caller,
    connection: &Connection,
    policy: &Policy,
    service: &ServiceFacts,
    asked: RequestFacts<'_>,
    decide: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    if policy.uses.is_none() {
        return decide(&Facts::not_gathered());
    }
    let peer = match caller {
        Caller::Peer(peer) | Caller::OnBehalf { workload: peer, .. } => Some(peer),
        Caller::Subject(_) => None,
    };
    let held = caller.roles();
    let parts = Parts {
        holders: held.holders(),
        workload: peer.and_then(|peer| Some((peer.sans(), peer.verified()?.usable()))),
        subject: caller.subject().map(|subject| subject.names()),
        local: peer.and_then(|peer| peer.local()),
        address: connection.address().ip(),
    };
    with_parts(&parts, policy, service, asked, decide)
}

#[cfg(not(feature = "conditions"))]
pub(crate) fn with_parts<T>(
    _parts: &Parts<'_>,
    _policy: &Policy,
    _service: &ServiceFacts,
    _asked: RequestFacts<'_>,
    decide: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    decide(&Facts::not_gathered())
}

/// Lets something be decided with these facts.
#[cfg(feature = "conditions")]
pub(crate) fn with_parts<T>(
    parts: &Parts<'_>,
    policy: &Policy,
    service: &ServiceFacts,
    asked: RequestFacts<'_>,
    decide: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let gather = || gathered::gather(parts, &policy.roles, service, policy.uses.unwrap_or_default(), asked);
    decide(&Facts::new(&gather))
}

#[cfg(feature = "conditions")]
mod gathered {
    use countersign_conditions::attributes::{AttributeError, Attributes};
    use countersign_conditions::parties::Parties;
    use countersign_conditions::principal::{self, Claim, Principal, User, UserKind, Workload};
    use countersign_conditions::schema::Schema;
    use countersign_conditions::uses;
    use serde_json::Value;

    use super::{Parts, RequestFacts};
    use crate::policy::condition::{ServiceFacts, Uses};
    use crate::policy::local::LocalCaller;
    use crate::policy::role::Roles;
    use crate::policy::subject::{SubjectNames, TokenNames};
    use crate::query;

    /// Gathers what conditions that use so much may look at.
    pub(super) fn gather(
        parts: &Parts<'_>,
        roles: &Roles,
        service: &ServiceFacts,
        uses: Uses,
        asked: RequestFacts<'_>,
    ) -> Result<Attributes, AttributeError> {
        let principal = principal(parts, roles, &service.schema)?;
        let parties = Parties::new(&principal, &service.service, parts.address)?;
        let mut attributes = Attributes::request(&parties, asked.method.as_str(), asked.path.as_str())?;
        if let Some(LocalCaller::User(user)) = parts.local {
            attributes.local(user.uid, user.gid);
        }
        if uses.0.contains(uses::Uses::TIME) {
            attributes.time(&service.zone.at(asked.now));
        }
        if uses.0.contains(uses::Uses::CERTIFICATE) {
            attributes.certificate(asked.now)?;
        }
        if let Some(headers) = asked.headers.filter(|_| uses.0.contains(uses::Uses::HEADERS)) {
            let texts: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
                .collect();
            attributes.headers(texts.iter().map(|(name, value)| (*name, &**value)))?;
        }
        if let Some(query) = asked.query.filter(|_| uses.0.contains(uses::Uses::QUERY)) {
            let parameters: Vec<_> = query::parameters(query).collect();
            // One that cannot be read could be the one that a condition forbids.
            if parameters.len() != query.split('&').filter(|parameter| !parameter.is_empty()).count() {
                return Err(AttributeError::Engine("a parameter of the query cannot be decoded".to_owned()));
            }
            attributes.query(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        }
        Ok(attributes)
    }

    fn principal(parts: &Parts<'_>, roles: &Roles, schema: &Schema) -> Result<Principal, AttributeError> {
        let named = |set| roles.named(set).map(|name| &**name).collect::<Vec<_>>();
        let held = named(parts.holders.roles);
        let of_carrier = parts.holders.via.map(named);
        let of_workload = of_carrier.as_deref().unwrap_or(&held);
        let workload = parts.workload.and_then(|(names, certificate)| {
            Some(Workload { id: names.first()?, names, roles: of_workload, certificate })
        });
        match (parts.subject, workload) {
            (Some(names), via) => user(names, via, &held, schema),
            (None, Some(workload)) => Principal::workload(schema, workload),
            (None, None) => local(parts.local.unwrap_or(LocalCaller::Unknown), &held, schema),
        }
    }

    fn local(caller: LocalCaller, roles: &[&str], schema: &Schema) -> Result<Principal, AttributeError> {
        let user = match caller {
            LocalCaller::Loopback => None,
            LocalCaller::User(user) => Some((user.uid, user.gid)),
            LocalCaller::Unknown => return Err(AttributeError::Engine("nothing is known of the caller".to_owned())),
        };
        Principal::local_caller(schema, principal::LocalCaller { user, roles })
    }

    fn user(
        names: &SubjectNames,
        via: Option<Workload<'_>>,
        roles: &[&str],
        schema: &Schema,
    ) -> Result<Principal, AttributeError> {
        fn texts(list: &[std::sync::Arc<str>]) -> Vec<&str> {
            list.iter().map(|text| &**text).collect()
        }
        let kind = if names.is_service() { UserKind::Service } else { UserKind::User };
        let nobody = User { kind, id: "", issuer: "", team: None, scopes: &[], groups: &[], roles, claims: &[], via };
        match names {
            SubjectNames::Key { id, team, .. } => {
                Principal::user(schema, User { id, issuer: "api_key", team: team.as_deref(), ..nobody })
            }
            SubjectNames::Password { name } => Principal::user(schema, User { id: name, issuer: "basic", ..nobody }),
            SubjectNames::Token(token) => {
                let TokenNames { issuer, subject, scopes, groups, claims, .. } = token;
                let lists: Vec<_> = claims.iter().map(|(name, value)| (name.as_str(), value, list_of(value))).collect();
                let claims: Vec<_> = lists
                    .iter()
                    .filter_map(|(name, value, list)| Some((*name, claim(value, list.as_deref())?)))
                    .collect();
                let (scopes, groups) = (texts(scopes), texts(groups));
                let user = User { id: subject, issuer, scopes: &scopes, groups: &groups, claims: &claims, ..nobody };
                Principal::user(schema, user)
            }
        }
    }

    fn list_of(value: &Value) -> Option<Vec<&str>> {
        value.as_array()?.iter().map(Value::as_str).collect()
    }

    /// A claim as conditions take it. One of another form is as if it were not there.
    fn claim<'token>(value: &'token Value, list: Option<&'token [&'token str]>) -> Option<Claim<'token>> {
        match (value, list) {
            (Value::Bool(flag), _) => Some(Claim::Boolean(*flag)),
            (Value::Number(number), _) => number.as_i64().map(Claim::Number),
            (Value::String(text), _) => Some(Claim::Text(text)),
            (Value::Array(_), Some(list)) => Some(Claim::Texts(list)),
            (Value::Array(_) | Value::Null | Value::Object(_), _) => None,
        }
    }
}
