//! The OCI bundle configuration of a container, as Docker builds it. Pure: facts in, JSON out.
//!
//! Source: OCI runtime-spec 1.3 config.md, config-linux.md; defaults as dockerd 28 gives them to runc.

pub(crate) mod capabilities;
pub(crate) mod devices;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod security;

use std::{collections::BTreeMap, path::Path};

use atoll_shim_protocol::machine::{self, MachineNetwork};
use serde_json::{Value, json};

pub(crate) use devices::HostDevice;
pub(crate) use process::ExecProcess;
pub(crate) use process::exec_process;
pub(crate) use resources::resources;
pub(crate) use security::check_options;

use super::{host_wall, record::Record, users::Identity, wall};
use crate::error::{Error, Result};

/// What the host offers, found once at start.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    /// Capabilities of the engine, as `CAP_…`.
    pub(crate) capabilities: Vec<String>,
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
    /// Only the unified hierarchy has controllers.
    pub(crate) is_cgroup_v2: bool,
    /// The host's name.
    pub(crate) hostname: String,
}

/// What a container's configuration depends on besides its record.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    /// The container.
    pub(crate) record: &'a Record,
    /// Who it runs as.
    pub(crate) identity: &'a Identity,
    /// The host.
    pub(crate) host: &'a HostFacts,
    /// The container's directory, with hosts, hostname and resolv.conf.
    pub(crate) directory: &'a Path,
    /// Where its cgroups go.
    pub(crate) cgroups_path: String,
    /// Rlimits of containers that don't say.
    pub(crate) default_ulimits: &'a BTreeMap<String, (i64, i64)>,
    /// Devices for privileged containers and `--device`.
    pub(crate) devices: Vec<HostDevice>,
    /// The network cards, when it lives in a machine.
    pub(crate) cards: Vec<MachineNetwork>,
    /// Process of the container whose network is shared.
    pub(crate) network_pid: Option<u32>,
    /// Process of the container whose process ids are shared.
    pub(crate) pid_pid: Option<u32>,
    /// Process of the container whose IPC is shared.
    pub(crate) ipc_pid: Option<u32>,
}

/// Builds the configuration.
///
/// # Errors
/// 400 when the record asks for something the host doesn't have.
pub(crate) fn build(input: &SpecInput<'_>) -> Result<Value> {
    let record = input.record;
    let config = &record.config;
    let host_config = &record.host_config;
    let hostname = match (record.is_host_network(), config.domainname.as_str()) {
        (true, _) if config.hostname.is_empty() => input.host.hostname.clone(),
        (_, "") => config.hostname.clone(),
        (_, domain) => format!("{}.{domain}", config.hostname),
    };
    let capabilities = capabilities::for_container(host_config, &input.host.capabilities)?;
    let namespaces = namespaces::namespaces(input);
    let own_uts = host_config.uts_mode != "host";
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": input.cgroups_path,
        "resources": resources(host_config, &input.devices, input.host.is_cgroup_v2)?,
        "devices": input.devices.iter().map(HostDevice::spec).collect::<Vec<_>>(),
        "maskedPaths": host_config.masked_paths.as_deref().unwrap_or_default(),
        "readonlyPaths": host_config.readonly_paths.as_deref().unwrap_or_default(),
        "sysctl": security::sysctls(record),
    });
    if let Some(range) = record.id_range {
        let map = json!([{ "containerID": 0, "hostID": range.first, "size": range.size }]);
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map;
    }
    if let Some(profile) = security::seccomp(host_config, &capabilities, input.host.kernel)? {
        linux["seccomp"] = profile;
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process::process(input, &capabilities, &hostname)?,
        "root": { "path": "rootfs", "readonly": host_config.readonly_rootfs },
        "mounts": mounts::mounts(input)?,
        "annotations": annotations(input)?,
        "linux": linux,
    });
    if own_uts {
        spec["hostname"] = Value::String(hostname);
    }
    Ok(spec)
}

