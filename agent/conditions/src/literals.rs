//! Texts and names in a policy that nothing can ever equal. Cedar's validator knows types, not values.

use std::collections::BTreeSet;
use std::ops::Range;

use cedar_policy_core::ast::{BinaryOp, EntityUID, Expr, ExprKind, Literal, Var};
use cedar_policy_core::parser::Loc;
use countersign_certs::san::San;
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use smol_str::SmolStr;

use crate::clock::Weekday;
use crate::principal::UserKind;
use crate::schema::{
    CONTEXT_ATTRIBUTES, LOCAL_CALLER_ATTRIBUTES, Names, SERVICE_ATTRIBUTES, USER_ATTRIBUTES, WORKLOAD_ATTRIBUTES,
};

/// The methods that HTTP itself defines (RFC 9110 §9.3, RFC 5789). Methods are compared with case.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Most names that a hint lists.
const LISTED_MAX: usize = 10;

/// What can never equal anything in this expression.
pub(crate) fn findings(expression: &Expr, names: &Names) -> Vec<Finding> {
    let mut findings = Vec::new();
    for part in expression.subexpressions() {
        if let ExprKind::Lit(Literal::EntityUID(entity)) = part.expr_kind() {
            findings.extend(entity_finding(entity, part, names));
        } else if let ExprKind::BinaryApp { op: BinaryOp::Eq, arg1, arg2 } = part.expr_kind() {
            findings.extend(text_finding(arg1, arg2, names));
            findings.extend(text_finding(arg2, arg1, names));
        } else if let ExprKind::BinaryApp { op: BinaryOp::Contains, arg1, arg2 } = part.expr_kind()
            && let ExprKind::Set(members) = arg1.expr_kind()
        {
            findings.extend(members.iter().filter_map(|member| text_finding(arg2, member, names)));
        } else if let Some(path) = asked_with_has(part) {
            findings.extend(attribute_finding(&path, part, names));
        }
    }
    findings
}

fn entity_finding(entity: &EntityUID, part: &Expr, names: &Names) -> Option<Finding> {
    let id: &str = entity.eid().as_ref();
    let (message, hint) = match entity.entity_type().to_string().as_str() {
        "LocalCaller" => numbered(id)?,
        "Role" => unknown("role", id, &names.roles)?,
        "Service" => unknown("service", id, &names.services)?,
        "User" => qualified(id, &names.issuers)?,
        "Workload" => canonical(id)?,
        _ => return None,
    };
    let span = span(entity.loc().or_else(|| part.source_loc()));
    Some(Finding { span, message, hint: Some(hint) })
}

fn unknown(kind: &str, id: &str, known: &BTreeSet<String>) -> Option<(String, String)> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    one_of(kind, id, &known)
}

fn numbered(id: &str) -> Option<(String, String)> {
    let is_number = id.parse::<u32>().is_ok_and(|uid| uid.to_string() == id);
    let hint = "write `principal has uid && principal.uid == 1000`";
    (!is_number && id != "loopback").then(|| (format!("{id:?} is no user id"), hint.to_owned()))
}

fn qualified(id: &str, issuers: &BTreeSet<String>) -> Option<(String, String)> {
    let hint =
        "write User::\"ISSUER#SUBJECT\" with the name of the issuer in the config, for example User::\"corp#alice\"";
    match id.split_once('#') {
        Some((issuer, _)) => unknown("issuer", issuer, issuers),
        None => Some((format!("the user {id:?} names no issuer"), hint.to_owned())),
    }
}

fn canonical(id: &str) -> Option<(String, String)> {
    match id.parse::<San>() {
        Ok(name) if name.to_string() == id => None,
        Ok(name) => Some((format!("no workload is named {id:?}"), format!("write it as \"{name}\""))),
        Err(error) => Some((
            format!("no workload is named {id:?}: {error}"),
            "write Workload::\"spiffe://TRUST-DOMAIN/PATH\", or dns:, email: or ip: and the name".to_owned(),
        )),
    }
}

/// Where a test with `has` looks: what it begins with, and each step.
fn asked_with_has(part: &Expr) -> Option<(Var, Vec<&str>)> {
    let (base, steps): (&Expr, Vec<&str>) = if let ExprKind::HasAttr { expr, attr } = part.expr_kind() {
        (expr, vec![attr.as_str()])
    } else if let ExprKind::ExtHasAttr { expr, attrs } = part.expr_kind() {
        (expr, attrs.iter().map(SmolStr::as_str).collect())
    } else {
        return None;
    };
    let (begin, mut path) = path_to(base)?;
    path.extend(steps);
    Some((begin, path))
}

