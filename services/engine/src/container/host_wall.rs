//! The walls `system` and `chroot`, of the host's own kernel: what they exclude, and what containers behind them get.

use std::path::Path;

use super::id_range::IdRange;
use crate::{
    error::{Error, Result},
    types::{ContainerConfig, HostConfig},
};

/// What a container behind the wall `system` runs when neither its image nor its creator says.
const INIT: &str = "/sbin/init";
/// Names of programs that are stopped by [`HALT`].
const INITS: [&str; 2] = ["init", "systemd"];
/// Asks systemd to end what it runs and then itself. Source: systemd(1), SIGNALS.
const HALT: &str = "SIGRTMIN+3";

/// Capabilities behind the wall `system`, what a service manager has use for in namespaces of its own. Without
/// `CAP_SYS_BOOT`, so that shutting down ends the container with 0. Source: systemd-nspawn(1), `--capability=`.
pub(crate) const SYSTEM_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TTY_CONFIG",
];

/// Paths made read-only behind the wall `system`: Docker's, but for the parameters of its own network.
pub(crate) const SYSTEM_READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys/abi",
    "/proc/sys/debug",
    "/proc/sys/dev",
    "/proc/sys/fs",
    "/proc/sys/kernel",
    "/proc/sys/user",
    "/proc/sys/vm",
    "/proc/sysrq-trigger",
];

/// Whether the container boots a system.
pub(crate) fn is_system(host: &HostConfig) -> bool {
    host.isolation == "system"
}

/// Whether only the root directory is the container's own.
pub(crate) fn is_chroot(host: &HostConfig) -> bool {
    host.isolation == "chroot"
}

/// Whether the container gets a user namespace.
pub(crate) fn has_own_users(host: &HostConfig) -> bool {
    is_system(host) && host.userns_mode != "host"
}

/// Fills what a system runs and is stopped by.
pub(crate) fn fill_config(config: &mut ContainerConfig, host: &HostConfig) {
    if !is_system(host) {
        return;
    }
    let is_set = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if !is_set(&config.entrypoint) && !is_set(&config.cmd) {
        config.cmd = Some(vec![INIT.to_owned()]);
    }
    let mut words = config.entrypoint.iter().chain(config.cmd.iter()).flatten();
    let is_init = words.next().is_some_and(|program| {
        let name = program.rsplit('/').next();
        name.is_some_and(|name| INITS.contains(&name))
    });
    // Other programs are no service managers: they would not heed it.
    if config.stop_signal.is_empty() && is_init {
        HALT.clone_into(&mut config.stop_signal);
    }
}

/// Fills what the wall decides, so that inspect shows it.
pub(crate) fn fill_host_config(host: &mut HostConfig) {
    let default = |text: &mut String, value: &str| {
        if matches!(text.as_str(), "" | "default") {
            value.clone_into(text);
        }
    };
    if is_system(host) {
        default(&mut host.cgroupns_mode, "private");
    }
    if is_chroot(host) {
        for mode in [
            &mut host.network_mode,
            &mut host.ipc_mode,
            &mut host.pid_mode,
            &mut host.uts_mode,
            &mut host.cgroupns_mode,
        ] {
            default(mode, "host");
        }
    }
}

/// Refuses what a wall of the host's kernel contradicts, before defaults are filled in: what is asked for, not what is
/// meant by saying nothing.
///
/// # Errors
/// 400 naming the option.
pub(crate) fn check(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    if is_chroot(host) {
        return check_chroot(config, host);
    }
    if is_system(host) {
        return check_system(host);
    }
    Ok(())
}

fn check_system(host: &HostConfig) -> Result<()> {
    let shares = |mode: &str| mode == "host" || mode.starts_with("container:");
    let refuse = |option: &str, mode: &str, reason: &str| {
        Err(Error::invalid(format!(
            "{option}{}{mode} contradicts --isolation system: {reason}",
            if mode.is_empty() { "" } else { " " }
        )))
    };
    let manages = "its init manages process ids, host name, IPC and control groups of its own";
    for (option, mode) in [
        ("--pid", &host.pid_mode),
        ("--ipc", &host.ipc_mode),
        ("--uts", &host.uts_mode),
        ("--cgroupns", &host.cgroupns_mode),
    ] {
        if shares(mode) {
            return refuse(option, mode, manages);
        }
    }
    if !has_own_users(host) {
        return Ok(());
    }
    let users = "it has users of its own";
    let refused = match shares(&host.network_mode) {
        true => refuse("--network", &host.network_mode, users),
        false if host.privileged => refuse("--privileged", "", users),
        false => return Ok(()),
    };
    refused.map_err(|error| error.with_hint(Some("add `--userns host` to give that up".to_owned())))
}

