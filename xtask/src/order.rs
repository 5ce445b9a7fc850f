//! The linker of what is shipped static: puts the functions that every container's life executes next to each other.
//!
//! The kernel maps 64 KiB around each page of a program that is touched, so functions spread over it cost memory and page
//! faults. `xtask/order/PROGRAM.txt` lists them in the order of their first calls, as `bench/symbol-order.py` found them;
//! compilers, dependencies and our own changes give them other hashes, so names are compared without. A name that is not
//! found costs nothing but its place.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// Set where this program is called as a linker.
const AS_LINKER: &str = "ATOLL_XTASK_LINKS";

/// Has `cargo` build static programs, with this program as their linker. The same flags everywhere, so that nothing is built
/// twice.
///
/// # Errors
/// The path of this program is not known.
pub(crate) fn make_static(cargo: &mut Command) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    // Flags end with this separator, and may hold spaces.
    let flags = format!("-Ctarget-feature=+crt-static\x1f-Clinker={}", own.display());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo.env(AS_LINKER, "1");
    Ok(())
}

/// Whether this program is called as a linker.
pub(crate) fn is_linker() -> bool {
    std::env::var_os(AS_LINKER).is_some()
}

/// Links as `cc` does, with an order of functions where there is one for the program.
///
/// # Errors
/// Does not come back when the linker starts.
pub(crate) fn link() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut linker = Command::new("cc");
    linker.args(&arguments).env_remove(AS_LINKER);
    if let Some((output, list)) = ordered(&arguments).filter(|_| uses_lld(&arguments)) {
        let wanted =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let order = output.with_extension("order");
        fs::write(&order, sorted(&wanted, &symbols(&arguments)?))
            .with_context(|| format!("cannot write {}", order.display()))?;
        linker.arg(format!("-Wl,--symbol-ordering-file={}", order.display()));
        // A symbol that the linker has dropped is no fault.
        linker.arg("-Wl,--no-warn-symbol-ordering");
    }
    Err(linker.exec()).context("cannot start cc")
}

/// Only it knows an order of symbols.
fn uses_lld(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "-fuse-ld=lld")
}

/// What is linked and the list for it, where there is one: `…/atoll_runtime-0123456789abcdef` is `atoll-runtime`.
fn ordered(arguments: &[OsString]) -> Option<(&Path, PathBuf)> {
    let at = arguments.iter().position(|argument| argument == "-o")?;
    let output = Path::new(arguments.get(at + 1)?);
    let file = output.file_name()?.to_str()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    let list = format!("xtask/order/{}.txt", name.replace('_', "-"));
    let list = shell::root().join(list);
    list.exists().then_some((output, list))
}

/// Names of what the objects define.
fn symbols(arguments: &[OsString]) -> Result<Vec<String>> {
    let objects = arguments.iter().filter(|argument| {
        let extension = Path::new(argument).extension();
        extension.is_some_and(|extension| extension == "o" || extension == "rlib")
    });
    let output = Command::new("nm")
        .args(["--defined-only", "--no-sort", "--format=just-symbols"])
        .args(objects)
        .output()
        .context("cannot start nm\nhint: apt-get install binutils")?;
    // Metadata and bitcode in libraries are no objects: nm says so, and goes on.
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(!names.is_empty(), "nm names no symbol of the objects");
    Ok(names)
}

/// Those of `symbols` that `wanted` lists, in its order, one a line.
fn sorted(wanted: &str, symbols: &[String]) -> String {
    let mut named: HashMap<String, Vec<&str>> = HashMap::new();
    for symbol in symbols {
        named.entry(key(symbol)).or_default().push(symbol);
    }
    let found = wanted
        .lines()
        .filter_map(|line| named.remove(line))
        .flatten();
    found.fold(String::new(), |text, symbol| text + symbol + "\n")
}

/// A mangled name without what differs from build to build: hashes, and the number of the module that a local one is from.
fn key(symbol: &str) -> String {
    let symbol = symbol.split_once(".llvm.").map_or(symbol, |(name, _)| name);
    if symbol.starts_with("_R") {
        return without_disambiguators(symbol);
    }
    let hash = symbol
        .strip_suffix('E')
        .and_then(|text| Some((text, text.rfind("17h")?)));
    match hash {
        Some((text, at)) if text.len() == at + 19 => format!("{}E", &text[..at]),
        _ => symbol.to_owned(),
    }
}

/// Takes the `s…_` from each `Cs…_` before a crate's name (rustc book, v0 symbol format, `crate-root`).
fn without_disambiguators(symbol: &str) -> String {
    let mut parts = symbol.split("Cs");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let digits = part.find(|letter: char| !letter.is_ascii_alphanumeric());
        match digits {
            Some(end) if end > 0 && part[end..].starts_with('_') => text + "C" + &part[end + 1..],
            _ => text + "Cs" + part,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_their_hashes() {
        assert_eq!(
            key("_ZN4core3fmt5write17h0123456789abcdefE"),
            "_ZN4core3fmt5writeE"
        );
        assert_eq!(
            key("_ZN4core3fmt5write17h0123456789abcdefE.llvm.123"),
            "_ZN4core3fmt5writeE"
        );
        assert_eq!(
            key("_RNvMCs4X4t9plMPHF_9addr2lineNtCsgEmfK2I1SDS_4core3new"),
            "_RNvMC9addr2lineNtC4core3new"
        );
        assert_eq!(key("_RNv_Cs"), "_RNv_Cs");
        assert_eq!(key("memcpy"), "memcpy");
        assert_eq!(key("17hE"), "17hE");
    }

    #[test]
    fn what_is_listed_comes_in_the_lists_order() {
        let symbols = [
            "_ZN1a1b17h0123456789abcdefE",
            "memcpy",
            "other",
            "_ZN1a1b17hfedcba9876543210E",
        ]
        .map(str::to_owned);
        assert_eq!(
            sorted("memcpy\nabsent\n_ZN1a1bE\n", &symbols),
            "memcpy\n_ZN1a1b17h0123456789abcdefE\n_ZN1a1b17hfedcba9876543210E\n"
        );
    }

    #[test]
    fn a_program_is_known_by_what_is_linked() {
        let arguments = |output: &str| ["-m64", "-o", output].map(OsString::from);
        assert!(ordered(&arguments("/t/deps/atoll_runtime-0123456789abcdef")).is_some());
        assert!(ordered(&arguments("/t/deps/atoll_probe-0123456789abcdef")).is_none());
        assert!(ordered(&[OsString::from("-m64")]).is_none());
    }
}
