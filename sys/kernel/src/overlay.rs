//! Detached overlay mounts.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::FsOpenFlags;

use crate::mount::{self, Attributes, Change, Propagation};
use crate::{Errno, Result, namespace};

/// The longest value fsconfig(2) takes.
const LONGEST_VALUE: usize = 255;

/// Settings besides the layers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// `key=value` or single words (`None`): `index=off`, `volatile`, `userxattr`.
    pub settings: &'a [(&'a str, Option<&'a str>)],
    /// Attributes of the mount.
    pub attributes: Attributes,
}

/// Makes an overlay of the folders `lowers` (top first) and, to be writable, an upper and a work
/// folder, as a detached mount: no mount table names it, it disappears with the descriptor.
///
/// Layers are handed to the kernel as `/proc/self/fd/N`, so their paths may be of any length and
/// hold any byte. Uses `lowerdir+` (Linux 6.5), then one `lowerdir` string, then mount(2) in a
/// throwaway mount namespace on a helper thread.
///
/// * `lowers`: at least one, at most 500; `O_PATH` suffices.
/// * `upper_work`: on one file system; the work folder empty.
///
/// # Errors
/// The kernel's. `ENODEV` without overlay support.
pub fn mount_detached(
    lowers: &[BorrowedFd<'_>],
    upper_work: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    options: Options<'_>,
) -> Result<OwnedFd> {
    match mount_detached_layers(lowers, upper_work, options) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::TOOBIG) => {
            by_helper_thread(lowers, upper_work, options)
        }
        outcome => outcome,
    }
}

