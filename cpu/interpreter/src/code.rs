//! Decoded code as bytes, for a CPU that goes on with the same memory in another process of the same program.
//!
//! ```text
//!   magic, counts of the rest
//!   pages     each page with code: its number, and a bit for each piece of it that has some
//!   samples   an instruction for each handler that operations have: decoding it tells the handler again
//!   blocks    key, operations, bytes of them, the page that the last one ends in if that is another
//!   jumps     where blocks are found by linear address: entry of the jump table, tag, block, flags
//!   ops       the operations of all blocks, one after the other: number of the handler's sample, then the fields;
//!             links are numbers of operations, beginning with 1
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
use crate::store::{Key, Place, Store};

pub(crate) use load::load;

const MAGIC: [u8; 8] = *b"atcode03";
/// Bytes of a page: number, bits.
const PAGE_BITS: usize = 4 + 8;
/// Bytes of a sample: width, length, instruction.
const SAMPLE: usize = 2 + INSTRUCTION;
/// The longest an instruction may be.
const INSTRUCTION: usize = 15;
/// Bytes of a block: key, operations, their bytes, number of its second page.
const BLOCK: usize = 8 + 2 + 2 + 4;
/// In place of a second page.
const NO_PAGE: u32 = u32::MAX;
/// Bytes of an operation.
const OP: usize = 2 + 8 + 8 + 8 + 2 + 2;
/// Bytes of a jump: entry, tag, block, flags.
const JUMP: usize = 2 + 8 + 4 + 1;
/// The flag of a translation that a write of CR3 keeps.
const GLOBAL: u8 = 1;
/// The flag of one that is a piece of a larger page.
const LARGE: u8 = 2;
/// The flag of a block that ends in the next page.
const CROSSING: u8 = 4;
/// The number of the handler without an instruction: the one that ends a block that was cut.
const FALL_THROUGH: u16 = 0;

/// Where a block is found by linear address, as long as the CPU's translations are what they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The entry of the jump table.
    pub(crate) slot: u16,
    /// Linear address and [`Cpu::jump_key`].
    pub(crate) tag: u64,
    /// The block's first operation.
    pub(crate) start: u32,
    /// Whether a write of CR3 keeps the translation.
    pub(crate) is_global: bool,
    /// Whether that is a piece of a larger page.
    pub(crate) is_large: bool,
    /// Whether the block ends in the next page.
    pub(crate) is_crossing: bool,
}

/// The blocks in `store` whose code is still what it was, and where those among them are that `known` says.
pub(crate) fn save(store: &Store, cpu: &Cpu, known: impl Iterator<Item = Known>) -> Vec<u8> {
    let mut numbers = Numbers::default();
    let (mut places, mut starts) = (store.places(), HashMap::new());
    let mut count = 1;
    places.retain(|(key, index)| {
        let is_kept = store.is_current(*index, &cpu.ram)
            && numbers.have(&Code::new(store, *key, *index), cpu);
        if is_kept {
            let page = key.place().offset / PAGE;
            starts.insert(store.start(*index), (starts.len() as u32, count, page));
            count += store.ops(*index).len() as u32;
        }
        is_kept
    });
    let mut pages = BTreeMap::<u32, u64>::new();
    let (mut blocks, mut operations) = (Vec::new(), Vec::new());
    for (key, index) in places {
        let code = Code::new(store, key, index);
        for op in code.ops {
            let links = [op.disp as u32, (op.disp >> 32) as u32];
            let links = links.map(|start| match starts.get(&start) {
                Some((_, start, page)) if *page == key.place().offset / PAGE => *start,
                _ => 0,
            });
            write_op(&mut operations, numbers.of(op), op, links);
        }
        blocks.extend_from_slice(&key.number().to_le_bytes());
        blocks.extend_from_slice(&(code.ops.len() as u16).to_le_bytes());
        blocks.extend_from_slice(&code.len().to_le_bytes());
        let second = code.second.map_or(NO_PAGE, |second| (second / PAGE) as u32);
        blocks.extend_from_slice(&second.to_le_bytes());
        for (page, bits) in code.pieces().into_iter().flatten() {
            *pages.entry(page).or_default() |= bits;
        }
    }
    let jumps = jumps(known, &starts);
    let mut all = MAGIC.to_vec();
    let counts = [
        numbers.samples.len() / SAMPLE,
        blocks.len() / BLOCK,
        jumps.len() / JUMP,
        operations.len() / OP,
    ];
    for count in std::iter::once(pages.len()).chain(counts) {
        all.extend_from_slice(&(count as u32).to_le_bytes());
    }
    for (page, bits) in pages {
        all.extend_from_slice(&page.to_le_bytes());
        all.extend_from_slice(&bits.to_le_bytes());
    }
    for part in [numbers.samples, blocks, jumps, operations] {
        all.extend_from_slice(&part);
    }
    all
}

