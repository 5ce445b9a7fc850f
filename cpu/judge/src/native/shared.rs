//! The memory that parent and child share, and how a case lies in it.

use std::sync::atomic::AtomicU32;

use crate::case::{Case, Changes, End, OUTPUT_FLAGS, Outcome, PATCH_MAX, State};
use crate::fxsave;
use crate::layout::{CODE, CODE_MAX, DATA_LEN, PAGE};

/// Cases in a batch.
pub(super) const SLOTS: usize = 128;

/// [`Slot::vector`] of a case that did not end.
pub(super) const ENDLESS: u32 = 0x100;

/// One case on its way out, its outcome on its way back.
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) fx: [u8; fxsave::LEN],
    /// In the order of instructions' register numbers.
    pub(super) registers: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    pub(super) error: u64,
    pub(super) address: u64,
    pub(super) vector: u32,
    /// Where the code begins in its page; the outcome overwrites `rip`.
    pub(super) code_offset: u32,
    pub(super) code_len: u32,
    pub(super) patches_len: u32,
    pub(super) changes_len: u32,
    pub(super) code: [u8; CODE_MAX],
    /// Offset and length as 16-bit numbers, then the bytes, for each patch.
    pub(super) patches: [u8; PATCH_MAX],
    pub(super) changes: [u8; Changes::MAX],
}

impl Slot {
    /// Lays out `case`, which is valid.
    pub(super) fn put(&mut self, case: &Case) {
        let state = &case.state;
        self.fx = fxsave::image(&state.fpu);
        self.registers = state.registers;
        (self.rip, self.rflags) = (state.rip, state.rflags);
        (self.fs_base, self.gs_base) = (state.fs_base, state.gs_base);
        self.code[..case.code.len()].copy_from_slice(&case.code);
        self.code_len = case.code.len() as u32;
        self.code_offset = (state.rip - CODE) as u32;
        let mut at = 0;
        for patch in &case.patches {
            let len = patch.bytes.len();
            self.patches[at..at + 2].copy_from_slice(&patch.offset.to_le_bytes());
            self.patches[at + 2..at + 4].copy_from_slice(&(len as u16).to_le_bytes());
            self.patches[at + 4..at + 4 + len].copy_from_slice(&patch.bytes);
            at += 4 + len;
        }
        self.patches_len = at as u32;
        (self.changes_len, self.vector) = (0, ENDLESS);
    }

    /// Reads what the child left.
    pub(super) fn outcome(&self) -> Outcome {
        let end = match self.vector {
            ENDLESS => End::Endless,
            vector => End::Exception {
                vector: vector as u8,
                error: self.error,
                address: self.address,
            },
        };
        let mut fpu = fxsave::parse(&self.fx);
        (fpu.opcode, fpu.instruction, fpu.operand) = (0, 0, 0);
        let state = State {
            registers: self.registers,
            rip: self.rip,
            rflags: self.rflags & OUTPUT_FLAGS,
            fs_base: self.fs_base,
            gs_base: self.gs_base,
            fpu,
        };
        let len = (self.changes_len as usize).min(self.changes.len());
        Outcome {
            end,
            state,
            changes: Changes::decode(&self.changes[..len]),
        }
    }
}

/// All of it.
#[repr(C)]
pub(super) struct Shared {
    pub(super) slots: [Slot; SLOTS],
    /// The read-only page, then the data area, before patches.
    pub(super) background: [u8; PAGE + DATA_LEN],
    /// The data area of the case that runs, patches included.
    pub(super) initial: [u8; DATA_LEN],
    /// Batches asked for; the child waits on it.
    pub(super) asked: AtomicU32,
    /// Batches done; the parent waits on it.
    pub(super) done: AtomicU32,
    /// Cases in the batch asked for.
    pub(super) count: AtomicU32,
    /// The case that runs.
    pub(super) index: AtomicU32,
    /// Cases entered so far.
    pub(super) serial: AtomicU32,
    /// `serial` at the last tick of the clock.
    pub(super) ticked: AtomicU32,
}
