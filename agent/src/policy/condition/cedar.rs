//! Conditions and policy files, joined to the rules of this agent.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::Finding;
use countersign_conditions::attributes::{AttributeError, Attributes};
use countersign_conditions::clock::Zone;
use countersign_conditions::condition::{self, ConditionError};
use countersign_conditions::parties::Service;
use countersign_conditions::policy_file::{self, Effect};
use countersign_conditions::schema::{Direction, Schema};
use countersign_conditions::uses;

use super::{Evaluation, FileEffect};

/// One `when`.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    text: Arc<str>,
    compiled: condition::Condition,
}

/// The policies of one service that stand in a file of their own.
#[derive(Debug, Clone)]
pub(crate) struct PolicyFile(policy_file::PolicyFile);

/// What the conditions of a service look at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uses(pub(crate) uses::Uses);

/// A service as conditions see it, and the clock that it goes by.
#[derive(Debug, Clone)]
pub(crate) struct ServiceFacts {
    pub(crate) schema: Schema,
    pub(crate) service: Service,
    pub(crate) zone: Zone,
}

/// What is known of one request. It is gathered when the first condition asks, and for most requests never.
pub(crate) struct Facts<'request> {
    gather: &'request dyn Fn() -> Result<Attributes, AttributeError>,
    gathered: OnceCell<Result<Attributes, String>>,
}

/// Compiles the conditions of a config against everything that can exist in it.
#[derive(Clone)]
pub(crate) struct Compiler {
    schema: Schema,
    zone: Zone,
    direction: Direction,
}

impl<'request> Facts<'request> {
    /// Facts that are gathered when they are needed.
    pub(crate) fn new(gather: &'request dyn Fn() -> Result<Attributes, AttributeError>) -> Self {
        Self { gather, gathered: OnceCell::new() }
    }

    /// Where no condition is asked, and nothing is gathered: of a connection whose bytes are not looked at, or of a service without conditions.
    pub(crate) fn not_gathered() -> Facts<'static> {
        Facts { gather: &|| Err(AttributeError::OtherConfig), gathered: OnceCell::new() }
    }

    fn get(&self) -> Result<&Attributes, &String> {
        self.gathered.get_or_init(|| (self.gather)().map_err(|error| error.to_string())).as_ref()
    }
}

impl Condition {
    /// Whether it holds.
    pub(crate) fn evaluate(&self, facts: &Facts<'_>) -> Evaluation {
        match facts.get().ok().and_then(|attributes| self.compiled.holds(attributes).ok()) {
            Some(true) => Evaluation::Holds,
            Some(false) => Evaluation::Fails,
            None => Evaluation::Unclear,
        }
    }

    /// What of it does not hold, or why that cannot be told.
    pub(crate) fn in_words(&self, facts: &Facts<'_>) -> String {
        let attributes = match facts.get() {
            Ok(attributes) => attributes,
            Err(error) => return error.clone(),
        };
        match self.compiled.holds(attributes) {
            Err(error) => error.to_string(),
            Ok(_) => self.compiled.failed_part(attributes).unwrap_or_else(|| self.text.to_string()),
        }
    }
}

impl PolicyFile {
    /// What its policies say.
    pub(crate) fn decide(&self, facts: &Facts<'_>) -> FileEffect {
        let Ok(attributes) = facts.get() else { return FileEffect::Unclear("".into()) };
        let first = |ids: Vec<Arc<str>>| ids.into_iter().next().unwrap_or_default();
        match self.0.decide(attributes) {
            Effect::Error { policy, .. } => FileEffect::Unclear(policy),
            Effect::Forbid { ids } => FileEffect::Forbids(first(ids)),
            Effect::Nothing => FileEffect::SaysNothing,
            Effect::Permit { ids } => FileEffect::Permits(first(ids)),
        }
    }

    /// Why what it says is not clear.
    pub(crate) fn detail(&self, facts: &Facts<'_>) -> String {
        match facts.get().map(|attributes| self.0.decide(attributes)) {
            Ok(Effect::Error { message, .. }) => message,
            Ok(Effect::Forbid { .. } | Effect::Nothing | Effect::Permit { .. }) => String::new(),
            Err(error) => error.clone(),
        }
    }
}

impl Uses {
    /// Whether what they say can change while nothing else does.
    pub(crate) fn looks_at_time(self) -> bool {
        self.0.contains(uses::Uses::TIME) || self.0.contains(uses::Uses::CERTIFICATE)
    }

    /// Whether what they say can hang on the claims of a token.
    pub(crate) fn looks_at_claims(self) -> bool {
        self.0.contains(uses::Uses::CLAIMS)
    }
}

impl Compiler {
    /// Everything that can exist, and the zone in which hours are counted; for inbounds.
    pub(crate) fn new(schema: Schema, zone: Zone) -> Self {
        Self { schema, zone, direction: Direction::Inbound }
    }

    /// The same for outbounds, where programs of this host ask.
    pub(crate) fn for_outbounds(&self) -> Self {
        Self { direction: Direction::Outbound, ..self.clone() }
    }

    /// Compiles a `when`. The place of the finding is within the text.
    pub(crate) fn condition(&self, text: &str) -> Result<Condition, Finding> {
        let compiled = condition::Condition::parse(text, &self.schema, self.direction);
        let compiled = compiled.map_err(ConditionError::into_finding)?;
        Ok(Condition { text: text.into(), compiled })
    }

    /// Compiles a file.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PolicyFile, String> {
        let compiled = policy_file::PolicyFile::parse(name, text, &self.schema, self.direction);
        compiled.map(PolicyFile).map_err(|errors| errors.to_string())
    }

    /// A service with its labels.
    pub(crate) fn service(&self, name: &str, labels: &[(&str, &str)]) -> Result<ServiceFacts, String> {
        let service = Service::new(&self.schema, name, labels).map_err(|error| error.to_string())?;
        Ok(ServiceFacts { schema: self.schema.clone(), service, zone: self.zone.clone() })
    }

    /// What these conditions look at together.
    pub(crate) fn uses<'rules>(conditions: impl Iterator<Item = &'rules Condition>, file: Option<&PolicyFile>) -> Uses {
        let all = conditions.map(|condition| condition.compiled.uses()).chain(file.map(|file| file.0.uses()));
        Uses(all.fold(uses::Uses::default(), uses::Uses::union))
    }
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Facts")
    }
}
