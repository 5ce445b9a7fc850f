//! The engine's default bridge: chosen once, kept with the data root, brought up at start.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_network::{Bridge, BridgeConfig, Endpoint, EndpointRequest, Ipam, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::{
    container::handle::{Durability, write},
    error::{Error, ErrorKind, Result},
    names,
    settings::Settings,
    types::EndpointConfig,
};

/// Data root whose bridge has the plain name.
const DEFAULT_DATA_ROOT: &str = "/var/lib/atoll";

/// What is kept in `network.json` (docs/formats/engine-roots.md).
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    ids: BTreeMap<String, String>,
    bridge: String,
    address: String,
}

/// The default bridge and the ids of the three built-in networks.
pub(crate) struct Network {
    ids: BTreeMap<String, String>,
    config: BridgeConfig,
    /// `--bridge none`.
    is_disabled: bool,
    bridge: Mutex<Option<Arc<Bridge>>>,
    ipam: Mutex<Ipam>,
}

impl Network {
    /// Reads what was chosen for this data root, or chooses now: name, subnet, ids.
    ///
    /// # Errors
    /// When `--bip` is no address with prefix, no subnet is free, or the choice can't be written down.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let path = settings.data_root.join("network.json");
        let stored = match fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
        {
            Some(stored) => stored,
            None => Stored {
                version: 1,
                ids: ["bridge", "host", "none"]
                    .map(|name| (name.to_owned(), names::random_id()))
                    .into(),
                bridge: String::new(),
                address: String::new(),
            },
        };
        let chosen = choose(settings, &stored)?;
        if chosen.address != stored.address || chosen.bridge != stored.bridge {
            store(&path, &chosen)?;
        }
        let (gateway, subnet) = Ipv4Net::parse_with_address(&chosen.address).map_err(failed)?;
        let config =
            BridgeConfig::new(&chosen.bridge, subnet, gateway, settings.mtu).map_err(failed)?;
        Ok(Self {
            ids: chosen.ids,
            is_disabled: settings.bridge.as_deref() == Some("none"),
            bridge: Mutex::new(None),
            ipam: Mutex::new(Ipam::new(subnet, gateway).map_err(failed)?),
            config,
        })
    }

    /// The id of a built-in network.
    pub(crate) fn id(&self, name: &str) -> &str {
        self.ids.get(name).map_or("", String::as_str)
    }

    /// The bridge's name, addresses and MTU.
    pub(crate) fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// The bridge, brought up when it isn't. Blocks for about a millisecond then.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub(crate) fn bridge(&self) -> Result<Arc<Bridge>> {
        if self.is_disabled {
            return Err(Error::invalid(
                "this engine has no bridge: it was started with --bridge none",
            )
            .with_hint(Some("use --network host or --network none".to_owned())));
        }
        let mut bridge = lock(&self.bridge);
        if let Some(bridge) = &*bridge {
            return Ok(Arc::clone(bridge));
        }
        let made = Arc::new(Bridge::ensure(&self.config, &[]).map_err(failed)?);
        *bridge = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Whether the engine was told to have no bridge.
    pub(crate) fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// Takes an address for a container: the wanted one, the one it had before if that is still free, or any.
    ///
    /// # Errors
    /// 409 when the wanted one is taken or all are.
    pub(crate) fn allocate(
        &self,
        wanted: Option<Ipv4Addr>,
        before: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr> {
        let mut ipam = lock(&self.ipam);
        if wanted.is_none()
            && let Some(address) = before
            && ipam.reserve(address).is_ok()
        {
            return Ok(address);
        }
        ipam.allocate(wanted).map_err(failed)
    }

    /// Marks the address of a container that runs already as taken.
    pub(crate) fn reserve(&self, address: Ipv4Addr) {
        if let Err(error) = lock(&self.ipam).reserve(address) {
            tracing::warn!(%address, %error, "a running container's address is not ours");
        }
    }

    /// Gives an address back.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        lock(&self.ipam).release(address);
    }

    /// Connects the network namespace of process `pid` to the bridge. Blocks.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses a step; nothing is left behind then.
    pub(crate) fn attach(
        &self,
        container_id: &str,
        pid: u32,
        address: Ipv4Addr,
    ) -> Result<EndpointConfig> {
        let bridge = self.bridge()?;
        let path = format!("/proc/{pid}/ns/net");
        let netns = File::open(&path).map_err(|error| {
            Error::caused(ErrorKind::Internal, format!("cannot open {path}"), &error)
        })?;
        let request = EndpointRequest {
            container_id,
            netns: netns.as_fd(),
            address,
            mac: None,
            interface: "eth0",
            is_way_out: true,
        };
        let endpoint = self.twice(&bridge, |bridge| bridge.attach(&request))?;
        Ok(self.recorded(&endpoint))
    }

    /// What the machine of a container gets on the bridge. Nothing is done yet.
    ///
    /// # Errors
    /// When the address is none of the bridge's.
    pub(crate) fn machine_endpoint(&self, id: &str, address: Ipv4Addr) -> Result<Endpoint> {
        self.config.machine_endpoint(id, address).map_err(failed)
    }

    /// Connects a machine whose monitor has made its tap. Blocks.
    ///
    /// # Errors
    /// When the tap is gone or the kernel refuses.
    pub(crate) fn connect(&self, endpoint: &Endpoint) -> Result<EndpointConfig> {
        let bridge = self.bridge()?;
        self.twice(&bridge, |bridge| bridge.connect(endpoint))?;
        Ok(self.recorded(endpoint))
    }

    /// Does something with the bridge. Somebody may have removed it behind our back: then it is brought up again, once.
    fn twice<T>(
        &self,
        bridge: &Bridge,
        act: impl Fn(&Bridge) -> Result<T, atoll_network::Error>,
    ) -> Result<T> {
        act(bridge).or_else(|first| {
            tracing::warn!(error = %first, "attach failed; the bridge is checked");
            *lock(&self.bridge) = None;
            act(&*self.bridge()?).map_err(failed)
        })
    }

    fn recorded(&self, endpoint: &Endpoint) -> EndpointConfig {
        EndpointConfig {
            network_id: self.id("bridge").to_owned(),
            endpoint_id: names::random_id(),
            gateway: endpoint.gateway.to_string(),
            ip_address: endpoint.address.to_string(),
            ip_prefix_len: endpoint.prefix_len,
            mac_address: endpoint.mac.to_string(),
            ..EndpointConfig::default()
        }
    }
}

