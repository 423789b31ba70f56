//! What the workers go by at one moment: the checked config joined with the identities and the trust that are at hand.
//!
//! A [`Snapshot`] never changes. A new config, certificate or bundle makes a new one; workers take it up as a whole and
//! look at everything that is under way again.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_certs::svid::X509Svid;
use countersign_certs::tls::{ClientSide, ServerSide};

use crate::config::address::{BackendAddress, Endpoint, ListenAddress};
use crate::config::checked::{Injection, Limits, LocalUsers};
use crate::listener::Listener;
use crate::policy::role::Roles;
use crate::policy::rule::Policy;
use crate::record::counters::RouteCounters;

/// Everything at one moment.
pub(crate) struct Snapshot {
    /// Grows with each snapshot.
    pub(crate) generation: u64,
    pub(crate) limits: Limits,
    pub(crate) roles: Arc<Roles>,
    pub(crate) routes: BTreeMap<ListenAddress, Open>,
    pub(crate) phase: Phase,
}

/// How far the agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything is open.
    Serving,
    /// Nothing new is taken; what runs may finish.
    Draining,
    /// What still runs is ended.
    Stopping,
}

/// A route and the socket on which it is reached.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) route: Route,
    /// None while the agent drains: the port is closed, and what runs goes on.
    pub(crate) listener: Option<Arc<Listener>>,
}

/// Either of the two directions.
#[derive(Clone)]
pub(crate) enum Route {
    Inbound(Arc<InboundRoute>),
    Outbound(Arc<OutboundRoute>),
}

/// An inbound, ready to serve.
pub(crate) struct InboundRoute {
    pub(crate) name: Arc<str>,
    pub(crate) tls: ServerSide,
    pub(crate) backend: BackendAddress,
    pub(crate) policy: Arc<Policy>,
    pub(crate) inject: Vec<Injection>,
    /// One for each worker.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

/// An outbound, ready to serve.
pub(crate) struct OutboundRoute {
    pub(crate) name: Arc<str>,
    pub(crate) tls: ClientSide,
    pub(crate) is_tcp: bool,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) allow: Option<LocalUsers>,
    /// One for each worker.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

impl Route {
    /// The identity that it shows.
    pub(crate) fn identity(&self) -> &Arc<X509Svid> {
        match self {
            Self::Inbound(route) => &route.tls.identity,
            Self::Outbound(route) => &route.tls.identity,
        }
    }
}

impl Snapshot {
    /// The inbound at an address, under the name that a connection knows it by.
    pub(crate) fn inbound(&self, name: &str) -> Option<&Arc<InboundRoute>> {
        self.routes.values().find_map(|open| match &open.route {
            Route::Inbound(route) if *route.name == *name => Some(route),
            Route::Inbound(_) | Route::Outbound(_) => None,
        })
    }

    /// The outbound of this name.
    pub(crate) fn outbound(&self, name: &str) -> Option<&Arc<OutboundRoute>> {
        self.routes.values().find_map(|open| match &open.route {
            Route::Outbound(route) if *route.name == *name => Some(route),
            Route::Inbound(_) | Route::Outbound(_) => None,
        })
    }
}
