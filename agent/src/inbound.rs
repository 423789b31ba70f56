//! The story of one connection from another host: accept, handshake, identify, authorize, forward, record.
//!
//! `outbound.rs` is its mirror.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use countersign_certs::tls::{Handshake, alpn};
use countersign_certs::verify::VerifiedPeer;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authorize;
use crate::config::address::Protocol;
use crate::forward::connection::{Connection, Opened};
use crate::forward::rewind::Rewind;
use crate::forward::{http, tcp};
use crate::identify;
use crate::listener::{PeerAddress, Stream};
use crate::live::Live;
use crate::record::{ConnectionRecord, Direction};
use crate::refusal::{Refusal, Withdrawn};
use crate::routes::InboundRoute;
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
    peer: Arc<VerifiedPeer>,
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
    let _place = worker.take_place(&route.name)?;
    let encrypted = Box::pin(handshake(stream, route, worker)).await?;
    let peer = record.peer(worker.peers().identify(&encrypted.peer, route, &worker.snapshot().roles));
    let _peer_place = worker.take_peer_place(&route.name, peer.principal())?;
    let connection = Connection::new(worker, opened(&encrypted, route, worker, record, peer));
    let connection = Live::enter(worker.connections(), connection);
    authorize::peer(&connection)?;
    if route.backend.protocol == Protocol::Tcp {
        record.rule(authorize::connection(&connection)?);
        return Box::pin(tcp::serve(encrypted.stream, Rc::clone(&connection), record.transfer())).await;
    }
    // Each request is authorized by itself, and again when anything changes.
    match encrypted.stream.get_ref().1.alpn_protocol() {
        Some(alpn::HTTP_2) => Box::pin(http::serve_http2(TokioIo::new(encrypted.stream), Rc::clone(&connection))).await,
        _ => {
            let stream = Rewind::new(Bytes::new(), encrypted.stream);
            Box::pin(http::serve_http1(stream, Rc::clone(&connection))).await
        }
    }
}

/// Both sides prove who they are. Bounded in time, and in how many do it at once.
async fn handshake(stream: Stream, route: &InboundRoute, worker: &Worker) -> Result<Encrypted, Refusal> {
    let own = route.tls.identity.usable();
    if worker.clock().now() > own.not_after {
        let identity = route.tls.identity.leaf().principal().map(ToString::to_string).unwrap_or_default();
        return Err(Refusal::OwnCertificate { identity, not_after: own.not_after });
    }
    let _turn = worker.begin_handshake()?;
    let limit = worker.snapshot().limits.handshake_timeout;
    let (config, handshake) = route.tls.begin().map_err(Refusal::Tls)?;
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(limit, TlsAcceptor::from(config).accept(stream)) => accepted,
        () = worker.drain_begun() => return Err(Refusal::Withdrawn(Withdrawn::Stopped)),
    };
    let stream =
        accepted.map_err(|_elapsed| Refusal::HandshakeTimeout(limit))?.map_err(|error| refused(&handshake, error))?;
    worker.counters(&route.counters).handshakes.add(1);
    let peer = handshake.peer().ok_or_else(|| Refusal::Handshake(std::io::ErrorKind::InvalidData.into()))?;
    Ok(Encrypted { stream, peer })
}

fn refused(handshake: &Handshake, error: std::io::Error) -> Refusal {
    match handshake.refusal() {
        Some(refusal) => Refusal::Certificate(Box::new(refusal.clone())),
        None => Refusal::Handshake(error),
    }
}

fn opened(
    encrypted: &Encrypted,
    route: &InboundRoute,
    worker: &Worker,
    record: &ConnectionRecord,
    peer: Rc<identify::Peer>,
) -> Opened {
    Opened {
        direction: Direction::Inbound,
        route_name: Arc::clone(&route.name),
        address: record.address().clone(),
        peer,
        counters: worker.counters(&route.counters),
        // No connection outlives the credential of either side.
        ends: Some(encrypted.peer.usable().not_after.min(route.tls.identity.usable().not_after)),
        whole: route.backend.protocol == Protocol::Tcp,
    }
}
