//! Control words and the saving of floating point and vector state.

use iced_x86::Mnemonic as M;

use crate::exec::save;
use crate::lower::{Form, Lowering};
use crate::op::{Handler, op};
use crate::operand::{Dst, Mem};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let register = l.form(0) == Some(Form::Register);
    Some(match l.instruction.mnemonic() {
        M::Fninit => op!(save::initialise),
        M::Fnclex => op!(save::clear_exceptions),
        M::Wait => op!(save::wait),
        M::Fnstsw if register => op!(save::store_status::<Dst>),
        M::Fnstsw => op!(save::store_status::<Mem>),
        M::Fnstcw => op!(save::store_control::<Mem>),
        M::Fldcw => op!(save::load_control),
        M::Ldmxcsr => op!(save::load_mxcsr),
        M::Stmxcsr => op!(save::store_mxcsr),
        M::Fxsave => op!(save::fxsave::<false>),
        M::Fxsave64 => op!(save::fxsave::<true>),
        M::Fxrstor => op!(save::fxrstor::<false>),
        M::Fxrstor64 => op!(save::fxrstor::<true>),
        M::Xsave => op!(save::xsave::<false>),
        M::Xsave64 => op!(save::xsave::<true>),
        M::Xrstor => op!(save::xrstor::<false>),
        M::Xrstor64 => op!(save::xrstor::<true>),
        _ => return None,
    })
}
