//! A container's folder below the state root: what is remembered of it.
//!
//! Format: docs/formats/runtime-state.md.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use atoll_spec::{Hook, MemoryPolicy, NamespaceKind};
use serde::{Deserialize, Serialize};

use crate::ContainerId;
use crate::error::{Error, Result};
use crate::plan::{SeccompListener, SeccompPlan};

/// The only version of the format.
const VERSION: u32 = 1;

/// What `state.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this format.
    pub(crate) version: u32,
    /// Version of the specification the bundle follows.
    pub(crate) oci_version: String,
    /// The container's id.
    pub(crate) id: String,
    /// Absolute path of the bundle.
    pub(crate) bundle: PathBuf,
    /// Absolute path of the root file system's folder.
    pub(crate) rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// The first process in the runtime's PID namespace; 0 until there is one.
    pub(crate) pid: u32,
    /// When that process was started, in clock ticks since boot: tells it from a later one with
    /// the same pid.
    pub(crate) start_ticks: u64,
    /// Folder by controller; `""` is cgroup2.
    pub(crate) cgroup: BTreeMap<String, PathBuf>,
    /// The unit of systemd's that it is made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) systemd_unit: Option<SystemdUnit>,
    /// Its share of caches and memory bandwidth, which later processes join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resctrl: Option<atoll_resctrl::Group>,
    /// Namespaces later processes join.
    pub(crate) namespaces: Vec<NamespaceKind>,
    /// The PID namespace among them is another container's, too: the end of the first process ends no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shares_pids: bool,
    /// The process is the monitor of the machine it lives in, or that one's keeper.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) in_machine: bool,
    /// Id of the mount at `rootfs` that is its root, in a mount namespace that others use too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs_mount: Option<u64>,
    /// Flags of the filter in `seccomp.bpf`; absent without a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp_flags: Option<u64>,
    /// Who decides calls that filter leaves open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp_listener: Option<SeccompListener>,
    /// Execution domain, of later processes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<u64>,
    /// Memory policy, of later processes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<MemoryPolicy>,
    /// AppArmor profile of the first process, and of later ones without one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) apparmor_profile: Option<String>,
    /// SELinux label of the first process, and of later ones without one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux_label: Option<String>,
    /// What the first process' standard streams are, as `/proc/<pid>/fd` says; empty with a terminal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) streams: Vec<String>,
    /// Annotations of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Hooks to run after the program is executed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    /// Hooks to run after the container is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

/// A unit of systemd's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SystemdUnit {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is the system's, not the user's.
    pub(crate) is_system: bool,
}

impl Record {
    /// Whether the kernel ends all the container's processes along with its first.
    pub(crate) fn ends_with_first(&self) -> bool {
        self.namespaces.contains(&NamespaceKind::Pid) && !self.shares_pids
    }

    /// A record of a container without processes.
    pub(crate) fn new(id: &ContainerId) -> Self {
        Self {
            version: VERSION,
            oci_version: String::new(),
            id: id.to_string(),
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            created: jiff::Timestamp::now().to_string(),
            pid: 0,
            start_ticks: 0,
            cgroup: BTreeMap::new(),
            systemd_unit: None,
            resctrl: None,
            namespaces: Vec::new(),
            shares_pids: false,
            in_machine: false,
            rootfs_mount: None,
            seccomp_flags: None,
            seccomp_listener: None,
            personality: None,
            memory_policy: None,
            apparmor_profile: None,
            selinux_label: None,
            streams: Vec::new(),
            annotations: BTreeMap::new(),
            poststart: Vec::new(),
            poststop: Vec::new(),
        }
    }
}

/// The folder; removed when dropped unless kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// Makes the folder of a new container; this claims its id.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::File`].
    pub(crate) fn make(state_root: &Path, id: &ContainerId) -> Result<Self> {
        let path = folder_of(state_root, id);
        let make = |path: &Path| fs::DirBuilder::new().mode(0o711).create(path);
        let mut outcome = make(&path);
        if outcome
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            let root = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(state_root);
            outcome = root.and_then(|()| make(&path));
        }
        match outcome {
            Ok(()) => Ok(Self { path, keep: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists(id.clone()))
            }
            Err(source) => Err(file("make", &path, source)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = remove(&self.path);
        }
    }
}

