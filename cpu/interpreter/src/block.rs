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
//! address, so one serves every mapping of its page. When the cache is full it is emptied: most code that an operating
//! system executes, it executes once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use atoll_memory::{PAGE, Ram};

use crate::build::CodePage;
use crate::cpu::{Cpu, Mode};
use crate::op::{Fault, Op};

/// Entries of the jump table: pages times places in a page.
const PAGE_SLOTS: usize = 128;
/// Entries that one page has.
const PLACE_SLOTS: usize = 128;
/// Operations in the cache before it is emptied.
const MAX_OPS: usize = 64_000;

/// A run of instructions that is entered at its first only.
pub(crate) struct Block {
    /// What to do, in order. The last one leaves.
    pub(crate) ops: Box<[Op]>,
    /// Memory offset of the page it begins in, and that page's version when it was decoded.
    page: (u64, u32),
    /// The same of the page its last instruction ends in, when that is another.
    second_page: Option<(u64, u32)>,
}

impl Block {
    /// A block decoded from the pages given.
    pub(crate) fn new(ops: &[Op], page: (u64, u32), second_page: Option<(u64, u32)>) -> Self {
        Self {
            ops: ops.into(),
            page,
            second_page,
        }
    }

    /// Whether its code is what it was.
    fn is_current(&self, ram: &Ram) -> bool {
        let pages = ram.code_pages();
        pages.version(self.page.0 / PAGE) == self.page.1
            && self
                .second_page
                .is_none_or(|(offset, version)| pages.version(offset / PAGE) == version)
    }
}

/// Memory offset of a block's first instruction, and how wide its code is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    /// `offset` is under 2^40.
    pub(crate) fn new(offset: u64, mode: Mode) -> Self {
        Self(offset << 2 | mode as u64)
    }
}

/// Spreads keys that are numbers: a multiplication is enough.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
    }
}

#[derive(Clone, Copy)]
struct Jump {
    tag: u64,
    block: u32,
    generation: u32,
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

/// The blocks of one CPU.
pub(crate) struct Cache {
    fetched: Box<[Fetched; FETCHED]>,
    blocks: Vec<Block>,
    by_place: HashMap<Key, u32, BuildHasherDefault<KeyHasher>>,
    jumps: Box<[Jump; PAGE_SLOTS * PLACE_SLOTS]>,
    ops: usize,
    epoch: u64,
}

/// No linear address has this as its tag.
const NO_TAG: u64 = u64::MAX >> 1;

impl Cache {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            by_place: HashMap::default(),
            jumps: Box::new(
                [Jump {
                    tag: NO_TAG,
                    block: 0,
                    generation: 0,
                }; PAGE_SLOTS * PLACE_SLOTS],
            ),
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
            ops: 0,
            epoch: 0,
        }
    }

    /// The block at the CPU's next instruction.
    #[inline(always)]
    pub(crate) fn find(&mut self, cpu: &mut Cpu) -> Result<&Block, Fault> {
        let linear = cpu.linear_rip();
        let tag = linear ^ cpu.jump_key();
        let jump = self.jumps[slot(linear)];
        let valid = jump.tag == tag
            && (jump.generation == cpu.local_generation
                || jump.generation == cpu.global_generation)
            && self.epoch == cpu.ram.code_pages().epoch()
            && cpu.forgotten_page.is_none();
        let index = if valid {
            jump.block
        } else {
            self.find_slow(cpu, linear, tag)?
        };
        Ok(&self.blocks[index as usize])
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, linear: u64, tag: u64) -> Result<u32, Fault> {
        let epoch = cpu.ram.code_pages().epoch();
        if self.epoch != epoch {
            // Some code somewhere changed: every block is looked up anew, and its pages' versions compared.
            self.epoch = epoch;
            self.forget_jumps();
            cpu.see_epoch();
        }
        if let Some(page) = cpu.forgotten_page.take() {
            let first = slot(page) / PLACE_SLOTS * PLACE_SLOTS;
            for jump in &mut self.jumps[first..first + PLACE_SLOTS] {
                jump.tag = NO_TAG;
            }
            self.fetched[fetched_slot(page)].tag = NO_TAG;
        }
        if cpu.last_generation > u32::MAX - 4096 {
            self.forget_jumps();
            for fetched in self.fetched.iter_mut() {
                fetched.tag = NO_TAG;
            }
            cpu.last_generation = 0;
            cpu.forget_translations(false);
        }
        let page = self.fetch(cpu, linear, tag)?;
        let offset = page.offset | (linear % PAGE);
        let key = Key::new(offset, cpu.mode);
        let index = match self.by_place.get(&key) {
            Some(&index)
                if self.blocks[index as usize].is_current(&cpu.ram)
                    && self.second_page_holds(cpu, index, linear) =>
            {
                index
            }
            old => {
                let old = old.copied();
                let block = crate::build::block(cpu, linear, offset)?;
                self.keep(key, old, block)
            }
        };
        self.jumps[slot(linear)] = Jump {
            tag,
            block: index,
            generation: page.generation(cpu),
        };
        Ok(index)
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
        let Some((offset, _)) = self.blocks[index as usize].second_page else {
            return true;
        };
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE);
        cpu.peek_page(next)
            .is_some_and(|page| page.offset == offset)
    }

    fn keep(&mut self, key: Key, old: Option<u32>, block: Block) -> u32 {
        if self.ops > MAX_OPS {
            self.blocks.clear();
            self.by_place.clear();
            self.ops = 0;
            self.forget_jumps();
        } else if let Some(index) = old {
            let place = &mut self.blocks[index as usize];
            self.ops = self.ops - place.ops.len() + block.ops.len();
            *place = block;
            return index;
        }
        self.ops += block.ops.len();
        let index = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.push(block);
        self.by_place.insert(key, index);
        index
    }

    fn forget_jumps(&mut self) {
        for jump in self.jumps.iter_mut() {
            jump.tag = NO_TAG;
        }
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

fn fetched_slot(linear: u64) -> usize {
    (linear / PAGE) as usize % FETCHED
}

#[inline(always)]
fn slot(linear: u64) -> usize {
    let page = (linear / PAGE) ^ (linear >> 18);
    let place = linear ^ (linear >> 6);
    (page as usize % PAGE_SLOTS) * PLACE_SLOTS + place as usize % PLACE_SLOTS
}
