//! What Cedar finds wrong with policies, in the words and places that the config's findings have.

use std::fmt::Display;
use std::ops::Range;

use cedar_policy_core::ast::{Expr, PolicySet};
use cedar_policy_core::parser::Loc;
use cedar_policy_core::parser::err::ParseErrors;
use cedar_policy_core::validator::validation_errors::UnsafeAttributeAccess;
use cedar_policy_core::validator::{ValidationError, ValidationMode, ValidationWarning};
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use miette::Diagnostic;

use crate::evaluate::compiled;
use crate::literals;
use crate::schema::{Direction, LOCAL_CALLER_ATTRIBUTES, Schema, USER_ATTRIBUTES, WORKLOAD_ATTRIBUTES};
use crate::text::{CHAIN_MAX, DEPTH_MAX, Excess, LEVELS_MAX, POLICY_BYTES_MAX, is_within};

/// A policy that is never true is a mistake of whoever wrote it.
const IMPOSSIBLE: &str = "this can never hold: it is false whatever is asked by whomever";

/// Everything that is wrong with these policies, in the order of the text.
///
/// Warnings count as errors: they tell of a policy that never applies, or of characters that look like others.
pub(crate) fn findings(policies: &PolicySet, schema: &Schema, direction: Direction) -> Vec<Finding> {
    let deep: Vec<Finding> = policies
        .policies()
        .filter(|policy| !is_shallow(&policy.condition()))
        .map(|policy| too_deep(policy.loc()))
        .collect();
    if !deep.is_empty() {
        return deep;
    }
    let result = schema.validator(direction).validate(policies, ValidationMode::Strict);
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(result.validation_errors().map(|error| of_error(error, direction)));
    findings.extend(result.validation_warnings().map(of_warning));
    for policy in policies.policies() {
        findings.extend(literals::findings(&policy.condition(), &schema.0.names));
    }
    findings.sort_by(|one, other| {
        (one.span.start, one.span.end, &one.message).cmp(&(other.span.start, other.span.end, &other.message))
    });
    // The same part is looked at once for each kind of principal.
    findings.dedup_by(|one, other| one.span == other.span && one.message == other.message);
    without_consequences(findings)
}

/// What names something unknown can never hold either: then the reason is told, not what follows from it.
fn without_consequences(findings: Vec<Finding>) -> Vec<Finding> {
    let reasons: Vec<usize> =
        findings.iter().filter(|finding| finding.message != IMPOSSIBLE).map(|finding| finding.span.start).collect();
    // A condition that was read alone has no place: it is the whole text.
    let follows = |span: &Range<usize>| reasons.iter().any(|reason| span.is_empty() || span.contains(reason));
    findings.into_iter().filter(|finding| finding.message != IMPOSSIBLE || !follows(&finding.span)).collect()
}

/// What keeps a text from being read, in the order of the text.
pub(crate) fn of_syntax(errors: &ParseErrors) -> Vec<Finding> {
    let mut findings: Vec<Finding> = errors
        .iter()
        .map(|error| {
            let expected =
                error.labels().and_then(|mut labels| labels.next()).and_then(|label| label.label().map(str::to_owned));
            Finding { span: span(error), message: error.to_string(), hint: help(error).or(expected) }
        })
        .collect();
    findings.sort_by_key(|finding| finding.span.start);
    findings
}

/// Whether it can be validated, and then decided.
fn is_shallow(condition: &Expr) -> bool {
    is_within(condition, CHAIN_MAX) && is_within(&compiled(condition), LEVELS_MAX)
}

fn too_deep(loc: Option<&Loc>) -> Finding {
    let message = format!("operators are nested deeper than {LEVELS_MAX}, or chained longer than {CHAIN_MAX}");
    Finding::with_hint(
        loc.map_or(0..0, |loc| loc.start()..loc.end()),
        message,
        "write several policies, or `[...].contains(...)`",
    )
}

/// What is too deep or too long to be read.
pub(crate) fn of_excess(excess: Excess) -> Finding {
    match excess {
        Excess::Depth { at } => Finding::with_hint(
            at..at + 1,
            format!("brackets are nested deeper than {DEPTH_MAX}"),
            "write several policies, or use roles",
        ),
        Excess::Length { at } => Finding::with_hint(
            at..at + 1,
            format!("one policy has more than {POLICY_BYTES_MAX} bytes"),
            "write several policies, or use roles",
        ),
    }
}

fn of_error(error: &ValidationError, direction: Direction) -> Finding {
    let message = without_policy(&error.to_string());
    let hint = if let ValidationError::UnsafeAttributeAccess(access) = error {
        unknown_attribute(access, direction)
    } else if let ValidationError::UnrecognizedEntityType(unknown) = error {
        Some(known_types(&unknown.actual_entity_type, direction))
    } else {
        help(error).map(|help| without_policy(&help))
    };
    Finding { span: span(error), message, hint }
}

fn of_warning(warning: &ValidationWarning) -> Finding {
    let is_impossible =
        matches!(warning, ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_));
    let message = if is_impossible { IMPOSSIBLE.to_owned() } else { without_policy(&warning.to_string()) };
    Finding { span: span(warning), message, hint: help(warning) }
}

/// The engine offers any type that is as near as another, a different one each time.
fn known_types(unknown: &str, direction: Direction) -> String {
    let known = match direction {
        Direction::Inbound => &["Workload", "User", "Role", "Service", "Action"][..],
        Direction::Outbound => &["LocalCaller", "Role", "Service", "Action"],
    };
    did_you_mean(unknown, known.iter().copied()).unwrap_or_else(|| format!("here there are: {}", known.join(", ")))
}

/// What is to be done about an attribute that is not there. Another kind of principal may have it; or a similar name is meant,
/// of which the engine always offers one, however far it is.
fn unknown_attribute(access: &UnsafeAttributeAccess, direction: Direction) -> Option<String> {
    let told = access.attribute_access.to_string();
    let mut quoted = told.split('`').skip(1).step_by(2);
    let path = quoted.next()?;
    let lacking = quoted.next().unwrap_or_default();
    let kinds = match direction {
        Direction::Inbound => &[("User", &USER_ATTRIBUTES[..]), ("Workload", &WORKLOAD_ATTRIBUTES[..])][..],
        Direction::Outbound => &[("LocalCaller", &LOCAL_CALLER_ATTRIBUTES[..])],
    };
    let first = path.split('.').next().unwrap_or_default();
    let having = kinds.iter().find(|(kind, attributes)| *kind != lacking && attributes.contains(&first));
    if let Some((kind, _)) = having.filter(|_| kinds.iter().any(|(kind, _)| *kind == lacking)) {
        return Some(format!("who asks may be a {lacking}; write `principal is {kind} && ...`"));
    }
    let last = path.rsplit('.').next().unwrap_or_default();
    did_you_mean(last, access.suggestion.as_deref())
}

/// "for policy `policy0`, ..." tells what the place tells already.
fn without_policy(message: &str) -> String {
    let rest = message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, "));
    rest.map_or(message, |(_, rest)| rest).to_owned()
}

fn help(error: &impl Diagnostic) -> Option<String> {
    error.help().map(|help: Box<dyn Display + '_>| help.to_string())
}

fn span(error: &impl Diagnostic) -> Range<usize> {
    let label = error.labels().and_then(|mut labels| labels.next());
    label.map_or(0..0, |label| label.offset()..label.offset() + label.len())
}
