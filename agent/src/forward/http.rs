//! HTTP, request by request: normalise, authorize, forward, record.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::response::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{ForwardedBody, RequestBody, ResponseBody};
use super::connection::{Connection, Current, Upstream};
use super::executor::OnThisWorker;
use super::outgoing::Outgoing;
use super::pool::Lease;
use super::rewind::{Rewind, Watch};
use super::{CONNECTION_WINDOW, STREAM_WINDOW, upgrade};
use crate::authorize::{self, Permit};
use crate::config::checked::Limits;
use crate::identify::headers::IDENTITY_HEADERS;
use crate::live::Told;
use crate::record::RequestRecord;
use crate::record::line::DecisionId;
use crate::refusal::{Refusal, Withdrawn};
use crate::request::{
    NormalRequest, RequestError, TwoLengths, X_COUNTERSIGN_DECISION, is_grpc, normalise, remove_hop_by_hop,
};

/// How often a silent HTTP/2 peer is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Header fields of one message.
const HEADERS_MAX: usize = 128;

/// Bytes of answers that one stream may have waiting to be sent.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves HTTP/1.1 on a connection until it ends or must end.
///
/// Between two requests that are far apart, HTTP and its buffers are put away: a silent connection holds its TLS state and
/// little else.
pub(crate) async fn serve_http1<S>(stream: Rewind<S>, connection: Rc<Connection>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = stream.into_http1();
    while bytes_came(&mut stream, &connection).await? {
        match Box::pin(serve_until_rest(stream, &connection)).await? {
            Some(resting) => stream = resting,
            None => {
                connection.silence().await;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Waits for the first bytes of the next request; false if there will be none.
async fn bytes_came<S>(stream: &mut Rewind<S>, connection: &Connection) -> Result<bool, Refusal>
where
    S: AsyncRead + Unpin,
{
    loop {
        tokio::select! {
            biased;
            // A peer that goes away between two requests has broken nothing.
            came = stream.wait_for_bytes() => return Ok(came.unwrap_or(false)),
            told = connection.signal().told(false) => match told {
                Told::Drain => return Ok(false),
                Told::Rest => {}
                Told::Cut(withdrawn) => return Err(withdrawn.into()),
            },
        }
    }
}

/// Serves requests until the connection ends, or has been silent and can rest.
async fn serve_until_rest<S>(stream: Rewind<S>, connection: &Rc<Connection>) -> Result<Option<Rewind<S>>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let header_bytes = connection.worker().snapshot().limits.header_bytes;
    let watch = stream.watch();
    let answering = (watch.clone(), Rc::clone(connection));
    let service = service_fn(move |request| {
        let (watch, connection) = answering.clone();
        exchange_watched(request, connection, watch)
    });
    let mut serving = http1::Builder::new()
        .max_buf_size(usize::try_from(header_bytes).unwrap_or(usize::MAX))
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut draining = false;
    loop {
        tokio::select! {
            // HTTP is asked first: what it has not looked at yet must not be taken for silence.
            biased;
            ended = &mut serving => return ended.or_else(harmless).map(|()| None),
            told = connection.signal().told(draining) => match told {
                Told::Drain => {
                    draining = true;
                    std::pin::Pin::new(&mut serving).graceful_shutdown();
                }
                // Nothing runs and everything has left: no byte is in anybody's buffer but those that are put back.
                Told::Rest if connection.is_silent() && watch.is_settled() && !draining => break,
                Told::Rest => {}
                Told::Cut(withdrawn) => return Err(withdrawn.into()),
            },
        }
    }
    Ok(serving.into_parts().map(|parts| parts.io.into_inner().put_back(parts.read_buf)))
}

/// Serves HTTP/2 on a connection until it ends or must end.
pub(crate) async fn serve_http2<S>(io: S, connection: Rc<Connection>) -> Result<(), Refusal>
where
    S: Read + Write + Unpin + 'static,
{
    let Limits { streams_per_connection, header_bytes, .. } = connection.worker().snapshot().limits;
    let answering = Rc::clone(&connection);
    let service = service_fn(move |request| exchange(request, Rc::clone(&answering)));
    let (interval, timeout) = KEEP_ALIVE;
    let serving = http2::Builder::new(OnThisWorker)
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_per_connection)
        .max_header_list_size(header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .enable_connect_protocol()
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => return ended.or_else(harmless),
            told = connection.signal().told(draining) => match told {
                Told::Drain => {
                    draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                Told::Rest => {}
                Told::Cut(withdrawn) => return Err(withdrawn.into()),
            },
        }
    }
}

/// A peer that goes away between two requests, or a request whose answer was cut, is no protocol error.
fn harmless(error: hyper::Error) -> Result<(), Refusal> {
    if error.is_incomplete_message()
        || error.is_canceled()
        || error.is_user()
        || error.is_closed()
        || is_disconnect(&error)
    {
        return Ok(());
    }
    Err(Refusal::Protocol(error))
}

fn is_disconnect(error: &hyper::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::NotConnected
            );
        }
        cause = source.source();
    }
    false
}

/// Answers one request of an HTTP/1.1 stream, of which more is known than the HTTP library tells.
async fn exchange_watched(
    mut request: Request<Incoming>,
    connection: Rc<Connection>,
    watch: Watch,
) -> Result<Response<ResponseBody>, Infallible> {
    if !watch.next_is_unambiguous() {
        request.extensions_mut().insert(TwoLengths);
    }
    let answer = exchange(request, connection).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        watch.upgraded();
    }
    Ok(answer)
}

