//! A container's ends in networks, and its published ports: taken before a run, made in its course, given back after it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, OwnedFd},
};

use atoll_network::{Endpoint, MacAddr, Protocol, Published};
use atoll_shim_protocol::machine::MachineNetwork;

use super::{
    Record,
    record::{EndRecord, PublishedPorts},
};
use crate::{
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    names,
    network::{
        EndPlan, NetRef,
        ports::{self, Taken},
    },
    types::{EndpointConfig, host_config::PortBinding},
};

/// What a run of a container has of networks.
#[derive(Default)]
pub(crate) struct Ends {
    container: String,
    list: Vec<End>,
    ports: Vec<Taken>,
    /// The machine's cards, one for each of the list.
    cards: Vec<Endpoint>,
}

/// One end that is planned, its address taken.
#[derive(Clone)]
pub(crate) struct End {
    /// Name of the network.
    pub(crate) name: String,
    /// The network.
    pub(crate) net: NetRef,
    /// How the end is to be.
    pub(crate) plan: EndPlan,
}

impl Ends {
    /// Takes addresses in all networks of a container, and its ports of the host. Blocks for microseconds.
    ///
    /// # Errors
    /// When an address or a port is somebody else's, or a network is gone; nothing is taken then.
    pub(crate) fn take(engine: &EngineRef, record: &Record) -> Result<Self> {
        let mut ends = Self {
            container: record.id.clone(),
            ..Self::default()
        };
        let taken = ends
            .take_addresses(engine, record)
            .and_then(|()| ends.take_ports(engine, record));
        match taken {
            Ok(()) => Ok(ends),
            Err(error) => {
                ends.release(engine);
                Err(error)
            }
        }
    }

    /// What a running container has, as its record says.
    pub(crate) fn of_running(engine: &EngineRef, record: &Record) -> Self {
        let way_out = way_out(engine, record);
        let list = in_order(record).into_iter().filter_map(|(name, end)| {
            let net = net_of(engine, name, end).ok()?;
            net.bridge()?;
            Some(End {
                name: name.clone(),
                net,
                plan: EndPlan {
                    address: end.ip_address.parse().ok()?,
                    mac: None,
                    interface: record.ends.get(name)?.interface.clone(),
                    is_way_out: way_out.as_ref() == Some(name),
                    is_published: false,
                },
            })
        });
        Self {
            container: record.id.clone(),
            list: list.collect(),
            ..Self::default()
        }
    }

    fn take_addresses(&mut self, engine: &EngineRef, record: &Record) -> Result<()> {
        let way_out = way_out(engine, record);
        for (name, end) in in_order(record) {
            let net = net_of(engine, name, end)?;
            if net.bridge().is_none() {
                continue;
            }
            let interface = format!("eth{}", self.list.len());
            let is_way_out = way_out.as_deref() == Some(name);
            let planned = plan(&net, name, record, interface, is_way_out)?;
            self.list.push(planned);
        }
        Ok(())
    }

    fn take_ports(&mut self, engine: &EngineRef, record: &Record) -> Result<()> {
        let wishes = ports::wishes(&record.config, &record.host_config)?;
        let Some(end) = self.list.iter_mut().find(|end| end.plan.is_way_out) else {
            return Ok(());
        };
        if wishes.is_empty() {
            return Ok(());
        }
        let own = end.net.bridge().and_then(|bridge| bridge.host_address());
        let default = own.unwrap_or_else(|| engine.network.host_address());
        for wish in &wishes {
            let taken = engine.network.ports.take(&record.id, wish, default);
            self.ports.push(taken.map_err(|error| {
                let hint = error.hint().map(ToOwned::to_owned);
                Error::new(
                    error.kind(),
                    format!(
                        "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({}): {error}",
                        record.name, record.id
                    ),
                )
                .with_hint(hint)
            })?);
        }
        end.plan.is_published = true;
        Ok(())
    }

