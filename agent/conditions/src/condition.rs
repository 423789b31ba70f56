//! One condition beside a rule: a Cedar expression that is true or false.

use std::fmt;
use std::io;
use std::sync::Arc;

use cedar_policy_core::ast::{
    ActionConstraint, Annotation, AnyId, Effect, EntityUID, Expr, ExprKind, PolicyID, PolicySet, PrincipalConstraint,
    ResourceConstraint, StaticPolicy,
};
use countersign_certs::settings::diagnostic::Finding;

use crate::attributes::Attributes;
use crate::evaluate::{Evaluation, compiled};
use crate::room::with_room;
use crate::schema::{Direction, Inner, Schema};
use crate::text;
use crate::uses::Uses;
use crate::validate;

/// Longest condition in bytes. What needs more is a policy file, or a role.
pub const CONDITION_BYTES_MAX: usize = 4096;

/// A condition that can hold. Cheap to clone.
#[derive(Clone)]
pub struct Condition {
    schema: Arc<Inner>,
    text: Arc<str>,
    expression: Arc<Expr>,
    /// The parts that must all hold, in order, with their text.
    parts: Arc<[(Expr, String)]>,
    uses: Uses,
}

/// Why a text is no condition.
#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    /// The text is no expression, names what cannot exist, compares what cannot be equal, or can never hold.
    #[error("{}", .0.message)]
    Invalid(Finding),
    /// Too long.
    #[error("a condition has {found} bytes; {CONDITION_BYTES_MAX} are allowed")]
    Long {
        /// Bytes found.
        found: usize,
    },
    /// The system gives no thread to read it on.
    #[error("no thread can be started to read a condition on")]
    Thread(#[source] io::Error),
}

/// Why it cannot be told whether a condition holds. Deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionFailure {
    /// A number became too large, or something was not given that the condition asks for.
    #[error("the condition cannot be decided: {0}")]
    Evaluation(String),
    /// The names and types that a condition may ask for have changed since the attributes were gathered.
    #[error("the attributes were gathered for another config than the condition")]
    OtherConfig,
}

impl ConditionError {
    /// The same as a finding, whose place is in the condition's own text, in bytes.
    pub fn into_finding(self) -> Finding {
        match self {
            Self::Invalid(finding) => finding,
            long @ Self::Long { .. } => {
                Finding::with_hint(0..CONDITION_BYTES_MAX, &long, "write a policy file, or use roles")
            }
            Self::Thread(error) => {
                let message = format!("no thread can be started to read a condition on: {error}");
                Finding::with_hint(0..0, message, "look at the limits of this process (TasksMax, RLIMIT_NPROC)")
            }
        }
    }
}

impl Condition {
    /// Reads one expression, as in `when = 'context.hour >= 8 && context.hour < 18'`, and checks it against everything that can
    /// exist. It becomes a policy as a syntax tree, never as text, so it cannot become two.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place in `text`; or the system gives no thread to read it on.
    pub fn parse(text: &str, schema: &Schema, direction: Direction) -> Result<Self, ConditionError> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(ConditionError::Long { found: text.len() });
        }
        with_room(|| Self::read(text, schema, direction)).map_err(ConditionError::Thread)?
    }

    fn read(text: &str, schema: &Schema, direction: Direction) -> Result<Self, ConditionError> {
        text::check(text).map_err(|excess| ConditionError::Invalid(validate::of_excess(excess)))?;
        let expression: Expr = text.parse().map_err(|errors| invalid(validate::of_syntax(&errors), text))?;
        let action = schema.0.types.request.uid().ok_or_else(|| invalid(Vec::new(), text))?;
        let policies = as_policy(&expression, action).map_err(|message| {
            ConditionError::Invalid(Finding::with_hint(
                0..text.len(),
                message,
                "write who it is about, or leave it out",
            ))
        })?;
        let found = validate::findings(&policies, schema, direction);
        if !found.is_empty() {
            return Err(invalid(found, text));
        }
        let parts = parts(&expression, text).into();
        Ok(Self {
            schema: Arc::clone(&schema.0),
            text: text.into(),
            uses: Uses::of(&expression),
            expression: Arc::new(compiled(&expression)),
            parts,
        })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It cannot be told. That is no "no": deny, and say so.
    pub fn holds(&self, attributes: &Attributes) -> Result<bool, ConditionFailure> {
        let evaluation = Evaluation::of(attributes, &self.schema).ok_or(ConditionFailure::OtherConfig)?;
        evaluation.holds(&self.expression).map_err(ConditionFailure::Evaluation)
    }

    /// What must be given so that it can be decided.
    pub fn uses(&self) -> Uses {
        self.uses
    }

    /// Of `a && b && c` the first that does not hold or cannot be decided, as it is written; none if the condition holds, or if the
    /// attributes are none of its.
    pub fn failed_part(&self, attributes: &Attributes) -> Option<String> {
        let evaluation = Evaluation::of(attributes, &self.schema)?;
        let failed = self.parts.iter().find(|(part, _)| evaluation.holds(part) != Ok(true));
        failed.map(|(_, text)| text.clone())
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Condition({})", self.text)
    }
}

/// The first finding. What has no place of its own is about the whole text.
fn invalid(findings: Vec<Finding>, text: &str) -> ConditionError {
    let finding = findings.into_iter().next().unwrap_or_else(|| Finding::new(0..0, "this is no condition"));
    let span = if finding.span == (0..0) { 0..text.len() } else { finding.span };
    ConditionError::Invalid(Finding { span, ..finding })
}

fn as_policy(expression: &Expr, action: &EntityUID) -> Result<PolicySet, String> {
    let policy = StaticPolicy::new(
        PolicyID::from_string("condition"),
        None,
        std::iter::empty::<(AnyId, Annotation)>().collect(),
        Effect::Permit,
        PrincipalConstraint::any(),
        ActionConstraint::is_eq(action.clone()),
        ResourceConstraint::any(),
        Some(expression.clone()),
    )
    .map_err(|_slot| "a condition has no slots such as ?principal".to_owned())?;
    let mut policies = PolicySet::new();
    policies.add_static(policy).map_err(|error| error.to_string())?;
    Ok(policies)
}

/// The operands of the outermost chain of `&&`.
fn parts(expression: &Expr, text: &str) -> Vec<(Expr, String)> {
    if let ExprKind::And { left, right } = expression.expr_kind() {
        let mut all = parts(left, text);
        all.extend(parts(right, text));
        return all;
    }
    let place = expression.source_loc().and_then(|loc| text.get(loc.start()..loc.end()));
    vec![(compiled(expression), place.unwrap_or(text).trim().to_owned())]
}
