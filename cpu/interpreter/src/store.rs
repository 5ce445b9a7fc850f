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
mod place;

use std::collections::HashSet;
use std::fs::File;

use atoll_memory::{PAGE, Ram, Records};

use crate::lower;
use crate::op::{LINKS, Op};

pub(crate) use pages::{CodePages, MAX_STARTS, NumberHasher, Table};
pub(crate) use place::{Entry, OFFSET, PageVersion, Pages, Place};

/// Operations that are added before the store is full: 8 MB. What a guest executes until a container runs in it fits.
const MAX_OPS: usize = 256_000;
/// Operations that were saved with a machine, at most: those of a template, and of the copy it learnt from.
pub(crate) const MAX_LEARNT: usize = 2 * MAX_OPS;
/// Added operations that are worth being trimmed.
const MANY_OPS: usize = 64_000;
/// Operations there is room for: one more block is added while it is not full.
const ROOM: usize = MAX_LEARNT + MAX_OPS + 1024;
const _: () = assert!(ROOM < MAX_STARTS);

/// Added to the place of a block that ends in another page.
const CROSSING: u16 = 0x4000;
/// Added to that of a block whose last operation has links.
const LINKED: u16 = 0x8000;

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
pub(crate) struct Store {
    ops: Records<Op>,
    /// How many of them are a file's, and so cost no memory of this process.
    learnt: usize,
    pages: CodePages,
    /// The first operations of blocks that end in another page.
    crossing: Vec<u32>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            ops: Records::new(ROOM),
            learnt: 0,
            pages: CodePages::default(),
            crossing: Vec::new(),
        }
    }
}

impl Op {
    /// By how much its link is shifted: whether what follows is the next instruction, or the branch's target.
    #[inline(always)]
    fn side(&self, (before, now): (u64, u64)) -> u32 {
        let falls = before.wrapping_add(u64::from(self.next())) == now;
        u32::from(falls) * 32
    }
}

impl Store {
    /// The operations of the block that begins with operation `start`; none when its code changed.
    #[inline(always)]
    pub(crate) fn ops(&self, start: u32) -> &[Op] {
        let rest = self.ops.get(start as usize..).unwrap_or_default();
        let count = rest.first().map_or(0, |first| first.count.into());
        rest.get(..count).unwrap_or_default()
    }

