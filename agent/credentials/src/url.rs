//! HTTP URLs that any two programs read alike (RFC 3986, RFC 9110 §4.2).
//!
//! Browsers repair URLs: backslashes, tabs, user names, numbers that are addresses in disguise. Here all that is refused, so that what
//! was looked at is where the request goes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest URL in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// Longest host name in bytes (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// An absolute `http` or `https` URL in its normal form: two that are equal are one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    scheme: Scheme,
    host: Host,
    port: u16,
    path: String,
    query: Option<String>,
}

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without.
    Http,
    /// With.
    Https,
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, written in full.
    Address(IpAddr),
    /// A name in lower case.
    Name(String),
}

/// Why a text is no URL that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A character that no URL has: white space, a backslash, a letter beyond ASCII.
    #[error("a URL has no character as the one at {position}")]
    Character {
        /// Its position in bytes, from 0.
        position: usize,
    },
    /// A `.` or `..` between slashes, which some programs take away.
    #[error("its path has a segment . or ..")]
    DotSegment,
    /// Something behind `#`, which is never sent.
    #[error("it has a fragment")]
    Fragment,
    /// No host, or one that programs read differently.
    #[error("its host is no name and no address")]
    Host,
    /// A `%` without two hexadecimal digits, or one that hides a control character.
    #[error("its path has a % that encodes nothing")]
    Percent,
    /// A port that is none.
    #[error("its port is none of 1 to 65535")]
    Port,
    /// Neither `http` nor `https`.
    #[error("it does not begin with https:// or http://")]
    Scheme,
    /// Too long.
    #[error("it has {bytes} bytes; the most is {URL_BYTES_MAX}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// A user name or password.
    #[error("it has a user name")]
    UserInfo,
}

impl HttpUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is too long, has another scheme, a user name, a fragment, or a part that programs read differently.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong { bytes: text.len() });
        }
        let is_strange = |byte: u8| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte);
        if let Some(position) = text.bytes().position(is_strange) {
            return Err(UrlError::Character { position });
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let scheme = Scheme::named(scheme).ok_or(UrlError::Scheme)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(normal_escapes(query)?)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).ok_or(UrlError::Host)?;
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None => scheme.default_port(),
        };
        Ok(Self { scheme, host: Host::parse(host)?, port, path: normal_path(path)?, query })
    }

    /// Reads the URL of a request as a client repeats it in a proof: query and fragment do not count (RFC 9449 §4.3).
    ///
    /// # Errors
    /// As [`HttpUrl::parse`].
    pub fn parse_target(text: &str) -> Result<Self, UrlError> {
        let end = text.find(['?', '#']).unwrap_or(text.len());
        Self::parse(text.split_at_checked(end).map_or(text, |(target, _)| target))
    }

    /// Whether both are one place; what stands behind `?` does not count.
    pub fn is_same_target(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port, &self.path) == (other.scheme, &other.host, other.port, &other.path)
    }

    /// With or without TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whose it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, also where the text has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path; `/` where the text has none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What stands behind `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

