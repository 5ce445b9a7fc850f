//! Bind mounts out of `Binds` and `Mounts`, checked.

use std::path::Path;

use super::record::MountPoint;
use crate::{
    error::{Error, Result},
    types::HostConfig,
};

/// Options of `-v` that change nothing here.
const IGNORED: &[&str] = &[
    "z",
    "Z",
    "consistent",
    "cached",
    "delegated",
    "nocopy",
    "volume-nocopy",
];
const PROPAGATIONS: &[&str] = &[
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Reads all bind mounts; sources of `-v` that don't exist are to be made by [`prepare`].
///
/// # Errors
/// 400 when one is malformed, its source of `--mount` is missing, or two have the same destination;
/// 501 for named volumes.
pub(crate) fn collect(host: &HostConfig) -> Result<Vec<MountPoint>> {
    let mut mounts = Vec::new();
    for bind in host.binds.iter().flatten() {
        mounts.push(parse_bind(bind)?);
    }
    for request in host.mounts.iter().flatten() {
        if !request.target.starts_with('/') {
            return Err(Error::invalid(format!(
                "invalid mount config for type {:?}: invalid mount path: '{}' mount path must be absolute",
                request.kind, request.target
            )));
        }
        match request.kind.as_str() {
            "bind" => {}
            "tmpfs" => continue,
            "volume" => return Err(no_volumes(&request.source)),
            kind => {
                return Err(Error::not_implemented(format!(
                    "mounts of type {kind} are not available"
                )));
            }
        }
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
        mounts.push(MountPoint {
            kind: "bind".to_owned(),
            source: request.source.clone(),
            destination: clean(&request.target),
            rw: !request.read_only,
            propagation: propagation.to_owned(),
            ..MountPoint::default()
        });
    }
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index]
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            return Err(Error::invalid(format!(
                "Duplicate mount point: {}",
                mount.destination
            )));
        }
    }
    Ok(mounts)
}

/// Makes the sources of `-v` that don't exist, as dockerd does.
///
/// # Errors
/// 400 when one can't be made.
pub(crate) fn prepare(mounts: &[MountPoint]) -> Result<()> {
    for mount in mounts {
        if !Path::new(&mount.source).exists() {
            std::fs::create_dir_all(&mount.source).map_err(|error| {
                Error::invalid(format!("cannot make bind source {}: {error}", mount.source))
            })?;
        }
    }
    Ok(())
}

fn parse_bind(text: &str) -> Result<MountPoint> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [source, destination] => (*source, *destination, ""),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => return Err(invalid()),
    };
    if source.is_empty() || !destination.starts_with('/') || clean(destination) == "/" {
        return Err(invalid());
    }
    if !source.starts_with('/') {
        return Err(no_volumes(source));
    }
    let mut mount = MountPoint {
        kind: "bind".to_owned(),
        source: clean(source),
        destination: clean(destination),
        mode: mode.to_owned(),
        rw: true,
        propagation: "rprivate".to_owned(),
        ..MountPoint::default()
    };
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => mount.rw = false,
            "rw" => {}
            known if PROPAGATIONS.contains(&known) => known.clone_into(&mut mount.propagation),
            known if IGNORED.contains(&known) => {}
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(mount)
}

fn no_volumes(name: &str) -> Error {
    Error::not_implemented(format!("named volumes are not available yet: {name}"))
        .with_hint(Some("mount a directory by its absolute path".to_owned()))
}

/// Removes doubled and trailing slashes and `.`; `..` goes up.
fn clean(path: &str) -> String {
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
mod tests {
    use super::*;

    #[test]
    fn binds_are_read() {
        let mount = parse_bind("/a//b/:/c/../d:ro,rslave,z").unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.destination.as_str()),
            ("/a/b", "/d")
        );
        assert!(!mount.rw);
        assert_eq!(mount.propagation, "rslave");
        for bad in ["", "/a", "/a:b", "/a:/", "/a:/b:huh", "a:b:c:d", ":/b"] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
        assert!(
            parse_bind("data:/d")
                .unwrap_err()
                .to_string()
                .contains("named volumes")
        );
    }

    #[test]
    fn duplicates_and_missing_sources_are_refused() {
        let host = HostConfig {
            binds: Some(vec!["/a:/x".into(), "/b:/x/".into()]),
            ..HostConfig::default()
        };
        assert_eq!(
            collect(&host).unwrap_err().to_string(),
            "Duplicate mount point: /x"
        );
    }
}
