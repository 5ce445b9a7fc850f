//! The local APIC's registers.

use atoll_cpu_api::CpuError;
use kvm_bindings::kvm_lapic_state;

/// Bytes of registers the kernel gives.
const BYTES: usize = 1024;
/// In-service and interrupt request registers: 8 times 32 bits, 16 bytes apart (Intel SDM vol. 3 table 11-1).
const ISR: usize = 0x100;
const IRR: usize = 0x200;

pub(super) fn bytes(state: &kvm_lapic_state) -> Vec<u8> {
    state.regs.iter().map(|byte| byte.cast_unsigned()).collect()
}

/// The registers to set; `None` leaves the kernel's as they are.
pub(super) fn registers(bytes: &[u8]) -> Result<Option<kvm_lapic_state>, CpuError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() != BYTES {
        return Err(CpuError::State("a local APIC has 1024 bytes of registers"));
    }
    let mut state = kvm_lapic_state::default();
    for (register, byte) in state.regs.iter_mut().zip(bytes) {
        *register = byte.cast_signed();
    }
    Ok(Some(state))
}

/// Moves `vector` from in service back to requested: it was taken from the APIC, but its handler has not begun.
pub(super) fn give_back(bytes: &mut [u8], vector: u8) {
    let offset = usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
    let bit = 1 << (vector % 8);
    if let Some(byte) = bytes.get_mut(ISR + offset) {
        *byte &= !bit;
    }
    if let Some(byte) = bytes.get_mut(IRR + offset) {
        *byte |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_taken_but_not_begun_is_requested_again() {
        let mut page = vec![0; BYTES];
        page[ISR + 0x10 + 1] = 0b11;
        give_back(&mut page, 0x28);
        assert_eq!((page[ISR + 0x11], page[IRR + 0x11]), (0b10, 0b01));
        give_back(&mut page, 255);
        assert_eq!(page[IRR + 0x73], 0x80);
    }

    #[test]
    fn only_no_page_or_a_whole_one_is_taken() {
        assert!(registers(&[]).unwrap().is_none());
        assert!(registers(&[0; 1000]).is_err());
        let page: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
        assert_eq!(bytes(&registers(&page).unwrap().unwrap()), page);
    }
}
