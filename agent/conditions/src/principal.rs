//! Who asks, made once and used for many requests.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityType, EntityUID, EntityUIDEntry, Value};
use countersign_certs::san::San;
use countersign_certs::time::Validity;

use crate::attributes::AttributeError;
use crate::schema::{Inner, Schema, entity};
use crate::value::{MEMBERS_MAX, record, text, texts};
use crate::vocabulary::ClaimKind;

/// A peer with a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'peer> {
    /// Its name: what stands in `Workload::"..."`.
    pub id: &'peer San,
    /// Every name that counts, the first included.
    pub names: &'peer [San],
    /// Roles that it holds.
    pub roles: &'peer [&'peer str],
    /// When its certificate can be used.
    pub certificate: Validity,
}

/// Somebody with a token or an API key.
#[derive(Debug, Clone, Copy)]
pub struct User<'token> {
    /// Whether this is a person or a program.
    pub kind: UserKind,
    /// The subject, unique at its issuer only.
    pub id: &'token str,
    /// Who vouches for it, by the name that the config gives it.
    pub issuer: &'token str,
    /// The team that its key belongs to.
    pub team: Option<&'token str>,
    /// What its token may be used for.
    pub scopes: &'token [&'token str],
    /// Groups that its issuer puts it in.
    pub groups: &'token [&'token str],
    /// Roles that it holds.
    pub roles: &'token [&'token str],
    /// Claims of its token. Those that the config does not declare are left out.
    pub claims: &'token [(&'token str, Claim<'token>)],
    /// The workload that brought the token.
    pub via: Option<Workload<'token>>,
}

/// Whether a user is a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserKind {
    /// `"service"`: a program that has a key or a token of its own.
    Service,
    /// `"user"`: a person.
    User,
}

impl UserKind {
    /// As conditions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::User => "user",
        }
    }
}

/// The value of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'token> {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(&'token str),
    /// A set of texts.
    Texts(&'token [&'token str]),
}

impl Claim<'_> {
    fn kind(self) -> ClaimKind {
        match self {
            Self::Boolean(_) => ClaimKind::Boolean,
            Self::Number(_) => ClaimKind::Number,
            Self::Text(_) => ClaimKind::Text,
            Self::Texts(_) => ClaimKind::Texts,
        }
    }
}

/// A program of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalCaller<'caller> {
    /// User and group as the kernel tells them; none for a program that came over loopback.
    pub user: Option<(u32, u32)>,
    /// Roles that it holds.
    pub roles: &'caller [&'caller str],
}

/// Who asks, prepared. Cheap to clone; make it once per peer or token.
#[derive(Clone)]
pub struct Principal(pub(crate) Arc<PreparedPrincipal>);

pub(crate) struct PreparedPrincipal {
    pub(crate) schema: Arc<Inner>,
    pub(crate) entity: Arc<Entity>,
    entry: EntityUIDEntry,
    /// Itself and its roles: whatever the scope of a policy can name to mean it.
    keys: Vec<EntityUID>,
    /// The workload whose certificate ages: the principal, or the one that brought its token.
    pub(crate) workload: Option<Aging>,
}

/// A workload whose attributes change with time.
pub(crate) struct Aging {
    pub(crate) entity: Arc<Entity>,
    pub(crate) certificate: Validity,
    pub(crate) is_principal: bool,
}

impl Principal {
    /// A peer with a certificate.
    ///
    /// # Errors
    /// More names or roles than are allowed.
    pub fn workload(schema: &Schema, workload: Workload<'_>) -> Result<Self, AttributeError> {
        let entity = Arc::new(workload_entity(&schema.0, workload)?);
        let aging = Aging { entity: Arc::clone(&entity), certificate: workload.certificate, is_principal: true };
        Ok(Self::of(schema, entity, Some(aging)))
    }

