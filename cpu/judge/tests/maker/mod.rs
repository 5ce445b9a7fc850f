//! What processors of different makers do differently, by their manuals or by what they were seen to do. The interpreter is
//! Intel's in this; another maker's processor is no judge of it.

use std::sync::OnceLock;

use atoll_judge::Case;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Whether the host's processor may judge `case`.
pub(crate) fn may_judge(case: &Case) -> bool {
    is_intel() || !with_bytes(case).any(|(one, bytes)| is_up_to_maker(&one, bytes))
}

fn is_intel() -> bool {
    static IS_INTEL: OnceLock<bool> = OnceLock::new();
    *IS_INTEL.get_or_init(|| {
        let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        facts.contains("GenuineIntel")
    })
}

/// The instructions of `case`, each with its bytes.
fn with_bytes(case: &Case) -> impl Iterator<Item = (Instruction, &[u8])> {
    let mut decoder = Decoder::with_ip(64, &case.code, case.state.rip, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let start = decoder.position();
        (start < case.code.len()).then(|| {
            let one = decoder.decode();
            (one, &case.code[start..decoder.position()])
        })
    })
}

/// Whether AMD's processors do it in their own way.
fn is_up_to_maker(one: &Instruction, bytes: &[u8]) -> bool {
    // APM vol. 3 "PREFETCH": with a register it is invalid, for Intel a hint that does nothing.
    let is_reserved = format!("{:?}", one.code()).starts_with("Reservednop");
    // APM vol. 2 §11.4.4: where an x87 instruction was is saved with its exception only. FISTTP that cannot store looks at
    // its address first.
    let is_x87 = matches!(
        one.mnemonic(),
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fisttp
    );
    // What is left in RCX and the flags when none is executed, or when one of several faults.
    let is_repeated = one.has_rep_prefix() || one.has_repne_prefix();
    // Which exception an address beyond the user's half raises.
    let is_far = matches!(one.segment_prefix(), Register::FS | Register::GS);
    // When the top of the stack is reset if the store faults.
    let is_mmx_store = one.op0_kind() == OpKind::Memory && one.op1_register().is_mm();
    // APM vol. 1 §3.7.9: the operand's size is two bytes, for Intel always eight.
    let is_short = one.flow_control() != FlowControl::Next && bytes.contains(&0x66);
    is_reserved || is_x87 || is_repeated || is_far || is_mmx_store || is_short
}
