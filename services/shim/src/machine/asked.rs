//! What a bundle's `vm` object asks of the machine. Pure. Spec: OCI runtime-spec 1.3, config-vm.md.

use std::path::PathBuf;

use atoll_spec::Vm;

use super::plan::{LEAST, MAX_CPUS};
use crate::failure::Failure;

/// Memory is given in whole pages of this.
const PAGE: u64 = 2 << 20;

/// What differs from a machine that nothing is asked of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The kernel, instead of the host's newest.
    pub(crate) kernel: Option<PathBuf>,
    /// Words for its command line.
    pub(crate) parameters: Vec<String>,
    /// Virtual CPUs, instead of what the quota pays for.
    pub(crate) cpus: Option<u8>,
    /// Bytes of memory, instead of the container's limit and more.
    pub(crate) memory_bytes: Option<u64>,
}

/// Reads a valid object.
///
/// # Errors
/// The field that a machine of ours cannot honour, and why.
pub(crate) fn asked(vm: Option<&Vm>) -> Result<Asked, Failure> {
    let Some(vm) = vm else {
        return Ok(Asked::default());
    };
    let hardware = vm.hw_config.clone().unwrap_or_default();
    let refused = [
        (
            vm.hypervisor.is_some(),
            "hypervisor",
            "machines are run by atoll-vmm, which is installed beside the shim",
        ),
        (
            vm.kernel.initrd.is_some(),
            "kernel.initrd",
            "the initial ramdisk holds the agent that makes the container",
        ),
        (
            vm.image.is_some(),
            "image",
            "a machine has no root file system besides the container's, which is `root`",
        ),
        (
            hardware.device_tree.is_some(),
            "hwConfig.deviceTree",
            "the guest finds its devices by ACPI",
        ),
        (
            !hardware.dtdevs.is_empty(),
            "hwConfig.dtdevs",
            "no device of the host is given to a machine",
        ),
        (
            !hardware.iomems.is_empty(),
            "hwConfig.iomems",
            "no device of the host is given to a machine",
        ),
        (
            !hardware.irqs.is_empty(),
            "hwConfig.irqs",
            "no device of the host is given to a machine",
        ),
    ];
    if let Some((_, field, why)) = refused.iter().find(|(is_there, ..)| *is_there) {
        return Err(Failure::invalid(format!(
            "vm.{field} is not available: {why}"
        )));
    }
    let parameters = vm.kernel.parameters.clone();
    if parameters.iter().any(|words| {
        let mut words = words.split_whitespace();
        words.any(|word| word.starts_with("rdinit="))
    }) {
        return Err(Failure::invalid(
            "vm.kernel.parameters: rdinit= is not available: the agent is the guest's first process",
        ));
    }
    Ok(Asked {
        kernel: Some(vm.kernel.path.clone()),
        parameters,
        cpus: hardware.vcpus.map(cpus).transpose()?,
        memory_bytes: hardware.memory.map(memory).transpose()?,
    })
}

fn cpus(count: u32) -> Result<u8, Failure> {
    let fits = u8::try_from(count).ok().filter(|count| *count <= MAX_CPUS);
    fits.ok_or_else(|| {
        Failure::invalid(format!(
            "vm.hwConfig.vcpus: a machine has at most {MAX_CPUS}, not {count}"
        ))
    })
}

fn memory(bytes: u64) -> Result<u64, Failure> {
    if bytes < LEAST {
        return Err(Failure::invalid(format!(
            "vm.hwConfig.memory: no guest runs in {bytes} bytes; the least is {LEAST}"
        )));
    }
    Ok(bytes - bytes % PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(more: &str) -> Result<Asked, String> {
        let text = format!(r#"{{"kernel": {{"path": "/boot/k"}}{more}}}"#);
        let vm: Vm = serde_json::from_str(&text).unwrap();
        asked(Some(&vm)).map_err(|failure| failure.message)
    }

    #[test]
    fn what_can_be_honoured_is() {
        assert_eq!(asked(None).unwrap(), Asked::default());
        let hardware = of(r#", "hwConfig": {"vcpus": 3, "memory": 268435999}"#).unwrap();
        assert_eq!(hardware.kernel, Some("/boot/k".into()));
        assert_eq!(
            (hardware.cpus, hardware.memory_bytes),
            (Some(3), Some(256 << 20))
        );
    }

    #[test]
    fn what_cannot_is_named_with_a_reason() {
        for (more, said) in [
            (
                r#""hypervisor": {"path": "/q"}"#,
                "vm.hypervisor is not available: machines are",
            ),
            (
                r#""image": {"path": "/i"}"#,
                "vm.image is not available: a machine has no root",
            ),
            (
                r#""hwConfig": {"deviceTree": "/d"}"#,
                "vm.hwConfig.deviceTree is not",
            ),
            (
                r#""hwConfig": {"dtdevs": ["a"]}"#,
                "vm.hwConfig.dtdevs is not",
            ),
            (
                r#""hwConfig": {"iomems": [{"firstMFN": 1, "nrMFNs": 1}]}"#,
                "vm.hwConfig.iomems is not",
            ),
            (r#""hwConfig": {"irqs": [1]}"#, "vm.hwConfig.irqs is not"),
            (r#""hwConfig": {"vcpus": 65}"#, "at most 64, not 65"),
            (
                r#""hwConfig": {"memory": 4194304}"#,
                "no guest runs in 4194304 bytes",
            ),
        ] {
            let failure = of(&format!(", {more}")).unwrap_err();
            assert!(failure.contains(said), "{failure}");
        }
        let kernel = |more: &str| {
            let text = format!(r#"{{"kernel": {{"path": "/k", {more}}}}}"#);
            let vm: Vm = serde_json::from_str(&text).unwrap();
            asked(Some(&vm)).unwrap_err().message
        };
        assert!(kernel(r#""initrd": "/i""#).starts_with("vm.kernel.initrd is not available"));
        assert!(kernel(r#""parameters": ["a rdinit=/sh"]"#).contains("rdinit= is not"));
    }
}
