//! A bridge with its firewall table, and the endpoints on it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use atoll_netlink::nft::{self, Table};
use atoll_netlink::route;
use serde::{Deserialize, Serialize};

use crate::error::{Error, kernel};
use crate::mac::host_mac_for;
use crate::machine::TAP_PREFIX;
use crate::{Ipv4Net, MacAddr, Plan, Published, Step, apply, mac_for, table};

/// How the names of the host's ends begin.
const ENDPOINT_PREFIX: &str = "veth";
/// How often another name is tried when a random one is taken.
const NAME_ATTEMPTS: usize = 4;

/// What a bridge should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    name: String,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    mtu: u32,
    is_internal: bool,
    is_masqueraded: bool,
}

impl BridgeConfig {
    /// A bridge `name` with the address `gateway` of `subnet`.
    ///
    /// * `mtu`: largest packet in bytes, 68–65535; [`uplink_mtu`](crate::uplink_mtu) is a good one.
    ///
    /// # Errors
    /// [`Error::InvalidLinkName`] when the kernel would not take the name, and
    /// [`Error::UnusableSubnet`] when the prefix is not 8–30 bits or the gateway no host of it.
    pub fn new(name: &str, subnet: Ipv4Net, gateway: Ipv4Addr, mtu: u32) -> Result<Self, Error> {
        check_link_name(name)?;
        crate::Ipam::new(subnet, gateway)?;
        Ok(Self {
            name: name.to_owned(),
            subnet,
            gateway,
            mtu: mtu.clamp(68, 65535),
            is_internal: false,
            is_masqueraded: true,
        })
    }

    /// The bridge's link name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subnet of its endpoints.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Its own address, the endpoints' gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Name of its nf_tables table: `atoll-` and its own.
    #[must_use]
    pub fn table_name(&self) -> String {
        format!("atoll-{}", self.name)
    }

    /// Checks that an endpoint can have `address`.
    pub(crate) fn check_endpoint(&self, address: Ipv4Addr) -> Result<(), Error> {
        if self.subnet.is_host(address) && address != self.gateway {
            return Ok(());
        }
        Err(Error::AddressOutside {
            address,
            subnet: self.subnet,
        })
    }

    /// Largest packet in bytes of the bridge and its endpoints.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The same, but cut off from everything outside when `is_internal`: only its own endpoints and the host.
    #[must_use]
    pub fn internal(mut self, is_internal: bool) -> Self {
        self.is_internal = is_internal;
        self
    }

    /// The same, whose endpoints leave with their own addresses unless `is_masqueraded`.
    #[must_use]
    pub fn masqueraded(mut self, is_masqueraded: bool) -> Self {
        self.is_masqueraded = is_masqueraded;
        self
    }

    /// Whether it is cut off from everything outside.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.is_internal
    }

    /// Whether what leaves gets the address of the link it leaves by.
    #[must_use]
    pub fn is_masqueraded(&self) -> bool {
        self.is_masqueraded
    }

    /// The firewall table: new connections leave, answers and what is for published ports come in, and what leaves by
    /// another link gets that link's address. See docs/firewall.md.
    #[must_use]
    pub fn table(&self, published: &[Published]) -> Table {
        table::table(self, published)
    }
}

/// One endpoint to connect.
#[derive(Debug, Clone)]
pub struct EndpointRequest<'a> {
    /// The container's id; its first characters go into the host end's name, for people.
    pub container_id: &'a str,
    /// The container's network namespace: an open `/proc/<pid>/ns/net`.
    pub netns: BorrowedFd<'a>,
    /// Its address, from the bridge's [`Ipam`](crate::Ipam).
    pub address: Ipv4Addr,
    /// Its Ethernet address; `None` derives it from the address.
    pub mac: Option<MacAddr>,
    /// Name of the link inside, `eth0`.
    pub interface: &'a str,
    /// Whether it is the endpoint's way out: its default route leads to the bridge.
    pub is_way_out: bool,
}

/// A connected endpoint: what the engine records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the host's end.
    pub host_ifname: String,
    /// Ethernet address inside.
    #[serde(with = "crate::mac::text")]
    pub mac: MacAddr,
    /// Address inside.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix_len: u8,
    /// Default gateway inside.
    pub gateway: Ipv4Addr,
}

/// A bridge that exists.
#[derive(Debug, Clone)]
pub struct Bridge {
    pub(crate) config: BridgeConfig,
}

