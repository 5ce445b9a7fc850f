//! Which instructions are generated: what a user program may execute on the CPU model shown, x86-64-v2.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeOperandKind,
};

/// What the model shows.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    // Not shown, but compilers and C libraries put ENDBR64 and RDSSPQ everywhere: they do nothing.
    CpuidFeature::CET_IBT,
    CpuidFeature::CET_SS,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CX8,
    CpuidFeature::CLFSH,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::MMX,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
];

/// What differs legitimately between processors or kernels, or enters the kernel.
const LEFT_OUT: &[Mnemonic] = &[
    // The kernel's services and its emulations (user-mode instruction prevention).
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Smsw,
    Mnemonic::Str,
    // The host's descriptors.
    Mnemonic::Lar,
    Mnemonic::Lsl,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Lfs,
    Mnemonic::Lgs,
    Mnemonic::Lss,
    Mnemonic::Iret,
    Mnemonic::Iretd,
    Mnemonic::Iretq,
    Mnemonic::Retf,
];

/// The codes that are generated.
pub(super) fn codes() -> Vec<Code> {
    Code::values().filter(|code| is_usable(*code)).collect()
}

/// Whether `code` is one of them.
pub(super) fn is_usable(code: Code) -> bool {
    let op_code = code.op_code();
    let far = [OpCodeOperandKind::farbr2_2, OpCodeOperandKind::farbr4_2];
    let to_segment = op_code.op_kinds().first() == Some(&OpCodeOperandKind::seg_reg)
        || matches!(code.mnemonic(), Mnemonic::Pop) && segment_operand(code);
    op_code.is_instruction()
        && op_code.encoding() == EncodingKind::Legacy
        && op_code.mode64()
        && op_code.intel_decoder64()
        && op_code.decoder_option() == 0
        && !op_code.fwait()
        && code
            .cpuid_features()
            .iter()
            .all(|feature| FEATURES.contains(feature))
        && !matches!(
            code.flow_control(),
            FlowControl::Interrupt | FlowControl::XbeginXabortXend
        )
        && !op_code.op_kinds().iter().any(|kind| far.contains(kind))
        && !is_far_indirect(code)
        && !to_segment
        && !LEFT_OUT.contains(&code.mnemonic())
        && !matches!(code, Code::Bswap_r16)
}

/// Whether these bytes, which decode as `instruction`, may be executed though they were not generated as such.
pub(super) fn is_harmless(instruction: &Instruction) -> bool {
    // Newer processors take F3 BSF and F3 BSR for TZCNT and LZCNT; iced-x86 does, too, with few exceptions.
    let bit_scan = is_bit_scan(instruction.code()) && instruction.has_rep_prefix();
    instruction.is_invalid() || is_usable(instruction.code()) && !bit_scan
}

fn is_bit_scan(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr)
}

fn is_far_indirect(code: Code) -> bool {
    let name = format!("{code:?}");
    name.starts_with("Call_m16") || name.starts_with("Jmp_m16")
}

fn segment_operand(code: Code) -> bool {
    code.op_code().op_kinds().iter().any(|kind| {
        matches!(
            kind,
            OpCodeOperandKind::fs | OpCodeOperandKind::gs | OpCodeOperandKind::seg_reg
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_covered_and_nothing_beyond() {
        let codes = codes();
        for code in [
            Code::Add_rm64_r64,
            Code::Bsf_r64_rm64,
            Code::Pcmpistri_xmm_xmmm128_imm8,
            Code::Fsin,
            Code::Cmpxchg16b_m128,
            Code::Jmp_rel32_64,
            Code::Hlt,
        ] {
            assert!(codes.contains(&code), "{code:?}");
        }
        for code in [
            Code::Syscall,
            Code::Int_imm8,
            Code::VEX_Vzeroupper,
            Code::Tzcnt_r64_rm64,
            Code::Movbe_r64_m64,
            Code::Rdtsc,
            Code::Call_m1664,
            Code::Mov_Sreg_rm16,
            Code::Popq_FS,
        ] {
            assert!(!codes.contains(&code), "{code:?}");
        }
        assert!((1000..1800).contains(&codes.len()), "{}", codes.len());
    }
}
