//! One connection's requests: parse, issue, answer. The table of requests is in [`crate::certs::issuance`]; what is not in
//! it is not answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::asker::Asker;
use super::places::{Activity, Place, Running};
use super::{Accepted, DRAIN_DEADLINE, Listener};
use crate::authenticate::Evidence;
use crate::certs::issuance::{
    BUNDLE_PATH, ENROLL_PATH, EnrollRequest, Enrolled, ISSUE_PATH, IssueRequest, Issued, PROBLEM_TYPE, Problem, Reason,
    WATCH_PATH,
};
use crate::certs::pem::encode_certificates;
use crate::certs::token::JoinSecret;
use crate::certs::verify::{Side, VerifiedPeer};
use crate::deliver::Delivery;
use crate::issue::{self, Ca, Refusal};
use crate::record;
use crate::watch::Watcher;

/// How long a request's head may take, and how long a connection may idle between two.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);

/// How long one request may take from its head to its answer. The watch stream's answer begins at once and goes on.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// How long a connection that is no host's may be open at all.
const STRANGER_DEADLINE: Duration = Duration::from_secs(60);

/// Longest sleep until the end of a certificate is looked at again: a clock that was set, or a host that was suspended, is
/// noticed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long a connection whose place was given away may take to send what it has written. Nothing runs on it.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Bytes of a request's head; ours have a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Who is at the other end.
#[derive(Clone)]
struct Caller {
    peer: Option<Arc<VerifiedPeer>>,
    address: SocketAddr,
    asker: Asker,
    activity: Arc<Activity>,
}

/// Serves one connection until its end, the end of the peer's certificate, the loss of its place, or the stop.
pub(super) async fn serve(accepted: Accepted, asker: Asker, place: Place, listener: Arc<Listener>) {
    let Accepted { stream, peer, address } = accepted;
    let host = peer.clone().filter(|_peer| asker.is_host());
    let caller = Caller { peer, address, asker, activity: place.activity() };
    let service = {
        let listener = Arc::clone(&listener);
        service_fn(move |request| answer(request, caller.clone(), Arc::clone(&listener)))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let drain = tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%address, error = error.to_string(), "connection failed");
            }
            return;
        }
        () = withdrawn(host.as_deref(), &listener) => DRAIN_DEADLINE,
        () = place.lost() => {
            tracing::debug!(%address, "silent connection given up for a newer one");
            // Unless it began to speak in the same moment.
            if place.activity().is_running() { DRAIN_DEADLINE } else { FLUSH_DEADLINE }
        }
    };
    // A request that is under way may finish; its answer says what the story says.
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(drain, connection).await.ok();
}

