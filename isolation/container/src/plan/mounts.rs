//! Which mounts a container gets.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use atoll_spec::{IdMapping, Mount};
use atoll_sys::mount::{Attributes, Propagation};

use super::options::Options;
use super::{c_string, fault};
use crate::error::Result;

/// One mount of a container besides its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Where inside the container, absolute, without `.` and `..`.
    pub destination: CString,
    /// What is mounted.
    pub source: MountSource,
    /// Attributes to set.
    pub set: Attributes,
    /// Attributes to clear.
    pub clear: Attributes,
    /// Attributes to set on the mount and those below it.
    pub set_recursive: Attributes,
    /// Attributes to clear on the mount and those below it.
    pub clear_recursive: Attributes,
    /// Propagation to set, and whether of those below too.
    pub propagation: Vec<(Propagation, bool)>,
    /// How ids on it are shifted.
    pub id_map: Option<IdMapPlan>,
}

/// How ids on a mount are shifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMapPlan {
    /// By what.
    pub by: IdShiftSource,
    /// Whether on mounts below it too.
    pub recursive: bool,
}

/// What ids on a mount are shifted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdShiftSource {
    /// User and group ids, as lines of uid_map and gid_map.
    Maps {
        /// By which user ids.
        uids: String,
        /// By which group ids.
        gids: String,
    },
    /// The mappings of the user namespace behind this file, which the container joins.
    Joined(PathBuf),
}

/// The mappings of a container's own user namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnMap<'a> {
    /// User and group ids of one that is made.
    pub(super) maps: (&'a [IdMapping], &'a [IdMapping]),
    /// The file of one that is joined.
    pub(super) joined: Option<&'a Path>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A part of the caller's file tree.
    Bind {
        /// Absolute path.
        path: CString,
        /// Whether mounts below it come along.
        recursive: bool,
    },
    /// A new superblock.
    Filesystem {
        /// File system type.
        kind: CString,
        /// Settings, words without value included.
        settings: Vec<(CString, Option<CString>)>,
        /// Whether what the image has there is copied in.
        copy_up: bool,
    },
    /// The container's own control groups: on v1 a tmpfs with one bind mount per hierarchy, on v2
    /// one bind mount.
    Cgroup {
        /// Names below the destination and folders mounted there; one with an empty name on v2.
        folders: Vec<(CString, CString)>,
        /// Symlinks from single controllers to the hierarchy that has several, name and target.
        links: Vec<(CString, CString)>,
    },
}

/// The mounts of `list`.
///
/// * `bundle`: absolute; relative bind sources start there.
/// * `rootfs`: absolute; a destination below it is meant from there on, as runc has it.
/// * `own_map`: of the container's user namespace.
/// * `cgroups`: what a mount of type `cgroup` shows, a [`MountSource::Cgroup`].
/// * `label`: SELinux label of what is on new file systems.
///
/// # Errors
/// [`crate::Error::Plan`] for what can't be mounted.
pub(super) fn plan(
    list: &[Mount],
    (bundle, rootfs): (&Path, &Path),
    cgroups: &MountSource,
    own_map: OwnMap<'_>,
    label: Option<&CStr>,
) -> Result<Vec<MountPlan>> {
    let mut plans = Vec::with_capacity(list.len());
    for (idx, mount) in list.iter().enumerate() {
        let field = format!("mounts[{idx}]");
        let options = Options::parse(mount.options.iter().map(String::as_str));
        let kind = mount.kind.as_deref().unwrap_or_default();
        let is_bind = kind == "bind" || options.bind.is_some();
        let source = if is_bind {
            bind_source(&field, mount, bundle, options.bind.unwrap_or(false))?
        } else if matches!(kind, "cgroup" | "cgroup2") {
            cgroups.clone()
        } else {
            filesystem(&field, kind, mount, &options, label)?
        };
        let id_map = id_map(&field, mount, &options, own_map)?;
        if id_map.is_some() && !is_bind {
            return fault(&field, "only bind mounts can be idmapped");
        }
        if options.copy_up && (is_bind || kind != "tmpfs") {
            return fault(&field, "tmpcopyup is for tmpfs only");
        }
        plans.push(MountPlan {
            id_map,
            destination: clean(&field, below(rootfs, &mount.destination))?,
            source,
            set: options.set,
            clear: options.clear,
            set_recursive: options.set_recursive,
            clear_recursive: options.clear_recursive,
            propagation: options.propagation,
        });
    }
    Ok(plans)
}

