//! x87's transcendental functions: to one unit in the last place of the processor's, exceptions as it has them.

use atoll_x86::x87::X87;

use crate::random::Random;
use crate::x87::native;

fn value(random: &mut Random, name: &str, index: usize) -> u128 {
    let any = random.extended();
    let bias = 16383;
    // Where results are not defined, processors are free.
    let field = (any >> 64) as u64 & 0x7FFF;
    let defined = !matches!(name, "f2xm1" | "fyl2xp1") || !(bias - 1..0x7FFF).contains(&field);
    if random.below(8) == 0 && (index != 0 || defined) {
        return any;
    }
    let significand = any & u128::from(u64::MAX) | 1 << 63;
    let exponent = match (name, index) {
        ("f2xm1" | "fyl2xp1", 0) => bias - 2 - random.below(70),
        ("fsin" | "fcos" | "fsincos" | "fptan", 0) => bias + 63 - random.below(100),
        _ => bias - 40 + random.below(80),
    };
    let sign = if name == "fyl2x" && index == 0 {
        0
    } else {
        random.below(2)
    };
    u128::from(sign << 15 | exponent) << 64 | significand
}

/// A number as an integer that grows by one from each encoding to the next.
fn order(bits: u128) -> i128 {
    let magnitude = (bits & ((1 << 79) - 1)).cast_signed();
    // The integer bit is no step.
    let exponent = magnitude >> 64;
    let significand = magnitude & i128::from(u64::MAX >> 1);
    let place = exponent << 63 | significand;
    if bits >> 79 & 1 != 0 { -place } else { place }
}

fn check(name: &str, ours: impl Fn(&mut X87), its: fn(&mut X87, &mut [u8; 16]) -> u64) {
    let mut random = Random::new(30);
    for round in 0..2500 {
        let mut before = X87 {
            tags: 0xFF,
            ..X87::default()
        };
        for index in 0..8 {
            before.registers[index] = value(&mut random, name, index);
        }
        before.tags = if round % 16 == 0 {
            random.next() as u8
        } else {
            0x7F
        };
        let (mut a, mut b) = (before, before);
        ours(&mut a);
        its(&mut b, &mut [0; 16]);
        // DE, ZE, IE, SF, C2, TOP.
        let mask = 0x3C47;
        assert_eq!(
            (a.tags, a.status & mask),
            (b.tags, b.status & mask),
            "{name} of {:x?}: {:x}, not {:x}",
            before.registers,
            a.st(0),
            b.st(0)
        );
        for index in 0..8 {
            let (x, y) = (a.st(index), b.st(index));
            let distance = (order(x) - order(y)).abs();
            assert!(
                x == y || (distance <= 1 && a.status & 0x20 != 0 && b.status & 0x20 != 0),
                "{name} of {:x?}: ST({index}) is {x:x}, not {y:x}: {distance} {:x} {:x}",
                before.registers,
                a.status,
                b.status
            );
        }
    }
}

#[test]
fn transcendental_functions_are_as_the_processors_to_one_unit() {
    check("f2xm1", X87::exponential, native!("f2xm1"));
    check("fyl2x", X87::logarithm, native!("fyl2x"));
    check("fyl2xp1", X87::logarithm_plus_one, native!("fyl2xp1"));
    check("fsin", X87::sine, native!("fsin"));
    check("fcos", X87::cosine, native!("fcos"));
    check("fsincos", X87::sine_cosine, native!("fsincos"));
    check("fptan", X87::tangent, native!("fptan"));
    check("fpatan", X87::arctangent, native!("fpatan"));
}
