//! Taking over what was saved.

use std::fs::File;
use std::os::unix::fs::FileExt;

use atoll_memory::{PAGE, Ram};

use super::{HEAD, MAGIC, NUMBER, PAGE_RECORD, SAMPLE, handler_of};
use crate::cpu::Mode;
use crate::handlers::{FALL_THROUGH, Handlers, UNDEFINED};
use crate::op::Op;
use crate::store::{MAX_LEARNT, PageVersion, Store, Table};

/// Bytes before the operations that are believed.
const MOST: usize = 64 << 20;

/// The blocks in what [`save`](super::save) wrote behind byte `at` of `file`, whose pages are marked, and what executes
/// them; `None` when it is damaged, or more follows.
pub(crate) fn load(ram: &Ram, file: &File, at: u64) -> Option<(Store, Handlers)> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, at).ok()?;
    let (magic, rest) = head.split_first_chunk()?;
    let (checksum, counts) = rest.split_first_chunk()?;
    if *magic != MAGIC {
        return None;
    }
    let mut numbers = counts.chunks_exact(4).map(|bytes| number(bytes) as usize);
    let [pages, samples, crossing, entries, ops] = std::array::from_fn(|_| numbers.next());
    let sizes = [
        pages?.checked_mul(PAGE_RECORD)?,
        samples?.checked_mul(SAMPLE)?,
        crossing?.checked_mul(NUMBER)?,
        entries?.checked_mul(NUMBER)?,
    ];
    let len = sizes
        .iter()
        .try_fold(0usize, |sum, size| sum.checked_add(*size))
        .filter(|len| *len <= MOST)?;
    let mut tables = vec![0; len];
    file.read_exact_at(&mut tables, at + HEAD as u64).ok()?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(counts);
    sum.update(&tables);
    if sum.finalize().to_le_bytes() != *checksum {
        return None;
    }
    let ops_at = at + ((HEAD + len) as u64).next_multiple_of(PAGE);
    let end = ops_at + ops? as u64 * size_of::<Op>() as u64;
    if ops? > MAX_LEARNT || file.metadata().ok()?.len() != end {
        return None;
    }
    let (pages, rest) = tables.split_at(sizes[0]);
    let (samples, rest) = rest.split_at(sizes[1]);
    let (crossing, entries) = rest.split_at(sizes[2]);
    let handlers = handlers(samples)?;
    let pages = mark(ram, pages)?;
    let ops = Store::map(file, ops_at, ops?).ok()?;
    let numbers = |bytes: &[u8]| {
        let all = bytes.chunks_exact(NUMBER);
        all.map(|bytes| number(bytes) as u32).collect()
    };
    let store = Store::restored(ops, pages, numbers(entries), numbers(crossing));
    Some((store, handlers))
}

/// Marks pages; gives their versions, and where their tables are.
fn mark(ram: &Ram, pages: &[u8]) -> Option<Vec<(PageVersion, Table)>> {
    let of = |page: &[u8]| {
        let offset = number(&page[..4]) * PAGE;
        if offset >= ram.len() {
            return None;
        }
        let version = PageVersion::now(ram, offset);
        ram.code_pages()
            .mark_pieces(offset / PAGE, number(&page[4..12]));
        let table = Table {
            first: number(&page[12..16]) as u32,
            mask: number(&page[16..]) as u16,
        };
        Some((version, table))
    };
    pages.chunks_exact(PAGE_RECORD).map(of).collect()
}

/// The handlers that have these samples.
fn handlers(samples: &[u8]) -> Option<Handlers> {
    let mut handlers = Handlers::new();
    for (index, sample) in samples.chunks_exact(SAMPLE).enumerate() {
        let is_known = [UNDEFINED, FALL_THROUGH].contains(&(index as u16));
        let instruction = sample[2..].get(..usize::from(sample[1]))?;
        let is_new = match instruction {
            _ if is_known => true,
            // No operation has that.
            [] => handlers.skip(),
            instruction => handlers.push(handler_of(instruction, mode(sample[0])?)?),
        };
        if !is_new {
            return None;
        }
    }
    Some(handlers)
}

/// A little-endian number of eight bytes at most.
fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

fn mode(number: u8) -> Option<Mode> {
    [Mode::Bits16, Mode::Bits32, Mode::Bits64]
        .into_iter()
        .find(|mode| *mode as u8 == number)
}
