//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (Intel SDM vol. 1 §5.12 "Comparison and string instructions",
//! vol. 2 §4.1 "Imm8 control byte operation for PCMPESTRI / PCMPESTRM / PCMPISTRI / PCMPISTRM").

use super::vector::{Vector, Xmm};

/// What a string comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matches {
    /// A bit an element of the second operand: intermediate result 2.
    bits: u16,
    /// Elements in an operand: 8 or 16.
    count: u32,
    control: u8,
    /// CF: something matched.
    pub carry: bool,
    /// ZF: the second operand ends within the register.
    pub zero: bool,
    /// SF: the first operand ends within the register.
    pub sign: bool,
    /// OF: the first element matched.
    pub overflow: bool,
}

impl Matches {
    /// What PCMPxSTRI puts into ECX.
    #[must_use]
    pub fn index(&self) -> u32 {
        if self.bits == 0 {
            self.count
        } else if self.control & 0x40 != 0 {
            15 - self.bits.leading_zeros()
        } else {
            self.bits.trailing_zeros()
        }
    }

    /// What PCMPxSTRM puts into XMM0.
    #[must_use]
    pub fn mask(&self) -> Xmm {
        if self.control & 0x40 == 0 {
            return Xmm::from(u128::from(self.bits));
        }
        let is_set = |i| self.bits >> i & 1 != 0;
        if self.count == 8 {
            Vector::build(|i| if is_set(i) { u16::MAX } else { 0 })
        } else {
            Vector::build(|i| if is_set(i) { u8::MAX } else { 0 })
        }
    }
}

/// Compares strings of explicit length.
///
/// * `lengths`: RAX and RDX, sign-extended when the instruction takes EAX and EDX.
#[must_use]
pub fn explicit(a: Xmm, b: Xmm, lengths: (i64, i64), control: u8) -> Matches {
    let count = count(control) as u64;
    let length = |value: i64| value.unsigned_abs().min(count) as u32;
    compare(a, b, (length(lengths.0), length(lengths.1)), control)
}

/// Compares strings that end at the first element that is zero.
#[must_use]
pub fn implicit(a: Xmm, b: Xmm, control: u8) -> Matches {
    let count = count(control);
    let length = |text: Xmm| {
        (0..count)
            .find(|&i| element(text, i, control) == 0)
            .unwrap_or(count) as u32
    };
    compare(a, b, (length(a), length(b)), control)
}

fn count(control: u8) -> usize {
    if control & 1 != 0 { 8 } else { 16 }
}

/// Element `index` in the format that `control` names.
#[inline(always)]
fn element(text: Xmm, index: usize, control: u8) -> i32 {
    match control & 3 {
        0 => text.get::<u8>(index).into(),
        1 => text.get::<u16>(index).into(),
        2 => text.get::<i8>(index).into(),
        _ => text.get::<i16>(index).into(),
    }
}

fn compare(a: Xmm, b: Xmm, (a_length, b_length): (u32, u32), control: u8) -> Matches {
    let count = count(control) as u32;
    let all = (1u32 << count) - 1;
    let a_valid = (1u32 << a_length) - 1;
    let b_valid = (1u32 << b_length) - 1;
    let at_a = |i: u32| element(a, i as usize, control);
    let at_b = |i: u32| element(b, i as usize, control);
    let mut found = 0u32;
    match control >> 2 & 3 {
        // Equal any: b's element is one of a's.
        0 => {
            for j in 0..b_length {
                let one = (0..a_length).any(|i| at_a(i) == at_b(j));
                found |= u32::from(one) << j;
            }
        }
        // Ranges: pairs of a's elements are bounds.
        1 => {
            for j in 0..b_length {
                let within = |i: u32| at_a(2 * i) <= at_b(j) && at_b(j) <= at_a(2 * i + 1);
                found |= u32::from((0..a_length / 2).any(within)) << j;
            }
        }
        // Equal each: elements after both ends are equal.
        2 => {
            for j in 0..count {
                let equal = match (j < a_length, j < b_length) {
                    (true, true) => at_a(j) == at_b(j),
                    (false, false) => true,
                    _ => false,
                };
                found |= u32::from(equal) << j;
            }
        }
        // Equal ordered: a begins here in b.
        _ => {
            for j in 0..count {
                let begins = (0..a_length.min(count - j))
                    .all(|i| i + j < b_length && at_a(i) == at_b(i + j));
                found |= u32::from(begins) << j;
            }
        }
    }
    let inverted = match control >> 4 & 3 {
        1 => !found & all,
        3 => found ^ b_valid,
        _ => found,
    };
    Matches {
        bits: inverted as u16,
        count,
        control,
        carry: inverted != 0,
        zero: b_valid != all,
        sign: a_valid != all,
        overflow: inverted & 1 != 0,
    }
}
