//! The x87 unit.

use atoll_x86::flags::Condition;
use atoll_x86::x87::{Arithmetic as A, Constant, Source, Width};
use iced_x86::{Code, MemorySize, Mnemonic as M};

use crate::cpu::Cpu;
use crate::exec::x87::{self, Decimal, Double, Integer, Single};
use crate::lower::{Form, Lowering};
use crate::op::{Handler, op};

/// `f(unit, dst, src)`.
macro_rules! unit {
    ($f:expr) => {
        Some(op!(|cpu, op| x87::registers(cpu, op, $f)))
    };
}

/// `f(unit, operand)` for a memory operand of the instruction's type.
macro_rules! memory {
    ($l:ident, $f:expr) => {
        Some(match $l.instruction.memory_size() {
            MemorySize::Float32 => {
                op!(|cpu, op| x87::memory::<Single>(cpu, op, $f))
            }
            MemorySize::Float64 => op!(|cpu, op| x87::memory::<Double>(cpu, op, $f)),
            MemorySize::Int16 => op!(|cpu, op| x87::memory::<Integer<u16>>(cpu, op, $f)),
            MemorySize::Int32 => op!(|cpu, op| x87::memory::<Integer<u32>>(cpu, op, $f)),
            MemorySize::Int64 => op!(|cpu, op| x87::memory::<Integer<u64>>(cpu, op, $f)),
            MemorySize::Bcd => op!(|cpu, op| x87::memory::<Decimal>(cpu, op, $f)),
            _ => return None,
        })
    };
}

/// An operation whose second operand is a register or memory.
macro_rules! arithmetic {
    ($l:ident, $operation:expr) => {
        if $l.form(0)? == Form::Memory {
            memory!($l, |unit, operand| {
                unit.arithmetic($operation, 0, Source::Memory(operand), false);
            })
        } else {
            unit!(|unit, dst, src| unit.arithmetic($operation, dst, Source::Register(src), false))
        }
    };
}

/// The same with a pop; always between registers.
macro_rules! arithmetic_pop {
    ($operation:expr) => {
        unit!(|unit, dst, src| unit.arithmetic($operation, dst, Source::Register(src), true))
    };
}

/// A comparison with a register or memory.
macro_rules! comparison {
    ($l:ident, $quiet:literal, $pops:literal) => {
        if $l.form(0)? == Form::Memory {
            memory!($l, |unit, operand| unit.compare(
                Source::Memory(operand),
                $quiet,
                $pops
            ))
        } else {
            unit!(|unit, _, src| unit.compare(Source::Register(src), $quiet, $pops))
        }
    };
}

macro_rules! constant {
    ($constant:ident) => {
        unit!(|unit, _, _| unit.load_constant(Constant::$constant))
    };
}

macro_rules! conditional {
    ($condition:ident) => {
        Some(op!(|cpu, op| x87::move_if(cpu, op, Condition::$condition)))
    };
}

