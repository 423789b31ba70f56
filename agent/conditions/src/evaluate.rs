//! One expression against what is known. An error is an error: Cedar's own authorizer would skip the policy.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprKind, Literal, SlotEnv, ValueKind};
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

/// The same expression without places in the text, which the engine would copy at every step, each time with a count that all
/// threads share; without the `true &&` of a scope that is about anybody; and with chains that are not as deep as they are long. The
/// expression was checked: its operands are true or false.
pub(crate) fn compiled(expression: &Expr) -> Expr {
    let part = |part: &Expr| compiled(part);
    match expression.expr_kind() {
        ExprKind::Lit(literal) => Expr::val(literal.clone()),
        ExprKind::Slot(slot) => Expr::slot(*slot),
        ExprKind::Unknown(unknown) => Expr::unknown(unknown.clone()),
        ExprKind::Var(variable) => Expr::var(*variable),
        ExprKind::And { .. } => balanced(&operands(expression, Chain::And), Expr::and),
        ExprKind::BinaryApp { op, arg1, arg2 } => Expr::binary_app(*op, part(arg1), part(arg2)),
        ExprKind::ExtHasAttr { expr, attrs } => Expr::extended_has_attr(part(expr), attrs.clone()),
        ExprKind::ExtensionFunctionApp { fn_name, args } => {
            Expr::call_extension_fn(fn_name.clone(), args.iter().map(part).collect())
        }
        ExprKind::GetAttr { expr, attr } => Expr::get_attr(part(expr), attr.clone()),
        ExprKind::HasAttr { expr, attr } => Expr::has_attr(part(expr), attr.clone()),
        ExprKind::If { test_expr, then_expr, else_expr } => {
            Expr::ite(part(test_expr), part(then_expr), part(else_expr))
        }
        ExprKind::Is { expr, entity_type } => Expr::is_entity_type(part(expr), entity_type.clone()),
        ExprKind::Like { expr, pattern } => Expr::like(part(expr), pattern.clone()),
        ExprKind::Or { .. } => balanced(&operands(expression, Chain::Or), Expr::or),
        ExprKind::Record(attributes) => {
            Expr::record_arc(Arc::new(attributes.iter().map(|(name, value)| (name.clone(), part(value))).collect()))
        }
        ExprKind::Set(members) => Expr::set(members.iter().map(part)),
        ExprKind::UnaryApp { op, arg } => Expr::unary_app(*op, part(arg)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chain {
    And,
    Or,
}

/// The operands of a chain, compiled, in their order.
fn operands(expression: &Expr, chain: Chain) -> Vec<Expr> {
    match (expression.expr_kind(), chain) {
        (ExprKind::And { left, right }, Chain::And) | (ExprKind::Or { left, right }, Chain::Or) => {
            let mut all = operands(left, chain);
            all.extend(operands(right, chain));
            all
        }
        (ExprKind::Lit(Literal::Bool(true)), Chain::And) => Vec::new(),
        _ => vec![compiled(expression)],
    }
}

/// The same chain as a tree that is as shallow as it can be. `&&` and `||` look at their operands from left to right and stop at the
/// first that decides, wherever the brackets are.
fn balanced(operands: &[Expr], join: fn(Expr, Expr) -> Expr) -> Expr {
    match operands {
        [] => Expr::val(true),
        [one] => one.clone(),
        several => {
            let (left, right) = several.split_at(several.len() / 2);
            join(balanced(left, join), balanced(right, join))
        }
    }
}
