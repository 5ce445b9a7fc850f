//! Blocks of decoded instructions: kept by physical address, found by linear address.
//!
//! ```text
//!   linear address ─ jump table ─► block          valid while its generation is
//!        │ miss
//!        └─ page walk ─► physical address ─ map ─► block    valid while its pages' versions are
//!                                            │ miss
//!                                            └─ decode
//! ```
//!
//! A block's first instruction decides its place; all but the last instruction lie in one page. Blocks hold no linear
//! address, so one serves every mapping of its page. What is found by physical address is the [`Store`]'s.

use std::io::Read;

use atoll_memory::PAGE;
use atoll_memory::code_pages::Change;

use crate::build::{CodePage, jump_key};
use crate::code::{self, Known};
use crate::cpu::{Cpu, Mode};
use crate::op::{Fault, LINKS, Op, RIP};
use crate::paging::Access;
use crate::store::{Key, Store};
use crate::tlb::Context;

/// Entries of the jump table, in pairs: two blocks that meet in one place do not push each other out.
const SLOTS: usize = 1 << 16;
/// Entries that the blocks of one page may be in, one after the other; they are other pages', too.
const PAGE_SLOTS: usize = 1024;

/// An entry of the jump table, as the number that it is kept as: memory of zeros, which costs nothing until it is
/// touched, is a table of empty ones.
#[derive(Clone, Copy)]
struct Jump {
    /// Linear address and [`Cpu::jump_key`].
    tag: u64,
    /// The block's first operation.
    start: u32,
    /// With which generation it ends; none has 0.
    generation: u32,
}

impl Jump {
    #[inline(always)]
    fn of(number: u128) -> Self {
        Self {
            tag: (number >> 64) as u64,
            start: (number >> 32) as u32,
            generation: number as u32,
        }
    }

    #[inline(always)]
    fn number(self) -> u128 {
        u128::from(self.tag) << 64 | u128::from(self.start) << 32 | u128::from(self.generation)
    }

    #[inline(always)]
    fn is_valid(self, cpu: &Cpu) -> bool {
        self.generation == cpu.local_generation || self.generation == cpu.global_generation
    }
}

/// A page's translation for fetching code, valid as long as a jump found at the same time.
#[derive(Clone, Copy)]
struct Fetched {
    tag: u64,
    page: CodePage,
    generation: u32,
}

/// Entries of the table of pages that code was fetched from.
const FETCHED: usize = 256;

/// Which linear pages the jump table may know, by a bit each modulo their number: INVLPG is mostly for pages of data.
pub(crate) struct FetchedPages(Box<[u64; 64]>);

impl Default for FetchedPages {
    fn default() -> Self {
        Self(Box::new([0; 64]))
    }
}

impl FetchedPages {
    fn place(linear: u64) -> (usize, u64) {
        let page = linear / PAGE;
        ((page >> 6) as usize % 64, 1 << (page % 64))
    }

    fn insert(&mut self, linear: u64) {
        let (word, bit) = Self::place(linear);
        self.0[word] |= bit;
    }

    /// Whether the page of `linear` may be known.
    pub(crate) fn contains(&self, linear: u64) -> bool {
        let (word, bit) = Self::place(linear);
        self.0[word] & bit != 0
    }
}

/// What is remembered of a block until the next is found, while nothing but the block is executed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Last {
    /// Its last operation, if that has links; else 0.
    op: u32,
    /// The latest generation then.
    generation: u32,
    /// Its linear address.
    linear: u64,
}

/// The blocks of one CPU.
pub(crate) struct Cache {
    fetched: Box<[Fetched; FETCHED]>,
    store: Store,
    jumps: Box<[u128]>,
    /// Pages that blocks of the page before them end in.
    crossed: FetchedPages,
    /// Whether nothing has been let go since it was empty on request.
    has_all: bool,
    epoch: u64,
}

/// Changes of code after which finding every block anew is not much more work.
const FEW_CHANGES: u64 = 64;

