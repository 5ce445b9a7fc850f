//! Pages with code, and where in each of them blocks begin.
//!
//! A page has a table: entries in pairs, of which a place in the page has one pair. It doubles when a pair is full; what
//! it was is emptied then, so who remembers the old one finds nothing and asks again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::store::OFFSET;

/// Pairs of a new page's table: a cache line.
const FEW: usize = 8;
/// Pairs that are enough: no more than two places meet in one of them.
const MOST: usize = 1 << (OFFSET_BITS - 1);
/// Bits of a place in a page; the rest of an entry is an operation's number.
const OFFSET_BITS: u32 = OFFSET.count_ones();
/// Operations that entries can tell.
pub(crate) const MAX_STARTS: usize = 1 << (32 - OFFSET_BITS);

/// Spreads keys that are numbers: a multiplication is enough.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
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

/// Where a page's table is; the default one is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Table {
    /// Its first entry.
    first: u32,
    /// One less than its pairs, a power of two.
    mask: u16,
}

impl Table {
    /// The first entry of the pair of a place.
    #[inline(always)]
    fn pair(self, offset: u16) -> usize {
        self.first as usize + usize::from(spread(offset) & self.mask) * 2
    }

    fn entries(self) -> std::ops::Range<usize> {
        let first = self.first as usize;
        first..first + (usize::from(self.mask) + 1) * 2
    }
}

/// Another place for each place: functions begin at multiples of 16.
#[inline(always)]
fn spread(offset: u16) -> u16 {
    offset ^ offset >> 5
}

/// An entry: the number of a block's first operation, and its place. No block has number 0, an empty entry's.
#[inline(always)]
fn entry(start: u32, offset: u16) -> u32 {
    start << OFFSET_BITS | u32::from(offset)
}

#[inline(always)]
fn start(entry: u32) -> u32 {
    entry >> OFFSET_BITS
}

/// A page of memory.
#[derive(Clone, Copy, Debug)]
struct Page {
    number: u32,
    /// The page's version when it had no blocks.
    version: u32,
    table: Table,
}

/// The pages of one store.
pub(crate) struct CodePages {
    pages: Vec<Page>,
    by_number: HashMap<u32, u32, BuildHasherDefault<NumberHasher>>,
    /// Of all tables; the first pair is the empty table's.
    entries: Vec<u32>,
}

impl Default for CodePages {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            by_number: HashMap::default(),
            entries: vec![0; 2],
        }
    }
}

impl CodePages {
    /// The first operation of what is said to begin at a place of the page with `table`; 0 when there is none.
    #[inline(always)]
    pub(crate) fn at(&self, table: Table, offset: u16) -> u32 {
        let pair = self.entries.get(table.pair(offset)..);
        let Some(&[first, second]) = pair.and_then(<[u32]>::first_chunk) else {
            return 0;
        };
        if first as u16 & OFFSET == offset {
            start(first)
        } else if second as u16 & OFFSET == offset {
            start(second)
        } else {
            0
        }
    }

    /// The table of page `number`.
    pub(crate) fn table(&self, number: u32) -> Option<Table> {
        let index = *self.by_number.get(&number)?;
        Some(self.pages[index as usize].table)
    }

    /// The version that page `number` had when it had no blocks.
    pub(crate) fn version(&self, number: u32) -> Option<u32> {
        let index = *self.by_number.get(&number)?;
        Some(self.pages[index as usize].version)
    }

    /// Adds page `number` unless it is there; its place among the pages.
    ///
    /// * `version`: what it is now.
    pub(crate) fn add(&mut self, number: u32, version: u32) -> usize {
        let new = self.pages.len() as u32;
        let index = *self.by_number.entry(number).or_insert(new);
        if index == new {
            let table = Table {
                first: self.entries.len() as u32,
                mask: FEW as u16 - 1,
            };
            self.entries.resize(table.entries().end, 0);
            self.pages.push(Page {
                number,
                version,
                table,
            });
        }
        index as usize
    }

