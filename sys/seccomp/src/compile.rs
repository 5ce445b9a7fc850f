//! Profile → program.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{
    Assembler, Body, Instruction, JUMP_EQUAL, JUMP_GREATER_EQUAL, LOAD, Place, RETURN, Range,
};
use crate::{Action, Arch, ArgRule, Error, Profile, SyscallRule, argument, syscall_number};

/// Set in the numbers of x32 calls, which share x86-64's architecture value.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` of linux/audit.h.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Largest program the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<[u8; 8]>,
    flags: u64,
    notifies: bool,
}

impl Program {
    /// The instructions, as `struct sock_filter` in memory.
    pub fn instructions(&self) -> &[[u8; 8]] {
        &self.instructions
    }

    /// Flags for seccomp(2) without `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Whether some call is decided by a listener, so that installing must ask for one.
    pub fn notifies(&self) -> bool {
        self.notifies
    }
}

/// Compiles `profile` for a machine of architecture `native`.
///
/// Calls of architectures the profile doesn't name end the thread. When the default action refuses,
/// calls newer than any the profile names fail with `ENOSYS` instead, so that programs fall back
/// to older calls (runc does the same).
///
/// # Errors
/// [`Error`] for a profile that contradicts itself or is too long; [`Error::Architecture`] unless
/// `native` is [`Arch::X86_64`].
pub fn compile(profile: &Profile, native: Arch) -> Result<Program, Error> {
    if native != Arch::X86_64 {
        return Err(Error::Architecture(format!("{native:?}")));
    }
    check(profile)?;
    let has = |arch| profile.architectures.contains(&arch);
    let default = default_value(profile);
    let bad_arch = Action::Kill.value(0);
    let mut code = Assembler::default();

    let others = if has(Arch::X86) {
        section(&mut code, profile, Arch::X86);
        let x86 = code.push(Instruction::plain(LOAD, NUMBER_OFFSET));
        let bad = code.returns(bad_arch);
        code.branch(JUMP_EQUAL, AUDIT_I386, x86, bad)
    } else {
        code.returns(bad_arch)
    };
    let x32 = if has(Arch::X32) {
        section(&mut code, profile, Arch::X32)
    } else {
        // The tracer's -1 (skip this call) has the x32 bit too but is no x32 call.
        let skipped = code.returns(default);
        let bad = code.returns(bad_arch);
        code.branch(JUMP_EQUAL, u32::MAX, skipped, bad)
    };
    let x86_64 = section(&mut code, profile, Arch::X86_64);
    code.branch(JUMP_GREATER_EQUAL, X32_BIT, x32, x86_64);
    let own = code.push(Instruction::plain(LOAD, NUMBER_OFFSET));
    code.branch(JUMP_EQUAL, AUDIT_X86_64, own, others);
    let entry = code.push(Instruction::plain(LOAD, ARCH_OFFSET));
    let program = code.finish(entry);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(program.len()));
    }
    Ok(Program {
        instructions: program.into_iter().map(Instruction::bytes).collect(),
        flags: profile.flags.iter().fold(0, |bits, flag| bits | flag.bit()),
        notifies: profile
            .syscalls
            .iter()
            .any(|rule| rule.action == Action::Notify),
    })
}

fn check(profile: &Profile) -> Result<(), Error> {
    let errno = |name: &str, errno: Option<u32>| match errno {
        Some(errno) if errno > 4095 => Err(Error::Errno {
            name: name.to_owned(),
            errno,
        }),
        _ => Ok(()),
    };
    errno("defaultAction", profile.default_errno_ret)?;
    let mut notifies = false;
    for rule in &profile.syscalls {
        let name = rule.names.first().map_or("", String::as_str);
        errno(name, rule.errno_ret)?;
        notifies |= rule.action == Action::Notify;
        if let Some(wrong) = rule.args.iter().find(|arg| arg.index > 5) {
            return Err(Error::ArgumentIndex {
                name: name.to_owned(),
                index: wrong.index,
            });
        }
    }
    if profile.default_action == Action::Notify || (notifies && profile.listener_path.is_none()) {
        return Err(Error::Notify);
    }
    Ok(())
}