/// FIST, FISTP, FISTTP of the instruction's type.
macro_rules! store_integer {
    ($l:ident, $pop:literal, $truncate:literal) => {
        Some(match $l.instruction.memory_size() {
            MemorySize::Int16 => {
                op!(|cpu, op| {
                    x87::store::<_, $pop>(
                        cpu,
                        op,
                        |unit| unit.store_integer(Width::Word, $truncate),
                        |cpu, address, value| cpu.store(address, value.cast_unsigned() as u16),
                    )
                })
            }
            MemorySize::Int32 => op!(|cpu, op| {
                x87::store::<_, $pop>(
                    cpu,
                    op,
                    |unit| unit.store_integer(Width::Doubleword, $truncate),
                    |cpu, address, value| cpu.store(address, value.cast_unsigned() as u32),
                )
            }),
            MemorySize::Int64 => op!(|cpu, op| {
                x87::store::<_, $pop>(
                    cpu,
                    op,
                    |unit| unit.store_integer(Width::Quadword, $truncate),
                    |cpu, address, value| cpu.store(address, value.cast_unsigned()),
                )
            }),
            _ => return None,
        })
    };
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Fadd | M::Fiadd => arithmetic!(l, A::Add),
        M::Fmul | M::Fimul => arithmetic!(l, A::Mul),
        M::Fsub | M::Fisub => arithmetic!(l, A::Sub),
        M::Fsubr | M::Fisubr => arithmetic!(l, A::SubReversed),
        M::Fdiv | M::Fidiv => arithmetic!(l, A::Div),
        M::Fdivr | M::Fidivr => arithmetic!(l, A::DivReversed),
        M::Faddp => arithmetic_pop!(A::Add),
        M::Fmulp => arithmetic_pop!(A::Mul),
        M::Fsubp => arithmetic_pop!(A::Sub),
        M::Fsubrp => arithmetic_pop!(A::SubReversed),
        M::Fdivp => arithmetic_pop!(A::Div),
        M::Fdivrp => arithmetic_pop!(A::DivReversed),
        M::Fcom | M::Ficom => comparison!(l, false, 0),
        M::Fcomp | M::Ficomp => comparison!(l, false, 1),
        M::Fucom => comparison!(l, true, 0),
        M::Fucomp => comparison!(l, true, 1),
        M::Fcompp => unit!(|unit, _, _| unit.compare(Source::Register(1), false, 2)),
        M::Fucompp => unit!(|unit, _, _| unit.compare(Source::Register(1), true, 2)),
        M::Fcomi => Some(op!(x87::compare_into_flags::<false, false>)),
        M::Fcomip => Some(op!(x87::compare_into_flags::<false, true>)),
        M::Fucomi => Some(op!(x87::compare_into_flags::<true, false>)),
        M::Fucomip => Some(op!(x87::compare_into_flags::<true, true>)),
        M::Fcmovb => conditional!(B),
        M::Fcmove => conditional!(E),
        M::Fcmovbe => conditional!(Be),
        M::Fcmovu => conditional!(P),
        M::Fcmovnb => conditional!(Ae),
        M::Fcmovne => conditional!(Ne),
        M::Fcmovnbe => conditional!(A),
        M::Fcmovnu => conditional!(Np),
        M::Ftst => unit!(|unit, _, _| unit.test()),
        M::Fxam => unit!(|unit, _, _| unit.examine()),
        M::Fabs => unit!(|unit, _, _| unit.absolute()),
        M::Fchs => unit!(|unit, _, _| unit.negate()),
        M::Fsqrt => unit!(|unit, _, _| unit.square_root()),
        M::Frndint => unit!(|unit, _, _| unit.round_to_integer()),
        M::Fscale => unit!(|unit, _, _| unit.scale()),
        M::Fxtract => unit!(|unit, _, _| unit.extract()),
        M::Fprem => unit!(|unit, _, _| unit.remainder::<false>()),
        M::Fprem1 => unit!(|unit, _, _| unit.remainder::<true>()),
        M::F2xm1 => unit!(|unit, _, _| unit.exponential()),
        M::Fyl2x => unit!(|unit, _, _| unit.logarithm()),
        M::Fyl2xp1 => unit!(|unit, _, _| unit.logarithm_plus_one()),
        M::Fsin => unit!(|unit, _, _| unit.sine()),
        M::Fcos => unit!(|unit, _, _| unit.cosine()),
        M::Fsincos => unit!(|unit, _, _| unit.sine_cosine()),
        M::Fptan => unit!(|unit, _, _| unit.tangent()),
        M::Fpatan => unit!(|unit, _, _| unit.arctangent()),
        _ => transfers(l),
    }
}

