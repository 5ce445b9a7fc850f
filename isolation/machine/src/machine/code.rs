//! The file with a saved machine's decoded code (docs/formats/machine-snapshot.md).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use atoll_cpu_api::Vcpu;
use crc32fast::Hasher;

/// Bytes of the longest file that is read.
const LONGEST: u64 = 64 << 20;
/// Bytes before the code: program and checksum.
const HEADER: usize = 16 + 4;

/// Which program this is: length and time of its file. What code means changes with it.
///
/// Ask first while the file can be looked at: a monitor cannot any more in its jail.
pub(crate) fn program() -> [u8; 16] {
    static PROGRAM: OnceLock<[u8; 16]> = OnceLock::new();
    *PROGRAM.get_or_init(|| {
        let mut program = [0; 16];
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
    file.write_all(&program())?;
    file.write_all(&crc32fast::hash(code).to_le_bytes())?;
    file.write_all(code)
}

/// Code in a file that this program wrote.
#[derive(Clone, Debug)]
pub(super) struct Code {
    file: Arc<File>,
    checksum: [u8; 4],
}

impl Code {
    /// Opens the file; `None` when there is none, or it is another program's.
    pub(super) fn open(path: &Path) -> Option<Self> {
        Self::of(File::open(path).ok()?)
    }

    /// The code in a file; `None` when it is another program's.
    pub(super) fn of(file: File) -> Option<Self> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let (program_then, checksum) = header.split_first_chunk()?;
        (*program_then == program()).then_some(Self {
            file: Arc::new(file),
            checksum: checksum.try_into().ok()?,
        })
    }

    /// Has `vcpu` take it over; false, and it has none, when the file is damaged.
    pub(super) fn teach(&self, vcpu: &mut dyn Vcpu) -> bool {
        let is_whole = self.read(|from| vcpu.learn_code(from));
        if !is_whole {
            vcpu.forget_code();
        }
        is_whole
    }

    /// Whether `reader` could use what it read, and that was what had been written.
    fn read(&self, reader: impl FnOnce(&mut dyn Read) -> bool) -> bool {
        let mut from = Checked {
            file: &self.file,
            at: HEADER as u64,
            sum: Hasher::new(),
        };
        reader(&mut from) && from.sum.finalize().to_le_bytes() == self.checksum
    }
}

/// A file's bytes from a place on, summed up as they are read.
struct Checked<'a> {
    file: &'a File,
    at: u64,
    sum: Hasher,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(LONGEST.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        self.sum.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_another_program_or_with_a_wrong_bit_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code");
        let read = |path: &Path| {
            let mut all = Vec::new();
            let is_whole = Code::open(path)?.read(|from| from.read_to_end(&mut all).is_ok());
            is_whole.then_some(all)
        };
        write(&File::create(&path).expect("a file"), b"some code").expect("it is written");
        assert_eq!(read(&path).as_deref(), Some(&b"some code"[..]));
        let whole = std::fs::read(&path).expect("it is there");
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            std::fs::write(&path, &wrong).expect("it is written");
            assert_eq!(read(&path), None, "bit of byte {at}");
        }
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("it is written");
            assert_eq!(read(&path), None, "{len} bytes");
        }
        assert_eq!(read(&folder.path().join("none")), None);
    }
}
