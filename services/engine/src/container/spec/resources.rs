//! Limits.

use serde_json::{Map, Value, json};

use super::devices::{self, HostDevice};
use crate::{error::Result, types::HostConfig};

/// Scheduling period that `--cpus` is measured in, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// The OCI `linux.resources`.
///
/// # Errors
/// 400 when a device rule isn't one.
pub(crate) fn resources(
    config: &HostConfig,
    devices: &[HostDevice],
    is_cgroup_v2: bool,
) -> Result<Value> {
    let limits = &config.resources;
    let mut memory = Map::new();
    put(&mut memory, "limit", limits.memory);
    put(&mut memory, "swap", limits.memory_swap);
    put(&mut memory, "reservation", limits.memory_reservation);
    if let Some(swappiness) = limits.memory_swappiness
        && swappiness >= 0
        && !is_cgroup_v2
    {
        memory.insert("swappiness".to_owned(), swappiness.into());
    }
    if limits.oom_kill_disable == Some(true) && !is_cgroup_v2 {
        memory.insert("disableOOMKiller".to_owned(), true.into());
    }
    let mut cpu = Map::new();
    put(&mut cpu, "shares", limits.cpu_shares);
    if limits.nano_cpus > 0 {
        put(&mut cpu, "period", CPU_PERIOD_US);
        put(
            &mut cpu,
            "quota",
            limits.nano_cpus / (1_000_000_000 / CPU_PERIOD_US),
        );
    } else {
        put(&mut cpu, "period", limits.cpu_period);
        put(&mut cpu, "quota", limits.cpu_quota);
    }
    put(&mut cpu, "realtimePeriod", limits.cpu_realtime_period);
    put(&mut cpu, "realtimeRuntime", limits.cpu_realtime_runtime);
    for (key, value) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(key.to_owned(), value.as_str().into());
        }
    }
    let mut resources = json!({ "devices": devices::rules(config, devices)? });
    if !memory.is_empty() {
        resources["memory"] = memory.into();
    }
    if !cpu.is_empty() {
        resources["cpu"] = cpu.into();
    }
    match limits.pids_limit {
        Some(limit) if limit > 0 => resources["pids"] = json!({ "limit": limit }),
        Some(limit) if limit < 0 => resources["pids"] = json!({ "limit": -1 }),
        _ => {}
    }
    if limits.blkio_weight > 0 {
        resources["blockIO"] = json!({ "weight": limits.blkio_weight });
    }
    Ok(resources)
}

fn put(map: &mut Map<String, Value>, key: &str, number: i64) {
    if number != 0 {
        map.insert(key.to_owned(), number.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_become_a_quota() {
        let mut config = HostConfig::default();
        config.resources.nano_cpus = 1_500_000_000;
        config.resources.memory = 1 << 20;
        config.resources.pids_limit = Some(7);
        let resources = resources(&config, &[], false).unwrap();
        assert_eq!(
            resources["cpu"],
            json!({ "period": 100_000, "quota": 150_000 })
        );
        assert_eq!(resources["memory"], json!({ "limit": 1_048_576 }));
        assert_eq!(resources["pids"]["limit"], 7);
    }

    #[test]
    fn nothing_asked_nothing_limited() {
        let resources = resources(&HostConfig::default(), &[], false).unwrap();
        let keys: Vec<_> = resources.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["devices"]);
    }
}
