//! The service behind the proxies: HTTP/1.1 in plaintext, with answers that cost next to nothing to make.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::window::now;

/// Room for every connection that the comparison opens at once.
const BACKLOG: u32 = 8192;

/// A large body is written in pieces of this size.
static PIECE: [u8; 256 * 1024] = [b'.'; 256 * 1024];

/// What stands before and after the time in an event.
pub(crate) const STAMP: [&[u8]; 2] = [b"at=", b";"];

pub(crate) async fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = listener(listen)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that ends early is the proxy's business, and its load notices.
        tokio::task::spawn_local(async move { drop(converse(stream).await) });
    }
}

fn listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut received = BytesMut::with_capacity(4096);
    loop {
        let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = received.split_to(end + 4);
        let head = std::str::from_utf8(&head).map_err(io::Error::other)?;
        answer(&mut stream, head.split(' ').nth(1).unwrap_or_default()).await?;
    }
}

async fn answer(stream: &mut TcpStream, target: &str) -> io::Result<()> {
    let segments: Vec<&str> = target.split('/').skip(1).collect();
    match *segments.as_slice() {
        ["1k"] => one_kibibyte(stream).await,
        ["bytes", count] => bytes(stream, number(count)?).await,
        ["events", count, period, phase] => {
            let [period, phase] = [number(period)?, number(phase)?].map(Duration::from_micros);
            events(stream, number(count)?, period, phase).await
        }
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await,
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(io::Error::other)
}

async fn one_kibibyte(stream: &mut TcpStream) -> io::Result<()> {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
    const ANSWER: [u8; HEAD.len() + 1024] = {
        let mut answer = [b'.'; HEAD.len() + 1024];
        let (head, _) = answer.split_at_mut(HEAD.len());
        head.copy_from_slice(HEAD);
        answer
    };
    stream.write_all(&ANSWER).await
}

async fn bytes(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {count}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut left = usize::try_from(count).map_err(io::Error::other)?;
    while left > 0 {
        let (piece, _) = PIECE.split_at(left.min(PIECE.len()));
        stream.write_all(piece).await?;
        left -= piece.len();
    }
    Ok(())
}

/// The first event leaves with the head, the others one each period, shifted by the phase so that streams which start
/// together do not beat together. Every event tells when it was written.
async fn events(stream: &mut TcpStream, count: u64, period: Duration, phase: Duration) -> io::Result<()> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    let start = tokio::time::Instant::now() + phase;
    stream.write_all(format!("{HEAD}{}", chunk(&event())).as_bytes()).await?;
    let mut next = tokio::time::interval_at(start + period, period);
    for _ in 1..count {
        next.tick().await;
        stream.write_all(chunk(&event()).as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// About as long as one token of a chat completion.
fn event() -> String {
    format!("data: {{\"delta\":\"at={:020}; {}\"}}\n\n", now().as_nanos(), "word ".repeat(20))
}

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}
