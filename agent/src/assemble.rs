//! Puts a [`Snapshot`] together: a checked config, the identities and trust that are at hand, and open sockets.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::Clock;
use countersign_certs::tls::{ClientCertificate, ClientSide, ServerSide, TlsError, alpn};
use countersign_certs::verify::{Trust, TrustedDomain};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::address::{ListenAddress, Protocol};
use crate::config::checked::{Agent, Inbound, Outbound};
use crate::direction::Direction;
use crate::given::sources::Sources;
use crate::identity::files::{FilesError, FromFiles};
use crate::identity::{Credentials, TrustError, trusted_domains};
use crate::in_words::in_one_line;
use crate::issuers::{self, LiveIssuer};
use crate::limit::live::{self, LiveLimit};
use crate::listener::{Beside, Listener, SocketMode};
use crate::policy::credential::{CredentialKind, Demand};
use crate::record::counters::RouteCounters;
use crate::routes::{Entrance, InboundRoute, Open, OutboundRoute, Phase, Route, Snapshot};
use crate::systemd::HandedOver;

/// Why no snapshot can be made. The one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    #[error("the authorities cannot be used")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{name:?} cannot listen on {address}")]
    Listen { name: Arc<str>, address: ListenAddress, source: io::Error },
    #[error("TLS cannot be set up for an issuer of tokens or a token endpoint")]
    Tls(#[source] TlsError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A config and the files that it names, taken up together.
pub(crate) struct Taken {
    pub(crate) config: Agent,
    pub(crate) files: FromFiles,
    pub(crate) sources: Sources,
}

impl Taken {
    /// Own identities: of the CA, and in files.
    fn svids(&self, credentials: &Credentials) -> BTreeMap<San, Arc<X509Svid>> {
        let mut svids = credentials.svids.clone();
        svids.extend(self.files.svids.iter().map(|(name, svid)| (name.clone(), Arc::clone(svid))));
        svids
    }

    /// Whether every source of credentials that can be asked was asked once.
    pub(crate) fn is_settled(&self, credentials: &Credentials) -> Result<bool, AssembleError> {
        // What a command has printed may prove who we are at a token endpoint.
        self.sources.prove(&self.svids(credentials)).map_err(AssembleError::Tls)?;
        Ok(self.sources.is_settled())
    }
}

/// What happens to a route that cannot listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A new config is refused as a whole.
    AllOrNothing,
    /// Other routes take up new identities and trust all the same; this one waits.
    RouteByRoute,
}

/// What stays from one snapshot to the next: sockets, which nobody else keeps open, and counters.
pub(crate) struct Assembler {
    clock: Clock,
    workers: usize,
    generation: u64,
    handed_over: HandedOver,
    listeners: HashMap<Entrance, Arc<Listener>>,
    counters: BTreeMap<(&'static str, Arc<str>), Vec<Arc<RouteCounters>>>,
    issuers: Vec<Arc<LiveIssuer>>,
    rate_limits: Arc<[Arc<LiveLimit>]>,
}

/// A new snapshot, and the routes that could not be in it yet.
pub(crate) struct Assembled {
    pub(crate) snapshot: Snapshot,
    pub(crate) waiting: Vec<Waiting>,
}

/// A route that cannot serve yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) direction: Direction,
    pub(crate) route: Arc<str>,
    pub(crate) cause: Cause,
}

/// What a route waits for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    /// It is reached, and refuses what it would have to give a credential for.
    #[error("the credential of its backend")]
    Credential,
    #[error("its identity")]
    Identity,
    #[error("its socket: {0}")]
    Socket(String),
}

/// A route that has its identity and needs its socket.
struct Ready<'config> {
    name: &'config Arc<str>,
    entrance: Entrance,
    route: Route,
    outbound: Option<&'config Outbound>,
}

/// The routes that are reached, the sockets by which they are, and those that wait for one.
struct Opened {
    routes: BTreeMap<Entrance, Open>,
    listeners: HashMap<Entrance, Arc<Listener>>,
    /// Sockets that are to take the places of others.
    beside: Vec<Beside>,
    waiting: Vec<Waiting>,
}

/// Identities and trust, joined from every source.
struct AtHand<'taken> {
    svids: BTreeMap<San, Arc<X509Svid>>,
    domains: Vec<TrustedDomain>,
    authorities: &'taken BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
    trusts: HashMap<Option<PathBuf>, Arc<Trust>>,
}

