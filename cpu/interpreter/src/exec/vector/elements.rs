//! Single elements, masks, and shuffles with an immediate.

use atoll_x86::simd::{Element, Mmx, Vector, Xmm, arithmetic, shift, shuffle};

use super::{File, MmxFile, XmmFile};
use crate::cpu::Cpu;
use crate::op::{Flow, Handler, Op, Step};
use crate::operand::Operand;

macro_rules! with_immediate {
    ($($(#[$doc:meta])* $register:ident, $memory:ident, $file:ident: |$a:ident, $b:ident, $control:ident| $result:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $register(cpu: &mut Cpu, op: &Op) -> Step {
            $file::enter(cpu)?;
            let ($a, $b, $control) = ($file::get(cpu, op.dst), $file::get(cpu, op.src), op.imm as u8);
            let result = $result;
            $file::set(cpu, op.dst, result);
            Ok(Flow::Next)
        }

        $(#[$doc])*
        pub(crate) fn $memory(cpu: &mut Cpu, op: &Op) -> Step {
            $file::enter(cpu)?;
            let ($a, $b, $control) = ($file::get(cpu, op.dst), $file::load(cpu, op)?, op.imm as u8);
            let result = $result;
            $file::set(cpu, op.dst, result);
            Ok(Flow::Next)
        }
    )*};
}

with_immediate! {
    /// PSHUFD.
    pshufd, pshufd_memory, XmmFile: |_a, b, control| shuffle::pshufd(b, control);
    /// PSHUFHW.
    pshufhw, pshufhw_memory, XmmFile: |_a, b, control| shuffle::pshufhw(b, control);
    /// PSHUFLW.
    pshuflw, pshuflw_memory, XmmFile: |_a, b, control| shuffle::pshuflw(b, control);
    /// PSHUFW.
    pshufw, pshufw_memory, MmxFile: |_a, b, control| shuffle::pshufw(b, control);
    /// SHUFPS.
    shufps, shufps_memory, XmmFile: |a, b, control| shuffle::shufps(a, b, control);
    /// SHUFPD.
    shufpd, shufpd_memory, XmmFile: |a, b, control| shuffle::shufpd(a, b, control);
    /// PALIGNR.
    palignr, palignr_memory, XmmFile: |a, b, control| shuffle::palignr(a, b, control);
    /// PALIGNR on MMX.
    palignr_mmx, palignr_mmx_memory, MmxFile: |a, b, control| shuffle::palignr(a, b, control);
    /// BLENDPS.
    blendps, blendps_memory, XmmFile: |a, b, control| shuffle::blendps(a, b, control);
    /// BLENDPD.
    blendpd, blendpd_memory, XmmFile: |a, b, control| shuffle::blendpd(a, b, control);
    /// PBLENDW.
    pblendw, pblendw_memory, XmmFile: |a, b, control| shuffle::pblendw(a, b, control);
    /// MPSADBW.
    mpsadbw, mpsadbw_memory, XmmFile: |a, b, control| arithmetic::mpsadbw(a, b, control);
    /// PHMINPOSUW.
    phminposuw, phminposuw_memory, XmmFile: |_a, b, _control| arithmetic::phminposuw(b);
    /// MOVSHDUP.
    movshdup, movshdup_memory, XmmFile: |_a, b, _control| shuffle::movshdup(b);
    /// MOVSLDUP.
    movsldup, movsldup_memory, XmmFile: |_a, b, _control| shuffle::movsldup(b);
    /// PSLLDQ.
    pslldq, pslldq_memory, XmmFile: |a, _b, control| shift::pslldq(a, control);
    /// PSRLDQ.
    psrldq, psrldq_memory, XmmFile: |a, _b, control| shift::psrldq(a, control);
}

/// MOVDDUP between registers.
pub(crate) fn movddup(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let result = shuffle::movddup(XmmFile::get(cpu, op.src));
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

macro_rules! variable_blends {
    ($($(#[$doc:meta])* $register:ident, $memory:ident: $function:path;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $register(cpu: &mut Cpu, op: &Op) -> Step {
            XmmFile::enter(cpu)?;
            let result = $function(XmmFile::get(cpu, op.dst), XmmFile::get(cpu, op.src), XmmFile::get(cpu, 0));
            XmmFile::set(cpu, op.dst, result);
            Ok(Flow::Next)
        }

        $(#[$doc])*
        pub(crate) fn $memory(cpu: &mut Cpu, op: &Op) -> Step {
            XmmFile::enter(cpu)?;
            let source = XmmFile::load(cpu, op)?;
            let result = $function(XmmFile::get(cpu, op.dst), source, XmmFile::get(cpu, 0));
            XmmFile::set(cpu, op.dst, result);
            Ok(Flow::Next)
        }
    )*};
}

variable_blends! {
    /// PBLENDVB.
    pblendvb, pblendvb_memory: shuffle::pblendvb;
    /// BLENDVPS.
    blendvps, blendvps_memory: shuffle::blendvps;
    /// BLENDVPD.
    blendvpd, blendvpd_memory: shuffle::blendvpd;
}

/// PMOVMSKB.
pub(crate) fn byte_mask(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    shuffle::pmovmskb(XmmFile::get(cpu, op.src)).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// PMOVMSKB on MMX.
pub(crate) fn byte_mask_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    shuffle::pmovmskb(MmxFile::get(cpu, op.src)).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVMSKPS.
pub(crate) fn single_mask(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    shuffle::movmskps(XmmFile::get(cpu, op.src)).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVMSKPD.
pub(crate) fn double_mask(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    shuffle::movmskpd(XmmFile::get(cpu, op.src)).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// PINSRx from a general register.
pub(crate) fn insert<E: Element + Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let value = E::low(cpu.regs[usize::from(op.src & 31)]);
    let result: Xmm = shuffle::insert(XmmFile::get(cpu, op.dst), value, op.imm as u8);
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// PINSRx from memory.
pub(crate) fn insert_memory<E: Element + Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let address = cpu.address(op);
    let value: E = cpu.load(address)?;
    let result: Xmm = shuffle::insert(XmmFile::get(cpu, op.dst), value, op.imm as u8);
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// PINSRW on MMX.
pub(crate) fn insert_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let value = cpu.regs[usize::from(op.src & 31)] as u16;
    let result: Mmx = shuffle::insert(MmxFile::get(cpu, op.dst), value, op.imm as u8);
    MmxFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// PINSRW on MMX from memory.
pub(crate) fn insert_mmx_memory(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let address = cpu.address(op);
    let value: u16 = cpu.load(address)?;
    let result: Mmx = shuffle::insert(MmxFile::get(cpu, op.dst), value, op.imm as u8);
    MmxFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// PEXTRx, EXTRACTPS to a general register, which is written whole.
pub(crate) fn extract<E: Element + Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let value: E = shuffle::extract(XmmFile::get(cpu, op.src), op.imm as u8);
    value.zero_extended().set(cpu, op.dst);
    Ok(Flow::Next)
}

/// PEXTRx, EXTRACTPS to memory.
pub(crate) fn extract_memory<E: Element + Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let value: E = shuffle::extract(XmmFile::get(cpu, op.src), op.imm as u8);
    let address = cpu.address(op);
    cpu.store(address, value)?;
    Ok(Flow::Next)
}

/// PEXTRW on MMX.
pub(crate) fn extract_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let value: u16 = shuffle::extract(MmxFile::get(cpu, op.src), op.imm as u8);
    u64::from(value).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// INSERTPS from a register.
pub(crate) fn insertps(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let control = op.imm as u8;
    let element: u32 = XmmFile::get(cpu, op.src).get(usize::from(control >> 6));
    let result = shuffle::insertps(XmmFile::get(cpu, op.dst), element, control);
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

/// INSERTPS from memory.
pub(crate) fn insertps_memory(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let address = cpu.address(op);
    let element: u32 = cpu.load(address)?;
    let result = shuffle::insertps(XmmFile::get(cpu, op.dst), element, op.imm as u8);
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

trait Widening {
    const BYTES: usize;
    fn apply(source: Xmm) -> Xmm;
}

fn widen_register<W: Widening>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let result = W::apply(XmmFile::get(cpu, op.src));
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

fn widen_memory<W: Widening>(cpu: &mut Cpu, op: &Op) -> Step {
    XmmFile::enter(cpu)?;
    let address = cpu.address(op);
    let value = match W::BYTES {
        2 => u64::from(cpu.load::<u16>(address)?),
        4 => u64::from(cpu.load::<u32>(address)?),
        _ => cpu.load::<u64>(address)?,
    };
    let result = W::apply(Vector::from(u128::from(value)));
    XmmFile::set(cpu, op.dst, result);
    Ok(Flow::Next)
}

macro_rules! widenings {
    ($($mnemonic:ident $bytes:literal => $function:path;)*) => {
        /// The handler of PMOVSXxx and PMOVZXxx; `None` when `mnemonic` is none of them.
        pub(crate) fn widen(mnemonic: iced_x86::Mnemonic, memory: bool) -> Option<Handler> {
            match mnemonic {
                $(iced_x86::Mnemonic::$mnemonic => {
                    struct Operation;

                    impl Widening for Operation {
                        const BYTES: usize = $bytes;

                        fn apply(source: Xmm) -> Xmm {
                            $function(source)
                        }
                    }

                    Some(if memory { widen_memory::<Operation> } else { widen_register::<Operation> })
                })*
                _ => None,
            }
        }
    };
}

widenings! {
    Pmovsxbw 8 => shuffle::pmovsxbw;
    Pmovsxbd 4 => shuffle::pmovsxbd;
    Pmovsxbq 2 => shuffle::pmovsxbq;
    Pmovsxwd 8 => shuffle::pmovsxwd;
    Pmovsxwq 4 => shuffle::pmovsxwq;
    Pmovsxdq 8 => shuffle::pmovsxdq;
    Pmovzxbw 8 => shuffle::pmovzxbw;
    Pmovzxbd 4 => shuffle::pmovzxbd;
    Pmovzxbq 2 => shuffle::pmovzxbq;
    Pmovzxwd 8 => shuffle::pmovzxwd;
    Pmovzxwq 4 => shuffle::pmovzxwq;
    Pmovzxdq 8 => shuffle::pmovzxdq;
}
