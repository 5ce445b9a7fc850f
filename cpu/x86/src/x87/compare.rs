//! FCOM, FUCOM, FCOMI, FUCOMI, FTST, FXAM, and FCMOVcc.

use std::cmp::Ordering;

use crate::x87::arithmetic::Source;
use crate::x87::number::{Class, Extended, IE};
use crate::x87::unit::{C0, C1, C2, C3, X87};

/// How two numbers compare (`None`: unordered), and the exceptions of it.
fn compare(a: &Extended, b: &Extended, quiet: bool) -> (Option<Ordering>, u16) {
    use Class as C;
    if a.is_unsupported() || b.is_unsupported() {
        return (None, IE);
    }
    if a.is_nan() || b.is_nan() {
        let signalling = a.class == C::Signalling || b.class == C::Signalling;
        return (None, if signalling || !quiet { IE } else { 0 });
    }
    // A number as sign and a magnitude that orders.
    let magnitude = |operand: &Extended| match operand.class {
        C::Finite(number) => (1, number.exponent, number.significand),
        C::Infinity => (2, 0, 0),
        _ => (0, 0, 0),
    };
    let (x, y) = (magnitude(a), magnitude(b));
    let order = match (a.negative, b.negative) {
        _ if a.is_zero() && b.is_zero() => Ordering::Equal,
        (false, false) => x.cmp(&y),
        (true, true) => y.cmp(&x),
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
    };
    (Some(order), a.flag() | b.flag())
}

impl X87 {
    /// Compares ST(0); whether an unmasked exception forbids to pop.
    fn compared(&mut self, source: Source, quiet: bool) -> (Option<Ordering>, bool) {
        let (Some(a), Some(b)) = (self.occupied(0), self.source(source)) else {
            return (None, self.stack_underflow());
        };
        let (order, flags) = compare(&a, &b, quiet);
        (order, self.raise(flags))
    }

    /// FCOM; `quiet` is FUCOM: quiet NaNs raise nothing. Pops `pops` registers.
    pub fn compare(&mut self, source: Source, quiet: bool, pops: u32) {
        let (order, stays) = self.compared(source, quiet);
        let conditions = match order {
            None => C3 | C2 | C0,
            Some(Ordering::Less) => C0,
            Some(Ordering::Equal) => C3,
            Some(Ordering::Greater) => 0,
        };
        // A stack underflow has cleared C1, too.
        self.status = (self.status & !(C0 | C1 | C2 | C3)) | conditions;
        if !stays {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    /// FCOMI; `quiet` is FUCOMI. ZF, PF and CF in their places in RFLAGS.
    pub fn compare_into_flags(&mut self, index: usize, quiet: bool, pop: bool) -> u64 {
        let (order, stays) = self.compared(Source::Register(index), quiet);
        if pop && !stays {
            self.pop();
        }
        match order {
            None => 0x45,
            Some(Ordering::Less) => 1,
            Some(Ordering::Equal) => 0x40,
            Some(Ordering::Greater) => 0,
        }
    }

    /// FTST: compares ST(0) with zero.
    pub fn test(&mut self) {
        let zero = Source::Memory(crate::x87::arithmetic::Memory {
            bits: 0,
            denormal: false,
        });
        self.compare(zero, false, 0);
    }

    /// FXAM: what ST(0) is.
    pub fn examine(&mut self) {
        let operand = Extended::new(self.st(0));
        let class = match operand.class {
            _ if self.is_empty(0) => C3 | C0,
            Class::Unsupported => 0,
            Class::Quiet | Class::Signalling => C0,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Finite(_) if operand.denormal => C3 | C2,
            Class::Finite(_) => C2,
        };
        let sign = if operand.negative { C1 } else { 0 };
        self.status = (self.status & !(C0 | C1 | C2 | C3)) | class | sign;
    }

    /// FCMOVcc: ST(0) = ST(`index`) when `condition` holds.
    pub fn move_if(&mut self, condition: bool, index: usize) {
        if self.is_empty(0) || self.is_empty(index) {
            return self.underflow_into(0, false);
        }
        if condition {
            self.set_st(0, self.st(index));
        }
    }
}