/// Removes a container's folder; one that is gone is fine.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", folder, error)),
        _ => Ok(()),
    }
}

/// The folder of container `id`.
pub(crate) fn folder_of(state_root: &Path, id: &ContainerId) -> PathBuf {
    state_root.join(id.as_str())
}

/// The fifo a created container waits at; it exists until the container is started.
pub(crate) fn fifo_path(folder: &Path) -> PathBuf {
    folder.join("exec.fifo")
}

/// Where a container says why its program couldn't be executed after a start by fifo.
pub(crate) fn report_path(folder: &Path) -> PathBuf {
    folder.join("exec.error")
}

/// Folder of the files a container finds below `/run/host`.
pub(crate) fn host_path(folder: &Path) -> PathBuf {
    folder.join("host")
}

/// Makes those files, readable for everybody; nothing without any.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn write_host(folder: &Path, files: &[(&str, String)]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().mode(0o755).create(folder);
    // Whatever the umask: the container's root may be nobody on the host.
    made.and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .map_err(|source| file("make", folder, source))?;
    for (name, text) in files {
        let path = folder.join(name);
        atoll_sys::file::replace(&path, text.as_bytes(), 0o644)
            .map_err(|source| file("write", &path, source))?;
    }
    Ok(())
}

/// Replaces `state.json`. Not synced to disk: after a power failure the container is gone too.
pub(crate) fn write(folder: &Path, record: &Record) -> Result<()> {
    let path = folder.join("state.json");
    let text = serde_json::to_vec(record).map_err(|error| file("write", &path, error.into()))?;
    atoll_sys::file::replace(&path, &text, 0o600).map_err(|source| file("write", &path, source))
}

/// Reads `state.json`; `None` when there is none.
pub(crate) fn read(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join("state.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file("read", &path, source)),
    };
    let record =
        serde_json::from_slice(&text).map_err(|error| file("read", &path, error.into()))?;
    Ok(Some(record))
}

/// Keeps a compiled filter for later processes.
pub(crate) fn write_seccomp(folder: &Path, seccomp: &SeccompPlan) -> Result<()> {
    let path = folder.join("seccomp.bpf");
    fs::write(&path, seccomp.program.as_flattened()).map_err(|source| file("write", &path, source))
}

/// Reads the compiled filter back.
pub(crate) fn read_seccomp(
    folder: &Path,
    flags: u64,
    listener: Option<SeccompListener>,
) -> Result<SeccompPlan> {
    let path = folder.join("seccomp.bpf");
    let bytes = fs::read(&path).map_err(|source| file("read", &path, source))?;
    let (instructions, _) = bytes.as_chunks::<8>();
    Ok(SeccompPlan {
        program: instructions.to_vec(),
        flags,
        listener,
    })
}

pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_claims_the_id_and_vanishes_unless_kept() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        let id: ContainerId = "web".parse().unwrap();
        let folder = Folder::make(&deep, &id).unwrap();
        assert!(matches!(
            Folder::make(&deep, &id),
            Err(Error::AlreadyExists(_))
        ));
        write(folder.path(), &Record::new(&id)).unwrap();
        drop(folder);
        assert!(!deep.join("web").exists());
        Folder::make(&deep, &id).unwrap().keep();
        assert!(deep.join("web").exists());
    }

    #[test]
    fn records_and_filters_round_trip() {
        let root = tempfile::tempdir().unwrap();
        let mut record = Record::new(&"web".parse().unwrap());
        record.namespaces = vec![NamespaceKind::Pid];
        record
            .cgroup
            .insert("memory".to_owned(), "/sys/fs/cgroup/memory/x".into());
        write(root.path(), &record).unwrap();
        assert_eq!(read(root.path()).unwrap(), Some(record));
        let seccomp = SeccompPlan {
            program: vec![[1; 8], [2; 8]],
            flags: 6,
            listener: None,
        };
        write_seccomp(root.path(), &seccomp).unwrap();
        assert_eq!(read_seccomp(root.path(), 6, None).unwrap(), seccomp);
    }
}
