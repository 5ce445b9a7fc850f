//! Where blocks begin: pages by number and version, places in them.

use atoll_memory::{PAGE, Ram};

use crate::cpu::Mode;

/// The bits of a place that are an offset in a page.
pub(crate) const OFFSET: u16 = 0x0FFF;
/// By how much a [`Mode`] is shifted there.
const MODE: u32 = 12;
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
pub(crate) struct Entry(pub(super) u16);

impl Entry {
    /// At `address`, linear or not.
    #[inline(always)]
    pub(crate) fn new(address: u64, mode: Mode) -> Self {
        Self(address as u16 & OFFSET | (mode as u16) << MODE)
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
    pub(super) version: u32,
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
