//! The engine's networks: the three that are always there, and the users' own.
//!
//! ```text
//! networks/<id>.json ─► NetRecord ─► Net ─► bridge, table, addresses (network/)
//! network.json (the default bridge) ─┘       └ ports: which of the host's are whose
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use atoll_network::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    container::handle::{Durability, write},
    error::{Error, ErrorKind, Result},
    names,
    settings::Settings,
    time,
};

mod create;
pub(crate) mod dns;
pub(crate) mod net;
pub(crate) mod ports;
pub(crate) mod record;

pub(crate) use create::{Asked, AskedPool};
pub(crate) use net::{EndPlan, Net};
use ports::Ports;
use record::{NetRecord, Pool, VERSION};

/// Data root whose bridge has the plain name.
const DEFAULT_DATA_ROOT: &str = "/var/lib/atoll";
/// The networks that are always there.
const BUILTIN: [&str; 3] = ["bridge", "host", "none"];

/// What is kept in `network.json` (docs/formats/engine-roots.md).
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    ids: BTreeMap<String, String>,
    bridge: String,
    address: String,
}

/// A shared network.
pub(crate) type NetRef = Arc<Net>;

/// All networks.
pub(crate) struct Networks {
    directory: PathBuf,
    mtu: u32,
    host_address: Ipv4Addr,
    by_id: RwLock<BTreeMap<String, NetRef>>,
    /// Held while a network is made or removed.
    changing: Mutex<()>,
    /// Ports of the host.
    pub(crate) ports: Ports,
    /// Name servers.
    pub(crate) servers: dns::Servers,
}

