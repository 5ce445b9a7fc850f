//! x87, SSE and what lies beyond, in the layout of XSAVE (Intel SDM vol. 1 §13.4).
//!
//! The kernel uses the standard form: a legacy region of 512 bytes, a header of 64, and each further component at the
//! offset that CPUID leaf 0xD names.

use std::collections::BTreeMap;
use std::ops::Range;

use atoll_cpu_api::{CpuError, Fpu, VcpuState};
use kvm_bindings::{kvm_cpuid_entry2, kvm_xsave};

use crate::cpuid::XCR0_SHOWN;

/// Bytes of the whole area as the kernel's structure has them.
const BYTES: usize = 4096;
/// `XSTATE_BV`: which components are in the area.
const HEADER: usize = 512;
const X87: u64 = 1;
const SSE: u64 = 2;

/// Which components beyond x87 and SSE a guest may have, and where they are.
#[derive(Debug)]
pub(crate) struct XsaveLayout(BTreeMap<u8, Range<usize>>);

impl XsaveLayout {
    /// What `cpuid`, the filtered leaves, shows.
    pub(crate) fn new(cpuid: &[kvm_cpuid_entry2]) -> Self {
        let range = |entry: &kvm_cpuid_entry2| {
            let id = u8::try_from(entry.index).ok().filter(|id| *id < 63)?;
            let start = usize::try_from(entry.ebx).ok()?;
            let end = start.checked_add(usize::try_from(entry.eax).ok()?)?;
            let shown = XCR0_SHOWN >> id & 1 != 0 && start >= HEADER + 64 && end <= BYTES;
            (entry.function == 0xD && id >= 2 && shown && end > start).then_some((id, start..end))
        };
        Self(cpuid.iter().filter_map(range).collect())
    }

    /// The bits of XCR0 that a guest may set.
    pub(crate) fn components(&self) -> u64 {
        self.0.keys().fold(X87 | SSE, |mask, id| mask | 1 << id)
    }

    /// Takes the area apart.
    pub(crate) fn read(&self, xsave: &kvm_xsave) -> (Fpu, BTreeMap<u8, Vec<u8>>) {
        let area: Vec<u8> = xsave
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let present = u64::from_le_bytes(bytes(&area, HEADER));
        let mut fpu = Fpu::default();
        if present & X87 != 0 {
            fpu.control = u16::from_le_bytes(bytes(&area, 0));
            fpu.status = u16::from_le_bytes(bytes(&area, 2));
            fpu.tags = area[4];
            fpu.opcode = u16::from_le_bytes(bytes(&area, 6));
            fpu.instruction = u64::from_le_bytes(bytes(&area, 8));
            fpu.operand = u64::from_le_bytes(bytes(&area, 16));
            for (index, register) in fpu.st.iter_mut().enumerate() {
                let low = u128::from_le_bytes(bytes(&area, 32 + 16 * index));
                *register = low & ((1 << 80) - 1);
            }
        }
        if present & !X87 != 0 {
            fpu.mxcsr = u32::from_le_bytes(bytes(&area, 24));
        }
        if present & SSE != 0 {
            for (index, register) in fpu.xmm.iter_mut().enumerate() {
                *register = u128::from_le_bytes(bytes(&area, 160 + 16 * index));
            }
        }
        let used = |id: &u8| present >> id & 1 != 0;
        let components = self.0.iter().filter(|(id, _)| used(id));
        let extended = components.map(|(id, range)| (*id, area[range.clone()].to_vec()));
        (fpu, extended.collect())
    }

    /// Puts the area of `state` together.
    pub(crate) fn write(&self, state: &VcpuState) -> Result<kvm_xsave, CpuError> {
        let fpu = &state.fpu;
        let mut area = [0; BYTES];
        put(&mut area, 0, &fpu.control.to_le_bytes());
        put(&mut area, 2, &fpu.status.to_le_bytes());
        put(&mut area, 4, &[fpu.tags]);
        put(&mut area, 6, &fpu.opcode.to_le_bytes());
        put(&mut area, 8, &fpu.instruction.to_le_bytes());
        put(&mut area, 16, &fpu.operand.to_le_bytes());
        put(&mut area, 24, &fpu.mxcsr.to_le_bytes());
        for (index, register) in fpu.st.iter().enumerate() {
            put(&mut area, 32 + 16 * index, &register.to_le_bytes()[..10]);
        }
        for (index, register) in fpu.xmm.iter().enumerate() {
            put(&mut area, 160 + 16 * index, &register.to_le_bytes());
        }
        let mut present = X87 | SSE;
        for (id, content) in &state.extended {
            let range = self.0.get(id).filter(|range| range.len() == content.len());
            let Some(range) = range else {
                return Err(CpuError::State("vector state that this host lacks"));
            };
            put(&mut area, range.start, content);
            present |= 1 << id;
        }
        put(&mut area, HEADER, &present.to_le_bytes());
        let mut xsave = kvm_xsave::default();
        for (index, word) in xsave.region.iter_mut().enumerate() {
            *word = u32::from_le_bytes(bytes(&area, 4 * index));
        }
        Ok(xsave)
    }
}

/// The `N` bytes at `offset`, a constant of the layout that lies in the area.
fn bytes<const N: usize>(area: &[u8], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&area[offset..offset + N]);
    value
}

fn put(area: &mut [u8; BYTES], offset: usize, value: &[u8]) {
    area[offset..offset + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn avx() -> XsaveLayout {
        XsaveLayout::new(&[kvm_cpuid_entry2 {
            function: 0xD,
            index: 2,
            eax: 256,
            ebx: 576,
            ..Default::default()
        }])
    }

    #[test]
    fn a_full_state_survives_both_ways() {
        let mut state = VcpuState::default();
        for (index, register) in state.fpu.st.iter_mut().enumerate() {
            *register = (0x4001 << 64 | 0x8000_0000_0000_0000) + index as u128;
        }
        for (index, register) in state.fpu.xmm.iter_mut().enumerate() {
            *register = u128::MAX / (index as u128 + 1);
        }
        state.fpu.control = 0x27F;
        state.fpu.status = 0x3800;
        state.fpu.tags = 0x81;
        state.fpu.opcode = 0x123;
        state.fpu.instruction = 0x1234_5678_9ABC;
        state.fpu.operand = 77;
        state.fpu.mxcsr = 0x1FA0;
        state.extended.insert(2, (0..=255).collect());
        let area = avx().write(&state).unwrap();
        assert_eq!(avx().read(&area), (state.fpu, state.extended));
    }

    #[test]
    fn components_that_are_not_present_are_in_their_initial_state() {
        let state = VcpuState {
            fpu: Fpu {
                control: 0,
                mxcsr: 0,
                xmm: [9; 16],
                ..Fpu::default()
            },
            ..VcpuState::default()
        };
        let mut area = avx().write(&state).unwrap();
        area.region[HEADER / 4] = 0;
        assert_eq!(avx().read(&area), (Fpu::default(), BTreeMap::new()));
    }

    #[test]
    fn vector_state_that_the_host_lacks_is_refused() {
        for (id, len) in [(2, 255), (5, 64), (200, 1)] {
            let mut state = VcpuState::default();
            state.extended.insert(id, vec![0; len]);
            assert!(matches!(avx().write(&state), Err(CpuError::State(_))));
        }
    }
}
