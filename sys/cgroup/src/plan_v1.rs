//! Settings as cgroup v1 files.
//!
//! Kernel: Documentation/admin-guide/cgroup-v1/.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::devices::{effective, restricts};
use crate::plan::{Directory, Plan, Step, Write};
use crate::{CgroupPath, DeviceRate, Error, Hierarchies, Resources};

pub(crate) fn create(
    hierarchies: &Hierarchies,
    path: &CgroupPath,
    resources: &Resources,
) -> Result<Plan, Error> {
    let mut plan = Plan {
        directories: Vec::new(),
        steps: Vec::new(),
        device_program: None,
        paths: BTreeMap::new(),
    };
    for hierarchy in hierarchies.v1().iter().chain(hierarchies.v2()) {
        let base = hierarchy.base(path);
        let folder = base.join(path.below());
        for name in &hierarchy.controllers {
            plan.paths.insert(name.clone(), folder.clone());
        }
        if hierarchy.controllers.is_empty() {
            plan.paths.insert(String::new(), folder.clone());
        }
        plan.directories.push(Directory {
            base,
            path: folder,
            inherit_cpuset: hierarchy.controllers.iter().any(|name| name == "cpuset"),
            enable: Vec::new(),
        });
    }
    refuse_missing(&plan.paths, &needed(resources)?)?;
    plan.steps = steps(&plan.paths, resources, true)?;
    Ok(plan)
}

pub(crate) fn update(
    paths: &BTreeMap<String, PathBuf>,
    resources: &Resources,
) -> Result<Plan, Error> {
    refuse_missing(paths, &needed(resources)?)?;
    Ok(Plan {
        directories: Vec::new(),
        steps: steps(paths, resources, false)?,
        device_program: None,
        paths: paths.clone(),
    })
}

/// Controllers the settings can't do without, each with the setting to name in an error.
fn needed(resources: &Resources) -> Result<BTreeMap<&'static str, &'static str>, Error> {
    if let Some(name) = resources.unified.keys().next() {
        return Err(Error::Setting {
            setting: format!("unified `{name}`"),
            reason: "is an invalid configuration: there is no cgroup v2".into(),
        });
    }
    let r = resources;
    let io_rates = [
        &r.blkio_read_bps,
        &r.blkio_write_bps,
        &r.blkio_read_iops,
        &r.blkio_write_iops,
    ];
    let cpu = r.cpu_shares.is_some_and(|shares| shares != 0)
        || r.cpu_quota_us.is_some_and(|quota| quota > 0)
        || r.cpu_burst_us.is_some()
        || r.cpu_idle.is_some()
        || r.cpu_realtime_runtime_us.is_some()
        || r.cpu_realtime_period_us.is_some();
    let table = [
        (
            "memory",
            "memory limit",
            r.memory_limit_bytes.is_some_and(|limit| limit > 0)
                || r.memory_reservation_bytes.is_some_and(|limit| limit > 0),
        ),
        ("cpu", "cpu limit", cpu),
        (
            "cpuset",
            "cpuset",
            is_set(&r.cpuset_cpus) || is_set(&r.cpuset_mems),
        ),
        (
            "pids",
            "pids limit",
            r.pids_limit.is_some_and(|limit| limit >= 0),
        ),
        (
            "blkio",
            "block I/O limit",
            r.blkio_weight.is_some_and(|weight| weight != 0)
                || !r.blkio_weight_devices.is_empty()
                || io_rates.iter().any(|rates| !rates.is_empty()),
        ),
        ("hugetlb", "huge page limit", !r.hugepage_limits.is_empty()),
        ("rdma", "RDMA limit", !r.rdma.is_empty()),
        ("net_cls", "network class", r.network_class_id.is_some()),
        (
            "net_prio",
            "network priority",
            !r.network_priorities.is_empty(),
        ),
        ("devices", "device rules", restricts(&r.devices)),
    ];
    Ok(table
        .into_iter()
        .filter(|(.., needed)| *needed)
        .map(|(controller, setting, _)| (controller, setting))
        .collect())
}

