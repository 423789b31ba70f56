//! Serves the control socket (root and the agent's own user only) and the metrics port.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_certs::spiffe_id::SpiffeId;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::metrics;
use super::status::RouteStatus;
use crate::config::address::ListenAddress;
use crate::listener::{Listener, SocketMode};
use crate::run::Agent;
use crate::systemd::HandedOver;

/// How long a caller may take to ask.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a caller may stay. Renewing asks the CA for each identity, which may take two minutes.
const CALLER_STAYS_MAX: Duration = Duration::from_secs(180);

/// Callers at once, on each of the two.
const CALLERS_MAX: usize = 64;

/// Path of the state as JSON.
pub(crate) const STATUS_PATH: &str = "/v1/status";

/// Path before a decision's ID.
pub(crate) const DECISION_PATH: &str = "/v1/decisions/";

/// Path of where the API keys are and when each was used last, as JSON.
pub(crate) const KEYS_PATH: &str = "/v1/api-keys";

/// Path that has identities issued anew; an ID may follow as `?id=`.
pub(crate) const RENEW_PATH: &str = "/v1/renew";

/// Opens the control socket. Its file can be used by its owner only; that root can use it too lies in the nature of root.
pub(crate) fn open(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match Listener::open(&ListenAddress::Unix(path.to_owned()), SocketMode::Owner, &HandedOver::default())? {
        Listener::Unix(listener) => Ok(listener),
        Listener::Tcp(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Answers operators for ever.
pub(crate) async fn serve_socket(listener: UnixListener, agent: Rc<Agent>) {
    let accept = async || loop {
        let (stream, _) = listener.accept().await?;
        if let Some(uid) = trusted_user(&stream) {
            return Ok((stream, uid));
        }
        tracing::warn!("somebody else's program called the control socket");
    };
    serve_callers("control socket", accept, move |request, uid| control(request, uid, Rc::clone(&agent))).await;
}

/// Root, or the user that the agent runs as. The file's mode says so already; this holds where somebody changed it.
fn trusted_user(stream: &UnixStream) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().ok().map(|caller| caller.uid()).filter(|uid| *uid == 0 || *uid == own)
}

/// Answers scrapers and health checks for ever.
pub(crate) async fn serve_metrics(listener: TcpListener, agent: Rc<Agent>) {
    let accept = async || listener.accept().await.map(|(stream, _)| (stream, ()));
    serve_callers("metrics port", accept, move |request, ()| health(request, Rc::clone(&agent))).await;
}

/// Serves every caller, a bounded number at once.
async fn serve_callers<S, C, F, R>(what: &'static str, accept: impl AsyncFn() -> io::Result<(S, C)>, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    C: Copy + 'static,
    F: Fn(Request<Incoming>, C) -> R + Clone + 'static,
    R: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let callers = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(turn) = Arc::clone(&callers).acquire_owned().await else { return };
        match accept().await {
            Ok((stream, caller)) => {
                let answer = answer.clone();
                tokio::task::spawn_local(async move {
                    serve(TokioIo::new(stream), |request| answer(request, caller)).await;
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the {what} cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<S, F, R>(io: S, answer: F)
where
    S: Read + Write + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(io, service);
    // A caller that goes away is its own loss, and one that neither asks nor reads is let go.
    tokio::time::timeout(CALLER_STAYS_MAX, serving).await.ok();
}

async fn control(request: Request<Incoming>, uid: u32, agent: Rc<Agent>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, STATUS_PATH) => json(serde_json::to_string(&agent.status())),
        (&Method::GET, KEYS_PATH) => json(serde_json::to_string(&agent.keys_status())),
        (&Method::POST, RENEW_PATH) => renew(request.uri().query(), uid, &agent).await,
        (&Method::GET, _) if path.starts_with(DECISION_PATH) => {
            let decision = path.strip_prefix(DECISION_PATH).unwrap_or_default();
            match agent.sink().find(decision) {
                Some(line) => answer(StatusCode::OK, "application/json", line),
                None => answer(
                    StatusCode::NOT_FOUND,
                    "text/plain",
                    "this decision is not among the recent ones\n".to_owned(),
                ),
            }
        }
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "no such path\n".to_owned()),
    }
}

async fn renew(query: Option<&str>, uid: u32, agent: &Agent) -> Response<Full<Bytes>> {
    let Some(keeper) = agent.keeper() else {
        return answer(
            StatusCode::CONFLICT,
            "text/plain",
            "this agent is not enrolled; its identities are files\n".to_owned(),
        );
    };
    let only = match query.and_then(|query| query.strip_prefix("id=")).map(SpiffeId::parse).transpose() {
        Ok(only) => only,
        Err(error) => return answer(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    };
    agent.teller().command("renew", Some(uid), only.as_ref().map(ToString::to_string));
    let failed = keeper.renew_now(only.as_ref()).await;
    if failed.is_empty() {
        return answer(StatusCode::OK, "text/plain", "renewed\n".to_owned());
    }
    let lines: String = failed.iter().map(|(id, error)| format!("{id}: {error}\n")).collect();
    answer(StatusCode::BAD_GATEWAY, "text/plain", lines)
}

async fn health(request: Request<Incoming>, agent: Rc<Agent>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => answer(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/readyz") => {
            let status = agent.status();
            let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let waits =
                |route: &RouteStatus| Some(format!("{} waits for {}\n", route.name, route.waiting_for.as_ref()?));
            let lines: String = status.routes.iter().filter_map(waits).collect();
            answer(code, "text/plain", if status.ready { "ready\n".to_owned() } else { format!("not ready\n{lines}") })
        }
        (&Method::GET, "/metrics") => match metrics::text(&agent.counters(), &agent.rate_limits(), &agent.status()) {
            Ok(text) => answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(_format) => {
                answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "metrics cannot be written\n".to_owned())
            }
        },
        _ => answer(
            StatusCode::NOT_FOUND,
            "text/plain",
            "no such path; there are /metrics, /livez and /readyz\n".to_owned(),
        ),
    }
}

fn json(text: serde_json::Result<String>) -> Response<Full<Bytes>> {
    match text {
        Ok(text) => answer(StatusCode::OK, "application/json", text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
