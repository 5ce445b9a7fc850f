//! What the child mounts, makes and hides inside the new root. Child-safe throughout.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_sys::inside::{self, Missing};
use atoll_sys::mount::{self, Attributes, Change, Setting};
use atoll_sys::rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use atoll_sys::{Errno, Result};

use super::child::Scene;
use super::control;
use super::program::{BindInside, Filesystem};
use crate::plan::DevicePlan;

/// Makes a superblock and attaches it.
pub(super) fn filesystem(scene: &mut Scene<'_>, filesystem: &Filesystem) -> Result<()> {
    let is_tmpfs = filesystem.kind.as_c_str() == c"tmpfs";
    let hidden = match inside::open(scene.root()?, &filesystem.target, OFlags::PATH) {
        Ok(folder) if is_tmpfs => Some(folder),
        _ => None,
    };
    let mut room = [0; 8];
    let mode = match &hidden {
        Some(folder) if !has_mode(filesystem) => {
            Some(octal(fs::fstat(folder)?.st_mode & 0o7777, &mut room)?)
        }
        _ => None,
    };
    let settings = filesystem.settings.iter().map(|(key, value)| match value {
        Some(value) => Setting::Value(key, value),
        None => Setting::Flag(key),
    });
    let settings = settings.chain(mode.map(|mode| Setting::Value(c"mode", mode)));
    let mount = mount::new_filesystem(&filesystem.kind, settings, filesystem.attributes)?;
    for change in &filesystem.changes {
        mount::set_attributes(mount.as_fd(), c"", true, change)?;
    }
    let place = if filesystem.kind.as_c_str() == c"proc" || filesystem.kind.as_c_str() == c"sysfs" {
        exact_place(scene.root()?, &filesystem.target)?
    } else {
        inside::open_or_make(scene.root()?, &filesystem.target, Missing::Folder)?
    };
    if let (Some(folder), true) = (hidden, filesystem.copy_up) {
        copy_up(filesystem, mount.as_fd(), folder.as_fd())?;
    }
    mount::attach(mount.as_fd(), place.as_fd())?;
    if let Some(label) = &scene.program.mount_label
        && filesystem.kind.as_c_str() == c"mqueue"
    {
        set_label(mount.as_fd(), label)?;
    }
    let may_write = !filesystem.attributes.contains(Attributes::RDONLY);
    if filesystem.kind.as_c_str() == c"proc" && scene.proc.is_none() && may_write {
        scene.proc = Some(mount);
    }
    Ok(())
}

/// The setting that labels all files of a superblock, if they are to be.
fn context<'a>(scene: &Scene<'a>) -> Option<Setting<'a>> {
    let label = scene.program.mount_label.as_deref();
    label.map(|label| Setting::Value(c"context", label))
}

/// Labels the root directory of a mount, as setfilecon(3).
fn set_label(mount: BorrowedFd<'_>, label: &CStr) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = fs::openat(mount, c".", flags, Mode::empty())?;
    let label = label.to_bytes_with_nul();
    fs::fsetxattr(&folder, c"security.selinux", label, XattrFlags::empty())
}

/// Binds a part of the container's own file tree.
pub(super) fn bind_inside(scene: &Scene<'_>, bind: &BindInside) -> Result<()> {
    let source = inside::open(scene.root()?, &bind.source, OFlags::PATH)?;
    let copy = mount::clone_tree(source.as_fd(), c"", bind.recursive, false)?;
    attach_copy(scene, bind, copy.as_fd())
}

/// Binds a part of the host's file tree, which is still the one seen.
pub(super) fn bind_outside(scene: &Scene<'_>, bind: &BindInside) -> Result<()> {
    let copy = mount::clone_tree(CWD, &bind.source, bind.recursive, false)?;
    attach_copy(scene, bind, copy.as_fd())
}

/// Attaches a detached copy of a bind mount's source.
fn attach_copy(scene: &Scene<'_>, bind: &BindInside, copy: BorrowedFd<'_>) -> Result<()> {
    let is_folder = FileType::from_raw_mode(fs::fstat(copy)?.st_mode) == FileType::Directory;
    if let Some((namespace, recursive)) = &bind.id_map {
        let change = Change::idmap(namespace.as_fd());
        match mount::set_attributes(copy, c"", *recursive, &change) {
            // The file system belongs to the host's user namespace.
            Err(Errno::PERM) => {
                control::ask_for_shift(scene.program.control.as_fd(), scene.step, copy)?;
            }
            outcome => outcome?,
        }
    }
    for (change, recursive) in &bind.changes {
        mount::set_attributes(copy, c"", *recursive, change)?;
    }
    let missing = if is_folder {
        Missing::Folder
    } else {
        Missing::File
    };
    let place = inside::open_or_make(scene.root()?, &bind.target, missing)?;
    mount::attach(copy, place.as_fd())
}

/// Whether a tmpfs has a mode of its own; one without takes that of the folder it hides.
fn has_mode(filesystem: &Filesystem) -> bool {
    let mut keys = filesystem.settings.iter();
    keys.any(|(key, _)| key.as_c_str() == c"mode")
}