fn refuse_missing(
    paths: &BTreeMap<String, PathBuf>,
    needed: &BTreeMap<&'static str, &'static str>,
) -> Result<(), Error> {
    match needed.iter().find(|(name, _)| !paths.contains_key(**name)) {
        Some((controller, setting)) => Err(Error::NoController {
            controller: (*controller).to_owned(),
            setting: (*setting).to_owned(),
        }),
        None => Ok(()),
    }
}

fn is_set(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// All writes; on creation those that repeat a new cgroup's state are left out.
fn steps(
    paths: &BTreeMap<String, PathBuf>,
    resources: &Resources,
    is_new: bool,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    let folder = |name: &str| paths.get(name).map(PathBuf::as_path);
    if let Some(folder) = folder("cpuset") {
        cpuset(&mut steps, folder, resources);
    }
    if let Some(folder) = folder("cpu") {
        cpu(&mut steps, folder, resources, is_new);
    }
    if let Some(folder) = folder("memory") {
        memory(&mut steps, folder, resources, is_new)?;
    }
    if let Some(folder) = folder("pids") {
        match resources.pids_limit {
            // systemd takes no 0, and one process is as good as none to a cgroup that has one.
            Some(limit) if limit >= 0 => write(&mut steps, folder, "pids.max", limit.max(1)),
            Some(_) if !is_new => write(&mut steps, folder, "pids.max", "max"),
            _ => {}
        }
    }
    if let Some(folder) = folder("blkio") {
        blkio(&mut steps, folder, resources);
    }
    if let Some(folder) = folder("hugetlb") {
        for limit in &resources.hugepage_limits {
            let name = |kind| format!("hugetlb.{}.{kind}limit_in_bytes", limit.page_size);
            write(&mut steps, folder, &name(""), limit.limit_bytes);
            let reserved = Write::new(folder, &name("rsvd."), limit.limit_bytes).optional();
            steps.push(Step::Write(reserved));
        }
    }
    if let Some(folder) = folder("rdma") {
        for (device, limit) in &resources.rdma {
            if let Some(line) = limit.line(device) {
                write(&mut steps, folder, "rdma.max", line);
            }
        }
    }
    if let (Some(folder), Some(class)) = (folder("net_cls"), resources.network_class_id) {
        write(&mut steps, folder, "net_cls.classid", class);
    }
    if let Some(folder) = folder("net_prio") {
        for (interface, priority) in &resources.network_priorities {
            let value = format!("{interface} {priority}");
            write(&mut steps, folder, "net_prio.ifpriomap", value);
        }
    }
    if let Some(folder) = folder("devices") {
        devices(&mut steps, folder, resources);
    }
    Ok(steps)
}

fn write(steps: &mut Vec<Step>, folder: &Path, file: &str, value: impl ToString) {
    steps.push(Step::Write(Write::new(folder, file, value)));
}

fn cpuset(steps: &mut Vec<Step>, folder: &Path, resources: &Resources) {
    for (file, value) in [
        ("cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset.mems", &resources.cpuset_mems),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            write(steps, folder, file, value);
        }
    }
}

fn cpu(steps: &mut Vec<Step>, folder: &Path, resources: &Resources, is_new: bool) {
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        write(steps, folder, "cpu.shares", shares);
    }
    let period = resources
        .cpu_period_us
        .filter(|period| *period != 0)
        .map(|period| Write::new(folder, "cpu.cfs_period_us", period));
    let quota = resources
        .cpu_quota_us
        .filter(|quota| *quota > 0 || (*quota < 0 && !is_new))
        .map(|quota| Write::new(folder, "cpu.cfs_quota_us", quota));
    match (period, quota) {
        (Some(period), Some(quota)) => steps.push(Step::EitherOrder(period, quota)),
        (Some(one), None) | (None, Some(one)) => steps.push(Step::Write(one)),
        (None, None) => {}
    }
    if let Some(burst) = resources.cpu_burst_us {
        write(steps, folder, "cpu.cfs_burst_us", burst);
    }
    let rt_period = resources
        .cpu_realtime_period_us
        .map(|period| Write::new(folder, "cpu.rt_period_us", period));
    let rt_runtime = resources
        .cpu_realtime_runtime_us
        .map(|runtime| Write::new(folder, "cpu.rt_runtime_us", runtime));
    match (rt_period, rt_runtime) {
        (Some(period), Some(runtime)) => steps.push(Step::EitherOrder(period, runtime)),
        (Some(one), None) | (None, Some(one)) => steps.push(Step::Write(one)),
        (None, None) => {}
    }
    if let Some(idle) = resources.cpu_idle {
        write(steps, folder, "cpu.idle", idle);
    }
}

