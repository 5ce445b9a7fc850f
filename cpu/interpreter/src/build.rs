//! Makes blocks: reads code from memory, decodes it, lowers each instruction to an operation.

use atoll_memory::{PAGE, Ram};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use crate::cpu::{CS, Cpu, Mode};
use crate::exception::{GP, PF};
use crate::lower::{self, Lowered};
use crate::op::Fault;
use crate::paging::{Access, PageFault};
use crate::store::{PageVersion, Pages, Place};
use crate::tlb::Context;

/// The most instructions in one block.
const MAX_INSTRUCTIONS: usize = 48;
/// The longest an instruction may be.
const MAX_BYTES: u64 = 15;
/// Bytes of the longest block.
const MOST: usize = MAX_INSTRUCTIONS * MAX_BYTES as usize;
/// Bytes that are read at first: most blocks are a few instructions.
const FIRST: u64 = 64;

/// Prefixes that newer processors give another meaning have none here: REP BSF is BSF, REP WBINVD is WBINVD.
const OPTIONS: u32 = DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::FORCE_RESERVED_NOP;

/// A page that code is fetched from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodePage {
    /// Its offset in memory.
    pub(crate) offset: u64,
    /// Whether its translation outlives a write of CR3.
    pub(crate) global: bool,
}

impl CodePage {
    /// Its number.
    pub(crate) fn number(&self) -> u32 {
        (self.offset / PAGE) as u32
    }
}

impl Cpu {
    /// The linear address of the next instruction.
    #[inline(always)]
    pub(crate) fn linear_rip(&self) -> u64 {
        if self.mode == Mode::Bits64 {
            self.rip
        } else {
            self.segments[CS].base.wrapping_add(self.rip) & 0xFFFF_FFFF
        }
    }

    /// What a block found by linear address depends on besides the address: privilege and width, in bits that no
    /// canonical address has on its own.
    #[inline(always)]
    pub(crate) fn fetch_key(&self) -> u64 {
        (self.mode as u64) << 52 | u64::from(self.cpl) << 56
    }

    /// The page that code at `linear` is fetched from; raises the fault when there is none.
    pub(crate) fn fetch_page(&mut self, linear: u64) -> Result<CodePage, Fault> {
        if !self.is_canonical(linear) {
            return Err(self.raise(GP, Some(0)));
        }
        let page =
            match self
                .paging
                .translate(&self.ram, linear, Access::Execute, self.fetch_context())
            {
                Ok(page) => page,
                Err(PageFault(code)) => {
                    self.fault_address = linear;
                    return Err(self.raise(PF, Some(code)));
                }
            };
        if page.large {
            self.tlb.note_large(linear);
        }
        match self.ram.offset_of(page.physical) {
            Some(offset) => Ok(CodePage {
                offset,
                global: page.global,
            }),
            None => Err(self.unsupported(format!(
                "executing at physical address {:#x}, where no memory is",
                page.physical
            ))),
        }
    }

    /// The same without raising anything.
    pub(crate) fn peek_page(&mut self, linear: u64) -> Option<CodePage> {
        if !self.is_canonical(linear) {
            return None;
        }
        let page = self
            .paging
            .translate(&self.ram, linear, Access::Execute, self.fetch_context())
            .ok()?;
        if page.large {
            self.tlb.note_large(linear);
        }
        let offset = self.ram.offset_of(page.physical)?;
        Some(CodePage {
            offset,
            global: page.global,
        })
    }

    fn fetch_context(&self) -> Context {
        if self.cpl == 3 {
            Context::User
        } else {
            Context::Supervisor
        }
    }
}

fn bits(mode: Mode) -> u32 {
    match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    }
}

