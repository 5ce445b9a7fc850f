//! The kernel's ELF file, and loading it.
//!
//! Source: System V ABI, ELF-64 object file format; Linux arch/x86/kernel/vmlinux.lds.S (the entry is a physical
//! address); Xen's public headers elfnote.h and arch-x86/hvm/start_info.h for the other entry.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use atoll_memory::GuestMemory;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use crate::error::{MachineError, NotAKernel};

/// Kernels are linked to lie above the first MiB.
const LOWEST: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 64;
/// A kernel's notes are some hundred bytes.
const MAX_NOTES: u64 = 64 << 10;

/// Segment types.
const LOAD: u32 = 1;
const NOTES: u32 = 4;

/// Notes by name and type: what guest it is, and its 32-bit entry.
const GUEST_OS: (&[u8], u32) = (b"Xen\0", 6);
const PHYS32_ENTRY: (&[u8], u32) = (b"Xen\0", 18);

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The Linux 64-bit boot protocol: long mode, a zero page.
    Linux,
    /// PVH: protected mode without paging, `struct hvm_start_info`.
    Pvh,
}

/// A segment that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// A checked ELF file of an x86-64 kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The header's entry, when it lies in a segment.
    entry: Option<u64>,
    /// The note's entry, when there is one and it lies in a segment.
    entry_32: Option<u64>,
    is_linux: bool,
    segments: Vec<Segment>,
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest physical address of its entry.
    pub entry: u64,
    /// First address after it.
    pub end: u64,
}

impl Elf {
    /// Reads and checks the headers of `file`, `bytes` long.
    ///
    /// # Errors
    /// [`NotAKernel`] when it is no 64-bit x86 executable, its segments lie outside the file, under 1 MiB or above
    /// 4 GiB, or its entry is in none of them.
    pub fn parse(file: &File, bytes: u64) -> Result<Self, NotAKernel> {
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)
            .map_err(|_| NotAKernel::Short)?;
        // Magic, 64 bits, little-endian; executable or shared; x86-64.
        if header[..6] != *b"\x7FELF\x02\x01" || !matches!(u16_at(&header, 16), 2 | 3) {
            return Err(NotAKernel::Format);
        }
        if u16_at(&header, 18) != 62 {
            return Err(NotAKernel::Machine(u16_at(&header, 18)));
        }
        let count = usize::from(u16_at(&header, 56));
        if u16_at(&header, 54) != 56 || count > MAX_SEGMENTS {
            return Err(NotAKernel::Segments);
        }
        let mut table = vec![0; count * 56];
        file.read_exact_at(&mut table, u64_at(&header, 32))
            .map_err(|_| NotAKernel::Short)?;
        let mut segments = Vec::new();
        let mut notes = Notes::default();
        for entry in table.chunks_exact(56) {
            let segment = Segment {
                offset: u64_at(entry, 8),
                address: u64_at(entry, 24),
                file_bytes: u64_at(entry, 32),
                memory_bytes: u64_at(entry, 40),
            };
            match u32_at(entry, 0) {
                LOAD => {
                    segment.check(bytes)?;
                    segments.push(segment);
                }
                NOTES => notes.read(file, &segment)?,
                _ => {}
            }
        }
        let entry = u64_at(&header, 24);
        let inside = |entry: &u64| segments.iter().any(|segment| segment.contains(*entry));
        let elf = Self {
            entry: Some(entry).filter(inside),
            entry_32: notes.entry_32.filter(inside),
            is_linux: notes.is_linux,
            segments,
        };
        if elf.entry.or(elf.entry_32).is_none() {
            return Err(NotAKernel::Entry(entry));
        }
        Ok(elf)
    }

    /// How it is best entered: Linux, or what has no other entry, by Linux's protocol.
    pub fn protocol(&self) -> Protocol {
        match (self.entry, self.entry_32) {
            (Some(_), None) => Protocol::Linux,
            (Some(_), Some(_)) if self.is_linux => Protocol::Linux,
            _ => Protocol::Pvh,
        }
    }

    /// Where `protocol` enters it; `None` when it cannot be entered so.
    pub fn entry(&self, protocol: Protocol) -> Option<u64> {
        match protocol {
            Protocol::Linux => self.entry,
            Protocol::Pvh => self.entry_32,
        }
    }

    /// First address after the last segment.
    pub fn end(&self) -> u64 {
        let ends = self.segments.iter();
        ends.map(|segment| segment.address + segment.memory_bytes)
            .max()
            .unwrap_or(0)
    }

    /// Copies the segments of `file`, whose headers these are, into memory that is zero. `protocol` is to enter it.
    ///
    /// # Errors
    /// [`MachineError::MemoryTooSmall`]; [`MachineError::Io`] when the file cannot be read;
    /// [`MachineError::Protocol`].
    pub fn load(
        &self,
        file: &mut File,
        memory: &GuestMemory,
        protocol: Protocol,
    ) -> Result<Loaded, MachineError> {
        let entry = self.entry(protocol);
        let entry = entry.ok_or(MachineError::Protocol(protocol))?;
        let low = memory.layout()[0].len;
        if self.end() > low {
            return Err(MachineError::MemoryTooSmall {
                has: memory.len(),
                needs: self.end(),
            });
        }
        for segment in &self.segments {
            file.seek(SeekFrom::Start(segment.offset))
                .map_err(MachineError::io("read the kernel"))?;
            let bytes = usize::try_from(segment.file_bytes).unwrap_or(usize::MAX);
            memory
                .read_exact_volatile_from(GuestAddress(segment.address), file, bytes)
                .map_err(|why| MachineError::io("load the kernel")(std::io::Error::other(why)))?;
        }
        Ok(Loaded {
            entry,
            end: self.end(),
        })
    }
}

