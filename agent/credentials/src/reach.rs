//! Which addresses may be contacted because a document or a config names them.
//!
//! Whoever can make the agent fetch something (an issuer's metadata, a DNS record) could send it to places that only this host can
//! reach: the services on loopback, the private network, the cloud's own metadata service. Such addresses are refused unless an
//! operator has named the host or the network. The rule looks at the address that is connected to, after the name was resolved: a name
//! can change its mind between the look and the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::url::Host;

/// Most exceptions of one rule.
pub const EXCEPTIONS_MAX: usize = 256;

/// What may be contacted: everything public, and what an operator has named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRule {
    hosts: Vec<Host>,
    networks: Vec<Network>,
}

/// Addresses with the same beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

/// An exception that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExceptionError {
    /// No host name, no address, no network.
    #[error("{0:?} is no host name, no address and no network; networks are written as 10.0.0.0/8 or fd00::/8")]
    Malformed(String),
    /// A network with bits behind its prefix: another one may be meant.
    #[error("{0:?} has bits behind its prefix; write {1}")]
    Spare(String, String),
    /// Too many.
    #[error("{count} exceptions; the most is {EXCEPTIONS_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// An address that is not contacted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is at {address}, which is {kind}, and no exception allows it")]
pub struct Unreachable {
    /// The host that was to be contacted.
    pub host: String,
    /// Where it is.
    pub address: IpAddr,
    /// What kind of address that is.
    pub kind: &'static str,
}

impl AddressRule {
    /// Makes a rule with exceptions: host names, addresses, and networks as `10.0.0.0/8`.
    ///
    /// # Errors
    /// One of them is none of these, or there are too many.
    pub fn new<'text>(exceptions: impl IntoIterator<Item = &'text str>) -> Result<Self, ExceptionError> {
        let mut rule = Self::default();
        for text in exceptions {
            if let Some((address, prefix)) = text.split_once('/') {
                rule.networks.push(Network::parse(text, address, prefix)?);
            } else if let Ok(address) = text.parse() {
                rule.networks.push(Network::of(address));
            } else {
                rule.hosts.push(Host::parse(text).map_err(|_no_host| ExceptionError::Malformed(text.to_owned()))?);
            }
        }
        let count = rule.hosts.len() + rule.networks.len();
        if count > EXCEPTIONS_MAX { Err(ExceptionError::TooMany { count }) } else { Ok(rule) }
    }

    /// Whether a host that was found at an address may be contacted there.
    ///
    /// # Errors
    /// The address is not a public one, and no exception names it or the host.
    pub fn check(&self, host: &Host, address: IpAddr) -> Result<(), Unreachable> {
        let real = innermost(address);
        let Some(kind) = kind_of(real) else { return Ok(()) };
        let named = |network: &Network| network.contains(real) || network.contains(address);
        if self.hosts.contains(host) || self.networks.iter().any(named) {
            return Ok(());
        }
        Err(Unreachable { host: host.to_string(), address, kind })
    }
}

impl Network {
    fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix_bits: bits_of(address) }
    }

    fn parse(whole: &str, address: &str, prefix: &str) -> Result<Self, ExceptionError> {
        let malformed = || ExceptionError::Malformed(whole.to_owned());
        let address: IpAddr = address.parse().map_err(|_no_address| malformed())?;
        let is_decimal =
            prefix.bytes().all(|byte| byte.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
        let prefix_bits = prefix.parse().ok().filter(|bits| is_decimal && *bits <= bits_of(address));
        let network = Self { address, prefix_bits: prefix_bits.ok_or_else(malformed)? };
        let first = network.first();
        if first != address {
            return Err(ExceptionError::Spare(whole.to_owned(), format!("{first}/{}", network.prefix_bits)));
        }
        Ok(network)
    }

    fn first(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & high_bits(self.prefix_bits, 32).try_into().unwrap_or(0)))
            }
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & high_bits(self.prefix_bits, 128))),
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        bits_of(address) == bits_of(self.address) && Self { address, ..self }.first() == self.first()
    }
}

/// A number of `width` bits of which the first `count` are set.
fn high_bits(count: u32, width: u32) -> u128 {
    let all = u128::MAX >> (128_u32.saturating_sub(width));
    all & !all.checked_shr(count).unwrap_or(0)
}

fn bits_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The IPv4 address inside an IPv6 one that only carries it: mapped (RFC 4291 §2.5.5.2), compatible (§2.5.5.1), NAT64
/// (RFC 6052 §2.1), 6to4 (RFC 3056 §2). Whatever is inside, that is where the packets go.
fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(outer) = address else { return address };
    let bits = u128::from(outer);
    let inner = |shift: u32| {
        let low = bits >> shift & u128::from(u32::MAX);
        u32::try_from(low).map_or(address, |inner| IpAddr::V4(inner.into()))
    };
    match outer.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] if !outer.is_loopback() && !outer.is_unspecified() => inner(0),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => inner(0),
        [0x2002, ..] => inner(80),
        _ => address,
    }
}

/// What kind of address that is not public it is (RFC 6890 and IANA's registries of special addresses).
fn kind_of(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => kind_of_ipv4(address),
        IpAddr::V6(address) => kind_of_ipv6(address),
    }
}

fn kind_of_ipv4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "of this network",
        [127, ..] => "loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "behind a provider's NAT",
        [169, 254, ..] => "link-local",
        [192, 0, 0, _] => "for protocols",
        [192, 88, 99, _] => "a 6to4 relay",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "for documentation",
        [198, 18..=19, ..] => "for benchmarks",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved",
        // A public number that the hosts of one cloud reach as their own control service.
        [168, 63, 129, 16] => "a cloud's own",
        _ => return None,
    })
}

