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

mod load;

use std::collections::{BTreeMap, HashMap};

use atoll_memory::{PAGE, code_pages};

use crate::build;
use crate::cpu::{Cpu, Mode};
use crate::op::{Handler, LINKS, Op};
use crate::store::{Place, Store};

pub(crate) use load::load;

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
