//! Namespaces, and the root of the jail.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use atoll_sys::mount::{self, Attributes, Change, Propagation, Setting};
use atoll_sys::{Errno, namespace};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};
use rustix::path::Arg;
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::failed;
use crate::error::MachineError;

/// Namespaces of our own, in every case.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What no mount of the jail is good for.
const PLAIN: Attributes = Attributes::NOSUID
    .union(Attributes::NODEV)
    .union(Attributes::NOEXEC);

/// The jail while it is built: our own namespaces, in which the host's files are still in sight.
#[derive(Debug)]
pub(crate) struct Walls {
    root: OwnedFd,
    /// What is shown in the root, and where.
    shown: Vec<(OwnedFd, String)>,
}

impl Walls {
    /// Moves the process into namespaces of its own and makes the root it will have.
    ///
    /// * `is_privileged`: whether it may do so without a user namespace.
    ///
    /// # Errors
    /// [`MachineError::Jail`].
    pub(super) fn raise(is_privileged: bool) -> Result<Self, MachineError> {
        if is_privileged {
            namespace::unshare(NAMESPACES).map_err(failed("make namespaces"))?;
        } else {
            without_privilege()?;
        }
        // Else what is unmounted here would be unmounted on the host. What it mounts appears here, until our root is
        // another.
        let slave = Change::propagation(Propagation::Slave);
        mount::set_attributes(CWD, c"/", true, &slave)
            .map_err(failed("take its mounts apart from the host's"))?;
        let size = [
            Setting::Value(c"size", c"16k"),
            Setting::Value(c"nr_inodes", c"16"),
            Setting::Value(c"mode", c"555"),
        ];
        let root = mount::new_filesystem(c"tmpfs", size, PLAIN)
            .map_err(failed("make an empty file system"))?;
        Ok(Self {
            root,
            shown: Vec::new(),
        })
    }

    /// A detached copy of the mounts at directory `path`: no `..` leads out of it, nothing in it is executed, device
    /// nodes are dead. What is mounted there later is not in it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn detached(&self, path: &Path, read_only: bool) -> io::Result<OwnedFd> {
        let tree = copy(path, read_only)?;
        let private = Change::propagation(Propagation::Private);
        mount::set_attributes(tree.as_fd(), c"", true, &private)?;
        Ok(tree)
    }

    /// A copy as [`Walls::detached`], in which appears what is mounted at `path` later, if that is a shared mount. The
    /// kernel tells only mounts that are attached somewhere: this one is, in our empty root. The directory itself is
    /// read-only, what is mounted below it is as it was mounted.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn following(&mut self, path: &Path, read_only: bool) -> io::Result<OwnedFd> {
        let tree = copy(path, read_only)?;
        // Whoever mounts there must not find what a guest put in the way.
        let fixed = Change::attributes(Attributes::RDONLY, Attributes::empty());
        mount::set_attributes(tree.as_fd(), c"", false, &fixed)?;
        let name = format!("share{}", self.shown.len());
        rustix::fs::mkdirat(&self.root, &name, Mode::RWXU)?;
        self.shown.push((tree.try_clone()?, name));
        Ok(tree)
    }

    /// Shows the directory `path` of the host as `/NAME`, and gives that path.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn show(&mut self, path: &Path, name: &str) -> io::Result<PathBuf> {
        let tree = self.detached(path, false)?;
        rustix::fs::mkdirat(&self.root, name, Mode::RWXU)?;
        self.shown.push((tree, name.to_owned()));
        Ok(Path::new("/").join(name))
    }

    /// Makes the root ours; the host's goes out of sight.
    ///
    /// # Errors
    /// [`MachineError::Jail`].
    pub(super) fn close(self) -> Result<(), MachineError> {
        let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
        mount::set_attributes(self.root.as_fd(), c"", false, &read_only)
            .map_err(failed("make its root read-only"))?;
        change_root(&self.root, &self.shown).map_err(failed("change its root"))
    }
}

/// A copy of the mounts at `path`, slaves of theirs.
fn copy(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let tree = path.into_with_c_str(|path| mount::clone_tree(CWD, path, true, false))?;
    let mut attributes = PLAIN;
    attributes.set(Attributes::RDONLY, read_only);
    let change = Change::attributes(attributes, Attributes::empty());
    mount::set_attributes(tree.as_fd(), c"", true, &change)?;
    Ok(tree)
}

fn change_root(root: &OwnedFd, shown: &[(OwnedFd, String)]) -> Result<(), Errno> {
    mount::attach_at(root.as_fd(), c"/")?;
    for (tree, name) in shown {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(root, name.as_str(), flags, Mode::empty())?;
        mount::attach(tree.as_fd(), place.as_fd())?;
    }
    fchdir(root)?;
    // Both the new root and the place of the old one are the current folder: the old root ends up on top.
    match pivot_root(c".", c".") {
        Ok(()) => unmount(c".", UnmountFlags::DETACH)?,
        // The root of an initramfs cannot be moved. It stays below ours, where no call that is left leads.
        Err(Errno::INVAL) => chroot(c".")?,
        Err(errno) => return Err(errno),
    }
    chdir(c"/")
}

/// A user namespace, in which the process may make the others. Its user and group stay what they are.
fn without_privilege() -> Result<(), MachineError> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    namespace::unshare(libc::CLONE_NEWUSER | NAMESPACES)
        .map_err(failed("make namespaces without privilege"))?;
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|source| MachineError::Jail {
            action: "keep its user in a namespace",
            source,
        })
    };
    let same = |id: u32| format!("{id} {id} 1\n");
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", same(user.as_raw()))?;
    write("/proc/self/gid_map", same(group.as_raw()))
}
