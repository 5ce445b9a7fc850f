//! What the engine knows about a container, on disk as `config.json` (docs/formats/container-record.md).

use std::collections::BTreeMap;

use atoll_shim_protocol::machine::MachineFacts;
use serde::{Deserialize, Serialize};

use super::id_range::IdRange;
use crate::{
    time,
    types::{ContainerConfig, EndpointConfig, HostConfig, host_config::PortBinding},
};

/// Version of the record's format.
pub(crate) const VERSION: u32 = 1;

/// What the engine knows about a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// Without the slash.
    pub(crate) name: String,
    /// RFC 3339.
    pub(crate) created: String,
    /// `sha256:…` of the image.
    pub(crate) image_id: String,
    /// The image's layers, lowest first, as chain IDs; empty for the host's image.
    pub(crate) chain_ids: Vec<String>,
    /// The program.
    pub(crate) path: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// What runs.
    pub(crate) config: ContainerConfig,
    /// What it gets from the host.
    pub(crate) host_config: HostConfig,
    /// Its ends in networks: name → endpoint.
    pub(crate) networks: BTreeMap<String, EndpointConfig>,
    /// What the API doesn't show of those ends.
    #[serde(default)]
    pub(crate) ends: BTreeMap<String, EndRecord>,
    /// Ports of the host that lead to it, of the current run.
    #[serde(default)]
    pub(crate) published: Option<PublishedPorts>,
    /// Its bind mounts and volumes.
    pub(crate) mounts: Vec<MountPoint>,
    /// What it is doing.
    pub(crate) state: State,
    /// The machine of the latest run, when it lives in one.
    #[serde(default)]
    pub(crate) machine: Option<MachineFacts>,
    /// Its own users, when it has a user namespace.
    #[serde(default)]
    pub(crate) id_range: Option<IdRange>,
    /// How often the restart policy started it.
    #[serde(default)]
    pub(crate) restart_count: i64,
    /// A user stopped it, so the restart policy leaves it alone.
    #[serde(default)]
    pub(crate) stopped_by_user: bool,
    /// How often it has exited while this engine ran.
    #[serde(skip)]
    pub(crate) exits: u64,
    /// It is gone from disk; whoever still holds it can tell.
    #[serde(skip)]
    pub(crate) is_removed: bool,
}

/// What the API doesn't show of a container's end in a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EndRecord {
    /// The host's link.
    pub(crate) host_ifname: String,
    /// The link inside.
    pub(crate) interface: String,
    /// The hardware address the user chose.
    pub(crate) wanted_mac: Option<String>,
}

/// Ports of the host that lead to a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishedPorts {
    /// Id of the network they lead into.
    pub(crate) network: String,
    /// `80/tcp` → where on the host.
    pub(crate) bindings: BTreeMap<String, Vec<PortBinding>>,
}

/// A mount as inspect shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MountPoint {
    /// `bind` or `volume`.
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    /// The volume's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// On the host.
    pub(crate) source: String,
    /// In the container.
    pub(crate) destination: String,
    /// The volume's driver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) driver: String,
    /// The options as given.
    pub(crate) mode: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub(crate) rw: bool,
    /// Mount propagation.
    pub(crate) propagation: String,
    /// How a volume is used; not for inspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<VolumeUse>,
}

/// How a container uses a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeUse {
    /// It goes with its last container, since nobody gave it a name.
    #[serde(default)]
    pub(crate) is_anonymous: bool,
    /// What the image has there is copied into it when it is empty.
    #[serde(default)]
    pub(crate) copies: bool,
    /// The folder in it that is mounted; empty for the whole.
    #[serde(default)]
    pub(crate) subpath: String,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The state itself.
    pub(crate) status: Status,
    /// A start is under way: recorded before the shim exists, cleared when the process runs or the start has failed.
    #[serde(default)]
    pub(crate) is_starting: bool,
    /// Process id on the host; 0 when nothing runs.
    pub(crate) pid: u32,
    /// Of the latest run.
    pub(crate) exit_code: i64,
    /// Why the latest start failed or the latest run was lost.
    pub(crate) error: String,
    /// The latest run was killed for lack of memory.
    pub(crate) oom_killed: bool,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// RFC 3339.
    pub(crate) finished_at: String,
}

/// States as Docker names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Never started, or its start failed.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Waits for the restart policy.
    Restarting,
    /// Is being removed.
    Removing,
    /// Has run.
    Exited,
    /// Could not be removed.
    Dead,
}

impl Status {
    /// Docker's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: Status::Created,
            is_starting: false,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: time::ZERO.to_owned(),
            finished_at: time::ZERO.to_owned(),
        }
    }
}

impl State {
    /// Whether a process exists, running or frozen.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// `Up 2 minutes`, `Exited (0) 3 seconds ago`: the words of `docker ps`.
    pub(crate) fn words(&self) -> String {
        let now = time::now_nanos() / 1_000_000_000;
        let ago = |text: &str| time::human_duration(now - time::unix_seconds(text));
        match self.status {
            Status::Created => "Created".to_owned(),
            Status::Running => format!("Up {}", ago(&self.started_at)),
            Status::Paused => format!("Up {} (Paused)", ago(&self.started_at)),
            Status::Restarting => {
                format!(
                    "Restarting ({}) {} ago",
                    self.exit_code,
                    ago(&self.finished_at)
                )
            }
            Status::Removing => "Removal In Progress".to_owned(),
            Status::Exited if self.finished_at == time::ZERO => "Created".to_owned(),
            Status::Exited => format!("Exited ({}) {} ago", self.exit_code, ago(&self.finished_at)),
            Status::Dead => "Dead".to_owned(),
        }
    }
}

impl Record {
    /// The first 12 digits of the id.
    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The network mode with `default` resolved.
    pub(crate) fn network_mode(&self) -> &str {
        match self.host_config.network_mode.as_str() {
            "" | "default" => "bridge",
            mode => mode,
        }
    }

    /// Its mounts as inspect shows them.
    pub(crate) fn shown_mounts(&self) -> Vec<MountPoint> {
        let shown = |mount: &MountPoint| MountPoint {
            volume: None,
            ..mount.clone()
        };
        self.mounts.iter().map(shown).collect()
    }

    /// Whether it shares the host's network.
    pub(crate) fn is_host_network(&self) -> bool {
        self.network_mode() == "host"
    }
}
