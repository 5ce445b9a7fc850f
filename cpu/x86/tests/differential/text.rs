//! The string comparisons of SSE4.2.

use std::arch::asm;

use atoll_x86::simd::text::{Matches, explicit, implicit};

use crate::native::for_each_immediate;
use crate::random::Random;

/// Carry, zero, sign, overflow.
type Flags = (bool, bool, bool, bool);

fn flags(matches: &Matches) -> Flags {
    (matches.carry, matches.zero, matches.sign, matches.overflow)
}

fn split(flags: u64) -> Flags {
    (
        flags & 1 != 0,
        flags & 0x40 != 0,
        flags & 0x80 != 0,
        flags & 0x800 != 0,
    )
}

/// Few different characters, so that they match, and sometimes an end.
fn text(random: &mut Random) -> u128 {
    let ends = random.below(2) == 0;
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = match random.below(12) {
            0 if ends => 0,
            1 => 0x80,
            2 => 0xFF,
            other => (b'a' + (other as u8) % 3) & if random.below(4) == 0 { 0 } else { 0xFF },
        };
        if *byte == 0 && !ends {
            *byte = 1;
        }
    }
    u128::from_le_bytes(bytes)
}

macro_rules! native {
    ($op:literal, $a:ident, $b:ident, $lengths:expr) => {{
        let (index, flags): (u64, u64);
        let mut mask = 0u128;
        // SAFETY: reads and writes 16 bytes of locals through pointers to them; the stack is used for the flags only.
        unsafe {
            asm!(
                "movdqu xmm1, [{a}]",
                "movdqu xmm2, [{b}]",
                "pxor xmm0, xmm0",
                concat!($op, " {imm}"),
                "pushfq",
                "pop {flags}",
                "movdqu [{mask}], xmm0",
                a = in(reg) &raw const $a,
                b = in(reg) &raw const $b,
                mask = in(reg) &raw mut mask,
                flags = out(reg) flags,
                imm = const IMM,
                inout("rcx") 0u64 => index,
                in("rax") $lengths.0,
                in("rdx") $lengths.1,
                out("xmm0") _, out("xmm1") _, out("xmm2") _,
            );
        }
        (index, mask, split(flags))
    }};
}

fn strings<const IMM: u8>(random: &mut Random) {
    for _ in 0..40 {
        let (a, b) = (text(random), text(random));
        let length = |random: &mut Random| match random.below(8) {
            0 => random.next().cast_signed(),
            1 => i64::MIN,
            _ => random.below(40).cast_signed() - 20,
        };
        let lengths = (length(random), length(random));
        let ours = explicit(a.into(), b.into(), lengths, IMM);
        let (index, _, its) = native!(".byte 0x66, 0x48, 0x0F, 0x3A, 0x61, 0xCA,", a, b, lengths);
        assert_eq!(
            (u64::from(ours.index()), flags(&ours)),
            (index, its),
            "{a:x} {b:x} {lengths:?} {IMM:#x}"
        );
        let (_, mask, _) = native!(".byte 0x66, 0x48, 0x0F, 0x3A, 0x60, 0xCA,", a, b, lengths);
        assert_eq!(
            u128::from(ours.mask()),
            mask,
            "{a:x} {b:x} {lengths:?} {IMM:#x}"
        );

        let narrow = (i64::from(lengths.0 as i32), i64::from(lengths.1 as i32));
        let ours = explicit(a.into(), b.into(), narrow, IMM);
        let (index, _, its) = native!("pcmpestri xmm1, xmm2,", a, b, lengths);
        assert_eq!(
            (u64::from(ours.index()), flags(&ours)),
            (index, its),
            "{a:x} {b:x} {narrow:?} {IMM:#x}"
        );

        let ours = implicit(a.into(), b.into(), IMM);
        let (index, _, its) = native!("pcmpistri xmm1, xmm2,", a, b, lengths);
        assert_eq!(
            (u64::from(ours.index()), flags(&ours)),
            (index, its),
            "{a:x} {b:x} {IMM:#x}"
        );
        let (_, mask, _) = native!("pcmpistrm xmm1, xmm2,", a, b, lengths);
        assert_eq!(u128::from(ours.mask()), mask, "{a:x} {b:x} {IMM:#x}");
    }
}

#[test]
fn string_comparisons_do_what_the_processor_does() {
    let mut random = Random::new(6);
    for check in for_each_immediate!(strings) {
        check(&mut random);
    }
}
