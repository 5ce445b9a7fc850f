//! GET /containers/{id}/top and /stats.

use std::{fs, time::Duration};

use atoll_guest::protocol::ProcessStatus;
use atoll_shim_protocol::machine::DEFAULT_MEMORY;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    container::{ContainerRef, Record, wall},
    engine::EngineRef,
    error::{Error, Result},
    http::{
        body::Body,
        request::Request,
        response::{self, Response},
    },
    time,
};

/// Kernel clock ticks per second, fixed for user space on Linux.
const TICKS: u64 = 100;

/// GET /containers/{id}/top.
pub(crate) async fn top(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    if request
        .query
        .text("ps_args")
        .is_some_and(|args| args != "-ef")
    {
        return Err(Error::not_implemented(
            "only the columns of `ps -ef` are available",
        ));
    }
    let processes = container.running_shim()?.processes().await?;
    let processes: Vec<Vec<String>> = processes.iter().filter_map(row).collect();
    Ok(response::ok(&json!({
        "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
        "Processes": processes,
    })))
}

/// One line of `ps -ef`. A process in a machine is shown as if it had been started here.
fn row(status: &ProcessStatus) -> Option<Vec<String>> {
    let age = i64::try_from(status.age_s).ok()?;
    let started = time::now_nanos() / 1_000_000_000 - age;
    let clock = jiff::Timestamp::from_second(started).ok()?;
    let seconds = status.cpu_ms / 1000;
    Some(vec![
        status.uid.to_string(),
        status.pid.to_string(),
        status.parent.to_string(),
        "0".to_owned(),
        clock.to_string().get(11..16)?.to_owned(),
        status
            .terminal
            .map_or("?".to_owned(), |tty| format!("pts/{tty}")),
        cpu_clock(seconds),
        status.command.clone(),
    ])
}

/// Seconds as `ps` shows them.
fn cpu_clock(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// GET /containers/{id}/stats.
pub(crate) async fn stats(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let follows = request.query.flag_or("stream", true);
    let is_one_shot = request.query.flag("one-shot");
    if !follows {
        let mut before = sample(engine, &container);
        if !is_one_shot && container.record().state.is_running() {
            // Two samples, so that the client can tell how busy it is.
            tokio::time::sleep(Duration::from_secs(1)).await;
            before = joined(&before, sample(engine, &container));
        }
        return Ok(response::ok(&before));
    }
    let (sender, body) = Body::channel();
    let engine = EngineRef::clone(engine);
    tokio::spawn(async move {
        let mut before = Value::Null;
        let mut records = container.watch();
        loop {
            let now = joined(&before, sample(&engine, &container));
            if sender.send(Bytes::from(format!("{now}\n"))).await.is_err() {
                return;
            }
            before = now;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = sender.closed() => return,
                removed = records.wait_for(|record| record.is_removed) => {
                    let _ = removed;
                    return;
                }
            }
        }
    });
    Ok(response::body("application/json", body))
}

/// Puts the sample before into the members clients compute differences with.
fn joined(before: &Value, mut now: Value) -> Value {
    if let Some(usage) = before.get("cpu_stats") {
        now["precpu_stats"] = usage.clone();
        now["preread"] = before["read"].clone();
    }
    now
}

fn sample(engine: &EngineRef, container: &ContainerRef) -> Value {
    let record = container.record();
    let mut sample = json!({
        "id": record.id,
        "name": format!("/{}", record.name),
        "read": time::now(),
        "preread": time::ZERO,
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
            "io_service_time_recursive": null, "io_wait_time_recursive": null,
            "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
        },
        "cpu_stats": cpu(0, 0, 0),
        "precpu_stats": cpu(0, 0, 0),
        "memory_stats": {},
    });
    if record.state.is_running() {
        fill(engine, &record, &mut sample);
    }
    sample
}

