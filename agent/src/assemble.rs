//! Puts a [`Snapshot`] together: a checked config, the identities and trust that are at hand, and open sockets.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::Clock;
use countersign_certs::tls::{ClientCertificate, ClientSide, ServerSide, alpn};
use countersign_certs::verify::{Trust, TrustedDomain};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::address::{ListenAddress, Protocol};
use crate::config::checked::{Agent, Inbound, Outbound};
use crate::identity::files::{FilesError, FromFiles};
use crate::identity::{Credentials, TrustError, trusted_domains};
use crate::listener::{Listener, SocketMode};
use crate::record::Direction;
use crate::record::counters::RouteCounters;
use crate::refusal::in_one_line;
use crate::routes::{InboundRoute, Open, OutboundRoute, Phase, Route, Snapshot};

/// Why no snapshot can be made. The one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    #[error("the authorities cannot be used")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{name:?} cannot listen on {address}")]
    Listen { name: Arc<str>, address: ListenAddress, source: io::Error },
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A config and the files that it names, taken up together.
pub(crate) struct Taken {
    pub(crate) config: Agent,
    pub(crate) files: FromFiles,
}

/// What happens to a route that cannot listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A new config is refused as a whole.
    AllOrNothing,
    /// Other routes take up new identities and trust all the same; this one waits.
    RouteByRoute,
}

/// What stays from one snapshot to the next: sockets and counters.
pub(crate) struct Assembler {
    clock: Clock,
    workers: usize,
    generation: u64,
    listeners: HashMap<ListenAddress, Arc<Listener>>,
    counters: BTreeMap<(&'static str, Arc<str>), Vec<Arc<RouteCounters>>>,
}

/// A new snapshot, and the routes that could not be in it yet.
pub(crate) struct Assembled {
    pub(crate) snapshot: Snapshot,
    pub(crate) waiting: Vec<Waiting>,
}

/// A route without an identity, or without a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) route: Arc<str>,
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
    pub(crate) fn new(clock: Clock, workers: usize) -> Self {
        Self { clock, workers, generation: 0, listeners: HashMap::new(), counters: BTreeMap::new() }
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
        let mut at_hand = AtHand::gather(taken, credentials)?;
        let mut opened = HashMap::new();
        let mut routes = BTreeMap::new();
        let mut waiting = Vec::new();
        for inbound in &config.inbounds {
            let wait = || Waiting { route: Arc::clone(&inbound.name) };
            let Some(route) = self.inbound(inbound, config, &mut at_hand)? else {
                waiting.push(wait());
                continue;
            };
            if phase != Phase::Serving {
                routes.insert(inbound.listen.clone(), Open { route: Route::Inbound(Arc::new(route)), listener: None });
                continue;
            }
            match self.listener(&inbound.name, &inbound.listen, SocketMode::Group, &mut opened) {
                Ok(listener) => {
                    let listener = Some(listener);
                    routes.insert(inbound.listen.clone(), Open { route: Route::Inbound(Arc::new(route)), listener });
                }
                Err(error) => self.not_listening(error, opening).map(|()| waiting.push(wait()))?,
            }
        }
        for outbound in &config.outbounds {
            let wait = || Waiting { route: Arc::clone(&outbound.name) };
            // Where users are named, the kernel's word on the caller decides, not the file's mode.
            let mode = if outbound.allow.is_some() { SocketMode::Everybody } else { SocketMode::Group };
            let Some(route) = self.outbound(outbound, config, &mut at_hand)? else {
                waiting.push(wait());
                continue;
            };
            if phase != Phase::Serving {
                routes
                    .insert(outbound.listen.clone(), Open { route: Route::Outbound(Arc::new(route)), listener: None });
                continue;
            }
            let listener = self.listener(&outbound.name, &outbound.listen, mode, &mut opened);
            match listener.and_then(|listener| check_reach(outbound, &listener).map(|()| listener)) {
                Ok(listener) => {
                    let listener = Some(listener);
                    routes.insert(outbound.listen.clone(), Open { route: Route::Outbound(Arc::new(route)), listener });
                }
                Err(error) => self.not_listening(error, opening).map(|()| waiting.push(wait()))?,
            }
        }
        // Only now is anything changed: a socket that is no longer used is closed, a new one is kept.
        self.listeners = routes
            .iter()
            .filter_map(|(address, open)| Some((address.clone(), Arc::clone(open.listener.as_ref()?))))
            .collect();
        self.generation += 1;
        let snapshot = Snapshot {
            generation: self.generation,
            limits: config.limits.clone(),
            roles: Arc::clone(&config.roles),
            routes,
            phase,
        };
        Ok(Assembled { snapshot, waiting })
    }

