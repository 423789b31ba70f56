//! Where to listen and whither to forward, each with a type of its own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where an agent accepts connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ListenAddress {
    /// A socket that systemd has opened, by its `FileDescriptorName=`.
    Systemd(String),
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The local service behind an inbound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BackendAddress {
    pub(crate) protocol: Protocol,
    pub(crate) socket: BackendSocket,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    Http2,
    /// Bytes that are not looked at.
    Tcp,
}

/// The transport to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum BackendSocket {
    /// One address, or both loopback addresses for `localhost`.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Where another agent listens: a host name, which is looked up for each new connection, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "{0:?} is no backend; write http://ADDRESS:PORT, h2c://ADDRESS:PORT, tcp://ADDRESS:PORT, unix:/PATH, http+unix:/PATH or h2c+unix:/PATH"
    )]
    Backend(String),
    #[error("{0:?} is no endpoint; write HOST:PORT")]
    Endpoint(String),
    #[error("{0:?} is no listen address; write ADDRESS:PORT, unix:/PATH or systemd:NAME")]
    Listen(String),
    #[error("the path of a Unix socket must be absolute and at most 107 bytes long, {0:?} is not")]
    UnixPath(String),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix);
        }
        if let Some(name) = text.strip_prefix("systemd:").filter(|name| !name.is_empty()) {
            return Ok(Self::Systemd(name.to_owned()));
        }
        text.parse().map(Self::Tcp).map_err(|_not_an_address| AddressError::Listen(text.to_owned()))
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || AddressError::Backend(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(refused)?;
        let (protocol, is_unix) = match scheme {
            "http" => (Protocol::Http1, false),
            "h2c" => (Protocol::Http2, false),
            "tcp" => (Protocol::Tcp, false),
            "http+unix" => (Protocol::Http1, true),
            "h2c+unix" => (Protocol::Http2, true),
            "unix" => (Protocol::Tcp, true),
            _ => return Err(refused()),
        };
        if is_unix {
            return Ok(Self { protocol, socket: BackendSocket::Unix(unix_path(rest)?) });
        }
        let authority = rest.strip_prefix("//").ok_or_else(refused)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let addresses = match authority.strip_prefix("localhost:") {
            Some(port) => {
                let port = port.parse().map_err(|_not_a_port| refused())?;
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
            None => vec![authority.parse().map_err(|_not_an_address| refused())?],
        };
        Ok(Self { protocol, socket: BackendSocket::Tcp(addresses) })
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || AddressError::Endpoint(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let valid = match bare {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok() || countersign_certs::san::DnsName::parse(host).is_ok(),
        };
        if !valid {
            return Err(refused());
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl Endpoint {
    /// Whether it can only be this host: an address of loopback, or `localhost`, which RFC 6761 §6.3 keeps for it.
    pub(crate) fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl ListenAddress {
    /// Whether only programs of this host can reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Systemd(_) | Self::Unix(_) => true,
            Self::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

impl BackendSocket {
    /// Whether what is forwarded in clear text stays on this host.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addresses) => addresses.iter().map(SocketAddr::ip).all(|address: IpAddr| address.is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

fn unix_path(path: &str) -> Result<PathBuf, AddressError> {
    // sun_path holds 108 bytes with the final zero (unix(7)).
    if path.starts_with('/') && path.len() <= 107 && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err(AddressError::UnixPath(path.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd(name) => write!(formatter, "systemd:{name}"),
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http1 => "http",
            Protocol::Http2 => "h2c",
            Protocol::Tcp => "tcp",
        };
        match (&self.socket, self.protocol) {
            (BackendSocket::Tcp(addresses), _) => {
                let first = addresses.first().map(ToString::to_string).unwrap_or_default();
                write!(formatter, "{scheme}://{first}")
            }
            (BackendSocket::Unix(path), Protocol::Tcp) => write!(formatter, "unix:{}", path.display()),
            (BackendSocket::Unix(path), Protocol::Http1 | Protocol::Http2) => {
                write!(formatter, "{scheme}+unix:{}", path.display())
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_as_what_it_is() {
        assert_eq!("unix:/run/a.sock".parse(), Ok(ListenAddress::Unix("/run/a.sock".into())));
        assert_eq!("systemd:llm".parse(), Ok(ListenAddress::Systemd("llm".into())));
        for text in
            ["http://127.0.0.1:1", "h2c://[::1]:2", "tcp://127.0.0.1:3", "http+unix:/a", "h2c+unix:/a", "unix:/a"]
        {
            assert_eq!(text.parse::<BackendAddress>().unwrap().to_string(), text);
        }
        assert!(
            matches!("http://localhost:1/".parse::<BackendAddress>().unwrap().socket, BackendSocket::Tcp(both) if both.len() == 2)
        );
        for text in ["host-b:9443", "10.0.0.1:1", "[2001:db8::1]:1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn only_loopback_is_this_host() {
        for text in ["localhost:1", "LOCALHOST:1", "127.0.0.2:1", "[::1]:1"] {
            assert!(text.parse::<Endpoint>().unwrap().is_local(), "{text}");
        }
        for text in ["localhost.example:1", "127.example:1", "128.0.0.1:1", "[::2]:1", "0.0.0.0:1"] {
            assert!(!text.parse::<Endpoint>().unwrap().is_local(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["localhost:80", "1.2.3.4", "unix:relative", "systemd:", "http://127.0.0.1:80"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
        for text in [
            "https://127.0.0.1:1",
            "http://127.0.0.1",
            "http://127.0.0.1:1/v1",
            "http://host:1",
            "127.0.0.1:1",
            "unix:a",
            "http:127.0.0.1:1",
        ] {
            assert!(text.parse::<BackendAddress>().is_err(), "{text}");
        }
        for text in ["host", "host:0", "host:99999", "::1:80", "a b:1", "http://a:1", ":1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