fn memory(
    steps: &mut Vec<Step>,
    folder: &Path,
    resources: &Resources,
    is_new: bool,
) -> Result<(), Error> {
    // 0 and "no limit" repeat a new cgroup's state.
    let matters = |value: Option<i64>| value.filter(|v| *v > 0 || (*v < 0 && !is_new));
    let limit = matters(resources.memory_limit_bytes);
    let swap = matters(resources.memory_and_swap());
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap >= 0
        && swap < limit
    {
        return Err(Error::Setting {
            setting: "memory and swap limit".into(),
            reason: format!("of {swap} bytes is below the memory limit of {limit} bytes"),
        });
    }
    let limit = limit.map(|limit| Write::new(folder, "memory.limit_in_bytes", limit));
    let swap = swap.map(|swap| Write::new(folder, "memory.memsw.limit_in_bytes", swap).optional());
    match (limit, swap) {
        (Some(limit), Some(swap)) => steps.push(Step::EitherOrder(limit, swap)),
        (Some(one), None) | (None, Some(one)) => steps.push(Step::Write(one)),
        (None, None) => {}
    }
    if let Some(reservation) = matters(resources.memory_reservation_bytes) {
        write(steps, folder, "memory.soft_limit_in_bytes", reservation);
    }
    if let Some(swappiness) = resources.memory_swappiness {
        if swappiness > 200 {
            return Err(Error::Setting {
                setting: "memory swappiness".into(),
                reason: format!("of {swappiness} is above 200"),
            });
        }
        write(steps, folder, "memory.swappiness", swappiness);
    }
    if resources.disable_oom_killer == Some(true) {
        write(steps, folder, "memory.oom_control", 1);
    }
    Ok(())
}

fn blkio(steps: &mut Vec<Step>, folder: &Path, resources: &Resources) {
    if let Some(weight) = resources.blkio_weight.filter(|weight| *weight != 0) {
        steps.push(Step::FirstExisting(vec![
            Write::new(folder, "blkio.bfq.weight", weight),
            Write::new(folder, "blkio.weight", weight),
        ]));
    }
    for device in &resources.blkio_weight_devices {
        let value = format!("{}:{} {}", device.major, device.minor, device.weight);
        steps.push(Step::FirstExisting(vec![
            Write::new(folder, "blkio.bfq.weight_device", &value),
            Write::new(folder, "blkio.weight_device", &value),
        ]));
    }
    let mut rates = |file: &str, rates: &[DeviceRate]| {
        for rate in rates {
            let value = format!("{}:{} {}", rate.major, rate.minor, rate.rate);
            write(steps, folder, file, value);
        }
    };
    rates("blkio.throttle.read_bps_device", &resources.blkio_read_bps);
    rates(
        "blkio.throttle.write_bps_device",
        &resources.blkio_write_bps,
    );
    rates(
        "blkio.throttle.read_iops_device",
        &resources.blkio_read_iops,
    );
    rates(
        "blkio.throttle.write_iops_device",
        &resources.blkio_write_iops,
    );
}

/// Rules in order, neighbours for the same file in one open.
fn devices(steps: &mut Vec<Step>, folder: &Path, resources: &Resources) {
    if resources.devices.is_empty() {
        return;
    }
    let (default_allow, rest) = effective(&resources.devices);
    let mut groups: Vec<(bool, Vec<String>)> = Vec::new();
    if !default_allow {
        groups.push((false, vec!["a".into()]));
    } else if rest.len() < resources.devices.len() {
        groups.push((true, vec!["a".into()]));
    }
    for rule in rest {
        match groups.last_mut() {
            Some((allow, values)) if *allow == rule.allow => values.push(rule.to_string()),
            _ => groups.push((rule.allow, vec![rule.to_string()])),
        }
    }
    for (allow, values) in groups {
        let file = if allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        steps.push(Step::Write(Write {
            file: folder.join(file),
            values,
            optional: false,
        }));
    }
}