impl Bridge {
    /// Says what [`ensure`](Self::ensure) does. Pure.
    #[must_use]
    pub fn plan(config: &BridgeConfig, published: &[Published]) -> Plan {
        let name = || config.name.clone();
        let mut steps = vec![
            Step::Sysctl {
                key: "net/ipv4/ip_forward".to_owned(),
                value: "1",
                is_optional: false,
            },
            Step::Bridge {
                name: name(),
                mac: mac_for(config.gateway),
                mtu: config.mtu,
            },
            // An endpoint must not be able to configure the host by router advertisements
            // (CVE-2020-13401).
            no_ipv6(&config.name),
            Step::Address {
                link: name(),
                address: config.gateway,
                prefix_len: config.subnet.prefix_len(),
            },
            Step::Up { link: name() },
        ];
        steps.extend(Self::plan_published(config, published).steps);
        Plan { steps }
    }

    /// Says what [`publish`](Self::publish) does. Pure.
    #[must_use]
    pub fn plan_published(config: &BridgeConfig, published: &[Published]) -> Plan {
        let mut steps = vec![Step::Table(config.table(published))];
        if !published.is_empty() {
            // After the table, whose guard keeps endpoints from using it.
            steps.push(Step::Sysctl {
                key: format!("net/ipv4/conf/{}/route_localnet", config.name),
                value: "1",
                is_optional: false,
            });
        }
        Plan { steps }
    }

    /// Makes the bridge be as `config` says: link, address, up, forwarding, firewall table.
    ///
    /// Idempotent: an existing bridge keeps its endpoints, and its table is replaced in one
    /// transaction. Acts in the calling thread's network namespace.
    ///
    /// * `published`: ports of the host that lead to its endpoints.
    ///
    /// # Errors
    /// [`Error::NotABridge`] when the name belongs to another kind of link, [`Error::Sysctl`] and
    /// [`Error::Kernel`] when the kernel refuses. A bridge made by this call is then gone again.
    pub fn ensure(config: &BridgeConfig, published: &[Published]) -> Result<Self, Error> {
        apply::apply(&Self::plan(config, published), None)?;
        Ok(Self {
            config: config.clone(),
        })
    }

    /// The bridge of `config` that somebody made before; nothing is looked at or done.
    #[must_use]
    pub fn known(config: &BridgeConfig) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// Has exactly the ports `published` of the host lead to endpoints, by one transaction. Established connections
    /// stay as they are.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses; the ports before this call then stay.
    pub fn publish(&self, published: &[Published]) -> Result<(), Error> {
        apply::apply(&Self::plan_published(&self.config, published), None)
    }

    /// Says how the bridge treats an endpoint's port.
    ///
    /// * `is_hairpin`: the endpoint may reach its own published ports by the host's addresses.
    /// * `is_isolated`: it exchanges nothing with other isolated endpoints.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the link is gone or the kernel refuses.
    pub fn set_port(
        &self,
        host_ifname: &str,
        is_hairpin: bool,
        is_isolated: bool,
    ) -> Result<(), Error> {
        let request = route::Request::BridgePort {
            name: host_ifname.to_owned(),
            is_hairpin,
            is_isolated,
        };
        route::execute(&[request]).map_err(kernel(format!("configure port {host_ifname}")))
    }

    /// What this bridge is.
    #[must_use]
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Removes the bridge, its firewall table and the host's ends of its endpoints.
    ///
    /// What is gone already is no error. Forwarding stays on: others may use it by now.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses.
    pub fn remove(&self) -> Result<(), Error> {
        let name = &self.config.name;
        self.prune(&[])?;
        nft::remove(&self.config.table_name()).map_err(kernel("remove the firewall table"))?;
        delete_link(name)
    }

    /// Says what [`attach`](Self::attach) does, with `host_ifname` as name of the host's end. Pure.
    #[must_use]
    pub fn plan_endpoint(&self, request: &EndpointRequest<'_>, host_ifname: &str) -> Plan {
        let inner = || request.interface.to_owned();
        let veth = Step::Veth {
            name: host_ifname.to_owned(),
            mac: host_mac_for(request.address),
            bridge: self.config.name.clone(),
            mtu: self.config.mtu,
            peer_name: inner(),
            peer_mac: request.mac.unwrap_or_else(|| mac_for(request.address)),
        };
        let mut inside = vec![
            no_ipv6(request.interface),
            Step::Up {
                link: "lo".to_owned(),
            },
            Step::Address {
                link: inner(),
                address: request.address,
                prefix_len: self.config.subnet.prefix_len(),
            },
            Step::Up { link: inner() },
        ];
        if request.is_way_out {
            inside.push(Step::DefaultRoute {
                gateway: self.config.gateway,
            });
        }
        Plan {
            steps: vec![veth, Step::Inside(inside)],
        }
    }

