//! An inbound and its backend.

use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use super::super::address::{BackendAddress, BackendSocket, ListenAddress, Protocol};
use super::super::checked::{Inbound, SecretCommand};
use super::super::{Secrets, file};
use super::conditions;
use super::credentials;
use super::domains::{Identities, foreign_bundle};
use super::inject;
use super::routes::Places;
use super::rules::{self, CouldBeHeld, RuleContext};
use super::scalars::{name, parsed};
use super::token::{self, TokenContext};
use crate::direction::Direction;
use crate::policy::condition::Compiler;
use crate::policy::credential::{CredentialKind, CredentialSet, Demand};
use crate::policy::role::Roles;
use crate::policy::rule::Policy;
use countersign_certs::settings::diagnostic::Finding;

/// What inbounds are checked against.
pub(super) struct InboundContext<'config> {
    pub(super) roles: &'config Arc<Roles>,
    pub(super) compiler: &'config Compiler,
    pub(super) identities: &'config Identities<'config>,
    pub(super) commands: &'config [Arc<SecretCommand>],
    pub(super) secrets: Secrets,
}

pub(super) fn inbound(
    mut written: file::Inbound,
    context: &InboundContext<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<(Inbound, Places), Finding> {
    let &InboundContext { roles, compiler, identities, commands, secrets } = context;
    let places = Places { name: written.name.span(), backend: written.backend.span(), listen: written.listen.span() };
    let name = name(&written.name)?;
    let backend = backend(&written)?;
    check_can_be_used(&written)?;
    let service_facts = conditions::service(&written.name, &written.labels, compiler)?;
    let is_tcp = backend.protocol == Protocol::Tcp;
    let demand = credentials::demand(written.require.as_ref(), written.any_of.as_ref(), &backend)?;
    let listen: ListenAddress = parsed(&written.listen)?;
    let around = RuleContext {
        route: &name,
        direction: Direction::Inbound,
        is_tcp,
        roles,
        compiler,
        could_be_held: could_be_held(roles, demand),
        has_network: !matches!(listen, ListenAddress::Unix(_)),
    };
    let policy = policy(&mut written, &around, files)?;
    check_somebody_can_use(&policy, &written.name)?;
    check_bound_tokens(&written, demand)?;
    let inject = inject::injections(&written.inject.0, &places.name, &backend, commands, secrets, files)?;
    let around = TokenContext { inject: &inject, backend: &backend, demand, identities, commands, secrets };
    let token = written.token.as_ref().map(|table| token::token(table, &around, files)).transpose()?;
    let inbound = Inbound {
        identity: identities.check(&written.identity)?,
        listen,
        demand,
        bound_tokens_only: written.bound_tokens_only,
        policy: Arc::new(policy),
        service_facts,
        foreign_bundle: foreign_bundle(written.foreign_bundle.as_ref())?,
        name,
        backend,
        inject: inject.into(),
        token: token.map(Arc::new),
    };
    files.extend(inbound.foreign_bundle.clone());
    Ok((inbound, places))
}

/// Where what is allowed goes to.
fn backend(written: &file::Inbound) -> Result<BackendAddress, Finding> {
    let place = written.backend.span();
    let backend: BackendAddress = parsed(&written.backend)?;
    if matches!(&backend.socket, BackendSocket::Tcp(addresses) if addresses.iter().any(|address| address.port() == 0)) {
        let hint = "write the port on which the service listens";
        return Err(Finding::with_hint(place, "no service can be reached on port 0", hint));
    }
    if !backend.socket.is_local() && !written.unsafe_backend_beyond_loopback {
        let hint = "put an agent on that host, or set unsafe_backend_beyond_loopback = true";
        return Err(Finding::with_hint(place, "what is forwarded would leave this host in clear text", hint));
    }
    Ok(backend)
}

/// The roles of those who could come in. API keys are given any. A certificate alone makes a caller only where nothing else is demanded.
fn could_be_held(roles: &Roles, demand: Demand) -> CouldBeHeld {
    let (mtls, accepted) = (CredentialSet::default().with(CredentialKind::Mtls), demand.accepted());
    let by = |shown: CredentialSet| {
        (!shown.has(CredentialKind::ApiKey)).then(|| roles.held_by(|member| member.is_shown_by(shown)))
    };
    let (of_requests, by_certificate) = (accepted.without(mtls), accepted.has(CredentialKind::Mtls));
    let is_for_somebody = by_certificate && !of_requests.is_empty();
    CouldBeHeld {
        by_caller: by(if demand.missing(mtls).is_none() { accepted } else { of_requests }),
        by_either: by(accepted),
        by_carrier: roles.held_by(|member| is_for_somebody && member.is_shown_by(mtls)),
    }
}

fn check_can_be_used(written: &file::Inbound) -> Result<(), Finding> {
    if !written.allow.is_empty() || written.policy.is_some() {
        return Ok(());
    }
    let message = format!("nobody could use inbound {:?}: it has no allow rule", written.name.get_ref());
    let hint = "add an [[inbound.allow]] with the roles that may use it";
    Err(Finding::with_hint(written.name.span(), message, hint))
}

fn check_somebody_can_use(policy: &Policy, name: &Spanned<String>) -> Result<(), Finding> {
    if policy.allows_something() {
        return Ok(());
    }
    let message = format!("nobody could use inbound {:?}: what would allow it is only observed", name.get_ref());
    Err(Finding::with_hint(name.span(), message, "enforce one [[inbound.allow]], or the policy file"))
}

/// Who may do what.
fn policy(written: &mut file::Inbound, around: &RuleContext<'_>, files: &mut Vec<PathBuf>) -> Result<Policy, Finding> {
    let (allow, deny) = (std::mem::take(&mut written.allow), std::mem::take(&mut written.deny));
    let file = match &written.policy {
        Some(table) if around.is_tcp => {
            return Err(Finding::new(table.file.span(), "a plain TCP backend has no requests for policies to look at"));
        }
        Some(table) => Some(conditions::policy_file(table, around.compiler, files)?),
        None => None,
    };
    rules::policy(around, deny, allow, file)
}

/// Only an inbound that takes tokens can take bound ones alone.
fn check_bound_tokens(written: &file::Inbound, demand: Demand) -> Result<(), Finding> {
    let accepted = demand.accepted();
    let takes_tokens = accepted.has(CredentialKind::Jwt) || accepted.has(CredentialKind::OpaqueToken);
    if !written.bound_tokens_only || takes_tokens {
        return Ok(());
    }
    let demanded = written.require.as_ref().or(written.any_of.as_ref());
    let place = demanded.map_or_else(|| written.name.span(), Spanned::span);
    let hint = "name \"jwt\" or \"opaque_token\" in require or any_of, or leave bound_tokens_only out";
    Err(Finding::with_hint(place, "only bound tokens are to be taken, and none is", hint))
}
