//! What is known of one request, as far as somebody asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cedar_policy_core::ast::{Context, Request, Value};
use cedar_policy_core::entities::Entities;
use countersign_certs::spelling::{is_same_name, is_same_parameter};
use countersign_certs::time::Timestamp;
use smol_str::SmolStr;

use crate::clock::LocalTime;
use crate::parties::Parties;
use crate::value::{MEMBERS_MAX, TEXT_BYTES_MAX, record, text, whole};
use crate::vocabulary::ClaimKind;

/// Why something cannot be given to a condition. What it is about must not be decided without it: deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// The token says something of another type than the config expects.
    #[error("the claim {name:?} is declared as {declared:?}, and the token has {found:?}")]
    ClaimKind {
        /// The claim.
        name: String,
        /// As in the config.
        declared: ClaimKind,
        /// As in the token.
        found: ClaimKind,
    },
    /// The policy engine did not take it.
    #[error("the policy engine does not take an attribute: {0}")]
    Engine(String),
    /// `User::"issuer#subject"` would have two meanings.
    #[error("the issuer {0:?} has a fragment (#), which no issuer may have")]
    Issuer(String),
    /// Too long.
    #[error("{what} has {found} bytes; conditions take {TEXT_BYTES_MAX}")]
    Long {
        /// What it is.
        what: &'static str,
        /// Bytes found.
        found: usize,
    },
    /// Too many members.
    #[error("{what} are {found}; conditions take {MEMBERS_MAX}")]
    Many {
        /// What they are.
        what: &'static str,
        /// The number found.
        found: usize,
    },
    /// The names and types that a condition may ask for have changed since one of the parts was made.
    #[error("principal and service were made for different configs")]
    OtherConfig,
    /// A backend may read both as the same name (RFC 3875 §4.1.18), and what the condition looks at would not be what it reads.
    #[error("{found:?} is another spelling of {declared:?}; which one a backend reads is ambiguous")]
    Spelling {
        /// As in the request.
        found: String,
        /// As in the config, a header in lower case.
        declared: String,
    },
    /// Said twice, so a condition and a backend could read different ones.
    #[error("{0:?} is given more than once; which one counts is ambiguous")]
    Twice(String),
}

/// What is known of one request. What was not given and is asked for makes the decision an error.
#[derive(Clone)]
pub struct Attributes {
    parties: Parties,
    entities: Arc<Entities>,
    /// Shared with the engine while it decides.
    context: Arc<BTreeMap<SmolStr, Value>>,
}

impl Attributes {
    /// One HTTP request. The path is without query, as rules see it.
    ///
    /// # Errors
    /// A method or path that is too long.
    pub fn request(parties: &Parties, method: &str, path: &str) -> Result<Self, AttributeError> {
        let entities = Arc::clone(&parties.0.entities);
        let mut attributes = Self { parties: parties.clone(), entities, context: Arc::default() };
        if let Some(address) = &parties.0.address {
            attributes.set("address", address.clone());
        }
        attributes.set("method", text("the method", method)?);
        attributes.set("path", text("the path", path)?);
        Ok(attributes)
    }

