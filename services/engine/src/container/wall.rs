//! Which wall a container is behind, and what that of a machine excludes.

use std::{path::Path, sync::OnceLock};

use atoll_machine::{Backend, host};
use atoll_shim_protocol::machine::{FACTS_FILE, MOST_NETWORKS, MachineFacts};

use super::host_wall;
use crate::{
    error::{Error, Result},
    types::HostConfig,
};

/// Whether `isolation` means a machine.
pub(crate) fn is_machine(host: &HostConfig) -> bool {
    host.isolation == "vm" || host.isolation.starts_with("vm:")
}

/// Refuses walls that aren't there, and what a machine cannot share with its host.
///
/// # Errors
/// 400 for walls that there aren't and for options that contradict the wall, 501 for what is to come, each by name.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    match host.isolation.as_str() {
        // What these exclude is checked before defaults are filled in.
        "" | "default" | "process" | "system" | "chroot" => return Ok(()),
        "vm" | "vm:kvm" | "vm:soft" => {}
        other => {
            return Err(Error::invalid(format!(
                "invalid isolation {other:?}; `process` (the default), `system`, `chroot`, `vm`, `vm:kvm` and `vm:soft` are available"
            )));
        }
    }
    let shares = |mode: &str| mode == "host" || mode.starts_with("container:");
    let excluded = [
        (shares(&host.network_mode), "--network", &host.network_mode),
        (shares(&host.pid_mode), "--pid", &host.pid_mode),
        (shares(&host.ipc_mode), "--ipc", &host.ipc_mode),
        (shares(&host.uts_mode), "--uts", &host.uts_mode),
    ];
    if let Some((_, option, mode)) = excluded.iter().find(|(asked, ..)| *asked) {
        return Err(Error::invalid(format!(
            "{option} {mode} contradicts --isolation {}: a machine has a kernel of its own and shares none of its host's namespaces",
            host.isolation
        )));
    }
    if !host.resources.devices.is_empty() {
        return Err(Error::not_implemented(format!(
            "--device is not available with --isolation {}",
            host.isolation
        )));
    }
    Ok(())
}

/// Refuses more networks than a machine can have cards for.
///
/// # Errors
/// 400 with a hint.
pub(crate) fn check_networks(host: &HostConfig, count: usize) -> Result<()> {
    if !is_machine(host) || count <= usize::from(MOST_NETWORKS) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{count} networks: a machine has at most {MOST_NETWORKS} network cards"
    ))
    .with_hint(Some(
        "leave some out, or disconnect it from another network first".to_owned(),
    )))
}

/// What the shim wrote down of the container's machine.
pub(crate) fn facts(bundle: &Path) -> Option<MachineFacts> {
    let text = std::fs::read(bundle.join(FACTS_FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The walls that work on this host now, as `--isolation` takes them.
pub(crate) fn available() -> Vec<&'static str> {
    static KVM: OnceLock<bool> = OnceLock::new();
    let mut walls = vec!["chroot", "process"];
    if host_wall::can_run_systems() {
        walls.push("system");
    }
    let has_programs = ["atoll-vmm", "atoll-guest"]
        .iter()
        .all(|program| host::program(program).is_ok());
    if has_programs && host::choose(None).is_ok() {
        // A probe guest runs for some milliseconds; what it finds does not change.
        if *KVM.get_or_init(|| Backend::Auto.choose() == Backend::Kvm) {
            walls.push("vm:kvm");
        }
        walls.push("vm:soft");
    }
    walls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_share_nothing_with_their_host() {
        let host = |isolation: &str| HostConfig {
            isolation: isolation.to_owned(),
            ..HostConfig::default()
        };
        for fine in ["", "process", "system", "chroot", "vm", "vm:kvm", "vm:soft"] {
            assert!(check(&host(fine)).is_ok(), "{fine}");
        }
        let refused = |host: HostConfig| check(&host).unwrap_err().to_string();
        assert!(refused(host("vm:xen")).contains("invalid isolation \"vm:xen\""));
        let mut pid = host("vm");
        pid.pid_mode = "host".to_owned();
        assert!(refused(pid.clone()).contains("--pid host contradicts --isolation vm"));
        "process".clone_into(&mut pid.isolation);
        assert!(check(&pid).is_ok());
        let mut network = host("vm:soft");
        network.network_mode = "container:web".to_owned();
        assert!(refused(network).contains("--network container:web contradicts"));
    }
}
