//! Which namespaces are new, shared, or the host's.

use serde_json::{Value, json};

use super::SpecInput;

/// The OCI list: what is missing in it is shared with the host.
pub(super) fn namespaces(input: &SpecInput<'_>) -> Vec<Value> {
    let host_config = &input.record.host_config;
    let new = |kind: &str| json!({ "type": kind });
    let joined = |kind: &str, file: &str, pid: Option<u32>| match pid {
        Some(pid) => json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }),
        None => new(kind),
    };
    let mut list = vec![new("mount")];
    if !input.record.is_host_network() {
        list.push(joined("network", "net", input.network_pid));
    }
    if host_config.uts_mode != "host" {
        list.push(new("uts"));
    }
    if host_config.pid_mode != "host" {
        list.push(joined("pid", "pid", input.pid_pid));
    }
    if host_config.ipc_mode != "host" {
        list.push(joined("ipc", "ipc", input.ipc_pid));
    }
    if host_config.cgroupns_mode == "private" {
        list.push(new("cgroup"));
    }
    if input.record.id_range.is_some() {
        list.push(new("user"));
    }
    list
}
