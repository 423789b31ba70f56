//! What the workers go by at one moment: the checked config joined with the identities and the trust that are at hand.
//!
//! A [`Snapshot`] never changes. A new config, certificate or bundle makes a new one; workers take it up as a whole and
//! look at everything that is under way again.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use countersign_certs::svid::X509Svid;
use countersign_certs::tls::{ClientSide, ServerSide};

use crate::config::address::{BackendAddress, Endpoint, ListenAddress};
use crate::config::checked::{Accepted, Inbound, Limits, Outbound};
use crate::direction::Direction;
use crate::given::Given;
use crate::issuers::LiveIssuer;
use crate::limit::definition::Store;
use crate::limit::live::LiveLimit;
use crate::listener::{Listener, SocketMode};
use crate::policy::condition::{ServiceFacts, Uses};
use crate::policy::credential::Demand;
use crate::policy::role::Roles;
use crate::policy::rule::Policy;
use crate::record::counters::RouteCounters;

/// Everything at one moment.
pub(crate) struct Snapshot {
    /// Grows with each snapshot.
    pub(crate) generation: u64,
    pub(crate) limits: Limits,
    pub(crate) roles: Arc<Roles>,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) issuers: Vec<Arc<LiveIssuer>>,
    /// Every limit on what callers do.
    pub(crate) rate_limits: Arc<[Arc<LiveLimit>]>,
    /// Where shared ones are counted.
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) routes: BTreeMap<Entrance, Open>,
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

/// Where a route is reached. Several routes may leave their port to the kernel, and each has a socket of its own; a fixed
/// address stays the same socket when its route gets another name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entrance {
    listen: ListenAddress,
    chosen_for: Option<(Direction, Arc<str>)>,
    /// Of a Unix socket of our own. With another mode it is another socket: who could connect to the one waits in no queue of the other.
    mode: Option<SocketMode>,
}

/// A route and the socket on which it is reached.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) route: Route,
    /// Kept open by the assembler alone, so that a port is closed when it says so, whoever still goes by an old snapshot.
    pub(crate) listener: Weak<Listener>,
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
    /// What a request must show.
    pub(crate) demand: Demand,
    /// A token that whoever holds it can show is not enough.
    pub(crate) bound_tokens_only: bool,
    pub(crate) policy: Arc<Policy>,
    /// The service as conditions see it.
    pub(crate) service_facts: ServiceFacts,
    /// Those that can hold here; none if there are none.
    pub(crate) rate_limits: Option<Arc<[Arc<LiveLimit>]>>,
    /// What the backend is given in each request.
    pub(crate) given: Arc<Given>,
    /// One for each worker.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

/// An outbound, ready to serve.
pub(crate) struct OutboundRoute {
    pub(crate) name: Arc<str>,
    pub(crate) tls: ClientSide,
    pub(crate) is_tcp: bool,
    pub(crate) entrance: Entrance,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Which programs may do what; none means whoever can reach the socket.
    pub(crate) policy: Option<Arc<Policy>>,
    /// The service as conditions see it.
    pub(crate) service_facts: ServiceFacts,
    /// One for each worker.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
}

impl Entrance {
    /// The entrance of a route that listens on this address.
    fn of(direction: Direction, name: &Arc<str>, listen: &ListenAddress, mode: SocketMode) -> Self {
        let kernel_chooses = matches!(listen, ListenAddress::Tcp(address) if address.port() == 0);
        Self {
            listen: listen.clone(),
            chosen_for: kernel_chooses.then(|| (direction, Arc::clone(name))),
            mode: matches!(listen, ListenAddress::Unix(_)).then_some(mode),
        }
    }

    /// That of an inbound.
    pub(crate) fn of_inbound(inbound: &Inbound) -> Self {
        Self::of(Direction::Inbound, &inbound.name, &inbound.listen, SocketMode::Group)
    }

    /// That of an outbound. Where there are rules, the kernel's word on the caller decides, not the file's mode.
    pub(crate) fn of_outbound(outbound: &Outbound) -> Self {
        let mode = if outbound.policy.is_some() { SocketMode::Everybody } else { SocketMode::Group };
        Self::of(Direction::Outbound, &outbound.name, &outbound.listen, mode)
    }

    /// Where it is reached, with the port that the kernel chose.
    pub(crate) fn as_reached(&self, listener: &Listener) -> String {
        match &self.listen {
            ListenAddress::Systemd(_) | ListenAddress::Tcp(_) => listener.local_address(),
            ListenAddress::Unix(_) => self.listen.to_string(),
        }
    }

    /// The mode of its file, if it has one.
    pub(crate) fn mode(&self) -> Option<SocketMode> {
        self.mode
    }

    /// Whether whoever came in here could come in by another one, which leads to the same route. A socket that is open to everybody is
    /// guarded by rules, and one that is not by its mode.
    pub(crate) fn is_no_wider_than(&self, other: &Self) -> bool {
        self.listen == other.listen
            && (self.mode != Some(SocketMode::Everybody) || other.mode == Some(SocketMode::Everybody))
    }

    /// The address as configured.
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.listen
    }
}

impl Route {
    /// Which of the two it is.
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) => Direction::Inbound,
            Self::Outbound(_) => Direction::Outbound,
        }
    }

    /// The identity that it shows.
    pub(crate) fn identity(&self) -> &Arc<X509Svid> {
        match self {
            Self::Inbound(route) => &route.tls.identity,
            Self::Outbound(route) => &route.tls.identity,
        }
    }
}

impl Snapshot {
    /// Another number as soon as an issuer has other keys.
    pub(crate) fn token_key_epochs(&self) -> u64 {
        self.issuers.iter().map(|issuer| issuer.epoch()).sum()
    }

    /// No routes: before the first is assembled, and after the last.
    pub(crate) fn empty(generation: u64, limits: Limits, phase: Phase) -> Self {
        Self {
            generation,
            limits,
            roles: Arc::default(),
            accepted: Arc::default(),
            issuers: Vec::new(),
            rate_limits: Arc::default(),
            store: None,
            routes: BTreeMap::new(),
            phase,
        }
    }

    /// The inbound of this name.
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

    /// Whether the hour can take back what was allowed.
    pub(crate) fn looks_at_time(&self) -> bool {
        let policies = self.routes.values().filter_map(|open| match &open.route {
            Route::Inbound(route) => Some(&route.policy),
            Route::Outbound(route) => route.policy.as_ref(),
        });
        policies.into_iter().any(|policy| policy.uses.is_some_and(Uses::looks_at_time))
    }
}
