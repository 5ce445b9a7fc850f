//! Limits as properties of a unit: systemd writes its own view of a unit's control files whenever it reloads, so it has to
//! know what we write there.
//!
//! Source: systemd.resource-control(5); opencontainers/cgroups for which of them a runtime sets.

use std::fmt;

use crate::devices::{effective, restricts};
use crate::{DeviceKind, DeviceRule, Error, Layout, Resources, plan_v2};

/// A property's name and value.
pub type Property = (String, Value);

/// Value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`.
    Bool(bool),
    /// `s`.
    Text(String),
    /// `t`.
    Number(u64),
    /// `ay`.
    Bytes(Vec<u8>),
    /// `au`.
    Numbers(Vec<u32>),
    /// `a(ss)`.
    Pairs(Vec<(String, String)>),
    /// `a(st)`.
    Rates(Vec<(String, u64)>),
}

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;

/// The limits that a systemd of `version` knows.
///
/// * `is_new`: of a new unit; an update leaves devices as they are.
///
/// # Errors
/// [`Error::Setting`] for values that contradict each other.
pub(super) fn of(
    resources: &Resources,
    layout: Layout,
    version: u32,
    is_new: bool,
) -> Result<Vec<Property>, Error> {
    let mut list = Vec::new();
    match layout {
        Layout::V2 => v2(resources, version, &mut list)?,
        Layout::V1 | Layout::Hybrid => v1(resources, &mut list),
    }
    both(resources, version, &mut list)?;
    if is_new && layout != Layout::V2 {
        devices(&resources.devices, &mut list);
    }
    Ok(list)
}

fn put(list: &mut Vec<Property>, name: &str, value: Value) {
    list.push((name.to_owned(), value));
}

fn limit(list: &mut Vec<Property>, name: &str, value: Option<i64>) {
    match value {
        Some(value) if value < 0 => put(list, name, Value::Number(INFINITY)),
        Some(value) if value > 0 => put(list, name, Value::Number(value.unsigned_abs())),
        _ => {}
    }
}

fn v2(resources: &Resources, version: u32, list: &mut Vec<Property>) -> Result<(), Error> {
    limit(list, "MemoryMax", resources.memory_limit_bytes);
    limit(list, "MemoryLow", resources.memory_reservation_bytes);
    if let Some(swap) = resources.memory_and_swap() {
        let alone = plan_v2::swap_alone(swap, resources.memory_limit_bytes)?;
        let value = u64::try_from(alone).unwrap_or(INFINITY);
        put(list, "MemorySwapMax", Value::Number(value));
    }
    let is_idle = resources.cpu_idle == Some(1);
    if is_idle && version >= 252 {
        put(list, "CPUWeight", Value::Number(0));
    } else if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        let weight = plan_v2::weight_of_shares(shares);
        put(list, "CPUWeight", Value::Number(weight));
    }
    if let Some(weight) = resources.blkio_weight.filter(|weight| *weight != 0) {
        put(
            list,
            "IOWeight",
            Value::Number(plan_v2::io_weight(weight).into()),
        );
    }
    for (name, rates) in [
        ("IOReadBandwidthMax", &resources.blkio_read_bps),
        ("IOWriteBandwidthMax", &resources.blkio_write_bps),
        ("IOReadIOPSMax", &resources.blkio_read_iops),
        ("IOWriteIOPSMax", &resources.blkio_write_iops),
    ] {
        let each = rates.iter().map(|rate| {
            let path = format!("/dev/block/{}:{}", rate.major, rate.minor);
            (path, if rate.rate == 0 { INFINITY } else { rate.rate })
        });
        let each: Vec<_> = each.collect();
        if !each.is_empty() {
            put(list, name, Value::Rates(each));
        }
    }
    for (file, text) in &resources.unified {
        let name = match file.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            // Others systemd leaves alone.
            _ => continue,
        };
        let number = match text.trim() {
            "max" => Some(INFINITY),
            text => text.parse().ok(),
        };
        if let Some(number) = number {
            list.retain(|(known, _)| known != name);
            put(list, name, Value::Number(number));
        }
    }
    Ok(())
}

fn v1(resources: &Resources, list: &mut Vec<Property>) {
    limit(list, "MemoryLimit", resources.memory_limit_bytes);
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        put(list, "CPUShares", Value::Number(shares));
    }
    if let Some(weight) = resources.blkio_weight.filter(|weight| *weight != 0) {
        put(list, "BlockIOWeight", Value::Number(weight.into()));
    }
}

fn both(resources: &Resources, version: u32, list: &mut Vec<Property>) -> Result<(), Error> {
    let period = resources.cpu_period_us.filter(|period| *period != 0);
    if let Some(period) = period
        && version >= 242
    {
        put(list, "CPUQuotaPeriodUSec", Value::Number(period));
    }
    match resources.cpu_quota_us {
        Some(quota) if quota < 0 => put(list, "CPUQuotaPerSecUSec", Value::Number(INFINITY)),
        Some(quota) if quota > 0 => {
            let quota = quota.unsigned_abs();
            let a_second = quota.saturating_mul(1_000_000) / period.unwrap_or(100_000);
            // systemd rounds to whole percents: up, as the quota itself is written by us.
            let a_second = a_second.next_multiple_of(10_000);
            put(list, "CPUQuotaPerSecUSec", Value::Number(a_second));
        }
        _ => {}
    }
    match resources.pids_limit {
        Some(pids) if pids < 0 => put(list, "TasksMax", Value::Number(INFINITY)),
        Some(pids) => put(list, "TasksMax", Value::Number(pids.max(1).unsigned_abs())),
        None => {}
    }
    for (name, text) in [
        ("AllowedCPUs", &resources.cpuset_cpus),
        ("AllowedMemoryNodes", &resources.cpuset_mems),
    ] {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty())
            && version >= 244
        {
            put(list, name, Value::Bytes(mask(text)?));
        }
    }
    Ok(())
}

