//! String instructions and port I/O.

use iced_x86::{Mnemonic as M, Register};

use crate::cpu::Mode;
use crate::exec::string;
use crate::lower::{Lowering, sized};
use crate::op::{Handler, op};

/// No repeat prefix.
pub(crate) const ONCE: u8 = 0;
/// REP, REPE.
pub(crate) const REPEAT: u8 = 1;
/// REPNE.
pub(crate) const REPEAT_UNEQUAL: u8 = 2;

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let instruction = l.instruction;
    let size = match instruction.mnemonic() {
        M::Movsb | M::Stosb | M::Lodsb | M::Cmpsb | M::Scasb | M::Insb | M::Outsb => 1,
        M::Movsw | M::Stosw | M::Lodsw | M::Cmpsw | M::Scasw | M::Insw | M::Outsw => 2,
        M::Movsd | M::Stosd | M::Lodsd | M::Cmpsd | M::Scasd | M::Insd | M::Outsd => 4,
        M::Movsq | M::Stosq | M::Lodsq | M::Cmpsq | M::Scasq => 8,
        M::In | M::Out => return ports(l),
        _ => return None,
    };
    if !instruction.is_string_instruction() {
        // MOVSD and CMPSD are vector instructions too.
        return None;
    }
    l.op.extra = if instruction.has_repne_prefix() {
        REPEAT_UNEQUAL
    } else if instruction.has_rep_prefix() {
        REPEAT
    } else {
        ONCE
    };
    let index = (0..instruction.op_count()).find_map(|operand| {
        use iced_x86::OpKind as K;
        match instruction.op_kind(operand) {
            K::MemorySegSI | K::MemoryESDI | K::MemorySegDI => Some(2),
            K::MemorySegESI | K::MemoryESEDI | K::MemorySegEDI => Some(4),
            K::MemorySegRSI | K::MemoryESRDI | K::MemorySegRDI => Some(8),
            _ => None,
        }
    })?;
    l.address_size(index);
    l.op.dst = index as u8;
    let segment = instruction.memory_segment();
    l.op.seg = match segment {
        Register::FS | Register::GS => segment.number() as u8,
        Register::None => 6,
        _ if l.mode == Mode::Bits64 => 6,
        _ => segment.number() as u8,
    };
    // Whatever repeats may be interrupted: the loop is left now and then.
    match instruction.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => sized!(size, T => op!(string::movs::<T>)),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => sized!(size, T => op!(string::stos::<T>)),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => sized!(size, T => op!(string::lods::<T>)),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => sized!(size, T => op!(string::cmps::<T>)),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => sized!(size, T => op!(string::scas::<T>)),
        M::Insb | M::Insw | M::Insd => sized!(size, T => op!(string::ins::<T>)),
        M::Outsb | M::Outsw | M::Outsd => sized!(size, T => op!(string::outs::<T>)),
        _ => None,
    }
}

fn ports(l: &mut Lowering<'_>) -> Option<Handler> {
    let input = l.instruction.mnemonic() == M::In;
    let (data, port) = if input {
        (l.instruction.op0_register(), l.instruction.op1_register())
    } else {
        (l.instruction.op1_register(), l.instruction.op0_register())
    };
    l.op.extra = u8::from(port == Register::DX);
    l.op.imm = u64::from(l.instruction.immediate8());
    let size = data.size();
    if input {
        sized!(size, T => op!(string::input::<T>))
    } else {
        sized!(size, T => op!(string::output::<T>))
    }
}
