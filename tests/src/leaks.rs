//! What must not be left behind: mounts, cgroups and processes that name a folder or container.

use std::fs;
use std::path::{Path, PathBuf};

/// Mount points of this mount namespace below `folder`.
///
/// # Panics
/// When /proc is not readable.
pub fn mounts_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let prefix = format!("{}/", folder.display());
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| point.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

/// Folders of any cgroup hierarchy whose name holds `part` (a container's id).
pub fn cgroups_named(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(part) {
                found.push(entry.path());
            }
            folders.push(entry.path());
        }
    }
    found
}

/// Ids of living processes whose command line holds `part`.
///
/// # Panics
/// When /proc is not readable.
pub fn processes_naming(part: &str) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).expect("a pid fits an i32");
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)))
        .map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        .filter(|(_, line)| line.contains(part))
        .collect()
}

/// Ends every process whose command line holds `part`, a path or id that is the test's own.
pub fn end_processes_naming(part: &str) {
    processes_naming(part)
        .into_iter()
        .for_each(|(pid, _)| end(pid));
}

/// Ends every process in a cgroup whose path holds `part`, a container's id.
///
/// # Panics
/// When /proc is not readable.
pub fn end_processes_in_cgroup(part: &str) {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_inside = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|paths| paths.contains(part))
    };
    pids.filter(is_inside).for_each(end);
}

fn end(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
