//! Comparisons of 64-bit arguments by 32-bit instructions.
//!
//! `struct seccomp_data` (linux/seccomp.h) has argument `i` at offset 16 + 8·i, low word first.

use crate::tree::{AND, Instruction, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, RETURN};
use crate::{ArgRule, Operator};

/// Where a conditional jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The following instruction.
    Next,
    /// The comparison holds.
    Holds,
    /// It doesn't.
    Fails,
}

/// An instruction whose jumps are not distances yet.
struct Step {
    code: u16,
    constant: u32,
    when_true: Target,
    when_false: Target,
}

/// Instructions that return `action` when all of `conditions` hold and otherwise go on behind.
pub(crate) fn rule(conditions: &[ArgRule], action: u32) -> Vec<Instruction> {
    let parts: Vec<Vec<Step>> = conditions.iter().map(comparison).collect();
    let total: usize = parts.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(total + 1);
    let mut part_end = 0;
    for part in &parts {
        part_end += part.len();
        for step in part {
            let next = out.len() + 1;
            // A failed comparison goes behind the return, a held one to the next comparison.
            let distance = |target| {
                let to = match target {
                    Target::Next => next,
                    Target::Holds => part_end,
                    Target::Fails => total + 1,
                };
                u8::try_from(to - next).expect("six comparisons are at most 30 instructions")
            };
            out.push(Instruction {
                code: step.code,
                when_true: distance(step.when_true),
                when_false: distance(step.when_false),
                constant: step.constant,
            });
        }
    }
    out.push(Instruction::plain(RETURN, action));
    out
}

fn comparison(condition: &ArgRule) -> Vec<Step> {
    let low_offset = 16 + 8 * condition.index;
    let (high, low) = split(condition.value);
    let mut steps = Vec::with_capacity(6);
    let load = |offset| Step {
        code: LOAD,
        constant: offset,
        when_true: Target::Next,
        when_false: Target::Next,
    };
    let jump = |code, constant, when_true, when_false| Step {
        code,
        constant,
        when_true,
        when_false,
    };
    use Target::{Fails, Holds, Next};
    match condition.op {
        Operator::Equal | Operator::NotEqual => {
            let (same, different) = if condition.op == Operator::Equal {
                (Holds, Fails)
            } else {
                (Fails, Holds)
            };
            steps.push(load(low_offset + 4));
            steps.push(jump(JUMP_EQUAL, high, Next, different));
            steps.push(load(low_offset));
            steps.push(jump(JUMP_EQUAL, low, same, different));
        }
        Operator::MaskedEqual => {
            let (high_want, low_want) = split(condition.value_two);
            let and = |mask| Step {
                code: AND,
                constant: mask,
                when_true: Next,
                when_false: Next,
            };
            // A mask without high bits needs the high word only to fail.
            if high != 0 || high_want != 0 {
                steps.push(load(low_offset + 4));
                steps.push(and(high));
                steps.push(jump(JUMP_EQUAL, high_want, Next, Fails));
            }
            steps.push(load(low_offset));
            steps.push(and(low));
            steps.push(jump(JUMP_EQUAL, low_want, Holds, Fails));
        }
        op => {
            // Less is "not greater or equal", less or equal "not greater".
            let (greater, smaller) = match op {
                Operator::Greater | Operator::GreaterOrEqual => (Holds, Fails),
                _ => (Fails, Holds),
            };
            let low_code = match op {
                Operator::Greater | Operator::LessOrEqual => JUMP_GREATER,
                _ => JUMP_GREATER_EQUAL,
            };
            steps.push(load(low_offset + 4));
            steps.push(jump(JUMP_GREATER, high, greater, Next));
            steps.push(jump(JUMP_EQUAL, high, Next, smaller));
            steps.push(load(low_offset));
            steps.push(jump(low_code, low, greater, smaller));
        }
    }
    steps
}

fn split(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}
