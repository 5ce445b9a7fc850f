//! The software TLB: which linear pages are where in memory, and what may be done with them.

use atoll_memory::PAGE;

/// Entries of one context.
const ENTRIES: usize = 2048;
/// A tag that no address has: pages are multiples of 4096.
const NONE: u64 = 1;

/// As whom memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Context {
    /// Supervisor that must not touch user pages (SMAP).
    Supervisor = 0,
    /// Supervisor that may touch user pages.
    SupervisorUserAccess = 1,
    /// User.
    User = 2,
}

/// One linear page.
#[derive(Clone, Copy)]
struct Entry {
    /// The page's linear address when it may be read.
    read: u64,
    /// The page's linear address when it may be written: its dirty bit is set and it holds no decoded code.
    write: u64,
    /// Offset in memory minus linear address.
    delta: u64,
    /// Stays when CR3 is written.
    global: bool,
}

const EMPTY: Entry = Entry {
    read: NONE,
    write: NONE,
    delta: 0,
    global: false,
};

/// One page's translation, to be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// Linear address of the page.
    pub(crate) page: u64,
    /// Offset in memory.
    pub(crate) offset: u64,
    /// Whether it may be written without looking again.
    pub(crate) writable: bool,
    /// Whether a write of CR3 keeps it.
    pub(crate) global: bool,
    /// Whether it is a piece of a larger page.
    pub(crate) large: bool,
}

/// Direct-mapped, one table a context.
pub(crate) struct Tlb {
    entries: Box<[[Entry; ENTRIES]; 3]>,
    /// Where entries that a write of CR3 removes may be; complete while it has room.
    local: Vec<(Context, u16)>,
    /// A bit for each region of 2 MiB, by its address modulo the bits: a piece of a larger page was entered there.
    large: Box<[u64; REGIONS / 64]>,
}

/// Entries of [`Tlb::local`], beyond which all of the table is looked at.
const LOCAL: usize = 4096;
/// Bits of [`Tlb::large`]: of each half of the address space, the user's and the system's, one half.
const REGIONS: usize = 4096;

/// The word and bit of an address's region in [`Tlb::large`].
fn region(address: u64) -> (usize, u64) {
    let place = (address >> 21) as usize % (REGIONS / 2) + (address >> 63) as usize * (REGIONS / 2);
    (place / 64, 1 << (place % 64))
}

#[inline(always)]
fn slot(address: u64) -> usize {
    (address / PAGE) as usize % ENTRIES
}

/// The page of the last of `bytes` bytes at `address`. Differs from the address's own page, and so from its entry's
/// tag, when the access crosses into the next.
#[inline(always)]
fn last_page(address: u64, bytes: u64) -> u64 {
    address.wrapping_add(bytes - 1) & !(PAGE - 1)
}

