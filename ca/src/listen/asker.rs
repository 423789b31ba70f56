//! Whose connections and requests are counted together.

use std::fmt;
use std::net::IpAddr;

use crate::certs::network::network_of;
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
        Self::Address(network_of(address))
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
