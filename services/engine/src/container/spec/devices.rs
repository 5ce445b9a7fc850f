//! Device nodes and device cgroup rules.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    error::{Error, ErrorKind, Result},
    types::HostConfig,
};

/// A host device a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// In the container.
    pub(crate) path: String,
    /// `c` or `b`.
    pub(crate) kind: char,
    /// Major number.
    pub(crate) major: u64,
    /// Minor number.
    pub(crate) minor: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Some of `rwm`.
    pub(crate) access: String,
}

impl HostDevice {
    /// The OCI form.
    pub(crate) fn spec(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    /// The device cgroup rule that allows it.
    pub(crate) fn rule(&self) -> Value {
        json!({
            "allow": true, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "access": self.access,
        })
    }
}

/// Reads the devices `config` asks for: all of /dev when privileged, else those of `--device`.
///
/// # Errors
/// 400 when a named device doesn't exist or isn't one.
pub(crate) fn collect(config: &HostConfig) -> Result<Vec<HostDevice>> {
    let mut found = Vec::new();
    if config.privileged {
        walk(Path::new("/dev"), "/dev", "rwm", &mut found);
    }
    for device in &config.resources.devices {
        let host = Path::new(&device.path_on_host);
        let inside = match device.path_in_container.as_str() {
            "" => device.path_on_host.as_str(),
            path => path,
        };
        let access = match device.cgroup_permissions.as_str() {
            "" => "rwm",
            access if access.bytes().all(|letter| b"rwm".contains(&letter)) => access,
            access => {
                return Err(Error::invalid(format!(
                    "invalid device permissions {access}"
                )));
            }
        };
        let failed = |error: &io::Error| {
            Error::caused(
                ErrorKind::InvalidParameter,
                format!(
                    "error gathering device information while adding custom device \"{}\"",
                    host.display()
                ),
                error,
            )
        };
        let metadata = fs::metadata(host).map_err(|error| failed(&error))?;
        if metadata.is_dir() {
            walk(host, inside, access, &mut found);
        } else {
            let device = from_metadata(inside, &metadata, access)
                .ok_or_else(|| failed(&io::Error::other("not a device node")))?;
            found.push(device);
        }
    }
    Ok(found)
}

/// Collects the device nodes below `directory`; what vanishes meanwhile is left out.
fn walk(directory: &Path, inside: &str, access: &str, found: &mut Vec<HostDevice>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Made for each container by itself.
        let own = matches!(
            &*name,
            "pts" | "shm" | "fd" | "mqueue" | "console" | "ptmx" | "stdin"
        ) || name.starts_with(".lxc")
            || name.starts_with(".udev");
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if own || kind.is_symlink() {
            continue;
        }
        let inside = format!("{inside}/{name}");
        if kind.is_dir() {
            walk(&entry.path(), &inside, access, found);
        } else if let Ok(metadata) = entry.metadata()
            && let Some(device) = from_metadata(&inside, &metadata, access)
        {
            found.push(device);
        }
    }
}

fn from_metadata(path: &str, metadata: &fs::Metadata, access: &str) -> Option<HostDevice> {
    let kind = if metadata.file_type().is_char_device() {
        'c'
    } else if metadata.file_type().is_block_device() {
        'b'
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(HostDevice {
        path: path.to_owned(),
        kind,
        // Kernel: new_encode_dev in include/linux/kdev_t.h, as glibc's makedev splits it.
        major: ((number >> 8) & 0xfff) | ((number >> 32) & !0xfff),
        minor: (number & 0xff) | ((number >> 12) & !0xff),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// Docker's default device rules, then those of `devices` and `--device-cgroup-rule`.
///
/// # Errors
/// 400 when a rule isn't `TYPE MAJOR:MINOR ACCESS`.
pub(crate) fn rules(config: &HostConfig, devices: &[HostDevice]) -> Result<Vec<Value>> {
    if config.privileged {
        return Ok(vec![json!({ "allow": true, "access": "rwm" })]);
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    let mut allow = |kind: &str, major: Option<u64>, minor: Option<u64>, access: &str| {
        let mut rule = json!({ "allow": true, "type": kind, "access": access });
        if let Some(major) = major {
            rule["major"] = major.into();
        }
        if let Some(minor) = minor {
            rule["minor"] = minor.into();
        }
        rules.push(rule);
    };
    allow("c", None, None, "m");
    allow("b", None, None, "m");
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        allow("c", Some(major), Some(minor), "rwm");
    }
    allow("c", Some(136), None, "rwm");
    rules.extend(devices.iter().map(HostDevice::rule));
    for text in config.resources.device_cgroup_rules.iter().flatten() {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

fn parse_rule(text: &str) -> Result<Value> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if !matches!(kind, "a" | "b" | "c") || !access.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(bad());
    }
    let mut rule = json!({ "allow": true, "type": kind, "access": access });
    for (key, number) in [("major", major), ("minor", minor)] {
        if number != "*" {
            rule[key] = number.parse::<u64>().map_err(|_| bad())?.into();
        }
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_device_is_read_from_the_host() {
        let metadata = fs::metadata("/dev/null").unwrap();
        let device = from_metadata("/dev/null", &metadata, "rw").unwrap();
        assert_eq!((device.kind, device.major, device.minor), ('c', 1, 3));
        assert!(from_metadata("/", &fs::metadata("/").unwrap(), "r").is_none());
    }

    #[test]
    fn rules_are_parsed() {
        assert_eq!(
            parse_rule("c 42:* rmw").unwrap(),
            json!({ "allow": true, "type": "c", "access": "rmw", "major": 42 })
        );
        for bad in [
            "",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 q",
            "c 1:3 r x",
            "c a:b r",
        ] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