/// No linear address has this as its tag.
const NO_TAG: u64 = u64::MAX >> 1;

impl Cache {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self {
            store: Store::default(),
            jumps: vec![0; SLOTS].into_boxed_slice(),
            crossed: FetchedPages::default(),
            has_all: true,
            fetched: Box::new(
                [Fetched {
                    tag: NO_TAG,
                    page: CodePage {
                        offset: 0,
                        global: false,
                    },
                    generation: 0,
                }; FETCHED],
            ),
            epoch: 0,
        }
    }

    /// The operations of the block at the CPU's next instruction.
    ///
    /// * `last`: of the block before it, and then its own.
    #[inline(always)]
    pub(crate) fn find(&mut self, cpu: &mut Cpu, last: &mut Last) -> Result<&[Op], Fault> {
        let linear = cpu.linear_rip();
        let is_sure = self.epoch == cpu.ram.code_pages().epoch() && cpu.forgotten_page.is_none();
        let can_link = last.op != 0
            && (linear ^ last.linear) < PAGE
            && last.generation == cpu.last_generation
            && is_sure;
        let rip = (cpu.regs[usize::from(RIP)], cpu.rip);
        let mut start = 0;
        if can_link {
            start = self.store.linked(last.op, rip, linear);
        }
        if start == 0 {
            start = self.jump(cpu, linear, is_sure);
            if start == 0 {
                start = self.find_slow(cpu, linear)?;
            } else if can_link {
                self.store.link(last.op, rip, start);
            }
        }
        *last = Last {
            op: self.store.linked_at(start),
            generation: cpu.last_generation,
            linear,
        };
        Ok(self.store.ops_at(start))
    }

    /// The first operation of the block at `linear`, if the jump table knows it; else 0.
    #[inline(always)]
    fn jump(&self, cpu: &Cpu, linear: u64, is_sure: bool) -> u32 {
        let tag = linear ^ cpu.jump_key();
        let slot = slot(linear);
        let is_it = |jump: Jump| jump.tag == tag && jump.is_valid(cpu) && is_sure;
        let (first, second) = (Jump::of(self.jumps[slot]), Jump::of(self.jumps[slot + 1]));
        let start = if is_it(first) {
            first.start
        } else if is_it(second) {
            second.start
        } else {
            return 0;
        };
        if self.store.ops_at(start).is_empty() {
            return 0;
        }
        start
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, linear: u64) -> Result<u32, Fault> {
        let tag = linear ^ cpu.jump_key();
        let epoch = cpu.ram.code_pages().epoch();
        if self.epoch != epoch {
            if !self.empty_changed(cpu, epoch) {
                // Some code somewhere changed: every block is looked up anew, and its pages' versions compared.
                cpu.forget_jumps();
            }
            self.epoch = epoch;
            cpu.see_epoch();
        }
        if let Some(page) = cpu.forgotten_page.take() {
            self.forget_page(page);
            if self.crossed.contains(page) {
                self.forget_page(page.wrapping_sub(PAGE));
            }
            self.fetched[fetched_slot(page)].tag = NO_TAG;
        }
        if cpu.last_generation > u32::MAX - 4096 {
            self.jumps.fill(0);
            for fetched in self.fetched.iter_mut() {
                fetched.tag = NO_TAG;
            }
            cpu.last_generation = 0;
            cpu.forget_translations(false);
        }
        let page = self.fetch(cpu, linear, tag)?;
        let offset = page.offset | (linear % PAGE);
        let key = Key::new(offset, cpu.mode);
        let index = match self.store.find(key) {
            Some(index)
                if self.store.is_current(index, &cpu.ram)
                    && self.second_page_holds(cpu, index, linear) =>
            {
                index
            }
            mut old => {
                let pages = crate::build::block(cpu, linear, offset)?;
                if self.store.is_full() {
                    // Most code that an operating system executes, it executes once.
                    self.store.clear();
                    self.has_all = false;
                    cpu.forget_jumps();
                    old = None;
                }
                {
                    let ops = cpu.decoded.iter().copied();
                    self.store.keep(key, old, ops, pages)
                }
            }
        };
        let start = self.store.start(index);
        if self.store.second_page(index).is_some() {
            self.cross(cpu, linear);
        }
        let generation = page.generation(cpu);
        let slot = slot(linear);
        self.jumps[slot + 1] = self.jumps[slot];
        self.jumps[slot] = Jump {
            tag,
            start,
            generation,
        }
        .number();
        Ok(start)
    }

    /// Forgets what the jump table knows of the page of `linear`.
    fn forget_page(&mut self, linear: u64) {
        let first = slot(linear & !(PAGE - 1));
        for entry in first..first + PAGE_SLOTS {
            self.jumps[entry % SLOTS] = 0;
        }
    }

    /// Notes that a block at `linear` ends in the next page.
    fn cross(&mut self, cpu: &mut Cpu, linear: u64) {
        let next = linear.wrapping_add(PAGE);
        self.crossed.insert(next);
        cpu.fetched_pages.insert(next);
    }

    /// Empties the blocks of what changed up to `epoch`; false when it is not known what that was.
    fn empty_changed(&mut self, cpu: &Cpu, epoch: u64) -> bool {
        if epoch.wrapping_sub(self.epoch) > FEW_CHANGES {
            return false;
        }
        for epoch in self.epoch + 1..=epoch {
            match cpu.ram.code_pages().change(epoch) {
                None => return false,
                Some(Change::Nothing) => {}
                Some(Change::Page(number)) => self.store.empty_page(number),
            }
        }
        true
    }

    /// The page that code at `linear` is fetched from.
    fn fetch(&mut self, cpu: &mut Cpu, linear: u64, tag: u64) -> Result<CodePage, Fault> {
        let known = &mut self.fetched[fetched_slot(linear)];
        let tag = tag & !(PAGE - 1);
        if known.tag == tag
            && (known.generation == cpu.local_generation
                || known.generation == cpu.global_generation)
        {
            return Ok(known.page);
        }
        let page = cpu.fetch_page(linear)?;
        cpu.fetched_pages.insert(linear);
        *known = Fetched {
            tag,
            page,
            generation: page.generation(cpu),
        };
        Ok(page)
    }

    /// Whether the page after the block's own is still the one its last instruction ends in.
    fn second_page_holds(&self, cpu: &mut Cpu, index: u32, linear: u64) -> bool {
        let Some(offset) = self.store.second_page(index) else {
            return true;
        };
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE);
        cpu.peek_page(next)
            .is_some_and(|page| page.offset == offset)
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.store.clear();
        self.jumps.fill(0);
        self.has_all = true;
    }

    /// Whether no block was let go since it was made, cleared or loaded.
    pub(crate) fn has_all(&self) -> bool {
        self.has_all
    }

    /// Empties the blocks that `cpu`'s memory does not have.
    pub(crate) fn check(&mut self, cpu: &Cpu) {
        let mut ops = Vec::new();
        for (key, index) in self.store.places() {
            let second = self.store.second_page(index);
            let is_one = crate::build::again(&cpu.ram, key.place(), second, &mut ops);
            if !is_one || !same(&ops, self.store.ops(index)) {
                self.store.empty(index);
            }
        }
    }

    /// The blocks as bytes, and where `cpu` finds them.
    pub(crate) fn save(&self, cpu: &Cpu) -> Vec<u8> {
        let jumps = (0..=u16::MAX).zip(self.jumps.iter().map(|number| Jump::of(*number)));
        let known = jumps.filter_map(|(slot, jump)| known(cpu, &self.store, slot, jump));
        code::save(&self.store, cpu, known)
    }

    /// Takes blocks from such bytes, the first CPU's, in place of its own, before `cpu`, whose translations are what they
    /// were, runs. False, and it has none, when they are damaged.
    pub(crate) fn load(&mut self, cpu: &mut Cpu, from: &mut dyn Read) -> bool {
        self.clear();
        let ram = cpu.ram.clone();
        let store = code::load(&ram, from, |known| {
            if cpu.index != 0 {
                // Their tables are others.
                return;
            }
            let page = CodePage {
                offset: 0,
                global: known.is_global,
            };
            let jump = Jump {
                tag: known.tag,
                start: known.start,
                generation: page.generation(cpu),
            };
            self.jumps[usize::from(known.slot)] = jump.number();
            let (linear, _) = parts(known.tag);
            cpu.fetched_pages.insert(linear);
            if known.is_crossing {
                self.cross(cpu, linear);
            }
            if known.is_large {
                cpu.tlb.note_large(linear);
            }
        });
        match store {
            Some(store) => self.store = store,
            None => {
                self.jumps.fill(0);
                return false;
            }
        }
        true
    }

    /// Keeps the blocks that were executed lately when there are many others, whose memory goes.
    pub(crate) fn trim(&mut self, cpu: &Cpu) {
        if !self.store.is_large() {
            return;
        }
        let jumps = self.jumps.iter().map(|number| Jump::of(*number));
        let live = jumps.filter(|jump| jump.is_valid(cpu));
        self.has_all = false;
        self.store.keep_only(live.map(|jump| jump.start).collect());
        self.jumps.fill(0);
    }
}

