//! Counters of cgroup v1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files;
use crate::stats::{
    Counter, CpuStats, IoEntry, MemoryStats, PidsStats, Stats, huge_page_sizes, keyed_file, number,
};

/// `cpuacct.stat` counts in `USER_HZ`, which is 100 on every Linux architecture we run on.
const NS_A_TICK: u64 = 10_000_000;

/// v1's "no limit" is the largest page-aligned `i64`.
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

pub(crate) fn read(paths: &BTreeMap<String, PathBuf>) -> Stats {
    let mut stats = Stats::default();
    if let Some(folder) = paths.get("cpuacct") {
        cpuacct(folder, &mut stats.cpu);
    }
    if let Some(folder) = paths.get("cpu") {
        let counters = keyed_file(folder, "cpu.stat");
        let get = |name: &str| counters.get(name).copied().unwrap_or(0);
        stats.cpu.periods = get("nr_periods");
        stats.cpu.throttled_periods = get("nr_throttled");
        stats.cpu.throttled_ns = get("throttled_time");
    }
    if let Some(folder) = paths.get("memory") {
        stats.memory = memory(folder);
    }
    if let Some(folder) = paths.get("pids") {
        let limit = number(folder, "pids.max");
        stats.pids = PidsStats {
            current: number(folder, "pids.current"),
            limit: if limit == u64::MAX { 0 } else { limit },
        };
    }
    if let Some(folder) = paths.get("blkio") {
        stats.io_bytes = io(folder, "io_service_bytes_recursive");
        stats.io_operations = io(folder, "io_serviced_recursive");
    }
    if let Some(folder) = paths.get("hugetlb") {
        for size in huge_page_sizes(folder, ".usage_in_bytes") {
            let found = counter(folder, &format!("hugetlb.{size}."));
            stats.huge_pages.insert(size, found);
        }
    }
    if let Some(folder) = paths.get("cpuset") {
        for name in CPUSET {
            if let Ok(text) = files::get(&folder.join(format!("cpuset.{name}"))) {
                stats.cpuset.insert(name.to_owned(), text.trim().to_owned());
            }
        }
    }
    stats
}

fn cpuacct(folder: &Path, cpu: &mut CpuStats) {
    cpu.usage_ns = number(folder, "cpuacct.usage");
    let ticks = keyed_file(folder, "cpuacct.stat");
    let ns = |name: &str| {
        ticks
            .get(name)
            .copied()
            .unwrap_or(0)
            .saturating_mul(NS_A_TICK)
    };
    cpu.user_ns = ns("user");
    cpu.system_ns = ns("system");
    if let Ok(text) = files::get(&folder.join("cpuacct.usage_all")) {
        // `cpu user system`, then a line for each.
        for line in text.lines().skip(1) {
            let mut numbers = line
                .split_whitespace()
                .skip(1)
                .map(|word| word.parse().unwrap_or(0));
            cpu.per_cpu_user_ns.push(numbers.next().unwrap_or(0));
            cpu.per_cpu_system_ns.push(numbers.next().unwrap_or(0));
        }
    }
    if let Ok(text) = files::get(&folder.join("cpuacct.usage_percpu")) {
        cpu.per_cpu_ns = text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
    }
}

/// Settings of a cpuset that are told.
const CPUSET: [&str; 11] = [
    "cpus",
    "cpu_exclusive",
    "mems",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
];

fn counter(folder: &Path, prefix: &str) -> Counter {
    let get = |name: &str| number(folder, &format!("{prefix}{name}"));
    Counter {
        usage: get("usage_in_bytes"),
        max: get("max_usage_in_bytes"),
        limit: match get("limit_in_bytes") {
            value if value >= NO_LIMIT => u64::MAX,
            value => value,
        },
        limit_hits: get("failcnt"),
    }
}

fn memory(folder: &Path) -> MemoryStats {
    let limit = |file: &str| match number(folder, file) {
        value if value >= NO_LIMIT => u64::MAX,
        value => value,
    };
    let details = keyed_file(folder, "memory.stat");
    MemoryStats {
        usage_bytes: number(folder, "memory.usage_in_bytes"),
        max_usage_bytes: number(folder, "memory.max_usage_in_bytes"),
        limit_bytes: limit("memory.limit_in_bytes"),
        limit_hits: number(folder, "memory.failcnt"),
        swap_usage_bytes: number(folder, "memory.memsw.usage_in_bytes"),
        swap_limit_bytes: limit("memory.memsw.limit_in_bytes"),
        swap_max_bytes: number(folder, "memory.memsw.max_usage_in_bytes"),
        swap_limit_hits: number(folder, "memory.memsw.failcnt"),
        kernel_bytes: number(folder, "memory.kmem.usage_in_bytes"),
        kernel: counter(folder, "memory.kmem."),
        kernel_tcp: counter(folder, "memory.kmem.tcp."),
        cache_bytes: details.get("cache").copied().unwrap_or(0),
        pressure: None,
        oom_kills: keyed_file(folder, "memory.oom_control")
            .remove("oom_kill")
            .unwrap_or(0),
        details,
    }
}

/// Lines of `8:0 Read 4096`; bfq's files when it schedules, else the throttler's.
fn io(folder: &Path, file: &str) -> Vec<IoEntry> {
    let entries = |prefix: &str| {
        files::get(&folder.join(format!("blkio.{prefix}.{file}")))
            .map_or_else(|_| Vec::new(), |text| parse_io(&text))
    };
    let found = entries("bfq");
    if found.is_empty() {
        entries("throttle")
    } else {
        found
    }
}

fn parse_io(text: &str) -> Vec<IoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (major, minor) = words.next()?.split_once(':')?;
            Some(IoEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: words.next()?.to_owned(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_are_read_and_the_total_skipped() {
        let entries = parse_io("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].value), (8, 4096));
        assert_eq!(entries[1].operation, "Write");
    }
}
