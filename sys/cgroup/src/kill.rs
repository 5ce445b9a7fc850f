//! Killing everything in a cgroup.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Cgroup, Error, files};

/// How long killed processes may take to go.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn all(cgroup: &Cgroup) -> Result<(), Error> {
    let Some(folder) = cgroup.any_folder() else {
        return Ok(());
    };
    let killed_by_kernel = cgroup
        .paths()
        .get("")
        .is_some_and(|folder| files::put(&folder.join("cgroup.kill"), "1").is_ok());
    let deadline = Instant::now() + TIMEOUT;
    let mut pause = Duration::from_micros(100);
    let mut first = true;
    loop {
        let pids = cgroup.pids()?;
        let left: Vec<u32> = pids.into_iter().filter(|pid| !is_zombie(*pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Unkillable {
                path: folder.to_path_buf(),
                count: left.len(),
            });
        }
        if !(killed_by_kernel && first && cgroup.is_v2()) {
            kill_frozen(cgroup, &left);
        }
        first = false;
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Freezes so that nothing forks away, signals, thaws; without a freezer it only signals.
fn kill_frozen(cgroup: &Cgroup, known: &[u32]) {
    // One process can't escape between list and signal other than by forking, and the next round
    // sees that.
    let frozen = (known.len() > 1 || cgroup.is_frozen()) && cgroup.freeze().is_ok();
    let pids = if frozen {
        cgroup.pids().unwrap_or_else(|_| known.to_vec())
    } else {
        known.to_vec()
    };
    for pid in pids {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // Gone already is what we want; anything else shows in the next round.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    // Also when freezing failed or somebody else froze it: signals reach only thawed processes.
    drop(cgroup.thaw());
}

/// A zombie is dead but listed until its parent reaps it.
fn is_zombie(pid: u32) -> bool {
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    std::fs::read_to_string(stat).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}
