//! The probe's guest: 64-bit mode, identity-mapped, no handler for any exception.

use atoll_cpu_api::{DescriptorTable, Segment, Segments, VcpuState};
use atoll_memory::Ram;

/// Where it says how far it came.
pub(super) const STAGE_PORT: u16 = 0x11;
/// Where it asks how long its next loop is; in ring 0, none at all sends it to ring 3.
pub(super) const LOOP_PORT: u16 = 0x10;
/// Rounds of the first loop, two instructions each.
pub(super) const FIRST_LOOP: u32 = 64;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const STACK: u64 = 0x6FF0;
const CODE: u64 = 0x8000;

/// Null; code and data of ring 0; code and data of ring 3.
const DESCRIPTORS: [u64; 5] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
    0x00CF_F300_0000_FFFF,
];

/// Assembled by hand; the comments are its source.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xB0, 0x01,                               //         mov al, 0x1
    0xE6, 0x11,                               //         out 0x11, al
    0xE5, 0x10,                               // again0: in eax, 0x10
    0x85, 0xC0,                               //         test eax, eax
    0x74, 0x07,                               //         je leave
    0x83, 0xE8, 0x01,                         // spin0:  sub eax, 0x1
    0x75, 0xFB,                               //         jne spin0
    0xEB, 0xF3,                               //         jmp again0
    0x6A, 0x23,                               // leave:  push 0x23             data of ring 3
    0x68, 0xF0, 0x6F, 0x00, 0x00,             //         push 0x6ff0           its stack
    0x68, 0x02, 0x30, 0x00, 0x00,             //         push 0x3002           flags: ports allowed to ring 3
    0x6A, 0x1B,                               //         push 0x1b             code of ring 3
    0x48, 0x8D, 0x05, 0x03, 0x00, 0x00, 0x00, //         lea rax, [rip+0x3]
    0x50,                                     //         push rax
    0x48, 0xCF,                               //         iretq
    0xB0, 0x02,                               // user:   mov al, 0x2
    0xE6, 0x11,                               //         out 0x11, al
    0xB8, 0x03, 0x00, 0x00, 0x00,             //         mov eax, 0x3
    0xF2, 0x0F, 0x2A, 0xC0,                   //         cvtsi2sd xmm0, eax
    0xF2, 0x0F, 0x58, 0xC0,                   //         addsd xmm0, xmm0
    0xF2, 0x0F, 0x2C, 0xC8,                   //         cvttsd2si ecx, xmm0
    0x83, 0xF9, 0x06,                         //         cmp ecx, 0x6
    0x75, 0x40,                               //         jne bad
    0xB0, 0x03,                               //         mov al, 0x3
    0xE6, 0x11,                               //         out 0x11, al
    0x48, 0x83, 0xEC, 0x20,                   //         sub rsp, 0x20
    0x48, 0x83, 0xE4, 0xF0,                   //         and rsp, 0xfffffffffffffff0
    0x31, 0xC0,                               //         xor eax, eax
    0x31, 0xD2,                               //         xor edx, edx
    0x48, 0x89, 0x04, 0x24,                   //         mov qword [rsp], rax
    0x48, 0x89, 0x54, 0x24, 0x08,             //         mov qword [rsp+0x8], rdx
    0xBB, 0x05, 0x00, 0x00, 0x00,             //         mov ebx, 0x5
    0xB9, 0x07, 0x00, 0x00, 0x00,             //         mov ecx, 0x7
    0xF0, 0x48, 0x0F, 0xC7, 0x0C, 0x24,       //         lock cmpxchg16b [rsp]
    0x75, 0x15,                               //         jne bad
    0x48, 0x83, 0x7C, 0x24, 0x08, 0x07,       //         cmp qword [rsp+0x8], 0x7
    0x75, 0x0D,                               //         jne bad
    0xB0, 0x04,                               //         mov al, 0x4
    0xE6, 0x11,                               //         out 0x11, al
    0xE5, 0x10,                               // again:  in eax, 0x10
    0x83, 0xE8, 0x01,                         // spin:   sub eax, 0x1
    0x75, 0xFB,                               //         jne spin
    0xEB, 0xF7,                               //         jmp again
    0x0F, 0x0B,                               // bad:    ud2
];

/// What the guest was about when it had reported `stage` last.
pub(super) fn stage(stage: u8) -> &'static str {
    match stage {
        0 => "64-bit mode",
        1 => "a loop in ring 0, or entering ring 3",
        2 => "SSE",
        3 => "CMPXCHG16B",
        _ => "a loop in ring 3",
    }
}

/// Writes program and tables; `ram` is at least 64 KiB.
pub(super) fn load(ram: &Ram) {
    const PRESENT_WRITABLE_USER: u64 = 7;
    const LARGE: u64 = 0x80;
    ram.store(PML4, PDPT | PRESENT_WRITABLE_USER);
    ram.store(PDPT, DIRECTORY | PRESENT_WRITABLE_USER);
    ram.store(DIRECTORY, LARGE | PRESENT_WRITABLE_USER);
    for (at, descriptor) in (0..).zip(DESCRIPTORS) {
        ram.store(GDT + 8 * at, descriptor);
    }
    ram.write(CODE, PROGRAM);
}

/// The state in which the guest begins.
pub(super) fn state() -> VcpuState {
    let segment = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    let data = segment(0x10, 0xC093);
    let reset = VcpuState::default();
    let mut state = VcpuState {
        rip: CODE,
        segments: Segments {
            es: data,
            cs: segment(0x08, 0xA09B),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ..reset.segments
        },
        gdtr: DescriptorTable {
            base: GDT,
            limit: 39,
        },
        // Protection, FPU, write protection, paging.
        cr0: 0x8001_0033,
        cr3: PML4,
        // Physical address extension, FXSAVE, SSE exceptions.
        cr4: 0x620,
        // Long mode, enabled and active.
        efer: 0x500,
        ..reset
    };
    state.registers[4] = STACK;
    state
}