    /// All addresses, for the hosts file.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.list.iter().map(|end| IpAddr::V4(end.plan.address));
        addresses.collect()
    }

    /// The host's address in the network by which the container gets out.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        let mut ends = self.list.iter();
        let end = ends
            .clone()
            .find(|end| end.plan.is_way_out)
            .or_else(|| ends.next())?;
        end.net.bridge().map(|bridge| bridge.config().gateway())
    }

    /// Where the container asks for names: the engine, in a network that has names.
    pub(crate) fn name_server(&self) -> Option<Ipv4Addr> {
        let mut named = self.list.iter().filter(|end| !end.net.is_builtin());
        let end = named
            .clone()
            .find(|end| end.plan.is_way_out)
            .or_else(|| named.next())?;
        end.net.bridge().map(|bridge| bridge.config().gateway())
    }

    /// The network cards of a container's machine, as the shim is told.
    ///
    /// # Errors
    /// When an address isn't one of its bridge's.
    pub(crate) fn plan_cards(&mut self) -> Result<Vec<MachineNetwork>> {
        let mut cards = Vec::with_capacity(self.list.len());
        for end in &self.list {
            let (endpoint, card) = card(&self.container, end)?;
            self.cards.push(endpoint);
            cards.push(card);
        }
        Ok(cards)
    }

    /// The sockets that hold the ports, for the shim to keep.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(crate) fn holders(&self) -> Result<Vec<OwnedFd>> {
        let copies = self.ports.iter().map(|port| {
            let copy = port.socket.as_fd().try_clone_to_owned();
            copy.map_err(|error| Error::caused(ErrorKind::Internal, "cannot hold a port", &error))
        });
        copies.collect()
    }

    /// Makes the ends of the created process `pid`, and leads its ports to it.
    ///
    /// # Errors
    /// When the kernel refuses a step; what was made goes with the process.
    pub(crate) async fn connect(&self, pid: u32) -> Result<Made> {
        let (container, list) = (self.container.clone(), self.list.clone());
        let cards = self.cards.clone();
        let published = self.published();
        blocking(move || {
            let mut made = Made::default();
            for (at, end) in list.iter().enumerate() {
                let endpoint = join(&container, pid, end, cards.get(at))?;
                made.ends.insert(end.name.clone(), (end.clone(), endpoint));
                let Some(bridge) = end.net.bridge().filter(|_| end.plan.is_published) else {
                    continue;
                };
                bridge.publish(&container, published.clone())?;
                made.published = Some(PublishedPorts {
                    network: end.net.record.id.clone(),
                    bindings: bindings(&published),
                });
            }
            Ok(made)
        })
        .await
    }

    fn published(&self) -> Vec<Published> {
        let Some(end) = self.list.iter().find(|end| end.plan.is_published) else {
            return Vec::new();
        };
        let ports = self.ports.iter().map(|port| Published {
            protocol: port.protocol,
            host_address: port.host_address,
            host_port: port.host_port,
            address: end.plan.address,
            port: port.port,
        });
        ports.collect()
    }

    /// Gives everything back, after a run that did not begin. Blocks.
    pub(crate) fn release(&self, engine: &EngineRef) {
        for end in &self.list {
            give_back(&self.container, &end.net, Some(end.plan.address));
        }
        if !self.ports.is_empty() {
            engine.network.ports.release(&self.container);
        }
    }
}

/// Plans the end in one network and takes its address.
///
/// # Errors
/// When the address is somebody else's, or none is left.
pub(crate) fn plan(
    net: &NetRef,
    name: &str,
    record: &Record,
    interface: String,
    is_way_out: bool,
) -> Result<End> {
    let none = EndpointConfig::default();
    let end = record.networks.get(name).unwrap_or(&none);
    let bridge = net
        .bridge()
        .ok_or_else(|| Error::invalid(format!("network {name} has no addresses")))?;
    let address = bridge.allocate(wanted_address(end)?, end.ip_address.parse().ok())?;
    let wanted_mac = record.ends.get(name).and_then(|end| end.wanted_mac.clone());
    Ok(End {
        name: name.to_owned(),
        net: NetRef::clone(net),
        plan: EndPlan {
            address,
            mac: wanted_mac.and_then(|text| text.parse::<MacAddr>().ok()),
            interface,
            is_way_out,
            is_published: false,
        },
    })
}

