//! Control words and the saving of floating point and vector state.

use iced_x86::Mnemonic as M;

use crate::exec::save;
use crate::lower::{Form, Lowering};
use crate::op::Handler;
use crate::operand::{Dst, Mem};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let register = l.form(0) == Some(Form::Register);
    Some(match l.instruction.mnemonic() {
        M::Fninit => save::initialise,
        M::Fnclex => save::clear_exceptions,
        M::Wait => save::wait,
        M::Fnstsw if register => save::store_status::<Dst>,
        M::Fnstsw => save::store_status::<Mem>,
        M::Fnstcw => save::store_control::<Mem>,
        M::Fldcw => save::load_control,
        M::Ldmxcsr => save::load_mxcsr,
        M::Stmxcsr => save::store_mxcsr,
        M::Fxsave => save::fxsave::<false>,
        M::Fxsave64 => save::fxsave::<true>,
        M::Fxrstor => save::fxrstor::<false>,
        M::Fxrstor64 => save::fxrstor::<true>,
        M::Xsave => save::xsave::<false>,
        M::Xsave64 => save::xsave::<true>,
        M::Xrstor => save::xrstor::<false>,
        M::Xrstor64 => save::xrstor::<true>,
        _ => return None,
    })
}