    /// The request's headers; names in any case. Those that the config does not declare are left out. Needed for
    /// [`Uses::HEADERS`](crate::uses::Uses::HEADERS).
    ///
    /// # Errors
    /// A declared header that is there twice or in another spelling, or a value that is too long.
    pub fn headers<'request>(
        &mut self,
        headers: impl IntoIterator<Item = (&'request str, &'request str)>,
    ) -> Result<(), AttributeError> {
        let declared = &self.parties.0.schema.names.headers;
        let attribute = |name: &str| match declared.get_key_value(name) {
            Some(exact) => Some(exact),
            None => declared.iter().find(|(known, _)| is_same_name(name.as_bytes(), known.as_bytes())),
        };
        let headers = record(headers.into_iter().filter_map(|(name, value)| {
            let (declared, attribute) = attribute(name)?;
            if !name.eq_ignore_ascii_case(declared) {
                return Some(Err(AttributeError::Spelling { found: name.to_owned(), declared: declared.clone() }));
            }
            Some(text("a header", value).map(|value| (attribute.clone(), value)))
        }))?;
        self.set("headers", headers);
        Ok(())
    }

    /// The parameters of the request's query, decoded. Those that the config does not declare are left out. Needed for
    /// [`Uses::QUERY`](crate::uses::Uses::QUERY).
    ///
    /// # Errors
    /// A declared parameter that is there twice or in another spelling, also behind a `;`, or a value that is too long.
    pub fn query<'request>(
        &mut self,
        parameters: impl IntoIterator<Item = (&'request str, &'request str)>,
    ) -> Result<(), AttributeError> {
        let declared = &self.parties.0.schema.names.queries;
        let query = record(parameters.into_iter().filter_map(|(name, value)| {
            if let Some((found, declared)) = other_spelling(declared, name, value) {
                return Some(Err(AttributeError::Spelling { found: found.to_owned(), declared: declared.clone() }));
            }
            declared.get(name).map(|name| Ok((name.clone(), text("a parameter of the query", value)?)))
        }))?;
        self.set("query", query);
        Ok(())
    }

    /// The time where the operator wants it counted. Needed for [`Uses::TIME`](crate::uses::Uses::TIME).
    pub fn time(&mut self, now: &LocalTime) {
        self.set("hour", Value::from(i64::from(now.hour)));
        self.set("minute", Value::from(i64::from(now.minute)));
        self.set("weekday", Value::from(now.weekday.as_str()));
        self.set("date", Value::from(now.date.as_str()));
        self.set("zone", Value::from(&*now.zone));
        self.set("unix_time", Value::from(whole(now.now.as_unix_seconds())));
    }

    /// How old the workload's certificate is at that time. Needed for [`Uses::CERTIFICATE`](crate::uses::Uses::CERTIFICATE).
    ///
    /// # Errors
    /// The policy engine does not take it.
    pub fn certificate(&mut self, now: Timestamp) -> Result<(), AttributeError> {
        self.entities = self.parties.0.at(now)?;
        Ok(())
    }

    /// User and group of the local program that asks, as the kernel tells them. Needed for
    /// [`Uses::LOCAL`](crate::uses::Uses::LOCAL), where they are known.
    pub fn local(&mut self, uid: u32, gid: u32) {
        let ids = [("uid", Value::from(i64::from(uid))), ("gid", Value::from(i64::from(gid)))];
        self.set("local", Value::record(ids, None));
    }

    /// Names are shorter than what the engine's text type holds without an allocation.
    fn set(&mut self, name: &'static str, value: Value) {
        Arc::make_mut(&mut self.context).insert(SmolStr::new_static(name), value);
    }

    pub(crate) fn parties(&self) -> &Parties {
        &self.parties
    }

    pub(crate) fn entities(&self) -> &Entities {
        &self.entities
    }

    /// The engine's form: four reference counts.
    pub(crate) fn to_request(&self) -> Request {
        let parties = &self.parties.0;
        Request::new_unchecked(
            parties.principal.entry().clone(),
            parties.schema.types.request.clone(),
            parties.service.entry().clone(),
            Some(Context::Value(Arc::clone(&self.context))),
        )
    }
}

/// A name that stands in a parameter and that some servers read as a declared one that it is not. Those that take `;` for a separator
/// read names behind it.
fn other_spelling<'found, 'declared>(
    declared: &'declared BTreeSet<String>,
    name: &'found str,
    value: &'found str,
) -> Option<(&'found str, &'declared String)> {
    let name_of = |part: &'found str| part.split('=').next().unwrap_or_default();
    let is_whole = !(name.contains(';') || value.contains(';'));
    let inside = name.split(';').chain(value.split(';').skip(1).map(name_of)).filter(|_| !is_whole);
    inside.chain(is_whole.then_some(name)).find_map(|found| {
        let same = declared.iter().find(|declared| is_same_parameter(found.as_bytes(), declared.as_bytes()))?;
        (!is_whole || found != same).then_some((found, same))
    })
}

/// Headers and claims may hold what no log should.
impl fmt::Debug for Attributes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Attributes({:?})", self.parties)
    }
}
