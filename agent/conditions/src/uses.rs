//! What a condition asks for, so that nobody computes what it does not look at.

use cedar_policy_core::ast::{Expr, ExprKind, Var};

/// A set of things that a condition may look at. What is in it must be given to [`Attributes`](crate::attributes::Attributes),
/// else the decision is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uses(u16);

impl Uses {
    /// `context.address`.
    pub const ADDRESS: Self = Self(1);
    /// The age of a certificate and the time that it has left.
    pub const CERTIFICATE: Self = Self(1 << 1);
    /// `principal.claims`.
    pub const CLAIMS: Self = Self(1 << 2);
    /// `context.headers`.
    pub const HEADERS: Self = Self(1 << 3);
    /// `context.local`.
    pub const LOCAL: Self = Self(1 << 4);
    /// `context.method`.
    pub const METHOD: Self = Self(1 << 5);
    /// `context.path`.
    pub const PATH: Self = Self(1 << 6);
    /// `context.query`.
    pub const QUERY: Self = Self(1 << 7);
    /// The hour, the day, the date.
    pub const TIME: Self = Self(1 << 8);

    /// Everything of the context.
    const CONTEXT: Self = Self(
        Self::ADDRESS.0
            | Self::HEADERS.0
            | Self::LOCAL.0
            | Self::METHOD.0
            | Self::PATH.0
            | Self::QUERY.0
            | Self::TIME.0,
    );

    /// Whether all of `others` are looked at.
    pub fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// What either of both looks at.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What an expression looks at: at least that, for an attribute counts whatever it is an attribute of.
    pub(crate) fn of(expression: &Expr) -> Self {
        let mut uses = Self::default();
        let mut contexts_named = 0_usize;
        let mut contexts_opened = 0_usize;
        for part in expression.subexpressions() {
            contexts_named += usize::from(is_context(part));
            if let ExprKind::GetAttr { expr, attr } | ExprKind::HasAttr { expr, attr } = part.expr_kind() {
                uses = uses.union(Self::of_attribute(attr));
                contexts_opened += usize::from(is_context(expr));
            } else if let ExprKind::ExtHasAttr { expr, attrs } = part.expr_kind() {
                uses = attrs.iter().fold(uses, |uses, attribute| uses.union(Self::of_attribute(attribute)));
                contexts_opened += usize::from(is_context(expr));
            }
        }
        // A context that is not opened there and then is handed on whole.
        if contexts_named > contexts_opened { uses.union(Self::CONTEXT) } else { uses }
    }

    fn of_attribute(attribute: &str) -> Self {
        match attribute {
            "address" => Self::ADDRESS,
            "certificate_age_seconds" | "certificate_seconds_left" => Self::CERTIFICATE,
            "claims" => Self::CLAIMS,
            "date" | "hour" | "minute" | "unix_time" | "weekday" | "zone" => Self::TIME,
            "headers" => Self::HEADERS,
            "local" => Self::LOCAL,
            "method" => Self::METHOD,
            "path" => Self::PATH,
            "query" => Self::QUERY,
            _ => Self::default(),
        }
    }
}

fn is_context(expression: &Expr) -> bool {
    matches!(expression.expr_kind(), ExprKind::Var(Var::Context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[Uses]) {
        let expected = expected.iter().fold(Uses::default(), |all, one| all.union(*one));
        assert_eq!(Uses::of(&text.parse().unwrap()), expected, "{text}");
    }

    #[test]
    fn what_is_looked_at_is_known() {
        check("principal in Role::\"a\"", &[]);
        check("context.hour > 3 && context.method == \"GET\"", &[Uses::TIME, Uses::METHOD]);
        check("context has local && context.local.uid == 0", &[Uses::LOCAL]);
        check("principal has claims.department", &[Uses::CLAIMS]);
        check("principal.via.certificate_age_seconds < 9", &[Uses::CERTIFICATE]);
        check("context[\"headers\"] has x", &[Uses::HEADERS]);
        check("context.query has model || context.path like \"/v1/*\"", &[Uses::QUERY, Uses::PATH]);
        check("context.address.isLoopback()", &[Uses::ADDRESS]);
    }

    #[test]
    fn a_context_that_is_handed_on_uses_all_of_it() {
        check("context == {}", &[Uses::CONTEXT]);
        check("(if true then context else context).hour > 1", &[Uses::CONTEXT]);
    }

    #[test]
    fn a_set_contains_what_it_is_made_of() {
        let both = Uses::TIME.union(Uses::QUERY);
        assert!(both.contains(Uses::TIME) && both.contains(Uses::QUERY) && both.contains(both));
        assert!(!both.contains(Uses::PATH) && !Uses::TIME.contains(both));
    }
}
