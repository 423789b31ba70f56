//! The story of one connection from another host: accept, handshake, identify, authorize, count, forward, record.
//!
//! `outbound.rs` is its mirror.

use std::rc::Rc;
use std::sync::Arc;

use countersign_certs::tls::{Handshake, alpn};
use countersign_certs::verify::VerifiedPeer;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authorize;
use crate::config::address::Protocol;
use crate::connection::Connection;
use crate::direction::Direction;
use crate::forward::tcp;
use crate::identify;
use crate::limit;
use crate::listener::{Origin, PeerAddress, Stream};
use crate::record::ConnectionRecord;
use crate::refusal::{Refusal, Withdrawn};
use crate::routes::InboundRoute;
use crate::serve;
use crate::worker::Worker;

/// A connection that was just accepted.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) address: PeerAddress,
    pub(crate) route: Arc<InboundRoute>,
}

/// A connection whose other side has proved who it is.
struct Encrypted {
    stream: TlsStream<Stream>,
    /// None only where the route takes callers without a certificate.
    peer: Option<Arc<VerifiedPeer>>,
    carries: Carried,
}

/// What the bytes of a connection are.
enum Carried {
    Bytes,
    Http1,
    Http2,
}

/// Serves one inbound connection, from the first byte to the audit line.
pub(crate) async fn serve(accepted: Accepted, worker: Rc<Worker>) {
    let Accepted { stream, address, route } = accepted;
    let counters = worker.counters(&route.counters);
    let mut record = ConnectionRecord::open(&worker, Direction::Inbound, Arc::clone(&route.name), counters, address);
    let outcome = serve_recorded(stream, &route, &worker, &mut record).await;
    record.close(&outcome);
}

async fn serve_recorded(
    stream: Stream,
    route: &Arc<InboundRoute>,
    worker: &Rc<Worker>,
    record: &mut ConnectionRecord,
) -> Result<(), Refusal> {
    worker.audit().admit().await?;
    let _entered = worker.enter();
    // Boxed and taken apart, so that a connection that is idle later keeps neither the handshake's state nor a second stream.
    let Encrypted { stream, peer: verified, carries } =
        Box::pin(handshake(stream, record.address().origin(), route, worker)).await?;
    let identified =
        verified.as_ref().map(|verified| worker.peers().identify(verified, route, &worker.snapshot().roles));
    let peer = identified.map(|peer| record.peer(peer));
    if let Some(peer) = &peer {
        worker.notables().seen(peer.principal(), &route.name, record.address());
    }
    let _peer_place = peer.as_ref().map(|peer| worker.take_peer_place(&route.name, peer.principal())).transpose()?;
    let connection = Connection::inbound(worker, route, record.address(), peer.zip(verified.as_deref()));
    record.carries(&connection);
    authorize::still_trusted(&connection)?;
    // Whoever has proved nothing takes no place from those who have, until a request on the connection is believed.
    match connection.peer() {
        Some(_proved) => connection.take_place(None)?,
        None => worker.enter_stranger(&connection),
    }
    // Boxed, because the state of a carried connection is large, and that of one that waits for its handshake need not be.
    match carries {
        Carried::Bytes => {
            let authorized = record.authorized(authorize::connection(&connection)?);
            let permit = limit::connection(authorized, &connection, record).await?;
            Box::pin(tcp::serve(stream, permit, &connection, record.transfer())).await
        }
        // Each request is authorized by itself, in `exchange.rs`, and again when anything changes.
        Carried::Http1 => Box::pin(serve::http1(stream, Rc::clone(&connection))).await,
        Carried::Http2 => Box::pin(serve::http2(stream, Rc::clone(&connection))).await,
    }
}

fn carried(stream: &TlsStream<Stream>, route: &InboundRoute) -> Carried {
    if route.backend.protocol == Protocol::Tcp {
        return Carried::Bytes;
    }
    match stream.get_ref().1.alpn_protocol() {
        Some(alpn::HTTP_2) => Carried::Http2,
        Some(_) | None => Carried::Http1,
    }
}

/// Both sides prove who they are. Bounded in time, and in how many do it at once.
async fn handshake(
    stream: Stream,
    origin: Origin,
    route: &InboundRoute,
    worker: &Worker,
) -> Result<Encrypted, Refusal> {
    identify::own_certificate(&route.tls.identity, worker.clock().now())?;
    let turn = worker.begin_handshake(origin);
    let (limit, handshakes) = (worker.snapshot().limits.handshake_timeout, worker.snapshot().limits.handshakes);
    let (config, handshake) = route.tls.begin().map_err(Refusal::Tls)?;
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(limit, TlsAcceptor::from(config).accept(stream)) => accepted,
        () = turn.must_give_way() => {
            return Err(Refusal::TooMany { what: "handshakes at once, of which this was the oldest from where most came", limit: handshakes });
        }
        () = worker.drain_begun() => return Err(Refusal::Withdrawn(Withdrawn::Stopped)),
    };
    let stream =
        accepted.map_err(|_elapsed| Refusal::HandshakeTimeout(limit))?.map_err(|error| refused(&handshake, error))?;
    worker.counters(&route.counters).handshakes.add(1);
    let peer = handshake.peer();
    if peer.is_none() && route.demand.needs_certificate() {
        return Err(Refusal::Handshake(std::io::ErrorKind::InvalidData.into()));
    }
    Ok(Encrypted { carries: carried(&stream, route), stream, peer })
}

fn refused(handshake: &Handshake, error: std::io::Error) -> Refusal {
    match handshake.refusal() {
        Some(refusal) => Refusal::Certificate(Box::new(refusal.clone())),
        None => Refusal::Handshake(error),
    }
}
