//! A whole Cedar file beside a route: `permit` and `forbid` policies.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use cedar_policy_core::ast::{
    Effect as CedarEffect, EntityReference, EntityUID, Expr, Policy as CedarPolicy, PolicySet,
    PrincipalOrResourceConstraint,
};
use cedar_policy_core::parser::{Loc, parse_policyset};
use countersign_certs::settings::diagnostic::{Diagnostic, Finding};

use crate::attributes::Attributes;
use crate::condition::ConditionFailure;
use crate::evaluate::{Evaluation, compiled};
use crate::room::with_room;
use crate::schema::{Direction, Inner, Schema};
use crate::text;
use crate::uses::Uses;
use crate::validate;

/// Largest file in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most policies of one file.
pub const POLICIES_MAX: usize = 10_000;

/// Longest id of a policy in bytes. Ids stand in audit lines.
pub const ID_BYTES_MAX: usize = 128;

/// Most findings that are shown. Who mends these sees the others next time.
pub const FINDINGS_MAX: usize = 20;

/// Policies that were read and checked. Cheap to clone; decisions copy nothing of it.
#[derive(Clone)]
pub struct PolicyFile(Arc<Policies>);

struct Policies {
    schema: Arc<Inner>,
    /// The file, as findings show it.
    name: Arc<str>,
    all: Vec<Policy>,
    /// Policies about anybody, or about a kind of principal.
    general: Vec<usize>,
    /// Policies about one principal, or about the holders of one role. Looking only at those that can apply is what keeps ten
    /// thousand policies affordable.
    about: HashMap<EntityUID, Vec<usize>>,
    uses: Uses,
}

struct Policy {
    id: Arc<str>,
    forbids: bool,
    /// Scope and conditions, built once: the library would build them anew for each request.
    condition: Expr,
}

/// What a file says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Whether a policy applies cannot be told, and no other policy forbids. Deny.
    Error {
        /// The policy's id; the file's name if it is about none of its policies.
        policy: Arc<str>,
        /// What went wrong.
        message: String,
    },
    /// These policies forbid it, whatever others permit. Deny.
    Forbid {
        /// Their ids, in the order of the file.
        ids: Vec<Arc<str>>,
    },
    /// No policy is about it. Deny, unless somebody else allows.
    Nothing,
    /// These policies permit it and none forbids.
    Permit {
        /// Their ids, in the order of the file.
        ids: Vec<Arc<str>>,
    },
}

/// What is wrong with a file: each finding with line, column, the line itself and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyErrors {
    found: Vec<Diagnostic>,
    more: usize,
}

impl PolicyFile {
    /// Reads a file and checks every policy against everything that can exist. `name` is shown in findings.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text: syntax, unknown names, types, policies that can never apply, templates,
    /// ids that are there twice, more or longer policies than are allowed.
    pub fn parse(name: &str, text: &str, schema: &Schema, direction: Direction) -> Result<Self, PolicyErrors> {
        let read = with_room(|| read(name, text, schema, direction)).unwrap_or_else(|error| Err(no_thread(&error)));
        let policies = read.map_err(|findings| {
            let more = findings.len().saturating_sub(FINDINGS_MAX);
            let shown = findings.into_iter().take(FINDINGS_MAX);
            PolicyErrors { found: shown.map(|finding| Diagnostic::public(name, text, finding)).collect(), more }
        })?;
        Ok(Self(Arc::new(policies)))
    }

    /// What the policies say. Every policy that can apply is looked at: one that cannot be decided makes the whole an error, unless
    /// another forbids anyway.
    pub fn decide(&self, attributes: &Attributes) -> Effect {
        let Some(evaluation) = Evaluation::of(attributes, &self.0.schema) else {
            return Effect::Error {
                policy: Arc::clone(&self.0.name),
                message: ConditionFailure::OtherConfig.to_string(),
            };
        };
        let mut forbidding = Vec::new();
        let mut permitting = Vec::new();
        let mut undecided = None;
        for policy in self.candidates(attributes) {
            match evaluation.holds(&policy.condition) {
                Ok(true) if policy.forbids => forbidding.push(Arc::clone(&policy.id)),
                Ok(true) => permitting.push(Arc::clone(&policy.id)),
                Ok(false) => {}
                Err(message) => undecided = undecided.or_else(|| Some((Arc::clone(&policy.id), message))),
            }
        }
        match undecided {
            _ if !forbidding.is_empty() => Effect::Forbid { ids: forbidding },
            Some((policy, message)) => Effect::Error { policy, message },
            None if permitting.is_empty() => Effect::Nothing,
            None => Effect::Permit { ids: permitting },
        }
    }

    /// What must be given so that it can be decided.
    pub fn uses(&self) -> Uses {
        self.0.uses
    }

    /// How many policies there are.
    pub fn count(&self) -> usize {
        self.0.all.len()
    }

    /// The policies whose principal can be the one that asks, in the order of the file. The scope of a policy cannot fail, so the
    /// others could only say "no".
    fn candidates(&self, attributes: &Attributes) -> impl Iterator<Item = &Policy> {
        let policies = &self.0;
        let mut indexes = policies.general.clone();
        if !policies.about.is_empty() {
            let keys = attributes.parties().0.principal.keys();
            indexes.extend(keys.iter().filter_map(|key| policies.about.get(key)).flatten());
            indexes.sort_unstable();
        }
        indexes.into_iter().filter_map(|index| policies.all.get(index))
    }
}

