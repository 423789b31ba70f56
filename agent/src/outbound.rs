//! The story of one connection from a program of this host: accept, identify the local caller, authorize, handshake with
//! the other agent, forward, record.
//!
//! `inbound.rs` is its mirror. The handshake stands later here: it is made with the far side, once for many requests, and
//! only after the caller was allowed.

use std::rc::Rc;
use std::sync::Arc;

use crate::authorize;
use crate::connection::Connection;
use crate::direction::Direction;
use crate::forward::tcp;
use crate::identify;
use crate::limit;
use crate::listener::{Origin, PeerAddress, Stream};
use crate::record::ConnectionRecord;
use crate::refusal::Refusal;
use crate::routes::OutboundRoute;
use crate::serve;
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
    worker.audit().admit().await?;
    let _entered = worker.enter();
    let peer = record.peer(identify::local_caller(record.address().local_caller(), &worker.snapshot().roles));
    let connection = Connection::outbound(worker, route, record.address(), peer);
    authorize::still_trusted(&connection)?;
    authorize::local_caller(&connection)?;
    // Programs that come over loopback cannot be told apart; a user has no more places than a peer.
    let _user_place = match record.address().origin() {
        user @ Origin::User(_) => Some(worker.take_peer_place(&route.name, &user.to_string())?),
        Origin::Network(_) | Origin::Unknown => None,
    };
    connection.take_place(None)?;
    if route.is_tcp {
        let authorized = record.authorized(authorize::connection(&connection)?);
        let permit = limit::connection(authorized, &connection, record).await?;
        return Box::pin(tcp::serve(stream, permit, &connection, record.transfer())).await;
    }
    // Each request is authorized by itself, in `exchange.rs`, and calls the other agent there.
    Box::pin(serve::http(stream, Rc::clone(&connection))).await
}
