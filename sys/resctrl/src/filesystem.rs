//! A mounted resctrl file system.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A resctrl file system and what it can share out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resctrl {
    root: PathBuf,
    resources: BTreeSet<String>,
}

impl Resctrl {
    /// Looks for the first one mounted; `None` when the processor, the kernel or the administrator has none.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Some(Self::at(&place(&mounts)?))
    }

    /// The one at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        let entries = fs::read_dir(root.join("info")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Self {
            root: root.to_owned(),
            resources: names.collect(),
        }
    }

    /// One that isn't looked at, for plans.
    ///
    /// * `resources`: names below `info`: `L3`, `MB`, `L3_MON`, …
    #[must_use]
    pub fn with_resources<const N: usize>(root: impl Into<PathBuf>, resources: [&str; N]) -> Self {
        Self {
            root: root.into(),
            resources: resources.map(str::to_owned).into(),
        }
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it knows a resource: `L3` (caches), `MB` (bandwidth), `L3_MON` (measuring).
    #[must_use]
    pub fn has(&self, resource: &str) -> bool {
        self.resources.contains(resource)
    }
}

/// The first mountpoint of a resctrl file system by mountinfo (proc_pid_mountinfo(5)).
fn place(mountinfo: &str) -> Option<PathBuf> {
    let mut lines = mountinfo.lines().filter(|line| {
        let kind = line.split_once(" - ").map(|(_, kind)| kind);
        kind.is_some_and(|kind| kind.starts_with("resctrl "))
    });
    let place = lines.next()?.split(' ').nth(4)?;
    // Spaces and the like are written as octal numbers.
    let mut text = String::with_capacity(place.len());
    let mut rest = place;
    while let Some((before, after)) = rest.split_once('\\') {
        let digits = after.get(..3)?;
        text.push_str(before);
        text.push(u8::from_str_radix(digits, 8).ok()?.into());
        rest = &after[3..];
    }
    text.push_str(rest);
    Some(text.into())
}

/// What the kernel says of the last command on the file system below `root`; `None` when all is well.
pub(crate) fn last_status(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("info/last_cmd_status")).ok()?;
    let text = text.trim();
    let is_said = !text.is_empty() && text != "ok";
    is_said.then(|| text.replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_by_its_type() {
        let mounts = "22 27 0:20 / /sys rw shared:7 - sysfs sysfs rw\n\
            30 22 0:21 / /resctrl rw - tmpfs resctrl rw\n\
            31 22 0:22 / /sys/fs/res\\040ctrl rw shared:9 - resctrl resctrl rw\n";
        assert_eq!(place(mounts), Some("/sys/fs/res ctrl".into()));
        assert_eq!(place("31 22 0:22 / /a rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn resources_are_the_folders_of_info() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("info/L3")).unwrap();
        let resctrl = Resctrl::at(root.path());
        assert!(resctrl.has("L3") && !resctrl.has("MB"));
        assert_eq!(last_status(root.path()), None);
        fs::write(root.path().join("info/last_cmd_status"), "ok\n").unwrap();
        assert_eq!(last_status(root.path()), None);
        let words = "Mask 0x5 has non-consecutive 1-bits\nsecond\n";
        fs::write(root.path().join("info/last_cmd_status"), words).unwrap();
        let said = last_status(root.path()).unwrap();
        assert_eq!(said, "Mask 0x5 has non-consecutive 1-bits; second");
    }
}