fn path_to(expression: &Expr) -> Option<(Var, Vec<&str>)> {
    if let ExprKind::GetAttr { expr, attr } = expression.expr_kind() {
        let (begin, mut path) = path_to(expr)?;
        path.push(attr);
        return Some((begin, path));
    }
    let ExprKind::Var(begin) = expression.expr_kind() else { return None };
    Some((*begin, Vec::new()))
}

/// A name that nothing declares, asked for with `has`: the validator takes it for "no", and `!` of that for "yes".
fn attribute_finding((begin, path): &(Var, Vec<&str>), part: &Expr, names: &Names) -> Option<Finding> {
    let all =
        |kinds: &[&'static [&'static str]]| kinds.iter().flat_map(|kind| kind.iter().copied()).collect::<Vec<_>>();
    let (kind, name, known) = match (begin, path.as_slice()) {
        (Var::Context, ["headers", name, ..]) => {
            ("declared header", name, names.headers.values().map(String::as_str).collect())
        }
        (Var::Context, ["local", name, ..]) => ("attribute", name, all(&[&LOCAL_CALLER_ATTRIBUTES])),
        (Var::Context, ["query", name, ..]) => {
            ("declared parameter", name, names.queries.iter().map(String::as_str).collect())
        }
        (Var::Context, [name, ..]) => ("attribute", name, all(&[&CONTEXT_ATTRIBUTES])),
        (Var::Principal, ["claims", name, ..]) => {
            ("declared claim", name, names.claims.keys().map(String::as_str).collect())
        }
        (Var::Principal, ["via", name, ..]) => ("attribute", name, all(&[&WORKLOAD_ATTRIBUTES])),
        (Var::Principal, [name, ..]) => {
            ("attribute", name, all(&[&USER_ATTRIBUTES, &WORKLOAD_ATTRIBUTES, &LOCAL_CALLER_ATTRIBUTES]))
        }
        (Var::Resource, ["labels", name, ..]) => ("label", name, names.labels.iter().map(String::as_str).collect()),
        (Var::Resource, [name, ..]) => ("attribute", name, all(&[&SERVICE_ATTRIBUTES])),
        _ => return None,
    };
    let (message, hint) = one_of(kind, name, &known)?;
    Some(Finding { span: span(part.source_loc()), message, hint: Some(hint) })
}

/// A text that is compared with something that never has this value.
fn text_finding(compared: &Expr, with: &Expr, names: &Names) -> Option<Finding> {
    let ExprKind::Lit(Literal::String(found)) = with.expr_kind() else { return None };
    let ExprKind::GetAttr { expr, attr } = compared.expr_kind() else { return None };
    let ExprKind::Var(of) = expr.expr_kind() else { return None };
    let (message, hint) = match (of, attr.as_str()) {
        (Var::Context, "date") => {
            let is_date = found.parse::<jiff::civil::Date>().is_ok_and(|date| date.to_string() == found.as_str());
            (!is_date).then(|| (format!("{found:?} is no date"), "write it like \"2026-11-24\"".to_owned()))
        }
        (Var::Context, "method") => {
            let upper = found.to_ascii_uppercase();
            let is_misspelt = found.as_str() != upper && METHODS.contains(&upper.as_str());
            is_misspelt
                .then(|| (format!("the method {found:?} is never asked for"), format!("did you mean {upper:?}?")))
        }
        (Var::Context, "weekday") => one_of("weekday", found, &Weekday::ALL.map(Weekday::as_str)),
        (Var::Principal, "issuer") => unknown("issuer", found, &names.issuers),
        (Var::Principal, "kind") => {
            one_of("kind of user", found, &[UserKind::User, UserKind::Service].map(UserKind::as_str))
        }
        _ => None,
    }?;
    Some(Finding { span: span(with.source_loc()), message, hint: Some(hint) })
}

fn one_of(kind: &str, found: &str, known: &[&str]) -> Option<(String, String)> {
    if known.contains(&found) {
        return None;
    }
    let hint = did_you_mean(&found.to_ascii_lowercase(), known.iter().copied()).unwrap_or_else(|| {
        let some: Vec<&str> = known.iter().copied().take(LISTED_MAX).collect();
        let more = if known.len() > some.len() { ", ..." } else { "" };
        if known.is_empty() {
            format!("the config has no {kind}")
        } else {
            format!("there are: {}{more}", some.join(", "))
        }
    });
    Some((format!("there is no {kind} {found:?}"), hint))
}

fn span(loc: Option<&Loc>) -> Range<usize> {
    loc.map_or(0..0, |loc| loc.start()..loc.end())
}
