//! What a container uses, as runc tells it.
//!
//! Source: opencontainers/runc 1.2, types/events.go: zeros are left out where it has `omitempty`.

use atoll_cgroup::{Counter, Pressure, Stalls};
use atoll_container::{IoEntry, ShareStats, Stats};
use serde_json::{Map, Value, json};

/// v1's "no limit" as the kernel writes it, which runc passes on.
const NO_LIMIT_V1: u64 = 0x7fff_ffff_ffff_f000;

/// The data of an event.
///
/// * `share`: of a container that has one of caches and memory bandwidth.
pub(super) fn of(stats: &Stats, share: Option<&ShareStats>) -> Value {
    let mut cpu = json!({ "usage": cpu_usage(stats), "throttling": throttling(stats) });
    put_pressure(&mut cpu, stats.cpu.pressure);
    let mut io = Map::new();
    for (name, entries) in [
        ("ioServiceBytesRecursive", &stats.io_bytes),
        ("ioServicedRecursive", &stats.io_operations),
    ] {
        if !entries.is_empty() {
            io.insert(name.to_owned(), entries.iter().map(io_entry).collect());
        }
    }
    let mut io = Value::from(io);
    put_pressure(&mut io, stats.io_pressure);
    let huge_pages = stats.huge_pages.iter();
    let huge_pages = huge_pages.map(|(size, page)| {
        let counter = present(&[("usage", page.usage), ("max", page.max)]);
        (size.clone(), with(counter, "failcnt", page.limit_hits))
    });
    json!({
        "cpu": cpu,
        "cpuset": cpuset(stats),
        "memory": memory(stats),
        "pids": present(&[("current", stats.pids.current), ("limit", stats.pids.limit)]),
        "blkio": io,
        "hugetlb": huge_pages.collect::<Map<_, _>>(),
        "intel_rdt": share.map_or_else(|| json!({}), |share| json!(share)),
        "network_interfaces": null,
    })
}

/// Those that are not zero.
fn present(list: &[(&str, u64)]) -> Value {
    let present = list.iter().filter(|(_, value)| *value != 0);
    present
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect::<Map<_, _>>()
        .into()
}

fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

fn cpu_usage(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    let mut usage = present(&[("total", cpu.usage_ns)]);
    for (name, list) in [
        ("percpu", &cpu.per_cpu_ns),
        ("percpu_kernel", &cpu.per_cpu_system_ns),
        ("percpu_user", &cpu.per_cpu_user_ns),
    ] {
        if !list.is_empty() {
            usage[name] = json!(list);
        }
    }
    with(with(usage, "kernel", cpu.system_ns), "user", cpu.user_ns)
}

fn throttling(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    present(&[
        ("periods", cpu.periods),
        ("throttledPeriods", cpu.throttled_periods),
        ("throttledTime", cpu.throttled_ns),
    ])
}

fn memory(stats: &Stats) -> Value {
    let memory = &stats.memory;
    let entry = |limit: u64, usage: u64, max: u64, hits: u64| {
        let limit = match limit {
            u64::MAX if !stats.is_v2 => NO_LIMIT_V1,
            limit => limit,
        };
        let rest = present(&[("usage", usage), ("max", max)]);
        with(with(rest, "limit", limit), "failcnt", hits)
    };
    let of = |counter: Counter| {
        entry(
            counter.limit,
            counter.usage,
            counter.max,
            counter.limit_hits,
        )
    };
    // On v1 memory and swap together, so on v2 as well.
    let (swap_limit, swap_usage) = match (stats.is_v2, memory.swap_limit_bytes) {
        (false, limit) => (limit, memory.swap_usage_bytes),
        (true, u64::MAX) => (u64::MAX, memory.swap_usage_bytes + memory.usage_bytes),
        (true, limit) => (
            limit.saturating_add(memory.limit_bytes),
            memory.swap_usage_bytes + memory.usage_bytes,
        ),
    };
    let usage = entry(
        memory.limit_bytes,
        memory.usage_bytes,
        memory.max_usage_bytes,
        memory.limit_hits,
    );
    let swap = entry(
        swap_limit,
        swap_usage,
        memory.swap_max_bytes,
        memory.swap_limit_hits,
    );
    let mut all = present(&[("cache", memory.cache_bytes)]);
    all["usage"] = usage;
    all["swap"] = swap;
    all["kernel"] = of(memory.kernel);
    all["kernelTCP"] = of(memory.kernel_tcp);
    if !memory.details.is_empty() {
        all["raw"] = json!(memory.details);
    }
    put_pressure(&mut all, memory.pressure);
    all
}

fn put_pressure(object: &mut Value, pressure: Option<Pressure>) {
    let stalls = |stalls: Stalls| {
        let [avg10, avg60, avg300] = stalls.averages;
        json!({ "avg10": avg10, "avg60": avg60, "avg300": avg300, "total": stalls.total_us })
    };
    if let Some(pressure) = pressure {
        object["psi"] = json!({ "some": stalls(pressure.some), "full": stalls(pressure.full) });
    }
}

fn cpuset(stats: &Stats) -> Value {
    let number = |name: &str| {
        let text = stats.cpuset.get(name).map_or("", String::as_str);
        text.parse::<i64>().unwrap_or(0)
    };
    let mut cpuset = Map::new();
    for name in ["cpus", "mems"] {
        let text = stats.cpuset.get(name).map_or("", String::as_str);
        let list = list(text);
        if !list.is_empty() {
            cpuset.insert(name.to_owned(), json!(list));
        }
    }
    for name in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ] {
        cpuset.insert(name.to_owned(), number(name).into());
    }
    cpuset.into()
}

/// `0-2,7` as numbers.
fn list(text: &str) -> Vec<u32> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
}

fn io_entry(entry: &IoEntry) -> Value {
    let numbers = present(&[
        ("major", entry.major),
        ("minor", entry.minor),
        ("value", entry.value),
    ]);
    with(numbers, "op", entry.operation.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_told_with_memory() {
        let mut stats = Stats {
            is_v2: true,
            ..Stats::default()
        };
        stats.memory.usage_bytes = 10;
        stats.memory.limit_bytes = 100;
        stats.memory.swap_usage_bytes = 5;
        stats.memory.swap_limit_bytes = 50;
        let swap = |stats: &Stats| of(stats, None)["memory"]["swap"].clone();
        assert_eq!(
            swap(&stats),
            json!({ "usage": 15, "limit": 150, "failcnt": 0 })
        );
        stats.memory.swap_limit_bytes = u64::MAX;
        assert_eq!(swap(&stats)["limit"], u64::MAX);
        stats.is_v2 = false;
        assert_eq!(
            swap(&stats),
            json!({ "usage": 5, "limit": NO_LIMIT_V1, "failcnt": 0 })
        );
    }

    #[test]
    fn zeros_are_left_out_and_lists_are_numbers() {
        let mut stats = Stats::default();
        stats.cpuset.insert("cpus".to_owned(), "0-2,7".to_owned());
        stats
            .cpuset
            .insert("sched_relax_domain_level".to_owned(), "-1".to_owned());
        let told = of(&stats, None);
        assert_eq!(told["intel_rdt"], json!({}));
        assert_eq!(told["cpu"]["throttling"], json!({}));
        assert_eq!(told["cpuset"]["cpus"], json!([0, 1, 2, 7]));
        assert_eq!(told["cpuset"]["sched_relax_domain_level"], -1);
        assert_eq!((&told["pids"], &told["blkio"]), (&json!({}), &json!({})));
    }
}
