//! Roles: their members and what they include.

use toml::Spanned;

use super::super::file;
use super::credentials::KnownSubjects;
use super::domains::KnownDomains;
use super::scalars::{name, parsed};
use crate::policy::member::MemberPattern;
use crate::policy::role::{RoleDefinition, Roles, RolesError};
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};

pub(super) fn roles(
    definitions: &[file::Role],
    known: &KnownDomains,
    subjects: &KnownSubjects<'_>,
) -> Result<Roles, Finding> {
    let mut compiled = Vec::new();
    for definition in definitions {
        let mut members = Vec::new();
        for text in &definition.members {
            let member: MemberPattern = parsed(text)?;
            known.check(member.trust_domain(), text.span(), "this member")?;
            member.subject().map_or(Ok(()), |pattern| subjects.check(text, pattern))?;
            members.push(member);
        }
        let includes = definition.includes.iter().map(|include| include.get_ref().as_str().into()).collect();
        compiled.push(RoleDefinition { name: name(&definition.name)?, members, includes });
    }
    Roles::compile(&compiled, subjects.api_keys).map_err(|error| roles_finding(&error, definitions))
}

fn roles_finding(error: &RolesError, definitions: &[file::Role]) -> Finding {
    let span_of = |index: usize| definitions.get(index).map(|role| role.name.span()).unwrap_or_default();
    match error {
        RolesError::Cycle { index, .. } | RolesError::Duplicate { index, .. } | RolesError::Empty { index, .. } => {
            Finding::new(span_of(*index), error)
        }
        RolesError::TooMany { .. } => Finding::new(0..0, error),
        RolesError::UnknownInclude { index, include } => {
            let includes = definitions.get(*index).map(|role| role.includes.as_slice()).unwrap_or_default();
            let span = includes.iter().find(|text| *text.get_ref() == **include).map(Spanned::span).unwrap_or_default();
            let hint = did_you_mean(include, definitions.iter().map(|role| role.name.get_ref().as_str()));
            Finding { span, message: error.to_string(), hint }
        }
    }
}
