//! Decoded code as bytes, for a CPU that goes on with the same memory in another process of the same program.
//!
//! ```text
//!   magic, counts of the rest
//!   pages     each page with code: its number, and a bit for each piece of it that has some
//!   samples   an instruction for each handler that operations have: decoding it tells the handler again
//!   blocks    key, operations
//!   ops       the operations of all blocks, one after the other: number of the handler's sample, then the fields
//! ```
//!
//! All numbers are little-endian. What operations mean changes with the program, so bytes are good for the very program
//! that wrote them; the bytes themselves do not tell. Wrong ones make a guest go wrong, and nothing else: an operation
//! is decoded from them, never a place to jump to.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use atoll_memory::{PAGE, Ram, code_pages};

use crate::build;
use crate::cpu::{Cpu, Mode};
use crate::lower;
use crate::op::{Handler, LINKS, Op};
use crate::store::{Key, KeyHasher, PageVersion, Pages, Place, Store};

const MAGIC: [u8; 8] = *b"atcode01";
/// Bytes of a page: number, bits.
const PAGE_BITS: usize = 4 + 8;
/// Bytes of a sample: width, length, instruction.
const SAMPLE: usize = 2 + INSTRUCTION;
/// The longest an instruction may be.
const INSTRUCTION: usize = 15;
/// Bytes of a block: key, operations.
const BLOCK: usize = 8 + 2;
/// Bytes of an operation.
const OP: usize = 2 + 8 + 8 + 8 + 2 + 2;
/// The number of the handler without an instruction: the one that ends a block that was cut.
const FALL_THROUGH: u16 = 0;

/// The blocks in `store` whose code is still what it was.
pub(crate) fn save(store: &Store, cpu: &Cpu) -> Vec<u8> {
    let mut numbers = HashMap::new();
    let mut pages = BTreeMap::<u32, u64>::new();
    let (mut samples, mut blocks, mut operations) = (Vec::new(), Vec::new(), Vec::new());
    for (key, index) in store.places() {
        // The second page is another one each time.
        if !store.is_current(index, &cpu.ram) || store.second_page(index).is_some() {
            continue;
        }
        let Place { offset, mode } = key.place();
        let ops = store.ops(index);
        let before = operations.len();
        let all = ops.iter().all(|op| {
            let number = number_of(op, offset, mode, cpu, &mut numbers, &mut samples);
            number.is_some_and(|number| {
                write_op(&mut operations, number, op);
                true
            })
        });
        if !all {
            operations.truncate(before);
            continue;
        }
        blocks.extend_from_slice(&key.number().to_le_bytes());
        blocks.extend_from_slice(&(ops.len() as u16).to_le_bytes());
        let bytes = ops.iter().map(|op| op.next).max().unwrap_or(0);
        *pages.entry((offset / PAGE) as u32).or_default() |=
            code_pages::pieces(offset % PAGE, u64::from(bytes));
    }
    let mut all = MAGIC.to_vec();
    let counts = [
        samples.len() / SAMPLE,
        blocks.len() / BLOCK,
        operations.len() / OP,
    ];
    for count in std::iter::once(pages.len()).chain(counts) {
        all.extend_from_slice(&(count as u32).to_le_bytes());
    }
    for (page, bits) in pages {
        all.extend_from_slice(&page.to_le_bytes());
        all.extend_from_slice(&bits.to_le_bytes());
    }
    all.extend_from_slice(&samples);
    all.extend_from_slice(&blocks);
    all.extend_from_slice(&operations);
    all
}

/// The number of `op`'s handler; a new handler gets a sample from memory. `None` for one that has none.
fn number_of(
    op: &Op,
    offset: u64,
    mode: Mode,
    cpu: &Cpu,
    numbers: &mut HashMap<usize, u16>,
    samples: &mut Vec<u8>,
) -> Option<u16> {
    let len = usize::from(op.next.checked_sub(op.offset)?);
    if len == 0 {
        return Some(FALL_THROUGH);
    }
    let handler = op.run as usize;
    if let Some(number) = numbers.get(&handler) {
        return Some(*number);
    }
    let mut bytes = [0; INSTRUCTION];
    let code = bytes.get_mut(..len)?;
    cpu.ram.read(offset + u64::from(op.offset), code);
    // What is no instruction on its own is decoded again when it is needed.
    if handler_of(code, mode)? as usize != handler {
        return None;
    }
    let number = u16::try_from(numbers.len() + 1).ok()?;
    numbers.insert(handler, number);
    samples.extend_from_slice(&[mode as u8, len as u8]);
    samples.extend_from_slice(&bytes);
    Some(number)
}

/// What executes the one instruction in `bytes`.
fn handler_of(bytes: &[u8], mode: Mode) -> Option<Handler> {
    let mut ops = Vec::new();
    let (used, _) = build::decode(bytes, mode, &mut ops);
    match &ops[..] {
        [op] if used == bytes.len() as u64 => Some(op.run),
        _ => None,
    }
}

