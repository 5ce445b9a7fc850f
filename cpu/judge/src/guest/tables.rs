//! The guest's memory: page tables, descriptor tables and handlers: OUT to the port that stops the CPU, then a loop.
//!
//! ```text
//!   physical  1000 PML4   2000–5000 …  one table a page: user half, then kernel half
//!             A000 GDT and TSS   B000 IDT   C000 handlers   D000 kernel stack    also at ffff8000_0000a000 …, supervisor
//!             10000 code   11000 read-only   12000 data    at the addresses of crate::layout, user
//! ```
//!
//! Selectors are those of Linux, so that instructions that read segment registers agree.

use atoll_cpu_api::{DescriptorTable, Segment, Segments, VcpuState};
use atoll_memory::{PAGE, Ram};

use super::quiet::STOP_PORT;
use crate::layout::{CODE, DATA, READ_ONLY};

/// Bytes of memory the guest needs.
pub(super) const MEMORY: u64 = 0x2_0000;
/// Physical address of the code page.
pub(super) const CODE_AT: u64 = 0x1_0000;
/// Physical address of the data area.
pub(super) const DATA_AT: u64 = 0x1_2000;
const READ_ONLY_AT: u64 = 0x1_1000;
/// Physical address of the end of the kernel's stack.
pub(super) const STACK_END_AT: u64 = 0xE000;

const PML4: u64 = 0x1000;
/// First page free for lower tables.
const FIRST_TABLE: u64 = 0x2000;
const GDT: u64 = 0xA000;
const TSS: u64 = 0xA800;
const IDT: u64 = 0xB000;
const HANDLERS: u64 = 0xC000;
/// Where the kernel's pages appear: this plus their physical address.
const KERNEL: u64 = 0xFFFF_8000_0000_0000;
/// Vectors that have a handler: the processor's own.
const VECTORS: u64 = 32;
/// Distance between handlers.
const HANDLER_BYTES: u64 = 16;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const USER_DATA: u16 = 0x2B;
const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x40;

/// Linear address of the kernel stack's end, where exception frames are pushed.
pub(super) const STACK_END: u64 = KERNEL + STACK_END_AT;

/// Fills the guest's memory but for the data area and the case.
pub(super) fn load(ram: &Ram, read_only: &[u8]) {
    let mut next_table = FIRST_TABLE;
    let mut map = |linear: u64, physical: u64, flags: u64| {
        map_page(ram, &mut next_table, linear, physical, flags);
    };
    map(CODE, CODE_AT, PRESENT | WRITE | USER);
    map(READ_ONLY, READ_ONLY_AT, PRESENT | USER | NO_EXECUTE);
    map(DATA, DATA_AT, PRESENT | WRITE | USER | NO_EXECUTE);
    map(
        DATA + PAGE,
        DATA_AT + PAGE,
        PRESENT | WRITE | USER | NO_EXECUTE,
    );
    for physical in (GDT..STACK_END_AT).step_by(PAGE as usize) {
        map(KERNEL + physical, physical, PRESENT | WRITE);
    }
    ram.write(READ_ONLY_AT, read_only);
    load_descriptors(ram);
}

/// Enters one page into the tables, making those that are missing.
fn map_page(ram: &Ram, next_table: &mut u64, linear: u64, physical: u64, flags: u64) {
    let mut table = PML4;
    for shift in [39, 30, 21] {
        let entry = table + (linear >> shift & 511) * 8;
        let mut below: u64 = ram.load(entry);
        if below == 0 {
            below = *next_table | PRESENT | WRITE | USER;
            *next_table += PAGE;
            ram.store(entry, below);
        }
        table = below & !0xFFF;
    }
    ram.store(table + (linear >> 12 & 511) * 8, physical | flags);
}

/// GDT, TSS, IDT and handlers.
fn load_descriptors(ram: &Ram) {
    let task = KERNEL + TSS;
    let descriptors = [
        (KERNEL_CODE, 0x00AF_9B00_0000_FFFF),
        (KERNEL_DATA, 0x00CF_9300_0000_FFFF),
        (USER_DATA, 0x00CF_F300_0000_FFFF),
        (USER_CODE, 0x00AF_FB00_0000_FFFF),
        // Busy, as the processor that runs the task has it.
        (TASK, task_descriptor(task)),
        (TASK + 8, task >> 32),
    ];
    for (selector, descriptor) in descriptors {
        ram.store(GDT + u64::from(selector & !7), descriptor);
    }
    ram.store(TSS + 4, STACK_END);
    // The I/O map begins beyond the limit: no port is permitted.
    ram.store(TSS + 102, 104_u16);
    for vector in 0..VECTORS {
        let handler = KERNEL + HANDLERS + vector * HANDLER_BYTES;
        // Linux lets user code raise breakpoint and overflow.
        let level = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = handler & 0xFFFF
            | u64::from(KERNEL_CODE) << 16
            | (0x8E | level << 5) << 40
            | (handler >> 16 & 0xFFFF) << 48;
        ram.store(IDT + vector * 16, low);
        ram.store(IDT + vector * 16 + 8, handler >> 32);
        let code = [0xE6, STOP_PORT, 0xEB, 0xFE];
        ram.write(HANDLERS + vector * HANDLER_BYTES, &code);
    }
}

/// The lower half of the descriptor of a busy 64-bit TSS of 104 bytes at `base`.
fn task_descriptor(base: u64) -> u64 {
    0x67 | (base & 0xFF_FFFF) << 16 | 0x8B << 40 | (base >> 24 & 0xFF) << 56
}

/// The vector whose handler stopped the CPU with this RIP.
pub(super) fn vector_of(rip: u64) -> Option<u8> {
    let offset = rip.checked_sub(KERNEL + HANDLERS + 2)?;
    (offset < VECTORS * HANDLER_BYTES && offset.is_multiple_of(HANDLER_BYTES))
        .then_some((offset / HANDLER_BYTES) as u8)
}

/// Whether the processor pushes an error code for `vector`.
pub(super) fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// User mode with the control registers of Linux; registers of the case are still to be filled in.
pub(super) fn user_state() -> VcpuState {
    let table = |base, limit| DescriptorTable {
        base: KERNEL + base,
        limit,
    };
    let segment = |selector, limit, attributes| Segment {
        selector,
        base: 0,
        limit,
        attributes,
    };
    let null = Segment::default();
    VcpuState {
        segments: Segments {
            cs: segment(USER_CODE, u32::MAX, 0xA0FB),
            ss: segment(USER_DATA, u32::MAX, 0xC0F3),
            ds: null,
            es: null,
            fs: null,
            gs: null,
            ldtr: null,
            tr: Segment {
                base: KERNEL + TSS,
                ..segment(TASK, 0x67, 0x8B)
            },
        },
        gdtr: table(GDT, 0x4F),
        idtr: table(IDT, (VECTORS * 16 - 1) as u16),
        // PE, MP, ET, NE, WP, AM, PG.
        cr0: 0x8005_0033,
        cr3: PML4,
        // DE, PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
        cr4: 1 << 3 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18,
        // SCE, LME, LMA, NXE.
        efer: 0xD01,
        xcr0: 3,
        ..VcpuState::default()
    }
}