/// As [`mount_detached`], with nothing but the descriptors themselves: layers may be detached mounts, such as those whose
/// ids are shifted, which the older ways can't take.
///
/// * `upper_work`: folders below one mount.
///
/// # Errors
/// As [`mount_detached`]; `EINVAL` before Linux 6.5 for many layers, and before 5.19 for shifted ones.
pub fn mount_detached_layers(
    lowers: &[BorrowedFd<'_>],
    upper_work: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    options: Options<'_>,
) -> Result<OwnedFd> {
    let layers = Layers {
        lowers: lowers.iter().map(|fd| proc_path(*fd)).collect(),
        upper_work: upper_work.map(|(upper, work)| (proc_path(upper), proc_path(work))),
    };
    by_context(&layers, options)
}

struct Layers {
    lowers: Vec<String>,
    upper_work: Option<(String, String)>,
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn by_context(layers: &Layers, options: Options<'_>) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| {
        if value.len() > LONGEST_VALUE {
            return Err(Errno::TOOBIG);
        }
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
    };
    set("source", "overlay")?;
    let mut appended = true;
    for (idx, lower) in layers.lowers.iter().enumerate() {
        match set("lowerdir+", lower) {
            Err(Errno::INVAL) if idx == 0 => {
                appended = false;
                break;
            }
            outcome => outcome?,
        }
    }
    if !appended {
        set("lowerdir", &layers.lowers.join(":"))?;
    }
    if let Some((upper, work)) = &layers.upper_work {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    for (key, value) in options.settings {
        match value {
            Some(value) => set(key, value)?,
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    mount::mount_context(context.as_fd(), options.attributes)
}

/// mount(2) takes 4095 bytes of options, but wants a place: a private namespace gives one.
fn by_helper_thread(
    lowers: &[BorrowedFd<'_>],
    upper_work: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    options: Options<'_>,
) -> Result<OwnedFd> {
    let mount = std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            namespace::unshare(libc::CLONE_FS | libc::CLONE_NEWNS)?;
            let private = Change::propagation(Propagation::Private);
            mount::set_attributes(rustix::fs::CWD, c"/", true, &private)?;
            mount_in_private_namespace(lowers, upper_work, options)
        });
        helper.join().unwrap_or(Err(Errno::IO))
    })?;
    let change = Change::attributes(options.attributes, Attributes::empty());
    mount::set_attributes(mount.as_fd(), c"", false, &change)?;
    Ok(mount)
}

fn mount_in_private_namespace(
    lowers: &[BorrowedFd<'_>],
    upper_work: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    options: Options<'_>,
) -> Result<OwnedFd> {
    // Overlay wants layers of the caller's own namespace: the same folders, opened again in it.
    let mut reopened = Vec::new();
    for fd in lowers {
        reopened.push(open_again(*fd)?);
    }
    let names: Vec<String> = reopened.iter().map(|fd| proc_path(fd.as_fd())).collect();
    let mut text = format!("lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper_work {
        let (upper, work) = (open_again(upper)?, open_again(work)?);
        let (upper_name, work_name) = (proc_path(upper.as_fd()), proc_path(work.as_fd()));
        text.push_str(&format!(",upperdir={upper_name},workdir={work_name}"));
        reopened.extend([upper, work]);
    }
    for (key, value) in options.settings {
        text.push(',');
        text.push_str(key);
        if let Some(value) = value {
            text.push('=');
            text.push_str(value);
        }
    }
    let text = CString::new(text).map_err(|_| Errno::INVAL)?;
    // /proc is only a folder that surely exists; the layers are looked up before it is covered.
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(c"overlay", c"/proc", c"overlay", flags, text.as_c_str())?;
    mount::clone_tree(rustix::fs::CWD, c"/proc", false, false)
}

/// The folder `fd` in the calling thread's mount namespace.
fn open_again(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = rustix::fs::readlinkat(rustix::fs::CWD, proc_path(fd), Vec::new())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let again = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())?;
    let (was, is) = (rustix::fs::fstat(fd)?, rustix::fs::fstat(&again)?);
    if (was.st_dev, was.st_ino) != (is.st_dev, is.st_ino) {
        return Err(Errno::STALE);
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn read(mount: &OwnedFd, name: &str) -> String {
        let file = rustix::fs::openat(mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
        std::io::read_to_string(File::from(file)).unwrap()
    }

    /// A folder on a file system overlay accepts as upper.
    fn layers() -> (tempfile::TempDir, Vec<File>) {
        let folder = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for name in ["top", "bottom", "upper", "work"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            if name == "top" || name == "bottom" {
                fs::write(path.join("both"), name).unwrap();
                fs::write(path.join(name), name).unwrap();
            }
            open.push(File::open(path).unwrap());
        }
        (folder, open)
    }

    #[test]
    fn top_layer_wins_and_upper_takes_writes() {
        let (folder, open) = layers();
        let lowers = [open[0].as_fd(), open[1].as_fd()];
        let upper_work = Some((open[2].as_fd(), open[3].as_fd()));
        for mount in [
            mount_detached(&lowers, upper_work, Options::default()).unwrap(),
            by_helper_thread(&lowers, None, Options::default()).unwrap(),
        ] {
            assert_eq!(read(&mount, "both"), "top");
            assert_eq!(read(&mount, "bottom"), "bottom");
        }
        let mount = mount_detached(&lowers, upper_work, Options::default()).unwrap();
        let file = rustix::fs::openat(&mount, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        rustix::io::write(file.unwrap(), b"written").unwrap();
        assert_eq!(
            fs::read(folder.path().join("upper/new")).unwrap(),
            b"written"
        );
    }

    #[test]
    fn a_hundred_layers_mount() {
        let folder = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for idx in 0..100 {
            let path = folder.path().join(idx.to_string());
            fs::create_dir(&path).unwrap();
            fs::write(path.join(idx.to_string()), "here").unwrap();
            open.push(File::open(path).unwrap());
        }
        let lowers: Vec<_> = open.iter().map(AsFd::as_fd).collect();
        let mount = mount_detached(&lowers, None, Options::default()).unwrap();
        assert_eq!(read(&mount, "0"), "here");
        assert_eq!(read(&mount, "99"), "here");
    }
}
