//! `events`: what a container uses, in runc's form.

use std::time::Duration;

use atoll_container::Container;

use crate::arguments::EventsArguments;
use crate::report::{Failure, Outcome};

/// Prints what the container uses; once, or again and again until it ends.
pub(crate) fn print(container: &Container, arguments: &EventsArguments) -> Outcome<()> {
    let interval = parse_interval(&arguments.interval)?;
    loop {
        let stats = match container.stats() {
            Ok(stats) => stats,
            Err(error) if arguments.stats => return Err(error.into()),
            Err(_) => return Ok(()),
        };
        let event = Event {
            kind: "stats",
            id: &arguments.id,
            data: runc_stats(&stats),
        };
        let text = serde_json::to_string(&event);
        super::print(&text.map_err(|error| Failure::io("cannot write JSON", &error))?)?;
        if arguments.stats {
            return Ok(());
        }
        std::thread::sleep(interval);
    }
}

/// What is printed, in the order runc has it.
#[derive(serde::Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    data: serde_json::Value,
}

fn runc_stats(stats: &atoll_container::Stats) -> serde_json::Value {
    let io = |entries: &[atoll_container::IoEntry]| -> Vec<serde_json::Value> {
        let rows = entries.iter().map(|entry| {
            serde_json::json!({
                "major": entry.major,
                "minor": entry.minor,
                "op": entry.operation,
                "value": entry.value,
            })
        });
        rows.collect()
    };
    serde_json::json!({
        "cpu": {
            "usage": {
                "total": stats.cpu.usage_ns,
                "percpu": stats.cpu.per_cpu_ns,
                "kernel": stats.cpu.system_ns,
                "user": stats.cpu.user_ns,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_ns,
            },
        },
        "memory": {
            "usage": {
                "limit": stats.memory.limit_bytes,
                "usage": stats.memory.usage_bytes,
                "max": stats.memory.max_usage_bytes,
                "failcnt": stats.memory.limit_hits,
            },
            "swap": { "limit": stats.memory.swap_limit_bytes, "usage": stats.memory.swap_usage_bytes },
            "kernel": { "usage": stats.memory.kernel_bytes },
            "raw": stats.memory.details,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": io(&stats.io_bytes),
            "ioServicedRecursive": io(&stats.io_operations),
        },
    })
}

fn parse_interval(text: &str) -> Outcome<Duration> {
    let wrong = || {
        Failure::new(format!(
            "interval {text:?} is not a time such as 5s or 500ms"
        ))
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let interval = match &text[digits.len()..] {
        "" | "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "m" => Duration::from_secs(number * 60),
        _ => return Err(wrong()),
    };
    if interval.is_zero() {
        Err(wrong())
    } else {
        Ok(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(parse_interval("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_interval("20ms").unwrap(), Duration::from_millis(20));
        assert!(parse_interval("0").is_err() && parse_interval("5y").is_err());
    }
}
