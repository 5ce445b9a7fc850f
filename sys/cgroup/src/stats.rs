//! What a cgroup used.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files;

/// Counters of one cgroup; what the kernel doesn't offer is zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
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
}

/// CPU time and throttling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Total, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Total by CPU, in nanoseconds; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// Periods in which the quota was in force.
    pub periods: u64,
    /// Periods in which it was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Kernel memory used.
    pub kernel_bytes: u64,
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
