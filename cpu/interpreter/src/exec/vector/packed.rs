//! `destination = destination ∘ source` and `destination = ∘ source`, element by element.

use atoll_x86::simd::{Vector, arithmetic, shift, shuffle};
use iced_x86::Mnemonic as M;

use super::{File, MmxFile, XmmFile};
use crate::cpu::Cpu;
use crate::op::{Flow, Handler, Op, Step};

/// An operation on two vectors of any size.
trait Binary {
    fn apply<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N>;
}

/// An operation on one vector of any size.
trait Unary {
    fn apply<const N: usize>(source: Vector<N>) -> Vector<N>;
}

/// A shift of all elements.
trait Shift {
    fn apply<const N: usize>(a: Vector<N>, count: u64) -> Vector<N>;
}

macro_rules! handlers {
    ($register:ident, $memory:ident, $trait:ident, $file:ident, |$cpu:ident, $op:ident, $source:ident| $result:expr) => {
        fn $register<O: $trait>($cpu: &mut Cpu, $op: &Op) -> Step {
            $file::enter($cpu)?;
            let $source = $file::get($cpu, $op.src);
            let result = $result;
            $file::set($cpu, $op.dst, result);
            Ok(Flow::Next)
        }

        fn $memory<O: $trait>($cpu: &mut Cpu, $op: &Op) -> Step {
            $file::enter($cpu)?;
            let $source = $file::load($cpu, $op)?;
            let result = $result;
            $file::set($cpu, $op.dst, result);
            Ok(Flow::Next)
        }
    };
}

handlers!(
    xmm_register,
    xmm_memory,
    Binary,
    XmmFile,
    |cpu, op, source| O::apply(XmmFile::get(cpu, op.dst), source)
);
handlers!(
    mmx_register,
    mmx_memory,
    Binary,
    MmxFile,
    |cpu, op, source| O::apply(MmxFile::get(cpu, op.dst), source)
);
handlers!(
    xmm_register_1,
    xmm_memory_1,
    Unary,
    XmmFile,
    |cpu, op, source| O::apply(source)
);
handlers!(
    mmx_register_1,
    mmx_memory_1,
    Unary,
    MmxFile,
    |cpu, op, source| O::apply(source)
);
handlers!(
    xmm_shift_register,
    xmm_shift_memory,
    Shift,
    XmmFile,
    |cpu, op, source| O::apply(XmmFile::get(cpu, op.dst), source.get(0))
);
handlers!(
    mmx_shift_register,
    mmx_shift_memory,
    Shift,
    MmxFile,
    |cpu, op, source| O::apply(MmxFile::get(cpu, op.dst), source.get(0))
);

fn xmm_shift_immediate<O: Shift>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let result = O::apply(XmmFile::get(cpu, op.dst), op.imm & 0xFF);
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

fn mmx_shift_immediate<O: Shift>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let result = O::apply(MmxFile::get(cpu, op.dst), op.imm & 0xFF);
    MmxFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// Which handler of an operation an instruction wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// XMM rather than MMX registers.
    pub(crate) xmm: bool,
    /// The source is in memory.
    pub(crate) memory: bool,
    /// The source is an immediate.
    pub(crate) immediate: bool,
}

macro_rules! operations {
    ($lookup:ident, $trait:ident, $parameters:tt, $arguments:tt, $pick:ident; $($($mnemonic:ident)|+ => $function:path;)*) => {
        /// The handler of `mnemonic` for operands of `shape`; `None` when it is none of these operations.
        pub(crate) fn $lookup(mnemonic: M, shape: Shape) -> Option<Handler> {
            match mnemonic {
                $($(M::$mnemonic)|+ => {
                    struct Operation;

                    impl $trait for Operation {
                        #[inline(always)]
                        fn apply<const N: usize> $parameters -> Vector<N> {
                            $function $arguments
                        }
                    }

                    Some($pick::<Operation>(shape))
                })*
                _ => None,
            }
        }
    };
}

fn pick<O: Binary>(shape: Shape) -> Handler {
    match (shape.xmm, shape.memory) {
        (true, false) => xmm_register::<O>,
        (true, true) => xmm_memory::<O>,
        (false, false) => mmx_register::<O>,
        (false, true) => mmx_memory::<O>,
    }
}

fn pick_1<O: Unary>(shape: Shape) -> Handler {
    match (shape.xmm, shape.memory) {
        (true, false) => xmm_register_1::<O>,
        (true, true) => xmm_memory_1::<O>,
        (false, false) => mmx_register_1::<O>,
        (false, true) => mmx_memory_1::<O>,
    }
}

fn pick_shift<O: Shift>(shape: Shape) -> Handler {
    match (shape.xmm, shape.memory, shape.immediate) {
        (true, _, true) => xmm_shift_immediate::<O>,
        (false, _, true) => mmx_shift_immediate::<O>,
        (true, false, _) => xmm_shift_register::<O>,
        (true, true, _) => xmm_shift_memory::<O>,
        (false, false, _) => mmx_shift_register::<O>,
        (false, true, _) => mmx_shift_memory::<O>,
    }
}

