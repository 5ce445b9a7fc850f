//! Making and removing users' networks.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use atoll_network::Ipv4Net;

use super::{
    BUILTIN, Net, NetRef, Networks, failed,
    record::{BridgeOptions, NetRecord, Pool, VERSION},
};
use crate::{
    error::{Error, ErrorKind, Result},
    names, time,
};

/// A network that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// What users call it.
    pub(crate) name: String,
    /// Its addresses; chosen when nobody says.
    pub(crate) pool: Option<AskedPool>,
    /// Cut off from everything outside.
    pub(crate) is_internal: bool,
    /// Without meaning outside of a swarm.
    pub(crate) is_attachable: bool,
    /// Users' labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The driver's options.
    pub(crate) options: BTreeMap<String, String>,
}

/// Addresses that are asked for.
#[derive(Debug, Default)]
pub(crate) struct AskedPool {
    /// All of them; chosen when nobody says.
    pub(crate) subnet: Option<Ipv4Net>,
    /// The bridge's own.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Those that are given out unasked.
    pub(crate) range: Option<Ipv4Net>,
    /// Names for addresses that are somebody else's.
    pub(crate) auxiliary: BTreeMap<String, Ipv4Addr>,
}

impl Networks {
    /// Makes a network: its record first, then its bridge, so that an engine killed in between finds both or makes the
    /// bridge at its next start. Blocks.
    ///
    /// # Errors
    /// 409 when the name is taken, 403 when the subnet meets another network's, 400 for what can't work; nothing stays.
    pub(crate) fn create(&self, asked: Asked) -> Result<NetRef> {
        if !is_valid_name(&asked.name) {
            return Err(Error::invalid(format!(
                "invalid network name {:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed",
                asked.name
            )));
        }
        let options = BridgeOptions::parse(&asked.options)?;
        let _changing = self.change();
        if self.by_name(&asked.name).is_some() || asked.name == "default" {
            return Err(Error::conflict(format!(
                "network with name {} already exists",
                asked.name
            )));
        }
        let id = names::random_id();
        let link = match options.link {
            Some(link) => link,
            None => format!("at-{}", &id[..12]),
        };
        if let Some(other) = self.all().iter().find(|net| net.record.link == link) {
            return Err(Error::conflict(format!(
                "link {link} is that of network {}",
                other.record.name
            )));
        }
        let pool = self.pool(asked.pool.unwrap_or_default(), &link)?;
        let record = NetRecord {
            version: VERSION,
            id: id.clone(),
            name: asked.name,
            created: time::now(),
            driver: "bridge".to_owned(),
            pool: Some(pool),
            link,
            is_internal: asked.is_internal,
            is_attachable: asked.is_attachable,
            labels: asked.labels,
            options: asked.options,
            is_removed: false,
        };
        let net = Net::new(record, self.mtu, false)?;
        self.store(&net.record)?;
        if let Some(bridge) = net.bridge()
            && let Err(error) = bridge.ensure()
        {
            let _ = fs::remove_file(self.path(&id));
            return Err(error);
        }
        self.insert(net);
        self.by_id(&id)
            .ok_or_else(|| Error::internal("the new network is gone"))
    }

    fn pool(&self, asked: AskedPool, link: &str) -> Result<Pool> {
        let ours = self.subnets();
        let subnet = match asked.subnet {
            Some(subnet) => {
                if ours.iter().any(|other| other.overlaps(subnet)) {
                    return Err(Error::new(
                        ErrorKind::Forbidden,
                        "invalid pool request: Pool overlaps with other one on this address space",
                    )
                    .with_hint(Some(
                        "choose a subnet that no other network has, or leave it out".to_owned(),
                    )));
                }
                subnet
            }
            None => {
                if asked.gateway.is_some() || asked.range.is_some() {
                    return Err(Error::invalid(
                        "a gateway and a range need a subnet that they are part of",
                    ));
                }
                let mut taken = atoll_network::host_networks(link).map_err(failed)?;
                taken.extend(ours);
                atoll_network::choose_small_subnet(&taken).map_err(failed)?
            }
        };
        Ok(Pool {
            subnet,
            gateway: asked.gateway.unwrap_or_else(|| subnet.first_host()),
            range: asked.range,
            auxiliary: asked.auxiliary,
        })
    }

    /// Removes a network. Its record first says so, so that an engine killed in between leaves no bridge. Blocks.
    ///
    /// * `users`: names and ids of the containers that have an end in it, for the refusal.
    ///
    /// # Errors
    /// 403 in dockerd's words for the built-in ones, and while a container has an end in it.
    pub(crate) fn remove(&self, net: &NetRef, users: &[(String, String)]) -> Result<()> {
        let record = &net.record;
        if BUILTIN.contains(&record.name.as_str()) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "{} is a pre-defined network and cannot be removed",
                    record.name
                ),
            ));
        }
        let _changing = self.change();
        if self.by_id(&record.id).is_none() {
            return Err(Error::not_found(format!(
                "network {} not found",
                record.name
            )));
        }
        let auxiliary = record.pool.as_ref().map_or(0, |pool| pool.auxiliary.len());
        if net.bridge().is_some_and(|bridge| !bridge.close(auxiliary)) {
            let users: Vec<String> = users
                .iter()
                .map(|(name, id)| format!("name:{name:?} id:{:?}", id.get(..12).unwrap_or(id)))
                .collect();
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "error while removing network: network {} has active endpoints ({})",
                    record.name,
                    users.join(", ")
                ),
            )
            .with_hint(Some(
                "stop the containers, or take them out with `network disconnect`".to_owned(),
            )));
        }
        let removed = NetRecord {
            is_removed: true,
            ..record.clone()
        };
        self.servers.stop(&record.id);
        let taken_down = self
            .store(&removed)
            .and_then(|()| net.bridge().map_or(Ok(()), |bridge| bridge.take_down()));
        if let Err(error) = taken_down {
            if let Some(bridge) = net.bridge() {
                bridge.reopen();
            }
            let _ = self.store(record);
            return Err(error);
        }
        self.write().remove(&record.id);
        if let Err(error) = fs::remove_file(self.path(&record.id)) {
            tracing::warn!(network = record.name, %error, "a removed network's record stays until the next start");
        }
        Ok(())
    }
}

fn is_valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= 255
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "my-net_1.x", "0"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "-a", "a b", "a/b", "ä"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
