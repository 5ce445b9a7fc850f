//! Tests of `atoll-runtime` under kernels that hosts lack: control groups of version 2 alone, SELinux, AppArmor, resctrl.
//!
//! All are ignored here: `cargo xtask nested-cgroups`, `nested-labels` and `nested-resctrl` run them by module in emulated
//! machines with a stock kernel, where `ATOLL_RUNTIME` is the program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apparmor;
mod bundle;
mod cgroup_v2;
mod resctrl;
mod selinux;
