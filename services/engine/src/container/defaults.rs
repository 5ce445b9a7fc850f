//! What a container gets when its creator doesn't say, and what can't be asked for.

use std::collections::BTreeMap;

use atoll_image::RunConfig;

use super::{host_wall, spec::capabilities, wall};
use crate::{
    error::{Error, Result},
    settings::Settings,
    types::{ContainerConfig, Empty, HealthConfig, HostConfig, LogConfig},
};

/// Paths Docker hides.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths Docker makes read-only.
const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Smallest accepted memory limit: 512 KiB.
const MIN_MEMORY_BYTES: i64 = 512 << 10;

/// Fills what `config` leaves open from the image.
///
/// # Errors
/// 400 when neither says what to run.
pub(crate) fn merge_image(
    config: &mut ContainerConfig,
    host: &HostConfig,
    image: &RunConfig,
) -> Result<()> {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.iter().flatten() {
        config.exposed_ports.insert(port.0.clone(), Empty {});
    }
    let mut env = image.env.clone().unwrap_or_default();
    for variable in config.env.iter().flatten() {
        let name = variable.split('=').next();
        env.retain(|inherited| inherited.split('=').next() != name);
    }
    let mut own = config.env.take().unwrap_or_default();
    own.extend(env);
    config.env = Some(own);
    for (key, value) in image.labels.iter().flatten() {
        config
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    let is_set = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if !is_set(&config.entrypoint) {
        if !is_set(&config.cmd) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` arrives as one empty string and means none.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = image.stop_signal.clone().unwrap_or_default();
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    for volume in image.volumes.iter().flatten() {
        config
            .volumes
            .get_or_insert_default()
            .insert(volume.0.clone(), Empty {});
    }
    if config.healthcheck.is_none() {
        config.healthcheck = image.healthcheck.as_ref().map(|check| HealthConfig {
            test: Some(check.test.clone()),
            ..HealthConfig::default()
        });
    }
    host_wall::fill_config(config, host);
    if !is_set(&config.entrypoint) && !is_set(&config.cmd) {
        return Err(Error::invalid("no command specified"));
    }
    Ok(())
}

/// Program and arguments out of entrypoint and command.
pub(crate) fn command(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten())
        .cloned();
    (words.next().unwrap_or_default(), words.collect())
}

/// Fills what `host` leaves open, as dockerd does, so that inspect shows it.
pub(crate) fn fill_host_config(host: &mut HostConfig, settings: &Settings, is_cgroup_v2: bool) {
    host_wall::fill_host_config(host);
    let default = |text: &mut String, value: &str| {
        if text.is_empty() {
            value.clone_into(text);
        }
    };
    if host.network_mode.is_empty() || host.network_mode == "default" {
        "bridge".clone_into(&mut host.network_mode);
    }
    default(&mut host.ipc_mode, "private");
    let cgroupns = if is_cgroup_v2 && !host.privileged {
        "private"
    } else {
        "host"
    };
    default(&mut host.cgroupns_mode, cgroupns);
    default(&mut host.runtime, "atoll");
    default(&mut host.restart_policy.name, "no");
    if host.shm_size <= 0 {
        host.shm_size = settings.shm_size_bytes;
    }
    if host.log_config.kind.is_empty() {
        host.log_config = LogConfig {
            kind: settings.log_driver.clone(),
            config: merged(&settings.log_opts, &host.log_config.config),
        };
    }
    let limits = &mut host.resources;
    if limits.memory > 0 && limits.memory_swap == 0 {
        limits.memory_swap = limits.memory.saturating_mul(2);
    }
    if limits.oom_kill_disable.is_none() && !is_cgroup_v2 {
        limits.oom_kill_disable = Some(false);
    }
    if limits.memory_swappiness == Some(-1) {
        limits.memory_swappiness = None;
    }
    if limits.pids_limit == Some(0) {
        limits.pids_limit = None;
    }
    let paths = |list: &[&str]| {
        let list = if host.privileged { &[] } else { list };
        Some(
            list.iter()
                .map(|path| (*path).to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let unconfined = host
        .security_opt
        .iter()
        .flatten()
        .any(|option| option == "systempaths=unconfined");
    if host.masked_paths.is_none() {
        host.masked_paths = if unconfined {
            Some(Vec::new())
        } else {
            paths(MASKED)
        };
    }
    if host.readonly_paths.is_none() {
        host.readonly_paths = if unconfined {
            Some(Vec::new())
        } else {
            paths(if host_wall::is_system(host) {
                host_wall::SYSTEM_READONLY
            } else {
                READONLY
            })
        };
    }
}

fn merged(
    below: &BTreeMap<String, String>,
    above: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = below.clone();
    all.extend(above.clone());
    all
}

/// Refuses what is contradictory or what this engine doesn't have; never ignores it.
///
/// # Errors
/// 400 for the former, 501 for the latter, each naming what is wrong.
pub(crate) fn check(
    config: &ContainerConfig,
    host: &HostConfig,
    host_capabilities: &[String],
) -> Result<()> {
    wall::check(host)?;
    check_limits(host)?;
    super::spec::check_options(host)?;
    capabilities::for_container(host, host_capabilities)?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() {
        crate::signal::parse(&config.stop_signal)?;
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') || variable.contains('\0') {
            return Err(Error::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
    }
    match host.runtime.as_str() {
        "" | "atoll" | "runc" | "io.containerd.runc.v2" | "io.containerd.atoll.v2" => {}
        name => {
            return Err(Error::invalid(format!(
                "unknown or invalid runtime name: {name}"
            )));
        }
    }
    match host.log_config.kind.as_str() {
        "json-file" | "none" => {}
        name => {
            return Err(Error::not_implemented(format!(
                "log driver {name} is not available; json-file and none are"
            )));
        }
    }
    match host.restart_policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" | "on-failure" => {}
        name => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    }
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    let unavailable = [
        (host.init == Some(true), "--init"),
        (!host.storage_opt.is_empty(), "--storage-opt"),
        (
            !matches!(host.userns_mode.as_str(), "" | "host"),
            "--userns",
        ),
        (
            host.resources
                .device_requests
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
            "--gpus (device requests)",
        ),
    ];
    match unavailable.iter().find(|(asked, _)| *asked) {
        Some((_, option)) => Err(Error::not_implemented(format!(
            "{option} is not available yet"
        ))),
        None => Ok(()),
    }
}

fn check_limits(host: &HostConfig) -> Result<()> {
    let limits = &host.resources;
    if limits.memory != 0 && limits.memory < MIN_MEMORY_BYTES {
        return Err(Error::invalid("Minimum memory limit allowed is 512KB"));
    }
    if limits.memory > 0 && limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        return Err(Error::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if limits.memory == 0 && limits.memory_swap > 0 {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if limits.nano_cpus > 0 && (limits.cpu_period > 0 || limits.cpu_quota > 0) {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set.",
        ));
    }
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as i64);
    if limits.nano_cpus < 0 || limits.nano_cpus > cpus * 1_000_000_000 {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|word| (*word).to_owned()).collect())
    }

    fn image() -> RunConfig {
        RunConfig {
            cmd: words(&["sh"]),
            env: words(&["PATH=/bin", "A=1"]),
            ..RunConfig::default()
        }
    }

    #[test]
    fn command_comes_from_image_or_creator() {
        let merge =
            |entrypoint: Option<Vec<String>>, cmd: Option<Vec<String>>, image: RunConfig| {
                let mut config = ContainerConfig {
                    entrypoint,
                    cmd,
                    ..ContainerConfig::default()
                };
                merge_image(&mut config, &HostConfig::default(), &image).map(|()| command(&config))
            };
        let with_entry = || RunConfig {
            entrypoint: words(&["/e", "-x"]),
            ..image()
        };
        let text = |word: &str| word.to_owned();
        assert_eq!(merge(None, None, image()).unwrap(), (text("sh"), vec![]));
        assert_eq!(
            merge(None, None, with_entry()).unwrap(),
            (text("/e"), vec![text("-x"), text("sh")])
        );
        assert_eq!(
            merge(None, words(&["a"]), with_entry()).unwrap(),
            (text("/e"), vec![text("-x"), text("a")])
        );
        assert_eq!(
            merge(words(&["/f"]), None, with_entry()).unwrap(),
            (text("/f"), vec![])
        );
        assert_eq!(
            merge(words(&[""]), words(&["a"]), with_entry()).unwrap().0,
            "a"
        );
        let error = merge(None, None, RunConfig::default())
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no command specified");
    }

    #[test]
    fn creators_variables_go_before_the_images() {
        let mut config = ContainerConfig {
            env: words(&["A=2"]),
            ..ContainerConfig::default()
        };
        merge_image(&mut config, &HostConfig::default(), &image()).unwrap();
        assert_eq!(config.env, words(&["A=2", "PATH=/bin"]));
    }

    #[test]
    fn unavailable_walls_and_options_are_named() {
        let refuse = |host: HostConfig| {
            check(&ContainerConfig::default(), &host, &[])
                .unwrap_err()
                .to_string()
        };
        let host = HostConfig {
            log_config: LogConfig {
                kind: "json-file".into(),
                ..LogConfig::default()
            },
            ..HostConfig::default()
        };
        let other = HostConfig {
            isolation: "hyperv".into(),
            ..host.clone()
        };
        assert!(refuse(other).contains("invalid isolation \"hyperv\"; `process`"));
        let init = HostConfig {
            init: Some(true),
            ..host.clone()
        };
        assert_eq!(refuse(init), "--init is not available yet");
        let mut small = host;
        small.resources.memory = 1;
        assert_eq!(refuse(small), "Minimum memory limit allowed is 512KB");
    }
}
