//! The Cedar schema that follows from a [`Vocabulary`], and what is looked up in it while attributes are gathered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::Arc;

use cedar_policy_core::ast::{Eid, EntityType, EntityUID, EntityUIDEntry, Name};
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::validator::{Validator, ValidatorSchema};

use crate::vocabulary::{ClaimKind, Vocabulary, VocabularyError, header_attribute};

/// Which way a request goes. Who can ask depends on it: peers with a certificate and users come in, local programs go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From another host to a service of this one. Principals are `Workload` and `User`.
    Inbound,
    /// From this host out. Principals are `LocalCaller`: nobody looks at credentials there.
    Outbound,
}

/// Everything that conditions are checked against. Made once per config, cheap to clone.
#[derive(Clone)]
pub struct Schema(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) inbound: Validator,
    pub(crate) outbound: Validator,
    pub(crate) types: Types,
    pub(crate) names: Names,
}

/// The entity types, parsed once: parsing a name costs more than deciding.
pub(crate) struct Types {
    pub(crate) ip: Name,
    pub(crate) local_caller: EntityType,
    pub(crate) role: EntityType,
    pub(crate) service: EntityType,
    pub(crate) user: EntityType,
    pub(crate) workload: EntityType,
    /// All that is ever asked for: one HTTP request, `Action::"request"`.
    pub(crate) request: EntityUIDEntry,
}

/// The declared names.
pub(crate) struct Names {
    pub(crate) roles: BTreeSet<String>,
    pub(crate) services: BTreeSet<String>,
    pub(crate) issuers: BTreeSet<String>,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) claims: BTreeMap<String, ClaimKind>,
    /// Lower-case header name -> as a condition writes it.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) queries: BTreeSet<String>,
}

impl Schema {
    /// The schema of a config.
    ///
    /// # Errors
    /// A name that no condition could write, or two that it could not tell apart.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, VocabularyError> {
        vocabulary.check()?;
        Ok(Self(Arc::new(Inner {
            inbound: validator(vocabulary, Direction::Inbound)?,
            outbound: validator(vocabulary, Direction::Outbound)?,
            types: Types::parse()?,
            names: Names::of(vocabulary),
        })))
    }

    pub(crate) fn validator(&self, direction: Direction) -> &Validator {
        match direction {
            Direction::Inbound => &self.0.inbound,
            Direction::Outbound => &self.0.outbound,
        }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Schema")
    }
}

impl Types {
    fn parse() -> Result<Self, VocabularyError> {
        let name =
            |text: &str| Name::parse_unqualified_name(text).map_err(|error| VocabularyError::Schema(error.to_string()));
        let action = EntityType::from(name("Action")?);
        Ok(Self {
            ip: name("ip")?,
            local_caller: name("LocalCaller")?.into(),
            role: name("Role")?.into(),
            service: name("Service")?.into(),
            user: name("User")?.into(),
            workload: name("Workload")?.into(),
            request: entity(&action, "request").into(),
        })
    }
}

/// `Type::"id"`.
pub(crate) fn entity(of_type: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(of_type.clone(), Eid::new(id), None)
}

impl Names {
    fn of(vocabulary: &Vocabulary) -> Self {
        let set = |names: &[String]| names.iter().cloned().collect();
        Self {
            roles: set(&vocabulary.roles),
            services: set(&vocabulary.services),
            issuers: set(&vocabulary.issuers),
            labels: set(&vocabulary.labels),
            claims: vocabulary.claims.iter().cloned().collect(),
            headers: vocabulary
                .headers
                .iter()
                .map(|name| (name.to_ascii_lowercase(), header_attribute(name)))
                .collect(),
            queries: set(&vocabulary.queries),
        }
    }
}

fn validator(vocabulary: &Vocabulary, direction: Direction) -> Result<Validator, VocabularyError> {
    let text = text(vocabulary, direction);
    // Warnings are about names that hide built-in ones; ours are fixed, and the config's are quoted.
    let (schema, _warnings) = ValidatorSchema::from_cedarschema_str(&text, Extensions::all_available())
        .map_err(|error| VocabularyError::Schema(error.to_string()))?;
    Ok(Validator::new(schema))
}

/// What the schema says of a request, in either direction.
pub(crate) const CONTEXT_ATTRIBUTES: [&str; 12] = [
    "address",
    "date",
    "headers",
    "hour",
    "local",
    "method",
    "minute",
    "path",
    "query",
    "unix_time",
    "weekday",
    "zone",
];

pub(crate) const LOCAL_CALLER_ATTRIBUTES: [&str; 2] = ["gid", "uid"];

pub(crate) const SERVICE_ATTRIBUTES: [&str; 2] = ["labels", "name"];

pub(crate) const USER_ATTRIBUTES: [&str; 8] = ["claims", "groups", "id", "issuer", "kind", "scopes", "team", "via"];