/// Ends when the connection must: its certificate has expired or is revoked, its time is over, or we stop.
async fn withdrawn(host: Option<&VerifiedPeer>, listener: &Listener) {
    let mut stopping = listener.stopping.clone();
    let mut published = listener.ca.published.clone();
    let Some(peer) = host else {
        tokio::select! {
            () = tokio::time::sleep(STRANGER_DEADLINE) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        return;
    };
    loop {
        let now = listener.ca.clock.now();
        let trust = Arc::clone(&published.borrow_and_update().trust);
        if trust.verify_again(peer, Side::Client, now).is_err() {
            return;
        }
        let until_expiry = peer.usable().not_after.since(now) + Duration::from_secs(1);
        tokio::select! {
            // A closed channel means that the program ends.
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(until_expiry.min(LOOK_EVERY)) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    caller: Caller,
    listener: Arc<Listener>,
) -> Result<Response<Answer>, Infallible> {
    let running = caller.activity.begin();
    let routed = tokio::time::timeout(REQUEST_DEADLINE, route(request, &caller, &listener)).await;
    let outcome = routed.unwrap_or_else(|_elapsed| Err(problem(Reason::CaUnavailable, "the request took too long")));
    let response = outcome.unwrap_or_else(|problem| refused(&problem, &caller));
    Ok(response.map(|body| Answer { body, _running: running }))
}

async fn route(
    request: Request<Incoming>,
    caller: &Caller,
    listener: &Arc<Listener>,
) -> Result<Response<AnswerBody>, Problem> {
    if !listener.requests.take(caller.asker.clone(), Instant::now()) {
        return Err(problem(Reason::TooMany, "too many requests in this second; try again later"));
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, BUNDLE_PATH) => Ok(bundle(listener)),
        (&Method::GET, WATCH_PATH) => watch(caller, listener),
        (&Method::POST, ENROLL_PATH) => enroll(request, caller, listener).await,
        (&Method::POST, ISSUE_PATH) => issue(request, caller, listener).await,
        (method, path) => {
            let path: String = path.chars().take(100).collect();
            Err(problem(Reason::NotFound, format!("there is no {method} {path:?} here")))
        }
    }
}

async fn enroll(
    request: Request<Incoming>,
    caller: &Caller,
    listener: &Arc<Listener>,
) -> Result<Response<AnswerBody>, Problem> {
    let message: EnrollRequest = read(request, listener.ca.settings.limits.body_bytes).await?;
    let secret = JoinSecret::from_base64(&message.secret)
        .map_err(|error| problem(Reason::MalformedRequest, error.to_string()))?;
    let evidence = Evidence::JoinToken { secret, address: caller.address };
    let asked = issue::Request { evidence, wanted: None, csr: message.csr };
    let delivery = tell_story(asked, &listener.ca).await?;
    let trust = listener.ca.published.borrow().update.clone();
    let chain = encode_certificates(&delivery.chain);
    json(StatusCode::OK, "application/json", &Enrolled { id: delivery.plan.id, chain, trust })
}

async fn issue(
    request: Request<Incoming>,
    caller: &Caller,
    listener: &Arc<Listener>,
) -> Result<Response<AnswerBody>, Problem> {
    let message: IssueRequest = read(request, listener.ca.settings.limits.body_bytes).await?;
    if !listener.issuances.take(caller.asker.clone(), Instant::now()) {
        return Err(problem(Reason::TooMany, "too many certificates in this minute; try again later"));
    }
    let asked = issue::Request { evidence: caller.evidence(), wanted: Some(message.id), csr: message.csr };
    let delivery = tell_story(asked, &listener.ca).await?;
    json(StatusCode::OK, "application/json", &Issued { chain: encode_certificates(&delivery.chain) })
}

/// Runs the story in a task of its own: a caller who hangs up does not leave an intent without a result.
async fn tell_story(asked: issue::Request, ca: &Arc<Ca>) -> Result<Delivery, Problem> {
    let story = tokio::spawn({
        let ca = Arc::clone(ca);
        async move { issue::issue(asked, &ca).await }
    });
    match story.await {
        Ok(Ok(delivery)) => {
            let plan = &delivery.plan;
            tracing::info!(id = %plan.id, serial = %plan.serial, not_after = %plan.validity.not_after, "issued");
            Ok(delivery)
        }
        Ok(Err(refusal)) => Err(problem_of(&refusal)),
        Err(_panicked) => Err(problem(Reason::CaUnavailable, UNAVAILABLE)),
    }
}

const UNAVAILABLE: &str = "the CA cannot issue now; its own log says why";

/// Reason and sentence for the peer; what concerns only us stays in our log.
fn problem_of(refusal: &Refusal) -> Problem {
    let reason = refusal.reason();
    let detail = if reason == Reason::CaUnavailable { UNAVAILABLE.to_owned() } else { refusal.to_string() };
    problem(reason, detail)
}

fn bundle(listener: &Listener) -> Response<AnswerBody> {
    let bundle = listener.ca.published.borrow().bundle.clone();
    respond(StatusCode::OK, "application/json", AnswerBody::whole(bundle))
}

/// Opens a watch stream for an enrolled host.
fn watch(caller: &Caller, listener: &Listener) -> Result<Response<AnswerBody>, Problem> {
    let Some(peer) = caller.peer.as_ref().filter(|_peer| caller.asker.is_host()) else {
        return Err(problem(Reason::NotAHost, "only an enrolled host may watch"));
    };
    let now = listener.ca.clock.now();
    let published = listener.ca.published.clone();
    let believed = published.borrow().trust.verify_again(peer, Side::Client, now);
    believed.map_err(|refusal| problem(Reason::IdentityRevoked, refusal.to_string()))?;
    let too_many = || problem(Reason::TooMany, "too many watch streams are open");
    let place = listener.watchers.take(caller.asker.clone()).ok_or_else(too_many)?;
    // One line waits here at most; a newer state replaces the ones that a slow watcher has not been told yet.
    let (lines, told) = mpsc::channel(1);
    let watcher = Watcher::new(Arc::clone(peer), listener.ca.clock.clone());
    let (stopping, asker) = (listener.stopping.clone(), caller.asker.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = watcher.tell(published, stopping, lines) => {}
            () = place.lost() => tracing::info!(%asker, "watch ended, the host has begun another one"),
        }
    });
    Ok(respond(StatusCode::OK, "application/x-ndjson", AnswerBody::Stream(told)))
}

