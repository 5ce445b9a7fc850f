//! Bind mounts and volumes out of `Binds`, `Mounts`, `Volumes` and `VolumesFrom`, checked.

use std::{collections::BTreeSet, path::Path};

use super::record::{MountPoint, VolumeUse};
use crate::{
    error::{Error, Result},
    types::{ContainerConfig, HostConfig, MountRequest},
    volume::{Asked, DRIVER},
};

/// Options of `-v` that change nothing here.
const IGNORED: &[&str] = &["z", "Z", "consistent", "cached", "delegated"];
/// Options of `-v` that say not to copy the image's content.
const NO_COPY: &[&str] = &["nocopy", "volume-nocopy"];
const PROPAGATIONS: &[&str] = &[
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];
/// How dockerd shows a volume's mode that was not given.
const DEFAULT_MODE: &str = "z";

/// A mount, and the volume that is to be there for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// The mount; a volume's source is not known yet.
    pub(crate) point: MountPoint,
    /// The volume to find or make.
    pub(crate) asked: Option<Asked>,
}

/// Reads all mounts; sources of `-v` that don't exist are to be made by [`prepare`].
///
/// * `others`: for each of `VolumesFrom`, that container's mounts and the mode after the colon.
///
/// # Errors
/// 400 when one is malformed, its source of `--mount` is missing, or two have the same destination.
pub(crate) fn collect(
    host: &HostConfig,
    config: &ContainerConfig,
    others: &[(Vec<MountPoint>, String)],
) -> Result<Vec<Planned>> {
    check_driver(&host.volume_driver)?;
    let mut own: Vec<Planned> = Vec::new();
    for bind in host.binds.iter().flatten() {
        own.push(parse_bind(bind)?);
    }
    let mut taken: Vec<String> = host.tmpfs.keys().map(|path| clean(path)).collect();
    for request in host.mounts.iter().flatten() {
        check_target(request)?;
        match request.kind.as_str() {
            "bind" => own.push(bind(request)?),
            "volume" => own.push(volume(request)?),
            "tmpfs" => taken.push(clean(&request.target)),
            kind => {
                return Err(Error::not_implemented(format!(
                    "mounts of type {kind} are not available"
                )));
            }
        }
    }
    taken.extend(own.iter().map(|planned| planned.point.destination.clone()));
    let mut seen = BTreeSet::new();
    if let Some(twice) = taken.iter().find(|path| !seen.insert(path.as_str())) {
        return Err(Error::invalid(format!("Duplicate mount point: {twice}")));
    }
    let mut all = from_others(others, &seen)?;
    all.extend(own);
    for path in config.volumes.iter().flatten().map(|(path, _)| path) {
        let destination = destination_of(path)?;
        let is_taken = |planned: &Planned| planned.point.destination == destination;
        if !taken.contains(&destination) && !all.iter().any(is_taken) {
            all.push(anonymous(destination, "", true));
        }
    }
    Ok(all)
}

/// Splits one of `VolumesFrom` into container and mode.
///
/// # Errors
/// 400 for another mode than `ro`, `rw` and labels.
pub(crate) fn parse_volumes_from(text: &str) -> Result<(&str, &str)> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if name.is_empty() {
        return Err(Error::invalid(format!("invalid volumes-from: '{text}'")));
    }
    let is_known = |word: &str| matches!(word, "ro" | "rw" | "z" | "Z");
    if !mode.split(',').all(is_known) {
        return Err(Error::invalid(format!(
            "invalid mode for volumes-from: {mode}"
        )));
    }
    Ok((name, mode))
}

/// Mounts of other containers, the later ones before the earlier where they collide.
fn from_others(
    others: &[(Vec<MountPoint>, String)],
    taken: &BTreeSet<&str>,
) -> Result<Vec<Planned>> {
    let mut all: Vec<Planned> = Vec::new();
    for (mounts, mode) in others {
        let is_read_only = mode.split(',').any(|word| word == "ro");
        for mount in mounts {
            if taken.contains(mount.destination.as_str()) {
                continue;
            }
            let mut point = mount.clone();
            point.rw = point.rw && !is_read_only;
            if let Some(volume) = &mut point.volume {
                volume.copies = false;
            }
            let asked = (point.kind == "volume").then(|| Asked {
                name: point.name.clone(),
                ..Asked::default()
            });
            all.retain(|other| other.point.destination != point.destination);
            all.push(Planned { point, asked });
        }
    }
    Ok(all)
}

/// Makes the sources of `-v` that don't exist, as dockerd does.
///
/// # Errors
/// 400 when one can't be made.
pub(crate) fn prepare<'a>(mounts: impl Iterator<Item = &'a MountPoint>) -> Result<()> {
    for mount in mounts.filter(|mount| mount.kind == "bind") {
        if !Path::new(&mount.source).exists() {
            std::fs::create_dir_all(&mount.source).map_err(|error| {
                Error::invalid(format!("cannot make bind source {}: {error}", mount.source))
            })?;
        }
    }
    Ok(())
}