impl CodePage {
    /// The generation with which its translation ends.
    fn generation(&self, cpu: &Cpu) -> u32 {
        if self.global {
            cpu.global_generation
        } else {
            cpu.local_generation
        }
    }
}

/// Whether both do the same; where they lead is no part of it.
fn same(some: &[Op], others: &[Op]) -> bool {
    let facts = |op: &Op| {
        let disp = if op.scale == LINKS { 0 } else { op.disp };
        let operands = [
            op.dst, op.src, op.base, op.index, op.scale, op.seg, op.wrap, op.extra,
        ];
        (op.run as usize, op.imm, disp, operands, op.offset, op.next)
    };
    some.iter().map(facts).eq(others.iter().map(facts))
}

/// Linear address and [`Cpu::jump_key`] of a tag.
fn parts(tag: u64) -> (u64, u64) {
    let linear = ((tag << 16).cast_signed() >> 16).cast_unsigned();
    (linear, linear ^ tag)
}

/// What entry `slot` of the jump table tells, if `cpu` would enter it now: a processor may read ahead.
fn known(cpu: &Cpu, store: &Store, slot: u16, jump: Jump) -> Option<Known> {
    let (linear, key) = parts(jump.tag);
    let cpl = (key >> 56) as u8;
    if jump.generation == 0 || key != jump_key(Mode::Bits64, cpl) {
        return None;
    }
    let context = if cpl == 3 {
        Context::User
    } else {
        Context::Supervisor
    };
    let translate = |linear| {
        let page = cpu
            .paging
            .translate(&cpu.ram, linear, Access::Execute, context)
            .ok()?;
        Some((page, cpu.ram.offset_of(page.physical)?))
    };
    let (page, offset) = translate(linear)?;
    let index = store.find(Key::new(offset | (linear % PAGE), Mode::Bits64))?;
    let second = store.second_page(index);
    if let Some(second) = second {
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE);
        translate(next).filter(|(_, offset)| *offset == second)?;
    }
    (store.start(index) == jump.start).then_some(Known {
        slot,
        tag: jump.tag,
        start: jump.start,
        is_global: page.global,
        is_large: page.large,
        is_crossing: second.is_some(),
    })
}

fn fetched_slot(linear: u64) -> usize {
    (linear / PAGE) as usize % FETCHED
}

/// The first of the two entries where a block at `linear` may be.
#[inline(always)]
fn slot(linear: u64) -> usize {
    // Pages are spread by a multiplication: those of a kernel, all beside each other, would meet.
    let first = (linear / PAGE).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let place = linear % PAGE;
    let place = (place ^ (place >> 9)) % (PAGE_SLOTS as u64 / 2);
    (first + place) as usize * 2 % SLOTS
}
