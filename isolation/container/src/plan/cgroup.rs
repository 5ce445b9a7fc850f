//! Which control group a container gets.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;

use atoll_cgroup::systemd::{self, Property, ScopePlan, Value};
use atoll_cgroup::{
    CgroupPath, DeviceAccess, DeviceKind, DeviceRate, DeviceRule, DeviceWeight, Hierarchies,
    HugepageLimit, Layout, RdmaLimit,
};
use atoll_spec::{BlockIo, Linux, Resources, ThrottleDevice};

use super::{c_string, fault};
use crate::CreateRequest;
use crate::error::Result;

/// Names below a mount of type `cgroup`, and folders or link targets.
type Names = Vec<(CString, CString)>;

/// Annotations that set properties of the unit, by name. Source: opencontainers/runc, docs/systemd.md.
const PROPERTY: &str = "org.systemd.property.";

/// The container's control group, and the unit that systemd makes it by.
///
/// * `annotations`: of the configuration; some of them are properties of the unit.
pub(crate) fn plan(
    linux: &Linux,
    request: &CreateRequest,
    hierarchies: &Hierarchies,
    systemd: Option<&systemd::Facts>,
    annotations: &BTreeMap<String, String>,
) -> Result<(atoll_cgroup::Plan, Option<ScopePlan>)> {
    let text = linux
        .cgroups_path
        .as_deref()
        .filter(|path| !path.is_empty());
    let resources = match &linux.resources {
        Some(list) => resources(list, true)?,
        None => atoll_cgroup::Resources::default(),
    };
    let id = request.id.as_str();
    let Some(facts) = systemd else {
        let path: CgroupPath = text.unwrap_or(id).parse()?;
        return Ok((atoll_cgroup::plan(hierarchies, &path, &resources)?, None));
    };
    if !facts.is_system && hierarchies.layout() != Layout::V2 {
        return Err(atoll_cgroup::Error::NotUnified.into());
    }
    let unit = Unit::of(text.unwrap_or(&format!(":atoll:{id}")), facts.is_system)?;
    let path: CgroupPath = format!("{}{}", facts.root, unit.path).parse()?;
    let layout = hierarchies.layout();
    let mut properties = systemd::properties(&resources, layout, facts.version, true)?;
    for (key, text) in annotations {
        if let Some(name) = key.strip_prefix(PROPERTY) {
            properties.push(property(key, name, text)?);
        }
    }
    let scope = ScopePlan {
        unit: unit.name,
        slice: unit.slice,
        description: format!("atoll container {id}"),
        properties,
        is_system: facts.is_system,
    };
    let mut plan = atoll_cgroup::plan(hierarchies, &path, &resources)?;
    if !facts.is_system {
        // Controllers are the manager's to hand down: of the groups above its own, a user may change none.
        for directory in &mut plan.directories {
            directory.enable.clear();
        }
    }
    Ok((plan, Some(scope)))
}

/// A property as an annotation has it, in GVariant's text: `true`, `'words'`, `uint64 5`. Times may be in seconds.
fn property(field: &str, name: &str, text: &str) -> Result<Property> {
    let text = text.trim();
    let quoted = |mark: char| text.strip_prefix(mark)?.strip_suffix(mark);
    let number = || text.strip_prefix("uint64")?.trim().parse::<u64>().ok();
    let value = match (text, quoted('\'').or_else(|| quoted('"')), number()) {
        ("true" | "false", ..) => Value::Bool(text == "true"),
        (_, Some(words), _) if !words.contains(['\\', '\'', '"']) => Value::Text(words.to_owned()),
        (.., Some(number)) => Value::Number(number),
        _ => {
            return fault(
                field,
                format!("{text:?} is none of true, false, 'words' and uint64 NUMBER"),
            );
        }
    };
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return fault(field, "is no property of a unit");
    }
    // `TimeoutStopSec` is `TimeoutStopUSec` on the bus.
    match (name.strip_suffix("Sec"), value) {
        (Some(stem), Value::Number(seconds)) if !stem.ends_with('U') => {
            let micros = seconds.saturating_mul(1_000_000);
            Ok((format!("{stem}USec"), Value::Number(micros)))
        }
        (_, value) => Ok((name.to_owned(), value)),
    }
}

/// What `slice:prefix:name` means.
#[derive(Debug)]
struct Unit {
    name: String,
    slice: String,
    /// Below systemd's own cgroup, with a slash in front.
    path: String,
}

