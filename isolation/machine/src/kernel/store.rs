//! Kernels taken out of their bzImage once, kept by digest.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::bzimage::{BzImage, SetupHeader};
use super::decompress;
use super::elf::{Elf, Protocol};
use crate::error::{MachineError, NotAKernel};

/// No kernel file is larger.
const LIMIT: u64 = 512 << 20;

/// A kernel ready to be loaded.
#[derive(Debug)]
pub struct Kernel {
    /// The uncompressed ELF.
    pub file: File,
    /// Its checked headers.
    pub elf: Elf,
    /// The setup header of its bzImage, or one that will do.
    pub header: SetupHeader,
    /// Its version text; empty for a plain ELF.
    pub version: String,
    /// How it is to be entered.
    pub protocol: Protocol,
}

/// A folder of uncompressed kernels: `SHA256-OF-THE-BZIMAGE.elf`.
///
/// A file is written beside its name and renamed, so that it is whole or absent; it may be deleted at any time.
#[derive(Clone, Debug)]
pub struct KernelStore {
    folder: PathBuf,
}

impl KernelStore {
    /// The store in `folder`, which is made when needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Opens the kernel in `path`: a bzImage, or a plain ELF (vmlinux).
    ///
    /// A store that cannot be written costs time, not the kernel.
    ///
    /// # Errors
    /// [`MachineError::Io`] when it cannot be read, [`MachineError::NotAKernel`] when it is none for us.
    pub fn open(&self, path: &Path) -> Result<Kernel, MachineError> {
        let read = || MachineError::io(format!("read {}", path.display()));
        let wrong = |reason| MachineError::NotAKernel {
            path: path.to_owned(),
            reason,
        };
        let mut file = File::open(path).map_err(read())?;
        let metadata = file.metadata().map_err(read())?;
        if !metadata.is_file() || metadata.len() > LIMIT {
            return Err(wrong(NotAKernel::Format));
        }
        let mut start = Vec::new();
        (&mut file)
            .take(0x206)
            .read_to_end(&mut start)
            .map_err(read())?;
        if !BzImage::is_one(&start) {
            let elf = Elf::parse(&file, metadata.len()).map_err(wrong)?;
            return Ok(Kernel {
                file,
                protocol: elf.protocol(),
                elf,
                header: SetupHeader::of_plain_elf(),
                version: String::new(),
            });
        }
        file.rewind().map_err(read())?;
        let mut image = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(LIMIT).read_to_end(&mut image).map_err(read())?;
        let parts = BzImage::parse(&image).map_err(wrong)?;
        let name = format!("{}.elf", hex(&Sha256::digest(&image)));
        let kept = self.folder.join(name);
        let (file, elf) = match self.kept(&kept) {
            Some(kept) => kept,
            None => {
                let contents = decompress::payload(parts.payload).map_err(wrong)?;
                let file = self
                    .keep(&kept, &contents)
                    .or_else(|_| unnamed(&contents))
                    .map_err(MachineError::io("keep the uncompressed kernel"))?;
                let elf = Elf::parse(&file, contents.len() as u64).map_err(wrong)?;
                (file, elf)
            }
        };
        Ok(Kernel {
            file,
            elf,
            header: parts.header,
            version: parts.version,
            protocol: Protocol::Linux,
        })
    }

    fn kept(&self, path: &Path) -> Option<(File, Elf)> {
        let file = File::open(path).ok()?;
        let elf = Elf::parse(&file, file.metadata().ok()?.len()).ok()?;
        Some((file, elf))
    }

    fn keep(&self, path: &Path, contents: &[u8]) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        // Several threads, too, may unpack the same kernel at once.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let fresh = path.with_extension(format!("{}-{number}.new", std::process::id()));
        let written = fs::write(&fresh, contents).and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(path)
    }
}

/// A file in memory without a name.
fn unnamed(contents: &[u8]) -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("kernel", flags)?);
    file.write_all(contents)?;
    Ok(file)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::bzimage::tests::image;
    use crate::kernel::elf::tests::elf;

    fn compressed(contents: &[u8]) -> Vec<u8> {
        let mut data = zstd::encode_all(contents, 1).unwrap();
        data.extend(u32::try_from(contents.len()).unwrap().to_le_bytes());
        data
    }

    #[test]
    fn a_bzimage_is_uncompressed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        fs::write(&path, image(&compressed(&elf(b"code")))).unwrap();
        let store = KernelStore::new(folder.path().join("kept/here"));
        let first = store.open(&path).unwrap();
        assert_eq!(first.version, "6.1-x");
        let kept: Vec<_> = fs::read_dir(&store.folder).unwrap().flatten().collect();
        assert_eq!(kept.len(), 1);
        let before = kept[0].metadata().unwrap().modified().unwrap();
        let second = store.open(&path).unwrap();
        assert_eq!(second.elf, first.elf);
        let after = fs::metadata(kept[0].path()).unwrap().modified().unwrap();
        assert_eq!(before, after);
        fs::write(kept[0].path(), "damaged").unwrap();
        assert_eq!(store.open(&path).unwrap().elf, first.elf);
    }

    #[test]
    fn machines_that_start_at_once_each_get_a_whole_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        let code = vec![7; 4 << 20];
        fs::write(&path, image(&compressed(&elf(&code)))).unwrap();
        let store = KernelStore::new(folder.path().join("kept"));
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| store.open(&path).map(|kernel| kernel.file)))
                .collect();
            for start in starts {
                let mut file = start.join().unwrap().unwrap();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes.ends_with(&code));
            }
        });
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1);
    }

    #[test]
    fn a_store_that_cannot_be_written_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        fs::write(&path, image(&compressed(&elf(b"code")))).unwrap();
        let store = KernelStore::new("/proc/no/such/place");
        assert_eq!(store.open(&path).unwrap().elf.end(), (1 << 24) + 4100);
    }

    #[test]
    fn a_plain_elf_is_taken_and_other_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        fs::write(&path, elf(b"code")).unwrap();
        let store = KernelStore::new(folder.path());
        assert_eq!(store.open(&path).unwrap().version, "");
        fs::write(&path, vec![7; 5000]).unwrap();
        let error = store.open(&path).unwrap_err();
        assert!(error.to_string().contains("vmlinux"), "{error}");
        assert!(error.hint().is_some());
        assert!(matches!(
            store.open(folder.path()),
            Err(MachineError::NotAKernel { .. })
        ));
        assert!(matches!(
            store.open(Path::new("/none")),
            Err(MachineError::Io { .. })
        ));
    }
}
