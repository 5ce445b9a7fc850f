//! The processor's state, as instructions see it.

use std::sync::Arc;

use atoll_cpu_api::{
    Activity, Attention, Bus, CpuError, DescriptorTable, InterruptController, Segment, Stop,
    TscClock,
};
use atoll_memory::Ram;
use atoll_x86::flags::{Flags, STATUS};

use crate::block::FetchedPages;
use crate::fpu::FpuState;
use crate::handlers::Handlers;
use crate::lower::Lowered;
use crate::msr::Msrs;
use crate::op::{Fault, RIP};
use crate::paging::Paging;
use crate::peers::Peers;
use crate::tlb::{Context, Tlb};

/// Trap flag.
pub(crate) const TF: u64 = 1 << 8;
/// Interrupts enabled.
pub(crate) const IF: u64 = 1 << 9;
/// Strings run downwards.
pub(crate) const DF: u64 = 1 << 10;
/// I/O privilege level.
pub(crate) const IOPL: u64 = 3 << 12;
/// Nested task.
pub(crate) const NT: u64 = 1 << 14;
/// No debug exception for one instruction.
pub(crate) const RF: u64 = 1 << 16;
/// Alignment check; with SMAP, supervisor access to user pages.
pub(crate) const AC: u64 = 1 << 18;
/// CPUID exists: software may toggle it.
pub(crate) const ID: u64 = 1 << 21;
/// Virtual 8086 mode.
pub(crate) const VM: u64 = 1 << 17;

/// CR0: protected mode.
pub(crate) const CR0_PE: u64 = 1;
/// CR0: no x87.
pub(crate) const CR0_EM: u64 = 1 << 2;
/// CR0: floating point belongs to another task.
pub(crate) const CR0_TS: u64 = 1 << 3;
/// CR0: supervisor respects read-only pages.
pub(crate) const CR0_WP: u64 = 1 << 16;
/// CR0: paging.
pub(crate) const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
pub(crate) const CR4_PAE: u64 = 1 << 5;
/// CR4: global pages.
pub(crate) const CR4_PGE: u64 = 1 << 7;
/// CR4: SSE is known to the system.
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
/// CR4: user code may not read descriptor table addresses.
pub(crate) const CR4_UMIP: u64 = 1 << 11;
/// CR4: RDFSBASE and its like.
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4: XSAVE is known to the system.
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: the supervisor executes no user pages.
pub(crate) const CR4_SMEP: u64 = 1 << 20;
/// CR4: the supervisor reads no user pages.
pub(crate) const CR4_SMAP: u64 = 1 << 21;
/// The bits of CR4 that exist: VME no; TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP,
/// SMAP.
pub(crate) const CR4_KNOWN: u64 = 1 << 2
    | 1 << 3
    | 1 << 4
    | CR4_PAE
    | 1 << 6
    | CR4_PGE
    | 1 << 8
    | CR4_OSFXSR
    | 1 << 10
    | CR4_FSGSBASE
    | CR4_OSXSAVE
    | CR4_SMEP
    | CR4_SMAP;
/// EFER: SYSCALL.
pub(crate) const EFER_SCE: u64 = 1;
/// EFER: long mode wanted.
pub(crate) const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub(crate) const EFER_LMA: u64 = 1 << 10;
/// EFER: no-execute pages.
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// Slots of [`Cpu::segments`] and [`Cpu::seg_base`], in the order in which instructions number them.
pub(crate) const ES: usize = 0;
/// Code.
pub(crate) const CS: usize = 1;
/// Stack.
pub(crate) const SS: usize = 2;
/// Data.
pub(crate) const DS: usize = 3;
/// FS.
pub(crate) const FS: usize = 4;
/// GS.
pub(crate) const GS: usize = 5;

/// RSP's slot in [`Cpu::regs`].
pub(crate) const RSP: usize = 4;

/// Why an instruction did not happen.
#[derive(Debug)]
pub(crate) enum Pending {
    /// Nothing.
    None,
    /// An exception with its vector and error code.
    Exception(u8, Option<u32>),
    /// It would change decoded code: execute it alone.
    Restart,
    /// The CPU cannot go on.
    Error(CpuError),
    /// It stops.
    Stop(Stop),
}

/// How wide the current code segment's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Real mode, or a 16-bit segment.
    Bits16,
    /// A 32-bit segment.
    Bits32,
    /// A 64-bit segment.
    Bits64,
}

