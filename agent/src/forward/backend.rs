//! The local service behind an inbound, and the connections to it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::RequestBody;
use super::executor::OnThisWorker;
use super::outgoing::Outgoing;
use super::pool::{Lease, Opened, Pool};
use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::config::address::{BackendAddress, BackendSocket, Protocol};
use crate::listener::Stream;
use crate::refusal::Refusal;

/// The connections to one local service.
#[derive(Debug)]
pub(crate) struct BackendPool {
    address: BackendAddress,
    name: Rc<str>,
    connect_timeout: Duration,
    pool: Pool,
}

impl BackendPool {
    /// No connections yet.
    pub(crate) fn new(address: BackendAddress, connect_timeout: Duration, idle_for: Duration) -> Self {
        Self { name: address.to_string().into(), address, connect_timeout, pool: Pool::new(idle_for) }
    }

    /// How the service is called in errors.
    pub(crate) fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    /// Forwards one request.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<(Response<Incoming>, Lease), Refusal> {
        // Opening is rare and its state is large; boxed, it does not make every request larger.
        self.pool.send(outgoing, &self.name, async || Box::pin(self.open()).await).await
    }

    async fn open(&self) -> Result<Opened, Refusal> {
        let stream = self.connect().await?;
        match self.address.protocol {
            Protocol::Http2 => self.http2(stream).await,
            Protocol::Http1 | Protocol::Tcp => self.http1(stream).await.map(|sender| Opened::Http1(sender, None)),
        }
    }

    /// A connection of its own, for what will become something else than HTTP.
    pub(crate) async fn exclusive(&self) -> Result<http1::SendRequest<RequestBody>, Refusal> {
        let stream = self.connect().await?;
        self.http1(stream).await
    }

    async fn http1(&self, stream: Stream) -> Result<http1::SendRequest<RequestBody>, Refusal> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        tokio::task::spawn_local(async move {
            // How a connection to the backend ends is told to whoever waits for an answer on it.
            connection.with_upgrades().await.ok();
        });
        Ok(sender)
    }

    async fn http2(&self, stream: Stream) -> Result<Opened, Refusal> {
        let (sender, connection) = http2::Builder::new(OnThisWorker)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.broken(source))?;
        tokio::task::spawn_local(async move {
            connection.await.ok();
        });
        Ok(Opened::Http2(sender, None))
    }

    /// Opens a connection to the service.
    pub(crate) async fn connect(&self) -> Result<Stream, Refusal> {
        let unreachable = |source| Refusal::Unreachable { target: self.name.to_string(), source };
        tokio::time::timeout(self.connect_timeout, connect(&self.address.socket))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)
    }

    fn broken(&self, source: hyper::Error) -> Refusal {
        Refusal::Broken { target: self.name.to_string(), source }
    }

    /// Forgets idle connections.
    pub(crate) fn tidy(&self) {
        self.pool.tidy();
    }
}

async fn connect(socket: &BackendSocket) -> io::Result<Stream> {
    match socket {
        BackendSocket::Tcp(addresses) => {
            let stream = tokio::net::TcpStream::connect(addresses.as_slice()).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        BackendSocket::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Stream::Unix),
    }
}