fn write_op(to: &mut Vec<u8>, handler: u16, op: &Op) {
    to.extend_from_slice(&handler.to_le_bytes());
    to.extend_from_slice(&op.imm.to_le_bytes());
    let disp = if op.scale == LINKS { 0 } else { op.disp };
    to.extend_from_slice(&disp.to_le_bytes());
    to.extend_from_slice(&[
        op.dst, op.src, op.base, op.index, op.scale, op.seg, op.wrap, op.extra,
    ]);
    to.extend_from_slice(&op.offset.to_le_bytes());
    to.extend_from_slice(&op.next.to_le_bytes());
}

/// For each page with code, by its memory offset: what it was when it was marked, and which of its pieces were.
type Versions = HashMap<u64, (PageVersion, u64), BuildHasherDefault<KeyHasher>>;

/// The blocks in what [`save`] wrote, whose pages are marked; `None` when it is damaged.
pub(crate) fn load(ram: &Ram, bytes: &[u8]) -> Option<Store> {
    let parts = Reader(bytes).parts()?;
    let versions = parts.pages().mark(ram)?;
    parts.blocks(&versions)
}

/// What [`save`] wrote, taken apart.
struct Parts<'a> {
    pages: &'a [u8],
    samples: &'a [u8],
    blocks: Reader<'a>,
    ops: &'a [u8],
}

impl<'a> Parts<'a> {
    fn pages(&self) -> Reader<'a> {
        Reader(self.pages)
    }

    fn blocks(self, versions: &Versions) -> Option<Store> {
        let Parts {
            samples,
            mut blocks,
            ops,
            ..
        } = self;
        let mut store = Store::default();
        let mut handlers = vec![lower::fall_through(0).run];
        for sample in samples.chunks_exact(SAMPLE) {
            let mode = mode(sample[0])?;
            handlers.push(handler_of(
                sample[2..].get(..usize::from(sample[1]))?,
                mode,
            )?);
        }
        let (mut ops, _) = ops.as_chunks::<OP>();
        store.reserve(blocks.0.len() / BLOCK, ops.len());
        // Most blocks are in the page of the one before.
        let (mut last, mut found) = (u64::MAX, None);
        while !blocks.0.is_empty() {
            let key = Key::from_number(u64::from_le_bytes(blocks.array()?));
            let count = u16::from_le_bytes(blocks.array()?);
            if count == 0 {
                return None;
            }
            let (block, rest) = ops.split_at_checked(usize::from(count))?;
            ops = rest;
            let bytes = block.iter().map(next_of).max().unwrap_or(0);
            let place = key.place().offset;
            let page = place & !(PAGE - 1);
            if std::mem::replace(&mut last, page) != page {
                found = versions.get(&page);
            }
            let (first, marked) = found?;
            let end = place % PAGE + u64::from(bytes.max(1));
            let needed = code_pages::pieces(place % PAGE, u64::from(bytes));
            if end > PAGE || marked & needed != needed {
                return None;
            }
            let pages = Pages {
                first: *first,
                second: None,
            };
            if store.is_full() {
                break;
            }
            let mut is_whole = true;
            let block = block.iter().map(|bytes| {
                let (run, op) = read_op(bytes);
                let run = handlers.get(usize::from(run)).copied();
                is_whole &= run.is_some();
                Op {
                    run: run.unwrap_or(op.run),
                    ..op
                }
            });
            store.keep(key, None, block, pages);
            if !is_whole {
                return None;
            }
        }
        Some(store)
    }
}

/// Bytes that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn parts(mut self) -> Option<Parts<'a>> {
        if self.array()? != MAGIC {
            return None;
        }
        let [pages, samples, blocks, ops] =
            [self.count()?, self.count()?, self.count()?, self.count()?];
        let parts = Parts {
            pages: self.take(pages.checked_mul(PAGE_BITS)?)?,
            samples: self.take(samples.checked_mul(SAMPLE)?)?,
            blocks: Self(self.take(blocks.checked_mul(BLOCK)?)?),
            ops: self.take(ops.checked_mul(OP)?)?,
        };
        self.0.is_empty().then_some(parts)
    }

    /// Marks pages; gives their versions.
    fn mark(mut self, ram: &Ram) -> Option<Versions> {
        let mut versions = Versions::default();
        while !self.0.is_empty() {
            let offset = u64::from(u32::from_le_bytes(self.array()?)) * PAGE;
            let bits = u64::from_le_bytes(self.array()?);
            if offset >= ram.len() {
                return None;
            }
            let version = PageVersion::now(ram, offset);
            ram.code_pages().mark_pieces(offset / PAGE, bits);
            versions.insert(offset, (version, bits));
        }
        Some(versions)
    }
}

/// What [`write_op`] wrote: the handler's number, and the operation with another handler.
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