impl Unit {
    fn of(text: &str, is_system: bool) -> Result<Self> {
        let field = "linux.cgroupsPath";
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return fault(
                field,
                format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                ),
            );
        };
        let slice = match (slice, is_system) {
            ("", true) => "system.slice",
            ("", false) => "user.slice",
            (slice, _) => slice,
        };
        let stem = slice.strip_suffix(".slice").unwrap_or_default();
        let is_plain = stem == "-" || stem.split('-').all(|part| !part.is_empty());
        if stem.contains('/') || !is_plain {
            return fault(field, format!("invalid slice name: {slice}"));
        }
        if name.is_empty() || name.contains('/') || prefix.contains('/') || name.ends_with(".slice")
        {
            return fault(field, format!("{prefix}-{name}.scope is no name of a unit"));
        }
        let mut path = String::new();
        let mut prefix_so_far = String::new();
        // a-b.slice lies in a.slice; -.slice is the root.
        for part in stem.split('-').filter(|part| !part.is_empty()) {
            prefix_so_far.push_str(part);
            path.push_str(&format!("/{prefix_so_far}.slice"));
            prefix_so_far.push('-');
        }
        let name = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        Ok(Self {
            path: format!("{path}/{name}"),
            slice: slice.to_owned(),
            name,
        })
    }
}

/// What a mount of type `cgroup` shows: names and folders, and links for controllers that share a
/// hierarchy.
///
/// * `paths`: folder by controller.
pub(super) fn views(
    paths: &BTreeMap<String, PathBuf>,
    hierarchies: &Hierarchies,
) -> (Names, Names) {
    let c = |text: &std::ffi::OsStr| c_string("cgroup", text).unwrap_or_default();
    if hierarchies.layout() == Layout::V2 {
        let folder = paths.get("").map(|path| c(path.as_os_str()));
        return (
            folder
                .map(|folder| (CString::default(), folder))
                .into_iter()
                .collect(),
            Vec::new(),
        );
    }
    let (mut folders, mut links) = (Vec::new(), Vec::new());
    for hierarchy in hierarchies.v1() {
        let first = hierarchy
            .controllers
            .iter()
            .find_map(|name| paths.get(name));
        let (Some(folder), Some(name)) = (first, hierarchy.mount.file_name()) else {
            continue;
        };
        folders.push((c(name), c(folder.as_os_str())));
        if hierarchy.controllers.len() > 1 {
            let names = hierarchy.controllers.iter();
            links.extend(names.map(|controller| (c(controller.as_ref()), c(name))));
        }
    }
    (folders, links)
}

/// The same of the groups the caller is in.
pub(super) fn own_views(hierarchies: &Hierarchies) -> (Names, Names) {
    let mut paths = BTreeMap::new();
    for hierarchy in hierarchies.v1() {
        for controller in &hierarchy.controllers {
            paths.insert(controller.clone(), hierarchy.own_folder());
        }
    }
    if let Some(unified) = hierarchies.v2() {
        paths.insert(String::new(), unified.own_folder());
    }
    views(&paths, hierarchies)
}

/// The same for a container that divides its groups further: cgroup2, which may be without controllers, and by itself, as
/// those who only know v1 are not told of what they cannot write.
///
/// # Errors
/// [`crate::Error::Plan`] when there is nothing to divide.
pub(super) fn delegated_views(
    plan: &atoll_cgroup::Plan,
    hierarchies: &Hierarchies,
) -> Result<(Names, Names)> {
    match plan.paths.get("") {
        Some(folder) => {
            let folder = c_string("cgroup", folder.as_os_str())?;
            Ok((vec![(CString::default(), folder)], Vec::new()))
        }
        None if plan.paths.contains_key("name=systemd") => Ok(views(&plan.paths, hierarchies)),
        None => fault(
            "annotations",
            "the wall system needs cgroup2 or the hierarchy name=systemd, and this host has neither mounted",
        ),
    }
}

