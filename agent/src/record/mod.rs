//! The record: one audit line for every connection and every request, on every way out, and the counters beside it.
//!
//! A record is opened when something begins and closed when it ends. One that is dropped without being closed (its task was
//! cancelled) writes that it was cancelled. What is no connection and no request is handed to [`sink::Sink::event`]; nobody writes past
//! this folder.

mod connection;

mod request;

pub(crate) mod counters;

pub(crate) mod fields;

pub(crate) mod notable;

mod omitted;

pub(crate) mod patterns;

pub(crate) mod line;

pub(crate) mod buffer;

pub(crate) mod sink;

pub(crate) mod writer;

mod output;

pub(crate) mod extra;

mod deliver;

use std::cell::Cell;

use crate::refusal::{Refusal, Withdrawn};
use counters::Outcome;

pub(crate) use connection::ConnectionRecord;
pub(crate) use request::RequestRecord;

/// Bytes moved in each direction, counted where they pass.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// From the peer.
    pub(crate) received: Cell<u64>,
    /// To the peer.
    pub(crate) sent: Cell<u64>,
}

impl Transfer {
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

fn outcome_of(refusal: Option<&Refusal>, cancelled: bool) -> Outcome {
    match refusal {
        // Nothing was allowed yet on a connection that gave way.
        Some(Refusal::Withdrawn(Withdrawn::GaveWay { .. })) => Outcome::Denied,
        Some(Refusal::Withdrawn(_)) => Outcome::Cut,
        Some(Refusal::CallerGone) => Outcome::Cancelled,
        Some(refusal) if refusal.is_denial() => Outcome::Denied,
        Some(_) => Outcome::Failed,
        None if cancelled => Outcome::Cancelled,
        None => Outcome::Allowed,
    }
}
