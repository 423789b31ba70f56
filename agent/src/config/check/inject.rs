//! Credentials that the backend of an inbound is given: where each stands, and where it comes from.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::Finding;
use countersign_certs::spelling::is_same_parameter;
use http::{HeaderName, StatusCode, header};
use toml::Spanned;

use super::super::address::{BackendAddress, Protocol};
use super::super::checked::{Injection, SecretCommand};
use super::super::{Secrets, file, secret};
use super::commands;
use crate::given::place::{Form, Place};
use crate::in_words::in_one_line;
use crate::request::{is_hop_by_hop, is_identity_header};

/// Most credentials for one backend.
const INJECTIONS_MAX: usize = 16;

/// Most statuses that refuse a credential.
const REFUSED_BY_MAX: usize = 8;

/// Longest name of a parameter or of a user in bytes.
const NAME_BYTES_MAX: usize = 256;

/// `route` is where the inbound's name stands: lines with secrets are not shown, and what concerns none of them is said there.
pub(super) fn injections(
    written: &[file::Inject],
    route: &Range<usize>,
    backend: &BackendAddress,
    commands: &[Arc<SecretCommand>],
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<Injection>, Finding> {
    if written.len() > INJECTIONS_MAX {
        let message = format!("{} credentials for one backend; the most is {INJECTIONS_MAX}", written.len());
        return Err(Finding::new(route.clone(), message));
    }
    let mut injections: Vec<Injection> = Vec::new();
    for inject in written {
        let (form, span) = form(inject, route)?;
        if backend.protocol == Protocol::Tcp {
            return Err(Finding::new(span, "a plain TCP backend has no headers to inject into"));
        }
        if let Some(other) = injections.iter().find(|other| is_same_place(&other.form, &form)) {
            return Err(Finding::new(span, format!("{} is injected twice", other.form.place())));
        }
        let mut template = |text: &Spanned<String>| {
            let at_value = |error: &dyn std::error::Error| Finding::new(text.span(), in_one_line(error));
            let resolved = secret::template(text.get_ref(), secrets).map_err(|error| at_value(&error))?;
            commands::check_named(&resolved.value, commands, "an [[inbound.inject]]", route)?;
            // What a command will print is not known yet, and can be written if it is not too long.
            let filled = resolved.value.fill(|_command| Some(Arc::default())).unwrap_or_default();
            form.write(&filled).map_err(|error| at_value(&error))?;
            files.extend(resolved.files);
            Ok(resolved.value)
        };
        let value = template(secret_of(inject, &form, route)?)?;
        let next = inject.next.as_ref().map(template).transpose()?;
        injections.push(Injection { form, value, next, refused_by: refused_by(inject.refused_by.as_ref())? });
    }
    Ok(injections)
}

/// Exactly one of the keys that tell where it stands.
fn form(inject: &file::Inject, route: &Range<usize>) -> Result<(Form, Range<usize>), Finding> {
    match (&inject.header, &inject.query, &inject.basic_user) {
        (Some(header), None, None) => Ok((Form::Header(header_name(header)?), header.span())),
        (None, Some(query), None) => Ok((Form::Query(parameter(query)?), query.span())),
        (None, None, Some(user)) => Ok((Form::Basic { user: user_name(user)? }, user.span())),
        (None, None, None) => {
            let hint = "write header = \"NAME\", query = \"NAME\" or basic_user = \"NAME\"";
            Err(Finding::with_hint(route.clone(), "an [[inbound.inject]] does not say where it stands", hint))
        }
        (header, query, user) => {
            let last = [header, query, user].into_iter().flatten().next_back();
            let span = last.map_or_else(|| route.clone(), Spanned::span);
            Err(Finding::new(span, "one credential stands in one place: header, query or basic_user"))
        }
    }
}

pub(super) fn header_name(text: &Spanned<String>) -> Result<HeaderName, Finding> {
    let name: HeaderName = text
        .get_ref()
        .parse()
        .map_err(|_not_a_name| Finding::new(text.span(), format!("{:?} is no header name", text.get_ref())))?;
    if is_identity_header(&name) || is_hop_by_hop(&name) || name == header::HOST || name == header::CONTENT_LENGTH {
        return Err(Finding::new(text.span(), format!("the agent itself sets {name}; it cannot be injected")));
    }
    Ok(name)
}

fn parameter(text: &Spanned<String>) -> Result<Box<str>, Finding> {
    let name = text.get_ref();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'$');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(name.as_str().into())
    } else {
        let message = format!("{name:?} is no name of a parameter: letters, digits, '-', '.', '_', '~' or '$'");
        Err(Finding::new(text.span(), message))
    }
}

/// What may stand before the colon (RFC 7617 §2). Beyond ASCII it is not agreed how a name is encoded.
fn user_name(text: &Spanned<String>) -> Result<String, Finding> {
    let name = text.get_ref();
    if name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':') {
        Ok(name.clone())
    } else {
        Err(Finding::new(text.span(), format!("{name:?} is no name of a user: printable ASCII without ':'")))
    }
}

fn is_same_place(one: &Form, other: &Form) -> bool {
    match (one.place(), other.place()) {
        (Place::Header(one), Place::Header(other)) => one == other,
        (Place::Query(one), Place::Query(other)) => is_same_parameter(one.as_bytes(), other.as_bytes()),
        (Place::Header(_), Place::Query(_)) | (Place::Query(_), Place::Header(_)) => false,
    }
}

/// The secret has a name of its own where it is a password.
fn secret_of<'file>(
    inject: &'file file::Inject,
    form: &Form,
    route: &Range<usize>,
) -> Result<&'file Spanned<String>, Finding> {
    let (wanted, name, unwanted) = match form {
        Form::Basic { .. } => (&inject.password, "password", &inject.value),
        Form::Header(_) | Form::Query(_) => (&inject.value, "value", &inject.password),
    };
    match (wanted, unwanted) {
        (Some(secret), None) => Ok(secret),
        (None, _) => {
            let message = format!("an [[inbound.inject]] for {} has no {name}", form.place());
            Err(Finding::with_hint(route.clone(), message, format!("add a line: {name} = \"${{file:/PATH}}\"")))
        }
        (Some(_), Some(_)) => {
            let message = format!("{} is written with {name} alone", form.place());
            Err(Finding::new(route.clone(), message))
        }
    }
}

/// Statuses of an answer that say that the credential is not taken.
fn refused_by(written: Option<&Spanned<Vec<u16>>>) -> Result<Vec<StatusCode>, Finding> {
    let Some(written) = written else { return Ok(vec![StatusCode::UNAUTHORIZED]) };
    let status = |number: &u16| StatusCode::from_u16(*number).ok().filter(StatusCode::is_client_error);
    let statuses: Option<Vec<StatusCode>> = written.get_ref().iter().map(status).collect();
    match statuses.filter(|statuses| !statuses.is_empty() && statuses.len() <= REFUSED_BY_MAX) {
        Some(statuses) => Ok(statuses),
        None => {
            Err(Finding::new(written.span(), format!("it is a list of 1 to {REFUSED_BY_MAX} numbers of 400 to 499")))
        }
    }
}