    /// Somebody with a token or an API key. `User::"..."` is the issuer, `#` and the subject: a subject alone may be somebody else
    /// at another issuer.
    ///
    /// # Errors
    /// A claim of another type than the config declares, a claim that is there twice, an issuer with `#`, or more or longer texts
    /// than are allowed.
    pub fn user(schema: &Schema, user: User<'_>) -> Result<Self, AttributeError> {
        if user.issuer.contains('#') {
            return Err(AttributeError::Issuer(user.issuer.chars().take(200).collect()));
        }
        let via = user.via.map(|workload| workload_entity(&schema.0, workload)).transpose()?.map(Arc::new);
        let mut attributes = vec![
            ("kind", Value::from(user.kind.as_str())),
            ("id", text("the subject", user.id)?),
            ("issuer", text("the issuer", user.issuer)?),
            ("scopes", texts("the scopes", user.scopes.iter().copied())?),
            ("groups", texts("the groups", user.groups.iter().copied())?),
            ("claims", claims(&schema.0, user.claims)?),
        ];
        if let Some(team) = user.team {
            attributes.push(("team", text("the team", team)?));
        }
        if let Some(via) = &via {
            attributes.push(("via", Value::from(via.uid().clone())));
        }
        let id = format!("{}#{}", user.issuer, user.id);
        let entity = prepare(&schema.0, &schema.0.types.user, &id, user.roles, attributes)?;
        let aging = via.zip(user.via).map(|(entity, workload)| Aging {
            entity,
            certificate: workload.certificate,
            is_principal: false,
        });
        Ok(Self::of(schema, Arc::new(entity), aging))
    }

    /// A program of this host. `LocalCaller::"..."` is its user id.
    ///
    /// # Errors
    /// More roles than are allowed.
    pub fn local_caller(schema: &Schema, caller: LocalCaller<'_>) -> Result<Self, AttributeError> {
        let (id, attributes) = match caller.user {
            Some((uid, gid)) => {
                (uid.to_string(), vec![("uid", Value::from(i64::from(uid))), ("gid", Value::from(i64::from(gid)))])
            }
            None => ("loopback".to_owned(), Vec::new()),
        };
        let entity = prepare(&schema.0, &schema.0.types.local_caller, &id, caller.roles, attributes)?;
        Ok(Self::of(schema, Arc::new(entity), None))
    }

    fn of(schema: &Schema, entity: Arc<Entity>, workload: Option<Aging>) -> Self {
        let entry = entity.uid().clone().into();
        let keys = std::iter::once(entity.uid()).chain(entity.parents()).cloned().collect();
        Self(Arc::new(PreparedPrincipal { schema: Arc::clone(&schema.0), entity, entry, keys, workload }))
    }

    pub(crate) fn entry(&self) -> &EntityUIDEntry {
        &self.0.entry
    }

    pub(crate) fn uid(&self) -> &EntityUID {
        self.0.entity.uid()
    }

    pub(crate) fn keys(&self) -> &[EntityUID] {
        &self.0.keys
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Principal({})", self.uid())
    }
}

fn claims(schema: &Inner, claims: &[(&str, Claim<'_>)]) -> Result<Value, AttributeError> {
    let declared =
        claims.iter().filter_map(|(name, value)| schema.names.claims.get(*name).map(|kind| (*name, *kind, *value)));
    record(declared.map(|(name, declared, value)| {
        if value.kind() != declared {
            return Err(AttributeError::ClaimKind { name: name.to_owned(), declared, found: value.kind() });
        }
        let value = match value {
            Claim::Boolean(boolean) => Value::from(boolean),
            Claim::Number(number) => Value::from(number),
            Claim::Text(claim) => text("a claim", claim)?,
            Claim::Texts(members) => texts("a claim", members.iter().copied())?,
        };
        Ok((name.to_owned(), value))
    }))
}

fn workload_entity(schema: &Inner, workload: Workload<'_>) -> Result<Entity, AttributeError> {
    let id = workload.id.to_string();
    let names: Vec<String> = workload.names.iter().map(San::to_string).collect();
    // Names of other kinds are in no trust domain; the empty text equals none.
    let trust_domain = match workload.id {
        San::Spiffe(id) => id.trust_domain().to_string(),
        San::Dns(_) | San::Email(_) | San::Ip(_) => String::new(),
    };
    let attributes = vec![
        ("id", text("the name of a peer", &id)?),
        ("trust_domain", Value::from(trust_domain.as_str())),
        ("names", texts("the names of a peer", names.iter().map(String::as_str))?),
    ];
    prepare(schema, &schema.types.workload, &id, workload.roles, attributes)
}

pub(crate) fn prepare(
    schema: &Inner,
    of_type: &EntityType,
    id: &str,
    roles: &[&str],
    attributes: Vec<(&'static str, Value)>,
) -> Result<Entity, AttributeError> {
    if roles.len() > MEMBERS_MAX {
        return Err(AttributeError::Many { what: "the roles", found: roles.len() });
    }
    let roles: HashSet<EntityUID> = roles.iter().map(|role| entity(&schema.types.role, role)).collect();
    let attributes = attributes.into_iter().map(|(name, value)| (name.into(), value.into()));
    Ok(Entity::new_with_attr_partial_value(entity(of_type, id), attributes, HashSet::new(), roles, []))
}
