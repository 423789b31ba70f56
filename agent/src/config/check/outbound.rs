//! An outbound: who may call, who must answer, and where.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::san::{San, SanError};
use toml::Spanned;

use super::super::address::{Endpoint, ListenAddress};
use super::super::checked::{LocalUsers, Outbound};
use super::super::file;
use super::domains::{Identities, KnownDomains};
use super::routes::Places;
use super::scalars::{absolute, name, parsed};
use crate::refusal::in_one_line;
use countersign_certs::settings::diagnostic::Finding;

pub(super) fn outbound(
    written: file::Outbound,
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
    let allow = local_users(&written.allow, &listen)?;
    let outbound = Outbound {
        identity: identities.check(&written.identity)?,
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        service: service(&written, known)?,
        name,
        listen,
        is_tcp,
        endpoints: endpoints(&written.endpoints)?,
        unsafe_listen_beyond_loopback: written.unsafe_listen_beyond_loopback,
        allow,
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

fn local_users(written: &[Spanned<file::AllowLocal>], listen: &ListenAddress) -> Result<Option<LocalUsers>, Finding> {
    let mut users: Option<LocalUsers> = None;
    for allow in written {
        let span = allow.span();
        if matches!(listen, ListenAddress::Tcp(_)) {
            let hint = "listen on a Unix socket to tell local users apart";
            return Err(Finding::with_hint(
                span,
                "this rule can never match: the user behind a TCP connection is not known",
                hint,
            ));
        }
        let allow = allow.get_ref();
        if allow.uids.is_empty() && allow.gids.is_empty() {
            return Err(Finding::new(span, "this rule can never match: it names neither uids nor gids"));
        }
        let users = users.get_or_insert_with(|| LocalUsers { uids: Vec::new(), gids: Vec::new() });
        users.uids.extend(&allow.uids);
        users.gids.extend(&allow.gids);
    }
    Ok(users)
}
