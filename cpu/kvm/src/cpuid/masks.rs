//! Which bits of which CPUID leaves a guest may see. Numbers as in Intel SDM vol. 2 "CPUID" and AMD APM vol. 3
//! appendix E.

/// The last basic leaf shown.
pub(super) const LIMIT: u32 = 0xD;
/// The last extended leaf shown.
pub(super) const EXTENDED_LIMIT: u32 = 0x8000_0021;
/// The first leaf of the hypervisor's own.
pub(super) const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// `NOP_IO_DELAY`, `CLOCKSOURCE2`, `PV_EOI`, `CLOCKSOURCE_STABLE_BIT` (Documentation/virt/kvm/x86/cpuid.rst).
pub(super) const HYPERVISOR_FEATURES: u32 = bits(&[1, 3, 6, 24]);
/// Vector state that a guest may turn on: x87, SSE, AVX, AVX-512 (5 to 7), protection keys (9).
pub(crate) const XCR0_SHOWN: u64 = 0b10_1110_0111;

const ALL: u32 = u32::MAX;

/// The visible bits of one leaf.
pub(super) struct Mask {
    pub(super) function: u32,
    /// The subleaf; `None` is all of them.
    index: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub(super) registers: [u32; 4],
}

impl Mask {
    pub(super) fn takes(&self, index: u32) -> bool {
        self.index.is_none_or(|own| own == index)
    }
}

const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < list.len() {
        mask |= 1 << list[at];
        at += 1;
    }
    mask
}

const fn leaf(function: u32, registers: [u32; 4]) -> Mask {
    subleaf(function, 0, registers)
}

const fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> Mask {
    Mask {
        function,
        index: Some(index),
        registers,
    }
}

const fn each(function: u32, registers: [u32; 4]) -> Mask {
    Mask {
        function,
        index: None,
        registers,
    }
}

/// SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline, AES, XSAVE, AVX,
/// F16C, RDRAND, hypervisor.
const BASIC_ECX: u32 = bits(&[
    0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31,
]);
/// All of x86-64's base but debug store, ACPI, thermal monitor, pending break and threads.
const BASIC_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27,
]);
/// FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, no FPU CS/DS, AVX-512 F and DQ, RDSEED,
/// ADX, SMAP, AVX-512 IFMA, CLFLUSHOPT, CLWB, AVX-512 CD, SHA, AVX-512 BW and VL.
const STRUCTURED_EBX: u32 = bits(&[
    0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
]);
/// AVX-512 VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, CLDEMOTE, MOVDIRI,
/// MOVDIR64B. Not LA57: it costs a level of every walk and no guest needs it.
const STRUCTURED_ECX: u32 = bits(&[1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]);
/// FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX-512 FP16, and the mitigations: SPEC_CTRL, STIBP, FLUSH_L1D,
/// ARCH_CAPABILITIES, SSBD.
const STRUCTURED_EDX: u32 = bits(&[4, 8, 10, 14, 23, 26, 27, 28, 29, 31]);
/// LAHF64, LZCNT, SSE4A, misaligned SSE, PREFETCHW.
const EXTENDED_ECX: u32 = bits(&[0, 5, 6, 7, 8]);
/// The base again, SYSCALL, NX, extended MMX, fast FXSAVE, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29,
]);
/// CLZERO, XSAVEERPTR, WBNOINVD, and the mitigations: IBPB, IBRS, STIBP and their variants, SSBD, PSFD.
const EXTENDED_FEATURES: u32 = bits(&[0, 2, 9, 12, 14, 15, 16, 17, 18, 19, 24, 25, 26, 28]);

/// Every visible leaf but those of topology (0xB) and of the hypervisor, which are made.
pub(super) const MASKS: &[Mask] = &[
    leaf(0, [ALL; 4]),
    leaf(1, [ALL, ALL, BASIC_ECX, BASIC_EDX]),
    each(2, [ALL; 4]),
    each(4, [ALL; 4]),
    // A local APIC timer that runs in every sleep state.
    leaf(6, [bits(&[2]), 0, 0, 0]),
    subleaf(7, 0, [ALL, STRUCTURED_EBX, STRUCTURED_ECX, STRUCTURED_EDX]),
    // AVX-VNNI, AVX-512 BF16, fast short string operations, AVX-IFMA; AVX-VNNI-INT8, AVX-NE-CONVERT.
    subleaf(7, 1, [bits(&[4, 5, 10, 11, 12, 23]), 0, 0, bits(&[4, 5])]),
    // Mitigations.
    subleaf(7, 2, [0, 0, 0, bits(&[0, 1, 2, 3, 4, 5])]),
    subleaf(0xD, 0, [ALL, ALL, ALL, 0]),
    // XSAVEOPT, XSAVEC, XGETBV of 1, XSAVES without any supervisor state.
    subleaf(0xD, 1, [bits(&[0, 1, 2, 3]), ALL, 0, 0]),
    each(0xD, [ALL; 4]),
    leaf(0x8000_0000, [ALL; 4]),
    leaf(0x8000_0001, [ALL, ALL, EXTENDED_ECX, EXTENDED_EDX]),
    leaf(0x8000_0002, [ALL; 4]),
    leaf(0x8000_0003, [ALL; 4]),
    leaf(0x8000_0004, [ALL; 4]),
    leaf(0x8000_0005, [ALL; 4]),
    leaf(0x8000_0006, [ALL; 4]),
    // A TSC that never changes its pace.
    leaf(0x8000_0007, [0, 0, 0, bits(&[8])]),
    leaf(0x8000_0008, [ALL, EXTENDED_FEATURES, 0, 0]),
    // No data breakpoints of nested guests, LFENCE serialises, null selectors clear the base, automatic IBRS.
    leaf(0x8000_0021, [bits(&[0, 2, 6, 8]), 0, 0, 0]),
];
