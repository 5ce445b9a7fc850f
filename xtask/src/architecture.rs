//! The arrows: a crate depends on layers below it, never upwards, never across forbidden lines.
//!
//! A crate's layer is the first folder of its path. DESIGN: front → services → {isolation, store,
//! network} → {devices, cpu} → sys; isolation, store and network do not know each other.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::shell;

/// For each layer, the layers its crates may depend on (its own siblings included where named).
const ARROWS: &[(&str, &[&str])] = &[
    (
        "front",
        &["services", "isolation", "store", "network", "sys"],
    ),
    (
        "services",
        &["services", "isolation", "store", "network", "sys"],
    ),
    ("isolation", &["isolation", "devices", "cpu", "sys"]),
    ("store", &["store", "sys"]),
    ("network", &["sys"]),
    ("devices", &["devices", "sys"]),
    ("cpu", &["cpu", "sys"]),
    ("sys", &["sys"]),
    ("tests", &["sys"]),
    ("xtask", &[]),
];

/// Crates between which no arrow may run although their layers would permit it.
const STRANGERS: &[(&str, &str, &str)] = &[
    (
        "atoll-shim",
        "atoll-engine",
        "the shim outlives the engine and must stay small",
    ),
    (
        "atoll-engine",
        "atoll-shim",
        "the engine speaks to shims by protocol only",
    ),
    ("atoll-shim", "atoll-image", "the shim knows no images"),
    (
        "atoll-spec",
        "atoll-container",
        "parsing knows nothing of applying",
    ),
    (
        "atoll-layer",
        "atoll-image",
        "layers know nothing of images",
    ),
];

/// Every wrong arrow, one line each.
pub(crate) fn faults() -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .current_dir(shell::root())
        .no_deps()
        .exec()
        .context("cannot read cargo metadata")?;
    let members: BTreeMap<String, &Package> = metadata
        .workspace_packages()
        .into_iter()
        .map(|p| (p.name.to_string(), p))
        .collect();
    let layer_of = |package: &Package| -> String {
        let manifest = package.manifest_path.strip_prefix(&metadata.workspace_root);
        let first = manifest.ok().and_then(|path| path.components().next());
        first
            .map(|component| component.to_string())
            .unwrap_or_default()
    };
    let mut faults = Vec::new();
    for (name, package) in &members {
        let layer = layer_of(package);
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == layer) else {
            faults.push(format!(
                "{name}: folder {layer} is no layer; name it in xtask"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(target) = members.get(&dependency.name) else {
                continue;
            };
            if dependency.kind == DependencyKind::Development {
                continue;
            }
            let target_layer = layer_of(target);
            if !allowed.contains(&target_layer.as_str()) {
                faults.push(format!(
                    "{name} ({layer}) → {} ({target_layer})",
                    dependency.name
                ));
            }
            for (from, to, reason) in STRANGERS {
                if from == name && *to == dependency.name {
                    faults.push(format!("{from} → {to}: {reason}"));
                }
            }
        }
    }
    Ok(faults)
}
