//! The story of one request: normalise, authenticate, authorize, count, forward, record.
//!
//! It is the same in both directions. A connection that becomes something else begins here, as the request that asks for it.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::authenticate;
use crate::authorize::{self, Permit};
use crate::connection::Connection;
use crate::forward::answer::{Answer, clean, refuse};
use crate::forward::body::{RequestBody, ResponseBody};
use crate::forward::outgoing::Outgoing;
use crate::forward::upgrade::{self, UpgradeAsked};
use crate::given::token_exchange::{self, Exchanged};
use crate::limit::{self, quota};
use crate::record::RequestRecord;
use crate::refusal::Refusal;
use crate::request::{NormalRequest, TwoLengths, is_grpc, normalise};
use crate::serve::rewind::Watch;

/// Answers one request. Every way out is recorded: here if it is refused, else when the answer's last byte is gone.
pub(crate) async fn answer(
    request: Request<Incoming>,
    connection: Rc<Connection>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut record = RequestRecord::open(&connection, request.method(), request.uri().path_and_query());
    let grpc = is_grpc(request.headers());

    let answered = answer_recorded(request, &connection, &mut record).await;
    let limits = record.take_limit_fields();
    let mut response = match answered {
        Ok(answer) => answer.recorded_by(record),
        Err(refusal) => refuse(&refusal, record, grpc),
    };
    if let Some(limits) = limits {
        limits.put_into(response.headers_mut());
    }
    Ok(response)
}

async fn answer_recorded(
    mut request: Request<Incoming>,
    connection: &Rc<Connection>,
    record: &mut RequestRecord,
) -> Result<Answer, Refusal> {
    connection.worker().audit().admit().await?;
    let upgrading = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut normal = normalise(parts)?;
    record.decided_on(&normal.method);
    let caller = record.caller(authenticate::request(connection, &mut normal).await?);
    record.fields(&normal);
    connection.take_place(caller.subject())?;
    if let Some(limits) = quota::asked(connection, &normal)? {
        return Ok(Box::pin(quota::answer(&limits, connection, &caller, record)).await);
    }
    let authorized = record.authorized(authorize::request(connection, caller, &normal)?);
    let permit = limit::request(authorized, record).await?;
    // Counting may have waited for a store, and what was allowed may have been taken back meanwhile.
    permit.ongoing().signal().cut_reason().map_or(Ok(()), Err)?;
    let body = RequestBody::new(body, &permit, record);
    let exchanged = match normal.token.take() {
        Some(token) => Box::pin(token_exchange::for_caller(connection, &permit, token)).await?,
        None => None,
    };
    if normal.upgrade.is_some() {
        let asked = UpgradeAsked { normal, body, exchanged, upgrading, version };
        return Box::pin(upgrade::forward(asked, permit, connection, record)).await;
    }
    forward(normal, body, exchanged, permit, connection, record).await
}

async fn forward(
    normal: NormalRequest,
    body: RequestBody,
    exchanged: Option<Exchanged>,
    permit: Permit,
    connection: &Connection,
    record: &mut RequestRecord,
) -> Result<Answer, Refusal> {
    let onward = connection.onward()?;
    let (outgoing, spent) = Outgoing::prepare(normal, body, exchanged, permit.ongoing(), record.decision())?;
    let (response, lease) = tokio::select! {
        biased;
        sent = onward.send(outgoing) => sent?,
        withdrawn = permit.ongoing().signal().cut_asked() => return Err(withdrawn.into()),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody has asked for another protocol (RFC 9110 §7.8), so nobody decided on what would be carried.
        return Err(Refusal::UpgradeLost);
    }
    record.status(response.status());
    permit.ongoing().touch();
    let (mut parts, body) = response.into_parts();
    clean(&mut parts);
    record.rotated(spent.answered(&mut parts, record.clock()));
    Ok(Answer::Forwarded { parts, body, permit, lease: Some(lease), target: onward.name() })
}

/// Answers one request of an HTTP/1.1 stream, of which more is known than the HTTP library tells.
pub(crate) async fn answer_followed(
    mut request: Request<Incoming>,
    connection: Rc<Connection>,
    watch: Watch,
) -> Result<Response<ResponseBody>, Infallible> {
    if !watch.next_is_unambiguous() {
        request.extensions_mut().insert(TwoLengths);
    }
    let answer = answer(request, connection).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        watch.upgraded();
    }
    Ok(answer)
}
