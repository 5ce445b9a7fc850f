//! Decoded code as bytes, for a CPU that goes on with the same memory in another process of the same program.
//!
//! ```text
//!   magic, counts of the rest
//!   pages     each page with code: its number, and a bit for each piece of it that has some
//!   samples   an instruction for each handler that operations have: decoding it tells the handler again
//!   blocks    page and place in it, operations, bytes of them, the page that the last one ends in if that is another
//!   ops       the operations of all blocks, one after the other: number of the handler's sample, then the fields;
//!             links are numbers of operations, beginning with 1, where a block that ends in another page has one more
//! ```
//!
//! All numbers are little-endian. What operations mean changes with the program, so bytes are good for the very program
//! that wrote them; the bytes themselves do not tell. Wrong ones make a guest go wrong, and nothing else: an operation
//! is decoded from them, never a place to jump to.

mod load;

use std::collections::{BTreeMap, HashMap};

use atoll_memory::{PAGE, code_pages};

use crate::build;
use crate::cpu::{Cpu, Mode};
use crate::op::{Handler, LINKS, Op};
use crate::store::{Block, Store};

pub(crate) use load::load;

const MAGIC: [u8; 8] = *b"atcode04";
/// Bytes of a page: number, bits.
const PAGE_BITS: usize = 4 + 8;
/// Bytes of a sample: width, length, instruction.
const SAMPLE: usize = 2 + INSTRUCTION;
/// The longest an instruction may be.
const INSTRUCTION: usize = 15;
/// Bytes of a block: page, place in it, operations, their bytes, number of its second page.
const BLOCK: usize = 4 + 2 + 2 + 2 + 4;
/// In place of a second page.
const NO_PAGE: u32 = u32::MAX;
/// Bytes of an operation.
const OP: usize = 2 + 8 + 8 + 8 + 2 + 2;
/// The number of the handler without an instruction: the one that ends a block that was cut.
const FALL_THROUGH: u16 = 0;

/// The blocks in `store` whose code is still what it was.
pub(crate) fn save(store: &Store, cpu: &Cpu) -> Vec<u8> {
    let mut numbers = Numbers::default();
    let (mut all, mut starts) = (store.blocks(), HashMap::new());
    let mut count = 1;
    all.retain(|block| {
        let is_kept = store.is_current(block, &cpu.ram) && numbers.have(&Code(*block), cpu);
        if is_kept {
            count += u32::from(block.second.is_some());
            starts.insert(block.start, (count, block.place.page));
            count += block.ops.len() as u32;
        }
        is_kept
    });
    let mut pages = BTreeMap::<u32, u64>::new();
    let (mut blocks, mut operations) = (Vec::new(), Vec::new());
    for block in all {
        let code = Code(block);
        for op in block.ops {
            let links = [op.disp as u32, (op.disp >> 32) as u32];
            let links = links.map(|start| match starts.get(&start) {
                Some((start, page)) if *page == block.place.page => *start,
                _ => 0,
            });
            write_op(&mut operations, numbers.of(op), op, links);
        }
        blocks.extend_from_slice(&block.place.page.to_le_bytes());
        blocks.extend_from_slice(&block.place.entry.number().to_le_bytes());
        blocks.extend_from_slice(&(block.ops.len() as u16).to_le_bytes());
        blocks.extend_from_slice(&code.len().to_le_bytes());
        blocks.extend_from_slice(&block.second.unwrap_or(NO_PAGE).to_le_bytes());
        for (page, bits) in code.pieces().into_iter().flatten() {
            *pages.entry(page).or_default() |= bits;
        }
    }
    let mut all = MAGIC.to_vec();
    let counts = [
        numbers.samples.len() / SAMPLE,
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
    for part in [numbers.samples, blocks, operations] {
        all.extend_from_slice(&part);
    }
    all
}

/// A block's instructions.
struct Code<'a>(Block<'a>);

