//! Where kernels, their modules and our programs are on this host.

use std::path::{Path, PathBuf};

use atoll_machine::MachineError;
use atoll_machine::initramfs::{self, Archive, DEFAULT_MODULES, ModuleFile};
use atoll_machine::kernel::{Found, Kernel, KernelStore, find, newest};

use crate::error::Error;

/// The folder for what can be made or fetched again.
pub(crate) fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(root) = from("ATOLL_CACHE_ROOT") {
        return root.into();
    }
    if rustix::process::geteuid().is_root() {
        return "/var/cache/atoll".into();
    }
    let home = || from("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = from("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("atoll")
}

/// Where `kernel install` unpacks to.
pub(crate) fn installed() -> PathBuf {
    cache().join("kernels/installed")
}

/// Where uncompressed kernels are kept.
pub(crate) fn store() -> PathBuf {
    cache().join("kernels/uncompressed")
}

/// Every kernel there is, the newest last.
pub(crate) fn all() -> Vec<Found> {
    find(&[PathBuf::from("/"), installed()])
}

/// The kernel to boot and its modules' folder: the one in `chosen`, or the newest.
///
/// # Errors
/// [`MachineError`] when there is none, or the file is none.
pub(crate) fn choose(chosen: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>), Error> {
    let found = all();
    let Some(path) = chosen else {
        let kernel = newest(&found).ok_or_else(|| MachineError::NoKernel("/boot".into()))?;
        return Ok((kernel.kernel.clone(), kernel.modules.clone()));
    };
    if let Some(known) = found.iter().find(|found| found.kernel == path) {
        return Ok((path.to_owned(), known.modules.clone()));
    }
    let Kernel { version, .. } = KernelStore::new(store()).open(path)?;
    let release = version.split(' ').next().unwrap_or_default();
    let modules = [Path::new("/"), &installed()]
        .iter()
        .map(|root| root.join("lib/modules").join(release))
        .find(|folder| !release.is_empty() && folder.is_dir());
    Ok((path.to_owned(), modules))
}

/// The initial ramdisk of a kernel whose modules are in `modules`; without any, the kernel must have all built in.
///
/// # Errors
/// [`MachineError`] when a module or the agent is missing.
pub(crate) fn initramfs(modules: Option<&Path>) -> Result<Archive, Error> {
    let modules: Vec<ModuleFile> = match modules {
        Some(folder) => initramfs::modules_for(folder, DEFAULT_MODULES)?,
        None => Vec::new(),
    };
    Ok(initramfs::build(&program("atoll-guest")?, &modules)?)
}

/// One of our programs: it is beside this one.
///
/// # Errors
/// [`Error::Io`] when it is not.
pub(crate) fn program(name: &str) -> Result<PathBuf, Error> {
    let ours = std::env::current_exe().map_err(Error::io("find our own program"))?;
    let path = ours.with_file_name(name);
    let found = path.metadata().map(|_| path.clone());
    found.map_err(Error::io(format!("find {}", path.display())))
}
