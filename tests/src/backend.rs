//! A service that tells byte for byte what reached it, and answers what the test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::http::Duplex;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and fields, without the empty line.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Fields after the last chunk.
    pub trailers: Vec<String>,
}

/// A backend that records what reaches it and answers 200 `ok`. It serves until the test's process ends.
#[derive(Clone)]
pub struct EchoBackend {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Respond = dyn Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync;

impl EchoBackend {
    /// On a free port, answering 200.
    pub fn start() -> Self {
        Self::answering(|_, out| out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    }

    /// On a free port, answering each request with what `respond` writes.
    pub fn answering(respond: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self::serving(true, respond)
    }

    /// On a free port, for constant load: nothing is recorded. It answers 200, and `/events` with an event stream that goes on
    /// until the caller leaves.
    pub fn steady() -> Self {
        Self::serving(false, |seen, out| {
            if !seen.line().starts_with("GET /events") {
                return out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
            hold(out)
        })
    }

    /// On a free port, recording: it answers 200, and `/hold` with an event stream that goes on until the caller leaves.
    pub fn holding() -> Self {
        Self::serving(true, |seen, out| {
            if !seen.line().contains(" /hold") {
                return out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
            hold(out)
        })
    }

    fn serving(
        recording: bool,
        respond: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self { address: listener.local_addr().unwrap().to_string(), seen: Arc::default() };
        let (seen, respond): (_, Arc<Respond>) = (Arc::clone(&backend.seen), Arc::new(respond));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                let (seen, respond) = (recording.then(|| Arc::clone(&seen)), Arc::clone(&respond));
                std::thread::spawn(move || serve(stream, seen.as_deref(), &*respond));
            }
        });
        backend
    }

    /// On a Unix socket, answering 200.
    pub fn on_unix_socket(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let backend = Self { address: format!("unix:{}", path.display()), seen: Arc::default() };
        let seen = Arc::clone(&backend.seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || {
                    serve(stream, Some(&*seen), &|_, out| {
                        out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    });
                });
            }
        });
        backend
    }

    /// For a config.
    pub fn url(&self) -> String {
        match self.address.strip_prefix("unix:") {
            Some(path) => format!("http+unix:{path}"),
            None => format!("http://{}", self.address),
        }
    }

    /// The TCP address.
    pub fn tcp(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    /// Everything that reached it so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one request that reached it.
    ///
    /// # Panics
    /// None did, or several.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

impl Seen {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// Every value of a field, whatever the case of its name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The only value of a field; none if there is none or more than one.
    pub fn value(&self, name: &str) -> Option<&str> {
        match self.values(name).as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Names of all fields, in lower case.
    pub fn names(&self) -> Vec<String> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.map(|(name, _)| name.to_lowercase()).collect()
    }
}

/// Serves one connection until it ends; whoever goes away in the middle is no concern of the backend.
fn serve(stream: impl Duplex, seen: Option<&Mutex<Vec<Seen>>>, respond: &Respond) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut stream) {
        if let Some(seen) = seen {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        }
        if respond(&request, stream.get_mut()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> std::io::Result<Option<Seen>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let head = String::from_utf8_lossy(&head).trim_end().to_owned();
    let mut seen = Seen { head, body: Vec::new(), trailers: Vec::new() };
    if seen.value("transfer-encoding").is_some() {
        read_chunks(stream, &mut seen)?;
    } else {
        let length = seen.value("content-length").map_or(0, |length| length.parse().unwrap());
        seen.body.resize(length, 0);
        stream.read_exact(&mut seen.body)?;
    }
    Ok(Some(seen))
}

fn read_chunks(stream: &mut impl BufRead, seen: &mut Seen) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        if size == 0 {
            break;
        }
        stream.by_ref().take(u64::try_from(size).unwrap()).read_to_end(&mut seen.body)?;
        line.clear();
        stream.read_line(&mut line)?;
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            return Ok(());
        }
        seen.trailers.push(line.trim().to_owned());
    }
}

/// An event stream until the caller leaves.
fn hold(out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        out.write_all(b"9\r\ndata: x\n\n\r\n")?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