impl Networks {
    /// Reads what was chosen for this data root, or chooses now: name, subnet, ids of the default networks; and the
    /// users' networks.
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
                ids: BUILTIN
                    .map(|name| (name.to_owned(), names::random_id()))
                    .into(),
                bridge: String::new(),
                address: String::new(),
            },
        };
        let networks = Self {
            directory: settings.data_root.join("networks"),
            mtu: settings.mtu,
            host_address: settings.host_address,
            by_id: RwLock::default(),
            changing: Mutex::new(()),
            ports: Ports::default(),
            servers: dns::Servers::default(),
        };
        networks.load()?;
        let chosen = networks.choose(settings, &stored)?;
        if chosen.address != stored.address || chosen.bridge != stored.bridge {
            let bytes = serde_json::to_vec_pretty(&chosen).unwrap_or_default();
            write(&path, &bytes, Durability::Disk).map_err(|error| cannot_write(&path, &error))?;
        }
        let is_disabled = settings.bridge.as_deref() == Some("none");
        for name in BUILTIN {
            let record = builtin(name, &chosen)?;
            networks.insert(Net::new(record, settings.mtu, is_disabled)?);
        }
        Ok(networks)
    }

    /// The id of a built-in network.
    pub(crate) fn id(&self, name: &str) -> String {
        self.by_name(name)
            .map_or_else(String::new, |net| net.record.id.clone())
    }

    /// Where ports are published when neither the container nor its network says.
    pub(crate) fn host_address(&self) -> Ipv4Addr {
        self.host_address
    }

    /// All networks, by id.
    pub(crate) fn all(&self) -> Vec<NetRef> {
        self.read().values().map(Arc::clone).collect()
    }

    /// The network with exactly this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<NetRef> {
        self.read().get(id).map(Arc::clone)
    }

    fn by_name(&self, name: &str) -> Option<NetRef> {
        let all = self.read();
        all.values().find(|net| net.record.name == name).cloned()
    }

    /// The network that `name` means: full id, name, or unique id prefix.
    ///
    /// # Errors
    /// 404 in dockerd's words; 400 when a prefix means several.
    pub(crate) fn find(&self, name: &str) -> Result<NetRef> {
        let name = if name == "default" { "bridge" } else { name };
        if let Some(net) = self.by_id(name).or_else(|| self.by_name(name)) {
            return Ok(net);
        }
        let all = self.read();
        let mut found = all
            .iter()
            .filter(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (found.next(), found.next()) {
            (Some((_, net)), None) => Ok(Arc::clone(net)),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name} is ambiguous ({} matches found on ID prefix)",
                2 + found.count()
            ))),
            (None, _) => Err(Error::not_found(format!("network {name} not found"))),
        }
    }

    /// Brings every bridge up that isn't. Blocks.
    pub(crate) fn ensure_all(&self) {
        for net in self.all() {
            let Some(bridge) = net.bridge().filter(|bridge| !bridge.is_disabled()) else {
                continue;
            };
            if let Err(error) = bridge.ensure() {
                tracing::warn!(network = net.record.name, %error, "a bridge can't be brought up; containers that need it will fail");
            }
        }
    }

    /// Reads the users' networks, and finishes removals that were cut off.
    fn load(&self) -> Result<()> {
        let unreadable = |error: &std::io::Error| {
            let context = format!("cannot read {}", self.directory.display());
            Error::caused(ErrorKind::Internal, context, error)
        };
        fs::create_dir_all(&self.directory).map_err(|error| unreadable(&error))?;
        let entries = fs::read_dir(&self.directory).map_err(|error| unreadable(&error))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // Half written by an engine that was killed.
                let _ = fs::remove_file(&path);
                continue;
            }
            let read = fs::read(&path)
                .map_err(|error| unreadable(&error))
                .and_then(|text| {
                    serde_json::from_slice::<NetRecord>(&text).map_err(|error| {
                        Error::caused(ErrorKind::Internal, "invalid record", &error)
                    })
                })
                .and_then(|record| Net::new(record, self.mtu, false));
            match read {
                Ok(net) if net.record.is_removed => {
                    tracing::info!(network = net.record.name, "a removal is finished");
                    let _ = net.bridge().map(net::BridgeNet::take_down);
                    let _ = fs::remove_file(&path);
                }
                Ok(net) => self.insert(net),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a network is left out");
                }
            }
        }
        Ok(())
    }

    fn choose(&self, settings: &Settings, stored: &Stored) -> Result<Stored> {
        let bridge = match &settings.bridge {
            Some(name) if name != "none" => name.clone(),
            _ if !stored.bridge.is_empty() => stored.bridge.clone(),
            _ => bridge_name(&settings.data_root),
        };
        let address = match &settings.bip {
            Some(bip) => bip.clone(),
            None if !stored.address.is_empty() => stored.address.clone(),
            None => {
                let mut taken = atoll_network::host_networks(&bridge).map_err(failed)?;
                taken.extend(self.subnets());
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

    /// The subnets of all networks.
    fn subnets(&self) -> Vec<Ipv4Net> {
        let all = self.all();
        all.iter()
            .filter_map(|net| net.record.pool.as_ref())
            .map(|pool| pool.subnet)
            .collect()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn store(&self, record: &NetRecord) -> Result<()> {
        let path = self.path(&record.id);
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::internal(format!("cannot write a network: {error}")))?;
        write(&path, &bytes, Durability::Disk).map_err(|error| cannot_write(&path, &error))
    }

    fn insert(&self, net: Net) {
        self.write().insert(net.record.id.clone(), Arc::new(net));
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, NetRef>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, NetRef>> {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn builtin(name: &str, stored: &Stored) -> Result<NetRecord> {
    let is_bridge = name == "bridge";
    let pool = match is_bridge {
        false => None,
        true => {
            let (gateway, subnet) = Ipv4Net::parse_with_address(&stored.address).map_err(failed)?;
            Some(Pool {
                subnet,
                gateway,
                range: None,
                auxiliary: BTreeMap::new(),
            })
        }
    };
    Ok(NetRecord {
        version: VERSION,
        id: stored.ids.get(name).cloned().unwrap_or_default(),
        name: name.to_owned(),
        created: time::ZERO.to_owned(),
        driver: if name == "none" { "null" } else { name }.to_owned(),
        pool,
        link: match is_bridge {
            true => stored.bridge.clone(),
            false => String::new(),
        },
        is_internal: false,
        is_attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        is_removed: false,
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

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    let context = format!("cannot write {}", path.display());
    Error::caused(ErrorKind::Internal, context, error)
}

fn failed(error: atoll_network::Error) -> Error {
    let hint = error.hint();
    Error::caused(ErrorKind::Internal, "network", &error).with_hint(hint)
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
