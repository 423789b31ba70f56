//! Sockets: what is listened on, what was accepted, and who the kernel says is calling.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use countersign_certs::network::network_of;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::address::ListenAddress;
use crate::policy::local::{LocalCaller, LocalUser};
use crate::systemd::HandedOver;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 4096;

/// A listening socket. Each worker accepts from its own duplicate of it, so that no connection that waits in the kernel's
/// queue is lost when the config changes.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Who may connect to a Unix socket, so far as its file says (unix(7): connecting needs write permission).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SocketMode {
    /// Every user: who may is decided by what the kernel says of the caller.
    Everybody,
    /// The agent's user and group.
    Group,
    /// The agent's user.
    Owner,
}

/// One worker's duplicate.
#[derive(Debug)]
pub(crate) enum WorkerListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A byte stream to a peer, of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// Where a connection came from.
#[derive(Debug, Clone)]
pub(crate) enum PeerAddress {
    Tcp(SocketAddr),
    Unix(Option<LocalUser>),
}

/// Who counts as one where nothing better is known than where somebody comes from: ports cost nothing, nor do addresses of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Network(IpAddr),
    Unknown,
    /// A user of this host, by number.
    User(u32),
}

impl Listener {
    /// Opens a socket with a mode that matters to Unix sockets only, or duplicates the one that systemd has opened.
    pub(crate) fn open(address: &ListenAddress, mode: SocketMode, handed_over: &HandedOver) -> io::Result<Self> {
        match address {
            ListenAddress::Systemd(name) => handed_over.listener(name),
            ListenAddress::Tcp(address) => open_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => open_unix(path, mode).map(Self::Unix),
        }
    }

    /// The same socket once more.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// Makes it fit for a runtime, which polls.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    /// Opens a Unix socket beside the one in a place, which goes on until this one takes its place.
    pub(crate) fn open_beside(place: &Path, mode: SocketMode) -> io::Result<(Self, Beside)> {
        let mut beside = place.as_os_str().to_owned();
        beside.push(".new");
        let beside = Beside { beside: beside.into(), place: place.to_owned(), is_in_place: false };
        Ok((Self::Unix(open_unix(&beside.beside, mode)?), beside))
    }

    /// Whether it is a Unix socket that every user of this host can reach: one with such a mode, or without a file.
    pub(crate) fn is_open_to_everybody(&self) -> bool {
        let Self::Unix(listener) = self else { return false };
        let address = listener.local_addr().ok();
        let mode = address.as_ref().and_then(|address| address.as_pathname()).and_then(|path| path.metadata().ok());
        mode.is_none_or(|status| status.permissions().mode() & 0o002 != 0)
    }

    /// Whether only programs of this host can reach it, as the kernel says.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Self::Unix(_) => true,
        }
    }

    /// A duplicate for one worker. Call inside its runtime.
    pub(crate) fn for_worker(&self) -> io::Result<WorkerListener> {
        match self {
            Self::Tcp(listener) => tokio::net::TcpListener::from_std(listener.try_clone()?).map(WorkerListener::Tcp),
            Self::Unix(listener) => tokio::net::UnixListener::from_std(listener.try_clone()?).map(WorkerListener::Unix),
        }
    }

    /// The port that the kernel chose, if the address left it open.
    pub(crate) fn local_address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Self::Unix(listener) => listener
                .local_addr()
                .ok()
                .and_then(|address| address.as_pathname().map(|path| format!("unix:{}", path.display())))
                .unwrap_or_default(),
        }
    }
}

/// The file of a socket that is to take the place of another one's. Without that it is removed again.
pub(crate) struct Beside {
    beside: PathBuf,
    place: PathBuf,
    is_in_place: bool,
}

impl Beside {
    /// From now on everybody reaches the new socket. Who waits in the queue of the old one is let down when that is closed.
    #[allow(clippy::disallowed_methods, reason = "a socket's file belongs to the socket, not to the store")]
    pub(crate) fn take_place(mut self) {
        match std::fs::rename(&self.beside, &self.place) {
            Ok(()) => self.is_in_place = true,
            Err(error) => tracing::error!(path = %self.place.display(), %error, "a socket cannot take its place"),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_in_place {
            remove_file(&self.beside).ok();
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // One address means that address: [::] does not take IPv4 along.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn open_unix(path: &Path, mode: SocketMode) -> io::Result<std::os::unix::net::UnixListener> {
    remove_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    set_mode(path, mode)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket file that nobody listens on, as a crash leaves it. Anything else in its place is left alone, and
/// binding fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let answer = std::os::unix::net::UnixStream::connect(path);
    match answer {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[allow(clippy::disallowed_methods, reason = "a socket's file belongs to the socket, not to the store")]
fn set_mode(path: &Path, mode: SocketMode) -> io::Result<()> {
    let bits = match mode {
        SocketMode::Everybody => 0o666,
        SocketMode::Group => 0o660,
        SocketMode::Owner => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits))
}

#[allow(clippy::disallowed_methods, reason = "a socket's file belongs to the socket, not to the store")]
fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

impl WorkerListener {
    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without this a small frame waits for the peer's delayed acknowledgement, 40 ms on Linux.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), PeerAddress::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|user| LocalUser { uid: user.uid(), gid: user.gid() });
                Ok((Stream::Unix(stream), PeerAddress::Unix(user)))
            }
        }
    }
}

impl PeerAddress {
    /// The address, where there is one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// With whom it counts as one.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Tcp(address) => Origin::Network(network_of(address.ip())),
            Self::Unix(Some(user)) => Origin::User(user.uid),
            Self::Unix(None) => Origin::Unknown,
        }
    }

    /// What is known of it as a program of this host.
    pub(crate) fn local_caller(&self) -> LocalCaller {
        match self {
            Self::Tcp(address) if address.ip().to_canonical().is_loopback() => LocalCaller::Loopback,
            Self::Unix(Some(user)) => LocalCaller::User(*user),
            Self::Tcp(_) | Self::Unix(None) => LocalCaller::Unknown,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(formatter),
            Self::Unknown => formatter.write_str("unknown"),
            Self::User(uid) => write!(formatter, "uid={uid}"),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(Some(user)) => write!(formatter, "unix:uid={},gid={}", user.uid, user.gid),
            Self::Unix(None) => formatter.write_str("unix"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }
}