fn transfers(l: &mut Lowering<'_>) -> Option<Handler> {
    let to_memory = l.form(0) == Some(Form::Memory);
    let single = l.instruction.memory_size() == MemorySize::Float32;
    let extended = l.instruction.memory_size() == MemorySize::Float80;
    match l.instruction.mnemonic() {
        M::Fld if extended => Some(op!(x87::load_extended)),
        M::Fld if !to_memory => unit!(|unit, dst, _| unit.load_register(dst)),
        M::Fld | M::Fild | M::Fbld => memory!(l, |unit, operand| unit.load(operand)),
        M::Fld1 => constant!(One),
        M::Fldz => constant!(Zero),
        M::Fldpi => constant!(Pi),
        M::Fldl2t => constant!(Log2Of10),
        M::Fldl2e => constant!(Log2OfE),
        M::Fldlg2 => constant!(Log10Of2),
        M::Fldln2 => constant!(LnOf2),
        M::Fst if !to_memory => unit!(|unit, dst, _| unit.store_register(dst, false)),
        M::Fst if single => Some(op!(|cpu, op| {
            x87::store::<_, false>(cpu, op, |unit| unit.store_single(), Cpu::store::<u32>)
        })),
        M::Fst => Some(op!(|cpu, op| {
            x87::store::<_, false>(cpu, op, |unit| unit.store_double(), Cpu::store::<u64>)
        })),
        M::Fstpnce => unit!(|unit, dst, _| unit.store_register_and_pop(dst)),
        M::Fstp if !to_memory => {
            unit!(|unit, dst, _| unit.store_register(dst, true))
        }
        M::Fstp if extended => Some(op!(|cpu, op| {
            x87::store::<_, true>(cpu, op, |unit| unit.store_extended(), x87::store_80)
        })),
        M::Fstp if single => Some(op!(|cpu, op| {
            x87::store::<_, true>(cpu, op, |unit| unit.store_single(), Cpu::store::<u32>)
        })),
        M::Fstp => Some(op!(|cpu, op| {
            x87::store::<_, true>(cpu, op, |unit| unit.store_double(), Cpu::store::<u64>)
        })),
        M::Fist => store_integer!(l, false, false),
        M::Fistp => store_integer!(l, true, false),
        M::Fisttp => store_integer!(l, true, true),
        M::Fbstp => Some(op!(|cpu, op| {
            x87::store::<_, true>(
                cpu,
                op,
                |unit| {
                    let mut bytes = [0; 16];
                    bytes[..10].copy_from_slice(&unit.store_decimal()?);
                    Some(u128::from_le_bytes(bytes))
                },
                x87::store_80,
            )
        })),
        M::Fxch => unit!(|unit, _, src| unit.exchange(src)),
        M::Ffree => unit!(|unit, dst, _| unit.free(dst)),
        M::Ffreep => unit!(|unit, dst, _| {
            unit.free(dst);
            unit.pop();
        }),
        M::Fincstp => unit!(|unit, _, _| unit.increment_top()),
        M::Fdecstp => unit!(|unit, _, _| unit.decrement_top()),
        M::Fnop => Some(op!(x87::nothing)),
        M::Fneni | M::Fndisi | M::Fnsetpm => Some(op!(x87::obsolete)),
        _ => images(l),
    }
}

fn images(l: &mut Lowering<'_>) -> Option<Handler> {
    Some(match l.instruction.code() {
        Code::Fnstenv_m14byte => op!(x87::store_environment::<false>),
        Code::Fnstenv_m28byte => op!(x87::store_environment::<true>),
        Code::Fldenv_m14byte => op!(x87::load_environment::<false>),
        Code::Fldenv_m28byte => op!(x87::load_environment::<true>),
        Code::Fnsave_m94byte => op!(x87::save::<false>),
        Code::Fnsave_m108byte => op!(x87::save::<true>),
        Code::Frstor_m94byte => op!(x87::restore::<false>),
        Code::Frstor_m108byte => op!(x87::restore::<true>),
        _ => return None,
    })
}
