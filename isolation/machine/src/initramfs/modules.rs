//! Kernel modules and what they depend on.
//!
//! Source: modules.dep(5), modules.builtin (kbuild).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::MachineError;
use crate::kernel::xz_file;

/// The modules every guest of ours needs.
pub const DEFAULT_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "overlay",
    "erofs",
    "virtiofs",
];

/// No module is larger.
const LIMIT: u64 = 64 << 20;

/// A module to put into the initial ramdisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    /// Its file name there, `virtio_mmio.ko`.
    pub name: String,
    /// Where it is on this host, compressed or not.
    pub path: PathBuf,
}

impl ModuleFile {
    /// The module, uncompressed and without its signature: see [`without_signature`].
    ///
    /// # Errors
    /// [`MachineError::Io`] when it cannot be read or unpacked.
    pub fn read(&self) -> Result<Vec<u8>, MachineError> {
        let failed = || MachineError::io(format!("read {}", self.path.display()));
        let bytes = fs::read(&self.path).map_err(failed())?;
        match self
            .path
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("xz") => xz_file(&bytes, LIMIT).map_err(failed()),
            _ => Ok(bytes),
        }
        .map(without_signature)
    }
}

/// What ends a signed module (Linux Documentation/admin-guide/module-signing.rst).
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// Bytes of `struct module_signature` before that, whose last four are the signature's length, big-endian.
const SIGNATURE_HEADER: usize = 12;

/// A module without the signature at its end; one that has none, or a broken one, as it is.
///
/// The guest's kernel would check it at 10 million instructions a module, most of them one RSA operation, and learn
/// nothing: kernel and modules come from the same hands. It says once that it is tainted. A kernel that insists on
/// signatures (`CONFIG_MODULE_SIG_FORCE`) refuses such modules; no distribution's kernel does outside of Secure Boot.
fn without_signature(mut module: Vec<u8>) -> Vec<u8> {
    let Some(body) = module.strip_suffix(SIGNED) else {
        return module;
    };
    if let Some((rest, length)) = body.split_last_chunk::<4>()
        && let Some(end) = (rest.len() + 4)
            .checked_sub(SIGNATURE_HEADER)
            .and_then(|end| end.checked_sub(u32::from_be_bytes(*length) as usize))
    {
        module.truncate(end);
    }
    module
}

/// Files of the modules `names` and all they depend on, in the order in which they can be loaded.
///
/// * `folder`: `…/lib/modules/RELEASE`. A module that is built into the kernel needs no file.
///
/// # Errors
/// [`MachineError::NoModule`] for one that is neither a file nor built in; [`MachineError::Io`] when there are no lists.
pub fn modules_for(folder: &Path, names: &[&str]) -> Result<Vec<ModuleFile>, MachineError> {
    let list = folder.join("modules.dep");
    let dependencies =
        fs::read_to_string(&list).map_err(MachineError::io(format!("read {}", list.display())))?;
    // A kernel without this list has nothing built in that we could know of.
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> = builtin.lines().map(name_of).collect();
    let mut known = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            known.insert(name_of(path), (path, needs));
        }
    }
    let mut files = Vec::new();
    let mut done = Vec::new();
    for name in names {
        let name = name.replace('-', "_");
        if known.contains_key(&name) {
            add(folder, &name, &known, &mut done, &mut files);
        } else if !builtin.contains(&name) {
            let folder = folder.to_owned();
            return Err(MachineError::NoModule { name, folder });
        }
    }
    Ok(files)
}

/// Adds `name` after what it needs, unless it is there; a ring of dependencies ends where it closes.
fn add(
    folder: &Path,
    name: &str,
    known: &BTreeMap<String, (&str, &str)>,
    done: &mut Vec<String>,
    files: &mut Vec<ModuleFile>,
) {
    let Some((path, needs)) = known.get(name) else {
        return;
    };
    if done.iter().any(|done| done == name) {
        return;
    }
    done.push(name.to_owned());
    for need in needs.split_whitespace() {
        add(folder, &name_of(need), known, done, files);
    }
    files.push(ModuleFile {
        name: format!("{name}.ko"),
        path: folder.join(path),
    });
}

/// The module in `kernel/drivers/char/virtio-rng.ko.xz`: `virtio_rng`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split_once(".ko").map_or(file, |(name, _)| name);
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let list = "kernel/a/virtio_ring.ko:\n\
                    kernel/a/virtio.ko: kernel/a/virtio_ring.ko\n\
                    kernel/a/virtio-rng.ko.xz: kernel/a/virtio.ko kernel/a/virtio_ring.ko\n\
                    kernel/a/ring1.ko: kernel/a/ring2.ko\n\
                    kernel/a/ring2.ko: kernel/a/ring1.ko\n";
        fs::write(folder.path().join("modules.dep"), list).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        folder
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let folder = folder();
        let names = |wanted: &[&str]| -> Vec<String> {
            let files = modules_for(folder.path(), wanted).unwrap();
            files.into_iter().map(|file| file.name).collect()
        };
        assert_eq!(
            names(&["virtio_rng", "virtio", "ext4"]),
            ["virtio_ring.ko", "virtio.ko", "virtio_rng.ko"]
        );
        assert_eq!(names(&["ring1"]), ["ring2.ko", "ring1.ko"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let error = modules_for(folder().path(), &["wifi"]).unwrap_err();
        assert!(error.to_string().contains("wifi") && error.hint().is_some());
        let error = modules_for(Path::new("/none"), &[]).unwrap_err();
        assert!(matches!(error, MachineError::Io { .. }));
    }

    #[test]
    fn signatures_are_cut_off_and_broken_ones_left() {
        let signed = |length: u32| {
            let header = [&[0, 0, 2, 0, 0, 0, 0, 0], &length.to_be_bytes()[..]].concat();
            [b"module", &[7; 5][..], &header, SIGNED].concat()
        };
        assert_eq!(without_signature(signed(5)), b"module");
        assert_eq!(without_signature(signed(11)), b"");
        for module in [signed(12), signed(u32::MAX), b"module".to_vec()] {
            assert_eq!(without_signature(module.clone()), module);
        }
        let short = [&[0; 3], SIGNED].concat();
        assert_eq!(without_signature(short.clone()), short);
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.ko.xz");
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(b"module").unwrap();
        fs::write(&path, writer.finish().unwrap()).unwrap();
        let name = "m.ko".to_owned();
        assert_eq!(ModuleFile { name, path }.read().unwrap(), b"module");
    }
}
