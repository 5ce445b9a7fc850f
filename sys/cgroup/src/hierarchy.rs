//! Which cgroup hierarchies this machine has, and where the calling process is in each.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{CgroupPath, Error};

/// How the machine's controllers are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Controllers on cgroup v1 hierarchies only.
    V1,
    /// One cgroup2 mount has everything.
    V2,
    /// Controllers on v1, and a cgroup2 mount beside them.
    Hybrid,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers (v1: `cpu`, `cpuacct`, `name=systemd`, …); empty for cgroup2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The calling process's cgroup, relative to the mount; empty for the mount itself.
    pub own: PathBuf,
}

impl Hierarchy {
    /// Whether it has more than a name.
    fn has_controllers(&self) -> bool {
        self.controllers
            .iter()
            .any(|name| !name.starts_with("name="))
    }

    /// The existing folder `path` is counted from.
    pub(crate) fn base(&self, path: &CgroupPath) -> PathBuf {
        if path.is_absolute() {
            self.mount.clone()
        } else {
            self.own_folder()
        }
    }

    /// The calling process's cgroup as a folder.
    #[must_use]
    pub fn own_folder(&self) -> PathBuf {
        if self.own.as_os_str().is_empty() {
            self.mount.clone()
        } else {
            self.mount.join(&self.own)
        }
    }
}

/// All hierarchies of the machine, as the calling process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    layout: Layout,
    v1: Vec<Hierarchy>,
    v2: Option<Hierarchy>,
}

impl Hierarchies {
    /// Looks at the running system.
    ///
    /// # Errors
    /// [`Error::Detect`] when `/proc` can't be read, [`Error::NotMounted`] without any hierarchy.
    pub fn detect() -> Result<Self, Error> {
        let read = |path: &str| {
            // With room for the whole text: files of /proc don't tell their length, and reading in
            // growing steps costs ten calls here.
            let mut text = String::with_capacity(16 << 10);
            File::open(path)
                .and_then(|mut file| file.read_to_string(&mut text))
                .map(|_| text)
                .map_err(|source| Error::Detect {
                    path: path.into(),
                    source,
                })
        };
        Self::from_parts(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
    }

    /// Reads the contents of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    ///
    /// # Errors
    /// [`Error::NotMounted`] when no line is about a cgroup file system.
    pub fn from_parts(mountinfo: &str, cgroup: &str) -> Result<Self, Error> {
        let own = parse_own(cgroup);
        let (mut v1, mut v2) = (Vec::<Hierarchy>::new(), None);
        let mut mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(parse_mount).collect();
        // The usual place first: others may be some container's view.
        mounts.sort_by_key(|mount| !mount.point.starts_with("/sys/fs/cgroup"));
        for mount in mounts {
            if mount.is_v2 {
                if v2.is_none() {
                    v2 = Some(mount.hierarchy(&own, Vec::new()));
                }
                continue;
            }
            let Some((controllers, _)) = own
                .iter()
                .find(|(names, _)| !names.is_empty() && names.iter().all(|n| mount.has_option(n)))
            else {
                continue;
            };
            if !v1.iter().any(|seen| &seen.controllers == controllers) {
                v1.push(mount.hierarchy(&own, controllers.clone()));
            }
        }
        let has_v1_controllers = v1.iter().any(Hierarchy::has_controllers);
        let layout = match (has_v1_controllers, v2.is_some()) {
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::V1,
            (false, true) => Layout::V2,
            (false, false) => return Err(Error::NotMounted),
        };
        Ok(Self { layout, v1, v2 })
    }

    /// How controllers are mounted.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The v1 hierarchies, in mount order.
    pub fn v1(&self) -> &[Hierarchy] {
        &self.v1
    }

    /// The cgroup2 hierarchy; without controllers in a hybrid layout.
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.v2.as_ref()
    }
}