/// The address a container asks for in a network.
///
/// # Errors
/// 400 when it is none.
pub(crate) fn wanted_address(end: &EndpointConfig) -> Result<Option<Ipv4Addr>> {
    let Some(ipam) = &end.ipam_config else {
        return Ok(None);
    };
    if !ipam.ipv6_address.is_empty() {
        return Err(Error::not_implemented(
            "IPv6 addresses of containers are not available yet",
        ));
    }
    match ipam.ipv4_address.as_str() {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}"))),
    }
}

/// The network card of a container's machine for one end, and what the shim is told of it.
///
/// # Errors
/// When the address isn't one of the bridge's.
pub(crate) fn card(container: &str, end: &End) -> Result<(Endpoint, MachineNetwork)> {
    let bridge = end
        .net
        .bridge()
        .ok_or_else(|| Error::internal("a network without a bridge"))?;
    let endpoint = bridge.machine_endpoint(container, &end.plan)?;
    let card = MachineNetwork {
        tap: endpoint.host_ifname.clone(),
        mac: endpoint.mac.0,
        mtu: bridge.config().mtu(),
        address: endpoint.address,
        prefix_len: endpoint.prefix_len,
        gateway: endpoint.gateway,
        interface: end.plan.interface.clone(),
        is_way_out: end.plan.is_way_out,
    };
    Ok((endpoint, card))
}

/// Makes one end. Blocks.
///
/// * `card`: that of the container's machine, whose tap is there.
///
/// # Errors
/// When the kernel refuses; nothing stays.
pub(crate) fn join(
    container: &str,
    pid: u32,
    end: &End,
    card: Option<&Endpoint>,
) -> Result<Endpoint> {
    let bridge = end
        .net
        .bridge()
        .ok_or_else(|| Error::internal("a network without a bridge"))?;
    match card {
        Some(card) => {
            bridge.connect(card, &end.plan)?;
            Ok(card.clone())
        }
        None => bridge.attach(container, pid, &end.plan),
    }
}

/// What was made for a run, to be recorded.
#[derive(Default)]
pub(crate) struct Made {
    ends: BTreeMap<String, (End, Endpoint)>,
    published: Option<PublishedPorts>,
}

impl Made {
    /// Whether an engine that is killed now must find it in the record.
    pub(crate) fn must_be_kept(&self) -> bool {
        self.published.is_some() || self.ends.values().any(|(end, _)| !end.net.is_builtin())
    }

    /// Writes it into the record.
    pub(crate) fn note(self, record: &mut Record) {
        for (name, (end, endpoint)) in self.ends {
            note(record, &name, &end, &endpoint);
        }
        record.published = self.published;
    }
}

/// Writes one end into the record.
pub(crate) fn note(record: &mut Record, name: &str, end: &End, endpoint: &Endpoint) {
    let dns_names = (!end.net.is_builtin()).then(|| dns_names(record, name));
    let kept = record.ends.entry(name.to_owned()).or_default();
    kept.host_ifname.clone_from(&endpoint.host_ifname);
    kept.interface.clone_from(&end.plan.interface);
    let slot = record.networks.entry(name.to_owned()).or_default();
    let asked = std::mem::take(slot);
    *slot = EndpointConfig {
        ipam_config: asked.ipam_config,
        links: asked.links,
        aliases: asked.aliases,
        driver_opts: asked.driver_opts,
        gw_priority: asked.gw_priority,
        network_id: end.net.record.id.clone(),
        endpoint_id: names::random_id(),
        gateway: match end.net.record.is_internal {
            true => String::new(),
            false => endpoint.gateway.to_string(),
        },
        ip_address: endpoint.address.to_string(),
        ip_prefix_len: endpoint.prefix_len,
        mac_address: endpoint.mac.to_string(),
        dns_names,
        ..EndpointConfig::default()
    };
}

