//! HTTP on one connection, from its first byte to its last: which protocol it is, what follows what, and what happens when the
//! connection drains, rests or is cut. What happens to one request is told in [`exchange`].

pub(crate) mod rewind;

mod framing;

mod sniff;

mod authority;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1::Builder as Http1;
use hyper::server::conn::http2::Builder as Http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::config::checked::Limits;
use crate::connection::Connection;
use crate::exchange;
use crate::http2::{Batched, CONNECTION_WINDOW, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, OnThisWorker, STREAM_WINDOW};
use crate::listener::{PeerAddress, Stream};
use crate::live::Told;
use crate::refusal::{Refusal, Withdrawn};
use authority::HostlessStream;
use rewind::Rewind;

/// Header fields of one message.
const HEADERS_MAX: usize = 128;

/// How long, and how much, is read of a peer that was refused for breaking the protocol.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Bytes of answers that one stream may have waiting to be sent.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves a program that speaks in clear text, in whichever HTTP it begins with.
pub(crate) async fn http(stream: Stream, connection: Rc<Connection>) -> Result<(), Refusal> {
    let limit = connection.worker().snapshot().limits.idle_connection;
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(limit, sniff::is_http2(stream)) => sniffed,
        // Nothing was asked yet, so there is nothing to finish.
        _told = connection.signal().told(false) => return Ok(()),
    };
    let (is_http2, stream) = sniffed.map_err(|_elapsed| Withdrawn::Idle(limit))?.map_err(Refusal::Transfer)?;
    match connection.address() {
        _ if !is_http2 => follow_http1(stream.into_http1(), connection).await,
        PeerAddress::Unix(_) => http2(HostlessStream::new(stream), connection).await,
        PeerAddress::Tcp(_) => http2(stream, connection).await,
    }
}

/// Serves HTTP/1.1 on a connection until it ends or must end.
pub(crate) fn http1<S>(stream: S, connection: Rc<Connection>) -> impl Future<Output = Result<(), Refusal>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    follow_http1(Rewind::new(Bytes::new(), stream).into_http1(), connection)
}

/// Between two requests that are far apart, HTTP and its buffers are put away: a silent connection holds its TLS state and
/// little else.
async fn follow_http1<S>(mut stream: Rewind<S>, connection: Rc<Connection>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    while bytes_came(&mut stream, &connection).await? {
        let rested = Box::pin(serve_until_rest(stream, &connection)).await?;
        let Some(resting) = rested else { break };
        stream = resting;
    }
    connection.silence().await;
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
        exchange::answer_followed(request, connection, watch)
    });
    let mut serving = Http1::new()
        .max_buf_size(usize::try_from(header_bytes).unwrap_or(usize::MAX))
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut draining = false;
    loop {
        tokio::select! {
            // HTTP is asked first: what it has not looked at yet must not be taken for silence.
            biased;
            ended = &mut serving => {
                let outcome = ended.or_else(harmless);
                if let (Err(_), Some(parts)) = (&outcome, serving.into_parts()) {
                    // Boxed, because it is rare and its buffer would make every connection larger.
                    Box::pin(linger(parts.io.into_inner())).await;
                }
                return outcome.map(|()| None);
            }
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
pub(crate) async fn http2<S>(stream: S, connection: Rc<Connection>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Limits { streams_per_connection, header_bytes, .. } = connection.worker().snapshot().limits;
    let answering = Rc::clone(&connection);
    let service = service_fn(move |request| exchange::answer(request, Rc::clone(&answering)));
    let serving = Http2::new(OnThisWorker)
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_per_connection)
        .max_header_list_size(header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(Batched::new(stream)), service);
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

/// Reads on for a moment after a refusal. A connection that is closed while bytes arrive is reset, and the peer may then never read
/// why it was refused.
async fn linger(mut stream: impl AsyncRead + Unpin) {
    let mut scratch = [0; 4096];
    let mut left = LINGER_BYTES;
    let reading = async {
        while let Ok(count @ 1..) = stream.read(&mut scratch).await {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    };
    // Whoever goes on sending has had its time.
    tokio::time::timeout(LINGER, reading).await.ok();
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
