//! What is executed, and what comes of it.

use atoll_cpu_api::Fpu;

use crate::layout::{CODE, CODE_MAX, DATA, DATA_LEN};

/// The status flags and the direction flag.
pub const STATUS_FLAGS: u64 = 0xCD5;
/// The trap flag: #DB after each instruction.
pub const TRAP_FLAG: u64 = 1 << 8;
/// RFLAGS bits a case may set: status flags, direction and trap.
pub const INPUT_FLAGS: u64 = STATUS_FLAGS | TRAP_FLAG;
/// RFLAGS bits compared: [`INPUT_FLAGS`], nested task, alignment check, identification.
pub const OUTPUT_FLAGS: u64 = INPUT_FLAGS | 1 << 14 | 1 << 18 | 1 << 21;

/// All user-visible state but memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order in which instructions number them.
    pub registers: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// RFLAGS, cut to [`INPUT_FLAGS`] in a case, to [`OUTPUT_FLAGS`] in an outcome.
    pub rflags: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// x87, MMX and SSE registers. `opcode`, `instruction` and `operand` are not set and not compared.
    pub fpu: Fpu,
}

impl Default for State {
    /// Zeros, an initialised FPU, RIP at the code and RSP in the middle of the data area.
    fn default() -> Self {
        let mut registers = [0; 16];
        registers[4] = DATA + DATA_LEN as u64 / 2;
        Self {
            registers,
            rip: CODE,
            rflags: 0,
            fs_base: DATA,
            gs_base: DATA,
            fpu: Fpu::default(),
        }
    }
}

/// Bytes put into the data area before a case runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where, from the start of the area.
    pub offset: u16,
    /// What.
    pub bytes: Vec<u8>,
}

/// One test case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// One instruction or a few, at most [`CODE_MAX`] bytes; INT3 follows.
    pub code: Vec<u8>,
    /// The state before. The code lies at its RIP, which is in the code page.
    pub state: State,
    /// What differs from the [background](crate::layout::background) in the data area.
    pub patches: Vec<Patch>,
}

impl Case {
    /// Whether both worlds can run it: lengths and addresses in range.
    pub fn is_valid(&self) -> bool {
        let patch_bytes: usize = self.patches.iter().map(|patch| patch.bytes.len() + 4).sum();
        let fits = |patch: &Patch| usize::from(patch.offset) + patch.bytes.len() <= DATA_LEN;
        self.code.len() <= CODE_MAX
            && patch_bytes <= PATCH_MAX
            && self.patches.iter().all(fits)
            && self.state.rip >= CODE
            && self.state.rip + self.code.len() as u64 <= CODE + 4096
            && self.state.rflags & !INPUT_FLAGS == 0
    }

    /// Adds a patch of what of `bytes` at `address` lies in the data area.
    pub fn patch(&mut self, address: u64, bytes: &[u8]) {
        let Some(offset) = address.checked_sub(DATA).filter(|&at| at < DATA_LEN as u64) else {
            return;
        };
        let len = bytes.len().min(DATA_LEN - offset as usize);
        self.patches.push(Patch {
            offset: offset as u16,
            bytes: bytes[..len].to_vec(),
        });
    }
}

/// Bytes a case's patches may take, four added for each.
pub const PATCH_MAX: usize = 1024;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By an exception. That of code that ran to its end is the breakpoint after it, vector 3.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 where it has none.
        error: u64,
        /// CR2 of a page fault, otherwise 0.
        address: u64,
    },
    /// Not at all: still running after some milliseconds.
    Endless,
    /// The backend says that it cannot execute this.
    Unsupported(String),
    /// The backend or its machine did what no processor does.
    Lost(String),
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The state that the exception found; meaningless after any other end.
    pub state: State,
    /// What was written to the data area.
    pub changes: Changes,
}

/// Bytes of the data area that changed, as runs of (offset, bytes); runs closer than 8 bytes are one.
///
/// Holds [`Changes::MAX`] bytes at most; what is beyond is left off, alike in both worlds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<(u16, Vec<u8>)>);

impl Changes {
    /// Bytes of the encoded form.
    pub const MAX: usize = 2048;

    /// What differs between `before` and `after`, two data areas.
    pub fn between(before: &[u8], after: &[u8]) -> Self {
        let mut encoded = [0; Self::MAX];
        let len = encode_changes(before, after, &mut encoded);
        Self::decode(&encoded[..len])
    }

    /// Reads the encoded form: offset and length as 16-bit numbers, then the bytes, for each run.
    pub fn decode(mut encoded: &[u8]) -> Self {
        let mut runs = Vec::new();
        while let Some((head, rest)) = encoded.split_first_chunk::<4>() {
            let offset = u16::from_le_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_le_bytes([head[2], head[3]])).min(rest.len());
            runs.push((offset, rest[..len].to_vec()));
            encoded = &rest[len..];
        }
        Self(runs)
    }

    /// The data area after, given the one before.
    pub fn apply(&self, area: &mut [u8]) {
        for (offset, bytes) in &self.0 {
            let start = usize::from(*offset);
            if let Some(target) = area.get_mut(start..start + bytes.len()) {
                target.copy_from_slice(bytes);
            }
        }
    }
}

/// Encodes the changes between two data areas into `out`; gives the bytes used.
///
/// Allocates nothing and cannot panic: it also runs in signal handlers.
pub(crate) fn encode_changes(before: &[u8], after: &[u8], out: &mut [u8]) -> usize {
    const NEAR: usize = 8;
    let mut used = 0;
    let mut at = 0;
    let len = before.len().min(after.len());
    let differs = |at: usize| before.get(at) != after.get(at);
    while at < len {
        if at.is_multiple_of(64) && before.get(at..at + 64) == after.get(at..at + 64) {
            at += 64;
            continue;
        }
        if !differs(at) {
            at += 1;
            continue;
        }
        let (mut end, mut look) = (at + 1, at + 1);
        while look < len && look < end + NEAR {
            if differs(look) {
                end = look + 1;
            }
            look += 1;
        }
        let run = end - at;
        let (Some(bytes), Some(target)) = (after.get(at..end), out.get_mut(used..used + 4 + run))
        else {
            break;
        };
        let (head, body) = target.split_at_mut(4);
        head.copy_from_slice(&(at as u32 | (run as u32) << 16).to_le_bytes());
        body.copy_from_slice(bytes);
        used += 4 + run;
        at = end;
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_rebuild_the_area() {
        let before = crate::layout::background()[..DATA_LEN].to_vec();
        let mut after = before.clone();
        for at in [0, 1, 5, 63, 64, 100, 200, 4095, 4096, 8191] {
            after[at] ^= 0x55;
        }
        let changes = Changes::between(&before, &after);
        assert_eq!(changes.0.len(), 6, "{changes:?}");
        let mut rebuilt = before.clone();
        changes.apply(&mut rebuilt);
        assert_eq!(rebuilt, after);
        assert_eq!(Changes::between(&before, &before), Changes::default());
    }

    #[test]
    fn too_many_changes_are_cut_not_lost_in_a_panic() {
        let (before, after) = (vec![0; DATA_LEN], vec![1; DATA_LEN]);
        assert_eq!(Changes::between(&before, &after), Changes::default());
    }
}
