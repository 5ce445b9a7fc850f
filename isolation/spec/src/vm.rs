//! The virtual machine a container lives in. Spec: OCI runtime-spec 1.3, config-vm.md.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::SpecError;
use crate::absent::{empty_as_none, is_default, null_as_default};
use crate::validate::{fault, no_nul};

/// Settings of the virtual machine; a configuration that has them wants one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Vm {
    /// The program that runs the machine.
    #[serde(
        deserialize_with = "empty_as_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub hypervisor: Option<VmHypervisor>,
    /// The kernel it boots.
    #[serde(deserialize_with = "null_as_default")]
    pub kernel: VmKernel,
    /// The root file system of the machine, which is not the container's.
    #[serde(
        deserialize_with = "empty_as_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub image: Option<VmImage>,
    /// Its hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hw_config: Option<VmHardware>,
}

/// The program that runs the machine. Spec: config-vm.md#hypervisor-object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmHypervisor {
    /// Absolute path of the program.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// Its arguments.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub parameters: Vec<String>,
}

/// The kernel of the machine. Spec: config-vm.md#kernel-object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmKernel {
    /// Absolute path of the kernel's file.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// Words of its command line.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub parameters: Vec<String>,
    /// Absolute path of an initial ramdisk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
}

/// The root file system of the machine. Spec: config-vm.md#image-object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmImage {
    /// Absolute path of the image's file.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// `raw`, `qcow2`, `vdi`, `vmdk` or `vhd`; `raw` when it is empty.
    #[serde(deserialize_with = "null_as_default")]
    pub format: String,
}

/// The hardware of the machine. Spec: config-vm.md#hwconfig-object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmHardware {
    /// Path of a device tree for the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<PathBuf>,
    /// Number of virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// The most memory of the machine, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Nodes of the host's device tree given to the guest.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub dtdevs: Vec<String>,
    /// The host's device memory given to the guest.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub iomems: Vec<VmIoMemory>,
    /// The host's interrupts given to the guest.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub irqs: Vec<u32>,
}

/// Pages of the host's device memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VmIoMemory {
    /// The guest's first frame; the same as the host's when absent.
    #[serde(rename = "firstGFN", skip_serializing_if = "Option::is_none")]
    pub first_guest_frame: Option<u64>,
    /// The host's first frame.
    #[serde(rename = "firstMFN", deserialize_with = "null_as_default")]
    pub first_machine_frame: u64,
    /// Number of frames.
    #[serde(rename = "nrMFNs", deserialize_with = "null_as_default")]
    pub frames: u64,
}

impl Vm {
    pub(crate) fn validate(&self) -> Result<(), SpecError> {
        absolute("vm.kernel.path", &self.kernel.path)?;
        if let Some(initrd) = &self.kernel.initrd {
            absolute("vm.kernel.initrd", initrd)?;
        }
        for (idx, parameter) in self.kernel.parameters.iter().enumerate() {
            let field = format!("vm.kernel.parameters[{idx}]");
            if parameter.contains(|letter: char| letter.is_control()) {
                return fault(&field, "holds a control character");
            }
            if parameter.split_whitespace().any(|word| word == "--") {
                return fault(&field, "`--` ends the parameters of a kernel");
            }
        }
        if let Some(hypervisor) = &self.hypervisor {
            absolute("vm.hypervisor.path", &hypervisor.path)?;
        }
        if let Some(image) = &self.image {
            absolute("vm.image.path", &image.path)?;
            if !matches!(
                image.format.as_str(),
                "" | "raw" | "qcow2" | "vdi" | "vmdk" | "vhd"
            ) {
                return fault(
                    "vm.image.format",
                    format!(
                        "{:?} is not one of raw, qcow2, vdi, vmdk, vhd",
                        image.format
                    ),
                );
            }
        }
        let hardware = self.hw_config.as_ref();
        if hardware.is_some_and(|hardware| hardware.vcpus == Some(0)) {
            return fault("vm.hwConfig.vcpus", "a machine has at least one");
        }
        if hardware.is_some_and(|hardware| hardware.memory == Some(0)) {
            return fault("vm.hwConfig.memory", "a machine has some (in bytes)");
        }
        Ok(())
    }
}

fn absolute(field: &str, path: &Path) -> Result<(), SpecError> {
    if path.as_os_str().is_empty() {
        return fault(field, "is missing");
    }
    if !path.is_absolute() {
        let reason = format!("must be an absolute path, is {:?}", path.display());
        return fault(field, reason);
    }
    no_nul(field, path)
}

#[cfg(test)]
mod tests {
    use crate::{Spec, example};

    fn with(vm: &str) -> Result<Spec, String> {
        let mut value = serde_json::to_value(example()).unwrap();
        value["vm"] = serde_json::from_str(vm).unwrap();
        let spec: Spec = serde_json::from_value(value).map_err(|error| error.to_string())?;
        spec.validate().map_err(|error| error.to_string())?;
        Ok(spec)
    }

    #[test]
    fn every_field_is_read_and_written() {
        let text = r#"{
            "hypervisor": {"path": "/vmm", "parameters": ["a=b"]},
            "kernel": {"path": "/vmlinuz", "parameters": ["foo=bar", "hello world"], "initrd": "/initrd"},
            "image": {"path": "/disk", "format": "raw"},
            "hwConfig": {"deviceTree": "/dtb", "vcpus": 1, "memory": 4194304, "dtdevs": ["x"],
                "iomems": [{"firstMFN": 12288, "nrMFNs": 1}, {"firstGFN": 1, "firstMFN": 2, "nrMFNs": 3}],
                "irqs": [11, 22]}
        }"#;
        let spec = with(text).unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        let given: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(written["vm"], given);
        let null = with(r#"{"hypervisor": null, "kernel": {"path": "/k", "parameters": null}}"#);
        assert_eq!(null.unwrap().vm.unwrap().hypervisor, None);
        // As containerd 1.6 writes what isn't there.
        let empty = with(
            r#"{"hypervisor": {"path": ""}, "kernel": {"path": "/k"}, "image": {"path": "", "format": ""}}"#,
        );
        let empty = empty.unwrap().vm.unwrap();
        assert_eq!((empty.hypervisor, empty.image), (None, None));
    }

    #[test]
    fn faults_name_the_field() {
        let bad = |vm: &str| with(vm).unwrap_err();
        assert_eq!(bad("{}"), "vm.kernel.path: is missing");
        assert!(bad(r#"{"kernel": {"path": "k"}}"#).starts_with("vm.kernel.path: must be an abs"));
        let field = |more: &str| {
            let text = bad(&format!(r#"{{"kernel": {{"path": "/k"}}, {more}}}"#));
            text.split(':').next().unwrap().to_owned()
        };
        assert_eq!(
            field(r#""hypervisor": {"parameters": ["x"]}"#),
            "vm.hypervisor.path"
        );
        assert_eq!(
            field(r#""image": {"path": "/i", "format": "iso"}"#),
            "vm.image.format"
        );
        assert_eq!(field(r#""hwConfig": {"vcpus": 0}"#), "vm.hwConfig.vcpus");
        assert_eq!(field(r#""hwConfig": {"memory": 0}"#), "vm.hwConfig.memory");
        assert!(field(r#""hwConfig": {"vcpus": -1}"#).contains("invalid value"));
        let words = bad(r#"{"kernel": {"path": "/k", "parameters": ["a", "b -- sh"]}}"#);
        assert!(
            words.starts_with("vm.kernel.parameters[1]: `--`"),
            "{words}"
        );
    }
}
