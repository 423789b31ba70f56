//! The local service behind an inbound, and the connections to it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::RequestBody;
use super::outgoing::Outgoing;
use super::pool::{Http1, Lease, Opened, Pool};
use crate::config::address::{BackendAddress, BackendSocket, Protocol};
use crate::config::checked::Limits;
use crate::http2::{CONNECTION_WINDOW, OnThisWorker, STREAM_WINDOW};
use crate::listener::Stream;
use crate::refusal::Refusal;
use crate::worker::Turn;

/// The connections to one local service.
#[derive(Debug)]
pub(crate) struct BackendPool {
    address: BackendAddress,
    name: Rc<str>,
    bounds: Bounds,
    open: Rc<Cell<u32>>,
    pool: Pool,
}

/// The part of the limits that a pool goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    connect_timeout: Duration,
    connections: u32,
    idle_for: Duration,
}

impl Bounds {
    /// The bounds of a config.
    pub(crate) fn of(limits: &Limits) -> Self {
        Self {
            connect_timeout: limits.connect_timeout,
            connections: limits.backend_connections,
            idle_for: limits.backend_idle,
        }
    }
}

impl BackendPool {
    /// No connections yet.
    pub(crate) fn new(address: BackendAddress, bounds: Bounds) -> Self {
        let name = address.to_string().into();
        Self { name, address, bounds, open: Rc::default(), pool: Pool::new(bounds.idle_for) }
    }

    /// Whether it was made for these bounds; they may have changed with the config.
    pub(crate) fn is_within(&self, bounds: Bounds) -> bool {
        self.bounds == bounds
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
        let (stream, room) = self.connect().await?;
        match self.address.protocol {
            Protocol::Http2 => self.http2(stream, room).await,
            Protocol::Http1 | Protocol::Tcp => {
                let (sender, carrying) = self.http1(stream, room).await?;
                Ok(Opened::Http1(Http1::carried(sender, carrying), None))
            }
        }
    }

    /// A connection of its own, for what will become something else than HTTP.
    pub(crate) async fn exclusive(&self) -> Result<http1::SendRequest<RequestBody>, Refusal> {
        let (stream, room) = self.connect().await?;
        let (sender, carrying) = self.http1(stream, room).await?;
        tokio::task::spawn_local(carrying);
        Ok(sender)
    }

    async fn http1(
        &self,
        stream: Stream,
        room: Turn,
    ) -> Result<(http1::SendRequest<RequestBody>, impl Future<Output = ()> + use<>), Refusal> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        let carrying = async move {
            // How a connection to the backend ends is told to whoever waits for an answer on it.
            connection.with_upgrades().await.ok();
            drop(room);
        };
        Ok((sender, carrying))
    }

    async fn http2(&self, stream: Stream, room: Turn) -> Result<Opened, Refusal> {
        let (sender, connection) = http2::Builder::new(OnThisWorker)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.broken(source))?;
        tokio::task::spawn_local(async move {
            connection.await.ok();
            drop(room);
        });
        Ok(Opened::Http2(sender, None))
    }

    /// Opens a connection to the service.
    pub(crate) async fn connect(&self) -> Result<(Stream, Turn), Refusal> {
        let limit = self.bounds.connections;
        let full = || Refusal::BackendFull { target: self.name.to_string(), limit };
        let room = Turn::take(&self.open, limit).ok_or_else(full)?;
        let unreachable = |source| Refusal::Unreachable { target: self.name.to_string(), source };
        let stream = tokio::time::timeout(self.bounds.connect_timeout, connect(&self.address.socket))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        Ok((stream, room))
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