operations! { binary, Binary, (a: Vector<N>, b: Vector<N>), (a, b), pick;
    Paddb => arithmetic::paddb;
    Paddw => arithmetic::paddw;
    Paddd => arithmetic::paddd;
    Paddq => arithmetic::paddq;
    Psubb => arithmetic::psubb;
    Psubw => arithmetic::psubw;
    Psubd => arithmetic::psubd;
    Psubq => arithmetic::psubq;
    Paddsb => arithmetic::paddsb;
    Paddsw => arithmetic::paddsw;
    Paddusb => arithmetic::paddusb;
    Paddusw => arithmetic::paddusw;
    Psubsb => arithmetic::psubsb;
    Psubsw => arithmetic::psubsw;
    Psubusb => arithmetic::psubusb;
    Psubusw => arithmetic::psubusw;
    Pmullw => arithmetic::pmullw;
    Pmulld => arithmetic::pmulld;
    Pmulhw => arithmetic::pmulhw;
    Pmulhuw => arithmetic::pmulhuw;
    Pmulhrsw => arithmetic::pmulhrsw;
    Pmuludq => arithmetic::pmuludq;
    Pmuldq => arithmetic::pmuldq;
    Pavgb => arithmetic::pavgb;
    Pavgw => arithmetic::pavgw;
    Pminsb => arithmetic::pminsb;
    Pminsw => arithmetic::pminsw;
    Pminsd => arithmetic::pminsd;
    Pminub => arithmetic::pminub;
    Pminuw => arithmetic::pminuw;
    Pminud => arithmetic::pminud;
    Pmaxsb => arithmetic::pmaxsb;
    Pmaxsw => arithmetic::pmaxsw;
    Pmaxsd => arithmetic::pmaxsd;
    Pmaxub => arithmetic::pmaxub;
    Pmaxuw => arithmetic::pmaxuw;
    Pmaxud => arithmetic::pmaxud;
    Pcmpeqb => arithmetic::pcmpeqb;
    Pcmpeqw => arithmetic::pcmpeqw;
    Pcmpeqd => arithmetic::pcmpeqd;
    Pcmpeqq => arithmetic::pcmpeqq;
    Pcmpgtb => arithmetic::pcmpgtb;
    Pcmpgtw => arithmetic::pcmpgtw;
    Pcmpgtd => arithmetic::pcmpgtd;
    Pcmpgtq => arithmetic::pcmpgtq;
    Pand | Andps | Andpd => arithmetic::pand;
    Por | Orps | Orpd => arithmetic::por;
    Pxor | Xorps | Xorpd => arithmetic::pxor;
    Pandn | Andnps | Andnpd => arithmetic::pandn;
    Psignb => arithmetic::psignb;
    Psignw => arithmetic::psignw;
    Psignd => arithmetic::psignd;
    Pmaddwd => arithmetic::pmaddwd;
    Pmaddubsw => arithmetic::pmaddubsw;
    Psadbw => arithmetic::psadbw;
    Phaddw => arithmetic::phaddw;
    Phaddd => arithmetic::phaddd;
    Phaddsw => arithmetic::phaddsw;
    Phsubw => arithmetic::phsubw;
    Phsubd => arithmetic::phsubd;
    Phsubsw => arithmetic::phsubsw;
    Punpckhbw => shuffle::punpckhbw;
    Punpckhwd => shuffle::punpckhwd;
    Punpckhdq | Unpckhps => shuffle::punpckhdq;
    Punpckhqdq | Unpckhpd => shuffle::punpckhqdq;
    Punpcklqdq | Unpcklpd => shuffle::punpcklqdq;
    Packsswb => shuffle::packsswb;
    Packuswb => shuffle::packuswb;
    Packssdw => shuffle::packssdw;
    Packusdw => shuffle::packusdw;
    Pshufb => shuffle::pshufb;
}

// The low halves in an MMX register: memory operands have half the size.
operations! { unpack_low, Binary, (a: Vector<N>, b: Vector<N>), (a, b), pick;
    Punpcklbw => shuffle::punpcklbw;
    Punpcklwd => shuffle::punpcklwd;
    Punpckldq | Unpcklps => shuffle::punpckldq;
}

operations! { unary, Unary, (source: Vector<N>), (source), pick_1;
    Pabsb => arithmetic::pabsb;
    Pabsw => arithmetic::pabsw;
    Pabsd => arithmetic::pabsd;
}

operations! { shifts, Shift, (a: Vector<N>, count: u64), (a, count), pick_shift;
    Psllw => shift::psllw;
    Pslld => shift::pslld;
    Psllq => shift::psllq;
    Psrlw => shift::psrlw;
    Psrld => shift::psrld;
    Psrlq => shift::psrlq;
    Psraw => shift::psraw;
    Psrad => shift::psrad;
}

/// Puts a 32-bit memory operand where an MMX unpack of low halves finds it.
pub(crate) fn mmx_unpack_low_memory<const BYTES: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let address = cpu.address(op);
    let source = u64::from(cpu.load::<u32>(address)?).into();
    let a = MmxFile::get(cpu, op.dst);
    let result = match BYTES {
        1 => shuffle::punpcklbw(a, source),
        2 => shuffle::punpcklwd(a, source),
        _ => shuffle::punpckldq(a, source),
    };
    MmxFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}
