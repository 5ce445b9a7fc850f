//! What this host has for machines: kernels, their modules, our programs, KVM.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::MachineError;
use crate::initramfs::{self, Archive, DEFAULT_MODULES, ModuleFile};
use crate::kernel::{Found, Kernel, KernelStore, banner, find, hex, newest};

pub use atoll_kvm::{Probe as KvmSpeed, Unusable as KvmUnusable};

/// The folder for what can be made or fetched again.
pub fn cache() -> PathBuf {
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
pub fn installed() -> PathBuf {
    cache().join("kernels/installed")
}

/// Where uncompressed kernels are kept.
pub fn store() -> PathBuf {
    cache().join("kernels/uncompressed")
}

/// Every kernel there is, the newest last.
pub fn all() -> Vec<Found> {
    find(&[PathBuf::from("/"), installed()])
}

/// The kernel to boot and its modules' folder: the one in `chosen`, or the newest.
///
/// # Errors
/// [`MachineError`] when there is none, or the file is none.
pub fn choose(chosen: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>), MachineError> {
    let found = all();
    let Some(path) = chosen else {
        let kernel = newest(&found).ok_or_else(|| MachineError::NoKernel("/boot".into()))?;
        return Ok((kernel.kernel.clone(), kernel.modules.clone()));
    };
    if let Some(known) = found.iter().find(|found| found.kernel == path) {
        return Ok((path.to_owned(), known.modules.clone()));
    }
    let Kernel { version, file, .. } = KernelStore::new(store()).open(path)?;
    let release = match version.split(' ').next().filter(|word| !word.is_empty()) {
        Some(word) => word.to_owned(),
        None => banner::release(&file).unwrap_or_default(),
    };
    let modules = [Path::new("/"), &installed()]
        .iter()
        .map(|root| root.join("lib/modules").join(&release))
        .find(|folder| !release.is_empty() && folder.is_dir());
    Ok((path.to_owned(), modules))
}

/// The initial ramdisk of a kernel whose modules are in `modules`; without any, the kernel must have all built in.
///
/// # Errors
/// [`MachineError`] when a module or the agent is missing.
pub fn initramfs(modules: Option<&Path>) -> Result<Archive, MachineError> {
    let modules: Vec<ModuleFile> = match modules {
        Some(folder) => initramfs::modules_for(folder, DEFAULT_MODULES)?,
        None => Vec::new(),
    };
    initramfs::build(&program("atoll-guest")?, &modules)
}

/// The same ramdisk as a file that is kept: made when there is none for these modules and this agent.
///
/// # Errors
/// As [`initramfs()`]; [`MachineError::Io`] when it cannot be written.
pub fn kept_initramfs(modules: Option<&Path>) -> Result<PathBuf, MachineError> {
    let mut hash = Sha256::new();
    for path in modules.into_iter().chain([&*program("atoll-guest")?]) {
        let failed = || MachineError::io(format!("look at {}", path.display()));
        let facts = fs::metadata(path).map_err(failed())?;
        // A program that was replaced is another file, or a later one.
        let change = (
            facts.dev(),
            facts.ino(),
            facts.len(),
            facts.mtime(),
            facts.mtime_nsec(),
        );
        hash.update(format!("{} {change:?}\n", path.display()));
    }
    hash.update(DEFAULT_MODULES.join(" "));
    let folder = cache().join("initramfs");
    let path = folder.join(format!("{}.cpio", hex(&hash.finalize())));
    if path.exists() {
        return Ok(path);
    }
    let failed = || MachineError::io(format!("make {}", path.display()));
    fs::create_dir_all(&folder).map_err(failed())?;
    let archive = initramfs(modules)?.finish();
    atoll_sys::file::write_atomic_mode(&path, &archive, 0o644).map_err(failed())?;
    Ok(path)
}

/// How fast KVM is here, found out by running a small guest: 10 to 20 ms, at most half a second.
///
/// # Errors
/// [`KvmUnusable`], with the reason for which [`Backend::Auto`](crate::Backend::Auto) takes the software CPU.
pub fn kvm() -> Result<KvmSpeed, KvmUnusable> {
    atoll_kvm::probe()
}

/// One of our programs: beside this one, else in `PATH`.
///
/// # Errors
/// [`MachineError::Io`] when it is in neither.
pub fn program(name: &str) -> Result<PathBuf, MachineError> {
    // A program that protects itself from containers does not know its file any more, but how it was called.
    let called = std::env::args_os().next().map(PathBuf::from);
    let called = called.filter(|path| path.is_absolute());
    let ours = std::env::current_exe().ok().into_iter().chain(called);
    let beside = ours.flat_map(|path| beside(&path, name));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&search)
        .map(|folder| folder.join(name))
        .collect();
    beside
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let why = "it is neither beside the program that looks for it nor in PATH";
            MachineError::io(format!("find {name}"))(std::io::Error::other(why))
        })
}

/// Where `name` may be beside `program`: in its folder, and in that of the file it is a link to. A shim in containerd's
/// PATH is often a link to where all was installed.
fn beside(program: &Path, name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let file = fs::canonicalize(program).ok();
    let there = file.map(|file| file.with_file_name(name));
    std::iter::once(program.with_file_name(name)).chain(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_program_is_found_through_a_link_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (installed, linked) = (root.join("installed"), root.join("linked"));
        for path in [&installed, &linked] {
            fs::create_dir(path).unwrap();
        }
        fs::write(installed.join("shim"), "").unwrap();
        std::os::unix::fs::symlink(installed.join("shim"), linked.join("shim")).unwrap();
        let found: Vec<_> = beside(&linked.join("shim"), "vmm").collect();
        assert_eq!(found, [linked.join("vmm"), installed.join("vmm")]);
        let lost: Vec<_> = beside(&root.join("memfd:shim (deleted)"), "vmm").collect();
        assert_eq!(lost, [root.join("vmm")]);
    }
}