/// What a kernel's notes say.
#[derive(Default)]
struct Notes {
    is_linux: bool,
    entry_32: Option<u64>,
}

impl Notes {
    /// Takes what `segment` of `file` holds: a name, a type and a value in each, padded to 4 bytes. Notes that are cut
    /// off are left out.
    fn read(&mut self, file: &File, segment: &Segment) -> Result<(), NotAKernel> {
        let len = segment.file_bytes.min(MAX_NOTES) as usize;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, segment.offset)
            .map_err(|_| NotAKernel::Short)?;
        let mut rest = &bytes[..];
        while let Some((header, after)) = rest.split_at_checked(12) {
            let (name, value) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize);
            let kind = u32_at(header, 8);
            let value_at = name.next_multiple_of(4);
            let Some(value) = after.get(value_at..).and_then(|after| after.get(..value)) else {
                break;
            };
            self.note((&after[..name], kind), value);
            let end = value_at + value.len().next_multiple_of(4);
            rest = after.get(end..).unwrap_or_default();
        }
        Ok(())
    }

    fn note(&mut self, note: (&[u8], u32), value: &[u8]) {
        match value.len() {
            4 if note == PHYS32_ENTRY => self.entry_32 = Some(u32_at(value, 0).into()),
            8 if note == PHYS32_ENTRY => self.entry_32 = Some(u64_at(value, 0)),
            // Linux names itself in notes of its own, since 4.19 in each kernel.
            _ if note.0 == b"Linux\0" => self.is_linux = true,
            _ if note == GUEST_OS && value.starts_with(b"linux") => self.is_linux = true,
            _ => {}
        }
    }
}

impl Segment {
    fn contains(&self, address: u64) -> bool {
        (self.address..self.address + self.memory_bytes).contains(&address)
    }