pub(crate) const WORKLOAD_ATTRIBUTES: [&str; 5] =
    ["certificate_age_seconds", "certificate_seconds_left", "id", "names", "trust_domain"];

const TIME: &str = "hour: Long, minute: Long, weekday: String, date: String, zone: String, unix_time: Long";

/// As Cedar reads it.
fn text(vocabulary: &Vocabulary, direction: Direction) -> String {
    let labels = optional_texts(vocabulary.labels.iter().map(String::as_str));
    let query = optional_texts(vocabulary.queries.iter().map(String::as_str));
    let headers: Vec<String> = vocabulary.headers.iter().map(|name| header_attribute(name)).collect();
    let headers = optional_texts(headers.iter().map(String::as_str));
    let claims = optional(vocabulary.claims.iter().map(|(name, kind)| (name.as_str(), kind.in_schema())));
    let (callers, principals, origin) = match direction {
        Direction::Inbound => (
            format!(
                "entity Workload in [Role] {{ id: String, trust_domain: String, names: Set<String>, \
                 certificate_age_seconds: Long, certificate_seconds_left: Long }};\n\
                 entity User in [Role] {{ kind: String, id: String, issuer: String, team?: String, scopes: Set<String>, \
                 groups: Set<String>, claims: {{{claims}}}, via?: Workload }};\n"
            ),
            "Workload, User",
            "address: __cedar::ipaddr",
        ),
        Direction::Outbound => (
            "entity LocalCaller in [Role] { uid?: Long, gid?: Long };\n".to_owned(),
            "LocalCaller",
            "local?: { uid: Long, gid: Long }",
        ),
    };
    format!(
        "entity Role;\n\
         entity Service {{ name: String, labels: {{{labels}}} }};\n\
         {callers}\
         action \"request\" appliesTo {{ principal: [{principals}], resource: [Service], context: {{ method: String, \
         path: String, query: {{{query}}}, headers: {{{headers}}}, {origin}, {TIME} }} }};\n"
    )
}

fn optional_texts<'name>(names: impl Iterator<Item = &'name str>) -> String {
    optional(names.map(|name| (name, "String")))
}

/// Attributes that need not be there. Names have no quotes: the vocabulary was checked.
fn optional<'name>(attributes: impl Iterator<Item = (&'name str, &'static str)>) -> String {
    let mut text = String::new();
    for (name, of_type) in attributes {
        // Writing into a String cannot fail.
        let _ = write!(text, " \"{name}\"?: {of_type},");
    }
    text
}

impl ClaimKind {
    fn in_schema(self) -> &'static str {
        match self {
            Self::Boolean => "Bool",
            Self::Number => "Long",
            Self::Text => "String",
            Self::Texts => "Set<String>",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names before colons in what stands between `begin` and the next `}`, without what the config declares.
    fn attributes(begin: &str) -> BTreeSet<String> {
        let both = [Direction::Inbound, Direction::Outbound].map(|direction| text(&Vocabulary::default(), direction));
        let mut names = BTreeSet::new();
        for text in &both {
            let of_kind = text.split(begin).skip(1).filter_map(|rest| rest.split(";\n").next());
            for part in of_kind.flat_map(|of_kind| of_kind.split(", ")) {
                let name = part.split(':').next().unwrap_or_default();
                names.insert(name.trim_matches([' ', '{', '?']).to_owned());
            }
        }
        names
    }

    #[track_caller]
    fn check(begin: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        let mut found = attributes(begin);
        // The second part of `local: { uid: Long, gid: Long }` looks like an attribute of the whole.
        if begin.starts_with("context") {
            assert!(found.remove("gid"), "{found:?}");
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn every_attribute_is_on_the_page_that_operators_read() {
        let page = include_str!("../../../deploy/policy/README.md");
        let principals = [&LOCAL_CALLER_ATTRIBUTES[..], &USER_ATTRIBUTES, &WORKLOAD_ATTRIBUTES].concat();
        for (of, attributes) in
            [("principal", &principals[..]), ("resource", &SERVICE_ATTRIBUTES), ("context", &CONTEXT_ATTRIBUTES)]
        {
            for name in attributes {
                assert!(page.contains(&format!("`{of}.{name}`")), "{of}.{name} is not on the page");
            }
        }
    }

    #[test]
    fn the_lists_of_attributes_are_those_of_the_schema() {
        check("context: {", &CONTEXT_ATTRIBUTES);
        check("entity LocalCaller in [Role] {", &LOCAL_CALLER_ATTRIBUTES);
        check("entity Service {", &SERVICE_ATTRIBUTES);
        check("entity User in [Role] {", &USER_ATTRIBUTES);
        check("entity Workload in [Role] {", &WORKLOAD_ATTRIBUTES);
    }
}
