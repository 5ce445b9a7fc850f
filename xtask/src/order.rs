//! The order of a program's functions: those that every container's life executes are next to each other.
//!
//! The kernel maps 64 KiB around each page of a program that is touched, so functions spread over it cost memory and page
//! faults. `xtask/order/PROGRAM.txt` lists them in the order of their first calls, as `bench/symbol-order.py` found them;
//! compilers, dependencies and our own changes give them other hashes, so names are compared without. A name that is not
//! found costs nothing but its place.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// Writes the order of program `name` to `file`, of the symbols that are in the objects among a linker's `arguments`.
///
/// Whether there is one for the program.
///
/// # Errors
/// A file that cannot be read or written.
pub(crate) fn write(name: &str, arguments: &[OsString], file: &Path) -> Result<bool> {
    let list = shell::root().join(format!("xtask/order/{name}.txt"));
    if !list.exists() {
        return Ok(false);
    }
    let wanted =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    fs::write(file, sorted(&wanted, &symbols(arguments)?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
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

/// What `wanted` lists, in its order, one a line, by the names in `symbols`.
///
/// Others stay as they are listed: libc's have no hashes, and the linker finds its objects by itself.
fn sorted(wanted: &str, symbols: &[String]) -> String {
    let mut named: HashMap<String, Vec<&str>> = HashMap::new();
    for symbol in symbols {
        named.entry(key(symbol)).or_default().push(symbol);
    }
    let found = wanted
        .lines()
        .flat_map(|line| named.remove(line).unwrap_or_else(|| vec![line]));
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
            sorted("memcpy\nopen\n_ZN1a1bE\n", &symbols),
            "memcpy\nopen\n_ZN1a1b17h0123456789abcdefE\n_ZN1a1b17hfedcba9876543210E\n"
        );
    }
}