impl Tlb {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self {
            entries: Box::new([[EMPTY; ENTRIES]; 3]),
            local: Vec::with_capacity(LOCAL),
            large: Box::new([0; REGIONS / 64]),
        }
    }

    /// Offset in memory of `bytes` readable bytes at `address`, all in one page.
    #[inline(always)]
    pub(crate) fn readable(&self, context: Context, address: u64, bytes: u64) -> Option<u64> {
        let entry = &self.entries[context as usize][slot(address)];
        (entry.read == last_page(address, bytes)).then(|| address.wrapping_add(entry.delta))
    }

    /// Offset in memory of `bytes` writable bytes at `address`, all in one page.
    #[inline(always)]
    pub(crate) fn writable(&self, context: Context, address: u64, bytes: u64) -> Option<u64> {
        let entry = &self.entries[context as usize][slot(address)];
        (entry.write == last_page(address, bytes)).then(|| address.wrapping_add(entry.delta))
    }

    /// Enters a page that may be read.
    pub(crate) fn enter(&mut self, context: Context, mapping: Mapping) {
        let slot = slot(mapping.page);
        let entry = &mut self.entries[context as usize][slot];
        let is_listed = entry.read != NONE && !entry.global;
        if !mapping.global && !is_listed && self.local.len() < LOCAL {
            self.local.push((context, slot as u16));
        }
        if mapping.large {
            let (word, bit) = region(mapping.page);
            self.large[word] |= bit;
        }
        *entry = Entry {
            read: mapping.page,
            write: if mapping.writable { mapping.page } else { NONE },
            delta: mapping.offset.wrapping_sub(mapping.page),
            global: mapping.global,
        };
    }

    /// Forgets the page of `address`.
    pub(crate) fn forget_page(&mut self, address: u64) {
        let page = address & !(PAGE - 1);
        for table in self.entries.iter_mut() {
            let entry = &mut table[slot(page)];
            if entry.read == page {
                *entry = EMPTY;
            }
        }
    }

    /// Code is fetched from a piece of a larger page at `address`.
    pub(crate) fn note_large(&mut self, address: u64) {
        let (word, bit) = region(address);
        self.large[word] |= bit;
    }

    /// Whether pieces of a larger page that `address` lies in may be known: INVLPG of one forgets them all.
    pub(crate) fn may_know_large(&self, address: u64) -> bool {
        let (word, bit) = region(address);
        self.large[word] & bit != 0
    }

    /// Forgets all pages, or all that are not global.
    pub(crate) fn forget_all(&mut self, keep_global: bool) {
        if keep_global && self.local.len() < LOCAL {
            // A system changes address spaces more often than it fills this table.
            for (context, slot) in self.local.drain(..) {
                let entry = &mut self.entries[context as usize][usize::from(slot)];
                if !entry.global {
                    *entry = EMPTY;
                }
            }
            return;
        }
        for entry in self.entries.iter_mut().flatten() {
            if !(keep_global && entry.global) {
                *entry = EMPTY;
            }
        }
        self.local.clear();
        if !keep_global {
            self.large.fill(0);
        }
    }

    /// The same for every page (a memory offset divided by the page size) of which `looked_at` says so.
    pub(crate) fn forbid_writes_where(&mut self, looked_at: impl Fn(u64) -> bool) {
        for entry in self.entries.iter_mut().flatten() {
            if entry.write != NONE && looked_at(entry.write.wrapping_add(entry.delta) / PAGE) {
                entry.write = NONE;
            }
        }
    }

    /// Writes to the page at memory offset `offset` must be looked at from now on.
    pub(crate) fn forbid_writes_to(&mut self, offset: u64) {
        for entry in self.entries.iter_mut().flatten() {
            if entry.write != NONE && entry.write.wrapping_add(entry.delta) == offset {
                entry.write = NONE;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_that_crosses_its_page_never_hits() {
        let mut tlb = Tlb::new();
        for page in [0x1000, 0x2000] {
            tlb.enter(
                Context::User,
                Mapping {
                    page,
                    offset: 0x9000 + page,
                    writable: page == 0x1000,
                    global: false,
                    large: false,
                },
            );
        }
        assert_eq!(tlb.readable(Context::User, 0x1FF8, 8), Some(0xAFF8));
        assert_eq!(tlb.readable(Context::User, 0x1FF9, 8), None);
        assert_eq!(tlb.writable(Context::User, 0x1004, 4), Some(0xA004));
        assert_eq!(tlb.writable(Context::User, 0x2000, 1), None);
        assert_eq!(tlb.readable(Context::Supervisor, 0x1000, 1), None);
        tlb.forbid_writes_to(0xA000);
        assert_eq!(tlb.writable(Context::User, 0x1004, 4), None);
        tlb.forget_page(0x1FFF);
        assert_eq!(tlb.readable(Context::User, 0x1000, 1), None);
        assert_eq!(tlb.readable(Context::User, 0x2000, 1), Some(0xB000));
        tlb.forget_all(true);
        assert_eq!(tlb.readable(Context::User, 0x2000, 1), None);
    }
}
