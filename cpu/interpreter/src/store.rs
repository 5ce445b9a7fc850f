//! Decoded blocks by physical address, all of their operations in one place.
//!
//! ```text
//!   page number ─► table of the page ─ place in the page ─► a block's first operation ─► ... its last ─ links ─► others
//! ```
//!
//! Blocks that a guest executes at its start lie there one after the other. A block that was decoded anew leaves a gap;
//! gaps go when the store is emptied or trimmed. A block is as good as its page: when that is written, all are emptied.
//!
//! A block that ends with a direct branch, or was cut, has links: the two blocks that may follow it in its page, by their
//! first operations, in the last operation's displacement. They are as good as the block itself is: the same page is
//! executed, at the same width and privilege. What is linked is told by its place in the page, or it is emptied.
//!
//! Before the first operation of a block that ends in another page is one that is not executed: it says which page.

mod pages;

use std::collections::HashSet;

use atoll_memory::{PAGE, Ram};

use crate::cpu::Mode;
use crate::lower;
use crate::op::{LINKS, Op};

pub(crate) use pages::{CodePages, MAX_STARTS, NumberHasher, Table};

/// Operations before the store is full: 10 MB. What a guest executes until a container runs in it fits.
pub(crate) const MAX_OPS: usize = 256_000;
/// Operations that are worth being trimmed.
const MANY_OPS: usize = 64_000;

// Blocks are added while it is not full.
const _: () = assert!(MAX_OPS + 1024 < MAX_STARTS);

/// The bits of a place that are an offset in a page.
pub(crate) const OFFSET: u16 = 0x0FFF;
/// By how much a [`Mode`] is shifted there.
const MODE: u32 = 12;
/// Added to the place of a block that ends in another page.
const CROSSING: u16 = 0x4000;
/// Added to that of a block whose last operation has links.
const LINKED: u16 = 0x8000;

/// Where a block begins in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of its page: an offset in memory divided by [`PAGE`].
    pub(crate) page: u32,
    /// Where in it, and the code's width.
    pub(crate) entry: Entry,
}

/// Offset in a page, and above it the [`Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(u16);

impl Entry {
    /// At `address`, linear or not.
    #[inline(always)]
    pub(crate) fn new(address: u64, mode: Mode) -> Self {
        Self(address as u16 & OFFSET | (mode as u16) << MODE)
    }

    /// One that [`Entry::number`] told; `None` for other numbers.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        (number >> MODE <= Mode::Bits64 as u16).then_some(Self(number))
    }

    /// As a number.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// Offset in the page.
    #[inline(always)]
    pub(crate) fn offset(self) -> u16 {
        self.0 & OFFSET
    }

    /// How wide the code is.
    pub(crate) fn mode(self) -> Mode {
        match self.0 >> MODE {
            0 => Mode::Bits16,
            1 => Mode::Bits32,
            _ => Mode::Bits64,
        }
    }
}

impl Place {
    /// Memory offset of the first instruction.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.page) * PAGE + u64::from(self.entry.offset())
    }
}

/// A page by its number and its version when a block was decoded from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageVersion {
    pub(crate) number: u32,
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
}

/// The page a block begins in, and the one that its last instruction ends in when that is another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) first: PageVersion,
    pub(crate) second: Option<PageVersion>,
}

/// A run of instructions that is entered at its first only, as the store has it.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Its first operation.
    pub(crate) start: u32,
    /// Where it begins.
    pub(crate) place: Place,
    /// The number of the page it ends in when that is another.
    pub(crate) second: Option<u32>,
    /// Its operations, of which the last one leaves.
    pub(crate) ops: &'a [Op],
}

/// The blocks of one CPU.
#[derive(Default)]
pub(crate) struct Store {
    ops: Vec<Op>,
    pages: CodePages,
    /// The first operations of blocks that end in another page.
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
    /// The operations of the block that begins with operation `start`; none when its code changed.
    #[inline(always)]
    pub(crate) fn ops(&self, start: u32) -> &[Op] {
        let rest = &self.ops[start as usize..];
        &rest[..usize::from(rest[0].count)]
    }

