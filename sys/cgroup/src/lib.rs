//! Control groups: hierarchy detection (v1, v2, hybrid), settings as a plan, apply, statistics.
//!
//! ```text
//! mountinfo + cgroup ─▶ Hierarchies ─┐
//! CgroupPath, Resources ─────────────┴▶ plan() ─▶ Plan (pure, printable)
//!                                                  │ Cgroup::create (undone on failure)
//!                                                  ▼
//!   join_handles() → child writes itself in     Cgroup ─▶ stats, freeze, kill_all, remove
//! ```
//!
//! How to get a process in, cheapest first:
//! 1. v2: `clone3` with `CLONE_INTO_CGROUP` and [`Cgroup::v2_dir_fd`].
//! 2. v1: open [`Cgroup::join_handles`] before the clone, call [`JoinHandles::join_self`] in the
//!    still single-threaded child. Writing `0` into `tasks` takes no global lock: 55 µs for nine
//!    hierarchies, where a parent writing the pid into `cgroup.procs` waits 7–11 ms for an RCU
//!    grace period (measured on 6.18).
//! 3. [`Cgroup::add_pid`] for a process that can't help itself.
//!
//! On v1 a container is in every hierarchy that is mounted, those that only have a name and the cgroup2 of
//! a hybrid layout included: limits may come later, programs in it look their own up by any of them
//! (OpenJDK takes no limit without `cpuset`), and a service manager goes by the named one.
//!
//! With [`systemd`] a service manager makes the folder instead: a scope, before [`Cgroup::create_around`] writes to it.
//!
//! It never moves the calling process, never touches a cgroup it was not pointed at, and keeps no
//! background threads.

#![expect(
    unsafe_code,
    reason = "bpf(2) has no safe wrapper; all of it is in bpf.rs"
)]

mod bpf;
mod cgroup;
mod delegate;
mod device_program;
mod devices;
mod error;
mod files;
mod freezer;
mod hierarchy;
mod join;
mod kill;
mod oom;
mod path;
mod plan;
mod plan_v1;
mod plan_v2;
mod resources;
mod stats;
mod stats_v1;
mod stats_v2;
pub mod systemd;

pub use cgroup::Cgroup;
pub use devices::{DeviceAccess, DeviceKind, DeviceRule};
pub use error::Error;
pub use hierarchy::{Hierarchies, Hierarchy, Layout};
pub use join::JoinHandles;
pub use oom::OomNotifier;
pub use path::CgroupPath;
pub use plan::{Directory, Plan, Step, Write, plan, plan_update};
pub use resources::{DeviceRate, DeviceWeight, HugepageLimit, RdmaLimit, Resources};
pub use stats::{Counter, CpuStats, IoEntry, MemoryStats, PidsStats, Pressure, Stalls, Stats};
