//! An OTLP collector over HTTP/1.1: one request for some lines, and its answer says what became of them (OTLP 1.x,
//! "OTLP/HTTP Response").

use std::time::Duration;

use bytes::Bytes;
use countersign_audit::otlp::{Answer, body};
use countersign_certs::allowance::Allowances;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::network::{CONNECT_TIMEOUT, IO_TIMEOUT, settings};
use super::{DeliverError, Setup};
use crate::config::address::Endpoint;
use crate::config::audit::SinkTls;

/// How long one request may take, connecting included.
const DEADLINE: Duration = CONNECT_TIMEOUT.saturating_add(IO_TIMEOUT);

/// Lines, and bytes of lines, of one request; of bytes it may be one line more.
const LINES_MAX: usize = 512;
const BYTES_MAX: usize = 512 * 1024;

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long at least between two log lines about what is refused: a collector that takes nothing refuses each request.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// A collector.
pub(in crate::record) struct Otlp {
    endpoint: Endpoint,
    uri: Uri,
    tls: Option<SinkTls>,
    setup: Setup,
    /// For the log.
    refusals: Allowances<()>,
}

impl Otlp {
    pub(super) fn new(endpoint: Endpoint, uri: Uri, tls: Option<SinkTls>, setup: Setup) -> Self {
        Self { endpoint, uri, tls, setup, refusals: Allowances::new(1, REFUSED_EVERY) }
    }

    pub(super) fn deliver(&mut self, lines: &[&str], taken: &mut usize) -> Result<u64, DeliverError> {
        let mut bytes = 0;
        let fits = |line: &&&str| {
            bytes += line.len();
            bytes < BYTES_MAX
        };
        let count = lines.iter().take(LINES_MAX).take_while(fits).count().max(1);
        let lines = lines.get(..count).unwrap_or_default();
        let now = self.setup.clock.precise().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let request = body(lines.iter().copied(), self.setup.format, &self.setup.host, now);
        let unreachable = |source| DeliverError::Unreachable { endpoint: self.endpoint.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
        let posted = runtime.block_on(async { tokio::time::timeout(DEADLINE, self.post(request)).await });
        let (status, answer) =
            posted.map_err(|_elapsed| DeliverError::Deadline { endpoint: self.endpoint.clone() })??;
        let lines = u64::try_from(count).unwrap_or(u64::MAX);
        let refused = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                return Err(DeliverError::Answer { endpoint: self.endpoint.clone(), status: status.as_u16() });
            }
            status if status.is_success() => {
                let answer: Answer = serde_json::from_slice(&answer).unwrap_or_default();
                answer.partial_success.map_or(0, |partial| partial.rejected()).min(lines)
            }
            // Any other status means that the same request would be refused again.
            _ => lines,
        };
        *taken = count;
        if refused > 0 {
            self.say_refused(status, refused);
        }
        Ok(refused)
    }

    fn say_refused(&mut self, status: StatusCode, lines: u64) {
        if let Some(omitted) = self.refusals.take((), (), self.setup.clock.now()) {
            let (endpoint, status) = (self.endpoint.to_string(), status.as_u16());
            tracing::error!(endpoint, status, lines, omitted, "the collector refuses audit lines for good");
        }
    }

    async fn post(&self, body: String) -> Result<(StatusCode, Bytes), DeliverError> {
        let unreachable = |source| DeliverError::Unreachable { endpoint: self.endpoint.clone(), source };
        let address = (self.endpoint.host.as_str(), self.endpoint.port);
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        match &self.tls {
            None => self.exchange(TokioIo::new(stream), body).await,
            Some(files) => {
                let (config, name) = settings(files, &self.endpoint, &self.setup.clock)?;
                let stream = TlsConnector::from(config).connect(name, stream).await.map_err(unreachable)?;
                self.exchange(TokioIo::new(stream), body).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, body: String) -> Result<(StatusCode, Bytes), DeliverError>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let broken = |source| DeliverError::Http { endpoint: self.endpoint.clone(), source };
        let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        // It ends with the runtime, which lives for one request.
        tokio::spawn(async move { connection.await.ok() });
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let path = self.uri.path_and_query().map_or("/v1/logs", |path| path.as_str());
        *request.uri_mut() = path.parse().unwrap_or_default();
        let host = self.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        request.headers_mut().insert(HOST, host.unwrap_or(HeaderValue::from_static("collector")));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        // An answer that is too large or breaks off tells nothing more than its status.
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, answer.map(|answer| answer.to_bytes()).unwrap_or_default()))
    }
}
