//! Decoded blocks by physical address, all of their operations in one place.
//!
//! Blocks that a guest executes at its start lie there one after the other. A block that was decoded anew leaves a gap;
//! gaps go when the store is emptied or trimmed.
//!
//! A block that ends with a direct branch, or was cut, has links: the two blocks that may follow it in its page, by their
//! first operations, in the last operation's displacement. They are as good as the block itself is: the same page is
//! executed, at the same width and privilege. What is linked is told by its place in the page, or it is emptied.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZero;

use atoll_memory::{PAGE, Ram};

use crate::cpu::Mode;
use crate::lower;
use crate::op::{LINKS, Op};

/// Operations before the store is full: 10 MB. What a guest executes until a container runs in it fits.
pub(crate) const MAX_OPS: usize = 256_000;
/// Blocks that a page has at least, where many are.
const BLOCKS_A_PAGE: usize = 4;
/// Operations that are worth being trimmed.
const MANY_OPS: usize = 64_000;

/// Added to the place of a block whose last operation has links.
const LINKED: u16 = 0x8000;
/// Added to that of a block that ends in another page.
const CROSSING: u16 = 0x4000;

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

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
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
    /// Another block that begins in the same page, if there is one.
    next: Option<NonZero<u32>>,
    pages: Pages,
}

/// The blocks of one CPU.
#[derive(Default)]
pub(crate) struct Store {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    by_place: HashMap<Key, u32, BuildHasherDefault<KeyHasher>>,
    /// For each page, one more than the number of a block in it, which leads to all others.
    by_page: HashMap<u32, NonZero<u32>, BuildHasherDefault<KeyHasher>>,
    /// Blocks that end in another page.
    crossing: Vec<u32>,
}

impl Op {
    /// By how much its link is shifted: whether what follows is the next instruction, or the branch's target.
    #[inline(always)]
    fn side(&self, (before, now): (u64, u64)) -> u32 {
        let falls = before.wrapping_add(u64::from(self.next)) == now;
        u32::from(falls) * 32
    }
}

impl Store {
    /// The operations of block `index`.
    pub(crate) fn ops(&self, index: u32) -> &[Op] {
        self.ops_at(self.start(index))
    }

    /// The operations of the block that begins with operation `start`; none when its code changed.
    #[inline(always)]
    pub(crate) fn ops_at(&self, start: u32) -> &[Op] {
        let rest = &self.ops[start as usize..];
        &rest[..usize::from(rest[0].count)]
    }

    /// Empties the blocks that have code in page `number`: who finds them by their first operation looks again.
    pub(crate) fn empty_page(&mut self, number: u32) {
        let mut next = self.by_page.get(&number).copied();
        while let Some(index) = next {
            let block = &self.blocks[index.get() as usize - 1];
            next = block.next;
            self.ops[block.start as usize].count = 0;
        }
        for index in &self.crossing {
            let block = &self.blocks[*index as usize];
            if block.pages.second.is_some_and(|page| page.number == number) {
                self.ops[block.start as usize].count = 0;
            }
        }
    }

    /// Empties block `index`.
    pub(crate) fn empty(&mut self, index: u32) {
        let start = self.start(index);
        self.ops[start as usize].count = 0;
    }

    /// The last operation of the block that begins with operation `start`, if blocks can be linked there; else 0.
    #[inline(always)]
    pub(crate) fn linked_at(&self, start: u32) -> u32 {
        let first = &self.ops[start as usize];
        if first.place & LINKED == 0 {
            return 0;
        }
        start + u32::from(first.count) - 1
    }

    /// The block at `linear` that was linked to operation `last`, whose page that is in; 0 when there is none.
    ///
    /// * `rip`: of the block that ended with `last`, and the next one.
    #[inline(always)]
    pub(crate) fn linked(&self, last: u32, rip: (u64, u64), linear: u64) -> u32 {
        let op = &self.ops[last as usize];
        let start = (op.disp >> op.side(rip)) as u32;
        let first = &self.ops[start as usize];
        let is_it = first.count != 0 && u64::from(first.place & !LINKED) == linear % PAGE;
        if is_it { start } else { 0 }
    }

