//! Whether two outcomes of a case agree, but for what manuals leave undefined.

mod undefined;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

pub use self::undefined::UndefinedFlags;
pub(crate) use self::undefined::has_undefined_result;
use self::undefined::{
    Tolerance, faults_anywhere, ignored_bytes, is_in_parts, is_masked_fault, is_undefined,
    keeps_halves, refused_call,
};
use crate::case::{Case, End, OUTPUT_FLAGS, Outcome};
use crate::layout::{self, DATA, DATA_LEN, PAGE, USER_END};

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They agree.
    Same,
    /// Nothing can be said: the result is undefined, or the case does not end.
    Skipped,
    /// The backend does not claim to execute this; its reason.
    Unsupported(String),
    /// They differ.
    Different(Vec<Difference>),
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A register, `end`, or a byte's address.
    pub what: String,
    /// On the real processor.
    pub native: String,
    /// On the backend.
    pub other: String,
}

/// The instructions of `case`, as far as they can be decoded.
pub fn instructions(case: &Case) -> Vec<Instruction> {
    // The breakpoints that follow belong to what a processor sees.
    let mut bytes = case.code.clone();
    bytes.resize(bytes.len() + 16, layout::FILL);
    let mut decoder = Decoder::with_ip(64, &bytes, case.state.rip, DecoderOptions::NONE);
    let mut found = Vec::new();
    while decoder.position() < case.code.len() {
        found.push(decoder.decode());
    }
    found
}

/// Compares the outcome of `case` on the real processor with that on a backend.
pub fn compare(case: &Case, native: &Outcome, other: &Outcome) -> Verdict {
    if let End::Unsupported(what) = &other.end {
        return Verdict::Unsupported(what.clone());
    }
    if native == other {
        return Verdict::Same;
    }
    let instructions = instructions(case);
    let unknowable =
        |one: &Instruction| is_undefined(one, case) || is_masked_fault(one, case, &native.end);
    if native.end == End::Endless || instructions.iter().any(unknowable) {
        return Verdict::Skipped;
    }
    let faulted = |end: &End| {
        matches!(
            end,
            End::Exception {
                vector: 12..=14,
                ..
            }
        )
    };
    let in_parts = is_in_parts(&instructions) && faulted(&native.end) && faulted(&other.end);
    let mut found = Vec::new();
    if !in_parts && !same_end(&native.end, &other.end, faults_anywhere(&instructions)) {
        found.push(Difference {
            what: "end".to_owned(),
            native: format!("{:x?}", native.end),
            other: format!("{:x?}", other.end),
        });
    }
    if matches!(other.end, End::Exception { .. }) {
        let jumps = |one: &Instruction| one.flow_control() != FlowControl::Next;
        let whole = matches!(native.end, End::Exception { vector: 3, .. })
            && !instructions.iter().any(jumps);
        let undefined = UndefinedFlags::after(&instructions, whole);
        let mut native = native.clone();
        if keeps_halves(&instructions, case, &native.end) {
            for register in [6, 7] {
                let low = native.state.registers[register] & 0xFFFF_FFFF;
                let seen = other.state.registers[register];
                if seen & 0xFFFF_FFFF == low
                    && (seen == low || seen == case.state.registers[register])
                {
                    native.state.registers[register] = seen;
                }
            }
        }
        compare_states(&instructions, undefined, &native, other, &mut found);
        if !in_parts {
            compare_data(case, &instructions, &native, other, &mut found);
        }
    }
    if found.is_empty() {
        Verdict::Same
    } else {
        Verdict::Different(found)
    }
}

/// Whether two cases ended alike; `reach` is how far apart the addresses of a page fault may be.
fn same_end(native: &End, other: &End, reach: u64) -> bool {
    let page_fault = |end: &End| match end {
        End::Exception {
            vector: 14,
            error,
            address,
        } => Some((*error, *address)),
        _ => None,
    };
    let (Some((error, address)), Some((other_error, other_address))) =
        (page_fault(native), page_fault(other))
    else {
        return native == other;
    };
    // Linux says of addresses beyond user space that a page is there, whether it is or not.
    let hidden = u64::from(address >= USER_END || other_address >= USER_END);
    let forth = address.wrapping_sub(other_address);
    error | hidden == other_error | hidden && forth.min(forth.wrapping_neg()) <= reach
}

