//! Blocks of decoded instructions: kept by physical address, found by linear address.
//!
//! ```text
//!   linear address ─ jumps ─► block, of those executed lately
//!        │ miss
//!   linear page ─ fetched ─► physical page and its table ─ place in the page ─► block
//!        │ miss                      valid while the translation's generation is
//!        └─ page walk ─► physical page, its blocks emptied if it changed ─► its table ─ miss ─► decode
//! ```
//!
//! A block's first instruction decides its place; all but the last instruction lie in one page. Blocks hold no linear
//! address, so one serves every mapping of its page, and an address space costs a page walk for each page it executes.
//! What is found by physical address is the [`Store`]'s.

use std::collections::HashSet;
use std::fs::File;

use atoll_memory::PAGE;
use atoll_memory::code_pages::Change;

use crate::build::CodePage;
use crate::code;
use crate::cpu::Cpu;
use crate::handlers::Handlers;
use crate::lower::Lowered;
use crate::op::{Fault, LINKS, Op, RIP};
use crate::store::{Entry, Store, Table};

/// A page's translation for fetching code, and where its blocks are found.
#[derive(Clone, Copy, Default)]
struct Fetched {
    /// Linear address of the page and [`Cpu::fetch_key`].
    tag: u64,
    /// With which generation it ends; none has 0.
    generation: u32,
    /// The number of the page in memory.
    number: u32,
    table: Table,
}

impl Fetched {
    #[inline(always)]
    fn is_of(&self, cpu: &Cpu, linear: u64) -> bool {
        self.tag == linear & !(PAGE - 1) ^ cpu.fetch_key() && cpu.has_generation(self.generation)
    }
}

/// Pages that can be known at once of each half of the address space, the user's and the system's.
const FETCHED: usize = 4096;

/// Where the page of `linear` may be. Pages beside each other do not meet: a kernel is less than so many.
#[inline(always)]
fn slot(linear: u64) -> usize {
    let page = linear / PAGE;
    let spread = page.wrapping_add((page / FETCHED as u64).wrapping_mul(0x6C5)) as usize % FETCHED;
    spread + (linear >> 63) as usize * FETCHED
}

/// A block that was found lately, as the number that it is kept as: memory of zeros, which costs nothing until it is
/// touched, is none. It spares looking into two tables.
#[derive(Clone, Copy)]
struct Jump {
    /// Linear address and [`Cpu::fetch_key`].
    tag: u64,
    /// The block's first operation.
    start: u32,
    /// That of its page.
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
}

/// Jumps that are remembered.
const JUMPS: usize = 8192;
/// Those that the blocks of one page may be among, one after the other; they are other pages', too.
const PAGE_JUMPS: usize = 256;

/// Where the jump to `linear` may be.
#[inline(always)]
fn jump_slot(linear: u64) -> usize {
    let place = (linear ^ linear >> 4) as usize % PAGE_JUMPS;
    (slot(linear) * 16 + place) % JUMPS
}

/// Which linear pages may be known, by a bit each modulo their number: INVLPG is mostly for pages of data.
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
    store: Store,
    fetched: Box<[Fetched]>,
    jumps: Box<[u128]>,
    /// Whether nothing has been let go since it was empty on request.
    has_all: bool,
    epoch: u64,
}

/// Changes of code after which finding every block anew is not much more work.
const FEW_CHANGES: u64 = 64;

impl Cache {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self {
            store: Store::default(),
            fetched: vec![Fetched::default(); FETCHED * 2].into_boxed_slice(),
            jumps: vec![0; JUMPS].into_boxed_slice(),
            has_all: true,
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
            if is_sure {
                start = self.look_up(cpu, linear);
            }
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
        Ok(self.store.ops(start))
    }