/// The user's, and those that tell the shim of the wall; the latter are not the user's to set.
fn annotations(input: &SpecInput<'_>) -> Result<BTreeMap<String, String>> {
    let host_config = &input.record.host_config;
    let mut all = host_config.annotations.clone();
    all.remove(machine::ISOLATION);
    all.remove(machine::NETWORK);
    let is_marked = wall::is_machine(host_config)
        || host_wall::is_system(host_config)
        || host_wall::is_chroot(host_config);
    if is_marked {
        all.insert(machine::ISOLATION.to_owned(), host_config.isolation.clone());
    }
    if !input.cards.is_empty() {
        let text = serde_json::to_string(&input.cards)
            .map_err(|error| Error::internal(format!("cannot write the bundle: {error}")))?;
        all.insert(machine::NETWORK.to_owned(), text);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{container::registry::tests::record, types::HostConfig};

    fn host() -> HostFacts {
        HostFacts {
            capabilities: capabilities::from_mask(0x1ff_ffff_ffff),
            kernel: (6, 1),
            is_cgroup_v2: true,
            hostname: "host".to_owned(),
        }
    }

    fn built(change: impl FnOnce(&mut Record)) -> Value {
        let mut record = record(&"ab".repeat(32), "web");
        record.path = "sh".to_owned();
        record.args = vec!["-c".to_owned(), "true".to_owned()];
        record.config.hostname = "abababababab".to_owned();
        record.host_config = HostConfig {
            network_mode: "bridge".to_owned(),
            ipc_mode: "private".to_owned(),
            cgroupns_mode: "private".to_owned(),
            shm_size: 64 << 20,
            masked_paths: Some(vec!["/proc/kcore".to_owned()]),
            readonly_paths: Some(vec!["/proc/sys".to_owned()]),
            ..HostConfig::default()
        };
        change(&mut record);
        let input = SpecInput {
            record: &record,
            identity: &Identity {
                uid: 0,
                gid: 0,
                additional_gids: vec![0],
            },
            host: &host(),
            directory: Path::new("/nonexistent"),
            cgroups_path: "atoll/x".to_owned(),
            default_ulimits: &BTreeMap::new(),
            devices: Vec::new(),
            cards: Vec::new(),
            network_pid: None,
            pid_pid: None,
            ipc_pid: None,
        };
        build(&input).unwrap()
    }

    #[test]
    fn default_container_is_as_docker_builds_it() {
        let mut spec = built(|_| {});
        // The profile has tests of its own in sys/seccomp.
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        spec["linux"].as_object_mut().unwrap().remove("seccomp");
        insta::assert_json_snapshot!(spec);
    }

    #[test]
    fn privileged_has_no_walls_but_namespaces() {
        let spec = built(|record| {
            record.host_config.privileged = true;
            record.host_config.masked_paths = Some(Vec::new());
            record.host_config.readonly_paths = Some(Vec::new());
        });
        assert!(spec["linux"].get("seccomp").is_none());
        let bounding = spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap();
        assert_eq!(bounding.len(), 41);
        assert_eq!(
            spec["linux"]["resources"]["devices"],
            json!([{ "allow": true, "access": "rwm" }])
        );
    }

    #[test]
    fn a_system_has_users_of_its_own_that_own_its_files() {
        let spec = built(|record| {
            record.host_config.isolation = "system".to_owned();
            record.id_range = Some(crate::container::id_range::IdRange {
                first: 524_288,
                size: 65_536,
            });
            record.mounts.push(crate::container::record::MountPoint {
                source: "/src".to_owned(),
                destination: "/dst".to_owned(),
                ..crate::container::record::MountPoint::default()
            });
        });
        let map = json!([{ "containerID": 0, "hostID": 524_288, "size": 65_536 }]);
        assert_eq!(spec["linux"]["uidMappings"], map);
        assert_eq!(spec["linux"]["gidMappings"], map);
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({ "type": "user" })));
        assert_eq!(spec["annotations"][machine::ISOLATION], "system");
        let bind = spec["mounts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(bind["options"], json!(["rbind", "rprivate", "ro", "idmap"]));
        let group_range = &spec["linux"]["sysctl"]["net.ipv4.ping_group_range"];
        assert_eq!(group_range, "0 65535");
        let bounding = spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap();
        assert!(bounding.contains(&json!("CAP_SYS_ADMIN")));
        assert!(!bounding.contains(&json!("CAP_SYS_BOOT")));
    }

    #[test]
    fn host_namespaces_are_left_out() {
        let spec = built(|record| {
            record.host_config.network_mode = "host".to_owned();
            record.host_config.pid_mode = "host".to_owned();
            record.host_config.ipc_mode = "host".to_owned();
            record.host_config.uts_mode = "host".to_owned();
            record.host_config.cgroupns_mode = "host".to_owned();
        });
        assert_eq!(spec["linux"]["namespaces"], json!([{ "type": "mount" }]));
        assert!(spec.get("hostname").is_none());
        assert_eq!(spec["linux"]["sysctl"], json!({}));
    }
}