fn check_target(request: &MountRequest) -> Result<()> {
    let wrong = |reason: &str| {
        Error::invalid(format!(
            "invalid mount config for type {:?}: {reason}",
            request.kind
        ))
    };
    if !request.target.starts_with('/') {
        return Err(wrong(&format!(
            "invalid mount path: '{}' mount path must be absolute",
            request.target
        )));
    }
    if clean(&request.target) == "/" {
        return Err(wrong("invalid specification: destination can't be '/'"));
    }
    Ok(())
}

fn bind(request: &MountRequest) -> Result<Planned> {
    let options = request.bind_options.clone().unwrap_or_default();
    let source = Path::new(&request.source);
    if !source.is_absolute() {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            request.source
        )));
    }
    if !source.exists() && !options.create_mountpoint {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            request.source
        ))
        .with_hint(Some("create it, or use -v, which does".to_owned())));
    }
    let propagation = match options.propagation.as_str() {
        "" => "rprivate",
        known if PROPAGATIONS.contains(&known) => known,
        other => return Err(Error::invalid(format!("invalid propagation {other}"))),
    };
    Ok(Planned {
        point: MountPoint {
            kind: "bind".to_owned(),
            source: request.source.clone(),
            destination: clean(&request.target),
            rw: !request.read_only,
            propagation: propagation.to_owned(),
            ..MountPoint::default()
        },
        asked: None,
    })
}

/// A volume of `--mount`.
fn volume(request: &MountRequest) -> Result<Planned> {
    let wrong = |reason: &str| {
        Error::invalid(format!(
            "invalid mount config for type \"volume\": {reason}"
        ))
    };
    let options = request.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    check_driver(driver.name.as_deref().unwrap_or_default())?;
    if request.source.is_empty() && !options.subpath.is_empty() {
        return Err(wrong("must not set Subpath when using anonymous volumes"));
    }
    let is_inside = |path: &str| {
        !path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains('\0')
    };
    if !is_inside(&options.subpath) {
        return Err(wrong("subpath must be a relative path within the volume"));
    }
    let mut planned = match request.source.as_str() {
        "" => anonymous(clean(&request.target), DEFAULT_MODE, true),
        name => named(name, clean(&request.target), DEFAULT_MODE),
    };
    planned.point.rw = !request.read_only;
    planned.point.volume = planned.point.volume.map(|volume| VolumeUse {
        copies: !options.no_copy && options.subpath.is_empty(),
        subpath: options.subpath,
        ..volume
    });
    planned.asked = planned.asked.map(|asked| Asked {
        labels: options.labels,
        options: driver.options.unwrap_or_default(),
        ..asked
    });
    Ok(planned)
}

fn parse_bind(text: &str) -> Result<Planned> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [destination] => ("", *destination, ""),
        [source, destination] => (*source, *destination, ""),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => return Err(invalid()),
    };
    let is_bare = parts.len() == 1;
    if source.is_empty() != is_bare || !destination.starts_with('/') || clean(destination) == "/" {
        return Err(invalid());
    }
    let mut planned = if is_bare {
        anonymous(clean(destination), mode, true)
    } else if source.starts_with('/') {
        Planned {
            point: MountPoint {
                kind: "bind".to_owned(),
                source: clean(source),
                destination: clean(destination),
                mode: mode.to_owned(),
                rw: true,
                propagation: "rprivate".to_owned(),
                ..MountPoint::default()
            },
            asked: None,
        }
    } else {
        let shown = if mode.is_empty() { DEFAULT_MODE } else { mode };
        named(source, clean(destination), shown)
    };
    let point = &mut planned.point;
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match (option, &mut point.volume) {
            ("ro" | "readonly", _) => point.rw = false,
            ("rw", _) => {}
            (known, None) if PROPAGATIONS.contains(&known) => {
                known.clone_into(&mut point.propagation);
            }
            (known, Some(volume)) if NO_COPY.contains(&known) => volume.copies = false,
            (known, _) if IGNORED.contains(&known) || NO_COPY.contains(&known) => {}
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(planned)
}

fn named(name: &str, destination: String, mode: &str) -> Planned {
    let mut planned = anonymous(destination, mode, false);
    planned.asked = Some(Asked {
        name: name.to_owned(),
        ..Asked::default()
    });
    planned
}

fn anonymous(destination: String, mode: &str, is_anonymous: bool) -> Planned {
    Planned {
        point: MountPoint {
            kind: "volume".to_owned(),
            destination,
            driver: DRIVER.to_owned(),
            mode: mode.to_owned(),
            rw: true,
            volume: Some(VolumeUse {
                is_anonymous,
                copies: true,
                subpath: String::new(),
            }),
            ..MountPoint::default()
        },
        asked: Some(Asked::default()),
    }
}

fn destination_of(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    match clean(path).as_str() {
        "/" => Err(Error::invalid(
            "invalid specification: destination can't be '/'",
        )),
        path => Ok(path.to_owned()),
    }
}

/// Refuses another driver than the only one.
///
/// # Errors
/// 400: a 404 would make clients pull the image.
pub(crate) fn check_driver(name: &str) -> Result<()> {
    match name {
        "" | DRIVER => Ok(()),
        other => Err(Error::invalid(format!(
            "error looking up volume plugin {other}: plugin {other:?} not found"
        ))),
    }
}

/// Removes doubled and trailing slashes and `.`; `..` goes up.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
