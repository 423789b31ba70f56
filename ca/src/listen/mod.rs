//! The listener: accepts, shakes hands, and hands each connection to [`http`]. Everything that a peer can hold has a bound
//! and a deadline.

mod asker;
mod places;
mod quota;

mod http;

pub(crate) mod own;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certs::svid::X509Svid;
use crate::certs::tls::{ClientCertificate, KeyExchange, ServerSide, alpn};
use crate::certs::verify::VerifiedPeer;
use crate::config::Limits;
use crate::issue::Ca;
use asker::Asker;
pub(crate) use own::OwnError;
use places::{Place, Places};
use quota::Quota;

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// The same when more than half of the places for handshakes are taken. An honest one takes two round trips.
const SCARCE_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// One network's part of the places for those who have shown no host's certificate.
const STRANGERS_PART: usize = 8;

/// How long a connection may keep what was written to it before it is closed: a peer that is gone, or does not read.
const STALL_DEADLINE: Duration = Duration::from_secs(30);

/// How long requests may go on after the stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait after the system refused a connection, for example for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Listener {
    ca: Arc<Ca>,
    identity: watch::Receiver<Arc<X509Svid>>,
    stopping: watch::Receiver<bool>,
    handshakes: Arc<Places>,
    hosts: Arc<Places>,
    strangers: Arc<Places>,
    watchers: Arc<Places>,
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
        let Limits { connections, connections_per_host, handshakes, watchers, .. } = ca.settings.limits;
        let Limits { requests_per_second, certificates_per_minute, .. } = ca.settings.limits;
        Self {
            ca,
            identity,
            stopping,
            handshakes: Places::contested(handshakes, handshakes / STRANGERS_PART),
            hosts: Places::contested(connections, connections_per_host),
            // Strangers, who come to enroll, have their own places: they cannot keep enrolled hosts out.
            strangers: Places::contested(handshakes, handshakes / STRANGERS_PART),
            // A host has use for one watch only; if it opens another, the one before has been given up.
            watchers: Places::kept(watchers, 1),
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
                Some((stream, address)) = accept(&socket) => {
                    if let Some(place) = self.handshakes.take(Asker::stranger(address.ip())) {
                        connections.spawn(Arc::clone(&self).connection(stream, address, place));
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

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, place: Place) {
        let accepted = tokio::select! {
            accepted = self.handshake(stream, address) => accepted,
            () = place.lost() => {
                tracing::debug!(%address, "handshake given up for a newer one");
                None
            }
        };
        drop(place);
        let Some(accepted) = accepted else { return };
        let asker = Asker::of(accepted.peer.as_deref(), address.ip());
        let places = if asker.is_host() { &self.hosts } else { &self.strangers };
        match places.take(asker.clone()) {
            Some(place) => http::serve(accepted, asker, place, self).await,
            None => tracing::warn!(%address, %asker, "connection refused, too many are open"),
        }
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
        bound_stall(&stream, STALL_DEADLINE);
        let deadline = if self.handshakes.are_scarce() { SCARCE_HANDSHAKE_DEADLINE } else { HANDSHAKE_DEADLINE };
        let accepted = tokio::time::timeout(deadline, TlsAcceptor::from(config).accept(stream)).await;
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

/// The next connection. None are left to wait: who waits there cannot be told from who has nothing to say.
async fn accept(socket: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match socket.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(error = error.to_string(), "connection cannot be accepted");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

/// Has the system end the connection when the peer takes nothing of what was written for so long, whether it is gone or
/// keeps its window shut: nothing else would end a watch whose lines nobody reads.
fn bound_stall(stream: &TcpStream, deadline: Duration) {
    let milliseconds = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds) {
        tracing::warn!(error = error.to_string(), "a peer that does not read will not be noticed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        bound_stall(&stream, Duration::from_secs(1));
        let written = async {
            loop {
                if let Err(error) = stream.write_all(&[0; 65_536]).await {
                    return error.kind();
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), written).await;
        assert_eq!(ended.expect("the system ends it"), std::io::ErrorKind::TimedOut);
        drop(peer);
    }
}
