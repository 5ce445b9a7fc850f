//! The state of one virtual CPU, in one format for every backend.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything architectural about one CPU. Serialised as it stands; fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order in which instructions number them.
    pub registers: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// RFLAGS; bit 1 is always set.
    pub rflags: u64,
    /// Segment registers with their hidden parts.
    pub segments: Segments,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 2: the last page fault's address.
    pub cr2: u64,
    /// Control register 3: the page tables.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Control register 8: the task priority, 0 to 15.
    pub cr8: u64,
    /// Extended feature enable register.
    pub efer: u64,
    /// Extended control register 0: which state XSAVE handles.
    pub xcr0: u64,
    /// Debug registers 0 to 3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Floating point and vector registers.
    pub fpu: Fpu,
    /// The time stamp counter.
    pub tsc: u64,
    /// Model-specific registers by number, but for those that have a field of their own (EFER, TSC, FS and GS base).
    pub msrs: BTreeMap<u32, u64>,
    /// What it is doing.
    pub activity: Activity,
    /// The instruction before was STI or a load of SS: no interrupt before the next instruction.
    pub interrupt_shadow: bool,
    /// An NMI is being handled: no other until IRET.
    pub nmi_blocked: bool,
    /// The local APIC's registers as the 4 KiB page of xAPIC shows them (the first 1024 bytes); empty when the backend
    /// leaves it to the machine.
    pub local_apic: Vec<u8>,
    /// An NMI waits to be handled.
    #[serde(default)]
    pub nmi_pending: bool,
    /// Vector state beyond [`Fpu`], of backends that show it: the bytes of each XSAVE component (2 is the upper half of
    /// YMM0 to YMM15, Intel SDM vol. 1 §13.1) that is not in its initial state.
    #[serde(default)]
    pub extended: BTreeMap<u8, Vec<u8>>,
}

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Executes instructions.
    #[default]
    Running,
    /// Executed HLT and waits for an interrupt.
    Halted,
    /// Waits for a start-up message (all but the first CPU, at first).
    WaitingForStartup,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Where it begins.
    pub base: u64,
    /// The last valid offset, in bytes.
    pub limit: u32,
    /// Bits 40 to 55 of the descriptor, without the limit's: type (0–3), S (4), DPL (5–6), P (7), AVL (12), L (13),
    /// D/B (14), G (15). 0 when unusable.
    pub attributes: u16,
}

/// All segment registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct Segments {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ldtr: Segment,
    pub tr: Segment,
}

/// Where a descriptor table lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Its last byte's offset.
    pub limit: u16,
}

/// An x87 register: 64 bits of significand below 16 of sign and exponent.
pub type X87 = u128;

/// x87, MMX and SSE state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// ST(0) to ST(7), as seen from the top of the stack; the MMX registers are their significands, rotated by the top.
    pub st: [X87; 8],
    /// Control word.
    pub control: u16,
    /// Status word, the top of the stack in bits 11 to 13.
    pub status: u16,
    /// A bit a physical register: set when it is in use (the abridged tag word of FXSAVE).
    pub tags: u8,
    /// Last instruction's opcode, 11 bits.
    pub opcode: u16,
    /// Last instruction's address.
    pub instruction: u64,
    /// Last operand's address.
    pub operand: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
}

impl Default for Fpu {
    /// As after FNINIT and at reset.
    fn default() -> Self {
        Self {
            st: [0; 8],
            control: 0x37F,
            status: 0,
            tags: 0,
            opcode: 0,
            instruction: 0,
            operand: 0,
            mxcsr: 0x1F80,
            xmm: [0; 16],
        }
    }
}

impl Default for VcpuState {
    /// As after reset (Intel SDM vol. 3 table 10-1), without any firmware.
    fn default() -> Self {
        let data = Segment {
            selector: 0,
            base: 0,
            limit: 0xFFFF,
            attributes: 0x93,
        };
        let code = Segment {
            selector: 0xF000,
            base: 0xFFFF_0000,
            limit: 0xFFFF,
            attributes: 0x9B,
        };
        let table = DescriptorTable {
            base: 0,
            limit: 0xFFFF,
        };
        let system = |kind| Segment {
            selector: 0,
            base: 0,
            limit: 0xFFFF,
            attributes: kind,
        };
        Self {
            registers: [0; 16],
            rip: 0xFFF0,
            rflags: 2,
            segments: Segments {
                es: data,
                cs: code,
                ss: data,
                ds: data,
                fs: data,
                gs: data,
                ldtr: system(0x82),
                tr: system(0x8B),
            },
            gdtr: table,
            idtr: table,
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0xFFFF_0FF0,
            dr7: 0x400,
            fpu: Fpu::default(),
            tsc: 0,
            msrs: BTreeMap::new(),
            activity: Activity::Running,
            interrupt_shadow: false,
            nmi_blocked: false,
            local_apic: Vec::new(),
            nmi_pending: false,
            extended: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_serialised_form() {
        let mut state = VcpuState::default();
        state.fpu.xmm[3] = u128::MAX - 5;
        state.msrs.insert(0x4B56_4D01, u64::MAX);
        state.activity = Activity::Halted;
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<VcpuState>(&text).unwrap(), state);
    }
}
