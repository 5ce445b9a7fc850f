//! Old instructions on pointers and their privilege.

use iced_x86::Mnemonic as M;

use crate::cpu::{DS, ES, FS, GS, SS};
use crate::exec::pointer;
use crate::lower::{Form, Lowering, sized};
use crate::op::{Handler, op};
use crate::operand::{Dst, Mem};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Les => far::<ES>(l),
        M::Lds => far::<DS>(l),
        M::Lss => far::<SS>(l),
        M::Lfs => far::<FS>(l),
        M::Lgs => far::<GS>(l),
        M::Bound => {
            let size = l.size(0);
            sized!(size, T => op!(pointer::bound::<T>))
        }
        M::Arpl => Some(match l.form(0)? {
            Form::Register => op!(pointer::adjust_privilege::<Dst>),
            _ => op!(pointer::adjust_privilege::<Mem>),
        }),
        _ => None,
    }
}

/// Ends the block, as any load of a segment register.
fn far<const SLOT: usize>(l: &mut Lowering<'_>) -> Option<Handler> {
    l.ends = true;
    let size = l.size(0);
    sized!(size, T => op!(pointer::load_far::<T, SLOT>))
}
