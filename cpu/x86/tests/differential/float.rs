//! SSE floating point, with every rounding, DAZ, FTZ, flags before and after, masked and unmasked exceptions.

use std::sync::OnceLock;

use atoll_x86::float::arithmetic::{
    Operation, addsubpd, addsubps, arithmetic, dppd, dpps, horizontal_double, horizontal_single,
};
use atoll_x86::float::compare::{cmp, comi};
use atoll_x86::float::convert::*;
use atoll_x86::float::estimate::{reciprocal, reciprocal_root};
use atoll_x86::float::{Float, SimdException};
use atoll_x86::simd::Xmm;

use crate::native::{for_each_immediate, xmm};
use crate::random::Random;
use crate::trap;

/// `$text` with `a` in xmm1, `b` in xmm2, `$value` in rdx under MXCSR: xmm1, rdx, RFLAGS, MXCSR, whether it trapped.
macro_rules! native {
    ($text:expr, $a:expr, $b:expr, $value:expr, $mxcsr:expr $(, imm $imm:expr)?) => {{
        let (a, b): (u128, u128) = ($a, $b);
        let mut result = 0u128;
        let mut mxcsr: u32 = $mxcsr;
        let mut value: u64 = $value;
        let trapped: u64;
        let flags: u64;
        let default = 0x1F80u32;
        // SAFETY: reads and writes locals through pointers to them; a trap goes on at the label, its address in r15; MXCSR
        // is put back.
        unsafe {
            std::arch::asm!(
                "movdqu xmm1, [{a}]",
                "movdqu xmm2, [{b}]",
                "lea r15, [rip + 22f]",
                "ldmxcsr [{mxcsr}]",
                concat!($text $(, ", {imm}", float_text!(@nothing $imm))?),
                "22:",
                "pushfq",
                "pop rcx",
                "stmxcsr [{mxcsr}]",
                "ldmxcsr [{default}]",
                "movdqu [{result}], xmm1",
                a = in(reg) &raw const a,
                b = in(reg) &raw const b,
                mxcsr = in(reg) &raw mut mxcsr,
                default = in(reg) &raw const default,
                result = in(reg) &raw mut result,
                $(imm = const $imm,)?
                inout("rdx") value,
                out("rcx") flags,
                inout("r14") 0u64 => trapped,
                out("r15") _,
                out("xmm1") _,
                out("xmm2") _,
            );
        }
        Native { result, value, flags, mxcsr, trapped: trapped != 0 }
    }};
}

macro_rules! float_text {
    (@nothing $imm:expr) => {
        ""
    };
}

#[derive(Debug)]
struct Native {
    result: u128,
    value: u64,
    flags: u64,
    mxcsr: u32,
    trapped: bool,
}

/// Sees that what we computed, starting from `before`, is what the processor did.
#[track_caller]
fn same<T: Into<u128>>(
    name: &str,
    inputs: (u128, u128, u32),
    ours: Result<T, SimdException>,
    mxcsr: u32,
    its: &Native,
    its_result: u128,
) {
    let (a, b, before) = inputs;
    let ours: Result<u128, _> = ours.map(Into::into);
    let expected = if its.trapped {
        Err(SimdException)
    } else {
        Ok(its_result)
    };
    assert!(
        ours == expected && mxcsr == its.mxcsr,
        "{name} {a:#034x} {b:#034x} mxcsr {before:#x}: {ours:x?} {mxcsr:#x}, not {expected:x?} {:#x}",
        its.mxcsr
    );
}

const ROUNDS: u32 = 12_000;

macro_rules! check {
    ($random:ident, $double:expr, $name:ident, $ours:expr) => {
        for _ in 0..ROUNDS {
            let (a, b, before) = (
                $random.floats($double),
                $random.floats($double),
                $random.mxcsr(),
            );
            let its = native!(concat!(stringify!($name), " xmm1, xmm2"), a, b, 0, before);
            let mut mxcsr = before;
            let ours: fn(Xmm, Xmm, &mut u32) -> Result<Xmm, SimdException> = $ours;
            let ours = ours(a.into(), b.into(), &mut mxcsr);
            same(
                stringify!($name),
                (a, b, before),
                ours,
                mxcsr,
                &its,
                its.result,
            );
        }
    };
}