    /// The block that begins with operation `start` in page `page`.
    pub(crate) fn block(&self, page: u32, start: u32) -> Block<'_> {
        let place = self.first(start).map_or(0, |first| first.place);
        Block {
            start,
            place: Place {
                page,
                entry: Entry(place & !(LINKED | CROSSING)),
            },
            second: self.second(start),
            ops: self.ops(start),
        }
    }

    /// The first operation of a block; `None` for numbers that a damaged file told.
    #[inline(always)]
    fn first(&self, start: u32) -> Option<&Op> {
        self.ops.get(start as usize)
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
        if let Some(first) = self.ops.get_mut(start as usize) {
            first.count = 0;
        }
    }

    /// Empties the blocks that have code in page `number`, as memory has it now.
    pub(crate) fn empty_page(&mut self, number: u32, ram: &Ram) {
        let version = ram.code_pages().version(u64::from(number));
        for start in self.pages.empty(number, version) {
            self.empty(start);
        }
        let mut crossing = std::mem::take(&mut self.crossing);
        crossing.retain(|start| {
            if self.second(*start) == Some(number) {
                self.empty(*start);
            }
            !self.ops(*start).is_empty()
        });
        self.crossing = crossing;
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
        let first = self.first(start);
        let is_it = first
            .is_some_and(|first| first.count != 0 && first.place & !(LINKED | CROSSING) == entry.0);
        if is_it { start } else { 0 }
    }

    /// Whether the block that begins with operation `start` ends in another page.
    #[inline(always)]
    pub(crate) fn is_crossing(&self, start: u32) -> bool {
        self.first(start)
            .is_some_and(|first| first.place & CROSSING != 0)
    }

    /// The number of that page.
    pub(crate) fn second(&self, start: u32) -> Option<u32> {
        let before = self.ops.get((start as usize).checked_sub(1)?)?;
        self.is_crossing(start).then_some(before.imm as u32)
    }

    /// The last operation of the block that begins with operation `start`, if blocks can be linked there; else 0.
    #[inline(always)]
    pub(crate) fn linked_at(&self, start: u32) -> u32 {
        match self.first(start) {
            Some(first) if first.place & LINKED != 0 => {
                (start + u32::from(first.count)).saturating_sub(1)
            }
            _ => 0,
        }
    }

    /// The block at `linear` that was linked to operation `last`, whose page that is in; 0 when there is none.
    ///
    /// * `rip`: of the block that ended with `last`, and the next one.
    #[inline(always)]
    pub(crate) fn linked(&self, last: u32, rip: (u64, u64), linear: u64) -> u32 {
        let start = match self.ops.get(last as usize) {
            Some(op) => (op.disp >> op.side(rip)) as u32,
            None => 0,
        };
        let Some(first) = self.first(start) else {
            return 0;
        };
        let place = first.place & (CROSSING | OFFSET);
        let is_it = first.count != 0 && u64::from(place) == linear % PAGE;
        if is_it { start } else { 0 }
    }

    /// Links the block that begins with operation `start` to operation `last` of one in the same page.
    #[inline(always)]
    pub(crate) fn link(&mut self, last: u32, rip: (u64, u64), start: u32) {
        // Where one that crosses pages goes on, its own page does not tell.
        if !self.is_crossing(start)
            && let Some(op) = self.ops.get_mut(last as usize)
        {
            let side = op.side(rip);
            op.disp = op.disp & !(u64::from(u32::MAX) << side) | u64::from(start) << side;
        }
    }

    /// Whether nothing may be added before it is emptied.
    pub(crate) fn is_full(&self) -> bool {
        self.ops.len() > self.learnt + MAX_OPS
    }

    /// Whether trimming is worth while.
    pub(crate) fn is_large(&self) -> bool {
        self.ops.len() > self.learnt + MANY_OPS
    }

    /// Keeps a block of `ops`, in place of the one that was there; gives its first operation.
    pub(crate) fn keep(
        &mut self,
        entry: Entry,
        ops: impl IntoIterator<Item = Op>,
        pages: Pages,
    ) -> u32 {
        let start = self.add(ops, entry, pages.second.map(|page| page.number));
        self.enter(start, entry, pages);
        start
    }

    /// Enters the block that begins with operation `start`.
    fn enter(&mut self, start: u32, entry: Entry, pages: Pages) {
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

    /// The version that page `number` had when it had no blocks.
    pub(crate) fn version(&self, number: u32) -> PageVersion {
        PageVersion {
            number,
            version: self.pages.version(number).unwrap_or_default(),
        }
    }

    /// Gives the block that begins with operation `start` its links, if it can have some.
    pub(crate) fn set_links(&mut self, start: u32, links: u64) {
        let last = self.linked_at(start) as usize;
        if let Some(op) = self.ops.get_mut(last).filter(|_| last != 0) {
            op.disp = links;
        }
    }

    /// Takes as little room for where blocks are as can be.
    pub(crate) fn compact(&mut self) {
        self.pages.compact();
    }

    /// All operations, of blocks or not.
    pub(crate) fn all_ops(&self) -> &[Op] {
        &self.ops
    }

    /// The entries of all tables.
    pub(crate) fn entries(&self) -> &[u32] {
        self.pages.entries()
    }

    /// The first operations of blocks that end in another page, or did.
    pub(crate) fn crossing(&self) -> &[u32] {
        &self.crossing
    }

    /// The `len` operations behind byte `at` of `file`, as [`Records::of_file`] has them.
    pub(crate) fn map(file: &File, at: u64, len: usize) -> std::io::Result<Records<Op>> {
        Records::of_file(file, at, len, ROOM)
    }

    /// A store of blocks that another process kept.
    ///
    /// * `pages`: what each page with code is, and the place of its table in `entries`.
    /// * `crossing`: the first operations of blocks that end in another page.
    pub(crate) fn restored(
        ops: Records<Op>,
        pages: impl IntoIterator<Item = (PageVersion, Table)>,
        entries: Vec<u32>,
        crossing: Vec<u32>,
    ) -> Self {
        let pages = pages
            .into_iter()
            .map(|(page, table)| (page.number, page.version, table));
        Self {
            learnt: ops.len(),
            ops,
            pages: CodePages::restored(pages, entries),
            crossing,
        }
    }

    /// Adds the operations of a block; the first one's number.
    ///
    /// * `second`: the number of the page it ends in, if that is another.
    fn add(&mut self, ops: impl IntoIterator<Item = Op>, entry: Entry, second: Option<u32>) -> u32 {
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
        let count = (self.ops.len() - start) as u8;
        if let Some(last) = self.ops.last_mut()
            && count > 0
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

    /// Forgets the blocks that were added, but for those in the pages with the numbers `live`.
    pub(crate) fn keep_only(&mut self, live: &HashSet<u32>) {
        let is_learnt = |start: u32| (start as usize) < self.learnt;
        let mut old = Vec::new();
        let mut kept = Vec::new();
        for block in self.blocks() {
            // What changed since is found out of the new tables later, as it is of these.
            let pages = Pages {
                first: self.version(block.place.page),
                second: block.second.map(|second| self.version(second)),
            };
            if is_learnt(block.start) {
                old.push((block.start, block.place.entry, pages));
            } else if live.contains(&block.place.page) {
                kept.push((block.place.entry, pages, block.ops.to_vec()));
            }
        }
        self.pages = CodePages::default();
        self.crossing.clear();
        self.ops.truncate(self.learnt);
        for (start, entry, pages) in old {
            self.unlink(start);
            self.enter(start, entry, pages);
        }
        for (entry, pages, ops) in kept {
            self.keep(entry, ops, pages);
        }
    }

    /// Forgets where the block that begins with operation `start` leads to, if that was added.
    fn unlink(&mut self, start: u32) {
        let last = self.linked_at(start) as usize;
        let learnt = self.learnt as u64;
        if let Some(op) = self.ops.get_mut(last).filter(|_| last != 0) {
            for side in [0, 32] {
                let link = op.disp >> side & u64::from(u32::MAX);
                if link >= learnt {
                    op.disp &= !(u64::from(u32::MAX) << side);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use atoll_memory::GuestMemory;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::cpu::Mode;

    fn pages(ram: &Ram, first: u64, second: Option<u64>) -> Pages {
        Pages {
            first: PageVersion::now(ram, first),
            second: second.map(|offset| PageVersion::now(ram, offset)),
        }
    }

    /// A block at `offset` that is cut after as many instructions; its first operation.
    fn keep(store: &mut Store, ram: &Ram, offset: u64, second: Option<u64>) -> u32 {
        let ops = [lower::nothing(), lower::fall_through(5).op];
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
    fn what_was_learnt_stays_when_what_was_added_is_trimmed() {
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        let ram = memory.ram();
        let mut saved = Store::default();
        let [a, b] = [0x10, 0x15].map(|offset| keep(&mut saved, &ram, offset, None));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(saved.all_ops().as_bytes()).unwrap();
        let ops = Store::map(&file, 0, saved.all_ops().len()).unwrap();
        let page = (saved.version(0), saved.table(0));
        let mut store = Store::restored(ops, [page], saved.entries().to_vec(), Vec::new());
        assert_eq!([0x10, 0x15].map(|offset| find(&store, offset)), [a, b]);
        // Two blocks more, in two pages; the learnt one leads to one of them and to a learnt one.
        let gone = keep(&mut store, &ram, 0x20, None);
        let stays = keep(&mut store, &ram, PAGE + 0x20, None);
        let (falls, jumps) = ((0x1000, 0x1005), (0x1000, 0x1800));
        let last = store.linked_at(a);
        store.link(last, falls, gone);
        store.link(last, jumps, b);
        store.keep_only(&HashSet::from([1]));
        assert_eq!([0x10, 0x15].map(|offset| find(&store, offset)), [a, b]);
        assert_eq!(find(&store, 0x20), 0);
        // It has taken the place of the other one, at the same place in another page.
        assert_eq!((find(&store, PAGE + 0x20), gone < stays), (gone, true));
        assert_eq!(store.linked(last, falls, 0x1020), 0);
        assert_eq!(store.linked(last, jumps, 0x1015), b);
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
