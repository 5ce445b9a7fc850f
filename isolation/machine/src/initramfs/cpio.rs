//! The `newc` archive format.
//!
//! Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Paths are relative, without a slash in front; folders come before what is in them.
///
/// The same calls give the same bytes: every time is 0, every owner root.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder, mode 0755.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a regular file.
    ///
    /// * `contents`: under 4 GiB.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode & 0o7777, (0, 0), contents);
    }

    /// Adds a character device, mode 0600.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = u32::MAX;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(contents.len()).unwrap_or(u32::MAX),
            0,
            0,
            device.0,
            device.1,
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_headers_names_and_contents_each_padded_to_four() {
        let mut archive = Archive::default();
        archive.file("ab", 0o644, b"12345");
        archive.character_device("c", 5, 1);
        let bytes = archive.finish();
        let header = [1, 0o100_644, 0, 0, 1, 0, 5, 0, 0, 0, 0, 3, 0];
        let header: String = header.iter().map(|field| format!("{field:08X}")).collect();
        // Header (110) and name (3) end at 113, padded to 116; five bytes of contents to 124.
        assert_eq!(&bytes[..113], format!("070701{header}ab\0").as_bytes());
        assert_eq!(&bytes[113..124], b"\0\0\x0012345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(
            &bytes[124 + 6 + 9 * 8..124 + 6 + 11 * 8],
            b"0000000500000001"
        );
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
