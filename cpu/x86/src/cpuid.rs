//! What the software CPU says it is: an x86-64-v2 processor under a KVM-compatible hypervisor.

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' names")]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What CPUID's answer depends on besides the leaf.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// This CPU's APIC id.
    pub apic_id: u8,
    /// CPUs in the machine.
    pub cpus: u8,
    /// Frequency of the time stamp counter in kHz.
    pub tsc_khz: u32,
    /// CR4.OSXSAVE, which CPUID mirrors.
    pub osxsave: bool,
}

/// Leaf 1 ECX: SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, x2APIC, MOVBE no, POPCNT, TSC deadline, XSAVE, hypervisor.
const ECX_1: u32 =
    1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 26 | 1 << 31;
/// Leaf 1 EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
const EDX_1: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26
    | 1 << 27;
/// Leaf 7 EBX: FSGSBASE, SMEP, ERMS, SMAP.
const EBX_7: u32 = 1 | 1 << 7 | 1 << 9 | 1 << 20;
/// Leaf 7 EDX: SPEC_CTRL, ARCH_CAPABILITIES.
const EDX_7: u32 = 1 << 26 | 1 << 29;
/// IA32_ARCH_CAPABILITIES: a CPU in software speculates nothing, so none of the known leaks exist.
/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
/// BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;
/// Leaf 7 subleaf 2 EDX: BHI_CTRL. Newer systems do not believe BHI_NO and clear the branch history by a loop at every
/// entry, unless a bit of IA32_SPEC_CTRL does it.
const EDX_7_2: u32 = 1 << 4;
/// Whether the processor says that it can share out a cache and memory bandwidth: only where a kernel's resctrl is proved.
const SHARES: bool = cfg!(feature = "resctrl");
/// Leaf 7 EBX: RDT-M, RDT-A.
const EBX_7_SHARES: u32 = if SHARES { 1 << 12 | 1 << 15 } else { 0 };
/// Physical address bits shown.
pub const PHYSICAL_BITS: u32 = 40;

const BRAND: &[u8; 48] = b"Atoll software CPU, x86-64-v2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// Bytes of the XSAVE area: legacy region and header, no extended state.
pub const XSAVE_BYTES: u32 = 576;

/// The questions, leaf and subleaf, to which [`leaf`] has an answer that says what the processor can do.
pub const LEAVES: [(u32, u32); 13] = [
    (0, 0),
    (1, 0),
    (6, 0),
    (7, 0),
    (7, 1),
    (7, 2),
    (0xD, 0),
    (0xD, 1),
    (0x4000_0000, 0),
    (0x4000_0001, 0),
    (0x8000_0001, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
];

/// CPUID's answer (Intel SDM vol. 2 CPUID; hypervisor leaves: Linux Documentation/virt/kvm/x86/cpuid.rst).
pub fn leaf(leaf: u32, subleaf: u32, identity: Identity) -> Leaf {
    let of = |eax, ebx, ecx, edx| Leaf { eax, ebx, ecx, edx };
    match leaf {
        0 => of(
            if SHARES { 0x10 } else { 0xD },
            word(b"Genu", 0),
            word(b"ntel", 0),
            word(b"ineI", 0),
        ),
        1 => of(
            // Family 6, model 0x2C, stepping 2.
            0x0002_06C2,
            u32::from(identity.apic_id) << 24 | u32::from(identity.cpus) << 16 | 8 << 8,
            ECX_1 | if identity.osxsave { 1 << 27 } else { 0 },
            EDX_1 | if identity.cpus > 1 { 1 << 28 } else { 0 },
        ),
        // TLB and caches by leaf 4.
        2 => of(0x00FF_FF01, 0, 0, 0),
        4 => match subleaf {
            // 32 KiB data, 32 KiB code, 256 KiB unified, in this order; 64-byte lines, 8 ways.
            0 => of(0x0000_0121, 7 << 22 | 63, 63, 0),
            1 => of(0x0000_0122, 7 << 22 | 63, 63, 0),
            2 => of(0x0000_0143, 7 << 22 | 63, 511, 0),
            // 2 MiB unified, to be shared out.
            3 if SHARES => of(0x0000_0163, 7 << 22 | 63, 4095, 0),
            _ => Leaf::default(),
        },
        6 => of(1 << 2, 0, 0, 0),
        7 => match subleaf {
            0 => of(2, EBX_7 | EBX_7_SHARES, 0, EDX_7),
            2 => of(0, 0, 0, EDX_7_2),
            _ => Leaf::default(),
        },
        0xB => match subleaf {
            0 => of(0, 1, 0x100, u32::from(identity.apic_id)),
            1 => of(
                u32::from(identity.cpus)
                    .next_power_of_two()
                    .trailing_zeros(),
                u32::from(identity.cpus),
                0x201,
                u32::from(identity.apic_id),
            ),
            _ => of(0, 0, subleaf & 0xFF, u32::from(identity.apic_id)),
        },
        0xD => match subleaf {
            0 => of(3, XSAVE_BYTES, XSAVE_BYTES, 0),
            _ => Leaf::default(),
        },
        // What is measured of it, for eight groups: occupancy in units of 64 bytes, total and local traffic.
        0xF if SHARES => match subleaf {
            0 => of(0, 7, 0, 1 << 1),
            1 => of(0, 64, 7, 7),
            _ => Leaf::default(),
        },
        // Four groups with masks of 20 bits, and of bandwidth in steps of 10 percent.
        0x10 if SHARES => match subleaf {
            0 => of(0, 1 << 1 | 1 << 3, 0, 0),
            1 => of(19, 0, 0, 3),
            3 => of(89, 0, 1 << 2, 3),
            _ => Leaf::default(),
        },
        0x4000_0000 => of(
            0x4000_0010,
            word(b"KVMK", 0),
            word(b"VMKV", 0),
            word(b"M\0\0\0", 0),
        ),
        // kvmclock (old and new numbers), no I/O delay, PV EOI, stable clock between CPUs.
        0x4000_0001 => of(1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 24, 0, 0, 0),
        0x4000_0010 => of(identity.tsc_khz, 1_000_000, 0, 0),
        0x8000_0000 => of(0x8000_0008, 0, 0, 0),
        // LAHF in 64-bit mode; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
        0x8000_0001 => of(0, 0, 1, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29),
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            of(
                word(BRAND, at),
                word(BRAND, at + 4),
                word(BRAND, at + 8),
                word(BRAND, at + 12),
            )
        }
        0x8000_0006 => of(0, 0, 256 << 16 | 6 << 12 | 64, 0),
        // Invariant TSC.
        0x8000_0007 => of(0, 0, 0, 1 << 8),
        0x8000_0008 => of(48 << 8 | PHYSICAL_BITS, 0, 0, 0),
        _ => Leaf::default(),
    }
}