macro_rules! all_shapes {
    ($random:ident: $($operation:ident $ss:ident $sd:ident $ps:ident $pd:ident;)*) => {$(
        check!($random, false, $ss, |a, b, m| arithmetic::<f32, 1>(a, b, m, |_| Operation::$operation));
        check!($random, true, $sd, |a, b, m| arithmetic::<f64, 1>(a, b, m, |_| Operation::$operation));
        check!($random, false, $ps, |a, b, m| arithmetic::<f32, 4>(a, b, m, |_| Operation::$operation));
        check!($random, true, $pd, |a, b, m| arithmetic::<f64, 2>(a, b, m, |_| Operation::$operation));
    )*};
}

#[test]
fn arithmetic_does_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(10);
    all_shapes!(random:
        Add addss addsd addps addpd;
        Sub subss subsd subps subpd;
        Mul mulss mulsd mulps mulpd;
        Div divss divsd divps divpd;
        Sqrt sqrtss sqrtsd sqrtps sqrtpd;
        Min minss minsd minps minpd;
        Max maxss maxsd maxps maxpd;
    );
    check!(random, false, addsubps, addsubps);
    check!(random, true, addsubpd, addsubpd);
    check!(random, false, haddps, |a, b, m| horizontal_single(
        Operation::Add,
        a,
        b,
        m
    ));
    check!(random, false, hsubps, |a, b, m| horizontal_single(
        Operation::Sub,
        a,
        b,
        m
    ));
    check!(random, true, haddpd, |a, b, m| horizontal_double(
        Operation::Add,
        a,
        b,
        m
    ));
    check!(random, true, hsubpd, |a, b, m| horizontal_double(
        Operation::Sub,
        a,
        b,
        m
    ));
}

#[test]
fn conversions_do_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(11);
    check!(random, false, cvtss2sd, cvtss2sd);
    check!(random, true, cvtsd2ss, cvtsd2ss);
    check!(random, false, cvtps2pd, |_, b, m| cvtps2pd(b, m));
    check!(random, true, cvtpd2ps, |_, b, m| cvtpd2ps(b, m));
    check!(random, false, cvtps2dq, |_, b, m| cvtps2dq::<false>(b, m));
    check!(random, false, cvttps2dq, |_, b, m| cvtps2dq::<true>(b, m));
    check!(random, true, cvtpd2dq, |_, b, m| cvtpd2dq::<false>(b, m));
    check!(random, true, cvttpd2dq, |_, b, m| cvtpd2dq::<true>(b, m));
    for _ in 0..ROUNDS {
        let (a, b, before) = (
            random.vector(),
            random.vector() >> random.below(30),
            random.mxcsr(),
        );
        let its = native!("cvtdq2ps xmm1, xmm2", a, b, 0, before);
        let mut mxcsr = before;
        let ours = cvtdq2ps(b.into(), &mut mxcsr);
        same("cvtdq2ps", (a, b, before), ours, mxcsr, &its, its.result);
        let its = native!("cvtdq2pd xmm1, xmm2", a, b, 0, before);
        same(
            "cvtdq2pd",
            (a, b, before),
            Ok(cvtdq2pd(b.into())),
            before,
            &its,
            its.result,
        );
    }
}

macro_rules! mmx_conversions {
    ($random:ident: $($name:ident $text:literal $double:literal $ours:expr;)*) => {$(
        for _ in 0..ROUNDS / 2 {
            let (a, b, before) = ($random.floats($double), $random.floats($double), $random.mxcsr());
            let text = concat!($text, "\nmovq rdx, mm1\nemms");
            let _ = text;
            let its = native!(concat!($text, "\nmovq rdx, mm1"), a, b, 0, before);
            // SAFETY: leaves the x87 unit as it was found, empty.
            unsafe { std::arch::asm!("emms") };
            let mut mxcsr = before;
            let ours = $ours(b.into(), &mut mxcsr).map(u64::from);
            same(stringify!($name), (a, b, before), ours, mxcsr, &its, its.value.into());
        }
    )*};
}

