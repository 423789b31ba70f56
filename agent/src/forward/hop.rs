//! The other agent behind an outbound: mutual TLS, usually one HTTP/2 connection for everything.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_certs::time::Timestamp;
use countersign_certs::tls::{ClientSide, Handshake, alpn};
use countersign_certs::verify::{PeerRefusal, Side, VerifiedPeer};
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use super::outgoing::Outgoing;
use super::pool::{Http1, Lease, Opened, Pool};
use crate::config::address::Endpoint;
use crate::config::checked::Limits;
use crate::http2::{Batched, CONNECTION_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, OnThisWorker, STREAM_WINDOW};
use crate::identify;
use crate::listener::Stream;
use crate::live::{Live, Member, Side as Polled, Signal};
use crate::refusal::{Refusal, Withdrawn};
use crate::routes::OutboundRoute;
use crate::worker::Worker;

/// Streams that may be opened before the other side has said how many it takes.
const STREAMS_AT_FIRST: usize = 128;

/// The connections of one outbound.
pub(crate) struct HopPool {
    worker: Rc<Worker>,
    route: Arc<OutboundRoute>,
    name: Rc<str>,
    next_endpoint: Cell<usize>,
    pool: Pool,
}

/// A TLS connection that we opened, while it lives.
#[derive(Debug)]
pub(crate) struct Hop {
    route_name: Arc<str>,
    peer: Arc<VerifiedPeer>,
    ends: Timestamp,
    signal: Signal,
}

/// Membership of a connection in the worker's list, shared by its task and by the pool.
pub(crate) type HopMember = Member<Hop>;

/// A TLS connection whose other side is who was called.
pub(crate) struct Established {
    pub(crate) stream: TlsStream<Stream>,
    pub(crate) member: Rc<HopMember>,
}

impl HopPool {
    /// No connections yet.
    pub(crate) fn new(worker: &Rc<Worker>, route: &Arc<OutboundRoute>, idle_for: Duration) -> Self {
        let endpoints = route.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Self {
            worker: Rc::clone(worker),
            route: Arc::clone(route),
            name: endpoints.into(),
            // Workers and restarts begin at different endpoints.
            next_endpoint: Cell::new(worker.index()),
            pool: Pool::new(idle_for),
        }
    }

    /// Whether connections made for `route` are as good as new ones: same identity, same service, same endpoints.
    pub(crate) fn serves(&self, route: &OutboundRoute) -> bool {
        Arc::ptr_eq(&self.route.tls.identity, &route.tls.identity)
            && self.route.tls.expected == route.tls.expected
            && self.route.tls.key_exchange == route.tls.key_exchange
            && self.route.endpoints == route.endpoints
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
        let established = self.establish(&[alpn::HTTP_2, alpn::HTTP_1_1]).await?;
        let speaks_http2 = established.stream.get_ref().1.alpn_protocol() == Some(alpn::HTTP_2);
        let Established { stream, member } = established;
        if speaks_http2 {
            let sender = self.http2(UntilCut { stream, member: Rc::clone(&member) }).await?;
            Ok(Opened::Http2(sender, Some(member)))
        } else {
            let (sender, carrying) = self.http1(TokioIo::new(stream), Rc::clone(&member)).await?;
            Ok(Opened::Http1(Http1::carried(sender, carrying), Some(member)))
        }
    }

    /// A connection of its own, for what will become something else than HTTP.
    ///
    /// The membership must be held, and its signal heeded, for as long as the connection lives.
    pub(crate) async fn exclusive(&self) -> Result<(http1::SendRequest<RequestBody>, Rc<HopMember>), Refusal> {
        let Established { stream, member } = self.establish(&[alpn::HTTP_1_1]).await?;
        let (sender, carrying) = self.http1(TokioIo::new(stream), Rc::clone(&member)).await?;
        tokio::task::spawn_local(carrying);
        Ok((sender, member))
    }

