//! The register page of a local APIC (Intel SDM vol. 3 table 11-1): 64 registers of 32 bits, 16 bytes apart.

/// Guest physical address of the register page, and of message-signalled interrupts.
pub const APIC_BASE: u64 = 0xFEE0_0000;
/// `IA32_APIC_BASE`.
pub const APIC_BASE_MSR: u32 = 0x1B;
/// `IA32_TSC_DEADLINE`.
pub const TSC_DEADLINE_MSR: u32 = 0x6E0;
/// Bytes of the page that hold registers: the form in which a local APIC is saved.
pub const PAGE_BYTES: usize = 1024;

/// First x2APIC register's MSR; the others follow, one for each 16 bytes of the page.
pub(super) const X2APIC_MSR: u32 = 0x800;

// Registers by number: offset in the page divided by 16, or MSR minus 0x800.
pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
pub(super) const PPR: u32 = 0x0A;
pub(super) const EOI: u32 = 0x0B;
pub(super) const LDR: u32 = 0x0D;
pub(super) const DFR: u32 = 0x0E;
pub(super) const SVR: u32 = 0x0F;
pub(super) const ISR: u32 = 0x10;
pub(super) const TMR: u32 = 0x18;
pub(super) const IRR: u32 = 0x20;
pub(super) const IRR_LAST: u32 = 0x27;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT_TIMER: u32 = 0x32;
pub(super) const LVT_THERMAL: u32 = 0x33;
pub(super) const LVT_COUNTERS: u32 = 0x34;
pub(super) const LVT_LINT0: u32 = 0x35;
pub(super) const LVT_LINT1: u32 = 0x36;
pub(super) const LVT_ERROR: u32 = 0x37;
pub(super) const INITIAL_COUNT: u32 = 0x38;
pub(super) const CURRENT_COUNT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3E;
pub(super) const SELF_IPI: u32 = 0x3F;

/// A local vector table entry's mask.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// The spurious-interrupt register's enable bit.
pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Illegal vector received (ESR).
pub(super) const ESR_RECEIVED: u32 = 1 << 6;
/// Illegal vector sent (ESR).
pub(super) const ESR_SENT: u32 = 1 << 5;

/// Bits of an entry of the local vector table that can be written.
pub(super) fn lvt_mask(register: u32) -> Option<u32> {
    match register {
        // Vector, mask, timer mode.
        LVT_TIMER => Some(0x0007_00FF),
        LVT_THERMAL | LVT_COUNTERS => Some(0x0001_07FF),
        // And polarity, trigger mode.
        LVT_LINT0 | LVT_LINT1 => Some(0x0001_A7FF),
        LVT_ERROR => Some(0x0001_00FF),
        _ => None,
    }
}
