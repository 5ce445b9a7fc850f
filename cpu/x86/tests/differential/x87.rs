//! The x87 unit: from any state, one instruction, the state after.

use atoll_x86::x87::{Arithmetic, Constant, Layout, Memory, Source, Width, X87};

use crate::random::Random;

const LAYOUT: Layout = Layout {
    wide: true,
    real: false,
};

/// State, memory operand, RFLAGS.
type Unit = (X87, [u8; 16], u64);

pub(crate) fn save(unit: &X87) -> [u8; 108] {
    let mut image = [0; 108];
    image[..28].copy_from_slice(&unit.environment(LAYOUT));
    image[28..].copy_from_slice(&unit.stack_image());
    image
}

pub(crate) fn restore(image: &[u8; 108]) -> X87 {
    let mut unit = X87::default();
    unit.load_environment(&image[..28], LAYOUT);
    let mut stack = [0; 80];
    stack.copy_from_slice(&image[28..]);
    unit.load_stack_image(&stack);
    unit
}

/// `$text` on the processor, with its memory operand at `[rdx]`.
macro_rules! native {
    ($text:expr) => {
        |unit: &mut X87, memory: &mut [u8; 16]| -> u64 {
            let mut image = crate::x87::save(unit);
            let flags: u64;
            // SAFETY: reads and writes locals through pointers to them; FNSAVE leaves the unit as it was found, empty, and
            // takes back exceptions before anything waits for them.
            unsafe {
                std::arch::asm!(
                    "frstor [rcx]",
                    // No flag set, parity included.
                    "mov eax, 1",
                    "test eax, eax",
                    $text,
                    "pushfq",
                    "pop rax",
                    "fnsave [rcx]",
                    in("rcx") image.as_mut_ptr(),
                    in("rdx") memory.as_mut_ptr(),
                    out("rax") flags,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            let tags = u16::from_le_bytes([image[8], image[9]]);
            *unit = crate::x87::restore(&image);
            assert_eq!(unit.tag_word(), tags, "tag word");
            flags
        }
    };
}

pub(crate) use native;

fn unit(random: &mut Random) -> X87 {
    let bits = random.next() as u16;
    let masks = match random.below(3) {
        0 => bits & 0x3F,
        _ => 0x3F,
    };
    let precision = [0, 2, 3, 3][random.below(4) as usize] << 8;
    let rounding = if random.below(2) == 0 {
        0
    } else {
        bits & 0xC00
    };
    let sticky = if random.below(2) == 0 {
        0
    } else {
        random.next() as u16 & masks
    };
    let tags = match random.below(8) {
        0 => random.next() as u8,
        1 => 0,
        2 => 0x7F,
        _ => 0xFF,
    };
    X87 {
        registers: std::array::from_fn(|_| random.extended()),
        control: precision | rounding | masks | 0x40,
        status: (random.next() as u16 & 0x7F00) | sticky,
        tags: if random.below(2) == 0 {
            tags
        } else {
            tags.rotate_left(bits.into())
        },
        ..X87::default()
    }
}

fn memory(random: &mut Random) -> [u8; 16] {
    match random.below(3) {
        0 => u128::from(random.float(52, 11)),
        1 => u128::from(random.float(23, 8)),
        _ => random.extended(),
    }
    .to_le_bytes()
}

const ROUNDS: u32 = 3000;

fn check(
    name: &str,
    random: &mut Random,
    make: impl Fn(&mut Random) -> X87,
    ours: impl Fn(&mut X87, &mut [u8; 16]) -> u64,
    its: impl Fn(&mut X87, &mut [u8; 16]) -> u64,
) {
    for _ in 0..ROUNDS {
        let (before, operand) = (make(random), memory(random));
        let mut a: Unit = (before, operand, 0);
        a.2 = ours(&mut a.0, &mut a.1);
        let mut b: Unit = (before, operand, 0);
        b.2 = its(&mut b.0, &mut b.1) & 0x45;
        let same = (a.0.control, a.0.status, a.0.tags, a.0.registers, a.1)
            == (b.0.control, b.0.status, b.0.tags, b.0.registers, b.1);
        // Flags count only where the instruction gives some.
        let same_flags = a.2 & 0x8000 == 0 || a.2 & 0x45 == b.2;
        assert!(
            same && same_flags,
            "{name} control {:#x} status {:#x} tags {:#x} memory {:x}\nbefore {:x?}\nours   {:x?} status {:#x} tags {:#x} memory {:x} {:#x}\nits    {:x?} status {:#x} tags {:#x} memory {:x} {:#x}",
            before.control,
            before.status,
            before.tags,
            u128::from_le_bytes(operand),
            stack(&before),
            stack(&a.0),
            a.0.status,
            a.0.tags,
            u128::from_le_bytes(a.1),
            a.2,
            stack(&b.0),
            b.0.status,
            b.0.tags,
            u128::from_le_bytes(b.1),
            b.2,
        );
    }
}

fn stack(unit: &X87) -> [u128; 8] {
    std::array::from_fn(|index| unit.st(index))
}

macro_rules! checks {
    ($random:ident: $($text:literal => $ours:expr;)*) => {$(
        check($text, &mut $random, unit, |unit: &mut X87, memory: &mut [u8; 16]| {
            ($ours)(unit, memory);
            0
        }, native!($text));
    )*};
}

fn single(memory: &[u8; 16]) -> Memory {
    Memory::single(u128::from_le_bytes(*memory) as u32)
}

fn double(memory: &[u8; 16]) -> Memory {
    Memory::double(u128::from_le_bytes(*memory) as u64)
}

fn integer(memory: &[u8; 16], bytes: usize) -> Memory {
    let value = u128::from_le_bytes(*memory) as i64;
    let unused = 64 - 8 * bytes as u32;
    Memory::integer(value << unused >> unused)
}

#[test]
fn arithmetic_does_what_the_processor_does() {
    use Arithmetic as A;
    use Source::{Memory as M, Register as R};
    let mut random = Random::new(20);
    type Operand<'a> = &'a [u8; 16];
    checks!(random:
        "fadd st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::Add, 0, R(1), false);
        "fmul st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::Mul, 0, R(1), false);
        "fsub st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::Sub, 0, R(1), false);
        "fsubr st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::SubReversed, 0, R(1), false);
        "fdiv st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::Div, 0, R(1), false);
        "fdivr st(0), st(1)" => |u: &mut X87, _: Operand| u.arithmetic(A::DivReversed, 0, R(1), false);
        "faddp st(2), st(0)" => |u: &mut X87, _: Operand| u.arithmetic(A::Add, 2, R(0), true);
        "fmulp st(2), st(0)" => |u: &mut X87, _: Operand| u.arithmetic(A::Mul, 2, R(0), true);
        // fsubp st(2), st(0) and fdivrp st(2), st(0), by their bytes: assemblers disagree on the names.
        ".byte 0xDE, 0xEA" => |u: &mut X87, _: Operand| u.arithmetic(A::Sub, 2, R(0), true);
        ".byte 0xDE, 0xF2" => |u: &mut X87, _: Operand| u.arithmetic(A::DivReversed, 2, R(0), true);
        "fadd dword ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::Add, 0, M(single(m)), false);
        "fmul qword ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::Mul, 0, M(double(m)), false);
        "fsub qword ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::Sub, 0, M(double(m)), false);
        "fdivr dword ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::DivReversed, 0, M(single(m)), false);
        "fidiv dword ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::Div, 0, M(integer(m, 4)), false);
        "fisubr word ptr [rdx]" => |u: &mut X87, m: Operand| u.arithmetic(A::SubReversed, 0, M(integer(m, 2)), false);
        "fsqrt" => |u: &mut X87, _: Operand| u.square_root();
        "fabs" => |u: &mut X87, _: Operand| u.absolute();
        "fchs" => |u: &mut X87, _: Operand| u.negate();
        "frndint" => |u: &mut X87, _: Operand| u.round_to_integer();
        "fscale" => |u: &mut X87, _: Operand| u.scale();
        "fxtract" => |u: &mut X87, _: Operand| u.extract();
        "fprem" => |u: &mut X87, _: Operand| u.remainder::<false>();
        "fprem1" => |u: &mut X87, _: Operand| u.remainder::<true>();
    );
}

#[test]
fn transfers_do_what_the_processor_does() {
    let mut random = Random::new(21);
    type Operand<'a> = &'a mut [u8; 16];
    fn put<const N: usize>(
        memory: &mut [u8; 16],
        unit: &mut X87,
        bytes: Option<[u8; N]>,
        pop: bool,
    ) {
        if let Some(bytes) = bytes {
            memory[..N].copy_from_slice(&bytes);
            if pop {
                unit.pop();
            }
        }
    }
    fn ten(value: Option<u128>) -> Option<[u8; 10]> {
        value.map(|value| std::array::from_fn(|index| value.to_le_bytes()[index]))
    }
    checks!(random:
        "fnop" => |_: &mut X87, _: Operand| ();
        "fld dword ptr [rdx]" => |u: &mut X87, m: Operand| u.load(single(m));
        "fld qword ptr [rdx]" => |u: &mut X87, m: Operand| u.load(double(m));
        "fld tbyte ptr [rdx]" => |u: &mut X87, m: Operand| u.load_extended(u128::from_le_bytes(*m));
        "fild word ptr [rdx]" => |u: &mut X87, m: Operand| u.load(integer(m, 2));
        "fild dword ptr [rdx]" => |u: &mut X87, m: Operand| u.load(integer(m, 4));
        "fild qword ptr [rdx]" => |u: &mut X87, m: Operand| u.load(integer(m, 8));
        "fld st(2)" => |u: &mut X87, _: Operand| u.load_register(2);
        "fld1" => |u: &mut X87, _: Operand| u.load_constant(Constant::One);
        "fldz" => |u: &mut X87, _: Operand| u.load_constant(Constant::Zero);
        "fldpi" => |u: &mut X87, _: Operand| u.load_constant(Constant::Pi);
        "fldl2t" => |u: &mut X87, _: Operand| u.load_constant(Constant::Log2Of10);
        "fldl2e" => |u: &mut X87, _: Operand| u.load_constant(Constant::Log2OfE);
        "fldlg2" => |u: &mut X87, _: Operand| u.load_constant(Constant::Log10Of2);
        "fldln2" => |u: &mut X87, _: Operand| u.load_constant(Constant::LnOf2);
        "fst dword ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_single(); put(m, u, v.map(u32::to_le_bytes), false); };
        "fstp qword ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_double(); put(m, u, v.map(u64::to_le_bytes), true); };
        "fstp tbyte ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_extended(); put(m, u, ten(v), true); };
        "fst st(3)" => |u: &mut X87, _: Operand| u.store_register(3, false);
        "fstp st(3)" => |u: &mut X87, _: Operand| u.store_register(3, true);
        "fist word ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_integer(Width::Word, false); put(m, u, v.map(|v| (v as i16).to_le_bytes()), false); };
        "fistp dword ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_integer(Width::Doubleword, false); put(m, u, v.map(|v| (v as i32).to_le_bytes()), true); };
        "fistp qword ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_integer(Width::Quadword, false); put(m, u, v.map(i64::to_le_bytes), true); };
        "fisttp qword ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_integer(Width::Quadword, true); put(m, u, v.map(i64::to_le_bytes), true); };
        "fisttp word ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_integer(Width::Word, true); put(m, u, v.map(|v| (v as i16).to_le_bytes()), true); };
        "fbstp tbyte ptr [rdx]" => |u: &mut X87, m: Operand| { let v = u.store_decimal(); put(m, u, v, true); };
        "fxch st(3)" => |u: &mut X87, _: Operand| u.exchange(3);
        "ffree st(2)" => |u: &mut X87, _: Operand| u.free(2);
        "fincstp" => |u: &mut X87, _: Operand| u.increment_top();
        "fdecstp" => |u: &mut X87, _: Operand| u.decrement_top();
        "fninit" => |u: &mut X87, _: Operand| u.initialise();
    );
}

#[test]
fn decimal_loads_do_what_the_processor_does() {
    let mut random = Random::new(22);
    let its = native!("fbld [rdx]");
    for _ in 0..ROUNDS {
        let mut bytes = [0; 16];
        for byte in &mut bytes[..9] {
            *byte = (random.below(10) << 4 | random.below(10)) as u8;
        }
        bytes[random.below(9) as usize..9].fill(0);
        bytes[9] = random.next() as u8;
        let before = unit(&mut random);
        let (mut a, mut b) = (before, before);
        a.load(Memory::decimal(std::array::from_fn(|index| bytes[index])));
        its(&mut b, &mut bytes);
        assert_eq!(
            (a.status, a.tags, a.registers),
            (b.status, b.tags, b.registers),
            "{bytes:x?}"
        );
    }
}

#[test]
fn comparisons_do_what_the_processor_does() {
    use Source::{Memory as M, Register as R};
    let mut random = Random::new(23);
    type Operand<'a> = &'a [u8; 16];
    checks!(random:
        "fcom st(1)" => |u: &mut X87, _: Operand| u.compare(R(1), false, 0);
        "fcomp st(1)" => |u: &mut X87, _: Operand| u.compare(R(1), false, 1);
        "fcompp" => |u: &mut X87, _: Operand| u.compare(R(1), false, 2);
        "fucom st(1)" => |u: &mut X87, _: Operand| u.compare(R(1), true, 0);
        "fucompp" => |u: &mut X87, _: Operand| u.compare(R(1), true, 2);
        "fcom dword ptr [rdx]" => |u: &mut X87, m: Operand| u.compare(M(single(m)), false, 0);
        "fcomp qword ptr [rdx]" => |u: &mut X87, m: Operand| u.compare(M(double(m)), false, 1);
        "ficom word ptr [rdx]" => |u: &mut X87, m: Operand| u.compare(M(integer(m, 2)), false, 0);
        "ftst" => |u: &mut X87, _: Operand| u.test();
        "fxam" => |u: &mut X87, _: Operand| u.examine();
        "fcmovnu st(0), st(1)" => |u: &mut X87, _: Operand| u.move_if(true, 1);
    );
    // TEST left CF clear, so that the condition does not hold.
    check(
        "fcmovb",
        &mut random,
        unit,
        |u, _| {
            u.move_if(false, 1);
            0
        },
        native!("fcmovb st(0), st(1)"),
    );
    for (name, quiet, pop, its) in [
        (
            "fcomi",
            false,
            false,
            native!("fcomi st(0), st(1)") as fn(&mut X87, &mut [u8; 16]) -> u64,
        ),
        ("fucomi", true, false, native!("fucomi st(0), st(1)")),
        ("fcomip", false, true, native!("fcomip st(0), st(1)")),
        ("fucomip", true, true, native!("fucomip st(0), st(1)")),
    ] {
        check(
            name,
            &mut random,
            unit,
            |u, _| 0x8000 | u.compare_into_flags(1, quiet, pop),
            its,
        );
    }
}
