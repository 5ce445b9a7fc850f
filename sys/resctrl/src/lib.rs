//! Resource control groups: shares of caches and memory bandwidth (Intel RDT, AMD QoS), and what is measured of them.
//!
//! ```text
//! mountinfo ─▶ Resctrl ──────┐
//! Settings ─▶ plan() ─▶ Plan ┴▶ Resctrl::prepare ─▶ NewGroup (locked) ─▶ make ─▶ Group
//!                                                        │ Group::handles: the process writes itself in
//!                                                        ▼
//!                                   Group ─▶ write_schemata, add_process, stats, remove
//! ```
//!
//! A group is a folder below the root of a resctrl file system, a class of service (CLOS); its share is `schemata`, its
//! processes are `tasks`. A folder below its `mon_groups` measures some of them apart. The kernel makes the files in it.
//!
//! Everything takes the root as a parameter. What other programs do to the tree meanwhile is kept away by the lock the
//! kernel's documentation asks for: flock(2) on the root, held from looking to making.
//!
//! Sources: Documentation/filesystems/resctrl.rst; OCI runtime-spec 1.3, config-linux.md#intelrdt. Never touches a group it
//! wasn't pointed at, and removes none that it didn't make.

#![forbid(unsafe_code)]

mod error;
mod filesystem;
mod group;
mod plan;
mod schemata;
mod stats;

pub use error::Error;
pub use filesystem::Resctrl;
pub use group::{Group, JoinHandles, NewGroup};
pub use plan::{Clos, Plan, Settings, plan};
pub use stats::{BandwidthInfo, CacheInfo, Occupancy, Stats, Traffic};

/// An operation's outcome.
pub type Result<T> = std::result::Result<T, Error>;
