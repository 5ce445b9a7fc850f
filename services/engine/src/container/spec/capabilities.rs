//! Capability sets: Docker's default, `--cap-add`, `--cap-drop`, `--privileged`.

use std::collections::BTreeSet;

use atoll_sys::capability::NAMES;

use crate::{
    container::host_wall,
    error::{Error, Result},
    types::HostConfig,
};

/// Docker's default set.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Names the capabilities of a mask as `/proc/self/status` prints it.
pub(crate) fn from_mask(mask: u64) -> Vec<String> {
    NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// The capabilities in `CapEff` and `CapBnd` of `/proc/self/status`: what we could give away.
pub(crate) fn from_status(status: &str) -> Vec<String> {
    let mask = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    from_mask(mask("CapEff:") & mask("CapBnd:"))
}

/// The capabilities of a container, sorted; what the host itself lacks is left out, or refused when asked for by name.
///
/// # Errors
/// 400 for a name that is no capability, or one that is asked for and that the engine lacks.
pub(crate) fn for_container(config: &HostConfig, host: &[String]) -> Result<Vec<String>> {
    let has = |name: &str| host.iter().any(|found| found == name);
    if config.privileged {
        return Ok(host.to_vec());
    }
    let add = normalise(config.cap_add.as_deref().unwrap_or_default())?;
    let drop = normalise(config.cap_drop.as_deref().unwrap_or_default())?;
    let mut set: BTreeSet<String> = if add.contains("ALL") {
        host.iter().cloned().collect()
    } else if drop.contains("ALL") {
        BTreeSet::new()
    } else {
        let default = match host_wall::is_system(config) {
            true => host_wall::SYSTEM_CAPABILITIES,
            false => DEFAULT,
        };
        default
            .iter()
            .filter(|name| has(name))
            .map(|name| (*name).to_owned())
            .collect()
    };
    for name in add.iter().filter(|name| *name != "ALL") {
        if !has(name) {
            return Err(Error::invalid(format!(
                "capability {name} can't be added: the engine itself doesn't have it"
            )));
        }
        set.insert(name.clone());
    }
    for name in &drop {
        // With --cap-drop ALL what is added by name stays.
        if name != "ALL" {
            set.remove(name);
        }
    }
    Ok(set.into_iter().collect())
}

/// `net_admin` → `CAP_NET_ADMIN`.
fn normalise(names: &[String]) -> Result<BTreeSet<String>> {
    names
        .iter()
        .map(|name| {
            let upper = name.trim().to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            let full = if upper.starts_with("CAP_") {
                upper
            } else {
                format!("CAP_{upper}")
            };
            if NAMES.contains(&full.as_str()) {
                Ok(full)
            } else {
                Err(Error::invalid(format!(
                    "unknown capability to add or drop: '{name}'"
                )))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<String> {
        // Everything but CAP_SYS_RESOURCE (24).
        from_mask(0x1ff_ffff_ffff & !(1 << 24))
    }

    fn with(add: &[&str], drop: &[&str]) -> Result<Vec<String>> {
        let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let config = HostConfig {
            cap_add: list(add),
            cap_drop: list(drop),
            ..HostConfig::default()
        };
        for_container(&config, &host())
    }

    #[test]
    fn default_set_is_dockers() {
        assert_eq!(with(&[], &[]).unwrap().len(), 14);
    }

    #[test]
    fn add_and_drop() {
        assert!(
            with(&["net_admin"], &[])
                .unwrap()
                .contains(&"CAP_NET_ADMIN".to_owned())
        );
        assert!(
            !with(&[], &["CHOWN"])
                .unwrap()
                .contains(&"CAP_CHOWN".to_owned())
        );
        assert_eq!(with(&["CAP_CHOWN"], &["all"]).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(with(&["ALL"], &["MKNOD"]).unwrap().len(), host().len() - 1);
        assert!(
            with(&["nonsense"], &[])
                .unwrap_err()
                .to_string()
                .contains("nonsense")
        );
        assert!(
            with(&["SYS_RESOURCE"], &[])
                .unwrap_err()
                .to_string()
                .contains("SYS_RESOURCE")
        );
    }

    #[test]
    fn privileged_is_what_the_host_has() {
        let config = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        assert_eq!(for_container(&config, &host()).unwrap(), host());
    }

    #[test]
    fn status_is_read() {
        let names = from_status("Name:\tx\nCapEff:\t0000000000000003\nCapBnd:\t0000000000000001\n");
        assert_eq!(names, ["CAP_CHOWN"]);
    }
}
