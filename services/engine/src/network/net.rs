//! One network: its bridge, its addresses, its published ports.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_network::{Bridge, BridgeConfig, Endpoint, EndpointRequest, Ipam, MacAddr, Published};

use super::{
    failed,
    record::{BridgeOptions, NetRecord},
};
use crate::error::{Error, ErrorKind, Result};

/// A network of this engine.
pub(crate) struct Net {
    /// What is kept of it.
    pub(crate) record: NetRecord,
    bridge: Option<BridgeNet>,
}

/// What a network with a bridge has.
pub(crate) struct BridgeNet {
    config: BridgeConfig,
    options: BridgeOptions,
    /// `--bridge none`.
    is_disabled: bool,
    link: Mutex<LinkState>,
    addresses: Mutex<Addresses>,
}

#[derive(Default)]
struct LinkState {
    bridge: Option<Arc<Bridge>>,
    /// Container → its ports.
    published: BTreeMap<String, Vec<Published>>,
}

struct Addresses {
    ipam: Ipam,
    /// The network is being removed.
    is_closed: bool,
}

/// How a container's end is to be made.
#[derive(Debug, Clone)]
pub(crate) struct EndPlan {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Its hardware address; of the address when nobody says.
    pub(crate) mac: Option<MacAddr>,
    /// Name of the link inside.
    pub(crate) interface: String,
    /// It has the default route.
    pub(crate) is_way_out: bool,
    /// Ports of the host lead to it.
    pub(crate) is_published: bool,
}

impl Net {
    /// Makes a network of its record; nothing is done to the host yet.
    ///
    /// # Errors
    /// 400 when its addresses or options can't work.
    pub(crate) fn new(record: NetRecord, default_mtu: u32, is_disabled: bool) -> Result<Self> {
        let bridge = match &record.pool {
            None => None,
            Some(pool) => {
                let options = BridgeOptions::parse(&record.options)?;
                let mtu = options.mtu.unwrap_or(default_mtu);
                let config = BridgeConfig::new(&record.link, pool.subnet, pool.gateway, mtu)
                    .map_err(invalid)?
                    .internal(record.is_internal)
                    .masqueraded(!options.keeps_source);
                let mut ipam = Ipam::new(pool.subnet, pool.gateway).map_err(invalid)?;
                if let Some(range) = pool.range {
                    ipam = ipam.with_range(range).map_err(invalid)?;
                }
                for address in pool.auxiliary.values() {
                    ipam.reserve(*address).map_err(invalid)?;
                }
                Some(BridgeNet {
                    config,
                    options,
                    is_disabled,
                    link: Mutex::default(),
                    addresses: Mutex::new(Addresses {
                        ipam,
                        is_closed: false,
                    }),
                })
            }
        };
        Ok(Self { record, bridge })
    }

    /// What it has when it has a bridge.
    pub(crate) fn bridge(&self) -> Option<&BridgeNet> {
        self.bridge.as_ref()
    }

    /// Whether it is one of the three that are always there.
    pub(crate) fn is_builtin(&self) -> bool {
        matches!(self.record.name.as_str(), "bridge" | "host" | "none")
    }
}

impl BridgeNet {
    /// The bridge's name, addresses and MTU.
    pub(crate) fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Where ports are published when nobody says.
    pub(crate) fn host_address(&self) -> Option<Ipv4Addr> {
        self.options.host_address
    }

    /// Whether endpoints see each other.
    pub(crate) fn is_isolated(&self) -> bool {
        self.options.is_isolated
    }

