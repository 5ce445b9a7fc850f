//! Builds what is shipped into `target/atoll/bin`.
//!
//! `atoll` is linked dynamically (it resolves registry names through the host's libc). The shim is
//! executed for every container, so it is static: an empty static program starts in half the time
//! of a dynamic one. So is `atoll-vmm`, which is to need no file of the host, and `atoll-guest`, which is alone in its
//! ramdisk, and `atoll-probe`, which runs in images that have no library. `atoll-runtime` and `containerd-shim-atoll-v2` are one file by two names.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{order, shell};

/// The only target this workspace is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds every shipped program.
pub(crate) fn build() -> Result<()> {
    shell::run(&mut shell::command(
        "cargo",
        &["build", "--profile", "dist", "-p", "atoll-cli"],
    ))?;
    let mut fixed = shell::command(
        "cargo",
        &["build", "--profile", "dist", "-p", "atoll-runtime"],
    );
    fixed
        .args([
            "-p",
            "atoll-machine",
            "-p",
            "atoll-guest",
            "-p",
            "atoll-probe",
        ])
        .args(["--bins", "--target", TARGET]);
    order::make_static(&mut fixed)?;
    shell::run(&mut fixed)?;

    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || shell::root().join("target"),
        |folder| shell::root().join(folder),
    );
    let bin = shell::root().join("target/atoll/bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let runtime = target.join(TARGET).join("dist/atoll-runtime");
    install(&target.join("dist/atoll"), &bin.join("atoll"))?;
    install(&runtime, &bin.join("atoll-runtime"))?;
    install(&runtime, &bin.join("containerd-shim-atoll-v2"))?;
    for program in ["atoll-vmm", "atoll-guest", "atoll-probe"] {
        let built = target.join(TARGET).join("dist").join(program);
        install(&built, &bin.join(program))?;
    }
    println!("dist: programs are in {}", bin.display());
    Ok(())
}

/// Replaces `to` by a copy of `from`, also while `to` is running.
fn install(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot replace {}", to.display()))
}
