//! The file with a saved machine's decoded code (docs/formats/machine-snapshot.md).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

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

/// The code in a file that this program wrote; `None` when there is no such file, or it is another's or damaged.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let mut header = [0; HEADER];
    let mut limited = file.take(LONGEST);
    limited.read_exact(&mut header).ok()?;
    let (program_then, checksum) = header.split_at(16);
    if program_then != program() {
        return None;
    }
    let mut code = Vec::with_capacity(usize::try_from(len.min(LONGEST)).ok()?);
    limited.read_to_end(&mut code).ok()?;
    (crc32fast::hash(&code).to_le_bytes() == checksum).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_another_program_or_with_a_wrong_bit_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code");
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