impl Assembler {
    /// Nothing open yet.
    pub(crate) fn new(clock: Clock, workers: usize, handed_over: HandedOver) -> Self {
        Self {
            clock,
            workers,
            generation: 0,
            handed_over,
            listeners: HashMap::new(),
            counters: BTreeMap::new(),
            issuers: Vec::new(),
            rate_limits: Arc::default(),
        }
    }

    /// A snapshot of this config and these credentials. Sockets that both the old and the new one listen on stay open.
    pub(crate) fn assemble(
        &mut self,
        taken: &Taken,
        credentials: &Credentials,
        opening: Opening,
        phase: Phase,
    ) -> Result<Assembled, AssembleError> {
        let config = &taken.config;
        let rate_limits = live::follow(&config.rate_limits, config.store.as_deref(), &self.rate_limits);
        let mut at_hand = AtHand::gather(taken, credentials)?;
        taken.sources.prove(&at_hand.svids).map_err(AssembleError::Tls)?;
        let (ready, mut waiting) = self.ready(taken, &rate_limits, &mut at_hand)?;
        let issuers =
            issuers::follow(&config.accepted.issuers, &self.issuers, &self.clock).map_err(AssembleError::Tls)?;
        let opened = self.open(ready, opening, phase)?;
        waiting.extend(opened.waiting);
        // Only now is anything changed: a socket that is no longer used is closed, a new one is kept.
        opened.beside.into_iter().for_each(Beside::take_place);
        self.listeners = opened.listeners;
        self.issuers = issuers;
        self.rate_limits = rate_limits;
        self.generation += 1;
        let snapshot = Snapshot {
            generation: self.generation,
            limits: config.limits.clone(),
            roles: Arc::clone(&config.roles),
            accepted: Arc::clone(&config.accepted),
            issuers: self.issuers.clone(),
            rate_limits: Arc::clone(&self.rate_limits),
            store: config.store.clone(),
            routes: opened.routes,
            phase,
        };
        Ok(Assembled { snapshot, waiting })
    }

