//! Settings as cgroup v2 files.
//!
//! Kernel: Documentation/admin-guide/cgroup-v2.rst. Conversions: OCI runtime-spec
//! config-linux.md#control-groups names v1 values; each function cites its formula.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::devices::restricts;
use crate::plan::{Directory, Plan, Step, Write};
use crate::{CgroupPath, Error, Hierarchies, Resources};

/// Controllers every container gets, for later limits and statistics.
const ALWAYS: [&str; 4] = ["cpu", "io", "memory", "pids"];

pub(crate) fn create(
    hierarchies: &Hierarchies,
    path: &CgroupPath,
    resources: &Resources,
) -> Result<Plan, Error> {
    let unified = hierarchies.v2().ok_or(Error::NotMounted)?;
    let mut base = unified.base(path);
    // A cgroup with processes can't hand controllers to its children, and our own cgroup has one.
    if !path.is_absolute() && !unified.own.as_os_str().is_empty() {
        base.pop();
    }
    let folder = base.join(path.below());
    let mut enable: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    if resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some() {
        enable.push("cpuset".into());
    }
    if !resources.hugepage_limits.is_empty() {
        enable.push("hugetlb".into());
    }
    if !resources.rdma.is_empty() {
        enable.push("rdma".into());
    }
    for name in resources.unified.keys() {
        let controller = name.split('.').next().unwrap_or(name);
        if controller != "cgroup" && !enable.iter().any(|known| known == controller) {
            enable.push(controller.to_owned());
        }
    }
    Ok(Plan {
        steps: steps(&folder, resources, true)?,
        device_program: restricts(&resources.devices).then(|| resources.devices.clone()),
        paths: BTreeMap::from([(String::new(), folder.clone())]),
        directories: vec![Directory {
            base,
            path: folder,
            inherit_cpuset: false,
            enable,
        }],
    })
}

pub(crate) fn update(
    paths: &BTreeMap<String, PathBuf>,
    resources: &Resources,
) -> Result<Plan, Error> {
    let folder = paths.get("").ok_or(Error::NotMounted)?;
    Ok(Plan {
        directories: Vec::new(),
        steps: steps(folder, resources, false)?,
        device_program: restricts(&resources.devices).then(|| resources.devices.clone()),
        paths: paths.clone(),
    })
}

fn steps(folder: &Path, resources: &Resources, is_new: bool) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let r = resources;
    let set = |value: Option<i64>| value.filter(|v| *v > 0 || (*v < 0 && !is_new));
    if r.cpu_realtime_runtime_us.is_some_and(|us| us != 0) {
        return Err(Error::Setting {
            setting: "real-time CPU limit".into(),
            reason: "does not exist on cgroup v2".into(),
        });
    }
    for (file, value) in [
        ("cpuset.cpus", &r.cpuset_cpus),
        ("cpuset.mems", &r.cpuset_mems),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            write(&mut steps, folder, file, value);
        }
    }
    if let Some(shares) = r.cpu_shares.filter(|shares| *shares != 0) {
        write(&mut steps, folder, "cpu.weight", weight_of_shares(shares));
    }
    cpu_max(&mut steps, folder, resources, is_new);
    if let Some(idle) = r.cpu_idle {
        write(&mut steps, folder, "cpu.idle", idle);
    }
    // Raising both, memory.max may not pass swap's old value and the other way round never happens
    // on v2: they are separate counters, so the order is free.
    if let Some(limit) = set(r.memory_limit_bytes) {
        write(&mut steps, folder, "memory.max", or_max(limit));
    }
    if let Some(swap) = set(r.memory_and_swap()) {
        let value = swap_alone(swap, r.memory_limit_bytes)?;
        let swap = Write::new(folder, "memory.swap.max", or_max(value)).optional();
        steps.push(Step::Write(swap));
    }
    if let Some(reservation) = set(r.memory_reservation_bytes) {
        write(&mut steps, folder, "memory.low", or_max(reservation));
    }
    match r.pids_limit {
        Some(limit) if limit >= 0 => write(&mut steps, folder, "pids.max", limit.max(1)),
        Some(_) if !is_new => write(&mut steps, folder, "pids.max", "max"),
        _ => {}
    }
    io(&mut steps, folder, resources);
    for limit in &r.hugepage_limits {
        let name = |kind| format!("hugetlb.{}.{kind}max", limit.page_size);
        write(&mut steps, folder, &name(""), limit.limit_bytes);
        let reserved = Write::new(folder, &name("rsvd."), limit.limit_bytes).optional();
        steps.push(Step::Write(reserved));
    }
    for (device, limit) in &r.rdma {
        if let Some(line) = limit.line(device) {
            write(&mut steps, folder, "rdma.max", line);
        }
    }
    for (file, value) in &r.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::Setting {
                setting: format!("unified `{file}`"),
                reason: "is not the name of a control file".into(),
            });
        }
        for line in value.lines() {
            write(&mut steps, folder, file, line);
        }
    }
    Ok(steps)
}

