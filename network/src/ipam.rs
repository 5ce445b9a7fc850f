//! Which address of a subnet belongs to whom (IP address management).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{Error, Ipv4Net};

/// The addresses of one subnet: gateway, given out, free.
///
/// Addresses are given out in rising order and, once the end is reached, from the start again: an
/// address that has just become free rests as long as possible, since the link of its last owner
/// may take a moment to disappear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    used: BTreeSet<Ipv4Addr>,
    newest: Option<Ipv4Addr>,
    /// Where addresses nobody asked for by name come from; the whole subnet without it.
    #[serde(default)]
    range: Option<Ipv4Net>,
}

impl Ipam {
    /// All addresses of `subnet` free but `gateway`.
    ///
    /// # Errors
    /// [`Error::UnusableSubnet`] when the prefix is not 8–30 bits or the gateway no host of it.
    pub fn new(subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<Self, Error> {
        if !(8..=30).contains(&subnet.prefix_len()) || !subnet.is_host(gateway) {
            return Err(Error::UnusableSubnet { subnet, gateway });
        }
        Ok(Self {
            subnet,
            gateway,
            used: BTreeSet::new(),
            newest: None,
            range: None,
        })
    }

    /// The same, giving out only addresses of `range` by itself.
    ///
    /// # Errors
    /// [`Error::UnusableRange`] when it is not part of the subnet.
    pub fn with_range(mut self, range: Ipv4Net) -> Result<Self, Error> {
        let subnet = self.subnet;
        if range.prefix_len() < subnet.prefix_len() || !subnet.contains(range.network()) {
            return Err(Error::UnusableRange { range, subnet });
        }
        self.range = Some(range);
        Ok(self)
    }

    /// The subnet the addresses are from.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The bridge's own address, never given out.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Number of addresses given out.
    #[must_use]
    pub fn used_len(&self) -> usize {
        self.used.len()
    }

    /// Gives out `preferred`, or the next free address.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] and [`Error::AddressOutside`] for a preferred address that can't be
    /// had, [`Error::PoolExhausted`] when nothing is free.
    pub fn allocate(&mut self, preferred: Option<Ipv4Addr>) -> Result<Ipv4Addr, Error> {
        let address = match preferred {
            Some(address) => {
                self.reserve(address)?;
                return Ok(address);
            }
            None => self.next_free().ok_or(Error::PoolExhausted(self.subnet))?,
        };
        self.used.insert(address);
        self.newest = Some(address);
        Ok(address)
    }

    /// Marks `address` as given out: what a restarted engine does for each running container.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] when it is the gateway or given out, [`Error::AddressOutside`] when
    /// it is no host address of the subnet.
    pub fn reserve(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        if !self.subnet.is_host(address) {
            return Err(Error::AddressOutside {
                address,
                subnet: self.subnet,
            });
        }
        if address == self.gateway || !self.used.insert(address) {
            return Err(Error::AddressInUse(address));
        }
        self.newest = self.newest.max(Some(address));
        Ok(())
    }

    /// Takes `address` back; `false` when it was not given out.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        self.used.remove(&address)
    }

    /// The first free address above the newest, else the first from the start.
    fn next_free(&self) -> Option<Ipv4Addr> {
        let subnet = (
            self.subnet.network().to_bits() + 1,
            self.subnet.broadcast().to_bits() - 1,
        );
        let (first, last) = match self.range {
            Some(range) => (
                range.network().to_bits().max(subnet.0),
                range.broadcast().to_bits().min(subnet.1),
            ),
            None => subnet,
        };
        let start = self.newest.map_or(first, |newest| newest.to_bits() + 1);
        let start = match (first..=last).contains(&start) {
            true => start,
            false => first,
        };
        self.first_free(start, last)
            .or_else(|| self.first_free(first, start))
    }

