//! A decoded instruction: what to call, with which operands.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::cpu::Cpu;

/// What executes one instruction and then the rest of its block: see [`chain`].
pub(crate) type Handler = fn(&mut Cpu, &Op, &[Op]) -> Step;

/// How an instruction ended.
pub(crate) type Step = Result<Flow, Fault>;

/// Where execution goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// With the next operation of the block.
    Next,
    /// At [`Cpu::rip`], which the handler has set. Only a block's last operation says so.
    Leave,
}

/// The instruction did not happen; [`Cpu::pending`] says why. No state but that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

/// One operation of a block, in the form in which a saved machine's code file has it, too: any bytes are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Op {
    /// Immediate operand, sign-extended; for branches the target, relative to the block's start.
    pub(crate) imm: u64,
    /// Displacement of the memory operand; with `base` = [`RIP`] relative to the block's start. With `scale` = [`LINKS`],
    /// the store's.
    pub(crate) disp: u64,
    /// First register operand: a number as [`Operand`](crate::operand::Operand) takes it.
    pub(crate) dst: u8,
    /// Second register operand.
    pub(crate) src: u8,
    /// Slot of the memory operand's base register, or [`ZERO`].
    pub(crate) base: u8,
    /// Slot of its index register, or [`ZERO`].
    pub(crate) index: u8,
    /// Its scale as a shift count; [`LINKS`] of an operation that leads to one of two places in memory.
    pub(crate) scale: u8,
    /// Slot of its segment's base in [`Cpu::seg_base`].
    pub(crate) seg: u8,
    /// How addresses wrap: one of the `WRAP_` constants.
    pub(crate) wrap: u8,
    /// A free parameter of the handler.
    pub(crate) extra: u8,
    /// What executes it, by its number among [`Handlers`](crate::handlers::Handlers).
    pub(crate) handler: u16,
    /// Offset of this instruction from the block's start.
    pub(crate) offset: u16,
    /// Of a block's first operation: its place in the page, and what the store adds.
    pub(crate) place: u16,
    /// Bytes of this instruction; none at the end of a block that was cut.
    pub(crate) len: u8,
    /// Of a block's first operation: how many the block has, 1 at least.
    pub(crate) count: u8,
}

// Two make a cache line.
const _: () = assert!(size_of::<Op>() == 32);

/// In place of a scale: a direct branch, or the end of a block that was cut.
pub(crate) const LINKS: u8 = 0x80;

/// Slot of a register that is always zero.
pub(crate) const ZERO: u8 = 16;
/// Slot that holds the address of the block's first instruction.
pub(crate) const RIP: u8 = 17;

/// 64-bit addresses.
pub(crate) const WRAP_NONE: u8 = 0;
/// 32-bit effective addresses in 64-bit mode.
pub(crate) const WRAP_32: u8 = 1;
/// 32-bit effective and linear addresses.
pub(crate) const WRAP_32_LINEAR: u8 = 2;
/// 16-bit effective, 32-bit linear addresses.
pub(crate) const WRAP_16_LINEAR: u8 = 3;

/// Executes `op` by `handler`, then the `rest` of the block.
///
/// Each handler so ends by calling the next one: a jump of its own, which processors predict by what came before it,
/// where a loop around all handlers has one jump for all. Compilers make it a jump indeed when they optimise; if not, the
/// stack holds a call for each operation of one block at most.
#[inline(always)]
pub(crate) fn chain(
    cpu: &mut Cpu,
    op: &Op,
    rest: &[Op],
    handler: impl Fn(&mut Cpu, &Op) -> Step,
) -> Step {
    match handler(cpu, op) {
        Ok(Flow::Next) => match rest.split_first() {
            Some((next, rest)) => cpu.handlers.get(next)(cpu, next, rest),
            None => Ok(Flow::Next),
        },
        Ok(Flow::Leave) => Ok(Flow::Leave),
        Err(Fault) => {
            cpu.not_done = rest.len() + 1;
            Err(Fault)
        }
    }
}

/// The [`Handler`] of a function of CPU and operation.
macro_rules! op {
    ($handler:expr) => {
        (|cpu: &mut $crate::cpu::Cpu, op: &$crate::op::Op, rest: &[$crate::op::Op]| {
            $crate::op::chain(cpu, op, rest, $handler)
        }) as $crate::op::Handler
    };
}
pub(crate) use op;

impl Op {
    /// Offset of the next instruction from the block's start.
    #[inline(always)]
    pub(crate) fn next(&self) -> u16 {
        self.offset.wrapping_add(self.len.into())
    }

    /// Mask of effective addresses.
    pub(crate) fn address_mask(&self) -> u64 {
        match self.wrap {
            WRAP_NONE => u64::MAX,
            WRAP_16_LINEAR => 0xFFFF,
            _ => 0xFFFF_FFFF,
        }
    }

    /// Mask of linear addresses.
    pub(crate) fn linear_mask(&self) -> u64 {
        if self.wrap <= WRAP_32 {
            u64::MAX
        } else {
            0xFFFF_FFFF
        }
    }
}