fn cpu(total: u64, user: u64, kernel: u64) -> Value {
    json!({
        "cpu_usage": { "total_usage": total, "usage_in_kernelmode": kernel, "usage_in_usermode": user },
        "system_cpu_usage": system_nanos(),
        "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

/// Nanoseconds all CPUs have spent since boot.
fn system_nanos() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum();
    ticks * (1_000_000_000 / TICKS)
}

/// Counters of the container's cgroups and links.
fn fill(engine: &EngineRef, record: &Record, sample: &mut Value) {
    let pid = record.state.pid;
    let loaded = record
        .id
        .parse()
        .ok()
        .and_then(|id: atoll_container::ContainerId| {
            atoll_container::Container::load(&engine.paths.runtime(), &id).ok()
        });
    if let Some(stats) = loaded.and_then(|container| container.stats().ok()) {
        fill_cgroup(&stats, sample);
    }
    let is_machine = wall::is_machine(&record.host_config);
    if is_machine {
        // Its monitor's control group has no limit: the machine's memory is one.
        let limit = u64::try_from(record.host_config.resources.memory).unwrap_or(0);
        let limit = Some(limit).filter(|limit| *limit > 0);
        sample["memory_stats"]["limit"] = limit.unwrap_or(DEFAULT_MEMORY).into();
    }
    let networks = if is_machine {
        // The other ends of its cards are here; what those sent is what the guest received.
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let cards = links_of(&links).filter_map(|link| {
            let mut ends = record.ends.values();
            let end = ends.find(|end| end.host_ifname == link.name)?;
            Some(Link {
                name: &end.interface,
                received: link.sent,
                sent: link.received,
            })
        });
        networks(cards)
    } else {
        let links = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        networks(links_of(&links).filter(|link| link.name != "lo"))
    };
    if !networks.is_empty() {
        sample["networks"] = networks.into();
    }
}

/// Bytes, packets, errors and drops.
type Counters = [u64; 4];

/// A link's counters.
struct Link<'a> {
    name: &'a str,
    received: Counters,
    sent: Counters,
}

/// The links in what the kernel shows as `/proc/PID/net/dev`.
fn links_of(text: &str) -> impl Iterator<Item = Link<'_>> {
    text.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|text| text.parse().ok())
            .collect();
        let from = |first| counters.get(first..)?.first_chunk().copied();
        Some(Link {
            name: name.trim(),
            received: from(0)?,
            sent: from(8)?,
        })
    })
}

fn networks<'a>(links: impl Iterator<Item = Link<'a>>) -> serde_json::Map<String, Value> {
    links
        .map(|link| {
            let [rx_bytes, rx_packets, rx_errors, rx_dropped] = link.received;
            let [tx_bytes, tx_packets, tx_errors, tx_dropped] = link.sent;
            let value = json!({
                "rx_bytes": rx_bytes, "rx_packets": rx_packets, "rx_errors": rx_errors, "rx_dropped": rx_dropped,
                "tx_bytes": tx_bytes, "tx_packets": tx_packets, "tx_errors": tx_errors, "tx_dropped": tx_dropped,
            });
            (link.name.to_owned(), value)
        })
        .collect()
}

/// Members out of the cgroup's counters; a limit that isn't there is the machine's memory, as in dockerd.
fn fill_cgroup(stats: &atoll_cgroup::Stats, sample: &mut Value) {
    let (usage, throttling) = (&stats.cpu, &mut sample["cpu_stats"]);
    throttling["cpu_usage"] = json!({
        "total_usage": usage.usage_ns,
        "usage_in_kernelmode": usage.system_ns,
        "usage_in_usermode": usage.user_ns,
    });
    throttling["throttling_data"] = json!({
        "periods": usage.periods,
        "throttled_periods": usage.throttled_periods,
        "throttled_time": usage.throttled_ns,
    });
    let machine = super::system::memory_total_bytes();
    sample["memory_stats"] = json!({
        "usage": stats.memory.usage_bytes,
        "max_usage": stats.memory.max_usage_bytes,
        "limit": stats.memory.limit_bytes.min(machine),
        "stats": stats.memory.details,
    });
    sample["pids_stats"] = json!({ "current": stats.pids.current });
    if stats.pids.limit > 0 && stats.pids.limit < u64::MAX {
        sample["pids_stats"]["limit"] = stats.pids.limit.into();
    }
    let entries = |list: &[atoll_cgroup::IoEntry]| -> Vec<Value> {
        list.iter()
            .map(|entry| {
                json!({
                    "major": entry.major, "minor": entry.minor, "op": entry.operation,
                    "value": entry.value,
                })
            })
            .collect()
    };
    sample["blkio_stats"]["io_service_bytes_recursive"] = entries(&stats.io_bytes).into();
    sample["blkio_stats"]["io_serviced_recursive"] = entries(&stats.io_operations).into();
}