/// `0-2,8` as bits, the lowest byte first.
fn mask(text: &str) -> Result<Vec<u8>, Error> {
    let wrong = || Error::Setting {
        setting: "cpuset".into(),
        reason: format!("{text:?} is no list such as 0-2,7"),
    };
    let mut bits: Vec<u8> = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part
            .trim()
            .split_once('-')
            .unwrap_or((part.trim(), part.trim()));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < 1 << 16);
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        if first > last {
            return Err(wrong());
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|one| bits[one / 8] |= 1 << (one % 8));
    }
    Ok(bits)
}

/// On v1 systemd opens `devices.allow` for all at each reload unless it knows the rules. On v2 it attaches a program only
/// where it has rules of its own, and leaves ours.
fn devices(rules: &[DeviceRule], list: &mut Vec<Property>) {
    if !restricts(rules) {
        return;
    }
    let (allows_rest, rules) = effective(rules);
    if allows_rest {
        // It can't say "all but these"; without a policy it leaves the files alone until a reload.
        return;
    }
    let allowed = rules.iter().filter(|rule| rule.allow).filter_map(|rule| {
        let class = match rule.kind {
            DeviceKind::Block => "block",
            DeviceKind::Character => "char",
            DeviceKind::All => return None,
        };
        let node = match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => format!("/dev/{class}/{major}:{minor}"),
            // By number: names would have to be looked up in /proc/devices.
            (Some(major), None) => format!("{class}-{major}"),
            (None, _) => format!("{class}-*"),
        };
        Some((node, rule.access.to_string()))
    });
    let allowed = allowed.collect();
    put(list, "DevicePolicy", Value::Text("strict".to_owned()));
    put(list, "DeviceAllow", Value::Pairs(allowed));
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(out),
            Self::Text(text) => out.write_str(text),
            Self::Number(INFINITY) => out.write_str("infinity"),
            Self::Number(value) => value.fmt(out),
            Self::Bytes(bytes) => write!(out, "{bytes:x?}"),
            Self::Numbers(numbers) => write!(out, "{numbers:?}"),
            Self::Pairs(pairs) => {
                let each: Vec<_> = pairs
                    .iter()
                    .map(|(one, other)| format!("{one} {other}"))
                    .collect();
                out.write_str(&each.join(", "))
            }
            Self::Rates(rates) => {
                let each: Vec<_> = rates
                    .iter()
                    .map(|(path, rate)| format!("{path} {rate}"))
                    .collect();
                out.write_str(&each.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{DeviceRate, DeviceRule};

    fn shown(resources: &Resources, layout: Layout, version: u32) -> Vec<String> {
        let list = of(resources, layout, version, true).unwrap();
        list.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn limits_are_systemds_too() {
        let resources = Resources {
            memory_limit_bytes: Some(64 << 20),
            memory_swap_bytes: Some(96 << 20),
            memory_reservation_bytes: Some(-1),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(200_000),
            cpuset_cpus: Some("0-2,9".into()),
            pids_limit: Some(0),
            blkio_weight: Some(10),
            blkio_read_bps: vec![DeviceRate {
                major: 8,
                minor: 0,
                rate: 5,
            }],
            unified: BTreeMap::from([
                ("memory.high".into(), "max".into()),
                ("io.latency".into(), "8:0 target=1".into()),
            ]),
            devices: vec![
                DeviceRule::DENY_ALL,
                DeviceRule::allow_character(1, Some(3)),
            ],
            ..Resources::default()
        };
        assert_eq!(
            shown(&resources, Layout::V2, 252),
            [
                "MemoryMax=67108864",
                "MemoryLow=infinity",
                "MemorySwapMax=33554432",
                "CPUWeight=100",
                "IOWeight=1",
                "IOReadBandwidthMax=/dev/block/8:0 5",
                "MemoryHigh=infinity",
                "CPUQuotaPeriodUSec=200000",
                "CPUQuotaPerSecUSec=250000",
                "TasksMax=1",
                "AllowedCPUs=[7, 2]",
            ]
        );
        assert_eq!(
            shown(&resources, Layout::Hybrid, 240),
            [
                "MemoryLimit=67108864",
                "CPUShares=1024",
                "BlockIOWeight=10",
                "CPUQuotaPerSecUSec=250000",
                "TasksMax=1",
                "DevicePolicy=strict",
                "DeviceAllow=/dev/char/1:3 rwm",
            ]
        );
        let idle = Resources {
            cpu_idle: Some(1),
            ..Resources::default()
        };
        assert_eq!(shown(&idle, Layout::V2, 252), ["CPUWeight=0"]);
        assert!(shown(&idle, Layout::V2, 251).is_empty());
    }

    #[test]
    fn lists_are_read_or_refused() {
        assert_eq!(mask("15").unwrap(), [0, 0x80]);
        assert_eq!(mask("0,1-3").unwrap(), [0xf]);
        for bad in ["x", "3-1", "-", "1-", "99999999"] {
            assert!(mask(bad).is_err(), "{bad}");
        }
    }
}