    /// Links the block that begins with operation `start` to operation `last` of one in the same page.
    #[inline(always)]
    pub(crate) fn link(&mut self, last: u32, rip: (u64, u64), start: u32) {
        // Where one that crosses pages goes on, its own page does not tell.
        if self.ops[start as usize].place & CROSSING == 0 {
            let op = &mut self.ops[last as usize];
            let side = op.side(rip);
            op.disp = op.disp & !(u64::from(u32::MAX) << side) | u64::from(start) << side;
        }
    }

    /// The first operation of block `index`.
    pub(crate) fn start(&self, index: u32) -> u32 {
        self.blocks[index as usize].start
    }

    /// The same, of a block that may not be there.
    pub(crate) fn start_of(&self, index: u32) -> Option<u32> {
        self.blocks.get(index as usize).map(|block| block.start)
    }

    /// Gives the block that begins with operation `start` its links, if it can have some; both lead to operations there
    /// will be.
    pub(crate) fn take_links(&mut self, start: u32, links: u64) {
        let last = self.linked_at(start);
        if last != 0 {
            self.ops[last as usize].disp = links;
        }
    }

    /// The block at a place.
    pub(crate) fn find(&self, key: Key) -> Option<u32> {
        self.by_place.get(&key).copied()
    }

    /// Whether block `index`'s code is what it was.
    pub(crate) fn is_current(&self, index: u32, ram: &Ram) -> bool {
        let pages = self.blocks[index as usize].pages;
        // One that was decoded after its page was written, and before that was heard of, is emptied all the same.
        !self.ops(index).is_empty()
            && pages.first.is_current(ram)
            && pages.second.is_none_or(|page| page.is_current(ram))
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
        self.by_page.reserve(blocks / BLOCKS_A_PAGE);
        self.ops.reserve(ops + 1);
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.by_place.clear();
        self.by_page.clear();
        self.crossing.clear();
    }

    /// Keeps a block of `ops`, in place of block `old` or as a new one; gives its number.
    pub(crate) fn keep(
        &mut self,
        key: Key,
        old: Option<u32>,
        ops: impl IntoIterator<Item = Op>,
        pages: Pages,
    ) -> u32 {
        let start = self.add(ops, key, pages.second.is_some());
        self.enter(key, old, start, pages)
    }

    /// Enters the block that begins with operation `start` as [`Store::keep`] does.
    pub(crate) fn enter(&mut self, key: Key, old: Option<u32>, start: u32, pages: Pages) -> u32 {
        let index = old.unwrap_or(self.blocks.len() as u32);
        if pages.second.is_some() && old.is_none_or(|old| self.second_page(old).is_none()) {
            self.crossing.push(index);
        }
        if let Some(block) = self.blocks.get_mut(index as usize) {
            // In its place, so in the same page.
            (block.start, block.pages) = (start, pages);
            return index;
        }
        let next = self.chain(index, pages.first.number);
        self.blocks.push(Block { start, next, pages });
        self.by_place.insert(key, index);
        index
    }

    /// Puts block `index` among those of page `number`; gives the one that is to come behind it.
    fn chain(&mut self, index: u32, number: u32) -> Option<NonZero<u32>> {
        let own = NonZero::new(index + 1)?;
        match self.blocks.last_mut() {
            // Most blocks are in the page of the one before, which need not be found then.
            Some(before) if before.pages.first.number == number => before.next.replace(own),
            _ => self.by_page.insert(number, own),
        }
    }

    /// Its blocks, and the operations of another.
    pub(crate) fn with_ops_of(self, other: Self) -> Self {
        Self {
            ops: other.ops,
            ..self
        }
    }

