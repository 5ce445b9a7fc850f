//! Which of the host's network devices a container gets.
//!
//! Spec: OCI runtime-spec 1.3, config-linux.md#network-devices.

use atoll_netlink::route::NAME_MAX;
use atoll_spec::{Linux, NamespaceKind};

use super::{NamespacePlan, fault};
use crate::error::Result;

/// A network device of the host's that moves into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevicePlan {
    /// Its name in the runtime's network namespace.
    pub outside: String,
    /// Its name in the container's.
    pub inside: String,
}

pub(super) fn plan(
    linux: &Linux,
    namespaces: &NamespacePlan,
    is_rootless: bool,
) -> Result<Vec<NetDevicePlan>> {
    let field = "linux.netDevices";
    if linux.net_devices.is_empty() {
        return Ok(Vec::new());
    }
    if !namespaces.has(NamespaceKind::Network) {
        return fault(
            field,
            "unable to move network devices without a NET namespace",
        );
    }
    if is_rootless {
        return fault(
            field,
            "network devices are not supported for rootless containers",
        );
    }
    let mut plans: Vec<NetDevicePlan> = Vec::with_capacity(linux.net_devices.len());
    for (outside, device) in &linux.net_devices {
        let inside = if device.name.is_empty() {
            outside
        } else {
            &device.name
        };
        for name in [outside, inside] {
            if !is_name(name) {
                return fault(field, format!("invalid network device name {name:?}"));
            }
        }
        if plans.iter().any(|plan| plan.inside == *inside) {
            return fault(field, format!("two network devices are to be {inside:?}"));
        }
        plans.push(NetDevicePlan {
            outside: outside.clone(),
            inside: inside.clone(),
        });
    }
    Ok(plans)
}

/// Kernel: net/core/dev.c, `dev_valid_name`.
fn is_name(name: &str) -> bool {
    let is_length = (1..=NAME_MAX).contains(&name.len());
    let is_character = |c: char| c != '/' && c != ':' && c != '\0' && !c.is_whitespace();
    is_length && !matches!(name, "." | "..") && name.chars().all(is_character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for name in ["eth0", "a", "a.b", "123456789012345"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "1234567890123456",
            "a\n",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn devices_need_a_namespace_and_names_of_their_own() {
        let of = |text: &str, kinds: &[NamespaceKind], is_rootless| {
            let linux: Linux = serde_json::from_str(text).unwrap();
            let namespaces = NamespacePlan {
                new: kinds.to_vec(),
                ..NamespacePlan::default()
            };
            plan(&linux, &namespaces, is_rootless)
        };
        let two = r#"{"netDevices": {"a": {"name": "x"}, "b": {}}}"#;
        let own = [NamespaceKind::Network];
        let plans = of(two, &own, false).unwrap();
        let pairs: Vec<_> = plans
            .iter()
            .map(|plan| (plan.outside.as_str(), plan.inside.as_str()))
            .collect();
        assert_eq!(pairs, [("a", "x"), ("b", "b")]);
        assert!(of(two, &[], false).is_err());
        assert!(of(two, &own, true).is_err());
        let same = r#"{"netDevices": {"a": {"name": "x"}, "b": {"name": "x"}}}"#;
        assert!(of(same, &own, false).is_err());
        assert!(of(r#"{"netDevices": {"a b": {}}}"#, &own, false).is_err());
    }
}