/// `mode` as octal digits written into `room`.
fn octal(mode: u32, room: &mut [u8; 8]) -> Result<&CStr> {
    let mut rest = mode;
    let mut first = room.len() - 1;
    room[first] = 0;
    while first > 0 && (rest > 0 || first == room.len() - 1) {
        first -= 1;
        // A remainder by eight fits a byte.
        room[first] = b'0' + u8::try_from(rest % 8).unwrap_or(0);
        rest /= 8;
    }
    CStr::from_bytes_with_nul(&room[first..]).map_err(|_| Errno::INVAL)
}

/// Copies into a tmpfs all that is in the folder it hides (`tmpcopyup`).
fn copy_up(filesystem: &Filesystem, mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let is_read_only = filesystem.attributes.contains(Attributes::RDONLY);
    let writable = Change::attributes(Attributes::empty(), Attributes::RDONLY);
    if is_read_only {
        mount::set_attributes(mount, c"", false, &writable)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = fs::openat(place, c".", flags, Mode::empty())?;
    let to = fs::openat(mount, c".", flags, Mode::empty())?;
    atoll_sys::copy::copy_tree(from.as_fd(), to.as_fd())?;
    if is_read_only {
        let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
        mount::set_attributes(mount, c"", false, &read_only)?;
    }
    Ok(())
}

/// A place for procfs or sysfs: never through a symlink, which an image could use to have its own
/// files where programs and we expect the kernel's (CVE-2019-16884, CVE-2019-19921).
fn exact_place(root: BorrowedFd<'_>, target: &CStr) -> Result<OwnedFd> {
    let relative = relative(target);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match inside::open_exactly(root, relative, flags) {
        Err(Errno::NOENT) => {
            inside::open_or_make(root, target, Missing::Folder)?;
            inside::open_exactly(root, relative, flags)
        }
        outcome => outcome,
    }
}

/// Shows the container's control groups below `target`.
pub(super) fn cgroup_view(
    scene: &Scene<'_>,
    target: &CStr,
    folders: &[(CString, CString)],
    links: &[(CString, CString)],
    attributes: Attributes,
) -> Result<()> {
    let place = inside::open_or_make(scene.root()?, target, Missing::Folder)?;
    let change = Change::attributes(attributes, Attributes::empty());
    if let [(name, folder)] = folders
        && name.is_empty()
    {
        let view = mount::clone_tree(CWD, folder, false, false)?;
        mount::set_attributes(view.as_fd(), c"", false, &change)?;
        return mount::attach(view.as_fd(), place.as_fd());
    }
    let settings = [
        Setting::Value(c"source", c"tmpfs"),
        Setting::Value(c"mode", c"755"),
    ];
    let settings = settings.into_iter().chain(context(scene));
    let shelf = mount::new_filesystem(c"tmpfs", settings, attributes - Attributes::RDONLY)?;
    mount::attach(shelf.as_fd(), place.as_fd())?;
    for (name, folder) in folders {
        let view = mount::clone_tree(CWD, folder, false, false)?;
        mount::set_attributes(view.as_fd(), c"", false, &change)?;
        fs::mkdirat(&shelf, name.as_c_str(), Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = fs::openat(&shelf, name.as_c_str(), flags, Mode::empty())?;
        mount::attach(view.as_fd(), below.as_fd())?;
    }
    for (name, target) in links {
        match fs::symlinkat(target.as_c_str(), &shelf, name.as_c_str()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    mount::set_attributes(shelf.as_fd(), c"", false, &change)
}

/// Makes a device node; one that is there already must be the same, and a file in its place is mounted over: where no node
/// can be made, an earlier container's mount left it.
pub(super) fn device(scene: &Scene<'_>, device: &DevicePlan) -> Result<()> {
    let (folder, name) = parent(scene.root()?, &device.path)?;
    let kind = FileType::from_raw_mode(device.mode);
    let permissions = Mode::from_raw_mode(device.mode & 0o7777);
    let number = fs::makedev(device.major, device.minor);
    match fs::mknodat(&folder, name, kind, permissions, number) {
        Err(Errno::EXIST) => {
            let found = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let found_kind = FileType::from_raw_mode(found.st_mode);
            if found_kind == FileType::RegularFile {
                return bind_device(scene, device);
            }
            let has_number = found.st_rdev == number || kind == FileType::Fifo;
            if found_kind != kind || !has_number {
                return Err(Errno::EXIST);
            }
        }
        // Inside a user namespace nobody makes nodes, whatever their capabilities.
        Err(Errno::PERM) => return bind_device(scene, device),
        outcome => outcome?,
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fs::chownat(
            &folder,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

/// Shows the caller's own node, if it is the same.
fn bind_device(scene: &Scene<'_>, device: &DevicePlan) -> Result<()> {
    let own = mount::clone_tree(CWD, &device.path, false, true)?;
    let found = fs::fstat(&own)?;
    let is_same = FileType::from_raw_mode(found.st_mode) == FileType::from_raw_mode(device.mode)
        && found.st_rdev == fs::makedev(device.major, device.minor);
    if !is_same {
        return Err(Errno::PERM);
    }
    let place = inside::open_or_make(scene.root()?, &device.path, Missing::File)?;
    mount::attach(own.as_fd(), place.as_fd())
}

/// Makes a symlink, unless something has its name.
pub(super) fn link(scene: &Scene<'_>, target: &CStr, path: &CStr) -> Result<()> {
    let (folder, name) = parent(scene.root()?, path)?;
    match fs::symlinkat(target, &folder, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a kernel parameter.
pub(super) fn sysctl(scene: &mut Scene<'_>, path: &CStr, value: &CStr) -> Result<()> {
    let file = inside::open_exactly(verified_proc(scene)?, path, OFlags::WRONLY)?;
    atoll_sys::rustix::io::write(&file, value.to_bytes())?;
    Ok(())
}

/// A procfs that is surely one: that just mounted for the container, or a detached one
/// (CVE-2019-16884, CVE-2025-52881).
pub(super) fn verified_proc<'a>(scene: &'a mut Scene<'_>) -> Result<BorrowedFd<'a>> {
    if scene.proc.is_none() {
        let source = [Setting::Value(c"source", c"proc")];
        scene.proc = Some(
            match mount::new_filesystem(c"proc", source, Attributes::empty()) {
                // The PID namespace is that of another user namespace. The root is still the host's here.
                Err(Errno::PERM) => hosts_proc()?,
                outcome => outcome?,
            },
        );
    }
    scene.proc.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
}

/// A detached copy of the host's procfs, which shows the same PID namespace. What is mounted below it is not entered.
fn hosts_proc() -> Result<OwnedFd> {
    /// Kernel: include/linux/proc_ns.h, `PROC_ROOT_INO`.
    const ROOT: u64 = 1;
    let copy = mount::clone_tree(CWD, c"/proc", true, false)?;
    if fs::fstatfs(&copy)?.f_type == fs::PROC_SUPER_MAGIC && fs::fstat(&copy)?.st_ino == ROOT {
        return Ok(copy);
    }
    Err(Errno::PERM)
}

/// Hides a path: a folder under an empty read-only tmpfs, a file under the null device. A path that
/// isn't there needs no hiding.
pub(super) fn mask(scene: &mut Scene<'_>, path: &CStr) -> Result<()> {
    let place = match inside::open(scene.root()?, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        outcome => outcome?,
    };
    let is_folder = FileType::from_raw_mode(fs::fstat(&place)?.st_mode) == FileType::Directory;
    if !is_folder {
        let null = null_device()?;
        return mount::attach(null.as_fd(), place.as_fd());
    }
    match &scene.hider {
        Some(hider) => {
            let again = mount::clone_tree(hider.as_fd(), c"", false, false)?;
            mount::attach(again.as_fd(), place.as_fd())
        }
        None => {
            let source = [Setting::Value(c"source", c"tmpfs")];
            let settings = source.into_iter().chain(context(scene));
            let hider = mount::new_filesystem(c"tmpfs", settings, Attributes::RDONLY)?;
            mount::attach(hider.as_fd(), place.as_fd())?;
            scene.hider = Some(hider);
            Ok(())
        }
    }
}

/// A mount of the host's null device, checked to be it (CVE-2025-31133: a container's `/dev/null`
/// may be anything).
fn null_device() -> Result<OwnedFd> {
    let null = mount::clone_tree(CWD, c"/dev/null", false, true)?;
    let stat = fs::fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NXIO) }
}

/// Makes a path read-only by a mount of itself on itself.
pub(super) fn read_only(scene: &Scene<'_>, path: &CStr) -> Result<()> {
    let place = match inside::open(scene.root()?, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        outcome => outcome?,
    };
    let again = mount::clone_tree(place.as_fd(), c"", true, false)?;
    let change = Change::attributes(Attributes::RDONLY, Attributes::empty());
    mount::set_attributes(again.as_fd(), c"", true, &change)?;
    mount::attach(again.as_fd(), place.as_fd())
}

/// The folder of `path`, made when missing, and the last component.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a CStr) -> Result<(OwnedFd, &'a CStr)> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes
        .iter()
        .rposition(|&byte| byte == b'/')
        .ok_or(Errno::INVAL)?;
    let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).map_err(|_| Errno::INVAL)?;
    let mut text = [0_u8; 4096];
    text.get_mut(..slash)
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(&bytes[..slash]);
    let folder = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::NAMETOOLONG)?;
    let folder = if folder.is_empty() { c"/" } else { folder };
    Ok((inside::open_or_make(root, folder, Missing::Folder)?, name))
}

/// `path` without its leading slash.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    match bytes {
        [b'/', rest @ ..] => CStr::from_bytes_with_nul(rest).unwrap_or(path),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_digits() {
        for (mode, text) in [(0o755, c"755"), (0o1777, c"1777"), (0, c"0"), (0o7, c"7")] {
            assert_eq!(octal(mode, &mut [0; 8]).unwrap(), text);
        }
    }
}
