//! Subject alternative names with their types, so that one kind never matches another kind's rule.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// Longest DNS name in bytes (RFC 1035 §2.3.4), without the final dot.
pub const DNS_NAME_BYTES_MAX: usize = 253;

/// Longest e-mail address in bytes (RFC 5321 §4.5.3.1.3).
pub const EMAIL_BYTES_MAX: usize = 254;

/// A name that a certificate gives its subject. Compared only with names of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// dNSName, lower-case, no wildcard.
    Dns(DnsName),
    /// rfc822Name, domain part lower-case.
    Email(EmailAddress),
    /// iPAddress, 4 or 16 bytes.
    Ip(IpAddr),
    /// uniformResourceIdentifier that is a SPIFFE ID.
    Spiffe(SpiffeId),
}

/// A DNS name, lower-case, without wildcard and without final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

/// An e-mail address; the part before `@` keeps its case (RFC 5321 §2.4), the domain is lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmailAddress(Arc<str>);

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    /// Not a host name of letters, digits, `-` and `_` in labels of 1 to 63 bytes.
    #[error("{0:?} is not a DNS name (labels of letters, digits, '-' and '_', no wildcard)")]
    Dns(String),
    /// Not `local@domain` in printable ASCII.
    #[error("{0:?} is not an e-mail address")]
    Email(String),
    /// Not an IPv4 or IPv6 address.
    #[error("{0:?} is not an IP address")]
    Ip(String),
    /// Begins with none of the known kinds.
    #[error("{0:?} does not begin with spiffe://, dns:, email: or ip:")]
    Kind(String),
    /// Not a SPIFFE ID.
    #[error("{text:?} is not a SPIFFE ID")]
    Spiffe {
        /// The refused text.
        text: String,
        /// The broken rule.
        source: SpiffeIdError,
    },
}

impl DnsName {
    /// Parses a host name; upper-case letters are taken as lower-case (RFC 4343).
    ///
    /// # Errors
    /// Empty or too long, an empty label, a wildcard, or a character that no host name has.
    pub fn parse(text: &str) -> Result<Self, SanError> {
        let label_is_valid = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let valid = text.len() <= DNS_NAME_BYTES_MAX && text.split('.').all(label_is_valid);
        // A dotted number is an address that was written into the wrong field; taking it would let one kind pass as another.
        if !valid || text.parse::<IpAddr>().is_ok() {
            return Err(SanError::Dns(quotable(text)));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EmailAddress {
    /// Parses `local@domain`; quoted local parts are refused.
    ///
    /// # Errors
    /// Not exactly one `@`, a domain that is no DNS name, or a character that is not printable ASCII.
    pub fn parse(text: &str) -> Result<Self, SanError> {
        let refused = || SanError::Email(quotable(text));
        let (local, domain) = text.split_once('@').ok_or_else(refused)?;
        let local_is_valid = !local.is_empty()
            && local.len() <= 64
            && local
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',' | b';' | b'<' | b'>'));
        let domain = DnsName::parse(domain).map_err(|_not_dns| refused())?;
        if !local_is_valid || text.len() > EMAIL_BYTES_MAX {
            return Err(refused());
        }
        Ok(Self(format!("{local}@{}", domain.as_str()).into()))
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As much of a refused text as an error may quote: peers choose how long it is.
fn quotable(text: &str) -> String {
    text.chars().take(256).collect()
}

impl fmt::Display for San {
    /// `dns:NAME`, `email:ADDRESS`, `ip:ADDRESS` or the SPIFFE ID, the same text that [`San::from_str`] takes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(formatter, "dns:{}", name.as_str()),
            Self::Email(address) => write!(formatter, "email:{}", address.as_str()),
            Self::Ip(address) => write!(formatter, "ip:{address}"),
            Self::Spiffe(id) => write!(formatter, "{id}"),
        }
    }
}

impl FromStr for San {
    type Err = SanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("dns:") {
            DnsName::parse(name).map(Self::Dns)
        } else if let Some(address) = text.strip_prefix("email:") {
            EmailAddress::parse(address).map(Self::Email)
        } else if let Some(address) = text.strip_prefix("ip:") {
            address.parse().map(Self::Ip).map_err(|_not_an_address| SanError::Ip(quotable(address)))
        } else if text.contains("://") {
            SpiffeId::parse(text).map(Self::Spiffe).map_err(|source| SanError::Spiffe { text: quotable(text), source })
        } else {
            Err(SanError::Kind(quotable(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_prints_as_it_parses() {
        for text in
            ["dns:batch.prod.example", "email:Ann@corp.example", "ip:10.0.0.1", "ip:2001:db8::1", "spiffe://td/a"]
        {
            assert_eq!(text.parse::<San>().unwrap().to_string(), text);
        }
        assert_eq!("dns:Batch.Prod.Example".parse::<San>().unwrap().to_string(), "dns:batch.prod.example");
    }

    #[test]
    fn a_name_of_one_kind_is_no_name_of_another() {
        for text in [
            "dns:10.0.0.1",
            "dns:a..b",
            "dns:*.example",
            "dns:",
            "dns:a\0b",
            "dns:-a",
            "email:a",
            "email:a@b@c",
            "email:a b@c",
            "ip:host",
            "host",
        ] {
            assert!(text.parse::<San>().is_err(), "{text}");
        }
        assert_ne!("dns:a.example".parse::<San>().unwrap(), "email:x@a.example".parse::<San>().unwrap());
    }
}
