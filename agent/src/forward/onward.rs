//! Whereto the requests of a connection go: the local service, or the other agent.

use std::rc::Rc;

use http::Response;
use hyper::body::Incoming;

use super::backend::BackendPool;
use super::hop::HopPool;
use super::outgoing::Outgoing;
use super::pool::Lease;
use crate::refusal::Refusal;

/// Whereto the requests of a connection go.
#[derive(Clone)]
pub(crate) enum Onward {
    Backend(Rc<BackendPool>),
    Hop(Rc<HopPool>),
}

impl Onward {
    /// Forwards one request.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<(Response<Incoming>, Lease), Refusal> {
        match self {
            Self::Backend(pool) => pool.send(outgoing).await,
            Self::Hop(pool) => pool.send(outgoing).await,
        }
    }

    /// How it is called in errors.
    pub(crate) fn name(&self) -> Rc<str> {
        match self {
            Self::Backend(pool) => pool.name(),
            Self::Hop(pool) => pool.name(),
        }
    }
}
