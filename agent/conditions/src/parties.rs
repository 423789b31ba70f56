//! What is asked for, and who asks for it from where.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityUIDEntry, PartialValue, Value};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use countersign_certs::time::Timestamp;

use crate::attributes::AttributeError;
use crate::principal::{Principal, prepare};
use crate::schema::{Inner, Schema};
use crate::value::{record, text, whole};

/// What is asked for, prepared. Cheap to clone; make it once per inbound or outbound.
#[derive(Clone)]
pub struct Service {
    schema: Arc<Inner>,
    entity: Arc<Entity>,
    entry: EntityUIDEntry,
}

/// Both, and where they come from: what stays the same for all requests of a connection.
#[derive(Clone)]
pub struct Parties(pub(crate) Arc<PreparedParties>);

pub(crate) struct PreparedParties {
    pub(crate) schema: Arc<Inner>,
    pub(crate) principal: Principal,
    pub(crate) service: Service,
    pub(crate) address: Option<Value>,
    pub(crate) entities: Arc<Entities>,
}

impl Service {
    /// An inbound or outbound and its labels. Labels that no service declares are left out.
    ///
    /// # Errors
    /// A label that is there twice, or a text that is too long.
    pub fn new(schema: &Schema, name: &str, labels: &[(&str, &str)]) -> Result<Self, AttributeError> {
        let declared = labels.iter().filter(|(label, _)| schema.0.names.labels.contains(*label));
        let labels = record(declared.map(|(label, value)| Ok(((*label).to_owned(), text("a label", value)?))))?;
        let attributes = vec![("name", text("the name of a service", name)?), ("labels", labels)];
        let entity = Arc::new(prepare(&schema.0, &schema.0.types.service, name, &[], attributes)?);
        let entry = entity.uid().clone().into();
        Ok(Self { schema: Arc::clone(&schema.0), entity, entry })
    }

    pub(crate) fn entry(&self) -> &EntityUIDEntry {
        &self.entry
    }
}

impl Parties {
    /// Who asks for what from where. An IPv4 address that came in as IPv6 (`::ffff:10.0.0.1`) is compared as the IPv4 address that
    /// it is.
    ///
    /// # Errors
    /// Both were not made for the same schema.
    pub fn new(principal: &Principal, service: &Service, address: Option<IpAddr>) -> Result<Self, AttributeError> {
        let prepared = &principal.0;
        if !Arc::ptr_eq(&prepared.schema, &service.schema) {
            return Err(AttributeError::OtherConfig);
        }
        let address = address.map(|address| address_value(&prepared.schema, address.to_canonical())).transpose()?;
        let via = prepared.workload.as_ref().filter(|workload| !workload.is_principal);
        let all = [Some(&prepared.entity), Some(&service.entity), via.map(|workload| &workload.entity)];
        let entities = Arc::new(entities(all.into_iter().flatten().map(Arc::clone))?);
        Ok(Self(Arc::new(PreparedParties {
            schema: Arc::clone(&prepared.schema),
            principal: principal.clone(),
            service: service.clone(),
            address,
            entities,
        })))
    }
}

impl PreparedParties {
    /// The same entities with the age of the certificate and the time that it has left.
    pub(crate) fn at(&self, now: Timestamp) -> Result<Arc<Entities>, AttributeError> {
        let principal = &self.principal.0;
        let Some(workload) = &principal.workload else { return Ok(Arc::clone(&self.entities)) };
        let seconds = |from: Timestamp, to: Timestamp| Value::from(whole(to.since(from).as_secs()));
        let certificate = workload.certificate;
        let (uid, mut attributes, _, parents, _) = Entity::clone(&workload.entity).into_inner();
        attributes.insert("certificate_age_seconds".into(), seconds(certificate.not_before, now).into());
        attributes.insert("certificate_seconds_left".into(), seconds(now, certificate.not_after).into());
        let aged = Entity::new_with_attr_partial_value(uid, attributes, HashSet::new(), parents, []);
        let principal = (!workload.is_principal).then(|| Arc::clone(&principal.entity));
        let all = [Some(Arc::new(aged)), Some(Arc::clone(&self.service.entity)), principal];
        entities(all.into_iter().flatten()).map(Arc::new)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Service({})", self.entity.uid())
    }
}

impl fmt::Debug for Parties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Parties({:?}, {:?})", self.0.principal, self.0.service)
    }
}

/// Roles have no parents, so ancestors are as they were given.
fn entities(all: impl Iterator<Item = Arc<Entity>>) -> Result<Entities, AttributeError> {
    Entities::new()
        .add_entities(all, None::<&NoEntitiesSchema>, TCComputation::AssumeAlreadyComputed, Extensions::all_available())
        .map_err(|error| AttributeError::Engine(error.to_string()))
}

fn address_value(schema: &Inner, address: IpAddr) -> Result<Value, AttributeError> {
    let engine = |error: &dyn fmt::Display| AttributeError::Engine(error.to_string());
    let make = Extensions::all_available().func(&schema.types.ip).map_err(|error| engine(&error))?;
    match make.call(&[Value::from(address.to_string().as_str())]).map_err(|error| engine(&error))? {
        PartialValue::Value(value) => Ok(value),
        PartialValue::Residual(rest) => Err(engine(&rest)),
    }
}
