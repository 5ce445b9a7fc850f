//! Asking the processor: macros that wrap one instruction in assembly.

/// `$op xmm1, xmm2` and an immediate: what becomes of `$a` in xmm1, with `$b` in xmm2 and `$implied` in xmm0.
macro_rules! xmm {
    ($op:ident, $a:expr, $b:expr $(, imm $imm:expr)? $(, implied $implied:expr)?) => {{
        let (a, b): (u128, u128) = ($a, $b);
        let implied: u128 = 0 $(+ $implied)?;
        let mut result = 0u128;
        // SAFETY: reads and writes 16 bytes of locals through pointers to them; changes only declared registers.
        unsafe {
            std::arch::asm!(
                "movdqu xmm0, [{implied}]",
                "movdqu xmm1, [{a}]",
                "movdqu xmm2, [{b}]",
                xmm!(@text $op xmm1 xmm2 $(, $imm)?),
                "movdqu [{result}], xmm1",
                a = in(reg) &raw const a,
                b = in(reg) &raw const b,
                implied = in(reg) &raw const implied,
                result = in(reg) &raw mut result,
                $(imm = const $imm,)?
                out("xmm0") _,
                out("xmm1") _,
                out("xmm2") _,
                options(nostack),
            );
        }
        result
    }};
    (@text $op:ident $a:ident $b:ident, $imm:expr) => {
        concat!(stringify!($op), " ", stringify!($a), ", ", stringify!($b), ", {imm}")
    };
    (@text $op:ident $a:ident $b:ident) => {
        concat!(stringify!($op), " ", stringify!($a), ", ", stringify!($b))
    };
}

/// The same with MMX registers.
macro_rules! mmx {
    ($op:ident, $a:expr, $b:expr $(, imm $imm:expr)?) => {{
        let (a, b): (u64, u64) = ($a, $b);
        let mut result = 0u64;
        // SAFETY: reads and writes 8 bytes of locals through pointers to them; EMMS leaves the x87 unit as it was found,
        // empty.
        unsafe {
            std::arch::asm!(
                "movq mm1, [{a}]",
                "movq mm2, [{b}]",
                xmm!(@text $op mm1 mm2 $(, $imm)?),
                "movq [{result}], mm1",
                "emms",
                a = in(reg) &raw const a,
                b = in(reg) &raw const b,
                result = in(reg) &raw mut result,
                $(imm = const $imm,)?
                out("mm1") _,
                out("mm2") _,
                options(nostack),
            );
        }
        result
    }};
}

/// A general register out of an xmm register.
macro_rules! from_xmm {
    ($op:ident, $class:ident, $a:expr $(, imm $imm:expr)?) => {{
        let a: u128 = $a;
        let mut result = 0u64;
        // SAFETY: reads 16 bytes of a local through a pointer to it; changes only declared registers.
        unsafe {
            std::arch::asm!(
                "movdqu xmm1, [{a}]",
                from_xmm!(@text $op $class $(, $imm)?),
                a = in(reg) &raw const a,
                result = inout(reg) result,
                $(imm = const $imm,)?
                out("xmm1") _,
                options(nostack),
            );
        }
        result
    }};
    (@text $op:ident r32, $imm:expr) => { concat!(stringify!($op), " {result:e}, xmm1, {imm}") };
    (@text $op:ident r64, $imm:expr) => { concat!(stringify!($op), " {result:r}, xmm1, {imm}") };
    (@text $op:ident r32) => { concat!(stringify!($op), " {result:e}, xmm1") };
    (@text $op:ident r64) => { concat!(stringify!($op), " {result:r}, xmm1") };
}

/// `$functions` becomes an array of 256 instances of `$function`, one for each immediate byte.
macro_rules! for_each_immediate {
    ($function:ident) => {
        for_each_immediate!(@high $function; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@high $function:ident; $($high:literal)*) => {
        [$(
            $function::<{ $high * 16 }>, $function::<{ $high * 16 + 1 }>,
            $function::<{ $high * 16 + 2 }>, $function::<{ $high * 16 + 3 }>,
            $function::<{ $high * 16 + 4 }>, $function::<{ $high * 16 + 5 }>,
            $function::<{ $high * 16 + 6 }>, $function::<{ $high * 16 + 7 }>,
            $function::<{ $high * 16 + 8 }>, $function::<{ $high * 16 + 9 }>,
            $function::<{ $high * 16 + 10 }>, $function::<{ $high * 16 + 11 }>,
            $function::<{ $high * 16 + 12 }>, $function::<{ $high * 16 + 13 }>,
            $function::<{ $high * 16 + 14 }>, $function::<{ $high * 16 + 15 }>,
        )*]
    };
}

pub(crate) use {for_each_immediate, from_xmm, mmx, xmm};
