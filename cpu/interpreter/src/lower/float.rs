//! SSE floating point.

use atoll_x86::float::arithmetic::*;
use atoll_x86::float::compare::{cmp, comi};
use atoll_x86::float::convert::*;
use atoll_x86::float::estimate::{reciprocal, reciprocal_root};
use atoll_x86::simd::Xmm;
use iced_x86::Mnemonic as M;

use crate::exec::float;
use crate::exec::vector::{Aligned, Low};
use crate::lower::{Form, Lowering};
use crate::op::{Handler, op};
use crate::operand::{Mem, Src};

/// `dst = f(dst, source, immediate, mxcsr)` with memory read as `$width`.
macro_rules! xmm {
    ($l:ident, $width:ty, $f:expr) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| float::register(cpu, op, $f))),
            Form::Memory => Some(op!(|cpu, op| float::memory::<$width>(cpu, op, $f))),
            Form::Immediate => None,
        }
    };
}

/// Scalar and packed forms of one operation.
macro_rules! shapes {
    ($l:ident, { $($operation:ident: $ss:ident $sd:ident $ps:ident $pd:ident;)* } $($rest:tt)*) => {
        match $l.instruction.mnemonic() {
            $(
                M::$ss => xmm!($l, Low<u32>, |a, b, _, mxcsr| {
                    arithmetic::<f32, 1>(a, b, mxcsr, |_| Operation::$operation)
                }),
                M::$sd => xmm!($l, Low<u64>, |a, b, _, mxcsr| {
                    arithmetic::<f64, 1>(a, b, mxcsr, |_| Operation::$operation)
                }),
                M::$ps => xmm!($l, Aligned, |a, b, _, mxcsr| {
                    arithmetic::<f32, 4>(a, b, mxcsr, |_| Operation::$operation)
                }),
                M::$pd => xmm!($l, Aligned, |a, b, _, mxcsr| {
                    arithmetic::<f64, 2>(a, b, mxcsr, |_| Operation::$operation)
                }),
            )*
            $($rest)*
        }
    };
}

/// A handler for register and one for memory: `$handler::<…, MEMORY>(cpu, op, f)`.
macro_rules! either {
    ($l:ident, $handler:ident[$($argument:ty),*], $f:expr) => {
        match $l.form(1)? {
            Form::Register => Some(
                op!(|cpu, op| float::$handler::<$($argument,)* false>(cpu, op, $f)),
            ),
            Form::Memory => Some(
                op!(|cpu, op| float::$handler::<$($argument,)* true>(cpu, op, $f)),
            ),
            Form::Immediate => None,
        }
    };
}

/// A conversion to 32 or 64 bits, by the destination.
macro_rules! to_general {
    ($l:ident, $float:ty, $width:ty, $truncate:literal) => {
        if $l.size(0) == 8 {
            either!($l, to_general[u64, Low<$width>], |from, mxcsr| {
                cvt_to_integer::<$float, 64, $truncate>(from, mxcsr)
            })
        } else {
            either!($l, to_general[u32, Low<$width>], |from, mxcsr| {
                cvt_to_integer::<$float, 32, $truncate>(from, mxcsr)
            })
        }
    };
}

