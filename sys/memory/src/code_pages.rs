//! Which pieces of guest memory hold decoded code, and how often they were written since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use crate::memory::PAGE;

/// Bytes in one tracked piece of a page; 64 pieces make a page.
const PIECE: u64 = PAGE / 64;

/// Changes that are remembered.
const CHANGES: usize = 256;
/// In place of a page: nothing became stale.
const NOTHING: u32 = u32::MAX;

/// What a new epoch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No code became stale.
    Nothing,
    /// Code in the page of this number did.
    Page(u32),
}

/// For each page of a guest's memory, the pieces that hold decoded code and a version.
///
/// A software CPU marks what it decodes ([`CodePages::mark`]) and keeps the page's version with the decoded block.
/// Whoever writes memory reports it ([`CodePages::written`]); a write to a marked piece raises the page's version and
/// the common epoch. A CPU that sees a new epoch throws away blocks whose version is old; which pages those are of is
/// remembered for a while ([`CodePages::change`]).
#[derive(Debug)]
pub struct CodePages {
    marks: Box<[AtomicU64]>,
    versions: Box<[AtomicU32]>,
    epoch: AtomicU64,
    /// For the latest epochs, by their low bits: epoch (its low half) and page.
    changes: Box<[AtomicU64; CHANGES]>,
}

impl CodePages {
    /// Nothing decoded in `pages` pages.
    pub(crate) fn new(pages: usize) -> Self {
        // Zeroed allocations cost nothing until they are touched.
        let marks = Box::into_raw(vec![0u64; pages].into_boxed_slice());
        let versions = Box::into_raw(vec![0u32; pages].into_boxed_slice());
        Self {
            // SAFETY: an AtomicU64 has the size and bit validity of a u64, and on x86-64 its alignment; the box is ours
            // alone, turned into a pointer the line before.
            marks: unsafe { Box::from_raw(marks as *mut [AtomicU64]) },
            // SAFETY: as above, for AtomicU32 and u32.
            versions: unsafe { Box::from_raw(versions as *mut [AtomicU32]) },
            epoch: AtomicU64::new(0),
            changes: Box::new([const { AtomicU64::new(0) }; CHANGES]),
        }
    }

    /// Raised whenever decoded code somewhere became stale.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Raises the epoch although no code is stale: every CPU looks at what is code now.
    pub fn raise_epoch(&self) -> u64 {
        self.raise(NOTHING)
    }

    fn raise(&self, page: u32) -> u64 {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let change = epoch << 32 | u64::from(page);
        self.changes[place(epoch)].store(change, Ordering::Release);
        epoch
    }

    /// What `epoch`, one that was seen, is about; `None` when that is forgotten, or not written down yet.
    #[must_use]
    pub fn change(&self, epoch: u64) -> Option<Change> {
        let change = self.changes[place(epoch)].load(Ordering::Acquire);
        let page = change as u32;
        (change >> 32 == epoch & u64::from(u32::MAX)).then_some(match page {
            NOTHING => Change::Nothing,
            page => Change::Page(page),
        })
    }

    /// The version of page `page` (an offset in memory divided by [`PAGE`]); 0 beyond the memory.
    #[inline]
    pub fn version(&self, page: u64) -> u32 {
        let page = usize::try_from(page).unwrap_or(usize::MAX);
        self.versions
            .get(page)
            .map_or(0, |version| version.load(Ordering::Acquire))
    }

    /// Whether any piece of page `page` holds decoded code.
    #[inline]
    pub fn has_code(&self, page: u64) -> bool {
        let page = usize::try_from(page).unwrap_or(usize::MAX);
        self.marks
            .get(page)
            .is_some_and(|mark| mark.load(Ordering::Acquire) != 0)
    }

    /// Marks `len` bytes at `offset` (all in one page) as decoded; says whether the page held no code before.
    ///
    /// Mark first, decode after: a write in between is then seen.
    pub fn mark(&self, offset: u64, len: u64) -> bool {
        let page = usize::try_from(offset / PAGE).unwrap_or(usize::MAX);
        self.marks
            .get(page)
            .is_some_and(|mark| mark.fetch_or(pieces(offset % PAGE, len), Ordering::AcqRel) == 0)
    }

