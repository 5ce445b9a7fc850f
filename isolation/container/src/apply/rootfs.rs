//! The root file system as a detached mount: in no mount namespace until the child attaches it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use atoll_sys::mount::{self, Attributes, Change, Setting};
use atoll_sys::overlay::{self, Options};
use atoll_sys::rustix::fs::CWD;

use super::shift::{self, IdShift};
use crate::RootfsMount;
use crate::error::{Error, Result, kernel};
use crate::plan::{ContainerPlan, MountOptions, unquoted};

/// Opens a root file system, a detached mount: what `mounts` says, or with none of them the folder itself.
///
/// # Errors
/// [`Error::Kernel`] naming the layer or folder, [`Error::Plan`] for mounts of several parts.
pub fn open_rootfs(rootfs: &Path, mounts: &[RootfsMount]) -> Result<OwnedFd> {
    match mounts {
        [] => folder(rootfs, true),
        [only] if only.kind == "overlay" => overlay(only),
        [only] => other(only),
        _ => Err(Error::Plan {
            field: "rootfs".to_owned(),
            reason: format!("{} mounts are more than the one supported", mounts.len()),
        }),
    }
}

/// The root directory of the plan's file system, a detached mount.
///
/// # Errors
/// As [`open_rootfs`].
pub(crate) fn open(plan: &ContainerPlan, mounts: &[RootfsMount]) -> Result<OwnedFd> {
    let root = open_rootfs(&plan.rootfs, mounts)?;
    let change = Change::propagation(plan.rootfs_propagation());
    let step = || format!("set propagation of rootfs {}", plan.rootfs.display());
    mount::set_attributes(root.as_fd(), c"", true, &change)
        .map_err(|errno| kernel(step(), errno))?;
    Ok(root)
}

fn folder(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    mount::clone_tree(CWD, &name, recursive, false)
        .map_err(|errno| kernel(format!("open rootfs {}", path.display()), errno))
}

fn overlay(request: &RootfsMount) -> Result<OwnedFd> {
    let (mut lowers, mut upper, mut work) = (Vec::new(), None, None);
    let mut settings: Vec<(&str, Option<&str>)> = Vec::new();
    let mut attributes = Attributes::empty();
    let shift = IdShift::of(&request.options)?;
    for option in &request.options {
        if shift::is_option(option) {
            continue;
        }
        match option.split_once('=') {
            Some(("lowerdir", list)) => {
                for path in split_lowers(list) {
                    lowers.push(open_layer(&path)?);
                }
            }
            Some(("upperdir", path)) => upper = Some(open_layer(path)?),
            Some(("workdir", path)) => work = Some(open_layer(path)?),
            Some((key, value)) => settings.push((key, Some(unquoted(key, value)))),
            None => match MountOptions::parse([option.as_str()]) {
                parsed if parsed.settings.is_empty() => attributes |= parsed.set,
                _ => settings.push((option, None)),
            },
        }
    }
    let mut _held = None;
    if let Some(shift) = &shift {
        let mut shifted = Vec::with_capacity(lowers.len());
        for lower in &lowers {
            shifted.push(shift.layer(lower.as_fd())?);
        }
        lowers = shifted;
        if let (Some(above), Some(below)) = (&upper, &work) {
            let [above, below, mount] = shift.pair(above.as_fd(), below.as_fd())?;
            (upper, work) = (Some(above), Some(below));
            _held = Some(mount);
        }
    }
    let borrowed: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    let upper_work = upper
        .as_ref()
        .zip(work.as_ref())
        .map(|(u, w)| (u.as_fd(), w.as_fd()));
    let options = Options {
        settings: &settings,
        attributes,
    };
    let mounted = match &shift {
        Some(shift) => {
            shift.as_root(|| overlay::mount_detached_layers(&borrowed, upper_work, options))
        }
        None => overlay::mount_detached(&borrowed, upper_work, options),
    };
    mounted.map_err(|errno| kernel("mount the rootfs overlay", errno))
}

/// `a:b\:c` as `a`, `b:c`.
fn split_lowers(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let escaped = character == '\\';
        let character = if escaped {
            characters.next().unwrap_or('\\')
        } else {
            character
        };
        match parts.last_mut() {
            Some(last) if escaped || character != ':' => last.push(character),
            _ => parts.push(String::new()),
        }
    }
    parts
}

fn open_layer(path: &str) -> Result<OwnedFd> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    options
        .open(path)
        .map(Into::into)
        .map_err(|source| Error::File {
            action: "open layer",
            path: path.into(),
            source,
        })
}

fn other(request: &RootfsMount) -> Result<OwnedFd> {
    let shift = IdShift::of(&request.options)?;
    let words = request.options.iter().map(String::as_str);
    let options = MountOptions::parse(words.filter(|word| !shift::is_option(word)));
    if request.kind == "bind" || options.bind.is_some() {
        let root = folder(Path::new(&request.source), options.bind.unwrap_or(false))?;
        let change = Change::attributes(options.set, options.clear);
        mount::set_attributes(root.as_fd(), c"", false, &change).map_err(|errno| {
            kernel(
                format!("set attributes of rootfs {}", request.source),
                errno,
            )
        })?;
        if let Some(shift) = &shift {
            shift.mount(root.as_fd(), options.bind.unwrap_or(false), &request.source)?;
        }
        return Ok(root);
    }
    let c = |text: &str| CString::new(text).unwrap_or_default();
    let mut settings = vec![(c("source"), Some(c(&request.source)))];
    if options.set.contains(Attributes::RDONLY) {
        settings.push((c("ro"), None));
    }
    for (key, value) in &options.settings {
        settings.push((c(key), value.as_deref().map(c)));
    }
    let borrowed = settings.iter().map(|(key, value)| match value {
        Some(value) => Setting::Value(key, value),
        None => Setting::Flag(key),
    });
    let made = mount::new_filesystem(&c(&request.kind), borrowed, options.set);
    let root = made.map_err(|errno| {
        kernel(
            format!("mount rootfs {} as {}", request.source, request.kind),
            errno,
        )
    })?;
    if let Some(shift) = &shift {
        shift.mount(root.as_fd(), false, &request.source)?;
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_lists_are_split_at_plain_colons() {
        assert_eq!(split_lowers("/a:/b\\:c:/d"), ["/a", "/b:c", "/d"]);
    }
}
