//! `events`: what a container uses, in runc's form.

use std::time::{Duration, Instant};

use atoll_cgroup::OomNotifier;
use atoll_container::Container;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::statistics;
use crate::arguments::EventsArguments;
use crate::report::{Failure, Outcome};

/// Prints what the container uses; once, or again and again until it ends, and when it runs out of memory.
pub(crate) fn print(container: &Container, arguments: &EventsArguments) -> Outcome<()> {
    let interval = parse_interval(&arguments.interval)?;
    let cgroup = container.cgroup()?;
    // Without the memory controller there is nothing to run out of.
    let notifier = cgroup.oom_notifier().ok().filter(|_| !arguments.stats);
    let mut kills = cgroup.oom_kills();
    loop {
        let stats = match container.stats() {
            Ok(stats) => stats,
            Err(error) if arguments.stats => return Err(error.into()),
            Err(_) => return Ok(()),
        };
        let share = container.share().ok().flatten();
        let data = statistics::of(&stats, share.as_ref());
        say("stats", &arguments.id, Some(data))?;
        if arguments.stats {
            return Ok(());
        }
        let next = Instant::now() + interval;
        while wait_until(next, notifier.as_ref())? {
            // It also wakes us when the cgroup is removed.
            let now = cgroup.oom_kills();
            if now > kills {
                say("oom", &arguments.id, None)?;
            }
            kills = now;
        }
    }
}

/// Waits for `deadline`, or until the notifier has something: then true.
fn wait_until(deadline: Instant, notifier: Option<&OomNotifier>) -> Outcome<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let Some(notifier) = notifier else {
        std::thread::sleep(left);
        return Ok(false);
    };
    let limit = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(notifier, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
        outcome => outcome.map_err(|error| Failure::io("cannot wait", &error))?,
    };
    notifier.drain();
    // A cgroup that is gone stays readable.
    std::thread::sleep(Duration::from_millis(1));
    Ok(true)
}

fn say(kind: &'static str, id: &str, data: Option<serde_json::Value>) -> Outcome<()> {
    let text = serde_json::to_string(&Event { kind, id, data });
    super::print(&text.map_err(|error| Failure::io("cannot write JSON", &error))?)
}

/// What is printed, in the order runc has it.
#[derive(serde::Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
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