fn default_value(profile: &Profile) -> u32 {
    profile
        .default_action
        .value(profile.default_errno_ret.unwrap_or(EPERM))
}

fn rule_value(rule: &SyscallRule) -> u32 {
    rule.action.value(rule.errno_ret.unwrap_or(EPERM))
}

/// What the rules say of one system call.
#[derive(Default)]
pub(crate) struct Decision {
    /// The first rule without arguments: it wins.
    pub(crate) always: Option<u32>,
    /// Else the first of these whose comparisons hold.
    pub(crate) conditional: Vec<(Vec<ArgRule>, u32)>,
}

/// Decision by number (without the x32 bit).
pub(crate) fn decisions(profile: &Profile, arch: Arch) -> BTreeMap<u32, Decision> {
    let mut found: BTreeMap<u32, Decision> = BTreeMap::new();
    for rule in &profile.syscalls {
        let value = rule_value(rule);
        let alternatives = alternatives(&rule.args);
        for name in &rule.names {
            let Some(number) = syscall_number(arch, name) else {
                continue;
            };
            let decision = found.entry(number & !X32_BIT).or_default();
            if rule.args.is_empty() {
                decision.always.get_or_insert(value);
            } else {
                decision.conditional.extend(
                    alternatives
                        .iter()
                        .map(|conditions| (conditions.clone(), value)),
                );
            }
        }
    }
    found
}

/// All comparisons together, unless one argument is compared twice: then each by itself (runc).
fn alternatives(args: &[ArgRule]) -> Vec<Vec<ArgRule>> {
    let indexes: BTreeSet<u32> = args.iter().map(|arg| arg.index).collect();
    if indexes.len() == args.len() {
        vec![args.to_vec()]
    } else {
        args.iter().map(|arg| vec![arg.clone()]).collect()
    }
}

/// First number that gets `ENOSYS`: behind the largest the profile names, if its default refuses.
pub(crate) fn first_unknown(profile: &Profile, decisions: &BTreeMap<u32, Decision>) -> Option<u32> {
    let refuses = matches!(
        profile.default_action,
        Action::Errno | Action::Kill | Action::KillThread | Action::KillProcess | Action::Trap
    );
    if !refuses {
        return None;
    }
    decisions.keys().next_back().map(|number| number + 1)
}

/// The search tree of one architecture; the accumulator has the number.
fn section(code: &mut Assembler, profile: &Profile, arch: Arch) -> Place {
    let default = default_value(profile);
    let returns = Body::Return;
    let bit = if arch == Arch::X32 { X32_BIT } else { 0 };
    let decisions = decisions(profile, arch);
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |start: u32, body: Body| match ranges.last_mut() {
        Some(last) if last.start == start => last.body = body,
        Some(last) if last.body == body => {}
        _ => ranges.push(Range { start, body }),
    };
    push(0, returns(default));
    for (number, decision) in &decisions {
        let body = match decision.always {
            Some(value) => returns(value),
            None => {
                let mut body: Vec<Instruction> = decision
                    .conditional
                    .iter()
                    .flat_map(|(conditions, value)| argument::rule(conditions, *value))
                    .collect();
                body.push(Instruction::plain(RETURN, default));
                Body::Code(body)
            }
        };
        push(number | bit, body);
        push((number + 1) | bit, returns(default));
    }
    if let Some(number) = first_unknown(profile, &decisions) {
        push(number | bit, returns(Action::Errno.value(ENOSYS)));
    }
    // -1 is the tracer's "skip", not a number; it must not become ENOSYS. (Numbers of x86-64 never
    // reach the x32 bit here.)
    if arch != Arch::X86_64 {
        push(u32::MAX, returns(default));
    }
    code.search(&merged(ranges))
}

/// Neighbours with the same body become one; overwriting a start can leave such.
fn merged(ranges: Vec<Range>) -> Vec<Range> {
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if out.last().is_none_or(|last| last.body != range.body) {
            out.push(range);
        }
    }
    out
}
