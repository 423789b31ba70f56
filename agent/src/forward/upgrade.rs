//! Connections that become something else, WebSockets above all: authorized as the request that they begin as, then
//! carried as bytes.
//!
//! The way to the backend is an HTTP/1.1 connection of its own. Nothing of the peer is sent over it before the backend has
//! agreed with 101, so that nothing can hide behind an upgrade that does not happen.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::answer::{Answer, clean};
use super::body::RequestBody;
use super::hop::HopMember;
use super::onward::Onward;
use super::outgoing::Outgoing;
use super::pump;
use crate::authorize::Permit;
use crate::connection::Connection;
use crate::given::Spent;
use crate::given::token_exchange::Exchanged;
use crate::record::RequestRecord;
use crate::refusal::{Refusal, Withdrawn};
use crate::request::NormalRequest;

const SEC_WEBSOCKET_KEY: HeaderName = header::SEC_WEBSOCKET_KEY;

/// A request for an upgrade.
pub(crate) struct UpgradeAsked {
    pub(crate) normal: NormalRequest,
    pub(crate) body: RequestBody,
    pub(crate) exchanged: Option<Exchanged>,
    pub(crate) upgrading: OnUpgrade,
    pub(crate) version: Version,
}

/// Both sides have agreed; what is left is to carry bytes.
pub(crate) struct Carrying {
    peer: OnUpgrade,
    backend: OnUpgrade,
    permit: Permit,
    hop: Option<Rc<HopMember>>,
}

/// Forwards a permitted upgrade.
pub(crate) async fn forward(
    asked: UpgradeAsked,
    permit: Permit,
    connection: &Connection,
    record: &mut RequestRecord,
) -> Result<Answer, Refusal> {
    let UpgradeAsked { normal, body, exchanged, upgrading, version } = asked;
    let (mut response, hop, spent) = ask(normal, (body, exchanged), connection, record, &permit).await?;
    record.status(response.status());
    let backend = hyper::upgrade::on(&mut response);
    let (mut parts, body) = response.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    clean(&mut parts);
    record.rotated(spent.answered(&mut parts, record.clock()));
    if parts.status == StatusCode::SWITCHING_PROTOCOLS && !protocol.as_ref().is_some_and(is_websocket) {
        return Err(Refusal::UpgradeLost);
    }
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        if version == Version::HTTP_2 && parts.status.is_success() {
            // To an extended CONNECT any 2xx would say that the tunnel is open.
            return Err(Refusal::UpgradeLost);
        }
        // The backend says no in its own words, and its connection is not used again.
        let target = connection.onward()?.name();
        return Ok(Answer::Forwarded { parts, body, permit, lease: None, target });
    }
    if version == Version::HTTP_2 {
        // RFC 8441 §5: 200 agrees to an extended CONNECT.
        parts.status = StatusCode::OK;
        record.status(parts.status);
    } else {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
    }
    Ok(Answer::Upgraded { parts, carrying: Carrying { peer: upgrading, backend, permit, hop } })
}

/// Asks the backend, over a connection of its own.
async fn ask(
    normal: NormalRequest,
    (body, exchanged): (RequestBody, Option<Exchanged>),
    connection: &Connection,
    record: &RequestRecord,
    permit: &Permit,
) -> Result<(Response<Incoming>, Option<Rc<HopMember>>, Spent), Refusal> {
    let protocol = normal.upgrade.clone().ok_or(Refusal::UpgradeLost)?;
    let onward = connection.onward()?;
    let (mut outgoing, spent) = Outgoing::prepare(normal, body, exchanged, permit.ongoing(), record.decision())?;
    outgoing.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if !outgoing.headers.contains_key(SEC_WEBSOCKET_KEY) {
        // An extended CONNECT has no key (RFC 8441 §5), HTTP/1.1 wants one (RFC 6455 §4.1).
        outgoing.headers.insert(SEC_WEBSOCKET_KEY, websocket_key()?);
    }
    outgoing.headers.insert(header::UPGRADE, protocol);
    let asking = async {
        let (mut sender, hop) = match &onward {
            Onward::Backend(pool) => (pool.exclusive().await?, None),
            Onward::Hop(pool) => pool.exclusive().await.map(|(sender, hop)| (sender, Some(hop)))?,
        };
        let broken = |source| Refusal::Broken { target: onward.name().to_string(), source };
        let response = sender.send_request(outgoing.into_http1()).await.map_err(broken)?;
        Ok((response, hop, spent))
    };
    tokio::select! {
        answer = asking => answer,
        withdrawn = permit.ongoing().signal().cut_asked() => Err(withdrawn.into()),
    }
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn websocket_key() -> Result<HeaderValue, Refusal> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_no_randomness| Refusal::UpgradeLost)?;
    HeaderValue::from_str(&STANDARD.encode(nonce)).map_err(|_never_for_base64| Refusal::UpgradeLost)
}

impl Carrying {
    /// Carries bytes both ways until both sides have ended or the permit has.
    pub(crate) async fn carry(self, mut record: RequestRecord) {
        let outcome = self.carry_recorded(&record).await;
        record.close(outcome.as_ref().err());
    }

    async fn carry_recorded(self, record: &RequestRecord) -> Result<(), Refusal> {
        let Self { peer, backend, permit, hop } = self;
        let (peer, backend) = tokio::try_join!(peer, backend).map_err(|_lost| Refusal::UpgradeLost)?;
        let ongoing = permit.ongoing();
        let transfer = record.transfer();
        tokio::select! {
            pumped = pump::both_ways(TokioIo::new(peer), TokioIo::new(backend), &transfer, || ongoing.touch()) => {
                pumped.map_err(Refusal::Transfer)
            }
            withdrawn = ongoing.signal().cut_asked() => Err(withdrawn.into()),
            withdrawn = cut_of(hop.as_ref()) => Err(withdrawn.into()),
        }
    }
}

/// Waits until the connection to the other agent must end; for ever where there is none.
async fn cut_of(hop: Option<&Rc<HopMember>>) -> Withdrawn {
    match hop {
        Some(hop) => hop.signal().cut_asked().await,
        None => std::future::pending().await,
    }
}