    /// The block that begins with operation `start` in page `page`.
    pub(crate) fn block(&self, page: u32, start: u32) -> Block<'_> {
        Block {
            start,
            place: Place {
                page,
                entry: Entry(self.ops[start as usize].place & !(LINKED | CROSSING)),
            },
            second: self.second(start),
            ops: self.ops(start),
        }
    }

    /// Every block that has operations, in the order of those.
    pub(crate) fn blocks(&self) -> Vec<Block<'_>> {
        let all = self.pages.all();
        let all = all.map(|(page, start)| self.block(page, start));
        let mut all: Vec<_> = all.filter(|block| !block.ops.is_empty()).collect();
        all.sort_unstable_by_key(|block| block.start);
        all
    }

    /// Empties the block that begins with operation `start`: who knows it looks again.
    pub(crate) fn empty(&mut self, start: u32) {
        self.ops[start as usize].count = 0;
    }

    /// Empties the blocks that have code in page `number`, as memory has it now.
    pub(crate) fn empty_page(&mut self, number: u32, ram: &Ram) {
        let version = ram.code_pages().version(u64::from(number));
        for start in self.pages.empty(number, version) {
            self.empty(start);
        }
        let ops = &mut self.ops;
        self.crossing.retain(|start| {
            if second(ops, *start) == number {
                ops[*start as usize].count = 0;
            }
            ops[*start as usize].count != 0
        });
    }

    /// Whether the code of a block is what it was.
    pub(crate) fn is_current(&self, block: &Block<'_>, ram: &Ram) -> bool {
        let is_current = |number: u32| {
            let now = ram.code_pages().version(u64::from(number));
            self.pages.version(number) == Some(now)
        };
        is_current(block.place.page) && block.second.is_none_or(is_current)
    }

    /// Sees to it that what is known of page `number` is what memory has now, and gives its table.
    pub(crate) fn current(&mut self, number: u32, ram: &Ram) -> Table {
        let version = ram.code_pages().version(u64::from(number));
        if self.pages.version(number).is_some_and(|old| old != version) {
            self.empty_page(number, ram);
        }
        self.table(number)
    }

    /// The table of page `number`, an empty one if it has none.
    pub(crate) fn table(&self, number: u32) -> Table {
        self.pages.table(number).unwrap_or_default()
    }

    /// The first operation of the block at a place of the page with `table`; 0 when there is none.
    #[inline(always)]
    pub(crate) fn find(&self, table: Table, entry: Entry) -> u32 {
        let start = self.pages.at(table, entry.offset());
        let first = &self.ops.get(start as usize);
        let is_it = first
            .is_some_and(|first| first.count != 0 && first.place & !(LINKED | CROSSING) == entry.0);
        if is_it { start } else { 0 }
    }

    /// Whether the block that begins with operation `start` ends in another page.
    #[inline(always)]
    pub(crate) fn is_crossing(&self, start: u32) -> bool {
        self.ops[start as usize].place & CROSSING != 0
    }

    /// The number of that page.
    pub(crate) fn second(&self, start: u32) -> Option<u32> {
        self.is_crossing(start).then(|| second(&self.ops, start))
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
        let place = first.place & (CROSSING | OFFSET);
        let is_it = first.count != 0 && u64::from(place) == linear % PAGE;
        if is_it { start } else { 0 }
    }

    /// Links the block that begins with operation `start` to operation `last` of one in the same page.
    #[inline(always)]
    pub(crate) fn link(&mut self, last: u32, rip: (u64, u64), start: u32) {
        // Where one that crosses pages goes on, its own page does not tell.
        if !self.is_crossing(start) {
            let op = &mut self.ops[last as usize];
            let side = op.side(rip);
            op.disp = op.disp & !(u64::from(u32::MAX) << side) | u64::from(start) << side;
        }
    }

    /// Gives the block that begins with operation `start` its links, if it can have some; both lead to operations there
    /// will be.
    pub(crate) fn take_links(&mut self, start: u32, links: u64) {
        let last = self.linked_at(start);
        if last != 0 {
            self.ops[last as usize].disp = links;
        }
    }

    /// Whether nothing may be added before it is emptied.
    pub(crate) fn is_full(&self) -> bool {
        self.ops.len() > MAX_OPS
    }

    /// Whether trimming is worth while.
    pub(crate) fn is_large(&self) -> bool {
        self.ops.len() > MANY_OPS
    }

    /// Makes room for so many operations more.
    pub(crate) fn reserve(&mut self, ops: usize) {
        self.ops.reserve(ops + 1);
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            ops: std::mem::take(&mut self.ops),
            ..Self::default()
        };
        self.ops.clear();
    }

    /// Keeps a block of `ops`, in place of the one that was there; gives its first operation.
    pub(crate) fn keep(
        &mut self,
        entry: Entry,
        ops: impl IntoIterator<Item = Op>,
        pages: Pages,
    ) -> u32 {
        let start = self.add(ops, entry, pages.second.map(|page| page.number));
        self.enter(entry, start, pages);
        start
    }

    /// Enters the block that begins with operation `start` as [`Store::keep`] does.
    pub(crate) fn enter(&mut self, entry: Entry, start: u32, pages: Pages) {
        let page = self.pages.add(pages.first.number, pages.first.version);
        if let Some(second) = pages.second {
            self.pages.add(second.number, second.version);
            self.crossing.push(start);
        }
        let old = self.pages.insert(page, entry.offset(), start);
        if old != 0 && old != start {
            // Some may be linked to it.
            self.empty(old);
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
    ///
    /// * `second`: the number of the page it ends in, if that is another.
    pub(crate) fn add(
        &mut self,
        ops: impl IntoIterator<Item = Op>,
        entry: Entry,
        second: Option<u32>,
    ) -> u32 {
        if self.ops.is_empty() {
            // No block begins with operation 0.
            self.ops.push(lower::nothing());
        }
        let mut place = entry.0;
        if let Some(second) = second {
            place |= CROSSING;
            self.ops.push(Op {
                imm: u64::from(second),
                ..lower::nothing()
            });
        }
        let start = self.ops.len();
        self.ops.extend(ops);
        let count = (self.ops.len() - start) as u16;
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

    /// Forgets all blocks but those in the pages with the numbers `live`.
    pub(crate) fn keep_only(&mut self, live: &HashSet<u32>) {
        let mut kept = Self::default();
        // What changed since is found out of it later, as it is of this one.
        let version = |number: u32| PageVersion {
            number,
            version: self.pages.version(number).unwrap_or_default(),
        };
        for block in self.blocks() {
            let pages = Pages {
                first: version(block.place.page),
                second: block.second.map(version),
            };
            if live.contains(&block.place.page) {
                kept.keep(block.place.entry, block.ops.iter().copied(), pages);
            }
        }
        kept.ops.shrink_to_fit();
        *self = kept;
    }
}

/// The page that the block with the first operation `start` ends in, when that is another.
fn second(ops: &[Op], start: u32) -> u32 {
    ops[start as usize - 1].imm as u32
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

    /// A block at `offset` that is cut after as many instructions; its first operation.
    fn keep(store: &mut Store, ram: &Ram, offset: u64, second: Option<u64>) -> u32 {
        let ops = [lower::nothing(), lower::fall_through(5)];
        let entry = Entry::new(offset, Mode::Bits64);
        store.keep(entry, ops, pages(ram, offset & !(PAGE - 1), second))
    }

    /// What is found at `offset`.
    fn find(store: &Store, offset: u64) -> u32 {
        let table = store.table((offset / PAGE) as u32);
        store.find(table, Entry::new(offset, Mode::Bits64))
    }

    #[test]
    fn blocks_are_linked_until_their_page_is_emptied() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut store = Store::default();
        let [a, b, other] = [0x10, 0x15, PAGE].map(|offset| keep(&mut store, &ram, offset, None));
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
        store.empty_page(1, &ram);
        assert!(store.ops(other).is_empty());
        assert_eq!(store.linked(last, falls, 0x1015), b);
        let again = keep(&mut store, &ram, 0x15, None);
        assert_eq!(find(&store, 0x15), again);
        assert_eq!(
            store.linked(last, falls, 0x1015),
            0,
            "another is in its place"
        );
        store.empty_page(0, &ram);
        assert!(store.ops(a).is_empty() && store.ops(again).is_empty());
        assert_eq!((find(&store, 0x10), find(&store, 0x15)), (0, 0));
    }

    #[test]
    fn what_ends_in_another_page_is_not_linked_and_emptied_with_it() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut store = Store::default();
        let near = keep(&mut store, &ram, 0xff0, None);
        let start = keep(&mut store, &ram, 0xffe, Some(2 * PAGE));
        assert_eq!((store.second(start), store.second(near)), (Some(2), None));
        let last = store.linked_at(near);
        store.link(last, (0xff0, 0xffe), start);
        assert_eq!(store.linked(last, (0xff0, 0xffe), 0xffe), 0);
        store.empty_page(1, &ram);
        assert_eq!(find(&store, 0xffe), start);
        store.empty_page(2, &ram);
        assert!(store.ops(start).is_empty() && !store.ops(near).is_empty());
        assert_eq!(find(&store, 0xffe), 0);
    }

    #[test]
    fn a_page_that_was_written_is_found_empty() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut store = Store::default();
        let starts = [0, 8, PAGE].map(|offset| keep(&mut store, &ram, offset, None));
        ram.code_pages().mark(0, 16);
        assert!(ram.code_pages().written(4, 1));
        let of = |number| store.block(number, starts[number as usize * 2]);
        assert!(!store.is_current(&of(0), &ram) && store.is_current(&of(1), &ram));
        assert_eq!(find(&store, 8), starts[1], "nobody asked");
        let tables = [0, 1].map(|number| store.current(number, &ram));
        let entry = |offset| Entry::new(offset, Mode::Bits64);
        assert_eq!(store.find(tables[0], entry(8)), 0);
        assert_eq!(store.find(tables[1], entry(0)), starts[2]);
        assert_eq!(store.find(tables[1], Entry::new(0, Mode::Bits32)), 0);
        let mut live = HashSet::from([1]);
        store.keep_only(&live);
        assert_eq!((store.blocks().len(), find(&store, PAGE)), (1, 1));
        live.clear();
        store.keep_only(&live);
        assert!(store.blocks().is_empty());
    }
}
