//! Reading what was saved, a stretch at a time: memory for all of it would cost a page fault for every page.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io::Read;
use std::thread;

use atoll_memory::{PAGE, Ram};

use super::{BLOCK, MAGIC, OP, PAGE_BITS, SAMPLE, handler_of, pieces};
use crate::cpu::Mode;
use crate::lower;
use crate::op::{Handler, Op};
use crate::store::{Entry, MAX_OPS, MAX_STARTS, NumberHasher, PageVersion, Pages, Place, Store};

/// Operations read at once.
const STRETCH: usize = 2048;

/// For each page with code, by its number: what it was when it was marked, and which of its pieces were.
type Versions = HashMap<u32, (PageVersion, u64), BuildHasherDefault<NumberHasher>>;

/// The blocks in what [`save`](super::save) wrote, whose pages are marked; `None` when it is damaged, or more follows.
///
/// Most of the time goes into touching fresh memory, so a second thread helps: it enters the blocks while this one reads
/// their operations.
pub(crate) fn load(ram: &Ram, from: &mut dyn Read) -> Option<Store> {
    let mut head = [0; MAGIC.len() + 16];
    from.read_exact(&mut head).ok()?;
    let (magic, counts) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return None;
    }
    let mut counts = counts.chunks_exact(4).map(|bytes| number(bytes) as usize);
    let mut table = |size: usize| bytes(from, counts.next()?.checked_mul(size)?);
    let versions = mark(ram, &table(PAGE_BITS)?)?;
    let handlers = handlers(&table(SAMPLE)?)?;
    let blocks = table(BLOCK)?;
    let ops = Ops::new(from, counts.next()?);
    thread::scope(|scope| {
        // Without memory for a thread there is none for a copy, either.
        let builder = thread::Builder::new().name("code".to_owned());
        let entering = builder
            .spawn_scoped(scope, || enter(&blocks, &versions))
            .ok()?;
        let read = read(&blocks, ops, &handlers);
        Some(entering.join().ok()??.with_ops_of(read?))
    })
}

/// What a block's record says.
struct Record {
    place: Place,
    /// Operations.
    count: usize,
    /// Bytes of its instructions.
    len: u16,
    /// The number of its second page, if it has one.
    second: u32,
}

impl Record {
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            place: Place {
                page: number(&bytes[..4]) as u32,
                entry: Entry::from_number(number(&bytes[4..6]) as u16)?,
            },
            count: number(&bytes[6..8]) as usize,
            len: number(&bytes[8..10]) as u16,
            second: number(&bytes[10..]) as u32,
        })
    }

    /// The pieces of its page, and of its second one.
    fn pieces(&self) -> [u64; 2] {
        pieces(self.place.entry.offset().into(), self.len)
    }

    /// The number of the page it ends in when that is another.
    fn second(&self) -> Option<u32> {
        (self.pieces()[1] != 0).then_some(self.second)
    }
}

/// A store of the blocks without their operations.
fn enter(blocks: &[u8], versions: &Versions) -> Option<Store> {
    let mut store = Store::default();
    // Operation 0 is no block's.
    let mut start = 1u32;
    let version = |number: u32, needed: u64| {
        let (version, marked) = versions.get(&number)?;
        (marked & needed == needed).then_some(*version)
    };
    for block in blocks.chunks_exact(BLOCK) {
        let block = Record::of(block)?;
        let needed = block.pieces();
        let second = match block.second() {
            Some(number) => Some(version(number, needed[1])?),
            None => None,
        };
        let pages = Pages {
            first: version(block.place.page, needed[0])?,
            second,
        };
        start = start.checked_add(second.is_some().into())?;
        if start as usize >= MAX_STARTS {
            return None;
        }
        store.enter(block.place.entry, start, pages);
        start = start.checked_add(u32::try_from(block.count).ok()?)?;
    }
    Some(store)
}

