//! One expression against what is known. An error is an error: Cedar's own authorizer would skip the policy.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, Literal, SlotEnv, ValueKind};
use cedar_policy_core::evaluator::{EvaluationError, Evaluator};
use cedar_policy_core::extensions::Extensions;

use crate::attributes::Attributes;
use crate::schema::Inner;

/// Longest message in bytes. Messages of the engine can repeat values, which a caller may have chosen.
const MESSAGE_BYTES_MAX: usize = 500;

/// Decides many expressions about one request.
pub(crate) struct Evaluation<'request>(Evaluator<'request>);

impl<'request> Evaluation<'request> {
    /// Nothing, if what is known was gathered for another schema: a claim that it does not have could be one that nobody read.
    pub(crate) fn of(attributes: &'request Attributes, schema: &Arc<Inner>) -> Option<Self> {
        let same = Arc::ptr_eq(&attributes.parties().0.schema, schema);
        let evaluator = || Evaluator::new(attributes.to_request(), attributes.entities(), Extensions::all_available());
        same.then(|| Self(evaluator()))
    }

    /// Whether the expression is true, or why that cannot be told.
    pub(crate) fn holds(&self, expression: &Expr) -> Result<bool, String> {
        let in_words = |error: &EvaluationError| {
            let text = error.to_string();
            let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MESSAGE_BYTES_MAX).last();
            match end.filter(|_| text.len() > MESSAGE_BYTES_MAX).and_then(|end| text.get(..end)) {
                Some(beginning) => format!("{beginning}..."),
                None => text,
            }
        };
        let value = self.0.interpret(expression, &SlotEnv::new()).map_err(|error| in_words(&error))?;
        let ValueKind::Lit(Literal::Bool(holds)) = value.value_kind() else {
            return Err("it is neither true nor false".to_owned());
        };
        Ok(*holds)
    }
}
