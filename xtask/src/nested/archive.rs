//! Archives that the kernel unpacks into its first root file system: cpio "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fmt::Write;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that grows by one entry at a time; a folder comes before what is in it.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, content);
    }

    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// A symlink to `target`.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK, target.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let mut header = String::from("070701");
        // Inode, mode, uid, gid, links, mtime, bytes, four device numbers, bytes of the name with its NUL, checksum.
        let (len, name) = (content.len(), path.len() + 1);
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            len,
            0,
            0,
            0,
            0,
            name,
            0,
        ];
        for field in fields {
            // Writing to a string does not fail.
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_program_reads_what_was_written() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.program("bin/a", b"12345");
        archive.file("bin/bc", b"");
        let mut reader = Command::new("/bin/busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = reader.stdin.take().unwrap();
        input.write_all(&archive.finish()).unwrap();
        drop(input);
        let output = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<Vec<&str>> = output
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let entries: Vec<_> = lines
            .iter()
            .map(|fields| (fields[0], fields[2], fields[fields.len() - 1]))
            .collect();
        assert_eq!(
            entries,
            [
                ("drwxr-xr-x", "0", "bin"),
                ("-rwxr-xr-x", "5", "bin/a"),
                ("-rw-r--r--", "0", "bin/bc")
            ]
        );
    }
}