/// What is `known` of the saved blocks: number, first operation then and page by their first operations.
fn jumps(known: impl Iterator<Item = Known>, starts: &HashMap<u32, (u32, u32, u64)>) -> Vec<u8> {
    let mut jumps = Vec::new();
    for known in known {
        let Some((number, ..)) = starts.get(&known.start) else {
            continue;
        };
        let flags = [
            (known.is_global, GLOBAL),
            (known.is_large, LARGE),
            (known.is_crossing, CROSSING),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set);
        let flags = flags.fold(0, |flags, (_, flag)| flags | flag);
        jumps.extend_from_slice(&known.slot.to_le_bytes());
        jumps.extend_from_slice(&known.tag.to_le_bytes());
        jumps.extend_from_slice(&number.to_le_bytes());
        jumps.push(flags);
    }
    jumps
}

/// A block and where its instructions are.
struct Code<'a> {
    ops: &'a [Op],
    /// Memory offset of the first, and how wide all are.
    place: Place,
    /// Memory offset of the page that the last one ends in, when that is another.
    second: Option<u64>,
}

impl<'a> Code<'a> {
    fn new(store: &'a Store, key: Key, index: u32) -> Self {
        Self {
            ops: store.ops(index),
            place: key.place(),
            second: store.second_page(index),
        }
    }

    /// The bytes of the instruction that `op` is.
    fn bytes(&self, op: &Op, cpu: &Cpu, room: &'a mut [u8; INSTRUCTION]) -> Option<&'a [u8]> {
        let len = usize::from(op.next.checked_sub(op.offset)?);
        let all = room.get_mut(..len)?;
        let start = self.place.offset + u64::from(op.offset);
        let in_page = (PAGE - start % PAGE).min(len as u64) as usize;
        let (first, rest) = all.split_at_mut(in_page);
        cpu.ram.read(start, first);
        if !rest.is_empty() {
            cpu.ram.read(self.second?, rest);
        }
        Some(all)
    }

    /// Bytes of the instructions.
    fn len(&self) -> u16 {
        self.ops.iter().map(|op| op.next).max().unwrap_or(0)
    }

    /// The pages, and which pieces of them.
    fn pieces(&self) -> [Option<(u32, u64)>; 2] {
        let pieces = pieces(self.place.offset % PAGE, self.len());
        let pages = [Some(self.place.offset), self.second];
        [0, 1].map(|at| Some(((pages[at]? / PAGE) as u32, pieces[at])))
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
        code.ops
            .iter()
            .all(|op| self.has(op) || self.add(code, op, cpu).is_some())
    }

    fn has(&self, op: &Op) -> bool {
        op.next == op.offset || self.by_handler.contains_key(&(op.run as usize))
    }

    /// What is no instruction on its own is decoded again when it is needed, and has none.
    fn add(&mut self, code: &Code<'_>, op: &Op, cpu: &Cpu) -> Option<()> {
        let mut room = [0; INSTRUCTION];
        let bytes = code.bytes(op, cpu, &mut room)?;
        let mode = code.place.mode;
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
