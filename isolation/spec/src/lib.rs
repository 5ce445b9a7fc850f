//! OCI runtime configuration (`config.json`): types, loading, checking. Pure.
//!
//! One set of types serves both directions: the runtime loads a bundle with [`Spec::load`], the
//! engine fills a [`Spec`] and writes it. All fields are public and every type has a default, so a
//! spec is built with struct update syntax. Unknown fields are ignored, as the specification asks;
//! `null` means absent, as Go programs write it.
//!
//! ```text
//! config.json ──Spec::load──▶ Spec ──Spec::validate──▶ atoll_container::plan
//!      ▲                       │
//!      └──────serde_json───────┘ (engine)
//! ```
//!
//! Never touches anything but the file it is told to load; knows no namespaces, no mounts.
//!
//! Spec: OCI runtime-spec 1.3, config.md, config-linux.md and config-vm.md.
#![forbid(unsafe_code)]

mod absent;
mod config;
mod example;
mod features;
mod linux;
mod load;
mod resources;
mod state;
mod validate;
mod vm;

pub use config::{
    Capabilities, ConsoleSize, CpuAffinity, Hook, Hooks, IoPriority, Mount, Process, Rlimit, Root,
    Scheduler, Spec, User,
};
pub use example::{example, rootless_example};
pub use features::{
    CgroupFeatures, Enabled, Features, IntelRdtFeatures, LinuxFeatures, MemoryPolicyFeatures,
    MountExtensions, SeccompFeatures,
};
pub use linux::{
    Device, IdMapping, IntelRdt, Linux, MemoryPolicy, Namespace, NamespaceKind, NetDevice,
    Personality, Seccomp, TimeOffset,
};
pub use load::SpecError;
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, RdmaLimit,
    Resources, ThrottleDevice, WeightDevice,
};
pub use state::{State, Status};
pub use vm::{Vm, VmHardware, VmHypervisor, VmImage, VmIoMemory, VmKernel};

/// The version of the runtime specification these types follow.
pub const OCI_VERSION: &str = "1.3.0";