    /// The first free address from `from` to `to`, both inclusive.
    fn first_free(&self, from: u32, to: u32) -> Option<Ipv4Addr> {
        (from..=to)
            .map(Ipv4Addr::from_bits)
            .find(|address| *address != self.gateway && !self.used.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_come_from_the_range_and_others_are_had_by_name() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let whole = || Ipam::new(net("10.0.0.0/24"), [10, 0, 0, 1].into()).unwrap();
        assert!(whole().with_range(net("10.0.1.0/25")).is_err());
        assert!(whole().with_range(net("10.0.0.0/16")).is_err());
        let mut ipam = whole().with_range(net("10.0.0.252/30")).unwrap();
        assert!(ipam.allocate(Some([10, 0, 0, 7].into())).is_ok());
        let mut given = Vec::new();
        while let Ok(address) = ipam.allocate(None) {
            given.push(address.octets()[3]);
        }
        assert_eq!(given, [252, 253, 254]);
    }

    fn ipam(text: &str) -> Ipam {
        let (gateway, subnet) = Ipv4Net::parse_with_address(text).unwrap();
        Ipam::new(subnet, gateway).unwrap()
    }

    #[test]
    fn the_first_container_gets_the_second_address_and_freed_ones_rest() {
        let mut ipam = ipam("172.17.0.1/16");
        let first = ipam.allocate(None).unwrap();
        assert_eq!(first, Ipv4Addr::new(172, 17, 0, 2));
        assert!(ipam.release(first));
        assert!(!ipam.release(first));
        assert_eq!(ipam.allocate(None).unwrap(), Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(ipam.allocate(Some(first)).unwrap(), first);
        assert!(matches!(
            ipam.allocate(Some(first)),
            Err(Error::AddressInUse(_))
        ));
    }

    #[test]
    fn what_is_no_host_address_is_refused() {
        let mut ipam = ipam("10.0.0.1/29");
        for outside in ["10.0.0.0", "10.0.0.7", "10.0.0.8", "9.255.255.255"] {
            let address = outside.parse().unwrap();
            assert!(
                matches!(ipam.reserve(address), Err(Error::AddressOutside { .. })),
                "{outside}"
            );
        }
        assert!(matches!(
            ipam.reserve([10, 0, 0, 1].into()),
            Err(Error::AddressInUse(_))
        ));
        for unusable in ["10.0.0.1/31", "10.0.0.1/32", "10.0.0.0/24", "1.0.0.1/7"] {
            let (gateway, subnet) = Ipv4Net::parse_with_address(unusable).unwrap();
            assert!(Ipam::new(subnet, gateway).is_err(), "{unusable}");
        }
    }

    proptest! {
        #[test]
        fn addresses_are_unique_and_the_pool_ends_when_full(
            prefix_len in 26u8..=30,
            gateway_at in 1u32..3,
            operations in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..300),
        ) {
            let base = Ipv4Addr::new(10, 1, 2, 0);
            let subnet = Ipv4Net::containing(base, prefix_len).unwrap();
            let gateway = Ipv4Addr::from_bits(base.to_bits() + gateway_at.min(2));
            let mut ipam = Ipam::new(subnet, gateway).unwrap();
            let capacity = (1usize << (32 - prefix_len)) - 3;
            let mut mine: Vec<Ipv4Addr> = Vec::new();
            for (is_allocation, index) in operations {
                if is_allocation {
                    match ipam.allocate(None) {
                        Ok(address) => {
                            prop_assert!(subnet.is_host(address) && address != gateway);
                            prop_assert!(!mine.contains(&address));
                            mine.push(address);
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, Error::PoolExhausted(_)));
                            prop_assert_eq!(mine.len(), capacity);
                        }
                    }
                } else if !mine.is_empty() {
                    let address = mine.swap_remove(index.index(mine.len()));
                    prop_assert!(ipam.release(address));
                }
                prop_assert_eq!(ipam.used_len(), mine.len());
            }
            let copy: Ipam = serde_json::from_str(&serde_json::to_string(&ipam).unwrap()).unwrap();
            prop_assert_eq!(&copy, &ipam);
            prop_assert_eq!(mine.iter().collect::<HashSet<_>>().len(), mine.len());
        }
    }
}