    /// The first operation of the block at `linear`, if its page is known and has it; else 0.
    #[inline(always)]
    fn look_up(&mut self, cpu: &Cpu, linear: u64) -> u32 {
        let jump = Jump::of(self.jumps[jump_slot(linear)]);
        let is_it = jump.tag == linear ^ cpu.fetch_key()
            && cpu.has_generation(jump.generation)
            && !self.store.ops(jump.start).is_empty();
        if is_it {
            return jump.start;
        }
        self.look_into_page(cpu, linear)
    }

    /// The same without what was found lately.
    #[inline(never)]
    fn look_into_page(&mut self, cpu: &Cpu, linear: u64) -> u32 {
        let fetched = &self.fetched[slot(linear)];
        if !fetched.is_of(cpu, linear) {
            return 0;
        }
        let start = self.store.find(fetched.table, Entry::new(linear, cpu.mode));
        if start == 0 {
            return 0;
        }
        if self.store.is_crossing(start) {
            return if self.crosses_surely(cpu, linear, start) {
                start
            } else {
                0
            };
        }
        let jump = Jump {
            tag: linear ^ cpu.fetch_key(),
            start,
            generation: fetched.generation,
        };
        self.jumps[jump_slot(linear)] = jump.number();
        start
    }

    /// Whether the page after that of `linear` is known to be the one that the block there ends in.
    fn crosses_surely(&self, cpu: &Cpu, linear: u64, start: u32) -> bool {
        let next = next_page(linear);
        let fetched = &self.fetched[slot(next)];
        fetched.is_of(cpu, next) && self.store.second(start) == Some(fetched.number)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, linear: u64) -> Result<u32, Fault> {
        self.hear(cpu);
        let page = self.fetch(cpu, linear)?;
        let entry = Entry::new(linear, cpu.mode);
        let table = self.store.table(page.number());
        // What grew since is another one for those who know the page by other addresses, too.
        self.fetched[slot(linear)].table = table;
        let start = self.store.find(table, entry);
        if start != 0 && self.ends_there_still(cpu, linear, start) {
            return Ok(start);
        }
        let pages = crate::build::block(cpu, linear, page.offset | (linear % PAGE))?;
        if self.store.is_full() || cpu.handlers.is_full() {
            // Most code that an operating system executes, it executes once.
            self.clear(cpu);
            self.has_all = false;
        }
        let ops = cpu.decoded.iter().map(|lowered| cpu.handlers.op(lowered));
        let start = self.store.keep(entry, ops, pages);
        // Its table may be another now.
        self.know(cpu, linear, page);
        Ok(start)
    }