    /// The routes that have their identities, and what is missing.
    fn ready<'config>(
        &mut self,
        taken: &'config Taken,
        rate_limits: &[Arc<LiveLimit>],
        at_hand: &mut AtHand<'_>,
    ) -> Result<(Vec<Ready<'config>>, Vec<Waiting>), AssembleError> {
        let config = &taken.config;
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for inbound in &config.inbounds {
            match self.inbound(inbound, taken, rate_limits, at_hand)? {
                Some(route) => {
                    if !route.given.is_at_hand(self.clock.now()) {
                        waiting.push(Waiting::new(Direction::Inbound, &inbound.name, Cause::Credential));
                    }
                    ready.push(Ready::inbound(inbound, route));
                }
                None => waiting.push(Waiting::new(Direction::Inbound, &inbound.name, Cause::Identity)),
            }
        }
        for outbound in &config.outbounds {
            match self.outbound(outbound, config, at_hand)? {
                Some(route) => ready.push(Ready::outbound(outbound, route)),
                None => waiting.push(Waiting::new(Direction::Outbound, &outbound.name, Cause::Identity)),
            }
        }
        Ok((ready, waiting))
    }

    /// Gives each route its socket. An agent that drains has none.
    fn open(&self, ready: Vec<Ready<'_>>, opening: Opening, phase: Phase) -> Result<Opened, AssembleError> {
        let mut all =
            Opened { routes: BTreeMap::new(), listeners: HashMap::new(), beside: Vec::new(), waiting: Vec::new() };
        for Ready { name, entrance, route, outbound } in ready {
            let mut listener = Weak::new();
            if phase == Phase::Serving {
                let opened = self.listener(name, &entrance, &mut all.beside);
                match opened.and_then(|opened| check_reach(outbound, &opened).map(|()| opened)) {
                    Ok(opened) => {
                        listener = Arc::downgrade(&opened);
                        all.listeners.insert(entrance.clone(), opened);
                    }
                    Err(error) if opening == Opening::AllOrNothing => return Err(error),
                    Err(error) => {
                        let error = in_one_line(&error);
                        tracing::error!(error, "a route waits because it cannot listen");
                        all.waiting.push(Waiting::new(route.direction(), name, Cause::Socket(error)));
                        continue;
                    }
                }
            }
            all.routes.insert(entrance, Open { route, listener });
        }
        Ok(all)
    }

    /// Every limit of the config in use.
    pub(crate) fn rate_limits(&self) -> &Arc<[Arc<LiveLimit>]> {
        &self.rate_limits
    }

    /// The counters of every route that there ever was, by direction and name.
    pub(crate) fn counters(&self) -> &BTreeMap<(&'static str, Arc<str>), Vec<Arc<RouteCounters>>> {
        &self.counters
    }

    fn inbound(
        &mut self,
        inbound: &Inbound,
        taken: &Taken,
        rate_limits: &[Arc<LiveLimit>],
        at_hand: &mut AtHand<'_>,
    ) -> Result<Option<InboundRoute>, AssembleError> {
        let config = &taken.config;
        let Some(identity) = at_hand.svids.get(&inbound.identity).cloned() else { return Ok(None) };
        let trust = at_hand.trust(config.foreign_bundle(&inbound.identity, inbound.foreign_bundle.as_ref()))?;
        let protocols = match inbound.backend.protocol {
            Protocol::Http1 | Protocol::Http2 => vec![alpn::HTTP_2.to_vec(), alpn::HTTP_1_1.to_vec()],
            Protocol::Tcp => Vec::new(),
        };
        Ok(Some(InboundRoute {
            name: Arc::clone(&inbound.name),
            tls: ServerSide {
                identity,
                trust,
                alpn: protocols,
                key_exchange: config.key_exchange,
                client_certificate: client_certificate(inbound.demand),
                clock: self.clock.clone(),
            },
            backend: inbound.backend.clone(),
            demand: inbound.demand,
            bound_tokens_only: inbound.bound_tokens_only,
            policy: Arc::clone(&inbound.policy),
            service_facts: inbound.service_facts.clone(),
            given: Arc::new(taken.sources.given(inbound)),
            rate_limits: of_inbound(rate_limits, &inbound.name),
            counters: self.counters_of(Direction::Inbound, &inbound.name),
        }))
    }

    fn outbound(
        &mut self,
        outbound: &Outbound,
        config: &Agent,
        at_hand: &mut AtHand<'_>,
    ) -> Result<Option<OutboundRoute>, AssembleError> {
        let Some(identity) = at_hand.svids.get(&outbound.identity).cloned() else { return Ok(None) };
        let trust = at_hand.trust(config.foreign_bundle(&outbound.identity, outbound.foreign_bundle.as_ref()))?;
        Ok(Some(OutboundRoute {
            name: Arc::clone(&outbound.name),
            tls: ClientSide {
                identity,
                trust,
                expected: Arc::clone(&outbound.service),
                alpn: Vec::new(),
                key_exchange: config.key_exchange,
                clock: self.clock.clone(),
            },
            is_tcp: outbound.is_tcp,
            entrance: Entrance::of_outbound(outbound),
            endpoints: outbound.endpoints.clone(),
            policy: outbound.policy.clone(),
            service_facts: outbound.service_facts.clone(),
            counters: self.counters_of(Direction::Outbound, &outbound.name),
        }))
    }

    fn counters_of(&mut self, direction: Direction, name: &Arc<str>) -> Vec<Arc<RouteCounters>> {
        let workers = self.workers;
        let fresh = || std::iter::repeat_with(RouteCounters::new).take(workers).collect();
        self.counters.entry((direction.as_str(), Arc::clone(name))).or_insert_with(fresh).clone()
    }

    /// The socket of an entrance: the one that is open already, or a new one.
    fn listener(
        &self,
        name: &Arc<str>,
        entrance: &Entrance,
        beside: &mut Vec<Beside>,
    ) -> Result<Arc<Listener>, AssembleError> {
        let address = entrance.address();
        let refused = |source| AssembleError::Listen { name: Arc::clone(name), address: address.clone(), source };
        if let Some(listener) = self.listeners.get(entrance) {
            return Ok(Arc::clone(listener));
        }
        let is_taken = self.listeners.keys().any(|known| known.address() == address);
        let listener = match (address, entrance.mode()) {
            (ListenAddress::Unix(path), Some(mode)) if is_taken => {
                let (listener, place) = Listener::open_beside(path, mode).map_err(refused)?;
                beside.push(place);
                listener
            }
            (_, mode) => {
                Listener::open(address, mode.unwrap_or(SocketMode::Group), &self.handed_over).map_err(refused)?
            }
        };
        tracing::info!(route = &**name, address = entrance.as_reached(&listener), "listening");
        Ok(Arc::new(listener))
    }
}

