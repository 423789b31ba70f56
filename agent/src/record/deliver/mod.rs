//! How lines get to an additional sink.

mod network;
mod otlp;
mod syslog;

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use countersign_audit::format::Format;
use countersign_audit::journal;
use countersign_certs::key::KeyError;
use countersign_certs::pem::PemError;
use countersign_certs::store::StoreError;
use countersign_certs::time::Clock;
use countersign_certs::tls::TlsError;

use super::output::append;
use crate::config::address::Endpoint;
use crate::config::audit::SinkTarget;
use otlp::Otlp;
use syslog::Syslog;

/// What every kind needs.
pub(super) struct Setup {
    pub(super) format: Format,
    /// The machine's name.
    pub(super) host: String,
    pub(super) clock: Clock,
}

/// Why lines were not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliverError {
    #[error("{endpoint} answered {status}")]
    Answer { endpoint: Endpoint, status: u16 },
    #[error("{endpoint} did not answer in time")]
    Deadline { endpoint: Endpoint },
    #[error("the connection to {endpoint} broke")]
    Http { endpoint: Endpoint, source: hyper::Error },
    #[error("{path} cannot be written")]
    File { path: PathBuf, source: io::Error },
    #[error("the key cannot be used")]
    Key(#[from] KeyError),
    #[error("{0} is no name that a certificate can have")]
    Name(String),
    #[error("{path} cannot be used")]
    Pem { path: PathBuf, source: PemError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("{endpoint} cannot be reached")]
    Unreachable { endpoint: Endpoint, source: io::Error },
}

/// Whither lines go.
pub(super) enum Target {
    File { path: PathBuf, format: Format },
    Journald { path: PathBuf, format: Format, socket: Option<UnixDatagram> },
    Otlp(Box<Otlp>),
    Syslog(Box<Syslog>),
}

impl Target {
    /// Nothing is opened yet.
    pub(super) fn new(target: &SinkTarget, setup: Setup) -> Self {
        match target {
            SinkTarget::File(path) => Self::File { path: path.clone(), format: setup.format },
            SinkTarget::Journald(path) => Self::Journald { path: path.clone(), format: setup.format, socket: None },
            SinkTarget::Otlp { endpoint, uri, tls } => {
                Self::Otlp(Box::new(Otlp::new(endpoint.clone(), uri.clone(), tls.clone(), setup)))
            }
            SinkTarget::Syslog { endpoint, tls } => {
                Self::Syslog(Box::new(Syslog::new(endpoint.clone(), tls.clone(), setup)))
            }
        }
    }

    /// Delivers some of these lines, at least one, and adds to `taken` how many; also if it fails after some. Returns how many of
    /// them the other side will never take.
    pub(super) fn deliver(&mut self, lines: &[&str], taken: &mut usize) -> Result<u64, DeliverError> {
        match self {
            Self::File { path, format } => write_file(path, *format, lines, taken),
            Self::Journald { path, format, socket } => {
                let done = send_to_journal(path, *format, socket, lines, taken);
                if done.is_err() {
                    *socket = None;
                }
                done
            }
            Self::Otlp(otlp) => otlp.deliver(lines, taken),
            Self::Syslog(syslog) => syslog.deliver(lines, taken),
        }
    }
}

/// The file is opened for each batch, so that it can be moved away at any time.
fn write_file(path: &Path, format: Format, lines: &[&str], taken: &mut usize) -> Result<u64, DeliverError> {
    let refused = |source| DeliverError::File { path: path.to_owned(), source };
    let mut file = append(path).map_err(refused)?;
    let (mut text, mut unknown) = (Vec::new(), 0);
    for line in lines {
        match format.convert(line) {
            Ok(line) => text.extend([line.as_bytes(), b"\n"].concat()),
            Err(_no_line) => unknown += 1,
        }
    }
    let before = file.metadata().map_err(refused)?.len();
    if let Err(error) = file.write_all(&text) {
        // Half a line would be there for ever; all of them are tried again.
        file.set_len(before).ok();
        return Err(refused(error));
    }
    *taken = lines.len();
    Ok(unknown)
}

fn send_to_journal(
    path: &Path,
    format: Format,
    socket: &mut Option<UnixDatagram>,
    lines: &[&str],
    taken: &mut usize,
) -> Result<u64, DeliverError> {
    let refused = |source| DeliverError::File { path: path.to_owned(), source };
    let socket = match socket {
        Some(socket) => socket,
        None => {
            let opened = UnixDatagram::unbound().map_err(refused)?;
            opened.set_write_timeout(Some(network::IO_TIMEOUT)).map_err(refused)?;
            opened.connect(path).map_err(refused)?;
            socket.insert(opened)
        }
    };
    let mut unknown = 0;
    for line in lines {
        match journal::entry(line, format) {
            Ok(entry) => drop(socket.send(&entry).map_err(refused)?),
            Err(_no_line) => unknown += 1,
        }
        *taken += 1;
    }
    Ok(unknown)
}