    /// Calls one endpoint after the other until one answers that is who was called.
    pub(crate) async fn establish(&self, protocols: &[&[u8]]) -> Result<Established, Refusal> {
        let route = self.current_route()?;
        let mut tls = route.tls.clone();
        tls.alpn = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let first = self.next_endpoint.get();
        self.next_endpoint.set(first.wrapping_add(1));
        let mut last = Refusal::Withdrawn(Withdrawn::Route);
        for offset in 0..route.endpoints.len() {
            let Some(endpoint) = route.endpoints.get((first.wrapping_add(offset)) % route.endpoints.len()) else {
                continue;
            };
            match self.call(endpoint, &tls).await {
                Ok(established) => return Ok(established),
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }

    /// The route with the newest trust and identity.
    fn current_route(&self) -> Result<Arc<OutboundRoute>, Refusal> {
        let snapshot = self.worker.snapshot();
        snapshot.outbound(&self.route.name).cloned().ok_or(Refusal::Withdrawn(Withdrawn::Route))
    }

    async fn call(&self, endpoint: &Endpoint, tls: &ClientSide) -> Result<Established, Refusal> {
        let Limits { connect_timeout, handshake_timeout, .. } = self.worker.snapshot().limits;
        let unreachable = |source| Refusal::Unreachable { target: endpoint.to_string(), source };
        let now = self.worker.clock().now();
        let own = identify::own_certificate(&tls.identity, now)?;
        let stream = tokio::time::timeout(connect_timeout, tcp(endpoint))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let (config, handshake) = tls.begin().map_err(Refusal::Tls)?;
        let name = countersign_certs::tls::server_name(&endpoint.host);
        let connecting = TlsConnector::from(config).connect(name, Stream::Tcp(stream));
        let stream = tokio::time::timeout(handshake_timeout, connecting)
            .await
            .map_err(|_elapsed| Refusal::HandshakeTimeout(handshake_timeout))?
            .map_err(|error| refused(endpoint, &handshake, error))?;
        self.worker.counters(&self.route.counters).handshakes.add(1);
        let peer = handshake.peer().ok_or_else(|| unreachable(io::ErrorKind::InvalidData.into()))?;
        let ends = peer.usable().not_after.min(own.not_after);
        let hop = Hop { route_name: Arc::clone(&self.route.name), peer, ends, signal: Signal::default() };
        let member = Rc::new(Live::enter(self.worker.hops(), Rc::new(hop)));
        // Trust may have changed during the handshake; from here on every change finds this connection in the list.
        member
            .verify_again(&*self.current_route()?, now)
            .map_err(|refusal| Refusal::Withdrawn(Withdrawn::Peer(Box::new(refusal))))?;
        Ok(Established { stream, member })
    }

    async fn http1<S>(
        &self,
        io: S,
        member: Rc<HopMember>,
    ) -> Result<(http1::SendRequest<RequestBody>, impl Future<Output = ()> + use<S>), Refusal>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(io).await.map_err(|source| self.broken(source))?;
        let carrying = until_cut(member, async move {
            connection.with_upgrades().await.ok();
        });
        Ok((sender, carrying))
    }

    async fn http2<S>(&self, stream: S) -> Result<http2::SendRequest<RequestBody>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(OnThisWorker)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(Batched::new(stream)))
            .await
            .map_err(|source| self.broken(source))?;
        tokio::task::spawn_local(async move {
            // How it ends is told to whoever waits for an answer on it.
            connection.await.ok();
        });
        Ok(sender)
    }

    fn broken(&self, source: hyper::Error) -> Refusal {
        Refusal::Broken { target: self.name.to_string(), source }
    }

    /// Forgets idle connections.
    pub(crate) fn tidy(&self) {
        self.pool.tidy();
    }
}

/// Drives a connection until it ends by itself or must end.
async fn until_cut(member: Rc<HopMember>, connection: impl Future<Output = ()>) {
    tokio::select! {
        () = connection => {}
        _cut = member.signal.cut_asked() => {}
    }
}

/// A stream that ends, waking whoever reads it, when its connection must. hyper drives an HTTP/2 connection in a task of its
/// own that nobody else can end.
struct UntilCut<S> {
    stream: S,
    member: Rc<HopMember>,
}

impl<S> UntilCut<S> {
    /// Reading and writing are done by two tasks, and each must hear of the end.
    fn check(&self, side: Polled, context: &Context<'_>) -> io::Result<()> {
        match self.member.signal.poll_cut(side, context) {
            Poll::Ready(withdrawn) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, withdrawn)),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UntilCut<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(Polled::Question, context)?;
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntilCut<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(Polled::Answer, context)?;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(Polled::Answer, context)?;
        Pin::new(&mut this.stream).poll_write_vectored(context, bytes)
    }
}

fn refused(endpoint: &Endpoint, handshake: &Handshake, error: io::Error) -> Refusal {
    match handshake.refusal() {
        Some(source) => Refusal::WrongService { target: endpoint.to_string(), source: Box::new(source.clone()) },
        None => Refusal::Unreachable { target: endpoint.to_string(), source: error },
    }
}

async fn tcp(endpoint: &Endpoint) -> io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Hop {
    /// Tells its task to drain or to end.
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    /// When it must have ended.
    pub(crate) fn ends(&self) -> Timestamp {
        self.ends
    }

    /// The outbound that it belongs to.
    pub(crate) fn route_name(&self) -> &str {
        &self.route_name
    }

    /// Verifies the other side against the route as it is now.
    pub(crate) fn verify_again(&self, route: &OutboundRoute, now: Timestamp) -> Result<(), PeerRefusal> {
        route.tls.trust.verify_again(&self.peer, Side::Server, now)?;
        self.peer.check_expected(&route.tls.expected)
    }
}