    /// Adds the operations of a block that is entered elsewhere; the first one's number.
    pub(crate) fn add(
        &mut self,
        ops: impl IntoIterator<Item = Op>,
        key: Key,
        is_crossing: bool,
    ) -> u32 {
        if self.ops.is_empty() {
            // No block begins with operation 0.
            self.ops.push(lower::nothing());
        }
        let start = self.ops.len();
        self.ops.extend(ops);
        let count = (self.ops.len() - start) as u16;
        let mut place = (key.place().offset % PAGE) as u16;
        if is_crossing {
            place |= CROSSING;
        }
        if let Some(last) = self.ops[start..].last_mut()
            && last.scale == LINKS
        {
            last.disp = 0;
            place |= LINKED;
        }
        if let Some(first) = self.ops.get_mut(start) {
            (first.count, first.place) = (count, place);
        }
        start as u32
    }

    /// Forgets all blocks but those that begin with the operations `live`.
    pub(crate) fn keep_only(&mut self, live: HashSet<u32>) {
        let mut kept = Self::default();
        for (key, index) in self.places() {
            let block = &self.blocks[index as usize];
            if live.contains(&block.start) && !self.ops(index).is_empty() {
                kept.keep(key, None, self.ops(index).iter().copied(), block.pages);
            }
        }
        kept.ops.shrink_to_fit();
        kept.blocks.shrink_to_fit();
        *self = kept;
    }
}

#[cfg(test)]
mod tests {
    use atoll_memory::GuestMemory;

    use super::*;

    fn pages(ram: &Ram, first: u64, second: Option<u64>) -> Pages {
        Pages {
            first: PageVersion::now(ram, first),
            second: second.map(|offset| PageVersion::now(ram, offset)),
        }
    }

    /// A block at `offset` that is cut after as many instructions.
    fn keep(store: &mut Store, ram: &Ram, offset: u64, second: Option<u64>) -> u32 {
        let ops = [lower::nothing(), lower::fall_through(5)];
        let key = Key::new(offset, Mode::Bits64);
        store.keep(key, None, ops, pages(ram, offset & !(PAGE - 1), second))
    }

    #[test]
    fn blocks_are_linked_until_their_page_is_emptied() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut store = Store::default();
        let [a, b, other] = [0x10, 0x15, PAGE].map(|offset| keep(&mut store, &ram, offset, None));
        let [a, b, other] = [a, b, other].map(|index| store.start(index));
        let last = store.linked_at(a);
        assert_eq!(last, a + 1);
        // From 0x1000 to the next instruction, and by a branch to elsewhere.
        let (falls, jumps) = ((0x1000, 0x1005), (0x1000, 0x1800));
        assert_eq!(store.linked(last, falls, 0x1015), 0);
        store.link(last, falls, b);
        assert_eq!(store.linked(last, falls, 0x1015), b);
        assert_eq!(store.linked(last, falls, 0x1016), 0, "another place");
        assert_eq!(store.linked(last, jumps, 0x1015), 0, "the other side");
        store.link(last, jumps, a);
        assert_eq!(store.linked(last, jumps, 0x1010), a);
        assert_eq!(store.linked(last, falls, 0x1015), b);
        store.empty_page(1);
        assert!(store.ops_at(other).is_empty());
        assert_eq!(store.linked(last, falls, 0x1015), b);
        store.empty_page(0);
        assert_eq!(store.linked(last, falls, 0x1015), 0);
        assert!(store.ops_at(a).is_empty() && store.ops_at(b).is_empty());
    }

    #[test]
    fn what_ends_in_another_page_is_not_linked_and_emptied_with_it() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut store = Store::default();
        let near = keep(&mut store, &ram, 0xff0, None);
        let crossing = keep(&mut store, &ram, 0xffe, Some(2 * PAGE));
        let start = store.start(crossing);
        let last = store.linked_at(store.start(near));
        store.link(last, (0xff0, 0xffe), start);
        assert_eq!(store.linked(last, (0xff0, 0xffe), 0xffe), 0);
        store.empty_page(1);
        assert!(!store.ops_at(start).is_empty());
        store.empty_page(2);
        assert!(store.ops_at(start).is_empty());
        assert!(!store.is_current(crossing, &ram));
    }
}
