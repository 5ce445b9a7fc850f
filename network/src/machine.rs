//! Endpoints of virtual machines: a tap that the machine's monitor makes, as a port of the bridge.

use std::net::Ipv4Addr;

use crate::bridge::endpoint_name;
use crate::error::Error;
use crate::mac::host_mac_for;
use crate::{Bridge, BridgeConfig, Endpoint, Plan, Step, apply, mac_for};

/// How the names of taps begin.
pub(crate) const TAP_PREFIX: &str = "tap";

impl BridgeConfig {
    /// What a machine's endpoint is to be: the tap's name for its monitor, and what its guest is told. Pure but for the
    /// name's random digits.
    ///
    /// # Errors
    /// [`Error::AddressOutside`] when the address is no host of the subnet.
    pub fn machine_endpoint(
        &self,
        container_id: &str,
        address: Ipv4Addr,
    ) -> Result<Endpoint, Error> {
        self.check_endpoint(address)?;
        Ok(Endpoint {
            host_ifname: endpoint_name(TAP_PREFIX, container_id),
            mac: mac_for(address),
            address,
            prefix_len: self.subnet().prefix_len(),
            gateway: self.gateway(),
        })
    }
}

impl Bridge {
    /// Says what [`connect`](Self::connect) does. Pure.
    #[must_use]
    pub fn plan_machine(&self, endpoint: &Endpoint) -> Plan {
        let port = Step::Port {
            name: endpoint.host_ifname.clone(),
            mac: host_mac_for(endpoint.address),
            bridge: self.config.name().to_owned(),
            mtu: self.config.mtu(),
        };
        Plan { steps: vec![port] }
    }

    /// Connects a machine whose monitor has made its tap. The tap disappears with the monitor.
    ///
    /// # Errors
    /// [`Error::NoSuchLink`] when the bridge is gone, [`Error::Kernel`] when the tap is not there or the kernel refuses.
    pub fn connect(&self, endpoint: &Endpoint) -> Result<(), Error> {
        apply::apply(&self.plan_machine(endpoint), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ipv4Net;

    #[test]
    fn a_machines_plan_reads_like_this() {
        let (gateway, subnet) = Ipv4Net::parse_with_address("172.17.0.1/16").unwrap();
        let config = BridgeConfig::new("atoll0", subnet, gateway, 1500).unwrap();
        let address = Ipv4Addr::new(172, 17, 0, 2);
        let mut endpoint = config.machine_endpoint("0123456789ab", address).unwrap();
        assert!(endpoint.host_ifname.starts_with("tap01234"));
        "tap0".clone_into(&mut endpoint.host_ifname);
        let bridge = Bridge { config };
        assert_eq!(
            bridge.plan_machine(&endpoint).to_string(),
            "port tap0 address fe:42:ac:11:00:02 mtu 1500 up in atoll0\n"
        );
        assert!(bridge.config.machine_endpoint("a", gateway).is_err());
        let outside = Ipv4Addr::new(10, 0, 0, 1);
        assert!(bridge.config.machine_endpoint("a", outside).is_err());
    }
}
