//! The options of the driver `local`: what mount(2) is told when a volume is no plain folder.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    net::{IpAddr, ToSocketAddrs as _},
    path::Path,
};

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::error::{Error, ErrorKind, Result};

/// Options the driver has.
const KNOWN: [&str; 4] = ["type", "o", "device", "size"];
/// Words in `o` that are flags of mount(2): set or cleared.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("bind", MountFlags::BIND, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
];

/// A file system to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filesystem {
    kind: String,
    device: String,
    flags: MountFlags,
    data: Vec<String>,
}

impl Filesystem {
    /// Reads the options; none for a plain folder.
    ///
    /// # Errors
    /// 400 in dockerd's words when one is unknown or missing; 501 for `size`.
    pub(super) fn read(name: &str, options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let refused = |reason: String| Error::invalid(format!("create {name}: {reason}"));
        if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(refused(format!("invalid option: {unknown:?}")));
        }
        if options.contains_key("size") {
            return Err(Error::not_implemented(format!(
                "create {name}: quota size requested but no quota support"
            ))
            .with_hint(Some(
                "a volume in memory has a size: --opt type=tmpfs --opt device=tmpfs --opt o=size=100m"
                    .to_owned(),
            )));
        }
        if options.is_empty() {
            return Ok(None);
        }
        let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        for key in ["type", "device"] {
            if option(key).is_empty() {
                return Err(refused(format!("missing required option: {key:?}")));
            }
        }
        let mut filesystem = Self {
            kind: option("type").to_owned(),
            device: option("device").to_owned(),
            flags: MountFlags::empty(),
            data: Vec::new(),
        };
        for word in option("o").split(',').filter(|word| !word.is_empty()) {
            match FLAGS.iter().find(|(known, _, _)| *known == word) {
                Some((_, flag, is_set)) => filesystem.flags.set(*flag, *is_set),
                None if word == "defaults" => {}
                None => filesystem.data.push(word.to_owned()),
            }
        }
        if filesystem.is_bind() && !Path::new(&filesystem.device).is_absolute() {
            return Err(refused(format!(
                "the device of a bind mount is an absolute path, not {:?}",
                filesystem.device
            )));
        }
        let texts = [&filesystem.kind, &filesystem.device];
        if texts
            .into_iter()
            .chain(&filesystem.data)
            .any(|text| text.contains('\0'))
        {
            return Err(refused("an option contains a zero byte".to_owned()));
        }
        Ok(Some(filesystem))
    }

    fn is_bind(&self) -> bool {
        self.flags.contains(MountFlags::BIND)
    }

    /// What it is called in messages: `tmpfs tmpfs`, `nfs server:/path`.
    fn words(&self) -> String {
        format!("{} {}", self.kind, self.device)
    }

    /// Mounts it at `target`.
    ///
    /// # Errors
    /// 500 with the kernel's errno, or when the address of a server can't be found.
    pub(super) fn mount(&self, target: &Path) -> Result<()> {
        let data = self.data_with_address()?.join(",");
        let text = |text: &str| {
            CString::new(text).map_err(|_| Error::internal("an option contains a zero byte"))
        };
        let data = text(&data)?;
        let data: Option<&CStr> = (!data.is_empty()).then_some(&data);
        let failed = |errno: rustix::io::Errno| {
            let mut error = Error::caused(
                ErrorKind::Internal,
                format!(
                    "failed to mount local volume: mount {}:{}",
                    self.words(),
                    target.display()
                ),
                &std::io::Error::from(errno),
            );
            if self.is_bind() && errno == rustix::io::Errno::NOENT {
                error = error.with_hint(Some(format!("create {} first", self.device)));
            } else if errno == rustix::io::Errno::NODEV {
                let hint = format!("this kernel has no file system {}", self.kind);
                error = error.with_hint(Some(hint));
            }
            error
        };
        rustix::mount::mount(
            text(&self.device)?,
            target,
            text(&self.kind)?,
            self.flags,
            data,
        )
        .map_err(failed)?;
        // The kernel takes no other flag together with a bind.
        let more = self.flags.difference(MountFlags::BIND | MountFlags::REC);
        if self.is_bind() && !more.is_empty() {
            let remounted =
                rustix::mount::mount_remount(target, more | MountFlags::BIND, data.unwrap_or(c""));
            remounted.map_err(|errno| {
                unmount(target);
                failed(errno)
            })?;
        }
        // What containers mount below it must not come back to the host.
        rustix::mount::mount_change(target, MountPropagationFlags::PRIVATE).map_err(|errno| {
            unmount(target);
            failed(errno)
        })
    }

    /// The data, with the name in `addr=` looked up: the kernel wants a number.
    fn data_with_address(&self) -> Result<Vec<String>> {
        let resolve = |word: &String| {
            let name = match word.strip_prefix("addr=") {
                Some(name) if name.parse::<IpAddr>().is_err() => name,
                _ => return Ok(word.clone()),
            };
            let found = (name, 0).to_socket_addrs().map_err(|error| {
                let context = format!("error resolving passed in network volume address {name}");
                Error::caused(ErrorKind::Internal, context, &error)
            })?;
            let first = found.map(|address| address.ip()).next();
            first
                .map(|address| format!("addr={address}"))
                .ok_or_else(|| Error::internal(format!("{name} has no address")))
        };
        self.data.iter().map(resolve).collect()
    }
}

