//! Model-specific registers.

use std::collections::BTreeMap;

use atoll_cpu_api::{CpuError, VcpuState};
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::clock::Tsc;
use crate::error::host;

const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6E0;
const MISC_ENABLE: u32 = 0x1A0;
const MTRR_DEFAULT_TYPE: u32 = 0x2FF;
/// Registers that [`VcpuState`] has a field for, and the APIC's base, which goes with the special registers.
const ELSEWHERE: [u32; 5] = [TSC, super::APIC_BASE, 0xC000_0080, 0xC000_0100, 0xC000_0101];

/// Registers worth keeping, where the kernel knows them; the guest's view of CPUID decides which it does. Everything
/// else (performance counters, other hypervisors' registers, what is hidden from guests) is not the guest's.
const KEPT: &[(u32, u32)] = &[
    (0x3B, 0x3B),               // TSC_ADJUST
    (0x48, 0x48),               // SPEC_CTRL
    (0x140, 0x140),             // MISC_FEATURES_ENABLES
    (0x174, 0x176),             // SYSENTER_CS, _ESP, _EIP
    (0x17A, 0x17B),             // MCG_STATUS, MCG_CTL
    (0x1A0, 0x1A0),             // MISC_ENABLE
    (0x200, 0x20F),             // variable MTRRs
    (0x250, 0x250),             // fixed MTRRs, 64 KiB
    (0x258, 0x259),             // 16 KiB
    (0x268, 0x26F),             // 4 KiB
    (0x277, 0x277),             // PAT
    (0x2FF, 0x2FF),             // MTRR default type
    (0x400, 0x427),             // machine check banks 0 to 9
    (0x6E0, 0x6E0),             // TSC_DEADLINE
    (0xDA0, 0xDA0),             // XSS
    (0x4B56_4D00, 0x4B56_4D01), // kvmclock: wall clock, system time
    (0x4B56_4D04, 0x4B56_4D04), // paravirtual end of interrupt
    (0xC000_0081, 0xC000_0084), // STAR, LSTAR, CSTAR, FMASK
    (0xC000_0102, 0xC000_0103), // KERNEL_GS_BASE, TSC_AUX
    (0xC001_0015, 0xC001_0015), // HWCR
    (0xC001_011F, 0xC001_011F), // VIRT_SPEC_CTRL
];

/// The registers that this host's kernel gives for a guest of this machine.
#[derive(Debug)]
pub(crate) struct SavedMsrs(Vec<u32>);

impl SavedMsrs {
    /// Asks `vcpu`, whose CPUID is set, for each of the registers worth keeping.
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, CpuError> {
        let mut wanted: Vec<u32> = KEPT
            .iter()
            .flat_map(|&(first, last)| first..=last)
            .collect();
        let mut known = Vec::with_capacity(wanted.len());
        while !wanted.is_empty() {
            let mut entries = list(wanted.iter().map(|&index| (index, 0)))?;
            let got = vcpu.get_msrs(&mut entries).map_err(host("KVM_GET_MSRS"))?;
            let rest = wanted.split_off(got.min(wanted.len()));
            known.append(&mut wanted);
            // The kernel stops at the first that it does not know.
            wanted = rest.into_iter().skip(1).collect();
        }
        Ok(Self(known))
    }

    /// The TSC, and all others.
    pub(super) fn read(&self, vcpu: &VcpuFd) -> Result<(u64, BTreeMap<u32, u64>), CpuError> {
        let indices = self.0.iter().chain([&TSC]);
        let mut entries = list(indices.map(|&index| (index, 0)))?;
        let got = vcpu.get_msrs(&mut entries).map_err(host("KVM_GET_MSRS"))?;
        let mut values: BTreeMap<u32, u64> = entries
            .as_slice()
            .iter()
            .take(got)
            .map(|entry| (entry.index, entry.data))
            .collect();
        let tsc = values.remove(&TSC);
        let tsc = tsc.ok_or(CpuError::State("the kernel hides an MSR it gave before"))?;
        Ok((tsc, values))
    }

    /// Writes those of `state`, and the TSC where it is not set yet. A register the state does not name keeps its value.
    pub(super) fn write(&self, vcpu: &VcpuFd, state: &VcpuState, tsc: Tsc) -> Result<(), CpuError> {
        let others = state.msrs.iter().map(|(&index, &value)| (index, value));
        let others =
            others.filter(|(index, _)| !ELSEWHERE.contains(index) && *index != TSC_DEADLINE);
        let deadline = state.msrs.get(&TSC_DEADLINE).copied();
        let deadline = deadline.map(|value| (TSC_DEADLINE, value));
        let tsc = match tsc {
            Tsc::Done => None,
            Tsc::Value(value) => Some((TSC, value)),
        };
        let all: Vec<_> = others.chain(tsc).chain(deadline).collect();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let part = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
            let entries = list(part.iter().copied())?;
            let done = vcpu.set_msrs(&entries).map_err(host("KVM_SET_MSRS"))?;
            let done = done.min(part.len());
            // The kernel stops at the first that it refuses.
            match part.get(done) {
                Some(&refused) if !is_as_wanted(vcpu, refused)? => {
                    return Err(CpuError::State("an MSR or its value that this host lacks"));
                }
                Some(_) => rest = &rest[done + 1..],
                None => rest = &rest[done..],
            }
        }
        Ok(())
    }
}

/// The TSC now.
pub(super) fn tsc(vcpu: &VcpuFd) -> Result<u64, CpuError> {
    let mut entries = list([(TSC, 0)])?;
    match vcpu.get_msrs(&mut entries).map_err(host("KVM_GET_MSRS"))? {
        1 => Ok(entries.as_slice()[0].data),
        _ => Err(CpuError::State("the kernel hides the TSC")),
    }
}

/// Whether a register that cannot be written has the value already, or is 0 because there is none.
fn is_as_wanted(vcpu: &VcpuFd, (index, value): (u32, u64)) -> Result<bool, CpuError> {
    let mut entries = list([(index, 0)])?;
    let got = vcpu.get_msrs(&mut entries).map_err(host("KVM_GET_MSRS"))?;
    Ok(match entries.as_slice() {
        [entry] if got == 1 => entry.data == value,
        _ => value == 0,
    })
}

/// What firmware would have done: fast string operations and write-back memory, without which Linux turns off `rep
/// movsb` and page attributes.
pub(crate) fn set_reset_values(vcpu: &VcpuFd) -> Result<(), CpuError> {
    for (index, bits) in [(MISC_ENABLE, 1), (MTRR_DEFAULT_TYPE, 0x806)] {
        let mut entries = list([(index, 0)])?;
        if vcpu.get_msrs(&mut entries).map_err(host("KVM_GET_MSRS"))? == 1 {
            entries.as_mut_slice()[0].data |= bits;
            vcpu.set_msrs(&entries).map_err(host("KVM_SET_MSRS"))?;
        }
    }
    Ok(())
}

fn list(entries: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs, CpuError> {
    let entries: Vec<kvm_msr_entry> = entries
        .into_iter()
        .map(|(index, data)| kvm_msr_entry {
            index,
            reserved: 0,
            data,
        })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| CpuError::State("more MSRs than the kernel takes"))
}
