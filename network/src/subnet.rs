//! IPv4 subnets, and choosing one that is free.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// An IPv4 subnet; host bits of the address are always zero. Prints and parses as `172.17.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv4Net {
    network: Ipv4Addr,
    prefix_len: u8,
}

impl Ipv4Net {
    /// The subnet of `prefix_len` bits that contains `address`; `None` above 32 bits.
    #[must_use]
    pub fn containing(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then(|| Self {
            network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix_len)),
            prefix_len,
        })
    }

    /// Reads an address with a prefix, `172.17.0.1/16`, into both.
    ///
    /// # Errors
    /// [`Error::InvalidSubnet`] when the text is anything else.
    pub fn parse_with_address(text: &str) -> Result<(Ipv4Addr, Self), Error> {
        let invalid = || Error::InvalidSubnet(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        let is_number = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits
            .parse()
            .ok()
            .filter(|_| is_number)
            .ok_or_else(invalid)?;
        let net = Self::containing(address, bits).ok_or_else(invalid)?;
        Ok((address, net))
    }

    /// The lowest address: all host bits zero.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Bits of the network part, 0–32.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The highest address: all host bits one.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix_len))
    }

    /// Whether `address` is in the subnet.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix_len) == self.network.to_bits()
    }

    /// Whether `address` may be given to a host: inside, neither network nor broadcast address.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network && address != self.broadcast()
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The first host address, which Docker gives to the gateway.
    #[must_use]
    pub fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().saturating_add(1))
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl FromStr for Ipv4Net {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match Self::parse_with_address(text)? {
            (address, net) if address == net.network => Ok(net),
            _ => Err(Error::InvalidSubnet(text.to_owned())),
        }
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// Chooses a range for a bridge that meets none of `taken`.
///
/// The order is Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20;
/// when all of those meet something (a VPN that routes 172.16.0.0/12), the /24s of 10.0.0.0/8 from
/// the top.
///
/// * `taken`: routes and addresses of the host ([`host_networks`](crate::host_networks)) and its
///   name servers as /32; the default route is ignored.
///
/// # Errors
/// [`Error::NoFreeSubnet`] when everything is taken.
pub fn choose_subnet(taken: &[Ipv4Net]) -> Result<Ipv4Net, Error> {
    let is_free = |candidate: &Ipv4Net| {
        !taken
            .iter()
            .any(|net| net.prefix_len > 0 && net.overlaps(*candidate))
    };
    let net = |a, b, c, prefix_len| Ipv4Net {
        network: Ipv4Addr::new(a, b, c, 0),
        prefix_len,
    };
    let class_b = (17..=31).map(|b| net(172, b, 0, 16));
    let class_c = (0..16).map(|c| net(192, 168, c * 16, 20));
    let small = (0..=255u8)
        .rev()
        .flat_map(|b| (0..=255u8).rev().map(move |c| net(10, b, c, 24)));
    class_b
        .chain(class_c)
        .chain(small)
        .find(is_free)
        .ok_or(Error::NoFreeSubnet)
}

/// Chooses a /24 for a further network that meets none of `taken`: of 172.18.0.0 to 172.31.255.0, then of 192.168.0.0/16,
/// then of 10.0.0.0/8 from the top.
///
/// * `taken`: as for [`choose_subnet`], and the subnets of the other networks.
///
/// # Errors
/// [`Error::NoFreeSubnet`] when everything is taken.
pub fn choose_small_subnet(taken: &[Ipv4Net]) -> Result<Ipv4Net, Error> {
    let is_free = |candidate: &Ipv4Net| {
        !taken
            .iter()
            .any(|net| net.prefix_len > 0 && net.overlaps(*candidate))
    };
    let net = |a, b, c| Ipv4Net {
        network: Ipv4Addr::new(a, b, c, 0),
        prefix_len: 24,
    };
    let class_b = (18..=31u8).flat_map(|b| (0..=255u8).map(move |c| net(172, b, c)));
    let class_c = (0..=255u8).map(|c| net(192, 168, c));
    let class_a = (0..=255u8)
        .rev()
        .flat_map(|b| (0..=255u8).rev().map(move |c| net(10, b, c)));
    class_b
        .chain(class_c)
        .chain(class_a)
        .find(is_free)
        .ok_or(Error::NoFreeSubnet)
}

/// The netmask of `prefix_len` bits.
fn mask(prefix_len: u8) -> u32 {
    !u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn text_must_be_canonical() {
        for bad in [
            "",
            "1.2.3.4",
            "1.2.3.0/33",
            "1.2.3.4/24",
            "1.2.3.0/+8",
            "1.2.3/24",
            "::/0",
        ] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
        let (address, net) = Ipv4Net::parse_with_address("10.1.2.3/24").unwrap();
        assert_eq!(
            (address, net.to_string().as_str()),
            ([10, 1, 2, 3].into(), "10.1.2.0/24")
        );
    }

    #[test]
    fn dockers_range_is_first_and_routes_are_avoided() {
        let choose = |taken: &[&str]| choose_subnet(&nets(taken)).unwrap().to_string();
        assert_eq!(choose(&["0.0.0.0/0", "10.0.0.0/24"]), "172.17.0.0/16");
        assert_eq!(choose(&["172.17.0.0/16"]), "172.18.0.0/16");
        assert_eq!(choose(&["172.17.3.4/32"]), "172.18.0.0/16");
        assert_eq!(choose(&["172.16.0.0/12"]), "192.168.0.0/20");
        assert_eq!(
            choose(&["172.16.0.0/12", "192.168.0.0/16"]),
            "10.255.255.0/24"
        );
        assert!(choose_subnet(&nets(&["0.0.0.0/1", "128.0.0.0/1"])).is_err());
    }

    #[test]
    fn further_networks_get_small_subnets_beside_each_other() {
        let choose = |taken: &[&str]| choose_small_subnet(&nets(taken)).unwrap().to_string();
        assert_eq!(choose(&["0.0.0.0/0", "172.17.0.0/16"]), "172.18.0.0/24");
        assert_eq!(choose(&["172.18.0.0/24", "172.18.1.0/30"]), "172.18.2.0/24");
        assert_eq!(choose(&["172.16.0.0/12"]), "192.168.0.0/24");
    }

    proptest! {
        #[test]
        fn text_round_trips(bits: u32, prefix_len in 0u8..=32) {
            let net = Ipv4Net::containing(Ipv4Addr::from_bits(bits), prefix_len).unwrap();
            prop_assert_eq!(net.to_string().parse::<Ipv4Net>().unwrap(), net);
            prop_assert!(net.contains(Ipv4Addr::from_bits(bits)));
            prop_assert!(net.contains(net.broadcast()));
        }

        #[test]
        fn overlap_means_a_shared_address(a: u32, b: u32, p in 0u8..=32, q in 0u8..=32) {
            let a = Ipv4Net::containing(Ipv4Addr::from_bits(a), p).unwrap();
            let b = Ipv4Net::containing(Ipv4Addr::from_bits(b), q).unwrap();
            let shared = a.network().max(b.network()) <= a.broadcast().min(b.broadcast());
            prop_assert_eq!(a.overlaps(b), shared);
        }

        #[test]
        fn a_chosen_range_meets_nothing(routes in prop::collection::vec((any::<u32>(), 1u8..=32), 0..40)) {
            let taken: Vec<_> = routes
                .into_iter()
                .map(|(bits, len)| Ipv4Net::containing(Ipv4Addr::from_bits(bits), len).unwrap())
                .collect();
            if let Ok(chosen) = choose_subnet(&taken) {
                prop_assert!(taken.iter().all(|net| !net.overlaps(chosen)));
            }
        }
    }
}