impl Scheme {
    fn named(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Host {
    /// Reads a host: a name, four decimal numbers, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// It is none of these. `127.1`, `0x7f.0.0.1` and `2130706433` are none: some resolvers take them for addresses.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address
                .parse()
                .map(|address: Ipv6Addr| Self::Address(address.into()))
                .map_err(|_no_address| UrlError::Host);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let is_label = |label: &str| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(is_inner)
        };
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_number = last.starts_with(|first: char| first.is_ascii_digit());
        if text.len() > HOST_BYTES_MAX || is_number || !text.split('.').all(is_label) {
            return Err(UrlError::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }

    /// Whether it can only be this machine: an address of loopback, or `localhost`, which RFC 6761 §6.3 keeps for it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

/// Host and port. The colons of an IPv6 address are in brackets.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    let after_brackets = authority.rfind(']').unwrap_or_default();
    match authority.rfind(':').filter(|colon| *colon > after_brackets) {
        Some(colon) => {
            let (host, port) = authority.split_at_checked(colon).ok_or(UrlError::Host)?;
            Ok((host, Some(port.trim_start_matches(':'))))
        }
        None => Ok((authority, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let is_decimal = !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_decimal).ok_or(UrlError::Port)
}

fn normal_path(path: &str) -> Result<String, UrlError> {
    let normal = normal_escapes(if path.is_empty() { "/" } else { path })?;
    if normal.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(UrlError::DotSegment);
    }
    Ok(normal)
}

/// Escapes of plain characters are undone and those of others written with capital letters (RFC 3986 §6.2.2).
fn normal_escapes(text: &str) -> Result<String, UrlError> {
    let mut parts = text.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(UrlError::Percent)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(UrlError::Percent);
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_no_number| UrlError::Percent)?;
        if byte.is_ascii_control() {
            return Err(UrlError::Percent);
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push_str(&digits.to_ascii_uppercase());
        }
        normal.push_str(rest);
    }
    Ok(normal)
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl fmt::Display for HttpUrl {
    /// The normal form, without the port that the scheme has anyway.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme, self.host)?;
        if self.port != self.scheme.default_port() {
            write!(formatter, ":{}", self.port)?;
        }
        formatter.write_str(&self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(formatter, "?{query}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, UrlError>) {
        assert_eq!(HttpUrl::parse(text).map(|url| url.to_string()), expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn one_place_has_one_normal_form() {
        check("https://Api.Example", Ok("https://api.example/"));
        check("HTTPS://api.example:443/a", Ok("https://api.example/a"));
        check("http://api.example:80/", Ok("http://api.example/"));
        check("https://api.example:80/", Ok("https://api.example:80/"));
        check("https://a/%7Euser/%c3%a9%2f", Ok("https://a/~user/%C3%A9%2F"));
        check("https://a/b?c=%41%3d#", Err(UrlError::Fragment));
        check("https://a/b?c=%41%3d", Ok("https://a/b?c=A%3D"));
        check("https://a?c", Ok("https://a/?c"));
        check("https://127.0.0.1:8443/x", Ok("https://127.0.0.1:8443/x"));
        check("https://[::0001]:8443/x", Ok("https://[::1]:8443/x"));
        check("https://[2001:DB8::1]/x", Ok("https://[2001:db8::1]/x"));
        check("https://a_b-c.d/A//b", Ok("https://a_b-c.d/A//b"));
    }

    #[test]
    fn parts_are_told_apart() {
        let url = HttpUrl::parse("https://api.example:8443/a/b?c?d/e").unwrap();
        assert_eq!((url.scheme(), url.host(), url.port()), (Scheme::Https, &Host::Name("api.example".into()), 8443));
        assert_eq!((url.path(), url.query()), ("/a/b", Some("c?d/e")));
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        check("", Err(UrlError::Scheme));
        check("api.example/a", Err(UrlError::Scheme));
        check("ftp://a/", Err(UrlError::Scheme));
        check("file:///etc/passwd", Err(UrlError::Scheme));
        check("https:/a", Err(UrlError::Scheme));
        check("https://", Err(UrlError::Host));
        check("https:///a", Err(UrlError::Host));
        check("https://?a", Err(UrlError::Host));
        check("https://user@a/", Err(UrlError::UserInfo));
        check("https://a.example:443@evil.example/", Err(UrlError::UserInfo));
        check("https://a\\@b/", Err(UrlError::Character { position: 9 }));
        check("https://a/ b", Err(UrlError::Character { position: 10 }));
        check("https://a/\tb", Err(UrlError::Character { position: 10 }));
        check("https://ä/", Err(UrlError::Character { position: 8 }));
        for host in [
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "0177.0.0.1",
            "1.2.3.4.5",
            "a..b",
            ".a",
            "a.",
            "[::1",
            "::1",
            "[a]",
            "a.1x",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "a%2eb",
            "a,b",
        ] {
            check(&format!("https://{host}/"), Err(UrlError::Host));
        }
        check(&format!("https://{}/", "a".repeat(64)), Err(UrlError::Host));
        check(&format!("https://{}a/", "a.".repeat(126)), Ok(&format!("https://{}a/", "a.".repeat(126))));
        check(&format!("https://{}aa/", "a.".repeat(126)), Err(UrlError::Host));
        for port in ["0", "65536", "", "08", "+8", "8:8", "x", "-1"] {
            assert!(HttpUrl::parse(&format!("https://a:{port}/")).is_err(), "{port}");
        }
        check("https://a:0/", Err(UrlError::Port));
        check("https://a:65535/", Ok("https://a:65535/"));
        for path in ["/%", "/%4", "/%zz", "/%00", "/%0a", "/%+1", "/%é"] {
            assert!(HttpUrl::parse(&format!("https://a{path}")).is_err(), "{path}");
        }
        check("https://a/%zz", Err(UrlError::Percent));
        for path in ["/.", "/..", "/a/../b", "/a/%2e%2E/b", "/./"] {
            check(&format!("https://a{path}"), Err(UrlError::DotSegment));
        }
        let long = format!("https://a/{}", "b".repeat(URL_BYTES_MAX - 10));
        check(&long, Ok(&long));
        check(&format!("{long}b"), Err(UrlError::TooLong { bytes: 2049 }));
    }

    #[test]
    fn a_target_is_without_query_and_fragment() {
        let target = HttpUrl::parse("https://a/b").unwrap();
        for text in ["https://a/b", "https://a/b?c", "https://a/b#c", "https://a/b?c#d", "https://a/b#c?d"] {
            assert_eq!(HttpUrl::parse_target(text), Ok(target.clone()), "{text}");
        }
        assert_ne!(HttpUrl::parse_target("https://a/b/").unwrap(), target);
    }

    #[test]
    fn this_machine_is_known() {
        let is_loopback = |host: &str| Host::parse(host).unwrap().is_loopback();
        let known = ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"];
        assert!(known.into_iter().all(is_loopback));
        assert!(!["a.localhost.example", "localhost.example", "128.0.0.1", "[::2]"].into_iter().any(is_loopback));
    }
}