    fn not_listening(&self, error: AssembleError, opening: Opening) -> Result<(), AssembleError> {
        match opening {
            Opening::AllOrNothing => Err(error),
            Opening::RouteByRoute => {
                tracing::error!(error = in_one_line(&error), "a route waits because it cannot listen");
                Ok(())
            }
        }
    }

    /// The counters of every route that there ever was, by direction and name.
    pub(crate) fn counters(&self) -> &BTreeMap<(&'static str, Arc<str>), Vec<Arc<RouteCounters>>> {
        &self.counters
    }

    fn inbound(
        &mut self,
        inbound: &Inbound,
        config: &Agent,
        at_hand: &mut AtHand<'_>,
    ) -> Result<Option<InboundRoute>, AssembleError> {
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
                client_certificate: ClientCertificate::Required,
                clock: self.clock.clone(),
            },
            backend: inbound.backend.clone(),
            policy: Arc::clone(&inbound.policy),
            inject: inbound.inject.clone(),
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
            endpoints: outbound.endpoints.clone(),
            allow: outbound.allow.clone(),
            counters: self.counters_of(Direction::Outbound, &outbound.name),
        }))
    }

    fn counters_of(&mut self, direction: Direction, name: &Arc<str>) -> Vec<Arc<RouteCounters>> {
        let workers = self.workers;
        let fresh = || std::iter::repeat_with(RouteCounters::new).take(workers).collect();
        self.counters.entry((direction.as_str(), Arc::clone(name))).or_insert_with(fresh).clone()
    }

    fn listener(
        &self,
        name: &Arc<str>,
        address: &ListenAddress,
        mode: SocketMode,
        opened: &mut HashMap<ListenAddress, Arc<Listener>>,
    ) -> Result<Arc<Listener>, AssembleError> {
        let refused = |source| AssembleError::Listen { name: Arc::clone(name), address: address.clone(), source };
        if let Some(listener) = self.listeners.get(address).or_else(|| opened.get(address)) {
            if let ListenAddress::Unix(_) = address {
                listener.set_mode(mode).map_err(refused)?;
            }
            return Ok(Arc::clone(listener));
        }
        let listener = Listener::open(address, mode).map_err(refused)?;
        tracing::info!(route = &**name, address = listener.local_address(), "listening");
        let listener = Arc::new(listener);
        opened.insert(address.clone(), Arc::clone(&listener));
        Ok(listener)
    }
}

/// A socket that systemd has opened may be another than the config suggests.
fn check_reach(outbound: &Outbound, listener: &Listener) -> Result<(), AssembleError> {
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
    if outbound.allow.is_some() && matches!(listener, Listener::Tcp(_)) {
        return Err(refused("the user behind a TCP connection is not known; hand over a Unix socket"));
    }
    Ok(())
}

impl<'taken> AtHand<'taken> {
    fn gather(taken: &'taken Taken, credentials: &Credentials) -> Result<Self, AssembleError> {
        let mut svids = credentials.svids.clone();
        svids.extend(taken.files.svids.iter().map(|(name, svid)| (name.clone(), Arc::clone(svid))));
        let bundles: Vec<TrustBundle> =
            taken.config.trust_domains.iter().chain(&taken.files.bundles).cloned().collect();
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