    /// Whether the engine was told to have no bridge.
    pub(crate) fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// Brings the bridge up when it isn't. Blocks for about a millisecond then.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub(crate) fn ensure(&self) -> Result<Arc<Bridge>> {
        self.ensured(&mut lock(&self.link))
    }

    fn ensured(&self, link: &mut LinkState) -> Result<Arc<Bridge>> {
        if self.is_disabled {
            return Err(Error::invalid(
                "this engine has no bridge: it was started with --bridge none",
            )
            .with_hint(Some("use --network host or --network none".to_owned())));
        }
        if let Some(bridge) = &link.bridge {
            return Ok(Arc::clone(bridge));
        }
        let published: Vec<Published> = link.published.values().flatten().copied().collect();
        let made = Bridge::ensure(&self.config, &published).map_err(failed)?;
        let made = Arc::new(made);
        link.bridge = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Removes bridge and rules.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn take_down(&self) -> Result<()> {
        let mut link = lock(&self.link);
        let bridge = match link.bridge.take() {
            Some(bridge) => bridge,
            // An engine that was killed may have left it.
            None => Arc::new(Bridge::known(&self.config)),
        };
        bridge.remove().map_err(failed)
    }

    /// Takes an address: the wanted one, the one before if that is still free, or any.
    ///
    /// # Errors
    /// 403 in dockerd's words when the wanted one is taken; 500 when all are; 404 when the network is being removed.
    pub(crate) fn allocate(
        &self,
        wanted: Option<Ipv4Addr>,
        before: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr> {
        let mut addresses = lock(&self.addresses);
        if addresses.is_closed {
            return Err(Error::not_found("the network is being removed"));
        }
        if wanted.is_none()
            && let Some(address) = before
            && addresses.ipam.reserve(address).is_ok()
        {
            return Ok(address);
        }
        addresses
            .ipam
            .allocate(wanted)
            .map_err(|error| match error {
                atoll_network::Error::AddressInUse(_) => {
                    Error::new(ErrorKind::Forbidden, "Address already in use")
                }
                atoll_network::Error::AddressOutside { .. } => invalid(error),
                error => failed(error),
            })
    }

    /// Marks the address of a container that runs already as taken.
    pub(crate) fn reserve(&self, address: Ipv4Addr) {
        if let Err(error) = lock(&self.addresses).ipam.reserve(address) {
            tracing::warn!(%address, %error, "a running container's address is not ours");
        }
    }

    /// Gives an address back.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        lock(&self.addresses).ipam.release(address);
    }

    /// Gives no more addresses out, if none but `auxiliary` is.
    pub(crate) fn close(&self, auxiliary: usize) -> bool {
        let mut addresses = lock(&self.addresses);
        addresses.is_closed |= addresses.ipam.used_len() <= auxiliary;
        addresses.is_closed
    }

    /// Gives addresses out again, after a removal that failed.
    pub(crate) fn reopen(&self) {
        lock(&self.addresses).is_closed = false;
    }

    /// Has the ports `ports` of the host lead to `container`; an empty list takes them back. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses; nothing has changed then.
    pub(crate) fn publish(&self, container: &str, ports: Vec<Published>) -> Result<()> {
        let mut link = lock(&self.link);
        let before = match ports.is_empty() {
            true => link.published.remove(container),
            false => link.published.insert(container.to_owned(), ports.clone()),
        };
        if ports.is_empty() && before.is_none() {
            return Ok(());
        }
        let all: Vec<Published> = link.published.values().flatten().copied().collect();
        let result = self
            .ensured(&mut link)
            .and_then(|bridge| bridge.publish(&all).map_err(failed));
        if result.is_err() {
            match before {
                Some(before) => link.published.insert(container.to_owned(), before),
                None => link.published.remove(container),
            };
        }
        result
    }

    /// Notes the ports of a container that runs already; they are led to it when the bridge is brought up.
    pub(crate) fn adopt_ports(&self, container: &str, ports: Vec<Published>) {
        if !ports.is_empty() {
            lock(&self.link)
                .published
                .insert(container.to_owned(), ports);
        }
    }

    /// Connects the network namespace of process `pid`. Blocks.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses a step; nothing is left behind then.
    pub(crate) fn attach(&self, container_id: &str, pid: u32, plan: &EndPlan) -> Result<Endpoint> {
        let netns = open_netns(pid)?;
        let request = EndpointRequest {
            container_id,
            netns: netns.as_fd(),
            address: plan.address,
            mac: plan.mac,
            interface: &plan.interface,
            is_way_out: plan.is_way_out,
        };
        let endpoint = self.twice(|bridge| bridge.attach(&request))?;
        self.configure(&endpoint, plan)?;
        Ok(endpoint)
    }

    /// What the machine of a container gets. Nothing is done yet.
    ///
    /// # Errors
    /// When the address is none of the bridge's.
    pub(crate) fn machine_endpoint(&self, id: &str, plan: &EndPlan) -> Result<Endpoint> {
        let mut endpoint = self
            .config
            .machine_endpoint(id, plan.address)
            .map_err(failed)?;
        endpoint.mac = plan.mac.unwrap_or(endpoint.mac);
        Ok(endpoint)
    }

    /// Connects a machine whose monitor has made its tap. Blocks.
    ///
    /// # Errors
    /// When the tap is gone or the kernel refuses.
    pub(crate) fn connect(&self, endpoint: &Endpoint, plan: &EndPlan) -> Result<()> {
        self.twice(|bridge| bridge.connect(endpoint))?;
        self.configure(endpoint, plan)
    }

    /// Has the default route of process `pid`, which is connected, lead here. Blocks.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub(crate) fn lead_out(&self, pid: u32) -> Result<()> {
        let netns = open_netns(pid)?;
        self.ensure()?.lead_out(netns.as_fd()).map_err(failed)
    }

    /// Lets an end that ports of the host lead to now reach them by the host's addresses. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn set_published(&self, host_ifname: &str) -> Result<()> {
        self.ensure()?
            .set_port(host_ifname, true, self.is_isolated())
            .map_err(failed)
    }

    /// Takes a running container's end away. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn detach(&self, host_ifname: &str) -> Result<()> {
        self.ensure()?.detach_link(host_ifname).map_err(failed)
    }

    fn configure(&self, endpoint: &Endpoint, plan: &EndPlan) -> Result<()> {
        if !plan.is_published && !self.is_isolated() {
            return Ok(());
        }
        self.ensure()?
            .set_port(&endpoint.host_ifname, plan.is_published, self.is_isolated())
            .map_err(failed)
    }

    /// Does something with the bridge. Somebody may have removed it behind our back: then it is brought up again, once.
    fn twice<T>(&self, act: impl Fn(&Bridge) -> Result<T, atoll_network::Error>) -> Result<T> {
        let bridge = self.ensure()?;
        act(&bridge).or_else(|first| {
            tracing::warn!(error = %first, "attach failed; the bridge is checked");
            lock(&self.link).bridge = None;
            act(&*self.ensure()?).map_err(failed)
        })
    }
}

fn open_netns(pid: u32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path)
        .map_err(|error| Error::caused(ErrorKind::Internal, format!("cannot open {path}"), &error))
}

/// A network's addresses that can't work are the client's fault.
fn invalid(error: atoll_network::Error) -> Error {
    let hint = error.hint();
    Error::caused(ErrorKind::InvalidParameter, "", &error).with_hint(hint)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
