//! RFC 5424 messages over TCP, with TLS (RFC 5425) or to a receiver on this host. The protocol knows no answer: what was written
//! into a connection that had just ended may be lost, and what was written twice is there twice.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

use countersign_audit::catalogue::Entry;
use countersign_audit::syslog::append;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

use super::network::{CONNECT_TIMEOUT, IO_TIMEOUT, settings};
use super::{DeliverError, Setup};
use crate::config::address::Endpoint;
use crate::config::audit::SinkTls;

/// Messages of one writing are at most this much, and one more.
const WRITE_BYTES: usize = 64 * 1024;

/// A receiver.
pub(in crate::record) struct Syslog {
    endpoint: Endpoint,
    tls: Option<SinkTls>,
    setup: Setup,
    connection: Option<Connection>,
}

enum Connection {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Syslog {
    pub(super) fn new(endpoint: Endpoint, tls: Option<SinkTls>, setup: Setup) -> Self {
        Self { endpoint, tls, setup, connection: None }
    }

    pub(super) fn deliver(&mut self, lines: &[&str], taken: &mut usize) -> Result<u64, DeliverError> {
        let (mut messages, mut count, mut unknown) = (Vec::new(), 0, 0);
        for line in lines {
            match Entry::parse(line).and_then(|entry| Ok((entry, self.setup.format.convert(line)?))) {
                Ok((entry, text)) => append(&entry, &text, &self.setup.host, std::process::id(), &mut messages),
                Err(_no_line) => unknown += 1,
            }
            count += 1;
            if messages.len() >= WRITE_BYTES {
                break;
            }
        }
        let mut connection = match self.connection.take().map(Connection::if_open) {
            Some(Some(connection)) => connection,
            Some(None) | None => self.connect()?,
        };
        let unreachable = |source| DeliverError::Unreachable { endpoint: self.endpoint.clone(), source };
        connection.write(&messages).map_err(unreachable)?;
        self.connection = Some(connection);
        *taken = count;
        Ok(unknown)
    }

    fn connect(&self) -> Result<Connection, DeliverError> {
        let unreachable = |source| DeliverError::Unreachable { endpoint: self.endpoint.clone(), source };
        let addresses = (self.endpoint.host.as_str(), self.endpoint.port).to_socket_addrs().map_err(unreachable)?;
        let mut refused = io::ErrorKind::NotFound.into();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return self.encrypt(stream),
                Err(error) => refused = error,
            }
        }
        Err(unreachable(refused))
    }

    fn encrypt(&self, stream: TcpStream) -> Result<Connection, DeliverError> {
        let unreachable = |source| DeliverError::Unreachable { endpoint: self.endpoint.clone(), source };
        stream.set_read_timeout(Some(IO_TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(IO_TIMEOUT)).map_err(unreachable)?;
        let Some(files) = &self.tls else { return Ok(Connection::Clear(stream)) };
        let (config, name) = settings(files, &self.endpoint, &self.setup.clock)?;
        let mut stream = StreamOwned::new(ClientConnection::new(config, name)?, stream);
        // Whoever answers is known before the first line leaves.
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(unreachable)?;
        }
        Ok(Connection::Tls(Box::new(stream)))
    }
}

impl Connection {
    fn write(&mut self, messages: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(messages),
            Self::Tls(stream) => stream.write_all(messages).and_then(|()| stream.flush()),
        }
    }

    /// Nothing, if the other side has ended the connection: a receiver says nothing else.
    fn if_open(mut self) -> Option<Self> {
        self.socket().set_nonblocking(true).ok()?;
        let mut byte = [0];
        let read = match &mut self {
            Self::Clear(stream) => stream.read(&mut byte),
            Self::Tls(stream) => stream.read(&mut byte),
        };
        self.socket().set_nonblocking(false).ok()?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(self),
            Ok(1..) => Some(self),
            Ok(0) | Err(_) => None,
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}