#[test]
fn conversions_with_mmx_do_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(12);
    mmx_conversions!(random:
        cvtps2pi "cvtps2pi mm1, xmm2" false cvtps2pi::<false>;
        cvttps2pi "cvttps2pi mm1, xmm2" false cvtps2pi::<true>;
    );
    for _ in 0..ROUNDS / 2 {
        let (a, value, before) = (random.floats(false), random.vector() as u64, random.mxcsr());
        let its = native!("movq mm1, rdx\ncvtpi2ps xmm1, mm1", a, 0, value, before);
        // SAFETY: leaves the x87 unit as it was found, empty.
        unsafe { std::arch::asm!("emms") };
        let mut mxcsr = before;
        let ours = cvtpi2ps(a.into(), value.into(), &mut mxcsr);
        same(
            "cvtpi2ps",
            (a, value.into(), before),
            ours,
            mxcsr,
            &its,
            its.result,
        );
    }
}

macro_rules! to_integer {
    ($random:ident: $($text:literal $float:ty, $width:literal, $truncate:literal;)*) => {$(
        for _ in 0..ROUNDS {
            let double = <$float>::FRACTION == 52;
            let (b, before) = ($random.floats(double), $random.mxcsr());
            let its = native!($text, 0, b, 0, before);
            let mut mxcsr = before;
            let ours = cvt_to_integer::<$float, $width, $truncate>(b.into(), &mut mxcsr);
            let ours = ours.map(|value| if $width == 32 { u64::from(value as u32) } else { value as u64 });
            same($text, (0, b, before), ours, mxcsr, &its, its.value.into());
        }
    )*};
}

macro_rules! from_integer {
    ($random:ident: $($text:literal $float:ty, $type:ty;)*) => {$(
        for _ in 0..ROUNDS {
            let value = match $random.below(3) {
                0 => $random.next() >> $random.below(64),
                1 => ($random.next() >> $random.below(64)).wrapping_neg(),
                _ => $random.vector() as u64,
            };
            let (a, before) = ($random.floats(true), $random.mxcsr());
            let its = native!($text, a, 0, value, before);
            let mut mxcsr = before;
            let ours = cvtsi::<$float>(a.into(), i64::from(value as $type), &mut mxcsr);
            same($text, (a, value.into(), before), ours, mxcsr, &its, its.result);
        }
    )*};
}

#[test]
fn conversions_with_general_registers_do_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(13);
    to_integer!(random:
        "cvtss2si edx, xmm2" f32, 32, false;
        "cvtss2si rdx, xmm2" f32, 64, false;
        "cvttss2si edx, xmm2" f32, 32, true;
        "cvttss2si rdx, xmm2" f32, 64, true;
        "cvtsd2si edx, xmm2" f64, 32, false;
        "cvtsd2si rdx, xmm2" f64, 64, false;
        "cvttsd2si edx, xmm2" f64, 32, true;
        "cvttsd2si rdx, xmm2" f64, 64, true;
    );
    from_integer!(random:
        "cvtsi2ss xmm1, edx" f32, i32;
        "cvtsi2ss xmm1, rdx" f32, i64;
        "cvtsi2sd xmm1, edx" f64, i32;
        "cvtsi2sd xmm1, rdx" f64, i64;
    );
}

macro_rules! comparisons {
    ($random:ident: $($name:ident $float:ty, $quiet:literal;)*) => {$(
        for _ in 0..ROUNDS {
            let double = <$float>::FRACTION == 52;
            let (a, mut b, before) = ($random.floats(double), $random.floats(double), $random.mxcsr());
            if $random.below(4) == 0 {
                b = a;
            }
            let its = native!(concat!(stringify!($name), " xmm1, xmm2"), a, b, 0, before);
            let mut mxcsr = before;
            let ours = comi::<$float, $quiet>(a.into(), b.into(), &mut mxcsr).map(|ordering| {
                use std::cmp::Ordering as O;
                match ordering {
                    None => 0x45u8,
                    Some(O::Less) => 1,
                    Some(O::Equal) => 0x40,
                    Some(O::Greater) => 0,
                }
            });
            same(stringify!($name), (a, b, before), ours, mxcsr, &its, (its.flags & 0x8D5).into());
        }
    )*};
}

#[test]
fn comparisons_do_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(14);
    comparisons!(random:
        comiss f32, false;
        ucomiss f32, true;
        comisd f64, false;
        ucomisd f64, true;
    );
}

/// Whether the host's processor is Intel's.
fn is_intel() -> bool {
    static IS_INTEL: OnceLock<bool> = OnceLock::new();
    *IS_INTEL.get_or_init(|| {
        let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        facts.contains("GenuineIntel")
    })
}

