//! The listener: accepts, shakes hands, and hands each connection to [`http`]. Everything that a peer can hold has a bound
//! and a deadline.

mod http;
pub(crate) mod own;
mod quota;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certs::svid::X509Svid;
use crate::certs::tls::{ClientCertificate, KeyExchange, ServerSide, alpn};
use crate::certs::verify::VerifiedPeer;
use crate::config::Limits;
use crate::issue::Ca;
pub(crate) use own::OwnError;
use quota::Quota;

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long requests may go on after the stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait after the system refused a connection, for example for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Listener {
    ca: Arc<Ca>,
    identity: watch::Receiver<Arc<X509Svid>>,
    stopping: watch::Receiver<bool>,
    handshakes: Arc<Semaphore>,
    hosts: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    requests: Quota,
    issuances: Quota,
}

/// One connection after its handshake.
struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Option<Arc<VerifiedPeer>>,
    address: SocketAddr,
}

impl Listener {
    pub(crate) fn new(ca: Arc<Ca>, identity: watch::Receiver<Arc<X509Svid>>, stopping: watch::Receiver<bool>) -> Self {
        let Limits { connections, handshakes, watchers, requests_per_second, certificates_per_minute, .. } =
            ca.settings.limits.clone();
        let bound = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            ca,
            identity,
            stopping,
            handshakes: bound(handshakes),
            hosts: bound(connections),
            strangers: bound(handshakes),
            watchers: bound(watchers),
            requests: Quota::per_second(requests_per_second),
            issuances: Quota::per_minute(certificates_per_minute),
        }
    }

    /// Serves until told to stop, then lets running requests finish.
    pub(crate) async fn serve(self: Arc<Self>, socket: TcpListener) {
        let mut connections = JoinSet::new();
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                (accepted, permit) = accept(&socket, &self.handshakes) => {
                    if let Some((stream, address)) = accepted {
                        connections.spawn(Arc::clone(&self).connection(stream, address, permit));
                    }
                }
                Some(_ended) = connections.join_next() => {}
                _ = stopping.wait_for(|stop| *stop) => break,
            }
        }
        drop(socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections cut after the drain deadline");
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, permit: Option<OwnedSemaphorePermit>) {
        let Some(accepted) = self.handshake(stream, address).await else { return };
        // Strangers, who come to enroll, have their own places: they cannot keep enrolled hosts out.
        let places = if accepted.peer.is_some() { &self.hosts } else { &self.strangers };
        let Ok(_place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!(%address, enrolled = accepted.peer.is_some(), "connection refused, too many are open");
            return;
        };
        drop(permit);
        http::serve(accepted, self).await;
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Option<Accepted> {
        let server = ServerSide {
            identity: Arc::clone(&self.identity.borrow()),
            trust: Arc::clone(&self.ca.published.borrow().trust),
            alpn: vec![alpn::HTTP_1_1.to_vec()],
            key_exchange: KeyExchange::default(),
            client_certificate: ClientCertificate::Optional,
            clock: self.ca.clock.clone(),
        };
        let (config, handshake) = server
            .begin()
            .inspect_err(|error| tracing::error!(error = error.to_string(), "tls cannot be set up"))
            .ok()?;
        // Answers are small and whole; waiting for more bytes would only delay them.
        stream.set_nodelay(true).ok();
        let accepted = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(stream)).await;
        match (accepted, handshake.refusal()) {
            (Ok(Ok(stream)), _) => Some(Accepted { stream, peer: handshake.peer(), address }),
            (_, Some(refusal)) => {
                let claimed = refusal.claimed().map(ToString::to_string);
                let (reason, error) = (refusal.reason(), refusal.to_string());
                tracing::warn!(%address, reason, claimed, error, "handshake refused");
                None
            }
            (Ok(Err(error)), None) => {
                tracing::debug!(%address, error = error.to_string(), "handshake failed");
                None
            }
            (Err(_elapsed), None) => {
                tracing::debug!(%address, "handshake took too long");
                None
            }
        }
    }
}

/// The next connection, once there is room for its handshake.
async fn accept(
    socket: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> (Option<(TcpStream, SocketAddr)>, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always is a permit in the end.
    let permit = Arc::clone(handshakes).acquire_owned().await.ok();
    match socket.accept().await {
        Ok(accepted) => (Some(accepted), permit),
        Err(error) => {
            tracing::warn!(error = error.to_string(), "connection cannot be accepted");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            (None, permit)
        }
    }
}
