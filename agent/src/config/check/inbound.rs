//! An inbound and its backend.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::address::{BackendAddress, BackendSocket, Protocol};
use super::super::checked::{Inbound, SecretCommand};
use super::super::{Secrets, file};
use super::conditions;
use super::credentials;
use super::domains::Identities;
use super::inject;
use super::routes::Places;
use super::rules;
use super::scalars::{absolute, name, parsed};
use super::token::{self, Around};
use crate::direction::Direction;
use crate::policy::condition::Compiler;
use crate::policy::credential::CredentialKind;
use crate::policy::role::Roles;
use countersign_certs::settings::diagnostic::Finding;

pub(super) fn inbound(
    written: file::Inbound,
    roles: &Arc<Roles>,
    compiler: &Compiler,
    identities: &Identities<'_>,
    commands: &[Arc<SecretCommand>],
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
    let service_facts = conditions::service(&written.name, &written.labels, compiler)?;
    let file = match &written.policy {
        Some(table) if backend.protocol == Protocol::Tcp => {
            return Err(Finding::new(table.file.span(), "a plain TCP backend has no requests for policies to look at"));
        }
        Some(table) => Some(conditions::policy_file(table, compiler, files)?),
        None => None,
    };
    let around = rules::Around {
        route: &name,
        direction: Direction::Inbound,
        is_tcp: backend.protocol == Protocol::Tcp,
        roles,
        compiler,
    };
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
    let inject = inject::injections(&written.inject.0, &places.name, &backend, commands, secrets, files)?;
    let token = match &written.token {
        Some(token) => Some(Arc::new(token::token(
            token,
            &Around { inject: &inject, backend: &backend, demand, identities, commands, secrets },
            files,
        )?)),
        None => None,
    };
    let inbound = Inbound {
        identity: identities.check(&written.identity)?,
        listen: parsed(&written.listen)?,
        demand,
        bound_tokens_only: written.bound_tokens_only,
        policy: Arc::new(policy),
        service_facts,
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        name,
        backend,
        inject: inject.into(),
        token,
    };
    files.extend(inbound.foreign_bundle.clone());
    Ok((inbound, places))
}
