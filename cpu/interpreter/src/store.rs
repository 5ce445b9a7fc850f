//! Decoded blocks by physical address, all of their operations in one place.
//!
//! Blocks that a guest executes at its start lie there one after the other. A block that was decoded anew leaves a gap;
//! gaps go when the store is emptied or trimmed.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use atoll_memory::{PAGE, Ram};

use crate::cpu::Mode;
use crate::op::Op;

/// Operations before the store is full: 10 MB. What a guest executes until a container runs in it fits.
const MAX_OPS: usize = 256_000;
/// Operations that are worth being trimmed.
const MANY_OPS: usize = 64_000;

/// Memory offset of a block's first instruction, and how wide its code is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

/// What a [`Key`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Memory offset of the first instruction.
    pub(crate) offset: u64,
    /// How wide the code is.
    pub(crate) mode: Mode,
}

impl Key {
    /// `offset` is under 2^40.
    pub(crate) fn new(offset: u64, mode: Mode) -> Self {
        Self(offset << 2 | mode as u64)
    }

    /// As a number, for [`Key::from_number`].
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// The key that has a number.
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Memory offset and width.
    pub(crate) fn place(self) -> Place {
        Place {
            offset: self.0 >> 2,
            mode: match self.0 & 3 {
                0 => Mode::Bits16,
                1 => Mode::Bits32,
                _ => Mode::Bits64,
            },
        }
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

/// A page by its number, an offset in memory divided by [`PAGE`], and its version when a block was decoded from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageVersion {
    number: u32,
    version: u32,
}

impl PageVersion {
    /// The page at memory offset `offset` as it is now.
    pub(crate) fn now(ram: &Ram, offset: u64) -> Self {
        let number = offset / PAGE;
        Self {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            version: ram.code_pages().version(number),
        }
    }

    fn is_current(self, ram: &Ram) -> bool {
        ram.code_pages().version(u64::from(self.number)) == self.version
    }
}

/// The page a block begins in, and the one that its last instruction ends in when that is another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) first: PageVersion,
    pub(crate) second: Option<PageVersion>,
}

/// A run of instructions that is entered at its first only: operations from `start` on, of which the last one leaves. The
/// first says how many.
struct Block {
    start: u32,
    pages: Pages,
}

/// The blocks of one CPU.
#[derive(Default)]
pub(crate) struct Store {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    by_place: HashMap<Key, u32, BuildHasherDefault<KeyHasher>>,
}

impl Store {
    /// The operations of block `index`.
    pub(crate) fn ops(&self, index: u32) -> &[Op] {
        self.ops_at(self.start(index))
    }

    /// The operations of the block that begins with operation `start`.
    #[inline(always)]
    pub(crate) fn ops_at(&self, start: u32) -> &[Op] {
        let rest = &self.ops[start as usize..];
        &rest[..usize::from(rest[0].count)]
    }

    /// The first operation of block `index`.
    pub(crate) fn start(&self, index: u32) -> u32 {
        self.blocks[index as usize].start
    }

    /// The block at a place.
    pub(crate) fn find(&self, key: Key) -> Option<u32> {
        self.by_place.get(&key).copied()
    }

    /// Whether block `index`'s code is what it was.
    pub(crate) fn is_current(&self, index: u32, ram: &Ram) -> bool {
        let pages = self.blocks[index as usize].pages;
        pages.first.is_current(ram) && pages.second.is_none_or(|page| page.is_current(ram))
    }

    /// Memory offset of the second page of block `index`.
    pub(crate) fn second_page(&self, index: u32) -> Option<u64> {
        let second = self.blocks[index as usize].pages.second?;
        Some(u64::from(second.number) * PAGE)
    }

    /// Whether nothing may be added before it is emptied.
    pub(crate) fn is_full(&self) -> bool {
        self.ops.len() > MAX_OPS
    }

    /// Whether trimming is worth while.
    pub(crate) fn is_large(&self) -> bool {
        self.ops.len() > MANY_OPS
    }

    /// Every block that is found, in the order of their operations.
    pub(crate) fn places(&self) -> Vec<(Key, u32)> {
        let mut places: Vec<_> = self
            .by_place
            .iter()
            .map(|(key, index)| (*key, *index))
            .collect();
        places.sort_unstable_by_key(|(_, index)| self.blocks[*index as usize].start);
        places
    }

    /// Makes room for so many blocks and operations more.
    pub(crate) fn reserve(&mut self, blocks: usize, ops: usize) {
        self.blocks.reserve(blocks);
        self.by_place.reserve(blocks);
        self.ops.reserve(ops);
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.by_place.clear();
    }

    /// Keeps a block of `ops`, in place of block `old` or as a new one; gives its number.
    pub(crate) fn keep(&mut self, key: Key, old: Option<u32>, ops: &[Op], pages: Pages) -> u32 {
        let block = self.add(ops, pages);
        if let Some(index) = old {
            self.blocks[index as usize] = block;
            return index;
        }
        let index = self.blocks.len() as u32;
        self.blocks.push(block);
        self.by_place.insert(key, index);
        index
    }

    fn add(&mut self, ops: &[Op], pages: Pages) -> Block {
        let start = self.ops.len();
        self.ops.extend_from_slice(ops);
        if let Some(first) = self.ops.get_mut(start) {
            first.count = ops.len() as u16;
        }
        Block {
            start: start as u32,
            pages,
        }
    }

    /// Forgets all blocks but those that begin with the operations `live`.
    pub(crate) fn keep_only(&mut self, live: HashSet<u32>) {
        let mut kept = Self::default();
        for (key, index) in self.places() {
            let block = &self.blocks[index as usize];
            if live.contains(&block.start) {
                kept.keep(key, None, self.ops(index), block.pages);
            }
        }
        kept.ops.shrink_to_fit();
        kept.blocks.shrink_to_fit();
        *self = kept;
    }
}