    fn check(&self, file_bytes: u64) -> Result<(), NotAKernel> {
        let file_end = self.offset.checked_add(self.file_bytes);
        let memory_end = self.address.checked_add(self.memory_bytes);
        if file_end.is_none_or(|end| end > file_bytes) {
            return Err(NotAKernel::Short);
        }
        if self.address < LOWEST
            || self.memory_bytes < self.file_bytes
            || memory_end.is_none_or(|end| end > 1 << 32)
        {
            return Err(NotAKernel::Segments);
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// An ELF with `code` at 16 MiB, where it begins, and a page of zeros behind it.
    pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7FELF\x02\x01");
        let mut put = |at: usize, value: u64, bytes: usize| {
            elf[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        let len = code.len() as u64;
        put(16, 2, 2);
        put(18, 62, 2);
        put(24, 1 << 24, 8);
        put(32, 64, 8);
        put(54, 56, 2);
        put(56, 1, 2);
        put(64, 1, 4);
        put(64 + 8, 120, 8);
        put(64 + 24, 1 << 24, 8);
        put(64 + 32, len, 8);
        put(64 + 40, len + 4096, 8);
        elf.extend(code);
        elf
    }

    /// The same with a segment of notes: name, type, value.
    pub(crate) fn with_notes(code: &[u8], notes: &[(&[u8], u32, &[u8])]) -> Vec<u8> {
        let mut bytes = elf(code);
        let at = bytes.len() as u64 + 56;
        let mut text = Vec::new();
        for (name, kind, value) in notes {
            for number in [name.len() as u32, value.len() as u32, *kind] {
                text.extend(number.to_le_bytes());
            }
            for part in [name, value] {
                text.extend(*part);
                text.resize(text.len().next_multiple_of(4), 0);
            }
        }
        let mut header = vec![0; 56];
        header[..4].copy_from_slice(&NOTES.to_le_bytes());
        header[8..16].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&(text.len() as u64).to_le_bytes());
        bytes[56] = 2;
        let offset = u64_at(&bytes, 64 + 8) + 56;
        bytes[64 + 8..][..8].copy_from_slice(&offset.to_le_bytes());
        bytes.splice(120..120, header);
        bytes.extend(text);
        bytes
    }

    pub(crate) fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn parse(bytes: &[u8]) -> Result<Elf, NotAKernel> {
        Elf::parse(&file(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_kernel_is_loaded_where_it_says() {
        let bytes = elf(b"code");
        let memory = GuestMemory::new(32 << 20).unwrap();
        let loaded = parse(&bytes)
            .unwrap()
            .load(&mut file(&bytes), &memory, Protocol::Linux)
            .unwrap();
        assert_eq!((loaded.entry, loaded.end), (1 << 24, (1 << 24) + 4100));
        let mut code = [0; 5];
        memory.ram().read(1 << 24, &mut code);
        assert_eq!(&code, b"code\0");
    }

    #[test]
    fn memory_that_cannot_hold_it_is_an_error_with_the_sizes() {
        let bytes = elf(b"code");
        let memory = GuestMemory::new(8 << 20).unwrap();
        let error = parse(&bytes)
            .unwrap()
            .load(&mut file(&bytes), &memory, Protocol::Linux)
            .unwrap_err();
        assert!(matches!(error, MachineError::MemoryTooSmall { has, .. } if has == 8 << 20));
        assert!(error.hint().is_some());
    }

    #[test]
    fn other_executables_are_refused_for_their_reason() {
        let bytes = elf(b"code");
        assert_eq!(parse(&bytes[..bytes.len() - 1]), Err(NotAKernel::Short));
        assert_eq!(parse(b"#!/bin/sh"), Err(NotAKernel::Short));
        let changed = |at: usize, value: u8| {
            let mut bytes = elf(b"code");
            bytes[at] = value;
            parse(&bytes)
        };
        assert_eq!(changed(4, 1), Err(NotAKernel::Format));
        assert_eq!(changed(18, 183), Err(NotAKernel::Machine(183)));
        assert_eq!(changed(64 + 27, 0), Err(NotAKernel::Segments));
        assert_eq!(
            changed(24, 99),
            Ok(parse(&bytes).unwrap()).map(|mut elf: Elf| {
                elf.entry = Some((1 << 24) + 99);
                elf
            })
        );
        assert_eq!(changed(28, 9), Err(NotAKernel::Entry(9 << 32 | 1 << 24)));
    }

    #[test]
    fn linux_is_entered_as_linux_and_what_else_has_the_note_by_it() {
        let entry = (PHYS32_ENTRY.0, PHYS32_ENTRY.1, &[8, 0, 0, 1][..]);
        let wide = (
            PHYS32_ENTRY.0,
            PHYS32_ENTRY.1,
            &[8, 0, 0, 1, 0, 0, 0, 0][..],
        );
        let outside = (PHYS32_ENTRY.0, PHYS32_ENTRY.1, &[8, 0, 0, 9][..]);
        let linux: (&[u8], u32, &[u8]) = (b"Linux\0", 0x100, b"salt");
        let guest: (&[u8], u32, &[u8]) = (b"Xen\0", 6, b"linux\0");
        for (notes, protocol, entry_32) in [
            (vec![], Protocol::Linux, None),
            (vec![entry], Protocol::Pvh, Some(0x100_0008)),
            (vec![guest, wide], Protocol::Linux, Some(0x100_0008)),
            (vec![wide, linux], Protocol::Linux, Some(0x100_0008)),
            (vec![linux, outside], Protocol::Linux, None),
        ] {
            let elf = parse(&with_notes(b"some code", &notes)).unwrap();
            assert_eq!(elf.protocol(), protocol, "{notes:?}");
            assert_eq!(elf.entry(Protocol::Pvh), entry_32, "{notes:?}");
            assert_eq!(elf.entry(Protocol::Linux), Some(1 << 24));
        }
        // A virtual entry, as other systems have.
        let mut bytes = with_notes(b"some code", &[entry]);
        bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        let elf = parse(&bytes).unwrap();
        assert_eq!((elf.protocol(), elf.entry), (Protocol::Pvh, None));
        let memory = GuestMemory::new(32 << 20).unwrap();
        let error = elf.load(&mut file(&bytes), &memory, Protocol::Linux);
        assert!(matches!(
            error,
            Err(MachineError::Protocol(Protocol::Linux))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            changes in prop::collection::vec((0usize..250, any::<u8>()), 0..20),
        ) {
            let mut bytes = with_notes(b"code", &[(b"Xen\0", 18, &[0; 8]), (b"Linux\0", 1, b"x")]);
            bytes.resize(250, 0);
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(elf) = parse(&bytes) {
                let memory = GuestMemory::new(20 << 20).unwrap();
                let _ = elf.load(&mut file(&bytes), &memory, elf.protocol());
            }
        }
    }
}
