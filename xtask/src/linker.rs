//! The linker of what is shipped, which makes static programs and orders their functions.
//!
//! rustc's own way to a static program is the target feature `crt-static`, a flag of every crate: all libraries are compiled
//! once more for it, though not a byte of theirs differs. What does differ is how the program is linked, which is done here.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::order;

/// The only target this workspace is built for.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Set where this program is called as a linker.
const AS_LINKER: &str = "ATOLL_XTASK_LINKS";
/// The one program that is linked dynamically.
const DYNAMIC: &str = "atoll";
/// The one that has a fixed address and an entry point of its own, for each container starts it twice
/// (`sys/kernel/src/self_exe.rs`): relocating 5,300 pointers on 60 pages is more than reading the configuration, and libc's
/// preparations are not needed before the second time (`sys/kernel/src/entry.rs`).
const FIXED: &str = "atoll-runtime";

/// Has `cargo` build with this program as the linker. The same flags everywhere, so that nothing is built twice.
///
/// # Errors
/// The path of this program is not known.
pub(crate) fn link_by_us(cargo: &mut Command) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    // Programs that run while others are built are of the host, and not linked by us: only with a target named.
    cargo.args(["--target", TARGET]);
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("-Clinker={}", own.display()),
    );
    cargo.env(AS_LINKER, "1");
    Ok(())
}

/// Whether this program is called as a linker.
pub(crate) fn is_linker() -> bool {
    std::env::var_os(AS_LINKER).is_some()
}

/// Links as `cc` does: statically but for one program, with an order of functions where there is one for the program.
///
/// # Errors
/// Does not come back when the linker starts.
pub(crate) fn link() -> Result<()> {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(output) = output(&arguments).map(Path::to_owned) {
        let name = program(&output).unwrap_or_default();
        let order = output.with_extension("order");
        if uses_lld(&arguments) && order::write(&name, &arguments, &order)? {
            let option = format!("-Wl,--symbol-ordering-file={}", order.display());
            // A symbol that the linker has dropped is no fault.
            arguments.extend([option.into(), "-Wl,--no-warn-symbol-ordering".into()]);
        }
        if name != DYNAMIC {
            arguments = statically(arguments, name == FIXED);
        }
    }
    let mut linker = Command::new("cc");
    linker.args(&arguments).env_remove(AS_LINKER);
    Err(linker.exec()).context("cannot start cc")
}

/// What rustc has linked dynamically, linked as it does with `crt-static`.
fn statically(arguments: Vec<OsString>, is_fixed: bool) -> Vec<OsString> {
    let (kind, entry) = match is_fixed {
        true => ("-static", Some("-Wl,--entry=atoll_start")),
        false => ("-static-pie", None),
    };
    let kept = arguments
        .into_iter()
        .filter(|argument| argument != "-lgcc_s" && argument != "-Wl,-Bdynamic");
    let changed = kept.map(|argument| match argument == "-pie" {
        true => kind.into(),
        false => argument,
    });
    let libraries = ["-lgcc_eh", "-lgcc", "-lc"].into_iter().chain(entry);
    changed.chain(libraries.map(OsString::from)).collect()
}

/// Only it knows an order of symbols.
fn uses_lld(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "-fuse-ld=lld")
}

/// What is linked.
fn output(arguments: &[OsString]) -> Option<&Path> {
    let at = arguments.iter().position(|argument| argument == "-o")?;
    arguments.get(at + 1).map(Path::new)
}

/// The name of the program that is linked: `…/atoll_runtime-0123456789abcdef` is `atoll-runtime`.
fn program(output: &Path) -> Option<String> {
    let file = output.file_name().and_then(OsStr::to_str)?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(name.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_what_is_linked() {
        let name = |output: &str| {
            let arguments = ["-m64", "-o", output].map(OsString::from);
            program(super::output(&arguments).unwrap()).unwrap()
        };
        assert_eq!(
            name("/t/deps/atoll_runtime-0123456789abcdef"),
            "atoll-runtime"
        );
        assert_eq!(name("/t/deps/atoll-0123456789abcdef"), DYNAMIC);
        assert!(super::output(&[OsString::from("-m64")]).is_none());
    }

    #[test]
    fn dynamic_libraries_are_none_of_a_static_program() {
        let words = |text: &str| -> Vec<_> { text.split(' ').map(OsString::from).collect() };
        let given = words("a.o b.rlib -Wl,-Bdynamic -lgcc_s -lc -o a -pie -nodefaultlibs");
        let expected = words("a.o b.rlib -lc -o a -static-pie -nodefaultlibs -lgcc_eh -lgcc -lc");
        assert_eq!(statically(given.clone(), false), expected);
        let fixed = statically(given, true);
        assert!(fixed.contains(&"-static".into()) && !fixed.contains(&"-static-pie".into()));
    }
}