/// Decodes the block at linear address `linear`, which is at `offset` in memory, into [`Cpu::decoded`]; gives its pages.
pub(crate) fn block(cpu: &mut Cpu, linear: u64, offset: u64) -> Result<Pages, Fault> {
    let in_page = (PAGE - offset % PAGE).min(MOST as u64);
    let page = offset & !(PAGE - 1);
    // Marked first: a write from now on is noticed, and stale bytes are never kept.
    let pages = Pages {
        first: PageVersion::now(&cpu.ram, page),
        second: None,
    };
    if cpu.ram.code_pages().mark(offset, in_page.min(FIRST)) {
        cpu.announce_code(page);
    }
    let mut ops = std::mem::take(&mut cpu.decoded);
    let few = in_page.min(FIRST) as usize;
    let mut bytes = [0; FIRST as usize];
    cpu.ram.read(offset, &mut bytes[..few]);
    let (mut used, mut ended) = decode(&bytes[..few], cpu.mode, &mut ops);
    if !ended && few < in_page as usize {
        let mut bytes = vec![0; in_page as usize];
        cpu.ram.read(offset, &mut bytes);
        (used, ended) = decode(&bytes, cpu.mode, &mut ops);
    }
    let is_cut = ops.is_empty();
    if !ended {
        ops.push(lower::fall_through(used as u16));
    }
    cpu.decoded = ops;
    if is_cut {
        return across(cpu, linear, offset, in_page as usize);
    }
    cpu.ram.code_pages().mark(offset, used.clamp(1, in_page));
    Ok(pages)
}

/// Decodes the block at `place` once more, into `ops`; whether there is one that ends in page `second`, or in its own
/// when that is none. Nothing is marked.
pub(crate) fn again(ram: &Ram, place: Place, second: Option<u64>, ops: &mut Vec<Lowered>) -> bool {
    let (offset, mode) = (place.offset(), place.entry.mode());
    let in_page = (PAGE - offset % PAGE).min(MOST as u64) as usize;
    let mut bytes = vec![0; in_page + MAX_BYTES as usize];
    ram.read(offset, &mut bytes[..in_page]);
    let (used, ended) = decode(&bytes[..in_page], mode, ops);
    match second {
        None if ops.is_empty() => false,
        None => {
            if !ended {
                ops.push(lower::fall_through(used as u16));
            }
            true
        }
        Some(second) if ops.is_empty() => {
            ram.read(second, &mut bytes[in_page..]);
            one(&bytes, mode, ops);
            true
        }
        Some(_) => false,
    }
}

/// Decodes the one instruction in `bytes`, of which there are enough, into a block.
fn one(bytes: &[u8], mode: Mode, ops: &mut Vec<Lowered>) {
    let mut decoder = Decoder::with_ip(bits(mode), bytes, 0, OPTIONS);
    let instruction = decoder.decode();
    let op = lowered(bytes, &instruction, mode);
    ops.clear();
    ops.push(op);
    if !op.ends {
        ops.push(lower::fall_through(instruction.next_ip() as u16));
    }
}

/// Decodes `bytes` up to the end of a block into `ops`, which has nothing else then, and nothing at all when the first
/// instruction needs more bytes. Gives the bytes of the instructions, and whether the last one ends the block.
pub(crate) fn decode(bytes: &[u8], mode: Mode, ops: &mut Vec<Lowered>) -> (u64, bool) {
    ops.clear();
    let mut used = 0;
    let mut decoder = Decoder::with_ip(bits(mode), bytes, 0, OPTIONS);
    let mut instruction = Instruction::default();
    while ops.len() < MAX_INSTRUCTIONS && decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if ends_too_early(&decoder, &instruction, bytes.len()) {
            break;
        }
        used = instruction.next_ip().max(used);
        let op = lowered(bytes, &instruction, mode);
        ops.push(op);
        if op.ends {
            return (used, true);
        }
    }
    (used, false)
}