/// A conversion from 32 or 64 bits, by the source.
macro_rules! from_general {
    ($l:ident, $float:ty) => {
        Some(match ($l.size(1), $l.form(1)?) {
            (8, Form::Register) => {
                op!(|cpu, op| float::from_general::<u64, Src>(cpu, op, cvtsi::<$float>))
            }
            (8, _) => op!(|cpu, op| float::from_general::<u64, Mem>(cpu, op, cvtsi::<$float>)),
            (_, Form::Register) => {
                op!(|cpu, op| float::from_general::<u32, Src>(cpu, op, cvtsi::<$float>))
            }
            (_, _) => op!(|cpu, op| float::from_general::<u32, Mem>(cpu, op, cvtsi::<$float>)),
        })
    };
}

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    shapes! { l, {
        Add: Addss Addsd Addps Addpd;
        Sub: Subss Subsd Subps Subpd;
        Mul: Mulss Mulsd Mulps Mulpd;
        Div: Divss Divsd Divps Divpd;
        Sqrt: Sqrtss Sqrtsd Sqrtps Sqrtpd;
        Min: Minss Minsd Minps Minpd;
        Max: Maxss Maxsd Maxps Maxpd;
        }
        M::Addsubps => xmm!(l, Aligned, |a, b, _, mxcsr| addsubps(a, b, mxcsr)),
        M::Addsubpd => xmm!(l, Aligned, |a, b, _, mxcsr| addsubpd(a, b, mxcsr)),
        M::Haddps => xmm!(l, Aligned, |a, b, _, m| horizontal_single(Operation::Add, a, b, m)),
        M::Hsubps => xmm!(l, Aligned, |a, b, _, m| horizontal_single(Operation::Sub, a, b, m)),
        M::Haddpd => xmm!(l, Aligned, |a, b, _, m| horizontal_double(Operation::Add, a, b, m)),
        M::Hsubpd => xmm!(l, Aligned, |a, b, _, m| horizontal_double(Operation::Sub, a, b, m)),
        M::Dpps => xmm!(l, Aligned, dpps),
        M::Dppd => xmm!(l, Aligned, dppd),
        M::Cmpss => xmm!(l, Low<u32>, cmp::<f32, 1>),
        M::Cmpsd => xmm!(l, Low<u64>, cmp::<f64, 1>),
        M::Cmpps => xmm!(l, Aligned, cmp::<f32, 4>),
        M::Cmppd => xmm!(l, Aligned, cmp::<f64, 2>),
        M::Roundss => xmm!(l, Low<u32>, round::<f32, 1>),
        M::Roundsd => xmm!(l, Low<u64>, round::<f64, 1>),
        M::Roundps => xmm!(l, Aligned, round::<f32, 4>),
        M::Roundpd => xmm!(l, Aligned, round::<f64, 2>),
        M::Rcpss => xmm!(l, Low<u32>, |a, b, _, _| Ok(reciprocal::<1>(a, b))),
        M::Rcpps => xmm!(l, Aligned, |a, b, _, _| Ok(reciprocal::<4>(a, b))),
        M::Rsqrtss => xmm!(l, Low<u32>, |a, b, _, _| Ok(reciprocal_root::<1>(a, b))),
        M::Rsqrtps => xmm!(l, Aligned, |a, b, _, _| Ok(reciprocal_root::<4>(a, b))),
        M::Comiss => either!(l, compare[Low<u32>], comi::<f32, false>),
        M::Ucomiss => either!(l, compare[Low<u32>], comi::<f32, true>),
        M::Comisd => either!(l, compare[Low<u64>], comi::<f64, false>),
        M::Ucomisd => either!(l, compare[Low<u64>], comi::<f64, true>),
        _ => conversions(l),
    }
}

fn conversions(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Cvtss2sd => xmm!(l, Low<u32>, |a, b, _, mxcsr| cvtss2sd(a, b, mxcsr)),
        M::Cvtsd2ss => xmm!(l, Low<u64>, |a, b, _, mxcsr| cvtsd2ss(a, b, mxcsr)),
        M::Cvtps2pd => xmm!(l, Low<u64>, |_, b, _, mxcsr| cvtps2pd(b, mxcsr)),
        M::Cvtpd2ps => xmm!(l, Aligned, |_, b, _, mxcsr| cvtpd2ps(b, mxcsr)),
        M::Cvtdq2ps => xmm!(l, Aligned, |_, b, _, mxcsr| cvtdq2ps(b, mxcsr)),
        M::Cvtdq2pd => xmm!(l, Low<u64>, |_, b, _, _| Ok(cvtdq2pd(b))),
        M::Cvtps2dq => xmm!(l, Aligned, |_, b, _, mxcsr| cvtps2dq::<false>(b, mxcsr)),
        M::Cvttps2dq => xmm!(l, Aligned, |_, b, _, mxcsr| cvtps2dq::<true>(b, mxcsr)),
        M::Cvtpd2dq => xmm!(l, Aligned, |_, b, _, mxcsr| cvtpd2dq::<false>(b, mxcsr)),
        M::Cvttpd2dq => xmm!(l, Aligned, |_, b, _, mxcsr| cvtpd2dq::<true>(b, mxcsr)),
        M::Cvtss2si => to_general!(l, f32, u32, false),
        M::Cvttss2si => to_general!(l, f32, u32, true),
        M::Cvtsd2si => to_general!(l, f64, u64, false),
        M::Cvttsd2si => to_general!(l, f64, u64, true),
        M::Cvtsi2ss => from_general!(l, f32),
        M::Cvtsi2sd => from_general!(l, f64),
        M::Cvtps2pi => either!(l, to_mmx[Low<u64>], cvtps2pi::<false>),
        M::Cvttps2pi => either!(l, to_mmx[Low<u64>], cvtps2pi::<true>),
        M::Cvtpd2pi => either!(l, to_mmx[Aligned], |from, mxcsr| {
            Ok(cvtpd2dq::<false>(from, mxcsr)?.get::<u64>(0).into())
        }),
        M::Cvttpd2pi => either!(l, to_mmx[Aligned], |from, mxcsr| {
            Ok(cvtpd2dq::<true>(from, mxcsr)?.get::<u64>(0).into())
        }),
        M::Cvtpi2ps => either!(l, from_mmx[], cvtpi2ps),
        M::Cvtpi2pd => either!(l, from_mmx[], |_, from, _| {
            Ok(cvtdq2pd(Xmm::from(u128::from(u64::from(from)))))
        }),
        _ => None,
    }
}
