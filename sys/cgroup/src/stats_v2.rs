//! Counters of cgroup v2.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files;
use crate::stats::{
    Counter, CpuStats, IoEntry, MemoryStats, PidsStats, Stats, huge_page_sizes, keyed_file, number,
    pressure,
};

pub(crate) fn read(folder: &Path) -> Stats {
    let (io_bytes, io_operations) =
        files::get(&folder.join("io.stat")).map_or_else(|_| Default::default(), |text| io(&text));
    let limit = number(folder, "pids.max");
    Stats {
        is_v2: true,
        cpu: cpu(folder),
        memory: memory(folder),
        pids: PidsStats {
            current: number(folder, "pids.current"),
            limit: if limit == u64::MAX { 0 } else { limit },
        },
        io_bytes,
        io_operations,
        io_pressure: pressure(folder, "io.pressure"),
        huge_pages: huge_pages(folder),
        ..Stats::default()
    }
}

fn cpu(folder: &Path) -> CpuStats {
    let counters = keyed_file(folder, "cpu.stat");
    let get = |name: &str| counters.get(name).copied().unwrap_or(0);
    let ns = |name: &str| get(name).saturating_mul(1000);
    CpuStats {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_ns: ns("throttled_usec"),
        pressure: pressure(folder, "cpu.pressure"),
        ..CpuStats::default()
    }
}

fn memory(folder: &Path) -> MemoryStats {
    let events = keyed_file(folder, "memory.events");
    let details = keyed_file(folder, "memory.stat");
    MemoryStats {
        usage_bytes: number(folder, "memory.current"),
        max_usage_bytes: number(folder, "memory.peak"),
        limit_bytes: number(folder, "memory.max"),
        limit_hits: events.get("max").copied().unwrap_or(0),
        swap_usage_bytes: number(folder, "memory.swap.current"),
        swap_limit_bytes: number(folder, "memory.swap.max"),
        swap_limit_hits: keyed_file(folder, "memory.swap.events")
            .remove("max")
            .unwrap_or(0),
        kernel_bytes: details.get("kernel").copied().unwrap_or(0),
        cache_bytes: details.get("file").copied().unwrap_or(0),
        pressure: pressure(folder, "memory.pressure"),
        oom_kills: events.get("oom_kill").copied().unwrap_or(0),
        details,
        ..MemoryStats::default()
    }
}

fn huge_pages(folder: &Path) -> BTreeMap<String, Counter> {
    let counter = |size: &str| Counter {
        usage: number(folder, &format!("hugetlb.{size}.current")),
        limit: number(folder, &format!("hugetlb.{size}.max")),
        limit_hits: keyed_file(folder, &format!("hugetlb.{size}.events"))
            .remove("max")
            .unwrap_or(0),
        max: 0,
    };
    let sizes = huge_page_sizes(folder, ".current").into_iter();
    sizes.map(|size| (size.clone(), counter(&size))).collect()
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`: bytes, operations.
fn io(text: &str) -> (Vec<IoEntry>, Vec<IoEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|id| id.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            continue;
        };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(IoEntry {
                    major,
                    minor,
                    operation: operation.to_owned(),
                    value,
                });
            }
        }
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_are_read() {
        let (bytes, operations) =
            io("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\nbad\n");
        assert_eq!((bytes.len(), operations.len()), (3, 3));
        assert_eq!((bytes[1].operation.as_str(), bytes[1].value), ("Write", 20));
    }
}
