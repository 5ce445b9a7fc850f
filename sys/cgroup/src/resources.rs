//! What a container may use; every field absent means "as it is".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::DeviceRule;

/// Limits and weights of one container.
///
/// Values mean what OCI runtime-spec config-linux.md#control-groups says: −1 is "no limit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Limit of memory and swap together, in bytes.
    pub memory_swap_bytes: Option<i64>,
    /// Memory the kernel tries to leave alone under pressure, in bytes.
    pub memory_reservation_bytes: Option<i64>,
    /// How eagerly the kernel swaps, 0 to 100; v1 only, ignored on v2.
    pub memory_swappiness: Option<u64>,
    /// Out-of-memory stops instead of killing; v1 only, ignored on v2.
    pub disable_oom_killer: Option<bool>,
    /// Relative CPU weight, 2 to 262144; 0 means the default of 1024.
    pub cpu_shares: Option<u64>,
    /// CPU time a period, in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period for the quota, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Unused quota that may be saved up, in microseconds.
    pub cpu_burst_us: Option<u64>,
    /// 1 schedules the cgroup as idle.
    pub cpu_idle: Option<i64>,
    /// Real-time CPU time a period, in microseconds; v1 only.
    pub cpu_realtime_runtime_us: Option<i64>,
    /// Length of the real-time period, in microseconds; v1 only.
    pub cpu_realtime_period_us: Option<u64>,
    /// CPUs the container may run on, e.g. `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes the container may use.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads; 0 means 1, below 0 no limit.
    pub pids_limit: Option<i64>,
    /// Weight for block I/O, 10 to 1000; 0 means the default.
    pub blkio_weight: Option<u16>,
    /// Weights per device.
    pub blkio_weight_devices: Vec<DeviceWeight>,
    /// Bytes a second that may be read, per device.
    pub blkio_read_bps: Vec<DeviceRate>,
    /// Bytes a second that may be written, per device.
    pub blkio_write_bps: Vec<DeviceRate>,
    /// Read operations a second, per device.
    pub blkio_read_iops: Vec<DeviceRate>,
    /// Write operations a second, per device.
    pub blkio_write_iops: Vec<DeviceRate>,
    /// Huge page limits, one for each page size.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// What may be used of RDMA devices, by their names.
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// Class of the container's packets; v1 only.
    pub network_class_id: Option<u32>,
    /// Priority of the container's packets by interface; v1 only.
    pub network_priorities: BTreeMap<String, u32>,
    /// Device access, in order, the last matching rule wins. Empty: everything is allowed.
    pub devices: Vec<DeviceRule>,
    /// Control files of cgroup v2 by name, written as they are.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// The limit of memory and swap together: none where a memory limit was lifted and nothing was said of swap, because
    /// what is unlimited does not fit below the old limit of both.
    pub(crate) fn memory_and_swap(&self) -> Option<i64> {
        let lifted = self.memory_limit_bytes.filter(|limit| *limit < 0);
        self.memory_swap_bytes.filter(|swap| *swap != 0).or(lifted)
    }
}

/// What may be used of one RDMA device; absent means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaLimit {
    /// Handles.
    pub handles: Option<u32>,
    /// Objects.
    pub objects: Option<u32>,
}

impl RdmaLimit {
    /// The line of `rdma.max` for `device`; `None` without a limit. Kernel: cgroup-v1/rdma.rst.
    pub(crate) fn line(&self, device: &str) -> Option<String> {
        let part = |name, value: Option<u32>| value.map(|value| format!(" {name}={value}"));
        let parts = [
            part("hca_handle", self.handles),
            part("hca_object", self.objects),
        ];
        let text: String = parts.into_iter().flatten().collect();
        (!text.is_empty()).then(|| format!("{device}{text}"))
    }
}

/// A rate limit for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes or operations a second; 0 removes the limit.
    pub rate: u64,
}

/// A weight for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Weight, 10 to 1000.
    pub weight: u16,
}

/// A limit for one size of huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// Page size as the kernel's file names spell it: `2MB`, `1GB`.
    pub page_size: String,
    /// Limit in bytes.
    pub limit_bytes: u64,
}