/// What a container is called in a network of names: its name, aliases, short id, host name.
pub(crate) fn dns_names(record: &Record, network: &str) -> Vec<String> {
    let aliases = record
        .networks
        .get(network)
        .and_then(|end| end.aliases.clone())
        .unwrap_or_default();
    let mut all = Vec::new();
    let own = [record.short_id().to_owned(), record.config.hostname.clone()];
    for name in [record.name.clone()].into_iter().chain(aliases).chain(own) {
        if !name.is_empty() && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Gives back what a container had while it ran. Blocks.
pub(crate) fn release(engine: &EngineRef, record: &Record) {
    for (name, end) in &record.networks {
        if let Ok(net) = net_of(engine, name, end) {
            give_back(&record.id, &net, end.ip_address.parse().ok());
        }
    }
    if record.published.is_some() {
        engine.network.ports.release(&record.id);
    }
}

fn give_back(container: &str, net: &NetRef, address: Option<Ipv4Addr>) {
    let Some(bridge) = net.bridge() else {
        return;
    };
    if let Err(error) = bridge.publish(container, Vec::new()) {
        tracing::warn!(container, %error, "published ports can't be taken back");
    }
    // After that: who has the address next must not get the ports.
    if let Some(address) = address {
        bridge.release(address);
    }
}

/// Notes what a container has that an engine before this one started.
pub(crate) fn adopt(engine: &EngineRef, record: &Record) {
    for (name, end) in &record.networks {
        let Ok(net) = net_of(engine, name, end) else {
            continue;
        };
        let (Some(bridge), Ok(address)) = (net.bridge(), end.ip_address.parse::<Ipv4Addr>()) else {
            continue;
        };
        bridge.reserve(address);
        let Some(published) = &record.published else {
            continue;
        };
        if published.network != net.record.id {
            continue;
        }
        let ports = ports_of(&published.bindings, address);
        for port in &ports {
            let (protocol, at) = (port.protocol, port.host_address);
            engine
                .network
                .ports
                .adopt(&record.id, protocol, at, port.host_port);
        }
        bridge.adopt_ports(&record.id, ports);
    }
}

/// Ports of the host that lead to `address`, out of what is recorded of them.
pub(crate) fn ports_of(
    bindings: &BTreeMap<String, Vec<PortBinding>>,
    address: Ipv4Addr,
) -> Vec<Published> {
    let all = bindings
        .iter()
        .flat_map(|(port, list)| list.iter().map(move |binding| (port, binding)));
    let published = |(port, binding): (&String, &PortBinding)| {
        let (port, protocol) = ports::container_port(port).ok()?;
        Some(Published {
            protocol,
            host_address: binding.host_ip.parse().ok()?,
            host_port: binding.host_port.parse().ok()?,
            address,
            port,
        })
    };
    all.filter_map(published).collect()
}

/// The network of a container's end.
///
/// # Errors
/// 404 when it is gone.
pub(crate) fn net_of(engine: &EngineRef, name: &str, end: &EndpointConfig) -> Result<NetRef> {
    match end.network_id.as_str() {
        "" => engine.network.find(name),
        id => engine
            .network
            .by_id(id)
            .ok_or_else(|| Error::not_found(format!("network {id} not found"))),
    }
}

/// The ends in the order of their links: that of the network mode first.
fn in_order(record: &Record) -> Vec<(&String, &EndpointConfig)> {
    let mut ends: Vec<_> = record.networks.iter().collect();
    let mode = record.network_mode();
    ends.sort_by_key(|(name, _)| name.as_str() != mode);
    ends
}

/// The network a container gets out by: of those with a way out the highest priority, then the first by name.
pub(crate) fn way_out(engine: &EngineRef, record: &Record) -> Option<String> {
    let ways = record.networks.iter().filter(|(name, end)| {
        let net = net_of(engine, name, end);
        net.is_ok_and(|net| net.bridge().is_some() && !net.record.is_internal)
    });
    // The last of equals is the greatest: so in reverse.
    let best = ways.rev().max_by_key(|(_, end)| end.gw_priority);
    best.map(|(name, _)| name.clone())
}

fn bindings(published: &[Published]) -> BTreeMap<String, Vec<PortBinding>> {
    let mut map: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in published {
        let protocol: Protocol = port.protocol;
        let list = map.entry(format!("{}/{protocol}", port.port)).or_default();
        list.push(PortBinding {
            host_ip: port.host_address.to_string(),
            host_port: port.host_port.to_string(),
        });
    }
    map
}

impl EndRecord {
    /// An end whose hardware address the user chose.
    pub(crate) fn with_mac(text: &str) -> Result<Self> {
        let parsed = text.parse::<MacAddr>();
        parsed.map_err(|_| Error::invalid(format!("invalid MAC address: {text}")))?;
        Ok(Self {
            wanted_mac: Some(text.to_owned()),
            ..Self::default()
        })
    }
}
