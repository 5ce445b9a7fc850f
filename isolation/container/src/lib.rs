//! Containers: a bundle in, running processes out.
//!
//! ```text
//! CreateRequest + Spec + HostFacts ──plan()──▶ ContainerPlan (pure, printable)
//!                                                   │ apply::compile: opens, detached mounts
//!                                                   ▼
//!                    clone3 ◀── apply::spawn ── Program (a list of operations)
//!                      │
//!                      ▼ apply::child: no allocation, no locks, no logging
//!            mounts, pivot_root, user, capabilities, seccomp, execve
//! ```
//!
//! [`create`] makes a container whose program waits; [`InitProcess::start`] (same process) or
//! [`Container::start`] (any process) executes it. [`Container`] is a handle on the state folder:
//! exec, kill, pause, update, checkpoint, delete; [`restore`] makes a container of a checkpoint. What is kept there: docs/formats/runtime-state.md.
//!
//! **Threads and signals.** Works from any thread of a multi-threaded process; takes no signals and
//! starts no threads that outlive a call (but one for overlay mounts on kernels before 6.5). Children are reaped by the
//! caller through their pidfd. When the maker dies before the start, a [`StartBy::Caller`] container
//! ends by itself; afterwards nothing of ours is in the container.
//!
//! **Never** logs, prints, or touches a path inside the root file system other than through
//! openat2(2) with the root as its root.
#![expect(
    unsafe_code,
    reason = "clone3 into the child's path, and closing ranges of descriptors there"
)]

mod apparmor;
mod apply;
mod container;
mod create;
mod criu;
mod error;
mod exec;
mod hook;
mod id;
mod monitored;
pub mod plan;
mod request;
mod rootless;
mod scope;
mod selinux;
mod state;
mod wall;

pub use apply::rootfs::open_rootfs;
pub use atoll_cgroup::{IoEntry, Stats};
pub use atoll_resctrl::Stats as ShareStats;
pub use container::{Container, Created, ExecProcess, InitProcess};
pub use create::create;
pub use criu::{CgroupsMode, CheckpointRequest, CriuRequest, PageServer, RestoreRequest, restore};
pub use error::{Error, ErrorKind, Result};
pub use id::ContainerId;
pub use monitored::Monitored;
pub use plan::{ContainerPlan, HostFacts, plan};
pub use request::{CreateRequest, ExecRequest, RootfsMount, StartBy, StdioRequest};
pub use wall::{ISOLATION, Wall};
