//! One connection to the CA, as an agent makes it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_certs::issuance::{ENROLL_PATH, Problem, Reason};
use countersign_certs::spiffe_id::ca_id;
use countersign_certs::tls::{ClientSide, Handshake, enrollment, server_name};
use countersign_certs::token::JoinToken;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::{TestCa, clock};

/// A connection that stays open.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

/// A connection without a certificate.
pub(crate) struct Anonymous {
    connection: Connection,
    handshake: Handshake,
}

/// What the CA answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, client: &ClientSide) -> std::io::Result<Self> {
        Self::with(address, client.begin().unwrap().0).await
    }

    async fn with(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(config).connect(server_name("localhost"), stream).await?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    /// Sends one request, and reads the head of its answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.0.ready().await?;
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        self.0.send_request(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Sends one message, and reads the whole answer.
    pub(crate) async fn post(&mut self, path: &str, message: &Value) -> hyper::Result<Answer> {
        Answer::read(self.send(Method::POST, path, message.to_string()).await?).await
    }
}

impl Answer {
    pub(crate) async fn read(response: Response<hyper::body::Incoming>) -> hyper::Result<Self> {
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(Self { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }

    /// The chain, if a certificate was issued.
    #[track_caller]
    pub(crate) fn chain(&self) -> &str {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.body["chain"].as_str().unwrap()
    }

    /// Why it was refused.
    #[track_caller]
    pub(crate) fn refused(&self) -> (Reason, String) {
        assert_ne!(self.status, StatusCode::OK, "{self:?}");
        let problem: Problem = serde_json::from_value(self.body.clone()).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        (problem.reason, problem.detail)
    }
}

impl Anonymous {
    /// Connects as a new host does: it knows the CA by the token.
    pub(crate) async fn connect(ca: &TestCa, token: &str) -> Self {
        Self::try_connect(ca, token).await.unwrap()
    }

    pub(crate) async fn try_connect(ca: &TestCa, token: &str) -> std::io::Result<Self> {
        let token: JoinToken = token.parse().unwrap();
        let ca_id = ca_id(&token.trust_domain).unwrap();
        let (config, handshake) = enrollment(token.root_fingerprint, ca_id, &clock()).unwrap();
        Ok(Self { connection: Connection::with(ca.address(), config).await?, handshake })
    }

    pub(crate) async fn enroll(&mut self, token: &str, csr: &str) -> Answer {
        let token: JoinToken = token.parse().unwrap();
        let message = json!({ "secret": *token.secret.to_base64(), "csr": csr });
        self.connection.post(ENROLL_PATH, &message).await.unwrap()
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The serial number of the certificate that the CA shows.
    pub(crate) fn shown(&self) -> String {
        self.handshake.peer().unwrap().certificate().serial().to_string()
    }
}
