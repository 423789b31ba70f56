//! Talks to the CA: one TLS connection for each question, and one that stays for news.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_certs::issuance::{
    ANSWER_BYTES_MAX, BUNDLE_PATH, ENROLL_PATH, EnrollRequest, Enrolled, ISSUE_PATH, IssueRequest, Issued, Problem,
    WATCH_PATH,
};
use countersign_certs::tls::{Handshake, TlsError};
use countersign_certs::verify::PeerRefusal;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

/// How long one question may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why the CA gave no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("the CA at {address} did not answer within {DEADLINE:?}")]
    Deadline { address: String },
    #[error("the connection to the CA at {address} broke")]
    Http { address: String, source: hyper::Error },
    #[error("the answer of the CA at {address} cannot be read")]
    Malformed { address: String, source: serde_json::Error },
    #[error("the CA at {address} refused: {}", .problem.detail)]
    Refused { address: String, problem: Problem },
    #[error("the answer of the CA at {address} is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge { address: String },
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("the CA at {address} cannot be reached")]
    Unreachable { address: String, source: io::Error },
    #[error("whoever answers at {address} is not the CA")]
    WrongCa { address: String, source: PeerRefusal },
}

/// A connection to the CA, set up but not yet opened.
pub(crate) struct Call<'address> {
    pub(crate) address: &'address str,
    pub(crate) tls: (Arc<ClientConfig>, Handshake),
}

impl Call<'_> {
    /// Becomes a member of the trust domain.
    pub(crate) async fn enroll(self, request: &EnrollRequest) -> Result<Enrolled, CaError> {
        self.ask(ENROLL_PATH, request).await
    }

    /// Has an identity certified.
    pub(crate) async fn issue(self, request: &IssueRequest) -> Result<Issued, CaError> {
        self.ask(ISSUE_PATH, request).await
    }

    /// Opens the stream of news.
    pub(crate) async fn watch(self) -> Result<Incoming, CaError> {
        let address = self.address.to_owned();
        let response = tokio::time::timeout(DEADLINE, self.send(Method::GET, WATCH_PATH, Bytes::new()))
            .await
            .map_err(|_elapsed| CaError::Deadline { address: address.clone() })??;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(refusal(&address, response.into_body()).await)
    }

    /// The CA's bundle as a SPIFFE document.
    pub(crate) async fn bundle(self) -> Result<String, CaError> {
        let address = self.address.to_owned();
        let asking = async {
            let response = self.send(Method::GET, BUNDLE_PATH, Bytes::new()).await?;
            if response.status() != StatusCode::OK {
                return Err(refusal(&address, response.into_body()).await);
            }
            Ok(String::from_utf8_lossy(&whole(&address, response.into_body()).await?).into_owned())
        };
        tokio::time::timeout(DEADLINE, asking)
            .await
            .map_err(|_elapsed| CaError::Deadline { address: address.clone() })?
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(self, path: &str, question: &Q) -> Result<A, CaError> {
        let address = self.address.to_owned();
        let malformed = |source| CaError::Malformed { address: address.clone(), source };
        let body = serde_json::to_vec(question).map_err(malformed)?;
        let asking = async {
            let response = self.send(Method::POST, path, body.into()).await?;
            if response.status() != StatusCode::OK {
                return Err(refusal(&address, response.into_body()).await);
            }
            serde_json::from_slice(&whole(&address, response.into_body()).await?).map_err(malformed)
        };
        tokio::time::timeout(DEADLINE, asking)
            .await
            .map_err(|_elapsed| CaError::Deadline { address: address.clone() })?
    }

    async fn send(self, method: Method, path: &str, body: Bytes) -> Result<http::Response<Incoming>, CaError> {
        let Self { address, tls: (config, handshake) } = self;
        let unreachable = |source| CaError::Unreachable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _port)| host);
        let name = countersign_certs::tls::server_name(host.trim_matches(['[', ']']));
        let stream =
            TlsConnector::from(config).connect(name, stream).await.map_err(|source| match handshake.refusal() {
                Some(refusal) => CaError::WrongCa { address: address.to_owned(), source: refusal.clone() },
                None => unreachable(source),
            })?;
        let broken = |source| CaError::Http { address: address.to_owned(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::task::spawn_local(async move {
            // How the connection ends is told to whoever reads the answer.
            connection.await.ok();
        });
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::try_from(path).unwrap_or_default();
        let host = HeaderValue::from_str(address).unwrap_or(HeaderValue::from_static("countersign-ca"));
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sender.send_request(request).await.map_err(broken)
    }
}

async fn whole(address: &str, body: Incoming) -> Result<Bytes, CaError> {
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(source) => CaError::Http { address: address.to_owned(), source: *source },
            Err(_limit) => CaError::TooLarge { address: address.to_owned() },
        }),
    }
}

async fn refusal(address: &str, body: Incoming) -> CaError {
    match whole(address, body).await.map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(problem)) => CaError::Refused { address: address.to_owned(), problem },
        Ok(Err(source)) => CaError::Malformed { address: address.to_owned(), source },
        Err(error) => error,
    }
}
