//! Networks in CIDR form (RFC 4632, RFC 4291 §2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its first bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("{0:?} is no address")]
    Address(String),
    #[error("{bits:?} is no length of a prefix; it is 0 to {most}")]
    Bits { bits: String, most: u8 },
    #[error("{written} has bits set after the first {bits}; the network is {network}")]
    HostBits { written: IpAddr, bits: u8, network: Box<Network> },
    #[error("{0} is an IPv4 address in the form of IPv6; write it as IPv4")]
    Mapped(IpAddr),
}

impl Network {
    /// Whether an address belongs to it. An IPv4 address in the form of IPv6 counts as IPv4.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.bits) == Some(self.address)
            && address.to_canonical().is_ipv4() == self.address.is_ipv4()
    }
}

/// The address with every bit after the first `bits` cleared; none if it does not have so many.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let shift = |width: u32| width.checked_sub(u32::from(bits));
    Some(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(shift(32)?).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(shift(128)?).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    })
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_not_one| NetworkError::Address(address.to_owned()))?;
        if address.to_canonical() != address {
            return Err(NetworkError::Mapped(address));
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let wrong = |bits: &str| NetworkError::Bits { bits: bits.to_owned(), most };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(|| wrong(bits))?
            }
            Some(bits) => return Err(wrong(bits)),
        };
        let network = Self { address: masked(address, bits).unwrap_or(address), bits };
        if network.address != address {
            return Err(NetworkError::HostBits { written: address, bits, network: Box::new(network) });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(network: &str, address: &str, expected: bool) {
        let network: Network = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
    }

    #[test]
    fn a_network_holds_the_addresses_with_its_first_bits() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.4", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("::/0", "10.0.0.1", false);
        check("::/0", "::ffff:10.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.0.0.1", true);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
    }

    #[test]
    fn texts_that_are_no_network_are_errors() {
        for text in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0.1/8",
            "::1/129",
            "::ffff:10.0.0.0/104",
            "a/8",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_written_with_its_bits() {
        assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
        assert_eq!("2001:db8::/32".parse::<Network>().unwrap().to_string(), "2001:db8::/32");
    }
}
