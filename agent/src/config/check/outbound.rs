//! An outbound: who may call, who must answer, and where.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::san::{San, SanError};
use toml::Spanned;

use super::super::address::{Endpoint, ListenAddress};
use super::super::checked::Outbound;
use super::super::file;
use super::conditions;
use super::domains::{Identities, KnownDomains, foreign_bundle};
use super::routes::Places;
use super::rules::{self, CouldBeHeld, RuleContext};
use super::scalars::{name, parsed};
use crate::direction::Direction;
use crate::in_words::in_one_line;
use crate::policy::condition::Compiler;
use crate::policy::role::{RoleSet, Roles};
use crate::policy::rule::Policy;
use countersign_certs::settings::diagnostic::Finding;

pub(super) fn outbound(
    mut written: file::Outbound,
    roles: &Arc<Roles>,
    compiler: &Compiler,
    identities: &Identities<'_>,
    known: &KnownDomains,
    files: &mut Vec<PathBuf>,
) -> Result<(Outbound, Places), Finding> {
    let places = Places { name: written.name.span(), backend: 0..0, listen: written.listen.span() };
    let name = name(&written.name)?;
    let listen: ListenAddress = parsed(&written.listen)?;
    if !listen.is_local() && !written.unsafe_listen_beyond_loopback {
        let hint = "listen on 127.0.0.1, [::1] or a Unix socket, or set unsafe_listen_beyond_loopback = true";
        let message =
            format!("other hosts could use the identity {} without proving who they are", written.identity.get_ref());
        return Err(Finding::with_hint(places.listen, message, hint));
    }
    let is_tcp = match written.protocol.as_ref().map(|protocol| (protocol.get_ref().as_str(), protocol.span())) {
        None | Some(("http", _)) => false,
        Some(("tcp", _)) => true,
        Some((other, span)) => {
            return Err(Finding::new(span, format!("unknown protocol {other:?}; it is \"http\" or \"tcp\"")));
        }
    };
    let around = RuleContext {
        route: &name,
        direction: Direction::Outbound,
        is_tcp,
        roles,
        compiler,
        could_be_held: could_be_held(roles, &listen),
        has_network: false,
    };
    let policy = policy(&mut written, &around, files)?;
    let outbound = Outbound {
        identity: identities.check(&written.identity)?,
        foreign_bundle: foreign_bundle(written.foreign_bundle.as_ref())?,
        service: service(&written, known)?,
        name,
        listen,
        is_tcp,
        endpoints: endpoints(&written.endpoints)?,
        unsafe_listen_beyond_loopback: written.unsafe_listen_beyond_loopback,
        policy: policy.map(Arc::new),
        service_facts: conditions::service(&written.name, &written.labels, compiler)?,
    };
    files.extend(outbound.foreign_bundle.clone());
    Ok((outbound, places))
}

/// Who must answer.
fn service(written: &file::Outbound, known: &KnownDomains) -> Result<Arc<[San]>, Finding> {
    let service_span = written.service.span();
    let mut service = Vec::new();
    for text in &written.service.get_ref().0 {
        let expected: San =
            text.parse().map_err(|error: SanError| Finding::new(service_span.clone(), in_one_line(&error)))?;
        match &expected {
            San::Spiffe(id) => known.check(Some(id.trust_domain()), service_span.clone(), "this service")?,
            San::Dns(_) | San::Email(_) | San::Ip(_) if written.foreign_bundle.is_none() => {
                let hint = "add foreign_bundle with the authorities of that PKI";
                return Err(Finding::with_hint(service_span, "no foreign bundle could vouch for this service", hint));
            }
            San::Dns(_) | San::Email(_) | San::Ip(_) => {}
        }
        service.push(expected);
    }
    if service.is_empty() {
        return Err(Finding::new(service_span, "no service is named: nobody could answer"));
    }
    Ok(service.into())
}

fn endpoints(written: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<Endpoint>, Finding> {
    let mut endpoints = Vec::new();
    for text in written.get_ref() {
        endpoints.push(parsed::<Endpoint>(text)?);
    }
    if endpoints.is_empty() {
        return Err(Finding::new(written.span(), "at least one endpoint is needed, for example \"host-b:9443\""));
    }
    Ok(endpoints)
}

/// The roles of programs on this socket.
fn could_be_held(roles: &Roles, listen: &ListenAddress) -> CouldBeHeld {
    let held = roles.held_by(|member| match listen {
        ListenAddress::Tcp(_) => member.is_local(false),
        ListenAddress::Unix(_) => member.is_local(true),
        // What it is, is known when it is handed over, and the policy as a whole is looked at then.
        ListenAddress::Systemd(_) => member.is_local(false) || member.is_local(true),
    });
    CouldBeHeld { by_caller: Some(held.clone()), by_either: Some(held), by_carrier: RoleSet::default() }
}

/// What programs of this host may do; nothing is written where whoever can reach the socket may do everything.
fn policy(
    written: &mut file::Outbound,
    around: &RuleContext<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Policy>, Finding> {
    let (allow, deny) = (std::mem::take(&mut written.allow), std::mem::take(&mut written.deny));
    let file = match &written.policy {
        Some(table) if around.is_tcp => {
            return Err(Finding::new(table.file.span(), "plain TCP has no requests for policies to look at"));
        }
        Some(table) => Some(conditions::policy_file(table, around.compiler, files)?),
        None => None,
    };
    if allow.is_empty() && file.is_none() {
        return match deny.first() {
            None => Ok(None),
            Some(deny) => Err(Finding::with_hint(
                deny.span(),
                format!("nobody could use outbound {:?}: it has rules that deny and none that allows", around.route),
                "add an [[outbound.allow]] with the roles that may use it",
            )),
        };
    }
    let policy = rules::policy(around, deny, allow, file)?;
    if policy.allows_something() {
        return Ok(Some(policy));
    }
    Err(Finding::with_hint(
        written.name.span(),
        format!("nobody could use outbound {:?}: what would allow it is only observed", around.route),
        "enforce one [[outbound.allow]] or the policy file; without any rule whoever can reach the outbound may use it",
    ))
}
