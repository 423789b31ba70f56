//! An inbound: its rules, its backend, and what is injected for it.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use toml::Spanned;

use super::super::address::{BackendAddress, BackendSocket, Protocol};
use super::super::checked::{Inbound, Injection};
use super::super::{Secrets, file, secret};
use super::domains::Identities;
use super::routes::Places;
use super::scalars::{absolute, name, parsed};
use crate::policy::path::PathPattern;
use crate::policy::role::Roles;
use crate::policy::rule::{Policy, Rule};
use crate::refusal::in_one_line;
use crate::request::is_identity_header;
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};

pub(super) fn inbound(
    written: file::Inbound,
    roles: &Arc<Roles>,
    identities: &Identities<'_>,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<(Inbound, Places), Finding> {
    let places = Places { name: written.name.span(), backend: written.backend.span(), listen: written.listen.span() };
    let name = name(&written.name)?;
    let backend: BackendAddress = parsed(&written.backend)?;
    if matches!(&backend.socket, BackendSocket::Tcp(addresses) if addresses.iter().any(|address| address.port() == 0)) {
        let hint = "write the port on which the service listens";
        return Err(Finding::with_hint(written.backend.span(), "no service can be reached on port 0", hint));
    }
    if !backend.socket.is_local() && !written.unsafe_backend_beyond_loopback {
        let hint = "put an agent on that host, or set unsafe_backend_beyond_loopback = true";
        return Err(Finding::with_hint(
            written.backend.span(),
            "what is forwarded would leave this host in clear text",
            hint,
        ));
    }
    if written.allow.is_empty() {
        let hint = "add an [[inbound.allow]] with the roles that may use it";
        return Err(Finding::with_hint(
            places.name,
            format!("nobody could use inbound {name:?}: it has no allow rule"),
            hint,
        ));
    }
    let mut rules = Vec::new();
    for (index, allow) in written.allow.into_iter().enumerate() {
        rules.push(rule(format!("{name}.allow[{index}]").into(), allow, roles, &backend)?);
    }
    let inject = injections(written.inject.0, &backend, secrets, files)?;
    let inbound = Inbound {
        identity: identities.check(&written.identity)?,
        listen: parsed(&written.listen)?,
        policy: Arc::new(Policy { roles: Arc::clone(roles), rules }),
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        name,
        backend,
        inject: inject.into(),
    };
    files.extend(inbound.foreign_bundle.clone());
    Ok((inbound, places))
}

fn rule(
    name: Arc<str>,
    written: Spanned<file::Allow>,
    roles: &Roles,
    backend: &BackendAddress,
) -> Result<Rule, Finding> {
    let span = written.span();
    let written = written.into_inner();
    if written.roles.is_empty() {
        return Err(Finding::with_hint(span, "this rule can never match: it names no role", "list at least one role"));
    }
    for role in &written.roles {
        if !roles.all_names().iter().any(|known| **known == **role.get_ref()) {
            let hint = did_you_mean(role.get_ref(), roles.all_names().iter().map(|name| &**name));
            return Err(Finding { span: role.span(), message: format!("unknown role {:?}", role.get_ref()), hint });
        }
    }
    let set = roles
        .set(written.roles.iter().map(|role| role.get_ref().as_str()))
        .map_err(|unknown| Finding::new(span, format!("unknown role {unknown:?}")))?;
    if backend.protocol == Protocol::Tcp {
        let methods = written.methods.as_ref().map(Spanned::span);
        let looked_at = methods.or_else(|| written.paths.as_ref().map(Spanned::span));
        if let Some(span) = looked_at {
            let hint = "leave methods and paths out, or make the backend http:// or h2c://";
            return Err(Finding::with_hint(
                span,
                "this rule can never match: the backend is plain TCP, which has neither methods nor paths",
                hint,
            ));
        }
    }
    let methods = written.methods.map(|list| each(&list, "method", method)).transpose()?;
    let paths = written.paths.map(|list| each(&list, "path", PathPattern::parse)).transpose()?;
    Ok(Rule { name, roles: set, methods: methods.map(Into::into), paths: paths.map(Into::into) })
}

/// Parses each text of a list that may not be empty.
fn each<T, E: Display>(
    list: &Spanned<Vec<Spanned<String>>>,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Finding> {
    if list.get_ref().is_empty() {
        let hint = format!("leave the key out to allow every {what}");
        return Err(Finding::with_hint(list.span(), format!("this rule can never match: it names no {what}"), hint));
    }
    list.get_ref()
        .iter()
        .map(|text| {
            parse(text.get_ref())
                .map_err(|error| Finding::new(text.span(), format!("{what} {:?}: {error}", text.get_ref())))
        })
        .collect()
}

fn method(text: &str) -> Result<Method, String> {
    let upper = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !upper {
        return Err("a method is written in upper-case letters".to_owned());
    }
    if text == "CONNECT" || text == "TRACE" {
        return Err("this rule can never match: CONNECT and TRACE are refused before any rule is asked".to_owned());
    }
    Method::from_str(text).map_err(|error| error.to_string())
}

fn injections(
    written: Vec<file::Inject>,
    backend: &BackendAddress,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<Injection>, Finding> {
    let mut injections: Vec<Injection> = Vec::new();
    for inject in written {
        if backend.protocol == Protocol::Tcp {
            return Err(Finding::new(inject.header.span(), "a plain TCP backend has no headers to inject into"));
        }
        let header: HeaderName = inject.header.get_ref().parse().map_err(|_not_a_name| {
            Finding::new(inject.header.span(), format!("{:?} is no header name", inject.header.get_ref()))
        })?;
        if is_identity_header(&header)
            || crate::request::is_hop_by_hop(&header)
            || header == http::header::HOST
            || header == http::header::CONTENT_LENGTH
        {
            return Err(Finding::new(
                inject.header.span(),
                format!("the agent itself sets {header}; it cannot be injected"),
            ));
        }
        if injections.iter().any(|other| other.header == header) {
            return Err(Finding::new(inject.header.span(), format!("{header} is injected twice")));
        }
        let at_value = |error: &dyn Display| Finding::new(inject.value.span(), error);
        let resolved =
            secret::resolve(inject.value.get_ref(), secrets).map_err(|error| at_value(&in_one_line(&error)))?;
        let mut value =
            HeaderValue::from_str(&resolved.value).map_err(|_not_a_value| at_value(&"this is no header value"))?;
        value.set_sensitive(true);
        files.extend(resolved.files);
        injections.push(Injection { header, value });
    }
    Ok(injections)
}