    /// Connects a network namespace to the bridge; brings its loopback up as well.
    ///
    /// The pair disappears by itself when the namespace does.
    ///
    /// # Errors
    /// [`Error::NoSuchLink`] when the bridge is gone, [`Error::AddressOutside`] when the address
    /// is no host of the subnet, [`Error::InvalidLinkName`], [`Error::Kernel`]. Nothing stays.
    pub fn attach(&self, request: &EndpointRequest<'_>) -> Result<Endpoint, Error> {
        let subnet = self.config.subnet;
        check_link_name(request.interface)?;
        self.config.check_endpoint(request.address)?;
        let mut attempts = 1;
        let host_ifname = loop {
            let name = endpoint_name(ENDPOINT_PREFIX, request.container_id);
            match apply::apply(&self.plan_endpoint(request, &name), Some(request.netns)) {
                Ok(()) => break name,
                Err(error) if is_name_taken(&error, &name)? && attempts < NAME_ATTEMPTS => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Endpoint {
            host_ifname,
            mac: request.mac.unwrap_or_else(|| mac_for(request.address)),
            address: request.address,
            prefix_len: subnet.prefix_len(),
            gateway: self.config.gateway,
        })
    }

    /// Has the default route of a network namespace that is connected to the bridge lead there.
    ///
    /// * `netns`: an open `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the namespace can't be entered or the kernel refuses; the route then stays as it was.
    pub fn lead_out(&self, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let route = Step::DefaultRoute {
            gateway: self.config.gateway,
        };
        let steps = vec![Step::Inside(vec![route])];
        apply::apply(&Plan { steps }, Some(netns))
    }

    /// Disconnects an endpoint of a living container; one that is gone already is no error.
    ///
    /// For a container that has ended this is not needed: the kernel removes the pair with its
    /// namespace. Here the caller waits for that removal, 15 to 40 ms, as the kernel lets packets
    /// under way finish.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses.
    pub fn detach(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.detach_link(&endpoint.host_ifname)
    }

    /// The same by the name of the host's end. A link of that name that is no endpoint of a bridge is not touched.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses.
    pub fn detach_link(&self, host_ifname: &str) -> Result<(), Error> {
        if [ENDPOINT_PREFIX, TAP_PREFIX]
            .iter()
            .any(|prefix| host_ifname.starts_with(prefix))
        {
            delete_link(host_ifname)?;
        }
        Ok(())
    }

    /// Removes the host's ends no container is known for (an engine died between making one and
    /// recording it) and returns their names.
    ///
    /// * `known`: host ends of all recorded endpoints.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the kernel refuses; those removed so far are gone.
    pub fn prune(&self, known: &[&str]) -> Result<Vec<String>, Error> {
        let known: HashSet<&str> = known.iter().copied().collect();
        let links = route::links().map_err(kernel("list links"))?;
        let Some(bridge) = links.iter().find(|link| link.name == self.config.name) else {
            return Ok(Vec::new());
        };
        let index = bridge.index;
        let is_leaked = |link: &route::Link| {
            link.controller == Some(index)
                && link.kind.as_deref() == Some("veth")
                && link.name.starts_with(ENDPOINT_PREFIX)
                && !known.contains(link.name.as_str())
        };
        let leaked: Vec<String> = links
            .into_iter()
            .filter(is_leaked)
            .map(|link| link.name)
            .collect();
        leaked.iter().try_for_each(|name| delete_link(name))?;
        Ok(leaked)
    }
}

/// Brings the loopback link of a network namespace up, for containers without a network.
///
/// * `netns`: an open `/proc/<pid>/ns/net`.
///
/// # Errors
/// [`Error::Kernel`] when the namespace can't be entered or the kernel refuses.
pub fn bring_up_loopback(netns: BorrowedFd<'_>) -> Result<(), Error> {
    let up = Step::Up {
        link: "lo".to_owned(),
    };
    apply::apply(
        &Plan {
            steps: vec![Step::Inside(vec![up])],
        },
        Some(netns),
    )
}

/// No addresses by autoconfiguration on `link`: IPv6 is not planned yet.
fn no_ipv6(link: &str) -> Step {
    let key = format!("net/ipv6/conf/{link}/disable_ipv6");
    Step::Sysctl {
        key,
        value: "1",
        is_optional: true,
    }
}

fn delete_link(name: &str) -> Result<(), Error> {
    match route::execute(&[route::Request::DeleteLink {
        name: name.to_owned(),
    }]) {
        Err(error) if !error.is_not_there() => Err(kernel(format!("delete link {name}"))(error)),
        _ => Ok(()),
    }
}

/// The prefix (`veth`), up to five characters of the id, six random digits: 15 at most.
pub(crate) fn endpoint_name(prefix: &str, container_id: &str) -> String {
    let random = RandomState::new().hash_one(container_id) & 0xff_ffff;
    let id: String = container_id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(5)
        .collect();
    format!("{prefix}{id}{random:06x}")
}

/// Whether the failed plan failed because another link has the name `name`.
fn is_name_taken(error: &Error, name: &str) -> Result<bool, Error> {
    let Error::Kernel { source, .. } = error else {
        return Ok(false);
    };
    Ok(source.is_already_there()
        && route::link(name)
            .map_err(kernel("look up a name"))?
            .is_some())
}

/// Kernel: `dev_valid_name`: 1–15 bytes, not `.` or `..`, no slash, colon or white space.
fn check_link_name(name: &str) -> Result<(), Error> {
    let is_forbidden = |byte: u8| byte == b'/' || byte == b':' || !byte.is_ascii_graphic();
    let is_valid = (1..=route::NAME_MAX).contains(&name.len())
        && !matches!(name, "." | ".." | "all" | "default")
        && !name.bytes().any(is_forbidden);
    if is_valid {
        Ok(())
    } else {
        Err(Error::InvalidLinkName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BridgeConfig {
        let (gateway, subnet) = Ipv4Net::parse_with_address("172.17.0.1/16").unwrap();
        BridgeConfig::new("atoll0", subnet, gateway, 1500).unwrap()
    }

    #[test]
    fn the_bridges_plan_reads_like_this() {
        let expected = "\
sysctl net/ipv4/ip_forward = 1
bridge atoll0 address 02:42:ac:11:00:01 mtu 1500
sysctl net/ipv6/conf/atoll0/disable_ipv6 = 1 where the kernel has it
address 172.17.0.1/16 on atoll0
up atoll0
firewall table ip atoll-atoll0 {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"atoll0\" accept
\t\toifname \"atoll0\" ct state established,related accept
\t\toifname \"atoll0\" drop
\t}

\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr 172.17.0.0/16 oifname != \"atoll0\" masquerade
\t}
}
";
        assert_eq!(Bridge::plan(&config(), &[]).to_string(), expected);
    }

    #[test]
    fn an_endpoints_plan_reads_like_this() {
        let bridge = Bridge { config: config() };
        let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
        let request = EndpointRequest {
            container_id: "0123456789ab",
            netns: std::os::fd::AsFd::as_fd(&namespace),
            address: Ipv4Addr::new(172, 17, 0, 2),
            mac: None,
            interface: "eth0",
            is_way_out: true,
        };
        let expected = "\
veth veth0 address fe:42:ac:11:00:02 mtu 1500 up in atoll0, peer eth0 address 02:42:ac:11:00:02 inside
inside:
  sysctl net/ipv6/conf/eth0/disable_ipv6 = 1 where the kernel has it
  up lo
  address 172.17.0.2/16 on eth0
  up eth0
  default route via 172.17.0.1
";
        assert_eq!(
            bridge.plan_endpoint(&request, "veth0").to_string(),
            expected
        );
    }

    #[test]
    fn names_of_host_ends_fit_and_differ() {
        let id = "abcdef0123456789";
        let (one, two) = (
            endpoint_name(ENDPOINT_PREFIX, id),
            endpoint_name(ENDPOINT_PREFIX, id),
        );
        assert!(
            one.starts_with("vethabcde") && one.len() == route::NAME_MAX,
            "{one}"
        );
        assert_ne!(one, two);
        assert!(check_link_name(&endpoint_name(ENDPOINT_PREFIX, "")).is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "sixteen-bytes-xx",
            "default",
            "ä",
        ] {
            assert!(check_link_name(bad).is_err(), "{bad}");
        }
    }
}