/// Takes the mount at `target` away, at once for new look-ups.
pub(super) fn unmount(target: &Path) {
    let detach = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    if let Err(error) = rustix::mount::unmount(target, detach) {
        tracing::warn!(path = %target.display(), %error, "cannot unmount a volume");
    }
}

/// Whether something is mounted at `target`.
pub(super) fn is_mounted(target: &Path) -> bool {
    let attribute = rustix::fs::StatxAttributes::MOUNT_ROOT;
    rustix::fs::statx(
        rustix::fs::CWD,
        target,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        rustix::fs::StatxFlags::TYPE,
    )
    .is_ok_and(|found| found.stx_attributes.contains(attribute))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Option<Filesystem>> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Filesystem::read("data", &options.iter().map(owned).collect())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        assert_eq!(read(&[]).unwrap(), None);
        let tmpfs = read(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,uid=7,ro,noexec,exec,defaults"),
        ]);
        let tmpfs = tmpfs.unwrap().unwrap();
        assert_eq!(tmpfs.data, ["size=1m", "uid=7"]);
        assert_eq!(tmpfs.flags, MountFlags::RDONLY);
        let bind = read(&[("type", "none"), ("device", "/srv"), ("o", "rbind")]);
        assert!(bind.unwrap().unwrap().is_bind());
    }

    #[test]
    fn numbers_are_left_and_names_looked_up() {
        let nfs = |o: &str| {
            let nfs = read(&[("type", "nfs"), ("device", ":/x"), ("o", o)]);
            nfs.unwrap().unwrap().data_with_address()
        };
        assert_eq!(
            nfs("addr=10.0.0.1,nfsvers=4").unwrap(),
            ["addr=10.0.0.1", "nfsvers=4"]
        );
        assert!(nfs("addr=no.such.name.invalid").is_err());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_at_once() {
        let words = |options: &[(&str, &str)]| read(options).unwrap_err().to_string();
        assert_eq!(
            words(&[("color", "red")]),
            "create data: invalid option: \"color\""
        );
        assert_eq!(
            words(&[("o", "ro")]),
            "create data: missing required option: \"type\""
        );
        assert_eq!(
            words(&[("type", "nfs")]),
            "create data: missing required option: \"device\""
        );
        assert!(words(&[("size", "1g")]).contains("no quota support"));
        assert!(words(&[("type", "none"), ("device", "srv"), ("o", "bind")]).contains("absolute"));
        assert!(words(&[("type", "a\0b"), ("device", "x")]).contains("zero byte"));
    }
}