fn compare_states(
    instructions: &[Instruction],
    undefined: UndefinedFlags,
    native: &Outcome,
    other: &Outcome,
    found: &mut Vec<Difference>,
) {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let mut check = |what: &str, native: u128, other: u128| {
        if native != other {
            found.push(Difference {
                what: what.to_owned(),
                native: format!("{native:#x}"),
                other: format!("{other:#x}"),
            });
        }
    };
    let (native, other) = (&native.state, &other.state);
    let flags = OUTPUT_FLAGS & !undefined.rflags();
    let status = !undefined.status_word();
    let tolerance = Tolerance::of(instructions);
    for ((name, native), other) in NAMES.iter().zip(native.registers).zip(other.registers) {
        check(name, native.into(), other.into());
    }
    let pairs = [
        ("rip", native.rip, other.rip),
        ("rflags", native.rflags & flags, other.rflags & flags),
        ("fs", native.fs_base, other.fs_base),
        ("gs", native.gs_base, other.gs_base),
    ];
    for (name, native, other) in pairs {
        check(name, native.into(), other.into());
    }
    let (native, other) = (&native.fpu, &other.fpu);
    for (i, (native, other)) in native.xmm.into_iter().zip(other.xmm).enumerate() {
        if !tolerance.covers_vector(native, other) {
            check(&format!("xmm{i}"), native, other);
        }
    }
    for (i, (native, other)) in native.st.into_iter().zip(other.st).enumerate() {
        if !tolerance.covers_extended(native, other) {
            check(&format!("st{i}"), native, other);
        }
    }
    let status = status & !tolerance.status_word();
    let pairs = [
        ("mxcsr", native.mxcsr, other.mxcsr),
        ("fcw", native.control.into(), other.control.into()),
        (
            "fsw",
            (native.status & status).into(),
            (other.status & status).into(),
        ),
        ("ftw", native.tags.into(), other.tags.into()),
    ];
    for (name, native, other) in pairs {
        check(name, native.into(), other.into());
    }
}

fn compare_data(
    case: &Case,
    instructions: &[Instruction],
    native: &Outcome,
    other: &Outcome,
    found: &mut Vec<Difference>,
) {
    if native.changes == other.changes {
        return;
    }
    let mut initial = layout::background()[PAGE..].to_vec();
    for patch in &case.patches {
        let start = usize::from(patch.offset);
        initial[start..start + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    let area = |outcome: &Outcome| {
        let mut area = initial.clone();
        outcome.changes.apply(&mut area);
        area
    };
    let mut ignored = ignored_bytes(instructions, case);
    ignored.extend(refused_call(instructions, native));
    let (native, other) = (area(native), area(other));
    for at in 0..DATA_LEN {
        let address = DATA + at as u64;
        if native[at] != other[at] && !ignored.iter().any(|range| range.contains(&address)) {
            found.push(Difference {
                what: format!("{address:#x}"),
                native: format!("{:02x}", native[at]),
                other: format!("{:02x}", other[at]),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Changes, State};

    fn case(code: &[u8]) -> Case {
        Case {
            code: code.to_vec(),
            ..Case::default()
        }
    }

    fn outcome(state: State) -> Outcome {
        Outcome {
            end: End::Exception {
                vector: 3,
                error: 0,
                address: 0,
            },
            state,
            changes: Changes::default(),
        }
    }

    fn with_flags(rflags: u64) -> Outcome {
        outcome(State {
            rflags,
            ..State::default()
        })
    }

    #[test]
    fn undefined_flags_are_not_compared_defined_ones_are() {
        // and eax, ecx leaves AF undefined; add defines it again.
        let and = case(&[0x21, 0xC8]);
        let verdict = compare(&and, &with_flags(0x10), &with_flags(0));
        assert_eq!(verdict, Verdict::Same);
        let both = case(&[0x21, 0xC8, 0x01, 0xC8]);
        let verdict = compare(&both, &with_flags(0x10), &with_flags(0));
        let Verdict::Different(found) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(found[0].what, "rflags");
    }

    #[test]
    fn registers_memory_and_ends_are_compared() {
        let nop = case(&[0x90]);
        let native = outcome(State::default());
        let mut other = native.clone();
        other.state.registers[3] = 1;
        other.state.fpu.xmm[2] = 5;
        other.changes = Changes(vec![(16, vec![1])]);
        other.end = End::Lost("TripleFault".to_owned());
        let names = |verdict: Verdict| match verdict {
            Verdict::Different(found) => found.into_iter().map(|one| one.what).collect(),
            other => vec![format!("{other:?}")],
        };
        assert_eq!(names(compare(&nop, &native, &other)), ["end"]);
        other.end = native.end.clone();
        assert_eq!(
            names(compare(&nop, &native, &other)),
            ["rbx", "xmm2", "0x20000010"]
        );
    }

    #[test]
    fn page_fault_codes_are_compared_where_linux_tells_them() {
        let fault = |error, address| End::Exception {
            vector: 14,
            error,
            address,
        };
        assert!(!same_end(&fault(6, 0x1000), &fault(7, 0x1000), 0));
        assert!(same_end(&fault(7, 1 << 63), &fault(6, 1 << 63), 0));
        assert!(!same_end(&fault(7, 1 << 63), &fault(4, 1 << 63), 0));
        assert!(!same_end(&fault(6, 0x1000), &fault(6, 0x11FF), 0));
        assert!(same_end(&fault(6, 0x1000), &fault(6, 0x11FF), 511));
    }
}