/// Decodes the one instruction that begins with the last `head` bytes of a page and ends in the next.
fn across(cpu: &mut Cpu, linear: u64, offset: u64, head: usize) -> Result<Pages, Fault> {
    let next = linear.wrapping_add(head as u64);
    let second = cpu.fetch_page(next)?;
    let page = offset & !(PAGE - 1);
    let pages = Pages {
        first: PageVersion::now(&cpu.ram, page),
        second: Some(PageVersion::now(&cpu.ram, second.offset)),
    };
    for (start, len) in [(offset, head as u64), (second.offset, MAX_BYTES)] {
        if cpu.ram.code_pages().mark(start, len) {
            cpu.announce_code(start & !(PAGE - 1));
        }
    }
    let mut bytes = vec![0; head + MAX_BYTES as usize];
    cpu.ram.read(offset, &mut bytes[..head]);
    cpu.ram.read(second.offset, &mut bytes[head..]);
    one(&bytes, cpu.mode, &mut cpu.decoded);
    Ok(pages)
}

/// Decodes one instruction and executes it without keeping it: for code that overwrites itself, single steps and
/// interrupt shadows. The operation leaves in any case.
pub(crate) fn single(cpu: &mut Cpu) -> Result<[Lowered; 2], Fault> {
    let linear = cpu.linear_rip();
    let page = cpu.fetch_page(linear)?;
    let offset = page.offset | (linear % PAGE);
    let in_page = (PAGE - offset % PAGE).min(MAX_BYTES) as usize;
    let mut bytes = [0; MAX_BYTES as usize];
    cpu.ram.read(offset, &mut bytes[..in_page]);
    let mut decoder = Decoder::with_ip(bits(cpu.mode), &bytes[..in_page], 0, OPTIONS);
    let mut instruction = decoder.decode();
    if ends_too_early(&decoder, &instruction, in_page) {
        let second = cpu.fetch_page(linear.wrapping_add(in_page as u64))?;
        cpu.ram.read(second.offset, &mut bytes[in_page..]);
        decoder = Decoder::with_ip(bits(cpu.mode), &bytes, 0, OPTIONS);
        instruction = decoder.decode();
    }
    let op = lowered(&bytes, &instruction, cpu.mode);
    Ok([op, lower::fall_through(instruction.next_ip() as u16)])
}

/// Whether `instruction`, just decoded, needs bytes behind the `len` that there are.
fn ends_too_early(decoder: &Decoder<'_>, instruction: &Instruction, len: usize) -> bool {
    instruction.is_invalid()
        && decoder.last_error() == DecoderError::NoMoreBytes
        && len - (instruction.ip() as usize).min(len) < MAX_BYTES as usize
}

/// The operation of `instruction`, just decoded from `bytes`; one of more than 15 bytes is #GP.
fn lowered(bytes: &[u8], instruction: &Instruction, mode: Mode) -> Lowered {
    let rest = bytes.get(instruction.ip() as usize..).unwrap_or_default();
    if instruction.is_invalid() && rest.len() >= MAX_BYTES as usize && is_too_long(rest, mode) {
        return lower::too_long(instruction);
    }
    lower::instruction(instruction, mode)
}

/// Whether the instruction at the start of `bytes`, of which there are 15 at least, is longer than that: as it is with
/// every prefix once, and the others counted.
fn is_too_long(bytes: &[u8], mode: Mode) -> bool {
    let mut prefixes = Vec::new();
    let mut count = 0;
    for &byte in bytes {
        let is_rex = mode == Mode::Bits64 && byte & 0xF0 == 0x40;
        if !is_rex
            && !matches!(
                byte,
                0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3
            )
        {
            break;
        }
        count += 1;
        if !prefixes.contains(&byte) {
            prefixes.push(byte);
        }
    }
    let repeated = count - prefixes.len();
    let mut once = prefixes;
    once.extend(bytes[count..].iter().take(MAX_BYTES as usize));
    let options = OPTIONS | DecoderOptions::NO_INVALID_CHECK;
    let mut decoder = Decoder::with_ip(bits(mode), &once, 0, options);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return decoder.last_error() == DecoderError::NoMoreBytes;
    }
    instruction.len() + repeated > MAX_BYTES as usize
}
