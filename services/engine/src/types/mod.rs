//! The JSON of the Docker Engine API, in the form dockerd gives it: which members are absent, null or empty matters to clients.

pub(crate) mod config;
pub(crate) mod host_config;
pub(crate) mod network;

pub(crate) use config::{ContainerConfig, HealthConfig};
#[cfg(test)]
pub(crate) use host_config::VolumeOptions;
pub(crate) use host_config::{HostConfig, LogConfig, MountRequest};
pub(crate) use network::{EndpointConfig, NetworkingConfig};

/// A set as Go writes it: names with empty objects.
pub(crate) type NameSet = std::collections::BTreeMap<String, Empty>;

/// `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Empty {}

/// Whether a number is zero, for members that are then absent.
pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Whether a flag is off, for members that are then absent.
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A command: a list, or one string as old clients send it.
pub(crate) fn string_or_list<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    let either = <Option<Either> as serde::Deserialize>::deserialize(deserializer)?;
    Ok(either.map(|either| match either {
        Either::One(text) => vec![text],
        Either::Many(list) => list,
    }))
}
