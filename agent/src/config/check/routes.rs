//! All routes together: names and addresses that collide, and requests that would go round for ever.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use super::super::address::{BackendSocket, ListenAddress};
use super::super::checked::{Control, Inbound, Outbound};
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
        if let Some((_, other)) = taken.iter().find(|(listen, _)| reaches(&inbound.backend.socket, listen)) {
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

/// What the agent itself listens on for its operator: no route listens there, and no peer is forwarded to the socket by which
/// the agent is commanded.
pub(super) fn check_control(
    control: &Control,
    metrics_span: Option<Range<usize>>,
    inbounds: &[(Inbound, Places)],
    outbounds: &[(Outbound, Places)],
) -> Result<(), Finding> {
    let of_inbounds = inbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    let of_outbounds = outbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    for (name, listen, places) in of_inbounds.chain(of_outbounds) {
        if matches!(listen, ListenAddress::Unix(path) if *path == control.socket) {
            let message = format!("{name:?} listens on {listen}, which is the control socket");
            return Err(Finding::new(places.listen.clone(), message));
        }
        if let (Some(metrics), Some(span)) = (control.metrics, &metrics_span)
            && metrics_overlap(metrics, listen)
        {
            let message = format!("metrics would be on {metrics}, where {name:?} listens already");
            return Err(Finding::new(span.clone(), message));
        }
    }
    for (inbound, places) in inbounds {
        if matches!(&inbound.backend.socket, BackendSocket::Unix(path) if *path == control.socket) {
            let message = format!("the backend of {:?} is this agent's own control socket", inbound.name);
            return Err(Finding::new(places.backend.clone(), message));
        }
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

/// Whether connecting to a backend ends at a listener.
fn reaches(backend: &BackendSocket, listen: &ListenAddress) -> bool {
    match (backend, listen) {
        (BackendSocket::Tcp(addresses), ListenAddress::Tcp(listen)) => addresses.iter().any(|address| {
            // ::ffff:127.0.0.1 is reached over IPv4.
            let ip = address.ip().to_canonical();
            address.port() == listen.port() && (ip == listen.ip() || takes_all_of(listen.ip(), ip))
        }),
        (BackendSocket::Unix(backend), ListenAddress::Unix(listen)) => backend == listen,
        (BackendSocket::Tcp(_) | BackendSocket::Unix(_), _other_kind) => false,
    }
}

/// Whether two addresses cannot be listened on at once: the same, or one port where one side takes every address.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let every = takes_all_of(one.ip(), other.ip()) || takes_all_of(other.ip(), one.ip());
            one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || every)
        }
        (one, other) => one == other,
    }
}

/// Whether listening on an address takes every address of the other's family; `[::]` of a route does not take IPv4 along.
fn takes_all_of(listen: IpAddr, other: IpAddr) -> bool {
    listen.is_unspecified() && listen.is_ipv4() == other.is_ipv4()
}

/// The same for the metrics port, whose `[::]` takes IPv4 along.
fn metrics_overlap(metrics: SocketAddr, listen: &ListenAddress) -> bool {
    let every = metrics.is_ipv6() && metrics.ip().is_unspecified() && metrics.port() != 0;
    let same_port = matches!(listen, ListenAddress::Tcp(listen) if listen.port() == metrics.port());
    (every && same_port) || overlap(&ListenAddress::Tcp(metrics), listen)
}