fn choose(settings: &Settings, stored: &Stored) -> Result<Stored> {
    let bridge = match &settings.bridge {
        Some(name) if name != "none" => name.clone(),
        _ if !stored.bridge.is_empty() => stored.bridge.clone(),
        _ => bridge_name(&settings.data_root),
    };
    let address = match &settings.bip {
        Some(bip) => bip.clone(),
        None if !stored.address.is_empty() => stored.address.clone(),
        None => {
            let taken = atoll_network::host_networks(&bridge).map_err(failed)?;
            let subnet = atoll_network::choose_subnet(&taken).map_err(failed)?;
            format!("{}/{}", subnet.first_host(), subnet.prefix_len())
        }
    };
    Ok(Stored {
        bridge,
        address,
        ..stored.clone()
    })
}

/// Engines side by side have bridges of their own.
fn bridge_name(data_root: &Path) -> String {
    if data_root == Path::new(DEFAULT_DATA_ROOT) {
        return "atoll0".to_owned();
    }
    // FNV-1a: a name that stays the same for the same root.
    let hash = data_root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    format!("atoll{hash:08x}")
}

fn store(path: &Path, stored: &Stored) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(stored)
        .map_err(|error| Error::internal(format!("cannot write {}: {error}", path.display())))?;
    write(path, &bytes, Durability::Disk).map_err(|error| {
        Error::caused(
            ErrorKind::Internal,
            format!("cannot write {}", path.display()),
            &error,
        )
    })
}

fn failed(error: atoll_network::Error) -> Error {
    let hint = error.hint();
    Error::caused(ErrorKind::Internal, "network", &error).with_hint(hint)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_differ_by_root_and_fit_a_link() {
        assert_eq!(bridge_name(Path::new("/var/lib/atoll")), "atoll0");
        let (a, b) = (bridge_name(Path::new("/a")), bridge_name(Path::new("/b")));
        assert_ne!(a, b);
        assert!(a.len() <= 15 && a.starts_with("atoll"));
    }
}
