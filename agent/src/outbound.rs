//! The story of one connection from a program of this host: accept, identify the local caller, authorize, handshake with
//! the other agent, forward, record.
//!
//! `inbound.rs` is its mirror. The handshake stands later here: it is made with the far side, once for many requests, and
//! only after the caller was allowed.

use std::rc::Rc;
use std::sync::Arc;

use hyper_util::rt::TokioIo;

use crate::authorize;
use crate::forward::connection::{Connection, Opened};
use crate::forward::{http, sniff, tcp};
use crate::identify;
use crate::listener::{PeerAddress, Stream};
use crate::live::Live;
use crate::record::{ConnectionRecord, Direction};
use crate::refusal::Refusal;
use crate::routes::OutboundRoute;
use crate::worker::Worker;

/// A connection that was just accepted.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) address: PeerAddress,
    pub(crate) route: Arc<OutboundRoute>,
}

/// Serves one outbound connection, from the first byte to the audit line.
pub(crate) async fn serve(accepted: Accepted, worker: Rc<Worker>) {
    let Accepted { stream, address, route } = accepted;
    let counters = worker.counters(&route.counters);
    let mut record = ConnectionRecord::open(&worker, Direction::Outbound, Arc::clone(&route.name), counters, address);
    let outcome = serve_recorded(stream, &route, &worker, &mut record).await;
    record.close(&outcome);
}

async fn serve_recorded(
    stream: Stream,
    route: &Arc<OutboundRoute>,
    worker: &Rc<Worker>,
    record: &mut ConnectionRecord,
) -> Result<(), Refusal> {
    let _place = worker.take_place(&route.name)?;
    let user = record.address().user();
    let peer = record.peer(identify::local_caller(user));
    authorize::local_caller(route, user)?;
    let connection = Connection::new(worker, opened(route, worker, record, peer));
    let connection = Live::enter(worker.connections(), connection);
    authorize::peer(&connection)?;
    if route.is_tcp {
        record.rule(authorize::connection(&connection)?);
        return Box::pin(tcp::serve(stream, Rc::clone(&connection), record.transfer())).await;
    }
    let limit = worker.snapshot().limits.idle_connection;
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(limit, sniff::is_http2(stream)) => sniffed,
        // Nothing was asked yet, so there is nothing to finish.
        _told = connection.signal().told(false) => return Ok(()),
    };
    let (is_http2, stream) = sniffed
        .map_err(|_elapsed| Refusal::Withdrawn(crate::refusal::Withdrawn::Idle(limit)))?
        .map_err(Refusal::Transfer)?;
    if is_http2 {
        Box::pin(http::serve_http2(TokioIo::new(stream), Rc::clone(&connection))).await
    } else {
        Box::pin(http::serve_http1(stream, Rc::clone(&connection))).await
    }
}

fn opened(route: &OutboundRoute, worker: &Worker, record: &ConnectionRecord, peer: Rc<identify::Peer>) -> Opened {
    Opened {
        direction: Direction::Outbound,
        route_name: Arc::clone(&route.name),
        address: record.address().clone(),
        peer,
        counters: worker.counters(&route.counters),
        // A local program shows no certificate; the connection to the other agent ends with its own.
        ends: None,
        whole: route.is_tcp,
    }
}