/// Reads a bounded body as one JSON message. What is wrong is told by place, never by content: it may hold a secret.
async fn read<T: DeserializeOwned>(request: Request<Incoming>, bytes_max: usize) -> Result<T, Problem> {
    let malformed = |detail: String| problem(Reason::MalformedRequest, detail);
    let body = Limited::new(request.into_body(), bytes_max).collect().await.map_err(|error| {
        let too_large = error.downcast_ref::<LengthLimitError>().is_some();
        malformed(if too_large {
            format!("the body is larger than {bytes_max} bytes")
        } else {
            "the body broke off".into()
        })
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        malformed(format!("the body is not the JSON of this request (line {line}, column {column})"))
    })
}

fn json(
    status: StatusCode,
    media_type: &'static str,
    message: &impl Serialize,
) -> Result<Response<AnswerBody>, Problem> {
    let body = serde_json::to_vec(message).map_err(|_unwritable| problem(Reason::CaUnavailable, UNAVAILABLE))?;
    Ok(respond(status, media_type, AnswerBody::whole(body.into())))
}

fn refused(problem: &Problem, caller: &Caller) -> Response<AnswerBody> {
    let peer = caller.peer.as_ref().map(|peer| peer.principal().to_string());
    tracing::info!(address = %caller.address, peer, reason = record::word(problem.reason), detail = problem.detail, "request refused");
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    respond(status, PROBLEM_TYPE, AnswerBody::whole(body.into()))
}

fn respond(status: StatusCode, media_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The body of an answer: known at once, or a stream that goes on.
enum AnswerBody {
    Stream(mpsc::Receiver<Bytes>),
    Whole(Full<Bytes>),
}

impl AnswerBody {
    fn whole(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Stream(lines) => lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Stream(_) => hyper::body::SizeHint::default(),
            Self::Whole(whole) => whole.size_hint(),
        }
    }
}

/// A body, and the mark that its connection has something to do until it is sent.
struct Answer {
    body: AnswerBody,
    _running: Running,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

impl Caller {
    fn evidence(&self) -> Evidence {
        match &self.peer {
            Some(peer) => Evidence::HostSvid { peer: Arc::clone(peer), address: self.address },
            None => Evidence::Nothing { address: self.address },
        }
    }
}

/// A refusal with the status that belongs to its reason.
fn problem(reason: Reason, detail: impl Into<String>) -> Problem {
    let status = match reason {
        Reason::CsrRefused | Reason::MalformedRequest => StatusCode::BAD_REQUEST,
        Reason::IdentityRevoked
        | Reason::NotAHost
        | Reason::NotGranted
        | Reason::TokenExpired
        | Reason::TokenSpent
        | Reason::TokenUnknown => StatusCode::FORBIDDEN,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Reason::CaUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem { status: status.as_u16(), reason, detail: detail.into() }
}