fn kind_of_ipv6(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        [0x64, 0xff9b, 1, ..] => "a local NAT64",
        [0x100, 0, 0, ..] => "for discarding",
        [0x2001, 0, ..] => "Teredo",
        [0x2001, 0..=0x1ff, ..] => "for protocols",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "for documentation",
        [0x5f00, ..] => "for segment routing",
        [0xfc00..=0xfdff, ..] => "unique-local",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        // What nobody has given out yet is nobody's to be at: only 2000::/3 is public (RFC 4291 §2.4).
        [0x2000..=0x3fff, ..] => return None,
        _ => "reserved",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exceptions: &[&str], host: &str, address: &str, expected: Option<&str>) {
        let rule = AddressRule::new(exceptions.iter().copied()).unwrap();
        let checked = rule.check(&Host::parse(host).unwrap(), address.parse().unwrap());
        assert_eq!(checked.err().map(|refused| refused.kind), expected, "{host} at {address}");
    }

    #[test]
    fn public_addresses_are_reached() {
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.0.0",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.0.0",
            "192.169.0.0",
            "198.17.0.0",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2606:4700::1",
            "3ffe::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "::1.1.1.1",
            "3fff:1000::1",
        ];
        for address in public {
            check(&[], "a.example", address, None);
        }
    }

    #[test]
    fn what_only_this_host_can_reach_is_not_reached() {
        let refused = [
            ("0.0.0.0", "of this network"),
            ("0.255.255.255", "of this network"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.168.0.1", "private"),
            ("100.64.0.0", "behind a provider's NAT"),
            ("100.127.255.255", "behind a provider's NAT"),
            ("169.254.169.254", "link-local"),
            ("192.0.0.8", "for protocols"),
            ("192.88.99.1", "a 6to4 relay"),
            ("192.0.2.1", "for documentation"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("198.18.0.1", "for benchmarks"),
            ("198.19.255.255", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("168.63.129.16", "a cloud's own"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("64:ff9b:1::1", "a local NAT64"),
            ("100::1", "for discarding"),
            ("2001::1", "Teredo"),
            ("2001:1::1", "for protocols"),
            ("2001:1ff::1", "for protocols"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("3fff:fff::1", "for documentation"),
            ("5f00::1", "for segment routing"),
            ("fc00::1", "unique-local"),
            ("fd00:ec2::254", "unique-local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("4000::1", "reserved"),
            ("::2:0:0:1", "reserved"),
            ("1fff::1", "reserved"),
        ];
        for (address, kind) in refused {
            check(&[], "a.example", address, Some(kind));
        }
    }

    #[test]
    fn an_address_inside_another_is_found() {
        for (address, kind) in [
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.1.2.3", "private"),
            ("::127.0.0.1", "loopback"),
            ("64:ff9b::169.254.169.254", "link-local"),
            ("64:ff9b::7f00:1", "loopback"),
            ("2002:7f00:1::1", "loopback"),
            ("2002:a00:1:ffff::1", "private"),
            ("::2", "of this network"),
        ] {
            check(&[], "a.example", address, Some(kind));
        }
    }

    #[test]
    fn what_an_operator_names_is_reached() {
        check(&["127.0.0.1"], "a.example", "127.0.0.1", None);
        check(&["127.0.0.1"], "a.example", "127.0.0.2", Some("loopback"));
        check(&["127.0.0.1"], "a.example", "::ffff:127.0.0.1", None);
        check(&["::1"], "a.example", "::1", None);
        check(&["10.0.0.0/8"], "a.example", "10.255.0.1", None);
        check(&["10.0.0.0/8"], "a.example", "172.16.0.1", Some("private"));
        check(&["10.1.0.0/16", "fd00::/8"], "a.example", "fd12::1", None);
        check(&["10.1.0.0/16"], "a.example", "10.2.0.1", Some("private"));
        check(&["0.0.0.0/0"], "a.example", "127.0.0.1", None);
        check(&["0.0.0.0/0"], "a.example", "fe80::1", Some("link-local"));
        check(&["::/0"], "a.example", "fe80::1", None);
        check(&["fe80::/10"], "a.example", "fe90::1", None);
        check(&["idp.internal"], "idp.internal", "10.0.0.1", None);
        check(&["IDP.internal"], "idp.internal", "10.0.0.1", None);
        check(&["idp.internal"], "x.idp.internal", "10.0.0.1", Some("private"));
        check(&["2002::/16"], "a.example", "2002:7f00:1::1", None);
    }

    #[test]
    fn exceptions_that_are_none_are_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0/8",
            "a/8",
            "*",
            "a b",
            "10.0.0.0/8/8",
            "127.1",
        ] {
            assert_eq!(AddressRule::new([text]), Err(ExceptionError::Malformed(text.to_owned())), "{text:?}");
        }
        let spare = ExceptionError::Spare("10.1.0.0/8".to_owned(), "10.0.0.0/8".to_owned());
        assert_eq!(AddressRule::new(["10.1.0.0/8"]), Err(spare));
        assert!(AddressRule::new(["a"; EXCEPTIONS_MAX]).is_ok());
        assert_eq!(AddressRule::new(["a"; EXCEPTIONS_MAX + 1]), Err(ExceptionError::TooMany { count: 257 }));
    }

    #[test]
    fn a_refusal_names_host_and_address() {
        let refused = AddressRule::default().check(&Host::Name("a.example".into()), "::ffff:10.0.0.1".parse().unwrap());
        let text = "a.example is at ::ffff:10.0.0.1, which is private, and no exception allows it";
        assert_eq!(refused.unwrap_err().to_string(), text);
    }
}
