//! The end of an interrupt without leaving the guest (Linux Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_PV_EOI_EN`).
//!
//! ```text
//!   interrupt taken, edge-triggered, none waits ─► offer: bit 0 of the guest's word set
//!        guest: bit set? clear it, done; else write the EOI register
//!   next look at the controller ─► settle: bit cleared: end the interrupt; still set: clear it, the guest will write
//! ```
//!
//! Whatever reads or changes the controller settles first, and so does leaving the loop: a saved state holds no offer.
//! A level-triggered interrupt is never offered, because the I/O APIC waits for its end.

use crate::cpu::Cpu;
use crate::exception::GP;
use crate::msr::KVM_PV_EOI;
use crate::op::Fault;

/// The register's and the word's bit.
const ENABLED: u64 = 1;

impl Cpu {
    /// Takes the guest's word; #GP where it is not aligned or not in memory, as KVM has it.
    pub(crate) fn write_paravirtual_eoi(&mut self, value: u64) -> Result<(), Fault> {
        self.settle_end_of_interrupt();
        let address = value & !ENABLED;
        let is_usable = address.is_multiple_of(4) && self.ram.offset_of(address).is_some();
        if value & ENABLED != 0 && !is_usable {
            return Err(self.raise(GP, Some(0)));
        }
        self.msrs.set_other(KVM_PV_EOI, value);
        Ok(())
    }

    /// The offset in memory of the guest's word, while it wants offers.
    fn word(&self) -> Option<u64> {
        let value = self.msrs.other(KVM_PV_EOI);
        let address = value & !ENABLED;
        // A restored state may name any address.
        (value & ENABLED != 0 && address.is_multiple_of(4))
            .then(|| self.ram.offset_of(address))
            .flatten()
    }

    /// An interrupt was just taken: lets the guest end it silently where nobody has to know at once.
    pub(crate) fn offer_end_of_interrupt(&mut self) {
        let Some(offset) = self.word() else {
            return;
        };
        let is_simple = self
            .controller
            .as_ref()
            .is_some_and(|controller| controller.end_can_wait());
        if is_simple {
            self.put_word(offset, self.ram.load::<u8>(offset) | 1);
            self.end_is_offered = true;
        }
    }

    /// Ends the interrupt that the guest ended silently, or takes the offer back.
    #[inline]
    pub(crate) fn settle_end_of_interrupt(&mut self) {
        if self.end_is_offered {
            self.settle();
        }
    }

    #[cold]
    fn settle(&mut self) {
        self.end_is_offered = false;
        let Some(offset) = self.word() else {
            return;
        };
        let seen: u8 = self.ram.load(offset);
        if seen & 1 != 0 {
            self.put_word(offset, seen & !1);
        } else if let Some(controller) = &self.controller {
            controller.end_of_interrupt();
        }
    }

    fn put_word(&self, offset: u64, value: u8) {
        self.ram.store(offset, value);
        self.ram.code_pages().written(offset, 1);
    }
}
