//! What a guest sees of the host's processor.
//!
//! The kernel says what it can give; of that, a guest gets what [`masks`] lists and nothing that is not listed: no
//! nested virtualization, performance counters, monitoring, enclaves or matrix tiles. Topology is that of the machine:
//! one package of single-threaded cores, numbered as their local APICs.

mod masks;

use atoll_cpu_api::CpuError;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

pub(crate) use masks::XCR0_SHOWN;
use masks::{EXTENDED_LIMIT, HYPERVISOR_FEATURES, HYPERVISOR_LEAF, LIMIT, MASKS, Mask};

const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;

/// The leaves of `supported` (KVM_GET_SUPPORTED_CPUID) as CPU `index` of `vcpus` shows them.
pub(crate) fn filter(
    supported: &[kvm_cpuid_entry2],
    index: u8,
    vcpus: u8,
) -> Vec<kvm_cpuid_entry2> {
    let topology = Topology::new(index, vcpus);
    let mut leaves: Vec<_> = supported
        .iter()
        .filter_map(|entry| {
            let mask = MASKS
                .iter()
                .find(|mask| mask.function == entry.function && mask.takes(entry.index))?;
            Some(topology.apply(masked(entry, mask)))
        })
        .filter(|entry| entry.function != 0xD || is_shown_component(entry))
        .collect();
    let area = area_bytes(&leaves);
    for leaf in leaves
        .iter_mut()
        .filter(|leaf| leaf.function == 0xD && leaf.index == 0)
    {
        (leaf.ebx, leaf.ecx) = (area, area);
    }
    leaves.extend(topology.leaves());
    leaves.extend(hypervisor());
    leaves
}

/// `leaves` in the kernel's form.
pub(crate) fn list(leaves: &[kvm_cpuid_entry2]) -> Result<CpuId, CpuError> {
    CpuId::from_entries(leaves)
        .map_err(|_| CpuError::State("more CPUID leaves than the kernel takes"))
}

fn masked(entry: &kvm_cpuid_entry2, mask: &Mask) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = mask.registers;
    let mut leaf = kvm_cpuid_entry2 {
        eax: entry.eax & eax,
        ebx: entry.ebx & ebx,
        ecx: entry.ecx & ecx,
        edx: entry.edx & edx,
        ..*entry
    };
    match (entry.function, entry.index) {
        (0, _) => leaf.eax = leaf.eax.clamp(0xB, LIMIT),
        // The kernel's local APIC has these, whatever the host's has.
        (1, _) => leaf.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR,
        (7, 0) => leaf.eax = leaf.eax.min(2),
        (0xD, 0) => leaf.eax &= low(XCR0_SHOWN),
        (0x8000_0000, _) => leaf.eax = leaf.eax.min(EXTENDED_LIMIT),
        _ => {}
    }
    leaf
}

/// Whether a subleaf of 0xD is none of a component, or of one that guests see.
fn is_shown_component(entry: &kvm_cpuid_entry2) -> bool {
    entry.index < 2 || (entry.index < 64 && XCR0_SHOWN >> entry.index & 1 != 0)
}

/// Bytes of the XSAVE area with every component that is shown.
fn area_bytes(leaves: &[kvm_cpuid_entry2]) -> u32 {
    let components = leaves
        .iter()
        .filter(|leaf| leaf.function == 0xD && leaf.index >= 2);
    let ends = components.map(|leaf| leaf.ebx.saturating_add(leaf.eax));
    ends.max().unwrap_or(0).max(576)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).unwrap_or(u32::MAX)
}

/// The paravirtualization that every backend presents: KVM's signature, kvmclock, end of interrupt.
fn hypervisor() -> [kvm_cpuid_entry2; 2] {
    let [ebx, ecx, edx] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    let signature = kvm_cpuid_entry2 {
        function: HYPERVISOR_LEAF,
        eax: HYPERVISOR_LEAF + 1,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    };
    let features = kvm_cpuid_entry2 {
        function: HYPERVISOR_LEAF + 1,
        eax: HYPERVISOR_FEATURES,
        ..kvm_cpuid_entry2::default()
    };
    [signature, features]
}

/// Where a CPU stands among those of its machine.
#[derive(Clone, Copy)]
struct Topology {
    index: u32,
    vcpus: u32,
    /// Bits of an APIC id that number the cores of a package.
    bits: u32,
}

impl Topology {
    fn new(index: u8, vcpus: u8) -> Self {
        let vcpus = u32::from(vcpus.max(1));
        Self {
            index: index.into(),
            vcpus,
            bits: vcpus.next_power_of_two().trailing_zeros(),
        }
    }

    fn apply(self, mut leaf: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        let several = self.vcpus > 1;
        match leaf.function {
            1 => {
                let ids = 1 << self.bits;
                leaf.ebx = leaf.ebx & 0xFFFF | u32::min(ids, 255) << 16 | self.index << 24;
                leaf.edx |= if several { HTT } else { 0 };
            }
            // Caches of levels 1 and 2 are a core's own, those above the package's (Intel SDM vol. 2 "CPUID").
            4 if leaf.eax & 0x1F != 0 => {
                let last = (1 << self.bits) - 1;
                let sharing = if leaf.eax >> 5 & 7 > 2 { last } else { 0 };
                leaf.eax = leaf.eax & 0x3FFF | sharing << 14 | u32::min(last, 63) << 26;
            }
            // AMD APM vol. 3 appendix E.4.
            0x8000_0001 if several && is_amd_leaf(&leaf) => leaf.ecx |= CMP_LEGACY,
            0x8000_0008 => leaf.ecx = self.bits << 12 | (self.vcpus - 1),
            _ => {}
        }
        leaf
    }