/// The limits that can hold on an inbound; none if there are none.
fn of_inbound(limits: &[Arc<LiveLimit>], name: &Arc<str>) -> Option<Arc<[Arc<LiveLimit>]>> {
    let holding: Arc<[_]> = limits.iter().filter(|limit| limit.definition.holds_on(name)).cloned().collect();
    (!holding.is_empty()).then_some(holding)
}

/// A certificate that no rule would look at is not asked for.
fn client_certificate(demand: Demand) -> ClientCertificate {
    match demand.accepted().has(CredentialKind::Mtls) {
        true if demand.needs_certificate() => ClientCertificate::Required,
        true => ClientCertificate::Optional,
        false => ClientCertificate::Unwanted,
    }
}

/// A socket that systemd has opened may be another than the config suggests.
fn check_reach(outbound: Option<&Outbound>, listener: &Listener) -> Result<(), AssembleError> {
    let Some(outbound) = outbound else { return Ok(()) };
    let refused = |text: &str| AssembleError::Listen {
        name: Arc::clone(&outbound.name),
        address: outbound.listen.clone(),
        source: io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()),
    };
    if !listener.is_local() && !outbound.unsafe_listen_beyond_loopback {
        return Err(refused(
            "other hosts could reach this socket; bind it to loopback, or set unsafe_listen_beyond_loopback",
        ));
    }
    let is_handed_over = matches!(outbound.listen, ListenAddress::Systemd(_));
    if is_handed_over && outbound.policy.is_none() && listener.is_open_to_everybody() {
        return Err(refused(
            "every user of this host could reach this socket, and no rule says who may use it; set SocketMode=0660, or add an [[outbound.allow]]",
        ));
    }
    let is_unix = matches!(listener, Listener::Unix(_));
    if outbound.policy.as_ref().is_some_and(|policy| !policy.could_allow_local(is_unix)) {
        return Err(refused(if is_unix {
            "no rule names a role of a user or group, by which programs on a Unix socket are told apart"
        } else {
            "no rule names a role of local:loopback, and the user behind a TCP connection is not known"
        }));
    }
    Ok(())
}

impl Waiting {
    fn new(direction: Direction, route: &Arc<str>, cause: Cause) -> Self {
        Self { direction, route: Arc::clone(route), cause }
    }
}

impl<'config> Ready<'config> {
    fn inbound(inbound: &'config Inbound, route: InboundRoute) -> Self {
        Self {
            name: &inbound.name,
            entrance: Entrance::of_inbound(inbound),
            route: Route::Inbound(Arc::new(route)),
            outbound: None,
        }
    }

    fn outbound(outbound: &'config Outbound, route: OutboundRoute) -> Self {
        Self {
            name: &outbound.name,
            entrance: route.entrance.clone(),
            route: Route::Outbound(Arc::new(route)),
            outbound: Some(outbound),
        }
    }
}

impl<'taken> AtHand<'taken> {
    fn gather(taken: &'taken Taken, credentials: &Credentials) -> Result<Self, AssembleError> {
        let svids = taken.svids(credentials);
        let bundles: Vec<TrustBundle> = taken
            .config
            .trust_domains
            .iter()
            .map(|extra| &extra.bundle)
            .chain(taken.files.bundles.values())
            .cloned()
            .collect();
        let domains = trusted_domains(credentials.trust.as_deref(), &bundles)?;
        Ok(Self { svids, domains, authorities: &taken.files.authorities, trusts: HashMap::new() })
    }

    fn trust(&mut self, foreign: Option<&PathBuf>) -> Result<Arc<Trust>, AssembleError> {
        if let Some(trust) = self.trusts.get(&foreign.cloned()) {
            return Ok(Arc::clone(trust));
        }
        let authorities = foreign.and_then(|path| self.authorities.get(path)).map(Vec::as_slice).unwrap_or_default();
        let trust = Arc::new(Trust::new(self.domains.iter().cloned(), authorities)?);
        self.trusts.insert(foreign.cloned(), Arc::clone(&trust));
        Ok(trust)
    }
}
