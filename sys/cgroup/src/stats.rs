//! What a cgroup used.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files;

/// Counters of one cgroup; what the kernel doesn't offer is zero or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Whether they are cgroup2's, which counts some things otherwise.
    pub is_v2: bool,
    /// CPU time and throttling.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Bytes moved to and from block devices.
    pub io_bytes: Vec<IoEntry>,
    /// Operations on block devices.
    pub io_operations: Vec<IoEntry>,
    /// Tasks that waited for them; v2 only.
    pub io_pressure: Option<Pressure>,
    /// Huge pages by size (`2MB`).
    pub huge_pages: BTreeMap<String, Counter>,
    /// Settings of a v1 cpuset by file name, without `cpuset.`; lists as the kernel writes them.
    pub cpuset: BTreeMap<String, String>,
}

/// One counter with a limit, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Used now.
    pub usage: u64,
    /// Most ever used; 0 where it isn't counted.
    pub max: u64,
    /// Limit; `u64::MAX` without one.
    pub limit: u64,
    /// Times the limit was met.
    pub limit_hits: u64,
}

/// How long tasks stood still for want of something. Kernel: Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// While others ran.
    pub some: Stalls,
    /// While none ran.
    pub full: Stalls,
}

/// Shares of time in percent, and all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stalls {
    /// Of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
    /// Since the beginning, in microseconds.
    pub total_us: u64,
}

/// CPU time and throttling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuStats {
    /// Total, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Total by CPU, in nanoseconds; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// In user mode by CPU, in nanoseconds; v1 only.
    pub per_cpu_user_ns: Vec<u64>,
    /// In the kernel by CPU, in nanoseconds; v1 only.
    pub per_cpu_system_ns: Vec<u64>,
    /// Tasks that waited for a CPU; v2 only.
    pub pressure: Option<Pressure>,
    /// Periods in which the quota was in force.
    pub periods: u64,
    /// Periods in which it was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryStats {
    /// Used now, page cache included.
    pub usage_bytes: u64,
    /// Most ever used.
    pub max_usage_bytes: u64,
    /// Limit; `u64::MAX` without one.
    pub limit_bytes: u64,
    /// Times the limit was met.
    pub limit_hits: u64,
    /// v1: memory and swap used; v2: swap used.
    pub swap_usage_bytes: u64,
    /// v1: limit of memory and swap; v2: of swap. `u64::MAX` without one.
    pub swap_limit_bytes: u64,
    /// Most of it; 0 where it isn't counted.
    pub swap_max_bytes: u64,
    /// Times its limit was met.
    pub swap_limit_hits: u64,
    /// Kernel memory used.
    pub kernel_bytes: u64,
    /// The same with its limit; v1 only.
    pub kernel: Counter,
    /// Memory of the kernel's for TCP; v1 only.
    pub kernel_tcp: Counter,
    /// Page cache.
    pub cache_bytes: u64,
    /// Tasks that waited for memory; v2 only.
    pub pressure: Option<Pressure>,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// `memory.stat` as the kernel names it.
    pub details: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 without a limit.
    pub limit: u64,
}

/// One counter of one block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Discard`, `Total`, … as v1 names them.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

/// A pressure file's two lines; `None` where the kernel doesn't measure.
pub(crate) fn pressure(folder: &Path, file: &str) -> Option<Pressure> {
    parse_pressure(&files::get(&folder.join(file)).ok()?)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let stalls = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut stalls = Stalls::default();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=')?;
            match key {
                "avg10" => stalls.averages[0] = value.parse().ok()?,
                "avg60" => stalls.averages[1] = value.parse().ok()?,
                "avg300" => stalls.averages[2] = value.parse().ok()?,
                "total" => stalls.total_us = value.parse().ok()?,
                _ => {}
            }
        }
        Some(stalls)
    };
    Some(Pressure {
        some: stalls("some ")?,
        // Before Linux 5.13 CPUs have none.
        full: stalls("full ").unwrap_or_default(),
    })
}

/// Sizes of huge pages, as the names of a folder's files have them: `<prefix>.<size>.<suffix>`.
pub(crate) fn huge_page_sizes(folder: &Path, suffix: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    sizes.collect()
}

/// Lines of `name number`.
pub(crate) fn keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The number in a file; `max` is `u64::MAX`, an absent or odd file 0.
pub(crate) fn number(folder: &Path, file: &str) -> u64 {
    match files::get(&folder.join(file)) {
        Ok(text) if text.trim() == "max" => u64::MAX,
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// The `name number` lines of a file; none when it is absent.
pub(crate) fn keyed_file(folder: &Path, file: &str) -> BTreeMap<String, u64> {
    files::get(&folder.join(file)).map_or_else(|_| BTreeMap::new(), |text| keyed(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text).unwrap();
        assert_eq!(pressure.some.averages, [1.5, 0.25, 0.0]);
        assert_eq!((pressure.some.total_us, pressure.full.total_us), (1234, 7));
        let old = parse_pressure(text.lines().next().unwrap()).unwrap();
        assert_eq!(old.full, Stalls::default());
        assert_eq!(parse_pressure("some avg10=x"), None);
    }
}