/// The configuration's limits as atoll-cgroup has them.
///
/// * `is_new`: with device rules and the devices every container may use. An update leaves them as they are, as runc's
///   does: containerd's CRI plugin sends back all that the configuration said, which begins with "none".
pub(crate) fn resources(list: &Resources, is_new: bool) -> Result<atoll_cgroup::Resources> {
    let mut out = atoll_cgroup::Resources {
        unified: list.unified.clone(),
        ..atoll_cgroup::Resources::default()
    };
    if let Some(memory) = &list.memory {
        out.memory_limit_bytes = memory.limit;
        out.memory_swap_bytes = memory.swap;
        out.memory_reservation_bytes = memory.reservation;
        out.memory_swappiness = memory.swappiness;
        out.disable_oom_killer = memory.disable_oom_killer;
    }
    if let Some(cpu) = &list.cpu {
        // 0 is how Go programs say "not set".
        out.cpu_shares = cpu.shares.filter(|shares| *shares != 0);
        out.cpu_quota_us = cpu.quota.filter(|quota| *quota != 0);
        out.cpu_period_us = cpu.period.filter(|period| *period != 0);
        out.cpu_burst_us = cpu.burst;
        out.cpu_idle = cpu.idle;
        out.cpu_realtime_runtime_us = cpu.realtime_runtime.filter(|runtime| *runtime != 0);
        out.cpu_realtime_period_us = cpu.realtime_period.filter(|period| *period != 0);
        out.cpuset_cpus = cpu.cpus.clone().filter(|cpus| !cpus.is_empty());
        out.cpuset_mems = cpu.mems.clone().filter(|mems| !mems.is_empty());
    }
    out.pids_limit = list.pids.as_ref().and_then(|pids| pids.limit);
    if let Some(io) = &list.block_io {
        block_io(io, &mut out)?;
    }
    out.hugepage_limits = list
        .hugepage_limits
        .iter()
        .map(|limit| HugepageLimit {
            page_size: limit.page_size.clone(),
            limit_bytes: limit.limit,
        })
        .collect();
    out.rdma = list
        .rdma
        .iter()
        .map(|(device, limit)| {
            let limit = RdmaLimit {
                handles: limit.hca_handles,
                objects: limit.hca_objects,
            };
            (device.clone(), limit)
        })
        .collect();
    if let Some(network) = &list.network {
        out.network_class_id = network.class_id;
        let priorities = network.priorities.iter();
        let rows = priorities.map(|row| (row.name.clone(), row.priority));
        out.network_priorities = rows.collect::<BTreeMap<_, _>>();
    }
    if is_new && !list.devices.is_empty() {
        for (idx, rule) in list.devices.iter().enumerate() {
            out.devices.push(device_rule(idx, rule)?);
        }
        out.devices.extend(DeviceRule::defaults());
    }
    Ok(out)
}

fn block_io(io: &BlockIo, out: &mut atoll_cgroup::Resources) -> Result<()> {
    out.blkio_weight = io.weight.filter(|weight| *weight != 0);
    for device in &io.weight_device {
        if let Some(weight) = device.weight {
            out.blkio_weight_devices.push(DeviceWeight {
                major: number(device.major)?,
                minor: number(device.minor)?,
                weight,
            });
        }
    }
    out.blkio_read_bps = rates(&io.throttle_read_bps_device)?;
    out.blkio_write_bps = rates(&io.throttle_write_bps_device)?;
    out.blkio_read_iops = rates(&io.throttle_read_iops_device)?;
    out.blkio_write_iops = rates(&io.throttle_write_iops_device)?;
    Ok(())
}

fn rates(list: &[ThrottleDevice]) -> Result<Vec<DeviceRate>> {
    let mut rates = Vec::with_capacity(list.len());
    for device in list {
        rates.push(DeviceRate {
            major: number(device.major)?,
            minor: number(device.minor)?,
            rate: device.rate,
        });
    }
    Ok(rates)
}

fn number(value: i64) -> Result<u32> {
    u32::try_from(value)
        .or_else(|_| fault("linux.resources", format!("{value} is no device number")))
}