    /// Leaf 0xB: threads of a core, cores of the package, nothing above.
    fn leaves(self) -> [kvm_cpuid_entry2; 3] {
        [(0, 1, 1 << 8), (self.bits, self.vcpus, 2 << 8), (0, 0, 0)]
            .into_iter()
            .zip(0..)
            .map(|((shift, count, kind), index)| kvm_cpuid_entry2 {
                function: 0xB,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: index | kind,
                edx: self.index,
                ..kvm_cpuid_entry2::default()
            })
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or_default()
    }
}

/// AMD repeats the features of leaf 1 in its own leaf; Intel's has SYSCALL, NX and few more.
fn is_amd_leaf(leaf: &kvm_cpuid_entry2) -> bool {
    leaf.edx & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<kvm_cpuid_entry2> {
        let functions = (0..=0x20)
            .chain(0x4000_0000..=0x4000_0010)
            .chain(0x8000_0000..=0x8000_0022);
        let mut entries = Vec::new();
        for function in functions {
            for index in 0..64 {
                entries.push(kvm_cpuid_entry2 {
                    function,
                    index,
                    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    eax: u32::MAX,
                    ebx: u32::MAX,
                    ecx: u32::MAX,
                    edx: u32::MAX,
                    ..kvm_cpuid_entry2::default()
                });
            }
        }
        // Components at true offsets: AVX, the three of AVX-512, PKRU, tile data.
        for (index, size, offset) in [
            (2, 256, 576),
            (5, 64, 1088),
            (6, 512, 1152),
            (7, 1024, 1664),
            (9, 8, 2688),
            (18, 8192, 2816),
        ] {
            let entry = entries
                .iter_mut()
                .find(|e| e.function == 0xD && e.index == index);
            let entry = entry.unwrap();
            (entry.eax, entry.ebx) = (size, offset);
        }
        entries
    }

    fn leaf(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = leaves
            .iter()
            .filter(|leaf| leaf.function == function && leaf.index == index);
        let leaf = *found.next().unwrap();
        assert!(
            found.next().is_none(),
            "{function:#x}.{index} is there twice"
        );
        leaf
    }

    #[test]
    fn what_a_guest_must_not_see_is_gone_from_a_host_that_has_everything() {
        let leaves = filter(&host(), 0, 1);
        let bit = |value: u32, bit: u32| value >> bit & 1;
        let basic = leaf(&leaves, 1, 0);
        assert_eq!(bit(basic.ecx, 5), 0, "VMX");
        assert_eq!(bit(basic.ecx, 3), 0, "MONITOR");
        assert_eq!(bit(basic.ecx, 15), 0, "PDCM");
        assert_eq!(bit(leaf(&leaves, 0x8000_0001, 0).ecx, 2), 0, "SVM");
        assert_eq!(bit(leaf(&leaves, 7, 0).edx, 24), 0, "AMX");
        assert_eq!(bit(leaf(&leaves, 7, 0).ebx, 2), 0, "SGX");
        for hidden in [
            5,
            0xA,
            0xF,
            0x10,
            0x12,
            0x14,
            0x1D,
            0x1F,
            0x8000_000A,
            0x8000_001F,
        ] {
            assert!(!leaves.iter().any(|l| l.function == hidden), "{hidden:#x}");
        }
        assert!(!leaves.iter().any(|l| l.function == 0xD && l.index == 18));
    }

    #[test]
    fn the_common_paravirtualization_is_presented() {
        let leaves = filter(&host(), 0, 1);
        let signature = leaf(&leaves, 0x4000_0000, 0);
        let mut name = Vec::new();
        for register in [signature.ebx, signature.ecx, signature.edx] {
            name.extend(register.to_le_bytes());
        }
        assert_eq!(name, b"KVMKVMKVM\0\0\0");
        let features = leaf(&leaves, 0x4000_0001, 0).eax;
        assert_eq!(features, 1 << 1 | 1 << 3 | 1 << 6 | 1 << 24);
        let basic = leaf(&leaves, 1, 0);
        assert_eq!(basic.ecx >> 31 & 1, 1, "hypervisor");
        assert_eq!(basic.ecx >> 24 & 1, 1, "TSC deadline");
        assert_eq!(basic.ecx >> 21 & 1, 1, "x2APIC");
    }

    #[test]
    fn topology_is_the_machine_s_not_the_host_s() {
        let leaves = filter(&host(), 2, 3);
        let basic = leaf(&leaves, 1, 0);
        assert_eq!((basic.ebx >> 24, basic.ebx >> 16 & 0xFF), (2, 4));
        assert_eq!(basic.edx & HTT, HTT);
        let core = leaf(&leaves, 0xB, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
        assert_eq!(leaf(&leaves, 0x8000_0008, 0).ecx, 2 << 12 | 2);
        let alone = filter(&host(), 0, 1);
        assert_eq!(leaf(&alone, 1, 0).edx & HTT, 0);
        assert_eq!(leaf(&alone, 0xB, 1).eax, 0);
    }

    #[test]
    fn the_vector_state_s_area_ends_with_its_last_shown_component() {
        let leaves = filter(&host(), 0, 1);
        let area = leaf(&leaves, 0xD, 0);
        assert_eq!((area.ebx, area.ecx, area.edx), (2696, 2696, 0));
        assert_eq!(u64::from(area.eax), XCR0_SHOWN);
    }
}
