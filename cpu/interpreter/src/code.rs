//! Decoded code as bytes, for a CPU that goes on with the same memory in another process of the same program.
//!
//! ```text
//!   magic, CRC-32 of what comes next and is not operations, counts of the rest
//!   pages     each page with code: its number, a bit for each piece of it that has some, where its table is
//!   samples   an instruction for each handler that operations have: decoding it tells the handler again
//!   crossing  the first operations of blocks that end in another page
//!   entries   of the pages' tables: where in the page, which operation
//!   zeros, up to a multiple of a page
//!   ops       the operations of all blocks, as they are in memory, one after the other; the first is no block's
//! ```
//!
//! All numbers are little-endian. Pages, tables and operations have the form in which [`Store`] uses them, so operations
//! are mapped, not read: a copy of a machine executes a part of them. For the same reason nothing sums them up.
//!
//! What operations mean changes with the program, so bytes are good for the very program that wrote them; the bytes
//! themselves do not tell. Wrong ones make a guest go wrong, and nothing else: an operation names its handler by a number,
//! never a place to jump to.

mod load;

use std::collections::{BTreeMap, HashMap};

use atoll_memory::{PAGE, code_pages};
use zerocopy::IntoBytes;

use crate::build;
use crate::cpu::{Cpu, Mode};
use crate::handlers::{FALL_THROUGH, UNDEFINED};
use crate::op::{Handler, LINKS, Op};
use crate::store::{Block, Pages, Store};

pub(crate) use load::load;

const MAGIC: [u8; 8] = *b"atcode05";
/// Bytes before the pages: magic, checksum, counts.
const HEAD: usize = MAGIC.len() + 4 + 5 * 4;
/// Bytes of a page: number, bits, first entry of its table, its pairs less one.
const PAGE_RECORD: usize = 4 + 8 + 4 + 2;
/// Bytes of a sample: width, length, instruction. No length: the handler has no instruction.
const SAMPLE: usize = 2 + INSTRUCTION;
/// The longest an instruction may be.
const INSTRUCTION: usize = 15;
/// Bytes of a number of an operation, and of an entry.
const NUMBER: usize = 4;

/// The blocks in `store` whose code is still what it was.
pub(crate) fn save(store: &Store, cpu: &Cpu) -> Vec<u8> {
    let mut samples = Samples::new(cpu);
    let mut blocks = store.blocks();
    blocks.retain(|block| store.is_current(block, &cpu.ram) && samples.have(&Code(*block), cpu));
    // A store of its own tells where everything is.
    let (mut kept, mut starts) = (Store::default(), HashMap::new());
    let mut bits = BTreeMap::<u32, u64>::new();
    for block in &blocks {
        let pages = Pages {
            first: store.version(block.place.page),
            second: block.second.map(|page| store.version(page)),
        };
        let start = kept.keep(block.place.entry, block.ops.iter().copied(), pages);
        starts.insert(block.start, (start, block.place.page));
        for (page, pieces) in Code(*block).pieces().into_iter().flatten() {
            *bits.entry(page).or_default() |= pieces;
        }
    }
    for block in &blocks {
        let Some(last) = block.ops.last().filter(|op| op.scale == LINKS) else {
            continue;
        };
        let links = [last.disp as u32, (last.disp >> 32) as u32];
        let links = links.map(|start| match starts.get(&start) {
            Some((start, page)) if *page == block.place.page => u64::from(*start),
            _ => 0,
        });
        if let Some((start, page)) = starts.get(&block.start)
            && *page == block.place.page
        {
            kept.set_links(*start, links[1] << 32 | links[0]);
        }
    }
    kept.compact();
    bytes(&kept, &samples.samples, &bits)
}