/// One processor. In this order in memory: what instructions touch lies together.
#[repr(C)]
pub(crate) struct Cpu {
    /// General registers in slots 0 to 15, [`ZERO`](crate::op::ZERO) and [`RIP`]; the rest unused.
    pub(crate) regs: [u64; 32],
    /// Status flags.
    pub(crate) flags: Flags,
    /// The other flags of RFLAGS.
    pub(crate) system_flags: u64,
    /// Next instruction, valid between blocks.
    pub(crate) rip: u64,
    /// Segment bases as addresses use them: 0 for CS, DS, ES and SS in 64-bit mode.
    pub(crate) seg_base: [u64; 8],
    /// As whom loads and stores happen.
    pub(crate) context: Context,
    /// As whom descriptor tables are read.
    pub(crate) system_context: Context,
    /// Guest memory.
    pub(crate) ram: Ram,
    /// Translations.
    pub(crate) tlb: Tlb,
    /// What translation depends on.
    pub(crate) paging: Paging,
    /// Current privilege level.
    pub(crate) cpl: u8,
    /// Width of the code.
    pub(crate) mode: Mode,
    /// Why the last instruction did not happen.
    pub(crate) pending: Pending,
    /// Operations of the block that did not happen, the one at fault included.
    pub(crate) not_done: usize,
    /// The address of the page fault in `pending`.
    pub(crate) fault_address: u64,
    /// The #GP in `pending` comes from an address that is not canonical.
    pub(crate) non_canonical: bool,
    /// An instruction runs alone: it may overwrite decoded code.
    pub(crate) alone: bool,
    /// Blocks left until events are looked at.
    pub(crate) budget: u32,
    /// The controller may have an interrupt.
    pub(crate) interrupt_hint: bool,
    /// The guest may end the interrupt in service silently.
    pub(crate) end_is_offered: bool,
    /// No interrupt before the next instruction.
    pub(crate) shadow: bool,
    /// An instruction executed alone ends in a debug trap when TF was set before it.
    pub(crate) step_traps: bool,
    /// An NMI is being handled.
    pub(crate) nmi_blocked: bool,
    /// What it does.
    pub(crate) activity: Activity,
    /// Raised when pages found by linear address may be others; see [`crate::block`].
    pub(crate) local_generation: u32,
    /// The same for global pages.
    pub(crate) global_generation: u32,
    /// The last generation given out.
    pub(crate) last_generation: u32,
    /// Pages that code was fetched from by linear address.
    pub(crate) fetched_pages: FetchedPages,
    /// One of them that may be another.
    pub(crate) forgotten_page: Option<u64>,
    /// It slept for long.
    pub(crate) has_rested: bool,
    /// Room for the operations of a block that is being decoded.
    pub(crate) decoded: Vec<Lowered>,

    /// ES, CS, SS, DS, FS, GS with hidden parts.
    pub(crate) segments: [Segment; 6],
    /// Local descriptor table.
    pub(crate) ldtr: Segment,
    /// Task register.
    pub(crate) tr: Segment,
    /// Global descriptor table.
    pub(crate) gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub(crate) idtr: DescriptorTable,
    /// Control register 0.
    pub(crate) cr0: u64,
    /// Control register 2.
    pub(crate) cr2: u64,
    /// Control register 3.
    pub(crate) cr3: u64,
    /// Control register 4.
    pub(crate) cr4: u64,
    /// EFER.
    pub(crate) efer: u64,
    /// XCR0.
    pub(crate) xcr0: u64,
    /// Debug registers; 4 and 5 unused.
    pub(crate) dr: [u64; 8],
    /// Other model-specific registers.
    pub(crate) msrs: Msrs,
    /// Floating point and vectors.
    pub(crate) fpu: FpuState,

    /// Its number and APIC id.
    pub(crate) index: u8,
    /// CPUs in the machine.
    pub(crate) cpus: u8,
    /// The machine's other CPUs.
    pub(crate) peers: Arc<Peers>,
    /// Time stamp counter.
    pub(crate) clock: TscClock,
    /// Added to the clock.
    pub(crate) tsc_offset: u64,
    /// Local APIC.
    pub(crate) controller: Option<Arc<dyn InterruptController>>,
    /// Requests of other threads.
    pub(crate) attention: Arc<Attention>,
    /// Ports and devices.
    pub(crate) bus: Arc<dyn Bus>,
    /// Instructions executed.
    pub(crate) instructions: u64,
    /// What executes operations; long, so the last.
    pub(crate) handlers: Handlers,
}

impl Cpu {
    /// Raises an exception.
    #[cold]
    pub(crate) fn raise(&mut self, vector: u8, code: Option<u32>) -> Fault {
        self.pending = Pending::Exception(vector, code);
        Fault
    }

