//! Writing archives: ustar headers, and PAX records for what they have no room for.

use std::io::{self, Write};

use crate::header::BLOCK_BYTES;
use crate::read::{Entry, EntryKind};

/// Longest name or target that a ustar header has room for.
const MAX_NAME: usize = 100;
/// Largest number in seven octal digits: owners.
const MAX_ID: u32 = 0o777_7777;
/// Largest number in eleven octal digits: sizes and times.
const MAX_LONG: u64 = 0o777_7777_7777;

/// Writes entries one after the other.
///
/// After an entry of a file come exactly its `size_bytes` by [`Self::data`].
#[derive(Debug)]
pub struct TarWriter<W> {
    output: W,
    /// Bytes of data the current entry still needs.
    data_left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub fn new(output: W) -> Self {
        Self {
            output,
            data_left: 0,
            padding: 0,
        }
    }

    /// Writes the header of an entry; `segments` is not looked at.
    ///
    /// # Errors
    /// The output's; `InvalidInput` when the entry before has not had all its data.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if self.data_left > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "data of the entry before is missing",
            ));
        }
        let records = records(entry);
        if !records.is_empty() {
            let header = Entry {
                path: b"PaxHeaders/entry".to_vec(),
                link: Vec::new(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                size_bytes: records.len() as u64,
                mtime: (0, 0),
                atime: None,
                device: (0, 0),
                xattrs: Vec::new(),
                segments: None,
                kind: EntryKind::File,
            };
            self.output.write_all(&block(&header, b'x'))?;
            self.output.write_all(&records)?;
            self.output
                .write_all(&ZEROS[..padding_of(header.size_bytes)])?;
        }
        self.output
            .write_all(&block(entry, type_flag(entry.kind)))?;
        if entry.kind == EntryKind::File {
            self.data_left = entry.size_bytes;
            self.padding = padding_of(entry.size_bytes);
            self.pad()?;
        }
        Ok(())
    }

    /// Writes a piece of the current file's data.
    ///
    /// # Errors
    /// The output's; `InvalidInput` for more data than its size.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.data_left.checked_sub(bytes.len() as u64);
        self.data_left = left.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more data than the entry has")
        })?;
        self.output.write_all(bytes)?;
        self.pad()
    }

    /// Bytes of data the current entry still needs.
    pub fn data_left(&self) -> u64 {
        self.data_left
    }

    /// Writes the archive's end and gives the output back.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn finish(mut self) -> io::Result<W> {
        if self.data_left > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.output.write_all(&ZEROS)?;
        self.output.write_all(&ZEROS)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn pad(&mut self) -> io::Result<()> {
        if self.data_left > 0 {
            return Ok(());
        }
        self.output
            .write_all(&ZEROS[..std::mem::take(&mut self.padding)])
    }
}

const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

fn padding_of(size_bytes: u64) -> usize {
    let over = size_bytes % BLOCK_BYTES as u64;
    // A remainder of 512 fits anything.
    (BLOCK_BYTES - usize::try_from(over).unwrap_or(0)) % BLOCK_BYTES
}

fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// PAX records for what the ustar header has no room for.
fn records(entry: &Entry) -> Vec<u8> {
    let mut all = Vec::new();
    if entry.path.len() > MAX_NAME {
        record(&mut all, b"path", &entry.path);
    }
    if entry.link.len() > MAX_NAME {
        record(&mut all, b"linkpath", &entry.link);
    }
    if entry.kind == EntryKind::File && entry.size_bytes > MAX_LONG {
        record(&mut all, b"size", entry.size_bytes.to_string().as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > MAX_ID {
            record(&mut all, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || u64::try_from(seconds).is_ok_and(|seconds| seconds > MAX_LONG) || seconds < 0 {
        record(&mut all, b"mtime", time(entry.mtime).as_bytes());
    }
    if let Some(atime) = entry.atime {
        record(&mut all, b"atime", time(atime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        // An equals sign would end the key early.
        if !name.contains(&b'=') {
            record(&mut all, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
    }
    all
}

/// Seconds since 1970 as a decimal fraction; before 1970 the fraction counts downwards.
fn time((seconds, nanos): (i64, u32)) -> String {
    if seconds < 0 && nanos != 0 {
        let (whole, rest) = (seconds + 1, 1_000_000_000 - nanos);
        let sign = if whole == 0 { "-" } else { "" };
        return format!("{sign}{whole}.{rest:09}");
    }
    match nanos {
        0 => seconds.to_string(),
        nanos => format!("{seconds}.{nanos:09}"),
    }
}

/// `<length> <key>=<value>\n`, whose length counts its own digits.
fn record(all: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    all.extend_from_slice(length.to_string().as_bytes());
    all.push(b' ');
    all.extend_from_slice(key);
    all.push(b'=');
    all.extend_from_slice(value);
    all.push(b'\n');
}

fn block(entry: &Entry, type_flag: u8) -> [u8; BLOCK_BYTES] {
    let mut block = ZEROS;
    let mut text = |at: usize, bytes: &[u8]| {
        let length = bytes.len().min(MAX_NAME);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    text(0, &entry.path);
    text(157, &entry.link);
    text(257, b"ustar\x0000");
    let mut octal = |at: usize, digits: usize, number: u64| {
        let written = format!("{number:0digits$o}");
        block[at..at + digits].copy_from_slice(&written.as_bytes()[..digits]);
    };
    let size_bytes = match entry.kind {
        EntryKind::File => entry.size_bytes,
        _ => 0,
    };
    let id = |id: u32| u64::from(if id > MAX_ID { 0 } else { id });
    let long = |number: u64| if number > MAX_LONG { 0 } else { number };
    octal(100, 7, u64::from(entry.mode & 0o7777));
    octal(108, 7, id(entry.uid));
    octal(116, 7, id(entry.gid));
    octal(124, 11, long(size_bytes));
    octal(136, 11, long(u64::try_from(entry.mtime.0).unwrap_or(0)));
    let device = |number: u32| u64::from(number & MAX_ID);
    octal(329, 7, device(entry.device.0));
    octal(337, 7, device(entry.device.1));
    block[148..156].fill(b' ');
    block[156] = type_flag;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::TarReader;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            size_bytes: 0,
            mtime: (1_700_000_000, 123_456_789),
            atime: None,
            device: (0, 0),
            xattrs: Vec::new(),
            segments: None,
        }
    }

    fn entries() -> Vec<Entry> {
        let long = format!("deep/{}", "x".repeat(250));
        let mut all = vec![
            entry("folder/", EntryKind::Directory),
            Entry {
                size_bytes: 1000,
                xattrs: vec![(b"user.a".to_vec(), b"b\nc=\0".to_vec())],
                ..entry("folder/file", EntryKind::File)
            },
            Entry {
                size_bytes: 512,
                uid: u32::MAX - 1,
                mtime: (-3, 250_000_000),
                ..entry(&long, EntryKind::File)
            },
            Entry {
                link: b"folder/file".to_vec(),
                ..entry("hard", EntryKind::HardLink)
            },
            Entry {
                link: "../".repeat(60).into_bytes(),
                mtime: (0, 0),
                ..entry("soft", EntryKind::Symlink)
            },
            Entry {
                device: (1, 3),
                ..entry("null", EntryKind::CharDevice)
            },
            entry("pipe", EntryKind::Fifo),
        ];
        all[0].mtime = (0, 1);
        all
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for entry in entries {
            writer.entry(entry).unwrap();
            let mut left = usize::try_from(entry.size_bytes).unwrap();
            while left > 0 {
                let piece = left.min(300);
                writer.data(&vec![b'd'; piece]).unwrap();
                left -= piece;
            }
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written(&entries());
        assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let mut reader = TarReader::new(&bytes[..]);
        for wanted in entries() {
            let found = reader.next().unwrap().unwrap();
            assert_eq!(found, wanted);
        }
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn gnu_tar_agrees() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar");
        let mut entries = entries();
        // GNU tar warns of times before 1970.
        entries[2].mtime = (5, 0);
        std::fs::write(&archive, written(&entries)).unwrap();
        let listed = Command::new("tar")
            .args(["--numeric-owner", "-tvf"])
            .arg(&archive)
            .output()
            .unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.status.success(), "{:?}", listed.stderr);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[0].starts_with("drwsr-xr-x 1000/100"), "{text}");
        assert!(lines[2].contains("4294967294/100"), "{text}");
        assert!(lines[3].ends_with("hard link to folder/file"), "{text}");
        assert!(lines[5].contains("1,3"), "{text}");
    }

    #[test]
    fn data_and_size_must_agree() {
        let mut writer = TarWriter::new(Vec::new());
        let file = Entry {
            size_bytes: 3,
            ..entry("f", EntryKind::File)
        };
        writer.entry(&file).unwrap();
        assert!(writer.data(b"four").is_err());
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&file).unwrap();
        assert!(writer.entry(&file).is_err());
        assert_eq!(writer.data_left(), 3);
        assert!(writer.finish().is_err());
    }

    #[test]
    fn lengths_count_themselves() {
        for length in 0..300 {
            let mut all = Vec::new();
            record(&mut all, b"k", &vec![b'v'; length]);
            let digits = all.iter().position(|byte| *byte == b' ').unwrap();
            let told: usize = std::str::from_utf8(&all[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(told, all.len());
        }
    }
}