/// Answers one request. Every way out is recorded: here if it is refused, else when the answer's last byte is gone.
async fn exchange(
    request: Request<Incoming>,
    connection: Rc<Connection>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut record = RequestRecord::open(&connection, request.method(), request.uri().path_and_query());
    let grpc = is_grpc(request.headers());

    Ok(match exchange_recorded(request, &connection, &mut record).await {
        Ok(answer) => answer.recorded_by(record),
        Err(refusal) => refuse(&refusal, record, grpc),
    })
}

async fn exchange_recorded(
    mut request: Request<Incoming>,
    connection: &Rc<Connection>,
    record: &mut RequestRecord,
) -> Result<Answer, Refusal> {
    let upgrading = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let normal = normalise(parts)?;
    let permit = authorize::request(connection, &normal)?;
    record.rule(permit.rule());
    let body = RequestBody::new(body, &permit, record);
    if normal.upgrade.is_some() {
        let asked = upgrade::Asked { normal, body, upgrading, version };
        return Box::pin(upgrade::forward(asked, permit, connection, record)).await;
    }
    forward(normal, body, permit, connection, record).await
}

async fn forward(
    normal: NormalRequest,
    body: RequestBody,
    permit: Permit,
    connection: &Connection,
    record: &mut RequestRecord,
) -> Result<Answer, Refusal> {
    let upstream = connection.upstream()?;
    let outgoing = prepare(normal, body, connection, record.decision())?;
    let (response, lease) = tokio::select! {
        biased;
        sent = upstream.send(outgoing) => sent?,
        withdrawn = permit.ongoing().signal().cut_asked() => return Err(withdrawn.into()),
    };
    record.status(response.status());
    permit.ongoing().touch();
    let (mut parts, body) = response.into_parts();
    clean(&mut parts);
    Ok(Answer::Forwarded { parts, body, permit, lease: Some(lease), target: upstream.name() })
}

/// What the backend answered, before the record is joined to it.
pub(super) enum Answer {
    /// An answer with a body that is on its way.
    Forwarded { parts: Parts, body: Incoming, permit: Permit, lease: Option<Lease>, target: Rc<str> },
    /// The connection goes on as something else.
    Upgraded { parts: Parts, carrying: upgrade::Carrying },
}

impl Answer {
    /// Joins the record, which is closed when the last byte has passed.
    fn recorded_by(self, record: RequestRecord) -> Response<ResponseBody> {
        match self {
            Self::Forwarded { parts, body, permit, lease, target } => {
                let body = ForwardedBody::new(body, permit, record, lease, target);
                Response::from_parts(parts, ResponseBody::Forwarded(body))
            }
            Self::Upgraded { parts, carrying } => {
                tokio::task::spawn_local(carrying.carry(record));
                Response::from_parts(parts, ResponseBody::Upgraded)
            }
        }
    }
}

/// Removes from an answer's head what concerned the connection to the backend.
pub(super) fn clean(parts: &mut Parts) {
    remove_hop_by_hop(&mut parts.headers);
    parts.extensions.clear();
}

/// The request as it leaves: what came, less what was removed, and with what only we may say.
pub(super) fn prepare(
    normal: NormalRequest,
    body: RequestBody,
    connection: &Connection,
    decision: DecisionId,
) -> Result<Outgoing, Refusal> {
    let NormalRequest { method, target, authority, mut headers, .. } = normal;
    if let Current::Inbound(route) = connection.current()? {
        // No identity can be told where none was verified, and then nothing is forwarded.
        let identity = connection.identity_headers().ok_or(Refusal::Withdrawn(Withdrawn::Route))?;
        // Room for all of them at once; without it the map would be rebuilt while they are added.
        headers.try_reserve(IDENTITY_HEADERS + route.inject.len()).ok();
        identity.add_to(&mut headers, decision);
        for injection in &route.inject {
            headers.insert(injection.header.clone(), injection.value.clone());
        }
    }
    Ok(Outgoing { method, authority, target, headers, body })
}

impl Upstream {
    async fn send(&self, outgoing: Outgoing) -> Result<(Response<Incoming>, Lease), Refusal> {
        match self {
            Self::Backend(pool) => pool.send(outgoing).await,
            Self::Hop(pool) => pool.send(outgoing).await,
        }
    }

    /// How it is called in errors.
    pub(super) fn name(&self) -> Rc<str> {
        match self {
            Self::Backend(pool) => pool.name(),
            Self::Hop(pool) => pool.name(),
        }
    }
}

/// Answers a refusal in the caller's own protocol. It learns a decision ID, and nothing of the policy.
fn refuse(refusal: &Refusal, mut record: RequestRecord, grpc: bool) -> Response<ResponseBody> {
    let status = refusal.status();
    record.status(status);
    let mut answer = if grpc { grpc_answer(refusal, record.decision()) } else { problem(status, record.decision()) };
    if matches!(refusal, Refusal::Request(RequestError::Length)) {
        // Nobody can tell any more where the next request begins (RFC 9112 §6.3).
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.close(Some(refusal));
    answer
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, decision: DecisionId) -> Response<ResponseBody> {
    let title = status.canonical_reason().unwrap_or("Refused");
    let text = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"decision_id\":\"{decision}\"}}\n",
        status.as_u16()
    );
    let mut response = Response::new(ResponseBody::Own(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Ok(decision) = HeaderValue::from_bytes(&decision.text()) {
        response.headers_mut().insert(X_COUNTERSIGN_DECISION, decision);
    }
    response
}

/// A gRPC answer without messages: the status in the head (grpc/grpc: doc/PROTOCOL-HTTP2.md, "Trailers-Only").
fn grpc_answer(refusal: &Refusal, decision: DecisionId) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(Full::default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(refusal.grpc_status()));
    if let Ok(message) = HeaderValue::from_str(&format!("refused, decision {decision}")) {
        headers.insert("grpc-message", message);
    }
    response
}