impl<'a> Code<'a> {
    /// The bytes of the instruction that `op` is.
    fn bytes(&self, op: &Op, cpu: &Cpu, room: &'a mut [u8; INSTRUCTION]) -> Option<&'a [u8]> {
        let len = usize::from(op.next.checked_sub(op.offset)?);
        let all = room.get_mut(..len)?;
        let start = self.0.place.offset() + u64::from(op.offset);
        let in_page = (PAGE - start % PAGE).min(len as u64) as usize;
        let (first, rest) = all.split_at_mut(in_page);
        cpu.ram.read(start, first);
        if !rest.is_empty() {
            cpu.ram.read(u64::from(self.0.second?) * PAGE, rest);
        }
        Some(all)
    }

    /// Bytes of the instructions.
    fn len(&self) -> u16 {
        self.0.ops.iter().map(|op| op.next).max().unwrap_or(0)
    }

    /// The pages, and which pieces of them.
    fn pieces(&self) -> [Option<(u32, u64)>; 2] {
        let pieces = pieces(self.0.place.entry.offset().into(), self.len());
        let pages = [Some(self.0.place.page), self.0.second];
        [0, 1].map(|at| Some((pages[at]?, pieces[at])))
    }
}

/// The pieces of a page that a block of so many bytes at `start` in it takes, and those of the page it ends in.
fn pieces(start: u64, bytes: u16) -> [u64; 2] {
    let end = start + u64::from(bytes.max(1));
    let first = code_pages::pieces(start, end.min(PAGE) - start);
    let second = if end > PAGE {
        code_pages::pieces(0, end - PAGE)
    } else {
        0
    };
    [first, second]
}

/// Numbers of handlers, each with an instruction that has it.
#[derive(Default)]
struct Numbers {
    by_handler: HashMap<usize, u16>,
    samples: Vec<u8>,
}

impl Numbers {
    /// Whether all of `code` can be said in numbers, after new handlers got some.
    fn have(&mut self, code: &Code<'_>, cpu: &Cpu) -> bool {
        let mut ops = code.0.ops.iter();
        ops.all(|op| self.has(op) || self.add(code, op, cpu).is_some())
    }

    fn has(&self, op: &Op) -> bool {
        op.next == op.offset || self.by_handler.contains_key(&(op.run as usize))
    }

    /// What is no instruction on its own is decoded again when it is needed, and has none.
    fn add(&mut self, code: &Code<'_>, op: &Op, cpu: &Cpu) -> Option<()> {
        let mut room = [0; INSTRUCTION];
        let bytes = code.bytes(op, cpu, &mut room)?;
        let mode = code.0.place.entry.mode();
        let handler = op.run as usize;
        if handler_of(bytes, mode)? as usize != handler {
            return None;
        }
        let number = u16::try_from(self.by_handler.len() + 1).ok()?;
        self.by_handler.insert(handler, number);
        self.samples
            .extend_from_slice(&[mode as u8, bytes.len() as u8]);
        self.samples.extend_from_slice(&room);
        Some(())
    }

    /// The number of `op`'s handler.
    fn of(&self, op: &Op) -> u16 {
        if op.next == op.offset {
            return FALL_THROUGH;
        }
        let number = self.by_handler.get(&(op.run as usize));
        number.copied().unwrap_or(FALL_THROUGH)
    }
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

/// * `links`: of the last operation of a block that has some.
fn write_op(to: &mut Vec<u8>, handler: u16, op: &Op, links: [u32; 2]) {
    to.extend_from_slice(&handler.to_le_bytes());
    to.extend_from_slice(&op.imm.to_le_bytes());
    let disp = if op.scale == LINKS {
        u64::from(links[1]) << 32 | u64::from(links[0])
    } else {
        op.disp
    };
    to.extend_from_slice(&disp.to_le_bytes());
    to.extend_from_slice(&[
        op.dst, op.src, op.base, op.index, op.scale, op.seg, op.wrap, op.extra,
    ]);
    to.extend_from_slice(&op.offset.to_le_bytes());
    to.extend_from_slice(&op.next.to_le_bytes());
}
