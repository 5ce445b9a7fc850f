//! Cases as lines of text: what `cases/*.txt` hold and reports print.
//!
//! ```text
//!   # a comment; empty lines are skipped
//!   code=480fafc1 rax=2 rcx=ffffffffffffffff flags=10 xmm3=0 mem.20000010=00ff
//! ```
//!
//! Words separated by spaces, each `name=value`, values in hexadecimal. `code` must be there; all else is as in
//! [`State::default`](crate::State) when it is left out. `mem.ADDRESS` puts bytes (two digits each, lowest address
//! first) into the data area; later ones lie over earlier ones. Names: the 16 general registers, `rip`, `flags`, `fs`
//! and `gs` (bases), `fcw`, `fsw`, `ftw`, `mxcsr`, `st0` to `st7` (80 bits), `xmm0` to `xmm15`.

use iced_x86::{Formatter, NasmFormatter};
use thiserror::Error;

use crate::case::{Case, Patch, State};
use crate::compare::instructions;
use crate::layout::DATA;

const REGISTERS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Why a line is no case.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TextError {
    /// A word without `=`, or of an unknown name.
    #[error("{0} is no part of a case")]
    Name(String),
    /// A value that is no hexadecimal number, or too large.
    #[error("{0} has no value that fits")]
    Value(String),
    /// Too long, or out of its pages; or without code.
    #[error("the case cannot be executed")]
    Invalid,
}

/// The case as one line.
pub fn print(case: &Case) -> String {
    let mut words = vec![format!("code={}", hex(&case.code))];
    let normal = State::default();
    for (name, value, usual) in numbers(&case.state, &normal) {
        if value != usual {
            words.push(format!("{name}={value:x}"));
        }
    }
    for patch in &case.patches {
        let address = DATA + u64::from(patch.offset);
        words.push(format!("mem.{address:x}={}", hex(&patch.bytes)));
    }
    words.join(" ")
}

/// Reads a line that [`print()`] made, or a person.
///
/// # Errors
/// [`TextError`] says which word is wrong.
pub fn parse(line: &str) -> Result<Case, TextError> {
    let mut case = Case::default();
    for word in line.split_whitespace() {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| TextError::Name(word.to_owned()))?;
        let bad = || TextError::Value(word.to_owned());
        if name == "code" {
            case.code = bytes(value).ok_or_else(bad)?;
        } else if let Some(address) = name.strip_prefix("mem.") {
            let address = u64::from_str_radix(address, 16).map_err(|_| bad())?;
            let offset = address.checked_sub(DATA).ok_or_else(bad)?;
            case.patches.push(Patch {
                offset: u16::try_from(offset).map_err(|_| bad())?,
                bytes: bytes(value).ok_or_else(bad)?,
            });
        } else {
            let value = u128::from_str_radix(value, 16).map_err(|_| bad())?;
            set(&mut case.state, name, value).ok_or_else(|| TextError::Name(word.to_owned()))??;
        }
    }
    if case.code.is_empty() || !case.is_valid() {
        return Err(TextError::Invalid);
    }
    Ok(case)
}

/// The cases of a file; comments and empty lines skipped.
///
/// # Errors
/// [`TextError`] of the first wrong line, with its number from 1.
pub fn parse_file(text: &str) -> Result<Vec<Case>, (usize, TextError)> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'))
        .map(|(number, line)| parse(line).map_err(|error| (number, error)))
        .collect()
}

/// The case's instructions in assembly, each a comment line.
pub fn assembly(case: &Case) -> Vec<String> {
    let mut formatter = NasmFormatter::new();
    instructions(case)
        .iter()
        .map(|instruction| {
            let mut line = format!("# {:?}: ", instruction.code());
            formatter.format(instruction, &mut line);
            line
        })
        .collect()
}

/// Each number of a state: name, value, value in `normal`.
fn numbers(state: &State, normal: &State) -> Vec<(String, u128, u128)> {
    let mut all = Vec::new();
    let mut add = |name: String, value: u128, usual: u128| all.push((name, value, usual));
    for (i, name) in REGISTERS.iter().enumerate() {
        let (value, usual) = (state.registers[i], normal.registers[i]);
        add((*name).to_owned(), value.into(), usual.into());
    }
    let (fpu, usual) = (&state.fpu, &normal.fpu);
    add("rip".to_owned(), state.rip.into(), normal.rip.into());
    add(
        "flags".to_owned(),
        state.rflags.into(),
        normal.rflags.into(),
    );
    add("fs".to_owned(), state.fs_base.into(), normal.fs_base.into());
    add("gs".to_owned(), state.gs_base.into(), normal.gs_base.into());
    add("fcw".to_owned(), fpu.control.into(), usual.control.into());
    add("fsw".to_owned(), fpu.status.into(), usual.status.into());
    add("ftw".to_owned(), fpu.tags.into(), usual.tags.into());
    add("mxcsr".to_owned(), fpu.mxcsr.into(), usual.mxcsr.into());
    for i in 0..8 {
        add(format!("st{i}"), fpu.st[i], usual.st[i]);
    }
    for i in 0..16 {
        add(format!("xmm{i}"), fpu.xmm[i], usual.xmm[i]);
    }
    all
}

/// Sets the number `name`; `None` when there is none of that name.
fn set(state: &mut State, name: &str, value: u128) -> Option<Result<(), TextError>> {
    let bad = |_| TextError::Value(format!("{name}={value:x}"));
    let long = || u64::try_from(value).map_err(bad);
    if let Some(i) = REGISTERS.iter().position(|known| *known == name) {
        return Some(long().map(|value| state.registers[i] = value));
    }
    let fpu = &mut state.fpu;
    let half = || u16::try_from(value).map_err(bad);
    Some(match name {
        "rip" => long().map(|value| state.rip = value),
        "flags" => long().map(|value| state.rflags = value),
        "fs" => long().map(|value| state.fs_base = value),
        "gs" => long().map(|value| state.gs_base = value),
        "fcw" => half().map(|value| fpu.control = value),
        "fsw" => half().map(|value| fpu.status = value),
        "ftw" => u8::try_from(value)
            .map_err(bad)
            .map(|value| fpu.tags = value),
        "mxcsr" => u32::try_from(value)
            .map_err(bad)
            .map(|value| fpu.mxcsr = value),
        _ => {
            let number = |prefix| name.strip_prefix(prefix)?.parse::<usize>().ok();
            let place = match (number("st"), number("xmm")) {
                (Some(i), _) => fpu.st.get_mut(i)?,
                (_, Some(i)) => fpu.xmm.get_mut(i)?,
                _ => return None,
            };
            *place = value;
            Ok(())
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        (pair.len() == 2)
            .then(|| u8::from_str_radix(pair, 16).ok())
            .flatten()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generator;

    #[test]
    fn generated_cases_survive_print_and_parse() {
        let mut generator = Generator::new(11, |_| true);
        for _ in 0..500 {
            let case = generator.single().unwrap();
            assert_eq!(parse(&print(&case)), Ok(case));
        }
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "",
            "rax=1",
            "code=9",
            "code=90 rax",
            "code=90 rax=10000000000000000",
            "code=90 xmm16=0",
            "code=90 flags=200",
            "code=90 mem.0=00",
            "code=90 mem.20001fff=0000",
            "code=90 rip=0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_wrong_line_of_a_file_is_named() {
        let text = "# comment\n\ncode=90\ncode=zz\n";
        assert_eq!(parse_file(text).unwrap_err().0, 4);
        assert_eq!(parse_file("# nothing\ncode=90").unwrap().len(), 1);
    }
}