fn device_rule(idx: usize, rule: &atoll_spec::DeviceRule) -> Result<DeviceRule> {
    let field = format!("linux.resources.devices[{idx}]");
    let kind = match rule.kind.as_deref() {
        None | Some("" | "a") => DeviceKind::All,
        Some("c" | "u") => DeviceKind::Character,
        Some("b") => DeviceKind::Block,
        Some(other) => return fault(&field, format!("{other:?} is not a, b or c")),
    };
    let letters = rule
        .access
        .as_deref()
        .filter(|letters| !letters.is_empty())
        .unwrap_or("rwm");
    // runc skips an `a` among them, which is a word for types.
    let without = letters.replace('a', "");
    let letters = if without.is_empty() { "rwm" } else { &without };
    let Some(access) = DeviceAccess::parse(letters) else {
        return fault(
            &field,
            format!("access {letters:?} has letters other than r, w, m"),
        );
    };
    let any_below_zero = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => number(value).map(Some),
    };
    Ok(DeviceRule {
        allow: rule.allow,
        kind,
        major: any_below_zero(rule.major)?,
        minor: any_below_zero(rule.minor)?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_leaves_devices_as_they_are() {
        let list: Resources = serde_json::from_str(
            r#"{"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 9}}"#,
        )
        .unwrap();
        let first = resources(&list, true).unwrap();
        assert_eq!(first.devices.len(), 1 + DeviceRule::defaults().len());
        let update = resources(&list, false).unwrap();
        assert_eq!((update.devices.len(), update.pids_limit), (0, Some(9)));
    }

    #[test]
    fn a_users_manager_is_left_to_divide_what_is_his() {
        let plan = |is_system, mountinfo, cgroup| {
            let linux = Linux {
                cgroups_path: Some(":at:one".to_owned()),
                ..Linux::default()
            };
            let request = CreateRequest::new("one".parse().unwrap(), "/run/x".into(), "/b".into());
            let hierarchies = Hierarchies::from_parts(mountinfo, cgroup).unwrap();
            let facts = systemd::Facts {
                version: 252,
                root: "/user.slice/user@7.service".to_owned(),
                is_system,
            };
            super::plan(
                &linux,
                &request,
                &hierarchies,
                Some(&facts),
                &BTreeMap::new(),
            )
        };
        let v2 = (
            "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "0::/",
        );
        let (cgroup, scope) = plan(false, v2.0, v2.1).unwrap();
        let place = "/sys/fs/cgroup/user.slice/user@7.service/user.slice/at-one.scope";
        assert_eq!(cgroup.to_string(), format!("mkdir {place}\n"));
        let scope = scope.unwrap();
        assert_eq!(
            (scope.slice.as_str(), scope.is_system),
            ("user.slice", false)
        );
        assert!(
            plan(true, v2.0, v2.1)
                .unwrap()
                .0
                .to_string()
                .contains("enable +cpu")
        );

        let v1 = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let error = plan(false, v1, "4:memory:/\n").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the user's systemd makes cgroups on cgroup v2 only")
        );
        assert!(
            error
                .hint()
                .unwrap()
                .starts_with("leave --systemd-cgroup out")
        );
        assert!(plan(true, v1, "4:memory:/\n").is_ok());
    }

    #[test]
    fn annotations_are_properties() {
        let of = |name: &str, text: &str| {
            property("annotation", name, text).map(|(name, value)| format!("{name}={value}"))
        };
        let shown = |name: &str, text: &str| of(name, text).unwrap();
        assert_eq!(shown("TimeoutStopUSec", "uint64 5"), "TimeoutStopUSec=5");
        assert_eq!(
            shown("TimeoutStopSec", "uint64 5"),
            "TimeoutStopUSec=5000000"
        );
        assert_eq!(
            shown("CollectMode", "'inactive-or-failed'"),
            "CollectMode=inactive-or-failed"
        );
        assert_eq!(
            shown("DefaultDependencies", "true"),
            "DefaultDependencies=true"
        );
        for (name, text) in [
            ("A", "5"),
            ("A", ""),
            ("A", "'"),
            ("A", "uint64 -1"),
            ("A", "['x']"),
            ("A b", "true"),
            ("", "true"),
        ] {
            assert!(of(name, text).is_err(), "{name} {text}");
        }
    }

    #[test]
    fn units_lie_in_their_slices() {
        let path = |text: &str| Unit::of(text, true).unwrap().path;
        assert_eq!(
            path("a-b.slice:docker:x"),
            "/a.slice/a-b.slice/docker-x.scope"
        );
        assert_eq!(path(":runc:x"), "/system.slice/runc-x.scope");
        assert_eq!(path("-.slice:r:x"), "/r-x.scope");
        assert_eq!(Unit::of("::x", false).unwrap().path, "/user.slice/x.scope");
        for bad in [
            "/docker/x",
            "a:b",
            "a.service:p:x",
            "a--b.slice:p:x",
            "-a.slice:p:x",
            "a/b.slice:p:x",
            "a.slice:p:",
            "a.slice:p:../x",
            ".slice:p:x",
        ] {
            let said = Unit::of(bad, true).unwrap_err().to_string();
            assert!(said.starts_with("linux.cgroupsPath: "), "{bad}: {said}");
        }
    }
}
