//! Pages with code, and where in each of them blocks begin.
//!
//! A page has a table of entries: what begins at a place of the page is looked for from one entry on up to an empty one. It
//! doubles when it is half full; what it was is emptied then, so who remembers the old one finds nothing and asks again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::store::OFFSET;

/// Entries of a new page's table: a cache line.
const FEW: usize = 16;
/// Entries that are enough: twice the places.
const MOST: usize = 2 << OFFSET_BITS;
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
    pub(crate) first: u32,
    /// One less than its entries, a power of two.
    pub(crate) mask: u16,
}

impl Table {
    /// Whether it has a size that tables have.
    fn is_one(self) -> bool {
        let len = usize::from(self.mask) + 1;
        len.is_power_of_two() && (2..=MOST).contains(&len)
    }

    fn entries(self) -> Range<usize> {
        let first = self.first as usize;
        first..first + usize::from(self.mask) + 1
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
    /// Entries that are not empty.
    used: u16,
}

/// The pages of one store.
pub(crate) struct CodePages {
    pages: Vec<Page>,
    by_number: HashMap<u32, u32, BuildHasherDefault<NumberHasher>>,
    /// Of all tables; the first one is the empty table's.
    entries: Vec<u32>,
}

impl Default for CodePages {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            by_number: HashMap::default(),
            entries: vec![0],
        }
    }
}

impl CodePages {
    /// Pages by number and version, with the places of their tables in `entries`; what is out of it is empty.
    pub(crate) fn restored(
        pages: impl IntoIterator<Item = (u32, u32, Table)>,
        entries: Vec<u32>,
    ) -> Self {
        let mut new = Self {
            // The empty table's is there in any case.
            entries: if entries.is_empty() { vec![0] } else { entries },
            ..Self::default()
        };
        for (number, version, table) in pages {
            let new_index = new.pages.len() as u32;
            new.by_number.insert(number, new_index);
            let is_there = table.is_one() && table.entries().end <= new.entries.len();
            let table = if is_there { table } else { Table::default() };
            let used = new.entries[table.entries()].iter();
            new.pages.push(Page {
                number,
                version,
                table,
                used: used.filter(|entry| **entry != 0).count() as u16,
            });
        }
        new
    }

    /// The first operation of what is said to begin at a place of the page with `table`; 0 when there is none.
    #[inline(always)]
    pub(crate) fn at(&self, table: Table, offset: u16) -> u32 {
        let mut place = spread(offset);
        // A damaged table may have no empty entry.
        for _ in 0..=table.mask {
            let at = table.first as usize + usize::from(place & table.mask);
            let Some(&entry) = self.entries.get(at) else {
                return 0;
            };
            if entry == 0 || entry as u16 & OFFSET == offset {
                return start(entry);
            }
            place = place.wrapping_add(1);
        }
        0
    }

    /// The entries of all tables.
    pub(crate) fn entries(&self) -> &[u32] {
        &self.entries
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
                used: 0,
            });
        }
        index as usize
    }

    /// Enters what begins with operation `start` at a place of page `index`; gives what was said to begin there, or 0.
    pub(crate) fn insert(&mut self, index: usize, offset: u16, start: u32) -> u32 {
        let page = &mut self.pages[index];
        let len = usize::from(page.table.mask) + 1;
        if len == 1 || usize::from(page.used) * 2 >= len && len < MOST {
            self.grow(index);
        }
        let page = &mut self.pages[index];
        let table = &mut self.entries[page.table.entries()];
        let old = put(table, entry(start, offset));
        page.used += u16::from(old == 0);
        old >> OFFSET_BITS
    }

    /// Doubles the table of page `index`.
    fn grow(&mut self, index: usize) {
        let page = &mut self.pages[index];
        let old = page.table.entries();
        let first = self.entries.len();
        let len = (old.len() * 2).max(FEW);
        page.table = Table {
            first: first as u32,
            mask: (len - 1) as u16,
        };
        self.entries.resize(first + len, 0);
        for at in old {
            let entry = std::mem::take(&mut self.entries[at]);
            if entry != 0 {
                put(&mut self.entries[first..], entry);
            }
        }
    }

    /// Puts the tables beside each other, without what grew left.
    pub(crate) fn compact(&mut self) {
        let mut entries = vec![0];
        for page in &mut self.pages {
            let first = entries.len();
            entries.extend_from_slice(&self.entries[page.table.entries()]);
            page.table.first = first as u32;
        }
        self.entries = entries;
    }

    /// Empties the table of page `number`, which has `version` now; gives the operations that began its blocks.
    pub(crate) fn empty(&mut self, number: u32, version: u32) -> Vec<u32> {
        let Some(index) = self.by_number.get(&number) else {
            return Vec::new();
        };
        let page = &mut self.pages[*index as usize];
        page.version = version;
        page.used = 0;
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

/// Puts an entry into a table that has room, in place of one for the same place; what was there, or 0.
fn put(table: &mut [u32], new: u32) -> u32 {
    let offset = new as u16 & OFFSET;
    let (before, from) = table.split_at_mut(usize::from(spread(offset)) % table.len());
    let mut slots = from.iter_mut().chain(before);
    let slot = slots.find(|old| **old == 0 || **old as u16 & OFFSET == offset);
    slot.map_or(0, |slot| std::mem::replace(slot, new))
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
        pages.compact();
        assert!(pages.entries().len() <= 1 + FEW + MOST);
        let large = pages.table(3).unwrap();
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