/// `destination` without `rootfs` in front.
fn below<'a>(rootfs: &Path, destination: &'a Path) -> &'a Path {
    let is_root = rootfs.parent().is_none();
    match destination.strip_prefix(rootfs) {
        Ok(below) if !is_root => below,
        _ => destination,
    }
}

/// Its own mappings, or for mounts that only ask to be shifted the container's.
fn id_map(
    field: &str,
    mount: &Mount,
    options: &Options,
    own: OwnMap<'_>,
) -> Result<Option<IdMapPlan>> {
    let recursive = options.idmap.unwrap_or(false);
    let (uids, gids) = match (mount.uid_mappings.is_empty(), options.idmap, own.joined) {
        (true, None, _) => return Ok(None),
        (true, Some(_), Some(path)) => {
            let by = IdShiftSource::Joined(path.to_owned());
            return Ok(Some(IdMapPlan { by, recursive }));
        }
        (true, Some(_), None) => own.maps,
        (false, ..) => (&mount.uid_mappings[..], &mount.gid_mappings[..]),
    };
    if uids.is_empty() || gids.is_empty() {
        return fault(
            field,
            "idmap needs uidMappings and gidMappings, of the mount or of the container's user namespace",
        );
    }
    let (uids, gids) = (map_text(uids), map_text(gids));
    let by = IdShiftSource::Maps { uids, gids };
    Ok(Some(IdMapPlan { by, recursive }))
}

/// Mappings as lines of uid_map.
pub(crate) fn map_text(mappings: &[IdMapping]) -> String {
    let line = |map: &IdMapping| format!("{} {} {}\n", map.container_id, map.host_id, map.size);
    mappings.iter().map(line).collect()
}

fn bind_source(field: &str, mount: &Mount, bundle: &Path, recursive: bool) -> Result<MountSource> {
    let Some(source) = mount
        .source
        .as_deref()
        .filter(|s| !s.as_os_str().is_empty())
    else {
        return fault(&format!("{field}.source"), "a bind mount needs one");
    };
    let path = c_string(&format!("{field}.source"), bundle.join(source))?;
    Ok(MountSource::Bind { path, recursive })
}

fn filesystem(
    field: &str,
    kind: &str,
    mount: &Mount,
    options: &Options,
    label: Option<&CStr>,
) -> Result<MountSource> {
    if kind.is_empty() {
        return fault(&format!("{field}.type"), "is missing");
    }
    let mut settings = Vec::new();
    let source = mount.source.clone().unwrap_or_else(|| PathBuf::from(kind));
    settings.push((
        c"source".to_owned(),
        Some(c_string(&format!("{field}.source"), source)?),
    ));
    if options.set.contains(Attributes::RDONLY) && !is_kernel_made(kind) {
        settings.push((c"ro".to_owned(), None));
    }
    for (key, value) in &options.settings {
        let key = c_string(&format!("{field}.options"), key)?;
        let value = value
            .as_ref()
            .map(|value| c_string(&format!("{field}.options"), value));
        settings.push((key, value.transpose()?));
    }
    if let Some(label) = label.filter(|_| takes_context(kind))
        && !options.settings.iter().any(|(key, _)| key == CONTEXT)
    {
        settings.push((c"context".to_owned(), Some(label.to_owned())));
    }
    Ok(MountSource::Filesystem {
        kind: c_string(&format!("{field}.type"), kind)?,
        settings,
        copy_up: options.copy_up,
    })
}

/// File systems without a device, whose superblock needn't be read-only for the mount to be.
fn is_kernel_made(kind: &str) -> bool {
    matches!(
        kind,
        "tmpfs" | "proc" | "sysfs" | "devpts" | "mqueue" | "ramfs" | "devtmpfs"
    )
}

/// The option by which a superblock has one SELinux label for all that is on it.
const CONTEXT: &str = "context";

/// Whether file systems of this kind have that option. runc leaves the same out: procfs and sysfs label their files
/// themselves, and that of message queues is the IPC namespace's own, whose root directory is labelled instead.
fn takes_context(kind: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "mqueue")
}

/// `path` as an absolute one without `.` and `..` (which can't leave the root).
pub(super) fn clean(field: &str, path: &Path) -> Result<CString> {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    c_string(field, cleaned)
}

