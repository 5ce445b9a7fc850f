//! Builds what is shipped into `target/atoll/bin`.
//!
//! `atoll` is linked dynamically (it resolves registry names through the host's libc). The shim is
//! executed for every container, so it is static: an empty static program starts in half the time
//! of a dynamic one. So is `atoll-vmm`, which is to need no file of the host, and `atoll-guest`, which is alone in its
//! ramdisk, and `atoll-probe`, which runs in images that have no library. `atoll-runtime` and `containerd-shim-atoll-v2` are one file by two names.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::linker::{self, TARGET};
use crate::shell;

/// The package of `atoll`.
const ALONE: &[&str] = &["atoll-cli"];
/// Those of the static programs.
const STATIC: &[&str] = &[
    "atoll-runtime",
    "atoll-machine",
    "atoll-guest",
    "atoll-probe",
];

/// Builds every shipped program.
pub(crate) fn build() -> Result<()> {
    // Apart, so that what `atoll` needs of a library is not in the others.
    for packages in [ALONE, STATIC] {
        let mut build = shell::command("cargo", &["build", "--profile", "dist", "--bins"]);
        build.args(packages.iter().flat_map(|package| ["-p", package]));
        linker::link_by_us(&mut build)?;
        shell::run(&mut build)?;
    }

    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || shell::root().join("target"),
        |folder| shell::root().join(folder),
    );
    let bin = shell::root().join("target/atoll/bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let built = target.join(TARGET).join("dist");
    for program in [
        "atoll",
        "atoll-runtime",
        "atoll-vmm",
        "atoll-guest",
        "atoll-probe",
    ] {
        install(&built.join(program), &bin.join(program))?;
    }
    let shim = bin.join("containerd-shim-atoll-v2");
    install(&built.join("atoll-runtime"), &shim)?;
    println!("dist: programs are in {}", bin.display());
    Ok(())
}

/// Replaces `to` by a copy of `from`, also while `to` is running.
fn install(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot replace {}", to.display()))
}