    /// Gives up with an error.
    #[cold]
    pub(crate) fn unsupported(&mut self, what: impl Into<String>) -> Fault {
        self.pending = Pending::Error(CpuError::Unsupported {
            rip: self.regs[usize::from(RIP)],
            what: what.into(),
        });
        Fault
    }

    /// RFLAGS whole.
    pub(crate) fn rflags(&self) -> u64 {
        self.flags.bits() | self.system_flags | 2
    }

    /// Sets RFLAGS whole.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        let before = self.system_flags;
        self.flags = Flags::from_bits(value);
        self.system_flags = value & !STATUS & (TF | IF | DF | IOPL | NT | VM | AC | ID);
        if (before ^ self.system_flags) & AC != 0 {
            self.update_context();
        }
        if self.system_flags & TF != 0 {
            self.look_at_events();
        } else if self.system_flags & IF & !before != 0 {
            self.interrupts_enabled();
        }
    }

    /// Makes the loop look at events before the next block.
    #[inline]
    pub(crate) fn look_at_events(&mut self) {
        self.budget = 0;
    }

    /// IF was set: what waited for it may come now.
    #[inline]
    pub(crate) fn interrupts_enabled(&mut self) {
        if self.interrupt_hint || self.attention.is_raised() {
            self.look_at_events();
        }
    }

    /// Whether long mode is active.
    #[inline(always)]
    pub(crate) fn is_long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether protected mode is on.
    #[inline]
    pub(crate) fn is_protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }

    /// The time stamp counter.
    pub(crate) fn tsc(&self) -> u64 {
        self.clock.now().wrapping_add(self.tsc_offset)
    }

    /// Works out as whom memory is accessed, after CPL, CR4 or AC changed.
    pub(crate) fn update_context(&mut self) {
        let smap = self.cr4 & CR4_SMAP != 0;
        self.system_context = if smap {
            Context::Supervisor
        } else {
            Context::SupervisorUserAccess
        };
        self.context = match self.cpl {
            3 => Context::User,
            _ if smap && self.system_flags & AC == 0 => Context::Supervisor,
            _ => Context::SupervisorUserAccess,
        };
    }

    /// Works out what depends on CS, CR0 and EFER: mode, privilege, bases.
    pub(crate) fn update_mode(&mut self) {
        let code = self.segments[CS];
        self.mode = if self.is_long_mode() && code.attributes & 1 << 13 != 0 {
            Mode::Bits64
        } else if code.attributes & 1 << 14 != 0 {
            Mode::Bits32
        } else {
            Mode::Bits16
        };
        self.cpl = if self.is_protected() {
            (self.segments[SS].attributes >> 5 & 3) as u8
        } else {
            0
        };
        for slot in 0..6 {
            self.update_base(slot);
        }
        self.update_context();
    }

    /// Works out the base that addresses in segment `slot` use.
    pub(crate) fn update_base(&mut self, slot: usize) {
        let flat = self.mode == Mode::Bits64 && slot != FS && slot != GS;
        self.seg_base[slot] = if flat { 0 } else { self.segments[slot].base };
    }

    /// Works out what translation depends on, and forgets all translations.
    pub(crate) fn update_paging(&mut self) {
        self.paging = Paging {
            enabled: self.cr0 & CR0_PG != 0,
            root: self.cr3,
            write_protect: self.cr0 & CR0_WP != 0,
            no_execute: self.efer & EFER_NXE != 0,
            smep: self.cr4 & CR4_SMEP != 0,
            global: self.cr4 & CR4_PGE != 0,
        };
        self.forget_translations(false);
    }

    /// Forgets translations: all, or all that are not global.
    pub(crate) fn forget_translations(&mut self, keep_global: bool) {
        self.tlb.forget_all(keep_global);
        self.local_generation = self.new_generation();
        if !keep_global {
            self.global_generation = self.new_generation();
        }
    }

    /// Forgets which pages code was fetched from.
    pub(crate) fn forget_fetched(&mut self) {
        self.local_generation = self.new_generation();
        self.global_generation = self.new_generation();
    }

    /// Whether what was found with `generation` has not been forgotten since.
    #[inline(always)]
    pub(crate) fn has_generation(&self, generation: u32) -> bool {
        generation == self.local_generation || generation == self.global_generation
    }

    fn new_generation(&mut self) -> u32 {
        // After 2^32 flushes an old number could come again; the loop drops its table when it wraps.
        self.last_generation = self.last_generation.wrapping_add(1);
        self.last_generation
    }
}