impl fmt::Display for MountPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = self.destination.to_string_lossy();
        match &self.source {
            MountSource::Bind { path, recursive } => {
                let word = if *recursive { "rbind" } else { "bind" };
                write!(f, "{word} {} on {destination}", path.to_string_lossy())?;
            }
            MountSource::Filesystem {
                kind,
                settings,
                copy_up,
            } => {
                write!(f, "{} on {destination}", kind.to_string_lossy())?;
                for (key, value) in settings {
                    write!(f, " {}", key.to_string_lossy())?;
                    if let Some(value) = value {
                        write!(f, "={}", value.to_string_lossy())?;
                    }
                }
                if *copy_up {
                    write!(f, " copy-up")?;
                }
            }
            MountSource::Cgroup { folders, links } => {
                write!(f, "cgroups on {destination}")?;
                for (name, folder) in folders {
                    let (name, folder) = (name.to_string_lossy(), folder.to_string_lossy());
                    write!(f, " {name}={folder}")?;
                }
                for (name, target) in links {
                    let (name, target) = (name.to_string_lossy(), target.to_string_lossy());
                    write!(f, " {name}→{target}")?;
                }
            }
        }
        show_attributes(f, "+", self.set)?;
        show_attributes(f, "-", self.clear)?;
        show_attributes(f, "+r", self.set_recursive)?;
        show_attributes(f, "-r", self.clear_recursive)?;
        for (propagation, recursive) in &self.propagation {
            let prefix = if *recursive { "r" } else { "" };
            write!(f, " {prefix}{}", format!("{propagation:?}").to_lowercase())?;
        }
        if let Some(map) = &self.id_map {
            let word = if map.recursive { "ridmap" } else { "idmap" };
            let lines = |text: &str| text.trim_end().replace('\n', ",");
            match &map.by {
                IdShiftSource::Maps { uids, gids } => {
                    write!(f, " {word} {} / {}", lines(uids), lines(gids))?;
                }
                IdShiftSource::Joined(path) => write!(f, " {word} as {}", path.display())?,
            }
        }
        Ok(())
    }
}

fn show_attributes(f: &mut fmt::Formatter<'_>, sign: &str, attributes: Attributes) -> fmt::Result {
    for (name, _) in attributes.iter_names() {
        write!(f, " {sign}{}", name.to_lowercase())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_MAP: OwnMap<'_> = OwnMap {
        maps: (&[], &[]),
        joined: None,
    };

    fn no_cgroups() -> MountSource {
        MountSource::Cgroup {
            folders: Vec::new(),
            links: Vec::new(),
        }
    }

    #[test]
    fn destinations_are_cleaned() {
        let cleaned = |path: &str| clean("x", Path::new(path)).unwrap().into_string().unwrap();
        assert_eq!(cleaned("/a/../../b/./c"), "/b/c");
        assert_eq!(cleaned("proc"), "/proc");
    }

    #[test]
    fn destinations_below_the_rootfs_begin_there() {
        let of = |rootfs: &str, path: &'static str| below(Path::new(rootfs), Path::new(path));
        assert_eq!(of("/b/rootfs", "/b/rootfs/a/b"), Path::new("a/b"));
        assert_eq!(of("/b/rootfs", "/b/rootfs2"), Path::new("/b/rootfs2"));
        assert_eq!(of("/", "/a"), Path::new("/a"));
    }

    #[test]
    fn new_file_systems_get_the_label_unless_they_have_one() {
        let shown = |kind: &str, option: &str| {
            let mount = Mount {
                destination: "/x".into(),
                kind: Some(kind.to_owned()),
                source: Some("/y".into()),
                options: vec![option.to_owned()],
                ..Mount::default()
            };
            let paths = (Path::new("/b"), Path::new("/b/rootfs"));
            let label = Some(c"u:r:t:s0:c1,c2");
            plan(&[mount], paths, &no_cgroups(), NO_MAP, label).unwrap()[0].to_string()
        };
        for kind in ["tmpfs", "devpts", "ext4"] {
            assert!(shown(kind, "").contains(" context=u:r:t:s0:c1,c2"));
        }
        for kind in ["proc", "sysfs", "mqueue", "bind", "cgroup"] {
            assert!(!shown(kind, "").contains("context="), "{kind}");
        }
        let own = shown("tmpfs", "context=\"a:b:c\"");
        assert!(
            own.contains(" context=a:b:c") && !own.contains("u:r"),
            "{own}"
        );
    }

    #[test]
    fn bind_without_source_is_refused() {
        let mount = Mount {
            destination: "/x".into(),
            kind: Some("bind".to_owned()),
            ..Mount::default()
        };
        let paths = (Path::new("/b"), Path::new("/b/rootfs"));
        let error = plan(&[mount], paths, &no_cgroups(), NO_MAP, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mounts[0].source: a bind mount needs one"
        );
    }
}
