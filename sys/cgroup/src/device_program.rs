//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The program sees kind and access in one word, major and minor in two more, and answers 1 (allow)
//! or 0. Rules are tried from the last to the first, so that the last matching rule wins.

use crate::devices::{DeviceKind, DeviceRule, effective};

/// One eBPF instruction: `struct bpf_insn` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    /// Operation.
    pub(crate) code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub(crate) registers: u8,
    /// Jump distance or memory offset.
    pub(crate) offset: i16,
    /// Constant.
    pub(crate) immediate: i32,
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_W | BPF_MEM
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const JUMP_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_DIFFERENT: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// Registers: the context and scratch, kind, access, major, minor.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const ALL_ACCESS: u8 = 7;

fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// Compiles `rules` (OCI order: the last match wins; none matching: what the last rule about all
/// devices says).
pub(crate) fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let (default_allow, rest) = effective(rules);
    let mut program = vec![
        instruction(LOAD_WORD, KIND | CONTEXT << 4, 0, 0),
        instruction(MOVE_REGISTER, ACCESS | KIND << 4, 0, 0),
        instruction(AND, KIND, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 16),
        instruction(LOAD_WORD, MAJOR | CONTEXT << 4, 4, 0),
        instruction(LOAD_WORD, MINOR | CONTEXT << 4, 8, 0),
    ];
    for rule in merged(rest).iter().rev() {
        push_rule(&mut program, rule);
    }
    push_verdict(&mut program, default_allow);
    program
}

/// Allow rules for the same device become one, so that `r` and `w` apart allow `rw` together.
fn merged(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    let mut out: Vec<DeviceRule> = Vec::new();
    for rule in rules {
        let since_deny = out
            .iter()
            .rposition(|seen| !seen.allow)
            .map_or(0, |at| at + 1);
        let same = out[since_deny..].iter_mut().find(|seen| {
            rule.allow && (seen.kind, seen.major, seen.minor) == (rule.kind, rule.major, rule.minor)
        });
        match same {
            Some(seen) => {
                seen.access.read |= rule.access.read;
                seen.access.write |= rule.access.write;
                seen.access.mknod |= rule.access.mknod;
            }
            None => out.push(*rule),
        }
    }
    out
}

fn push_rule(program: &mut Vec<Instruction>, rule: &DeviceRule) {
    let mut block = Vec::with_capacity(8);
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => block.push(instruction(JUMP_DIFFERENT, KIND, 0, 1)),
        DeviceKind::Character => block.push(instruction(JUMP_DIFFERENT, KIND, 0, 2)),
    }
    let bits = rule.access.bits();
    if bits != ALL_ACCESS {
        // An allow rule must cover the whole request, a deny rule any part of it.
        let (mask, jump) = if rule.allow {
            (ALL_ACCESS & !bits, JUMP_DIFFERENT)
        } else {
            (bits, JUMP_EQUAL)
        };
        block.push(instruction(MOVE_REGISTER, CONTEXT | ACCESS << 4, 0, 0));
        block.push(instruction(AND, CONTEXT, 0, i32::from(mask)));
        block.push(instruction(jump, CONTEXT, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            // Majors have 12 bits and minors 20: anything larger never matches.
            let number = i32::try_from(number).unwrap_or(-1);
            block.push(instruction(JUMP_DIFFERENT, register, 0, number));
        }
    }
    push_verdict(&mut block, rule.allow);
    let len = block.len();
    for (at, step) in block.iter_mut().enumerate() {
        if matches!(step.code, JUMP_DIFFERENT | JUMP_EQUAL) {
            step.offset =
                i16::try_from(len - at - 1).expect("a rule has at most nine instructions");
        }
    }
    program.extend(block);
}

fn push_verdict(program: &mut Vec<Instruction>, allow: bool) {
    program.push(instruction(MOVE, 0, 0, i32::from(allow)));
    program.push(instruction(EXIT, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceAccess;
    use proptest::prelude::*;

    /// Runs the few instructions [`compile`] uses.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let step = program[at];
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            let constant = i64::from(step.immediate).cast_unsigned();
            at += 1;
            let jump = usize::try_from(step.offset).unwrap();
            match step.code {
                LOAD_WORD => registers[to] = u64::from(context[jump / 4]),
                AND => registers[to] = (registers[to] & constant) & 0xffff_ffff,
                SHIFT_RIGHT => registers[to] >>= constant,
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE => registers[to] = constant,
                JUMP_EQUAL if registers[to] == constant => at += jump,
                JUMP_DIFFERENT if registers[to] != constant => at += jump,
                JUMP_EQUAL | JUMP_DIFFERENT => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// The rules read one by one.
    fn naive(rules: &[DeviceRule], kind: u32, access: u8, major: u32, minor: u32) -> bool {
        let (default_allow, rest) = effective(rules);
        for rule in merged(rest).iter().rev() {
            let kind_fits = match rule.kind {
                DeviceKind::All => true,
                DeviceKind::Block => kind == 1,
                DeviceKind::Character => kind == 2,
            };
            let bits = rule.access.bits();
            let access_fits = if rule.allow {
                access & !bits == 0
            } else {
                access & bits != 0
            };
            if kind_fits
                && access_fits
                && rule.major.is_none_or(|number| number == major)
                && rule.minor.is_none_or(|number| number == minor)
            {
                return rule.allow;
            }
        }
        default_allow
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        (
            any::<bool>(),
            0..9u8,
            proptest::option::of(0..3u32),
            proptest::option::of(0..3u32),
            1..8u8,
        )
            .prop_map(|(allow, kind, major, minor, bits)| DeviceRule {
                allow,
                kind: match kind {
                    0 => DeviceKind::All,
                    1..=4 => DeviceKind::Block,
                    _ => DeviceKind::Character,
                },
                major,
                minor,
                access: DeviceAccess {
                    mknod: bits & 1 != 0,
                    read: bits & 2 != 0,
                    write: bits & 4 != 0,
                },
            })
    }

    proptest! {
        #[test]
        fn program_decides_as_the_rules_say(
            rules in proptest::collection::vec(any_rule(), 0..12),
            kind in 1..3u32,
            access in 1..8u8,
            major in 0..3u32,
            minor in 0..3u32,
        ) {
            prop_assert_eq!(
                run(&compile(&rules), kind, u32::from(access), major, minor),
                naive(&rules, kind, access, major, minor)
            );
        }
    }

    #[test]
    fn default_rules_allow_null_and_nothing_else_of_memory() {
        let mut rules = vec![DeviceRule::DENY_ALL];
        rules.extend(DeviceRule::defaults());
        let program = compile(&rules);
        assert!(run(&program, 2, 6, 1, 3));
        assert!(!run(&program, 2, 2, 1, 1));
        assert!(run(&program, 2, 1, 1, 1));
        assert!(!run(&program, 1, 2, 8, 0));
    }
}
