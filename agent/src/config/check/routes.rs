//! All routes together: names and addresses that collide, and requests that would go round for ever.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use super::super::address::{BackendSocket, ListenAddress};
use super::super::checked::{Inbound, Outbound};
use countersign_certs::settings::diagnostic::Finding;

/// Most inbounds and outbounds together.
const ROUTES_MAX: usize = 1024;

/// A checked route and the places where its name and its address stand.
pub(super) struct Places {
    pub(super) name: Range<usize>,
    pub(super) backend: Range<usize>,
    pub(super) listen: Range<usize>,
}

pub(super) fn check_routes(inbounds: &[(Inbound, Places)], outbounds: &[(Outbound, Places)]) -> Result<(), Finding> {
    let of_inbounds = inbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    let of_outbounds = outbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    let mut taken: HashMap<&ListenAddress, &str> = HashMap::new();
    for (name, listen, places) in of_inbounds.clone().chain(of_outbounds.clone()) {
        let clash = taken.iter().find(|(other, _)| overlap(other, listen));
        if let Some((_, other)) = clash {
            return Err(Finding::new(
                places.listen.clone(),
                format!("{name:?} listens on {listen}, where {other:?} listens already"),
            ));
        }
        taken.insert(listen, name);
    }
    for (inbound, places) in inbounds {
        if let BackendSocket::Tcp(backend) = &inbound.backend.socket
            && let Some((_, other)) = taken.iter().find(|(listen, _)| reaches(backend, listen))
        {
            let message = format!(
                "the backend of {:?} is this agent's own {other:?}: a request would go round for ever",
                inbound.name
            );
            return Err(Finding::new(places.backend.clone(), message));
        }
    }
    check_unique(of_inbounds.map(|(name, _, places)| (name, places)), "inbound")?;
    check_unique(of_outbounds.map(|(name, _, places)| (name, places)), "outbound")?;
    let count = inbounds.len() + outbounds.len();
    if count > ROUTES_MAX {
        return Err(Finding::new(0..0, format!("{count} inbounds and outbounds, the limit is {ROUTES_MAX}")));
    }
    Ok(())
}

fn check_unique<'route>(
    names: impl Iterator<Item = (&'route Arc<str>, &'route Places)>,
    what: &str,
) -> Result<(), Finding> {
    let mut seen = Vec::new();
    for (name, places) in names {
        if seen.contains(&name) {
            return Err(Finding::new(places.name.clone(), format!("two {what}s have the name {name:?}")));
        }
        seen.push(name);
    }
    Ok(())
}

/// Whether connecting to one of these addresses ends at a listener.
fn reaches(addresses: &[SocketAddr], listen: &ListenAddress) -> bool {
    let ListenAddress::Tcp(listen) = listen else { return false };
    let same = |address: &SocketAddr| {
        address.port() == listen.port() && (address.ip() == listen.ip() || listen.ip().is_unspecified())
    };
    addresses.iter().any(same)
}

/// Whether two addresses cannot be listened on at once: the same, or one port where one side takes every address.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let every = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || every)
        }
        (one, other) => one == other,
    }
}
