//! Sorts of addresses, as egress sees them: what nobody may reach, what only a rule that names it opens, and the rest.
//!
//! Of IPv6 only global and unique local addresses are reachable. Those that carry an IPv4 address inside (mapped,
//! translated, tunnelled) are forbidden, because they would lead round the rules for that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Never reachable: the machine itself, its links, metadata services, groups.
    Forbidden,
    /// Reachable if a rule names it by address or by a range that is private as a whole.
    Private,
    /// Reachable if a rule covers it.
    Public,
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: IpAddr,
    bits: u8,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Range {
    Range { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
}

const fn v6(first: [u16; 4], last: u16, bits: u8) -> Range {
    let [a, b, c, d] = first;
    Range { first: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last)), bits }
}

/// What nobody may reach, whatever the rules say.
const FORBIDDEN: [Range; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    // The wire's own network.
    v4(10, 0, 2, 0, 24),
    v6([0xfd00, 0, 0, 0], 0, 64),
    // Special purposes, among them metadata services, and relays to IPv6.
    v4(192, 0, 0, 0, 24),
    v4(192, 88, 99, 0, 24),
    // Groups, what is reserved, and the broadcast.
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Metadata services that hide among other addresses: Azure's, Alibaba's, Amazon's.
    v4(168, 63, 129, 16, 32),
    v4(100, 100, 100, 200, 32),
    v6([0xfd00, 0x0ec2, 0, 0], 0x254, 128),
    // Teredo and 6to4, which carry IPv4 addresses; benchmarks; identifiers that are no addresses.
    v6([0x2001, 0, 0, 0], 0, 32),
    v6([0x2002, 0, 0, 0], 0, 16),
    v6([0x2001, 2, 0, 0], 0, 48),
    v6([0x2001, 0x10, 0, 0], 0, 27),
];

/// What is somebody's inner network.
const PRIVATE: [Range; 6] = [
    v4(10, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    v4(100, 64, 0, 0, 10),
    v4(198, 18, 0, 0, 15),
    v6([0xfc00, 0, 0, 0], 0, 7),
];

/// The global addresses of IPv6; outside them and the private ones there is nothing to reach.
const GLOBAL_V6: Range = v6([0x2000, 0, 0, 0], 0, 3);

impl Range {
    /// Returns the range of the addresses that share their first `bits` with `address`, if there are that many bits.
    pub(crate) fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(address) if bits <= 32 => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask_v4(bits))),
            IpAddr::V6(address) if bits <= 128 => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask_v6(bits))),
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { first, bits })
    }

    /// Returns the range of one address alone.
    pub(crate) const fn one(address: IpAddr) -> Self {
        Self { first: address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it holds one address alone.
    pub(crate) fn is_one(&self) -> bool {
        *self == Self::one(self.first)
    }

    /// Whether the address lies in it.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        Self::new(address, self.bits).is_some_and(|range| range.first == self.first)
    }

    /// Whether the whole of the other range lies in it.
    fn encloses(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.holds(other.first)
    }

    /// What all of its addresses are; a range with addresses of several sorts is called public.
    pub(crate) fn sort(&self) -> Sort {
        let stands_in = |ranges: &[Self]| ranges.iter().any(|range| range.encloses(self));
        if stands_in(&FORBIDDEN) {
            return Sort::Forbidden;
        }
        if stands_in(&PRIVATE) {
            return Sort::Private;
        }
        // A range wider than the global one, `::/0` for instance, reaches into it.
        if self.first.is_ipv6() && !GLOBAL_V6.encloses(self) && !self.encloses(&GLOBAL_V6) {
            return Sort::Forbidden;
        }
        Sort::Public
    }
}

/// Returns what an address is to a sandbox.
pub(crate) fn sort(address: IpAddr) -> Sort {
    Range::one(address).sort()
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: Sort) {
        assert_eq!(sort(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn addresses_have_their_sorts() {
        for address in ["0.0.0.0", "127.0.0.1", "127.9.9.9", "169.254.169.254", "10.0.2.2", "10.0.2.100", "224.0.0.1"] {
            check(address, Sort::Forbidden);
        }
        for address in ["255.255.255.255", "239.1.1.1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "240.0.0.1"]
        {
            check(address, Sort::Forbidden);
        }
        for address in ["::", "::1", "fe80::1", "fec0::1", "ff02::1", "fd00::2", "fd00:ec2::254", "::ffff:8.8.8.8"] {
            check(address, Sort::Forbidden);
        }
        for address in ["64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001::1", "::127.0.0.1", "100::1"] {
            check(address, Sort::Forbidden);
        }
        for address in
            ["10.0.1.255", "10.0.3.0", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12::1"]
        {
            check(address, Sort::Private);
        }
        for address in ["8.8.8.8", "172.32.0.1", "192.0.2.1", "11.0.0.1", "2001:db8::1", "2606:4700::1111"] {
            check(address, Sort::Public);
        }
    }

    #[test]
    fn ranges_hold_what_they_say() {
        let range = |first: &str, bits| Range::new(first.parse().unwrap(), bits);
        assert!(range("1.2.3.4", 33).is_none() && range("::", 129).is_none());
        assert!(range("1.2.3.4", 0).unwrap().holds("250.1.1.1".parse().unwrap()));
        assert!(!range("1.2.3.4", 0).unwrap().holds("::1".parse().unwrap()));
        assert!(range("10.1.2.3", 8).unwrap().holds("10.255.0.1".parse().unwrap()));
        assert!(!range("10.1.2.3", 16).unwrap().holds("10.2.0.1".parse().unwrap()));
        assert!(range("2001:db8::", 32).unwrap().holds("2001:db8:ffff::1".parse().unwrap()));
        assert!(range("1.2.3.4", 32).unwrap().is_one() && !range("1.2.3.4", 31).unwrap().is_one());
        assert_eq!(range("0.0.0.0", 0).unwrap().sort(), Sort::Public);
        assert_eq!(range("::", 0).unwrap().sort(), Sort::Public);
        assert_eq!(range("10.1.0.0", 16).unwrap().sort(), Sort::Private);
        assert_eq!(range("127.0.0.0", 9).unwrap().sort(), Sort::Forbidden);
    }
}
