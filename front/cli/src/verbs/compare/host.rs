//! What a wall is made of and takes, as the host sees its processes in `/proc`.

use std::collections::HashMap;
use std::fs;

use crate::error::Error;

/// What a shim is called; the kernel keeps 15 bytes of a name.
const SHIM: &str = "containerd-shim";
/// Kinds of namespaces, as `/proc/<pid>/ns` names them.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// The processes of one running container: its shim and what that started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Processes {
    /// The container's first process, or its machine's monitor.
    main: u32,
    all: Vec<u32>,
}

/// Memory of some processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Proportional: a page that several processes map is divided among them.
    pub(super) pss_bytes: u64,
    /// Resident: such a page counts in each.
    pub(super) rss_bytes: u64,
}

impl Processes {
    /// Those of the container `id` whose first process is `main`; `None` when that is no process of
    /// this host, because the engine is elsewhere.
    pub(super) fn of(id: &str, main: u32) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{main}/cgroup")).ok()?;
        if id.is_empty() || !groups.contains(id) {
            return None;
        }
        let parents = parents();
        let shim = parents
            .get(&main)
            .copied()
            .filter(|parent| name(*parent).starts_with(SHIM));
        Some(Self {
            main,
            all: family(shim.unwrap_or(main), &parents),
        })
    }

    /// Their names, the shim's first.
    pub(super) fn names(&self) -> Vec<String> {
        self.all.iter().map(|pid| name(*pid)).collect()
    }

    /// What they take together.
    ///
    /// # Errors
    /// [`Error::Io`] when one can't be looked at.
    pub(super) fn memory(&self) -> Result<Memory, Error> {
        let mut sum = Memory {
            pss_bytes: 0,
            rss_bytes: 0,
        };
        for pid in &self.all {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
            sum.pss_bytes += kib(&text, "Pss:") * 1024;
            sum.rss_bytes += kib(&text, "Rss:") * 1024;
        }
        Ok(sum)
    }

    /// What holds the main process in, a sentence each.
    pub(super) fn confinement(&self) -> Vec<String> {
        let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let main = self.main.to_string();
        let (own, shared): (Vec<&str>, Vec<&str>) = NAMESPACES
            .into_iter()
            .filter(|kind| of("self", kind).is_some())
            .partition(|kind| of(&main, kind) != of("self", kind));
        let status = fs::read_to_string(format!("/proc/{main}/status")).unwrap_or_default();
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        let known = last.trim().parse::<u32>().map_or(0, |last| last + 1);
        let mut lines = vec![format!("namespaces of its own: {}", words(&own))];
        if !shared.is_empty() {
            lines.push(format!("namespaces of the host: {}", words(&shared)));
        }
        lines.push(rights(&status, known));
        lines
    }
}

/// User, capabilities, filter and new privileges, from a process's `status`.
fn rights(status: &str, known: u32) -> String {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .unwrap_or_default()
    };
    let capabilities = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
    let filter = match field("Seccomp:") {
        "2" => "a filter of system calls",
        _ => "no filter of system calls",
    };
    let privileges = match field("NoNewPrivs:") {
        "1" => "no new privileges",
        _ => "new privileges by set-user-id programs",
    };
    format!(
        "{filter}, {} of {known} capabilities, user {}, {privileges}",
        capabilities.count_ones(),
        field("Uid:"),
    )
}

fn words(list: &[&str]) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    list.join(" ")
}

/// A field of `smaps_rollup` in KiB.
fn kib(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The parent of every process.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parent(&stat)?))
    })
    .collect()
}

/// The parent in a line of `/proc/<pid>/stat`; the name before it may hold blanks and brackets.
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// A process and all that descend from it, parents first.
fn family(root: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(of) = all.get(next).copied() {
        let mut children: Vec<u32> = parents
            .iter()
            .filter(|(child, parent)| **parent == of && !all.contains(child))
            .map(|(child, _)| *child)
            .collect();
        children.sort_unstable();
        all.extend(children);
        next += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_whatever_their_names() {
        assert_eq!(parent("7 (a) b (c)) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 a S"), None);
        let parents = HashMap::from([(3, 1), (7, 3), (8, 3), (9, 8), (10, 1)]);
        assert_eq!(family(3, &parents), [3, 7, 8, 9]);
    }

    #[test]
    fn rights_are_read_from_the_status() {
        let status = "Name:\tx\nUid:\t65534\t65534\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\n\
                      Seccomp:\t2\n";
        assert_eq!(
            rights(status, 41),
            "a filter of system calls, 14 of 41 capabilities, user 65534, no new privileges"
        );
    }

    #[test]
    fn our_own_memory_can_be_read_and_strangers_are_refused() {
        let own = std::process::id();
        let processes = Processes {
            main: own,
            all: vec![own],
        };
        let memory = processes.memory().unwrap();
        assert!(memory.pss_bytes > 0 && memory.rss_bytes >= memory.pss_bytes);
        assert!(processes.confinement()[0].ends_with(": none"));
        assert_eq!(Processes::of("no-such-container", own), None);
    }
}