/// `its` with the NaNs of `ours` where both have one, of elements of `bits`: which of several a sum keeps is up to the
/// processor's maker.
fn with_our_nans(ours: u128, its: u128, bits: u32) -> u128 {
    let ones = u128::MAX >> (128 - bits);
    // All bits of the exponent, and some below.
    let (sign, exponent) = (
        1 << (bits - 1),
        if bits == 32 { 0xFF << 23 } else { 0x7FF << 52 },
    );
    let is_nan = |element: u128| element & !sign > exponent;
    (0..128 / bits).fold(0, |all, index| {
        let at = |value: u128| value >> (index * bits) & ones;
        let is_other = is_nan(at(ours)) && is_nan(at(its));
        let element = if is_other { at(ours) } else { at(its) };
        all | element << (index * bits)
    })
}

fn with_immediate<const IMM: u8>(random: &mut Random) {
    macro_rules! check {
        ($name:ident, $double:literal, $ours:expr) => {
            check!($name, $double, $ours, |_, its| its);
        };
        ($name:ident, $double:literal, $ours:expr, $its:expr) => {
            for _ in 0..60 {
                let (a, mut b, before) = (random.floats($double), random.floats($double), random.mxcsr());
                if random.below(6) == 0 {
                    b = a;
                }
                let its = native!(concat!(stringify!($name), " xmm1, xmm2"), a, b, 0, before, imm IMM);
                let mut mxcsr = before;
                let ours = $ours(a.into(), b.into(), IMM, &mut mxcsr);
                let expected: fn(u128, u128) -> u128 = $its;
                let its_result = match &ours {
                    Ok(ours) => expected((*ours).into(), its.result),
                    Err(_) => its.result,
                };
                same(stringify!($name), (a, b, before), ours, mxcsr, &its, its_result);
            }
        };
    }
    macro_rules! check_sum {
        ($name:ident, $double:literal, $ours:expr, $bits:literal) => {
            check!(
                $name,
                $double,
                $ours,
                |ours: u128, its: u128| if is_intel() {
                    its
                } else {
                    with_our_nans(ours, its, $bits)
                }
            );
        };
    }
    if IMM < 8 {
        check!(cmpss, false, cmp::<f32, 1>);
        check!(cmpps, false, cmp::<f32, 4>);
        check!(cmpsd, true, cmp::<f64, 1>);
        check!(cmppd, true, cmp::<f64, 2>);
    }
    if IMM < 16 {
        check!(roundss, false, round::<f32, 1>);
        check!(roundps, false, round::<f32, 4>);
        check!(roundsd, true, round::<f64, 1>);
        check!(roundpd, true, round::<f64, 2>);
    }
    check_sum!(dpps, false, dpps, 32);
    check_sum!(dppd, true, dppd, 64);
}

#[test]
fn instructions_with_immediates_do_what_the_processor_does() {
    trap::install();
    let mut random = Random::new(15);
    for check in for_each_immediate!(with_immediate) {
        check(&mut random);
    }
}

#[test]
fn reciprocals_are_as_close_as_the_processors() {
    let mut random = Random::new(16);
    for _ in 0..ROUNDS {
        let (a, b) = (random.floats(false), random.floats(false));
        let (va, vb) = (Xmm::from(a), Xmm::from(b));
        for (ours, its) in [
            (reciprocal::<4>(va, vb), Xmm::from(xmm!(rcpps, a, b))),
            (reciprocal::<1>(va, vb), Xmm::from(xmm!(rcpss, a, b))),
            (reciprocal_root::<4>(va, vb), Xmm::from(xmm!(rsqrtps, a, b))),
            (reciprocal_root::<1>(va, vb), Xmm::from(xmm!(rsqrtss, a, b))),
        ] {
            for i in 0..4 {
                let (x, y): (f32, f32) = (ours.get(i), its.get(i));
                let close = f64::from(x) / f64::from(y) - 1.0;
                assert!(
                    x.to_bits() == y.to_bits() || close.abs() < 3.0 / 4096.0,
                    "{b:#x} element {i}: {x:e} {:#x}, not {y:e} {:#x}",
                    x.to_bits(),
                    y.to_bits()
                );
            }
        }
    }
}