fn check_chroot(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let is_own = |mode: &str| !matches!(mode, "" | "default" | "host");
    let ports = host.publish_all_ports || !host.port_bindings.is_empty();
    let asked = [
        (
            is_own(&host.network_mode),
            "--network",
            host.network_mode.as_str(),
        ),
        (ports, "--publish", ""),
        (is_own(&host.pid_mode), "--pid", &host.pid_mode),
        (is_own(&host.ipc_mode), "--ipc", &host.ipc_mode),
        (is_own(&host.uts_mode), "--uts", &host.uts_mode),
        (is_own(&host.userns_mode), "--userns", &host.userns_mode),
        (
            is_own(&host.cgroupns_mode),
            "--cgroupns",
            &host.cgroupns_mode,
        ),
        (!host.sysctls.is_empty(), "--sysctl", ""),
        (host.shm_size != 0, "--shm-size", ""),
        (!config.hostname.is_empty(), "--hostname", &config.hostname),
        (
            !config.domainname.is_empty(),
            "--domainname",
            &config.domainname,
        ),
        (
            !config.mac_address.is_empty(),
            "--mac-address",
            &config.mac_address,
        ),
    ];
    match asked.iter().find(|(asked, ..)| *asked) {
        None => Ok(()),
        Some((_, option, value)) => Err(Error::invalid(format!(
            "{option}{}{value} contradicts --isolation chroot: the root directory is all that is its own, so it has the host's network, processes, users, names and kernel parameters",
            if value.is_empty() { "" } else { " " }
        ))
        .with_hint(Some("use `--isolation process` for these".to_owned()))),
    }
}

/// Whether a system can be run here: its users need shifted ids, its init control groups.
pub(crate) fn can_run_systems() -> bool {
    let users = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let has_users = users.is_ok_and(|text| text.trim() != "0");
    let groups = atoll_cgroup::Hierarchies::detect();
    let has_groups = groups.is_ok_and(|found| {
        let is_named = |name: &String| name == "name=systemd";
        found.v2().is_some()
            || found
                .v1()
                .iter()
                .any(|one| one.controllers.iter().any(is_named))
    });
    has_users && has_groups && Path::new("/proc/self/ns/cgroup").exists()
}

/// The options by which a root file system is the container's root's.
pub(crate) fn shift_options(range: Option<IdRange>) -> Vec<String> {
    let both =
        |range: IdRange| ["uidmap", "gidmap"].map(|key| format!("{key}={}", range.mapping()));
    range.map(both).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(isolation: &str) -> HostConfig {
        HostConfig {
            isolation: isolation.to_owned(),
            ..HostConfig::default()
        }
    }

    fn refused(config: &ContainerConfig, host: &HostConfig) -> String {
        check(config, host).unwrap_err().to_string()
    }

    #[test]
    fn a_chroot_has_no_more_than_its_root() {
        let none = ContainerConfig::default();
        assert!(check(&none, &host("chroot")).is_ok());
        let mut network = host("chroot");
        network.network_mode = "bridge".to_owned();
        assert!(
            refused(&none, &network).starts_with("--network bridge contradicts --isolation chroot")
        );
        network.network_mode = "default".to_owned();
        assert!(check(&none, &network).is_ok());
        let mut ports = host("chroot");
        ports.publish_all_ports = true;
        assert!(refused(&none, &ports).starts_with("--publish contradicts"));
        let named = ContainerConfig {
            hostname: "web".to_owned(),
            ..ContainerConfig::default()
        };
        assert!(refused(&named, &host("chroot")).starts_with("--hostname web contradicts"));
        assert!(check(&named, &host("process")).is_ok());
        let mut filled = host("chroot");
        fill_host_config(&mut filled);
        assert_eq!(
            (filled.network_mode.as_str(), filled.pid_mode.as_str()),
            ("host", "host")
        );
    }

    #[test]
    fn a_system_has_its_own() {
        let none = ContainerConfig::default();
        let with = |change: fn(&mut HostConfig)| {
            let mut host = host("system");
            change(&mut host);
            check(&none, &host).map_err(|error| error.to_string())
        };
        assert!(with(|_| {}).is_ok());
        let said = with(|host| host.pid_mode = "host".to_owned()).unwrap_err();
        assert!(
            said.starts_with("--pid host contradicts --isolation system"),
            "{said}"
        );
        let said = with(|host| host.network_mode = "container:x".to_owned()).unwrap_err();
        assert!(
            said.starts_with("--network container:x contradicts"),
            "{said}"
        );
        assert!(
            with(|host| host.privileged = true)
                .unwrap_err()
                .starts_with("--privileged contradicts")
        );
        assert!(
            with(|host| {
                host.privileged = true;
                host.network_mode = "host".to_owned();
                host.userns_mode = "host".to_owned();
            })
            .is_ok()
        );
    }

    #[test]
    fn a_system_boots_its_init_and_is_halted() {
        let mut config = ContainerConfig::default();
        fill_config(&mut config, &host("process"));
        assert_eq!(
            (config.cmd.as_ref(), config.stop_signal.as_str()),
            (None, "")
        );
        fill_config(&mut config, &host("system"));
        assert_eq!(config.cmd, Some(vec!["/sbin/init".to_owned()]));
        assert_eq!(crate::signal::parse(&config.stop_signal).unwrap(), 37);
        for (program, signal) in [
            ("/lib/systemd/systemd", "SIGRTMIN+3"),
            ("init", "SIGRTMIN+3"),
            ("/bin/sh", ""),
            ("initdb", ""),
        ] {
            let mut config = ContainerConfig {
                cmd: Some(vec![program.to_owned(), "init".to_owned()]),
                ..ContainerConfig::default()
            };
            fill_config(&mut config, &host("system"));
            assert_eq!(config.stop_signal, signal, "{program}");
        }
        let mut given = ContainerConfig {
            entrypoint: Some(vec!["/sbin/openrc-init".to_owned()]),
            stop_signal: "SIGPWR".to_owned(),
            ..ContainerConfig::default()
        };
        fill_config(&mut given, &host("system"));
        assert_eq!((given.cmd, given.stop_signal.as_str()), (None, "SIGPWR"));
    }
}
