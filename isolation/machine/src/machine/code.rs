//! The file with a saved machine's decoded code (docs/formats/machine-snapshot.md).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use atoll_cpu_api::Vcpu;
use atoll_memory::PAGE;

/// Bytes of the longest file that is copied.
const LONGEST: u64 = 64 << 20;
/// Bytes of what says which program wrote it.
const PROGRAM: usize = 16;

/// Which program this is: length and time of its file. What code means changes with it.
///
/// Ask first while the file can be looked at: a monitor cannot any more in its jail.
pub(crate) fn program() -> [u8; PROGRAM] {
    static OURS: OnceLock<[u8; PROGRAM]> = OnceLock::new();
    *OURS.get_or_init(|| {
        let mut program = [0; PROGRAM];
        if let Ok(facts) = std::fs::metadata("/proc/self/exe") {
            let time = facts.mtime().wrapping_mul(1_000_000_000);
            let time = time.wrapping_add(facts.mtime_nsec());
            program[..8].copy_from_slice(&facts.len().to_le_bytes());
            program[8..].copy_from_slice(&time.to_le_bytes());
        }
        program
    })
}

/// Writes `code` into an empty file.
pub(super) fn write(mut file: &File, code: &[u8]) -> io::Result<()> {
    let mut head = [0; PAGE as usize];
    head[..PROGRAM].copy_from_slice(&program());
    file.write_all(&head)?;
    file.write_all(code)
}

/// Code in a file that this program wrote.
#[derive(Clone, Debug)]
pub(super) struct Code(Arc<File>);

impl Code {
    /// Opens the file; `None` when there is none, or it is another program's.
    ///
    /// What is executed is read from it as long as a machine lives: whoever has better code makes another file.
    pub(super) fn open(path: &Path) -> Option<Self> {
        Self::of(File::open(path).ok()?)
    }

    /// The code in a file; `None` when it is another program's.
    fn of(file: File) -> Option<Self> {
        let mut program_then = [0; PROGRAM];
        file.read_exact_at(&mut program_then, 0).ok()?;
        (program_then == program()).then(|| Self(Arc::new(file)))
    }

    /// What is in a file that others can write to, as it is now; `None` when it is another program's.
    ///
    /// # Errors
    /// When it cannot be read, or is too long; when there is no memory for it.
    pub(super) fn copied(mut file: File) -> io::Result<Option<Self>> {
        file.rewind()?;
        let copy = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut copy = File::from(copy);
        let copied = io::copy(&mut file.take(LONGEST + 1), &mut copy)?;
        if copied > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Self::of(copy))
    }

    /// Has `vcpu` take it over; false, and it has none, when the file is damaged.
    pub(super) fn teach(&self, vcpu: &mut dyn Vcpu) -> bool {
        let is_whole = vcpu.learn_code(&self.0, PAGE);
        if !is_whole {
            vcpu.forget_code();
        }
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_another_program_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code");
        write(&File::create(&path).expect("a file"), b"some code").expect("it is written");
        let whole = std::fs::read(&path).expect("it is there");
        assert_eq!(&whole[PAGE as usize..], b"some code");
        assert!(Code::open(&path).is_some());
        for at in 0..PROGRAM {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            std::fs::write(&path, &wrong).expect("it is written");
            assert!(Code::open(&path).is_none(), "byte {at}");
        }
        std::fs::write(&path, &whole[..PROGRAM - 1]).expect("it is written");
        assert!(Code::open(&path).is_none());
        assert!(Code::open(&folder.path().join("none")).is_none());
    }

    #[test]
    fn a_copy_is_what_the_file_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code");
        write(&File::create(&path).expect("a file"), b"some code").expect("it is written");
        let mut file = File::open(&path).expect("it opens");
        file.seek(io::SeekFrom::End(0)).expect("it has an end");
        let copy = Code::copied(file).expect("it is read").expect("it is ours");
        std::fs::write(&path, b"other").expect("it is written");
        let mut code = [0; 9];
        copy.0.read_exact_at(&mut code, PAGE).expect("it is there");
        assert_eq!(&code, b"some code");
        let none = Code::copied(File::open(&path).expect("it opens"));
        assert!(none.expect("it is read").is_none());
    }
}
