//! Running other programs from the root of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The root folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// A command that starts in the root folder.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command` and fails unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("+ {command:?}");
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Fails unless the effective user is root; `purpose` says what needs it.
pub(crate) fn require_root(purpose: &str) -> Result<()> {
    let output = Command::new("id")
        .arg("-u")
        .output()
        .context("cannot start id")?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).trim() == "0",
        "{purpose} needs root\nhint: run it again with sudo"
    );
    Ok(())
}
