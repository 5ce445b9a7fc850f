//! Packed integer instructions, MMX and SSE.

use atoll_x86::simd::arithmetic::*;
use atoll_x86::simd::crc::crc32;
use atoll_x86::simd::shift::*;
use atoll_x86::simd::shuffle::*;
use atoll_x86::simd::{Mmx, Xmm};

use crate::native::{for_each_immediate, from_xmm, mmx, xmm};
use crate::random::Random;

const ROUNDS: u32 = 2000;

macro_rules! same {
    ($name:ident, $ours:expr, $its:expr, $($input:expr),+) => {{
        let (ours, its) = ($ours, $its);
        assert!(
            ours == its,
            "{}{:x?}: {ours:#x}, not {its:#x}", stringify!($name), ($($input,)+)
        );
    }};
}

macro_rules! sse {
    ($random:ident: $($name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($random.vector(), $random.vector());
            let ours = u128::from($name(Xmm::from(a), Xmm::from(b)));
            same!($name, ours, xmm!($name, a, b), a, b);
        }
    )*};
}

macro_rules! mmx_and_sse {
    ($random:ident: $($name:ident)*) => {
        sse!($random: $($name)*);
        $(
            for _ in 0..ROUNDS / 2 {
                let (a, b) = ($random.vector() as u64, $random.vector() as u64);
                let ours = u64::from($name(Mmx::from(a), Mmx::from(b)));
                same!($name, ours, mmx!($name, a, b), a, b);
            }
        )*
    };
}

#[test]
fn two_operand_instructions_do_what_the_processor_does() {
    let mut random = Random::new(1);
    mmx_and_sse!(random:
        paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw paddusb paddusw psubsb psubsw psubusb psubusw
        pmullw pmulhw pmulhuw pmulhrsw pmuludq pmaddwd pmaddubsw pavgb pavgw pminsw pminub pmaxsw pmaxub
        pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pand por pxor pandn psignb psignw psignd psadbw
        phaddw phaddd phaddsw phsubw phsubd phsubsw
        packsswb packuswb packssdw punpcklbw punpcklwd punpckldq punpckhbw punpckhwd punpckhdq pshufb
    );
    sse!(random:
        pmulld pmuldq pminsb pminsd pminuw pminud pmaxsb pmaxsd pmaxuw pmaxud pcmpeqq pcmpgtq packusdw
        punpcklqdq punpckhqdq
    );
}

macro_rules! unary {
    ($random:ident: $($name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($random.vector(), $random.vector());
            same!($name, u128::from($name(Xmm::from(b))), xmm!($name, a, b), a, b);
        }
    )*};
}

#[test]
fn one_operand_instructions_do_what_the_processor_does() {
    let mut random = Random::new(2);
    unary!(random:
        pabsb pabsw pabsd phminposuw movddup movshdup movsldup
        pmovsxbw pmovsxbd pmovsxbq pmovsxwd pmovsxwq pmovsxdq pmovzxbw pmovzxbd pmovzxbq pmovzxwd pmovzxwq pmovzxdq
    );
    for _ in 0..ROUNDS {
        let a = random.vector();
        same!(
            pabsb,
            u64::from(pabsb(Mmx::from(a as u64))),
            mmx!(pabsb, 0, a as u64),
            a
        );
        same!(
            pabsw,
            u64::from(pabsw(Mmx::from(a as u64))),
            mmx!(pabsw, 0, a as u64),
            a
        );
        same!(
            pabsd,
            u64::from(pabsd(Mmx::from(a as u64))),
            mmx!(pabsd, 0, a as u64),
            a
        );
        let vector = Xmm::from(a);
        same!(
            pmovmskb,
            u64::from(pmovmskb(vector)),
            from_xmm!(pmovmskb, r32, a),
            a
        );
        same!(
            movmskps,
            u64::from(movmskps(vector)),
            from_xmm!(movmskps, r32, a),
            a
        );
        same!(
            movmskpd,
            u64::from(movmskpd(vector)),
            from_xmm!(movmskpd, r32, a),
            a
        );
    }
}

macro_rules! shifts {
    ($random:ident: $($name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let a = $random.vector();
            let count = match $random.below(4) {
                0 => $random.next(),
                1 => 1 << $random.below(64),
                _ => $random.below(70),
            };
            let wide = u128::from(count) | u128::from($random.next()) << 64;
            same!($name, u128::from($name(Xmm::from(a), count)), xmm!($name, a, wide), a, count);
            let a = a as u64;
            same!($name, u64::from($name(Mmx::from(a), count)), mmx!($name, a, count), a, count);
        }
    )*};
}

#[test]
fn shifts_do_what_the_processor_does() {
    let mut random = Random::new(3);
    shifts!(random: psllw pslld psllq psrlw psrld psrlq psraw psrad);
}