impl fmt::Debug for PolicyFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PolicyFile({} policies)", self.count())
    }
}

impl PolicyErrors {
    /// The findings, at most [`FINDINGS_MAX`] of them.
    pub fn findings(&self) -> &[Diagnostic] {
        &self.found
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.found.iter().map(ToString::to_string).collect();
        formatter.write_str(&shown.join("\n"))?;
        if self.more > 0 {
            write!(formatter, "\n... and {} more", self.more)?;
        }
        Ok(())
    }
}

fn read(name: &str, text: &str, schema: &Schema, direction: Direction) -> Result<Policies, Vec<Finding>> {
    let too_much = |found: usize, allowed: usize, what: &str| {
        let message = format!("the file has {found} {what}; {allowed} are allowed");
        vec![Finding::with_hint(0..0, message, "use roles instead of a policy for each name")]
    };
    if text.len() > FILE_BYTES_MAX {
        return Err(too_much(text.len(), FILE_BYTES_MAX, "bytes"));
    }
    text::check(text).map_err(|excess| vec![validate::of_excess(excess)])?;
    let set = parse_policyset(text).map_err(|errors| validate::of_syntax(&errors))?;
    let count = set.all_templates().count();
    if count > POLICIES_MAX {
        return Err(too_much(count, POLICIES_MAX, "policies"));
    }
    let mut findings = templates(&set);
    findings.extend(doubtful_ids(&set));
    // A template has slots that nobody fills, and types of which nobody knows.
    if findings.is_empty() {
        findings.extend(validate::findings(&set, schema, direction));
    }
    if findings.is_empty() { Ok(Policies::compile(name, &set, schema)) } else { Err(findings) }
}

fn no_thread(error: &io::Error) -> Vec<Finding> {
    let message = format!("no thread can be started to read the file on: {error}");
    vec![Finding::with_hint(0..0, message, "look at the limits of this process (TasksMax, RLIMIT_NPROC)")]
}

fn templates(set: &PolicySet) -> Vec<Finding> {
    let finding = |loc: Option<&Loc>| {
        let hint = "write the name or the role in place of ?principal or ?resource";
        Finding::with_hint(place(loc), "this is a template, and nothing here fills its slots", hint)
    };
    set.templates().map(|template| finding(template.loc())).collect()
}

/// Ids that name two policies, or that would not fit into an audit line.
fn doubtful_ids(set: &PolicySet) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known: BTreeMap<Arc<str>, &CedarPolicy> = BTreeMap::new();
    for policy in in_order(set) {
        let id = id_of(policy);
        if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
            let message = format!("an id has 1 to {ID_BYTES_MAX} bytes and no control characters");
            findings.push(Finding::new(place(policy.loc()), message));
        }
        if known.insert(Arc::clone(&id), policy).is_some() {
            let message = format!("two policies have the id {id:?}");
            findings.push(Finding::with_hint(place(policy.loc()), message, "give each its own: @id(\"...\")"));
        }
    }
    findings
}

impl Policies {
    fn compile(name: &str, set: &PolicySet, schema: &Schema) -> Self {
        let mut policies = Self {
            schema: Arc::clone(&schema.0),
            name: name.into(),
            all: Vec::new(),
            general: Vec::new(),
            about: HashMap::new(),
            uses: Uses::default(),
        };
        for (index, policy) in in_order(set).into_iter().enumerate() {
            match about(policy) {
                Some(key) => policies.about.entry(key).or_default().push(index),
                None => policies.general.push(index),
            }
            let condition = policy.condition();
            policies.uses = policies.uses.union(Uses::of(&condition));
            policies.all.push(Policy {
                id: id_of(policy),
                forbids: policy.effect() == CedarEffect::Forbid,
                condition: compiled(&condition),
            });
        }
        policies
    }
}

/// The one principal or role that a policy is about.
fn about(policy: &CedarPolicy) -> Option<EntityUID> {
    match policy.principal_constraint().into_inner() {
        PrincipalOrResourceConstraint::Eq(EntityReference::EUID(name))
        | PrincipalOrResourceConstraint::In(EntityReference::EUID(name))
        | PrincipalOrResourceConstraint::IsIn(_, EntityReference::EUID(name)) => Some(EntityUID::clone(&name)),
        PrincipalOrResourceConstraint::Any
        | PrincipalOrResourceConstraint::Eq(EntityReference::Slot(_))
        | PrincipalOrResourceConstraint::In(EntityReference::Slot(_))
        | PrincipalOrResourceConstraint::Is(_)
        | PrincipalOrResourceConstraint::IsIn(_, EntityReference::Slot(_)) => None,
    }
}

/// What `@id("...")` says; else `policy` and its number in the file, from 0.
fn id_of(policy: &CedarPolicy) -> Arc<str> {
    let annotated = policy.annotations().find(|(key, _)| key.as_ref() == "id");
    annotated.map_or_else(|| policy.id().to_string().into(), |(_, id)| id.val.as_str().into())
}

fn in_order(set: &PolicySet) -> Vec<&CedarPolicy> {
    let mut policies: Vec<&CedarPolicy> = set.policies().collect();
    policies.sort_by_key(|policy| policy.loc().map_or(0, Loc::start));
    policies
}

fn place(loc: Option<&Loc>) -> Range<usize> {
    loc.map_or(0..0, |loc| loc.start()..loc.end())
}

#[cfg(test)]
mod tests;
