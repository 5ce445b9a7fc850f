//! A cgroup's counters as containerd's metrics messages.

use atoll_cgroup::{CpuStats, IoEntry, MemoryStats, PidsStats, Stats};
use atoll_guest::protocol::Usage;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};

/// Packs `stats` as containerd expects for the layout.
pub(crate) fn pack(stats: &Stats, is_v2: bool) -> Any {
    let (type_url, value) = if is_v2 {
        (
            "io.containerd.cgroups.v2.Metrics",
            unified(stats).write_to_bytes(),
        )
    } else {
        (
            "io.containerd.cgroups.v1.Metrics",
            legacy(stats).write_to_bytes(),
        )
    };
    Any {
        type_url: type_url.to_owned(),
        value: value.unwrap_or_default(),
        ..Any::default()
    }
}

/// Packs what a guest's kernel said; its control groups are v2.
pub(crate) fn of_guest(usage: Usage) -> Any {
    let [usage_ns, user_ns, system_ns] = usage.cpu_ns;
    let [periods, throttled_periods, throttled_ns] = usage.throttled;
    let stats = Stats {
        cpu: CpuStats {
            usage_ns,
            user_ns,
            system_ns,
            periods,
            throttled_periods,
            throttled_ns,
            ..CpuStats::default()
        },
        memory: MemoryStats {
            usage_bytes: usage.memory_bytes,
            max_usage_bytes: usage.max_memory_bytes,
            limit_bytes: usage.memory_limit_bytes,
            limit_hits: usage.memory_limit_hits,
            oom_kills: usage.oom_kills,
            details: usage.memory_details,
            ..MemoryStats::default()
        },
        pids: PidsStats {
            current: usage.pids,
            limit: usage.pids_limit,
        },
        ..Stats::default()
    };
    pack(&stats, true)
}

fn legacy(stats: &Stats) -> v1::Metrics {
    let cpu = &stats.cpu;
    v1::Metrics {
        pids: MessageField::some(v1::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit,
            ..Default::default()
        }),
        cpu: MessageField::some(v1::CPUStat {
            usage: MessageField::some(v1::CPUUsage {
                total: cpu.usage_ns,
                kernel: cpu.system_ns,
                user: cpu.user_ns,
                per_cpu: cpu.per_cpu_ns.clone(),
                ..Default::default()
            }),
            throttling: MessageField::some(v1::Throttle {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_ns,
                ..Default::default()
            }),
            ..Default::default()
        }),
        memory: MessageField::some(legacy_memory(stats)),
        blkio: MessageField::some(v1::BlkIOStat {
            io_service_bytes_recursive: stats.io_bytes.iter().map(legacy_io).collect(),
            io_serviced_recursive: stats.io_operations.iter().map(legacy_io).collect(),
            ..Default::default()
        }),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            oom_kill: stats.memory.oom_kills,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn legacy_memory(stats: &Stats) -> v1::MemoryStat {
    let memory = &stats.memory;
    let get = |name: &str| memory.details.get(name).copied().unwrap_or(0);
    v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: MessageField::some(v1::MemoryEntry {
            limit: memory.limit_bytes,
            usage: memory.usage_bytes,
            max: memory.max_usage_bytes,
            failcnt: memory.limit_hits,
            ..Default::default()
        }),
        swap: MessageField::some(v1::MemoryEntry {
            limit: memory.swap_limit_bytes,
            usage: memory.swap_usage_bytes,
            ..Default::default()
        }),
        kernel: MessageField::some(v1::MemoryEntry {
            usage: memory.kernel_bytes,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn legacy_io(entry: &IoEntry) -> v1::BlkIOEntry {
    v1::BlkIOEntry {
        op: entry.operation.clone(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    }
}

fn unified(stats: &Stats) -> v2::Metrics {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let get = |name: &str| memory.details.get(name).copied().unwrap_or(0);
    v2::Metrics {
        pids: MessageField::some(v2::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit,
            ..Default::default()
        }),
        cpu: MessageField::some(v2::CPUStat {
            usage_usec: cpu.usage_ns / 1000,
            user_usec: cpu.user_ns / 1000,
            system_usec: cpu.system_ns / 1000,
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: cpu.throttled_ns / 1000,
            ..Default::default()
        }),
        memory: MessageField::some(v2::MemoryStat {
            anon: get("anon"),
            file: get("file"),
            kernel_stack: get("kernel_stack"),
            slab: get("slab"),
            sock: get("sock"),
            shmem: get("shmem"),
            file_mapped: get("file_mapped"),
            inactive_anon: get("inactive_anon"),
            active_anon: get("active_anon"),
            inactive_file: get("inactive_file"),
            active_file: get("active_file"),
            unevictable: get("unevictable"),
            pgfault: get("pgfault"),
            pgmajfault: get("pgmajfault"),
            usage: memory.usage_bytes,
            usage_limit: memory.limit_bytes,
            swap_usage: memory.swap_usage_bytes,
            swap_limit: memory.swap_limit_bytes,
            max_usage: memory.max_usage_bytes,
            ..Default::default()
        }),
        memory_events: MessageField::some(v2::MemoryEvents {
            max: memory.limit_hits,
            oom_kill: memory.oom_kills,
            ..Default::default()
        }),
        io: MessageField::some(v2::IOStat {
            usage: unified_io(stats),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// v2's entries have all counters of a device in one.
fn unified_io(stats: &Stats) -> Vec<v2::IOEntry> {
    let mut entries: Vec<v2::IOEntry> = Vec::new();
    let lists = [(&stats.io_bytes, true), (&stats.io_operations, false)];
    for (list, is_bytes) in lists {
        for found in list {
            let at = entries
                .iter()
                .position(|entry| (entry.major, entry.minor) == (found.major, found.minor))
                .unwrap_or_else(|| {
                    entries.push(v2::IOEntry {
                        major: found.major,
                        minor: found.minor,
                        ..Default::default()
                    });
                    entries.len() - 1
                });
            match (found.operation.as_str(), is_bytes) {
                ("Read", true) => entries[at].rbytes = found.value,
                ("Write", true) => entries[at].wbytes = found.value,
                ("Read", false) => entries[at].rios = found.value,
                ("Write", false) => entries[at].wios = found.value,
                _ => {}
            }
        }
    }
    entries
}
