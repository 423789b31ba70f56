//! Conditions of rules, and files of policies: what the flat table of rules cannot say. They are written in Cedar, and a build
//! without the feature `conditions` knows none.

#[cfg(feature = "conditions")]
mod cedar;

#[cfg(feature = "conditions")]
pub(crate) use cedar::{Compiler, Condition, Facts, PolicyFile, ServiceFacts, Uses};

#[cfg(not(feature = "conditions"))]
mod none;

#[cfg(not(feature = "conditions"))]
pub(crate) use none::{Compiler, Condition, Facts, PolicyFile, ServiceFacts, Uses};

use std::sync::Arc;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "conditions"), expect(dead_code, reason = "there is nothing that could say so"))]
pub(crate) enum Evaluation {
    Fails,
    Holds,
    /// It cannot be told, which is never a "no": the request is denied for that.
    Unclear,
}

/// What a file of policies says. Each names the policy that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "conditions"), expect(dead_code, reason = "there is nothing that could say so"))]
pub(crate) enum FileEffect {
    Forbids(Arc<str>),
    Permits(Arc<str>),
    SaysNothing,
    Unclear(Arc<str>),
}