fn immediates<const IMM: u8>(random: &mut Random) {
    for _ in 0..8 {
        let (a, b, c) = (random.vector(), random.vector(), random.vector());
        let (va, vb) = (Xmm::from(a), Xmm::from(b));
        macro_rules! check {
            ($name:ident($($argument:expr),*)) => {
                same!($name, u128::from($name($($argument),*)), xmm!($name, a, b, imm IMM), a, b, IMM)
            };
        }
        check!(pshufd(vb, IMM));
        check!(pshufhw(vb, IMM));
        check!(pshuflw(vb, IMM));
        check!(shufps(va, vb, IMM));
        check!(shufpd(va, vb, IMM));
        check!(palignr(va, vb, IMM));
        check!(blendps(va, vb, IMM));
        check!(blendpd(va, vb, IMM));
        check!(pblendw(va, vb, IMM));
        check!(mpsadbw(va, vb, IMM));
        check!(insertps(va, extract(vb, IMM >> 6), IMM));
        let (ma, mb) = (a as u64, b as u64);
        let (na, nb) = (Mmx::from(ma), Mmx::from(mb));
        same!(
            pshufw,
            u64::from(pshufw(nb, IMM)),
            mmx!(pshufw, ma, mb, imm IMM),
            mb,
            IMM
        );
        same!(
            palignr,
            u64::from(palignr(na, nb, IMM)),
            mmx!(palignr, ma, mb, imm IMM),
            ma,
            mb,
            IMM
        );
        macro_rules! extracts {
            ($name:ident, $type:ty, $class:ident) => {{
                let ours = u64::from(extract::<$type, 16>(va, IMM));
                same!($name, ours, from_xmm!($name, $class, a, imm IMM), a, IMM);
            }};
        }
        extracts!(pextrb, u8, r32);
        extracts!(pextrw, u16, r32);
        extracts!(pextrd, u32, r32);
        extracts!(pextrq, u64, r64);
        extracts!(extractps, u32, r32);
        same!(
            pblendvb,
            u128::from(pblendvb(va, vb, c.into())),
            xmm!(pblendvb, a, b, implied c),
            a,
            b,
            c
        );
        same!(
            blendvps,
            u128::from(blendvps(va, vb, c.into())),
            xmm!(blendvps, a, b, implied c),
            a,
            b,
            c
        );
        same!(
            blendvpd,
            u128::from(blendvpd(va, vb, c.into())),
            xmm!(blendvpd, a, b, implied c),
            a,
            b,
            c
        );
        byte_shifts_and_inserts::<IMM>(a, b as u64);
    }
}

fn byte_shifts_and_inserts<const IMM: u8>(a: u128, source: u64) {
    let vector = Xmm::from(a);
    macro_rules! with_gpr {
        ($name:ident, $text:literal, $ours:expr) => {{
            let mut its = 0u128;
            // SAFETY: reads and writes 16 bytes of locals through pointers to them; changes only declared registers.
            unsafe {
                std::arch::asm!(
                    "movdqu xmm1, [{a}]",
                    $text,
                    "movdqu [{its}], xmm1",
                    a = in(reg) &raw const a,
                    its = in(reg) &raw mut its,
                    s = in(reg) source,
                    i = const IMM,
                    out("xmm1") _,
                    options(nostack),
                );
            }
            same!($name, u128::from($ours), its, a, source, IMM);
        }};
    }
    with_gpr!(pslldq, "pslldq xmm1, {i} /* {s} */", pslldq(vector, IMM));
    with_gpr!(psrldq, "psrldq xmm1, {i} /* {s} */", psrldq(vector, IMM));
    with_gpr!(
        psllw,
        "psllw xmm1, {i} /* {s} */",
        psllw(vector, IMM.into())
    );
    with_gpr!(
        psrad,
        "psrad xmm1, {i} /* {s} */",
        psrad(vector, IMM.into())
    );
    with_gpr!(
        psrlq,
        "psrlq xmm1, {i} /* {s} */",
        psrlq(vector, IMM.into())
    );
    with_gpr!(
        pinsrb,
        "pinsrb xmm1, {s:e}, {i}",
        insert(vector, source as u8, IMM)
    );
    with_gpr!(
        pinsrw,
        "pinsrw xmm1, {s:e}, {i}",
        insert(vector, source as u16, IMM)
    );
    with_gpr!(
        pinsrd,
        "pinsrd xmm1, {s:e}, {i}",
        insert(vector, source as u32, IMM)
    );
    with_gpr!(
        pinsrq,
        "pinsrq xmm1, {s:r}, {i}",
        insert(vector, source, IMM)
    );
}

#[test]
fn every_immediate_does_what_the_processor_does() {
    let mut random = Random::new(4);
    for check in for_each_immediate!(immediates) {
        check(&mut random);
    }
}

#[test]
fn ptest_and_crc32_do_what_the_processor_does() {
    let mut random = Random::new(5);
    for _ in 0..ROUNDS {
        let (a, mut b) = (random.vector(), random.vector());
        match random.below(4) {
            0 => b &= a,
            1 => b &= !a,
            2 => b = 0,
            _ => {}
        }
        let (zero, carry): (u8, u8);
        // SAFETY: reads 16 bytes of locals through pointers to them; changes only declared registers and flags.
        unsafe {
            std::arch::asm!(
                "movdqu xmm1, [{a}]", "movdqu xmm2, [{b}]", "ptest xmm1, xmm2", "setz {z}", "setc {c}",
                a = in(reg) &raw const a, b = in(reg) &raw const b, z = out(reg_byte) zero, c = out(reg_byte) carry,
                out("xmm1") _, out("xmm2") _, options(nostack),
            );
        }
        assert_eq!(
            ptest(a.into(), b.into()),
            (zero != 0, carry != 0),
            "{a:#x} {b:#x}"
        );

        let (sum, source) = (a as u32, b as u64);
        let mut its = [u64::from(sum); 4];
        // SAFETY: changes only declared registers.
        unsafe {
            std::arch::asm!(
                "crc32 {w:e}, {s:l}", "crc32 {x:e}, {s:x}", "crc32 {y:e}, {s:e}", "crc32 {z:r}, {s:r}",
                w = inout(reg) its[0], x = inout(reg) its[1], y = inout(reg) its[2], z = inout(reg) its[3],
                s = in(reg) source, options(nostack, nomem),
            );
        }
        for (its, bytes) in its.into_iter().zip([1, 2, 4, 8]) {
            assert_eq!(
                u64::from(crc32(sum, source, bytes)),
                its,
                "{sum:#x} {source:#x} {bytes}"
            );
        }
    }
}
