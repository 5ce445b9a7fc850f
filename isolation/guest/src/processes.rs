//! What `ps` wants to know of a container's processes, in a guest and on the host alike.

use std::fs;

use crate::protocol::ProcessStatus;

/// Kernel clock ticks per second, fixed for user space on Linux.
const TICKS: u64 = 100;

/// The processes of `pids`, of this system, that are still there.
#[must_use]
pub fn list(pids: &[u32]) -> Vec<ProcessStatus> {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split('.').next().unwrap_or_default();
    let uptime = uptime.parse().unwrap_or(0);
    pids.iter().filter_map(|pid| status(*pid, uptime)).collect()
}

/// Source: proc_pid_stat(5), proc_pid_status(5).
fn status(pid: u32, uptime: u64) -> Option<ProcessStatus> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The name in parentheses may hold anything, also parentheses.
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let command = if words.is_empty() {
        format!("[{}]", head.split_once('(')?.1)
    } else {
        words.join(" ")
    };
    let terminal = number(4).filter(|device| *device != 0);
    Some(ProcessStatus {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        uid: uid.split_whitespace().next()?.parse().ok()?,
        terminal: terminal.and_then(|device| u32::try_from(device & 0xff).ok()),
        cpu_ms: (number(11)? + number(12)?) * 1000 / TICKS,
        age_s: uptime.saturating_sub(number(19)? / TICKS),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_described() {
        let ours = std::process::id();
        let [found] = &list(&[ours, u32::MAX])[..] else {
            panic!("one of the two exists");
        };
        assert_eq!(
            (found.pid, found.uid),
            (ours, rustix::process::getuid().as_raw())
        );
        assert_eq!(found.parent, std::os::unix::process::parent_id());
        assert!(found.command.contains("atoll"), "{}", found.command);
    }
}