fn write(steps: &mut Vec<Step>, folder: &Path, file: &str, value: impl ToString) {
    steps.push(Step::Write(Write::new(folder, file, value)));
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

fn cpu_max(steps: &mut Vec<Step>, folder: &Path, resources: &Resources, is_new: bool) {
    let quota = resources
        .cpu_quota_us
        .filter(|quota| *quota > 0 || (*quota < 0 && !is_new));
    let period = resources.cpu_period_us.filter(|period| *period != 0);
    let burst = resources.cpu_burst_us;
    let max = match (quota, period) {
        (None, None) => None,
        (quota, None) => Some(or_max(quota.unwrap_or(-1))),
        (quota, Some(period)) => Some(format!("{} {period}", or_max(quota.unwrap_or(-1)))),
    }
    .map(|value| Write::new(folder, "cpu.max", value));
    let burst = burst.map(|burst| Write::new(folder, "cpu.max.burst", burst));
    match (max, burst) {
        (Some(max), Some(burst)) => steps.push(Step::EitherOrder(max, burst)),
        (Some(one), None) | (None, Some(one)) => steps.push(Step::Write(one)),
        (None, None) => {}
    }
}

/// `cpu.shares` (2..=262144, default 1024) to `cpu.weight` (1..=10000, default 100).
///
/// 10^((l² + 125·l)/612 − 7/34), l = log2(shares): maps minimum, default and maximum onto each
/// other. Source: opencontainers/cgroups since 0.0.3, crun since 1.23 (the older linear formula
/// turned the default into 39).
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let exponent = u32::try_from(shares).map_or(18.0, |shares| f64::from(shares).log2());
    let power = (exponent * exponent + 125.0 * exponent) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 for the range checked above"
    )]
    let weight = 10f64.powf(power).ceil() as u64;
    weight
}

/// OCI counts memory and swap together, v2 swap alone.
pub(crate) fn swap_alone(swap: i64, limit: Option<i64>) -> Result<i64, Error> {
    if swap < 0 {
        return Ok(-1);
    }
    match limit {
        Some(limit) if limit > 0 && swap >= limit => Ok(swap - limit),
        Some(limit) if limit > 0 => Err(Error::Setting {
            setting: "memory and swap limit".into(),
            reason: format!("of {swap} bytes is below the memory limit of {limit} bytes"),
        }),
        _ => Err(Error::Setting {
            setting: "memory and swap limit".into(),
            reason: "needs a memory limit beside it".into(),
        }),
    }
}

/// Weight 10..=1000 to io.weight 1..=10000; bfq takes the value as it is.
pub(crate) fn io_weight(weight: u16) -> u32 {
    1 + u32::from(weight).saturating_sub(10) * 9999 / 990
}

fn io(steps: &mut Vec<Step>, folder: &Path, resources: &Resources) {
    if let Some(weight) = resources.blkio_weight.filter(|weight| *weight != 0) {
        steps.push(Step::FirstExisting(vec![
            Write::new(folder, "io.bfq.weight", weight),
            Write::new(folder, "io.weight", io_weight(weight)),
        ]));
    }
    for device in &resources.blkio_weight_devices {
        let id = format!("{}:{}", device.major, device.minor);
        let weight = device.weight;
        steps.push(Step::FirstExisting(vec![
            Write::new(folder, "io.bfq.weight", format!("{id} {weight}")),
            Write::new(folder, "io.weight", format!("{id} {}", io_weight(weight))),
        ]));
    }
    for (key, rates) in [
        ("rbps", &resources.blkio_read_bps),
        ("wbps", &resources.blkio_write_bps),
        ("riops", &resources.blkio_read_iops),
        ("wiops", &resources.blkio_write_iops),
    ] {
        for rate in rates {
            let value = match rate.rate {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let line = format!("{}:{} {key}={value}", rate.major, rate.minor);
            write(steps, folder, "io.max", line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_onto_weights() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (512, 59)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn swap_is_counted_alone() {
        assert_eq!(swap_alone(300, Some(100)).unwrap(), 200);
        assert_eq!(swap_alone(100, Some(100)).unwrap(), 0);
        assert_eq!(swap_alone(-1, Some(100)).unwrap(), -1);
        assert!(swap_alone(50, Some(100)).is_err());
        assert!(swap_alone(50, None).is_err());
    }
}
