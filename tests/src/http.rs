//! A plain HTTP/1.1 client that shows everything: raw requests out, heads and pieces of bodies in, as they come.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A byte stream of any kind.
pub trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

/// A connection that asks one question after the other.
pub struct Client {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    left: Left,
    /// The last question was a HEAD: whatever the answer's head tells of a body, there is none.
    asked_head: bool,
}

/// How the rest of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(usize),
    Chunked,
    UntilClose,
    Nothing,
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The fields, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(address: impl Into<Address>) -> io::Result<Self> {
        match address.into() {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Ok(Self::over(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Ok(Self::over(stream))
            }
        }
    }

    /// Speaks over a stream that is open already.
    pub fn over(stream: impl Duplex + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), left: Left::Nothing, asked_head: false }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Asks with these headers beside Host, and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke, or what came is no HTTP.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        self.send_request(method, path, headers, body)?;
        self.answer()
    }

    /// Sends a request. A body has its length told.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        self.asked_head = method == "HEAD";
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: service.test\r\n").into_bytes();
        for (name, value) in headers {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || method == "POST" {
            request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.send(request)
    }

    /// Reads a whole answer.
    ///
    /// # Errors
    /// The connection broke, or what came is no HTTP.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head()?;
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend_from_slice(&piece);
        }
        Ok(Answer { head, body })
    }

    /// Reads the head of an answer.
    ///
    /// # Errors
    /// The connection broke, or what came is no HTTP.
    pub fn head(&mut self) -> io::Result<Head> {
        let text = self.through(b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {text:?}")))?;
        let field =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        let head = Head { status, headers: lines.filter_map(field).collect() };
        self.left = if self.asked_head { Left::Nothing } else { head.left() };
        Ok(head)
    }

    /// Reads the next piece of an answer's body as it comes; none after the last.
    ///
    /// # Errors
    /// The connection broke before the end of the body.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.left {
            Left::Nothing | Left::Bytes(0) => Ok(None),
            Left::Bytes(left) => {
                if self.buffer.is_empty() && self.fill()? == 0 {
                    return Err(broken("the body ended early"));
                }
                let piece: Vec<u8> = self.buffer.drain(..left.min(self.buffer.len())).collect();
                self.left = Left::Bytes(left - piece.len());
                Ok(Some(piece))
            }
            Left::Chunked => self.chunk(),
            Left::UntilClose => {
                if self.buffer.is_empty() && self.fill()? == 0 {
                    self.left = Left::Nothing;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
        }
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.through(b"\r\n")?;
        let size = String::from_utf8_lossy(&line).trim().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|error| broken(&format!("no chunk: {size:?}: {error}")))?;
        if size == 0 {
            // Trailers end with an empty line.
            while self.through(b"\r\n")? != b"\r\n" {}
            self.left = Left::Nothing;
            return Ok(None);
        }
        while self.buffer.len() < size + 2 {
            if self.fill()? == 0 {
                return Err(broken("a chunk ended early"));
            }
        }
        let mut piece: Vec<u8> = self.buffer.drain(..size + 2).collect();
        piece.truncate(size);
        Ok(Some(piece))
    }

    /// Reads until these bytes, which are included.
    fn through(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if self.fill()? == 0 {
                return Err(broken(&format!("the answer ended early: {:?}", String::from_utf8_lossy(&self.buffer))));
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// What has come and was not read yet, or the next bytes that come: for what is no HTTP any more.
    ///
    /// # Errors
    /// The connection broke, or was silent for too long.
    pub fn some_bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads whatever comes until the other side closes.
    ///
    /// # Errors
    /// The connection broke, or was silent for too long.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }
}

impl Head {
    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn left(&self) -> Left {
        if self.status == 101 || self.status == 204 || self.status == 304 {
            return Left::Nothing;
        }
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Left::Chunked;
        }
        match self.header("content-length") {
            Some(length) => Left::Bytes(length.parse().unwrap()),
            None => Left::UntilClose,
        }
    }
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks once, on a connection of its own.
///
/// # Errors
/// Nobody listens, the connection broke, or what came is no HTTP.
pub fn get(address: impl Into<Address>, path: &str) -> io::Result<Answer> {
    Client::connect(address)?.ask("GET", path, &[], b"")
}

/// The same with a body.
///
/// # Errors
/// As [`get`].
pub fn post(address: impl Into<Address>, path: &str, body: &[u8]) -> io::Result<Answer> {
    Client::connect(address)?.ask("POST", path, &[], body)
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