/// What `store` has, as bytes.
fn bytes(store: &Store, samples: &[u8], bits: &BTreeMap<u32, u64>) -> Vec<u8> {
    let mut pages = Vec::new();
    for (page, bits) in bits {
        let table = store.table(*page);
        pages.extend_from_slice(&page.to_le_bytes());
        pages.extend_from_slice(&bits.to_le_bytes());
        pages.extend_from_slice(&table.first.to_le_bytes());
        pages.extend_from_slice(&table.mask.to_le_bytes());
    }
    let (entries, crossing) = (store.entries(), store.crossing());
    let counts = [
        pages.len() / PAGE_RECORD,
        samples.len() / SAMPLE,
        crossing.len(),
        entries.len(),
        store.all_ops().len(),
    ];
    let mut rest: Vec<_> = counts
        .iter()
        .flat_map(|count| (*count as u32).to_le_bytes())
        .collect();
    rest.extend_from_slice(&pages);
    rest.extend_from_slice(samples);
    rest.extend_from_slice(crossing.as_bytes());
    rest.extend_from_slice(entries.as_bytes());
    let mut all = MAGIC.to_vec();
    all.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
    all.append(&mut rest);
    all.resize(all.len().next_multiple_of(PAGE as usize), 0);
    all.extend_from_slice(store.all_ops().as_bytes());
    all
}

/// A block's instructions.
struct Code<'a>(Block<'a>);

impl<'a> Code<'a> {
    /// The bytes of the instruction that `op` is.
    fn bytes(&self, op: &Op, cpu: &Cpu, room: &'a mut [u8; INSTRUCTION]) -> Option<&'a [u8]> {
        let all = room
            .get_mut(..usize::from(op.len))
            .filter(|all| !all.is_empty())?;
        let start = self.0.place.offset() + u64::from(op.offset);
        let in_page = (PAGE - start % PAGE).min(op.len.into()) as usize;
        let (first, rest) = all.split_at_mut(in_page);
        cpu.ram.read(start, first);
        if !rest.is_empty() {
            cpu.ram.read(u64::from(self.0.second?) * PAGE, rest);
        }
        Some(all)
    }

    /// Bytes of the instructions.
    fn len(&self) -> u16 {
        self.0.ops.iter().map(Op::next).max().unwrap_or(0)
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

/// For each handler's number, an instruction that has it.
struct Samples<'a> {
    cpu: &'a Cpu,
    samples: Vec<u8>,
}

impl<'a> Samples<'a> {
    fn new(cpu: &'a Cpu) -> Self {
        Self {
            cpu,
            samples: vec![0; cpu.handlers.len() * SAMPLE],
        }
    }

    /// Whether all of `code` can be said in numbers, after new handlers got their instruction.
    fn have(&mut self, code: &Code<'_>, cpu: &Cpu) -> bool {
        let mut ops = code.0.ops.iter();
        ops.all(|op| self.has(op) || self.add(code, op, cpu).is_some())
    }

    fn has(&self, op: &Op) -> bool {
        let sample = self.samples.chunks_exact(SAMPLE).nth(op.handler.into());
        [UNDEFINED, FALL_THROUGH].contains(&op.handler)
            || sample.is_some_and(|sample| sample[1] != 0)
    }

    /// What is no instruction on its own is decoded again when it is needed, and has none.
    fn add(&mut self, code: &Code<'_>, op: &Op, cpu: &Cpu) -> Option<()> {
        let mut room = [0; INSTRUCTION];
        let bytes = code.bytes(op, cpu, &mut room)?;
        let mode = code.0.place.entry.mode();
        let number = self.cpu.handlers.find(handler_of(bytes, mode)?)?;
        let at = usize::from(number) * SAMPLE;
        let sample = self.samples.get_mut(at..at + SAMPLE)?;
        if number != op.handler {
            return None;
        }
        sample[..2].copy_from_slice(&[mode as u8, bytes.len() as u8]);
        sample[2..].copy_from_slice(&room);
        Some(())
    }
}

/// What executes the one instruction in `bytes`.
fn handler_of(bytes: &[u8], mode: Mode) -> Option<Handler> {
    let mut ops = Vec::new();
    let (used, _) = build::decode(bytes, mode, &mut ops);
    match &ops[..] {
        [lowered] if used == bytes.len() as u64 => Some(lowered.run),
        _ => None,
    }
}
