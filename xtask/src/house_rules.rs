//! Rules of the house that no compiler lint holds: file sizes, READMEs, documented unsafe code,
//! documented dependencies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// The longest a source file may be; tables and generated code say so in their first lines.
const MAX_LINES: usize = 800;
/// The mark by which a file exempts itself from [`MAX_LINES`].
const TABLE_MARK: &str = "house rule: table";
/// Folders that are layers and so explain themselves.
const LAYERS: &[&str] = &[
    "front",
    "services",
    "isolation",
    "store",
    "network",
    "devices",
    "cpu",
    "sys",
    "tests",
    "bench",
    "fuzz",
];

/// Every broken rule, one line each.
pub(crate) fn faults() -> Result<Vec<String>> {
    let root = shell::root();
    let mut faults = Vec::new();
    for layer in LAYERS {
        if !root.join(layer).join("README.md").is_file() {
            faults.push(format!("{layer}/ has no README.md"));
        }
    }
    let unsafe_page = read(&root.join("docs/unsafe.md"))?;
    for file in rust_files(&root)? {
        let relative = file
            .strip_prefix(&root)
            .unwrap_or(&file)
            .display()
            .to_string();
        let text = read(&file)?;
        let lines = text.lines().count();
        if lines > MAX_LINES && !text.lines().take(30).any(|line| line.contains(TABLE_MARK)) {
            faults.push(format!(
                "{relative}: {lines} lines, {MAX_LINES} are the limit"
            ));
        }
        if relative.starts_with("xtask/") {
            continue;
        }
        if text.contains("#[allow(") || text.contains("#![allow(") {
            faults.push(format!(
                "{relative}: use #[expect(…, reason = …)] instead of allow"
            ));
        }
        let crate_folder = relative.split("/src/").next().unwrap_or_default();
        let opts_in = text.contains("expect(unsafe_code") || text.contains("allow(unsafe_code");
        if opts_in && !unsafe_page.contains(crate_folder) {
            faults.push(format!(
                "{relative}: unsafe code, but docs/unsafe.md has no {crate_folder}"
            ));
        }
    }
    faults.extend(undocumented_dependencies(&root)?);
    Ok(faults)
}

/// Workspace dependencies without a line in `docs/dependencies.md`.
fn undocumented_dependencies(root: &Path) -> Result<Vec<String>> {
    let page = read(&root.join("docs/dependencies.md"))?;
    let manifest = read(&root.join("Cargo.toml"))?;
    let section = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    Ok(section
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with("atoll-") && !page.contains(&format!("`{name}`")))
        .map(|name| format!("{name}: no line in docs/dependencies.md"))
        .collect())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every `.rs` file of the tree that is ours.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = LAYERS.iter().map(|layer| root.join(layer)).collect();
    folders.push(root.join("xtask"));
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