    /// Marks pieces of page `page` by their bits, as [`pieces`] gives them.
    pub fn mark_pieces(&self, page: u64, bits: u64) {
        let page = usize::try_from(page).unwrap_or(usize::MAX);
        if let Some(mark) = self.marks.get(page) {
            mark.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Reports a write of `len` bytes at `offset`; says whether it hit decoded code.
    ///
    /// Call after the write: a CPU that sees the new epoch must also see the new bytes.
    pub fn written(&self, offset: u64, len: u64) -> bool {
        if len == 0 {
            return false;
        }
        let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
        let mut hit = false;
        for page in first..=last {
            let Some(mark) = usize::try_from(page)
                .ok()
                .and_then(|page| self.marks.get(page))
            else {
                break;
            };
            let marked = mark.load(Ordering::Acquire);
            if marked == 0 {
                continue;
            }
            let start = offset.max(page * PAGE);
            let end = (offset + len).min((page + 1) * PAGE);
            if marked & pieces(start % PAGE, end - start) != 0 {
                mark.store(0, Ordering::Release);
                if let Some(version) = usize::try_from(page)
                    .ok()
                    .and_then(|page| self.versions.get(page))
                {
                    version.fetch_add(1, Ordering::AcqRel);
                }
                // After the version, as whoever sees the epoch looks at it.
                self.raise(u32::try_from(page).unwrap_or(NOTHING - 1));
                hit = true;
            }
        }
        hit
    }
}

/// Where the change of an epoch is kept.
fn place(epoch: u64) -> usize {
    epoch as usize % CHANGES
}

/// The bit of each piece that `len` bytes at `start` within a page touch.
#[must_use]
pub fn pieces(start: u64, len: u64) -> u64 {
    let first = start / PIECE;
    let last = ((start + len.max(1) - 1) / PIECE).min(63);
    (u64::MAX >> (63 - (last - first))) << first
}

/// [`CodePages`] as a `vm-memory` bitmap: devices' writes arrive here.
#[derive(Clone, Debug)]
pub struct PageTracker {
    pages: Arc<CodePages>,
    base: u64,
}

impl PageTracker {
    /// Reports writes of a region that begins at `base` in memory.
    pub(crate) fn new(pages: Arc<CodePages>, base: u64) -> Self {
        Self { pages, base }
    }
}

impl WithBitmapSlice<'_> for PageTracker {
    type S = Self;
}

impl BitmapSlice for PageTracker {}

impl Bitmap for PageTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.pages.written(self.base + offset as u64, len as u64);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self::new(Arc::clone(&self.pages), self.base + offset as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_to_a_marked_piece_raises_version_and_epoch() {
        let pages = CodePages::new(4);
        assert!(pages.mark(PAGE + 70, 10));
        assert!(!pages.mark(PAGE + 300, 10));
        assert!(!pages.written(PAGE, 64));
        assert!(!pages.written(PAGE + 128, 100));
        assert_eq!((pages.version(1), pages.epoch()), (0, 0));
        assert!(pages.written(PAGE + 127, 1));
        assert_eq!((pages.version(1), pages.epoch()), (1, 1));
        assert!(!pages.has_code(1));
    }

    #[test]
    fn a_write_over_several_pages_is_seen_in_each() {
        let pages = CodePages::new(4);
        pages.mark(0, PAGE);
        pages.mark(3 * PAGE, 1);
        assert!(pages.written(PAGE - 1, 2 * PAGE + 2));
        assert_eq!([0, 1, 2, 3].map(|page| pages.version(page)), [1, 0, 0, 1]);
        assert!(!pages.written(0, 0));
        assert!(!pages.written(9 * PAGE, 1));
    }

    #[test]
    fn the_latest_changes_are_remembered() {
        let pages = CodePages::new(4);
        pages.mark(0, PAGE);
        pages.mark(2 * PAGE, 1);
        assert_eq!(pages.change(1), None);
        assert!(pages.written(PAGE - 1, 2 * PAGE));
        assert_eq!(pages.raise_epoch(), 3);
        let changes = [1, 2, 3].map(|epoch| pages.change(epoch));
        let page = |number| Some(Change::Page(number));
        assert_eq!(changes, [page(0), page(2), Some(Change::Nothing)]);
        for _ in 0..CHANGES - 2 {
            pages.raise_epoch();
        }
        assert_eq!(pages.change(1), None);
        assert_eq!(pages.change(2), page(2));
    }

    #[test]
    fn pieces_cover_whole_pages() {
        assert_eq!(pieces(0, PAGE), u64::MAX);
        assert_eq!(pieces(PAGE - 1, 1), 1 << 63);
        assert_eq!(pieces(63, 2), 0b11);
    }
}