/// A store of nothing but the blocks' operations; nothing may follow them.
fn read(blocks: &[u8], mut ops: Ops<'_>, handlers: &[Handler]) -> Option<Store> {
    let mut store = Store::default();
    // What is said of their number is believed no further.
    store.reserve(ops.left.min(MAX_OPS));
    let end = (ops.left + blocks.len() / BLOCK) as u64 + 1;
    for block in blocks.chunks_exact(BLOCK) {
        let block = Record::of(block)?;
        if block.count == 0 || store.is_full() {
            return None;
        }
        let (mut is_whole, mut links, mut len) = (true, 0, 0);
        let decoded = ops.take(block.count)?.iter().map(|bytes| {
            let (run, op) = read_op(bytes);
            let run = handlers.get(usize::from(run)).copied();
            is_whole &= run.is_some();
            (links, len) = (op.disp, len.max(op.next));
            Op {
                run: run.unwrap_or(op.run),
                ..op
            }
        });
        let start = store.add(decoded, block.place.entry, block.second());
        if !is_whole || len != block.len {
            return None;
        }
        if links >> 32 < end && links & u64::from(u32::MAX) < end {
            store.take_links(start, links);
        }
    }
    ops.is_at_end().then_some(store)
}

/// The next `len` bytes.
fn bytes(from: &mut dyn Read, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length is only believed as far as there are bytes.
    from.take(len as u64).read_to_end(&mut bytes).ok()?;
    (bytes.len() == len).then_some(bytes)
}

/// Marks pages; gives their versions.
fn mark(ram: &Ram, pages: &[u8]) -> Option<Versions> {
    let mut versions = Versions::default();
    for page in pages.chunks_exact(PAGE_BITS) {
        let (page, bits) = page.split_at(4);
        let (offset, bits) = (number(page) * PAGE, number(bits));
        if offset >= ram.len() {
            return None;
        }
        let version = PageVersion::now(ram, offset);
        ram.code_pages().mark_pieces(offset / PAGE, bits);
        versions.insert(version.number, (version, bits));
    }
    Some(versions)
}

/// The handlers by their numbers.
fn handlers(samples: &[u8]) -> Option<Vec<Handler>> {
    let mut handlers = vec![lower::fall_through(0).run];
    for sample in samples.chunks_exact(SAMPLE) {
        let instruction = sample[2..].get(..usize::from(sample[1]))?;
        handlers.push(handler_of(instruction, mode(sample[0])?)?);
    }
    Some(handlers)
}

/// The operations, of which a stretch is in memory.
struct Ops<'a> {
    from: &'a mut dyn Read,
    /// How many have not been read.
    left: usize,
    stretch: Vec<[u8; OP]>,
    /// How many of the stretch have been taken.
    taken: usize,
}

impl<'a> Ops<'a> {
    fn new(from: &'a mut dyn Read, left: usize) -> Self {
        Self {
            from,
            left,
            stretch: Vec::with_capacity(STRETCH),
            taken: 0,
        }
    }

    /// The next `count`.
    fn take(&mut self, count: usize) -> Option<&[[u8; OP]]> {
        if self.stretch.len() - self.taken < count {
            self.stretch.drain(..self.taken);
            self.taken = 0;
            let kept = self.stretch.len();
            let more = self.left.min(STRETCH.max(count).saturating_sub(kept));
            self.stretch.resize(kept + more, [0; OP]);
            let room = self.stretch[kept..].as_flattened_mut();
            self.from.read_exact(room).ok()?;
            self.left -= more;
        }
        let taken = self.stretch.get(self.taken..self.taken + count)?;
        self.taken += count;
        Some(taken)
    }

    /// Whether all have been taken and nothing follows.
    fn is_at_end(&mut self) -> bool {
        let mut more = [0];
        let is_empty = self.left == 0 && self.taken == self.stretch.len();
        is_empty && matches!(self.from.read(&mut more), Ok(0))
    }
}

/// A little-endian number of eight bytes at most.
fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// What [`write_op`](super::write_op) wrote: the handler's number, and the operation with another handler.
#[inline(always)]
fn read_op(bytes: &[u8; OP]) -> (u16, Op) {
    let number = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let op = Op {
        imm: number(2),
        disp: number(10),
        dst: bytes[18],
        src: bytes[19],
        base: bytes[20],
        index: bytes[21],
        scale: bytes[22],
        seg: bytes[23],
        wrap: bytes[24],
        extra: bytes[25],
        offset: short(26),
        next: next_of(bytes),
        ..lower::nothing()
    };
    (short(0), op)
}

fn next_of(bytes: &[u8; OP]) -> u16 {
    u16::from_le_bytes([bytes[28], bytes[29]])
}

fn mode(number: u8) -> Option<Mode> {
    [Mode::Bits16, Mode::Bits32, Mode::Bits64]
        .into_iter()
        .find(|mode| *mode as u8 == number)
}
