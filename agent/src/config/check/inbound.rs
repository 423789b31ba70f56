//! An inbound: its backend, and what is injected for it.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::super::address::{BackendAddress, BackendSocket, Protocol};
use super::super::checked::{Inbound, Injection};
use super::super::{Secrets, file, secret};
use super::conditions;
use super::credentials;
use super::domains::Identities;
use super::routes::Places;
use super::rules;
use super::scalars::{absolute, name, parsed};
use crate::policy::condition::Compiler;
use crate::policy::credential::CredentialKind;
use crate::policy::role::Roles;
use crate::refusal::in_one_line;
use crate::request::is_identity_header;
use countersign_certs::settings::diagnostic::Finding;

pub(super) fn inbound(
    written: file::Inbound,
    roles: &Arc<Roles>,
    compiler: &Compiler,
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
    if written.allow.is_empty() && written.policy.is_none() {
        let hint = "add an [[inbound.allow]] with the roles that may use it";
        return Err(Finding::with_hint(
            places.name,
            format!("nobody could use inbound {name:?}: it has no allow rule"),
            hint,
        ));
    }
    let service = conditions::service(&written, compiler)?;
    let file = match &written.policy {
        Some(table) if backend.protocol == Protocol::Tcp => {
            return Err(Finding::new(table.file.span(), "a plain TCP backend has no requests for policies to look at"));
        }
        Some(table) => Some(conditions::policy_file(table, compiler, files)?),
        None => None,
    };
    let around = rules::Around { inbound: &name, roles, backend: &backend, compiler };
    let policy = rules::policy(&around, written.deny, written.allow, file)?;
    let demand = credentials::demand(written.require.as_ref(), written.any_of.as_ref(), &backend)?;
    let takes_tokens =
        [CredentialKind::Jwt, CredentialKind::OpaqueToken].iter().any(|kind| demand.accepted().has(*kind));
    if written.bound_tokens_only && !takes_tokens {
        let demanded = written.require.as_ref().or(written.any_of.as_ref());
        let hint = "name \"jwt\" or \"opaque_token\" in require or any_of, or leave bound_tokens_only out";
        return Err(Finding::with_hint(
            demanded.map_or(places.name, toml::Spanned::span),
            "only bound tokens are to be taken, and none is",
            hint,
        ));
    }
    let inject = injections(written.inject.0, &backend, secrets, files)?;
    let inbound = Inbound {
        identity: identities.check(&written.identity)?,
        listen: parsed(&written.listen)?,
        demand,
        bound_tokens_only: written.bound_tokens_only,
        policy: Arc::new(policy),
        service,
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        name,
        backend,
        inject: inject.into(),
    };
    files.extend(inbound.foreign_bundle.clone());
    Ok((inbound, places))
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