    /// Takes notice of what changed since the last time.
    fn hear(&mut self, cpu: &mut Cpu) {
        let epoch = cpu.ram.code_pages().epoch();
        if self.epoch != epoch {
            if !self.empty_changed(cpu, epoch) {
                // Some code somewhere changed: every page is looked up anew, and its version compared.
                cpu.forget_fetched();
            }
            self.epoch = epoch;
            cpu.see_epoch();
        }
        if let Some(page) = cpu.forgotten_page.take() {
            self.fetched[slot(page)] = Fetched::default();
            let first = jump_slot(page & !(PAGE - 1));
            for jump in first..first + PAGE_JUMPS {
                self.jumps[jump % JUMPS] = 0;
            }
        }
        if cpu.last_generation > u32::MAX - 4096 {
            self.forget();
            cpu.last_generation = 0;
            cpu.forget_translations(false);
        }
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
                Some(Change::Page(number)) => self.store.empty_page(number, &cpu.ram),
            }
        }
        true
    }

    /// The page that code at `linear` is fetched from, which is known then.
    fn fetch(&mut self, cpu: &mut Cpu, linear: u64) -> Result<CodePage, Fault> {
        let fetched = &self.fetched[slot(linear)];
        if fetched.is_of(cpu, linear) {
            return Ok(CodePage {
                offset: u64::from(fetched.number) * PAGE,
                global: fetched.generation == cpu.global_generation,
            });
        }
        let page = cpu.fetch_page(linear)?;
        self.know(cpu, linear, page);
        Ok(page)
    }

    /// Notes that code at `linear` is fetched from `page`, whose blocks are those of what it holds now.
    fn know(&mut self, cpu: &mut Cpu, linear: u64, page: CodePage) {
        cpu.fetched_pages.insert(linear);
        self.fetched[slot(linear)] = Fetched {
            tag: linear & !(PAGE - 1) ^ cpu.fetch_key(),
            generation: if page.global {
                cpu.global_generation
            } else {
                cpu.local_generation
            },
            number: page.number(),
            table: self.store.current(page.number(), &cpu.ram),
        };
    }

    /// Whether the page after that of `linear` is still the one that the block there ends in, if that is another.
    fn ends_there_still(&mut self, cpu: &mut Cpu, linear: u64, start: u32) -> bool {
        let Some(second) = self.store.second(start) else {
            return true;
        };
        let next = next_page(linear);
        let Some(page) = cpu.peek_page(next) else {
            return false;
        };
        self.know(cpu, next, page);
        page.number() == second && !self.store.ops(start).is_empty()
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self, cpu: &mut Cpu) {
        self.store = Store::default();
        cpu.handlers = Handlers::new();
        self.forget();
        self.has_all = true;
    }

    /// Forgets where blocks are by linear address.
    fn forget(&mut self) {
        self.fetched.fill(Fetched::default());
        self.jumps.fill(0);
    }

    /// Whether no block was let go since it was made, cleared or loaded.
    pub(crate) fn has_all(&self) -> bool {
        self.has_all
    }

    /// Empties the blocks that `cpu`'s memory does not have.
    pub(crate) fn check(&mut self, cpu: &Cpu) {
        let mut ops = Vec::new();
        let wrong = self.store.blocks().into_iter().filter(|block| {
            let second = block.second.map(|number| u64::from(number) * PAGE);
            let is_one = crate::build::again(&cpu.ram, block.place, second, &mut ops);
            !is_one || !same(cpu, &ops, block.ops)
        });
        let wrong: Vec<_> = wrong.map(|block| block.start).collect();
        for start in wrong {
            self.store.empty(start);
        }
    }

    /// The blocks as bytes.
    pub(crate) fn save(&self, cpu: &Cpu) -> Vec<u8> {
        code::save(&self.store, cpu)
    }

    /// Takes the blocks that are such bytes behind byte `at` of `file`, in place of its own, before `cpu` runs. False,
    /// and it has none, when they are damaged.
    pub(crate) fn load(&mut self, cpu: &mut Cpu, file: &File, at: u64) -> bool {
        self.clear(cpu);
        let Some((store, handlers)) = code::load(&cpu.ram, file, at) else {
            return false;
        };
        (self.store, cpu.handlers) = (store, handlers);
        true
    }

    /// Keeps the blocks of pages that were executed lately when there are many others, whose memory goes.
    pub(crate) fn trim(&mut self, cpu: &Cpu) {
        if !self.store.is_large() {
            return;
        }
        let fetched = self.fetched.iter();
        let lately = fetched.filter(|fetched| cpu.has_generation(fetched.generation));
        let live: HashSet<_> = lately.map(|fetched| fetched.number).collect();
        self.has_all = false;
        self.store.keep_only(&live);
        self.forget();
    }
}

/// The page after that of `linear`.
#[inline(always)]
fn next_page(linear: u64) -> u64 {
    (linear & !(PAGE - 1)).wrapping_add(PAGE)
}

/// Whether both do the same; where they lead is no part of it.
fn same(cpu: &Cpu, some: &[Lowered], others: &[Op]) -> bool {
    let facts = |op: &Op| Op {
        disp: if op.scale == LINKS { 0 } else { op.disp },
        count: 0,
        place: 0,
        ..*op
    };
    let some = some.iter().map(|lowered| {
        let handler = cpu.handlers.find(lowered.run)?;
        Some(Op {
            handler,
            ..facts(&lowered.op)
        })
    });
    some.eq(others.iter().map(|op| Some(facts(op))))
}