    /// Enters what begins with operation `start` at a place of page `index`; gives what was said to begin there, or 0.
    pub(crate) fn insert(&mut self, index: usize, offset: u16, start: u32) -> u32 {
        let new = entry(start, offset);
        loop {
            let table = self.pages[index].table;
            if let Some(old) = put(&mut self.entries[table.entries()], table.mask, new) {
                return old >> OFFSET_BITS;
            }
            self.grow(index);
        }
    }

    /// Makes the table of page `index` larger.
    fn grow(&mut self, index: usize) {
        let old = self.pages[index].table;
        let known: Vec<_> = self.entries[old.entries()]
            .iter_mut()
            .map(std::mem::take)
            .filter(|entry| *entry != 0)
            .collect();
        let first = self.entries.len();
        let mut pairs = usize::from(old.mask) + 1;
        loop {
            // With the most, every place has room.
            pairs = (pairs * 2).min(MOST);
            self.entries.truncate(first);
            self.entries.resize(first + pairs * 2, 0);
            let mask = pairs as u16 - 1;
            let all = &mut self.entries[first..];
            if known.iter().all(|entry| put(all, mask, *entry).is_some()) {
                self.pages[index].table = Table {
                    first: first as u32,
                    mask,
                };
                return;
            }
        }
    }

    /// Empties the table of page `number`, which has `version` now; gives the operations that began its blocks.
    pub(crate) fn empty(&mut self, number: u32, version: u32) -> Vec<u32> {
        let Some(index) = self.by_number.get(&number) else {
            return Vec::new();
        };
        let page = &mut self.pages[*index as usize];
        page.version = version;
        let entries = self.entries[page.table.entries()].iter_mut();
        entries
            .map(|entry| start(std::mem::take(entry)))
            .filter(|start| *start != 0)
            .collect()
    }

    /// The pages' numbers, each with the operation that begins each of its blocks.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        self.pages.iter().flat_map(|page| {
            let entries = self.entries[page.table.entries()].iter();
            let starts = entries.map(|entry| start(*entry));
            starts
                .filter(|start| *start != 0)
                .map(|start| (page.number, start))
        })
    }
}

/// Puts an entry into a table, in place of one for the same place; what was there then, or `None` when there is no room.
fn put(table: &mut [u32], mask: u16, new: u32) -> Option<u32> {
    let offset = new as u16 & OFFSET;
    let pair = usize::from(spread(offset) & mask) * 2;
    let slots = table.get_mut(pair..pair + 2)?;
    let slot = slots
        .iter_mut()
        .find(|old| **old == 0 || **old as u16 & OFFSET == offset)?;
    Some(std::mem::replace(slot, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_page_can_begin_a_block() {
        let mut pages = CodePages::default();
        pages.add(7, 0);
        let index = pages.add(3, 5);
        let small = pages.table(3).unwrap();
        for offset in 0..=OFFSET {
            assert_eq!(pages.insert(index, offset, 1 + u32::from(offset)), 0);
        }
        let large = pages.table(3).unwrap();
        for offset in 0..=OFFSET {
            assert_eq!(pages.at(large, offset), 1 + u32::from(offset));
            assert_eq!(pages.at(small, offset), 0, "the old table is empty");
            assert_eq!(pages.at(Table::default(), offset), 0);
        }
        assert_eq!(pages.insert(index, 9, 77), 10);
        assert_eq!(pages.at(large, 9), 77);
        assert_eq!(pages.all().count(), usize::from(OFFSET) + 1);
        let mut starts = pages.empty(3, 6);
        starts.sort_unstable();
        assert_eq!((starts[0], starts.len()), (1, usize::from(OFFSET) + 1));
        assert_eq!((pages.at(large, 9), pages.version(3)), (0, Some(6)));
        assert_eq!(
            (pages.table(4).is_none(), pages.empty(4, 1).len()),
            (true, 0)
        );
    }
}
