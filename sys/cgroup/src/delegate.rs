//! Handing a cgroup to somebody who divides it further.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::Error;

/// The named hierarchy of service managers.
const NAMED: &str = "name=systemd";

/// Gives the container's root what it needs to make and fill cgroups below its own, and none of the limits on it.
///
/// Kernel: Documentation/admin-guide/cgroup-v2.rst, "Delegation"; the list of files is `/sys/kernel/cgroup/delegate`.
pub(crate) fn to(paths: &BTreeMap<String, PathBuf>, uid: u32, gid: u32) -> Result<(), Error> {
    if let Some(folder) = paths.get("") {
        let list = fs::read_to_string("/sys/kernel/cgroup/delegate");
        // Before Linux 4.15 there is no list.
        let list = list.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\n".to_owned());
        give(folder, list.lines(), uid, gid)?;
    } else if let Some(folder) = paths.get(NAMED) {
        let files = ["cgroup.procs", "tasks", "cgroup.clone_children"];
        give(folder, files.into_iter(), uid, gid)?;
    }
    Ok(())
}

fn give<'a>(
    folder: &Path,
    files: impl Iterator<Item = &'a str>,
    uid: u32,
    gid: u32,
) -> Result<(), Error> {
    let one = |path: PathBuf, may_lack: bool| match chown(&path, Some(uid), Some(gid)) {
        Err(error) if may_lack && error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Write {
            path,
            value: format!("owner {uid}:{gid}"),
            source,
        }),
        Ok(()) => Ok(()),
    };
    one(folder.to_path_buf(), false)?;
    for file in files.filter(|file| !file.is_empty() && !file.contains('/')) {
        // The list names files of all controllers, each cgroup has those of its own.
        one(folder.join(file), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn limits_stay_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cgroup.procs", "cgroup.subtree_control", "memory.max"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let own = fs::metadata(folder.path()).unwrap().uid();
        let paths = BTreeMap::from([(String::new(), folder.path().to_path_buf())]);
        to(&paths, 70_000, 70_001).unwrap();
        let owner = |name: &str| fs::metadata(folder.path().join(name)).unwrap().uid();
        assert_eq!(owner(""), 70_000);
        assert_eq!(owner("cgroup.procs"), 70_000);
        assert_eq!(owner("cgroup.subtree_control"), 70_000);
        assert_eq!(owner("memory.max"), own);
        let gone = BTreeMap::from([(String::new(), folder.path().join("gone"))]);
        assert!(to(&gone, 1, 1).unwrap_err().to_string().contains("gone"));
    }
}