/// Controllers and path of each line of `/proc/self/cgroup`; no controllers for cgroup2.
fn parse_own(cgroup: &str) -> Vec<(Vec<String>, String)> {
    cgroup
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            let names = names
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect();
            Some((names, path.to_owned()))
        })
        .collect()
}

/// The parts of a mountinfo line that matter. Format: proc_pid_mountinfo(5).
struct Mount<'a> {
    root: String,
    point: String,
    is_v2: bool,
    super_options: &'a str,
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let is_v2 = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let super_options = right.nth(1).unwrap_or("");
    let mut left = left.split(' ').skip(3);
    Some(Mount {
        root: unescape(left.next()?),
        point: unescape(left.next()?),
        is_v2,
        super_options,
    })
}

impl Mount<'_> {
    fn has_option(&self, name: &str) -> bool {
        self.super_options.split(',').any(|option| option == name)
    }

    fn hierarchy(&self, own: &[(Vec<String>, String)], controllers: Vec<String>) -> Hierarchy {
        let path = own
            .iter()
            .find(|(names, _)| *names == controllers)
            .map_or("/", |(_, path)| path);
        // Outside the mounted part (a container with its host's cgroups) the mount is all we have.
        let own = Path::new(path)
            .strip_prefix(&self.root)
            .unwrap_or(Path::new(""))
            .to_path_buf();
        Hierarchy {
            controllers,
            mount: PathBuf::from(&self.point),
            own,
        }
    }
}

/// Undoes the kernel's octal escapes (`\040` is a blank).
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            out.push(byte);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_OWN: &str = "9:name=systemd:/\n4:memory:/api/x\n1:cpu,cpuacct:/\n0::/a\n";

    #[test]
    fn hybrid_is_told_from_v1_and_v2() {
        let found = Hierarchies::from_parts(HYBRID_MOUNTS, HYBRID_OWN).unwrap();
        assert_eq!(found.layout(), Layout::Hybrid);
        let names: Vec<_> = found
            .v1()
            .iter()
            .map(|hierarchy| hierarchy.controllers.join(","))
            .collect();
        assert_eq!(names, ["cpu,cpuacct", "memory", "name=systemd"]);
        assert_eq!(found.v1()[1].own, Path::new("api/x"));
        assert_eq!(found.v2().unwrap().own, Path::new("a"));

        let v1: String = HYBRID_MOUNTS
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .fold(String::new(), |text, line| text + line + "\n");
        let found = Hierarchies::from_parts(&v1, HYBRID_OWN).unwrap();
        assert_eq!(found.layout(), Layout::V1);

        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::from_parts(v2, "0::/user.slice/a\n").unwrap();
        assert_eq!(found.layout(), Layout::V2);
        assert!(matches!(
            Hierarchies::from_parts("", HYBRID_OWN),
            Err(Error::NotMounted)
        ));
    }

    #[test]
    fn mounts_of_a_part_count_from_that_part() {
        let mounts = "1 0 0:1 /docker/ab /sys/fs/cgroup/my\\040mem rw - cgroup cgroup rw,memory\n";
        let own = |path: &str| {
            Hierarchies::from_parts(mounts, &format!("4:memory:{path}\n"))
                .unwrap()
                .v1()[0]
                .clone()
        };
        assert_eq!(own("/docker/ab/in").own, Path::new("in"));
        assert_eq!(own("/elsewhere").own, Path::new(""));
        assert_eq!(own("/docker/ab").mount, Path::new("/sys/fs/cgroup/my mem"));
    }

    #[test]
    fn the_usual_place_is_preferred() {
        let mounts = "\
9 1 0:32 /left /tmp/left/sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
        let found = Hierarchies::from_parts(mounts, "4:memory:/a\n").unwrap();
        assert_eq!(found.v1().len(), 1);
        assert_eq!(found.v1()[0].mount, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn this_machine_has_hierarchies() {
        assert!(Hierarchies::detect().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(mounts in "[ -~\n]{0,200}", own in "[ -~\n]{0,100}") {
            drop(Hierarchies::from_parts(&mounts, &own));
        }
    }
}
