//! Whose connections and requests are counted together.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::certs::spiffe_id::host_of;
use crate::certs::verify::VerifiedPeer;

/// One who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// Nobody that we enrolled, from this network.
    Address(IpAddr),
    /// An enrolled host, by its ID.
    Host(String),
}

impl Asker {
    /// A host, if the peer is one. A workload's certificate makes nobody a host: its holder has a stranger's rights here.
    pub(super) fn of(peer: Option<&VerifiedPeer>, address: IpAddr) -> Self {
        let id = peer.and_then(|peer| peer.certificate().spiffe_id()).filter(|id| host_of(id).is_some());
        id.map_or_else(|| Self::stranger(address), |id| Self::Host(id.to_string()))
    }

    /// Somebody at this address. Whoever has one IPv6 address has its whole /64.
    pub(super) fn stranger(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        };
        Self::Address(network)
    }

    /// Whether it is an enrolled host.
    pub(super) fn is_host(&self) -> bool {
        matches!(self, Self::Host(_))
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(network) => network.fmt(formatter),
            Self::Host(id) => id.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_ipv6_are_one_and_in_ipv4_are_not() {
        let stranger = |address: &str| Asker::stranger(address.parse().unwrap());
        assert_eq!(stranger("2001:db8::1"), stranger("2001:db8::ffff:1"));
        assert_ne!(stranger("2001:db8::1"), stranger("2001:db8:0:1::1"));
        assert_ne!(stranger("192.0.2.1"), stranger("192.0.2.2"));
        assert_eq!(stranger("::ffff:192.0.2.1"), stranger("192.0.2.1"));
    }
}
