//! The kernel's ELF file, and loading it.
//!
//! Source: System V ABI, ELF-64 object file format; Linux arch/x86/kernel/vmlinux.lds.S (the entry is a physical
//! address).

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use atoll_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::error::{MachineError, NotAKernel};

/// Kernels are linked to lie above the first MiB.
const LOWEST: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 64;

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
    entry: u64,
    segments: Vec<Segment>,
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest physical address of its 64-bit entry.
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
        for entry in table.chunks_exact(56) {
            if u32_at(entry, 0) != 1 {
                continue;
            }
            let segment = Segment {
                offset: u64_at(entry, 8),
                address: u64_at(entry, 24),
                file_bytes: u64_at(entry, 32),
                memory_bytes: u64_at(entry, 40),
            };
            segment.check(bytes)?;
            segments.push(segment);
        }
        let entry = u64_at(&header, 24);
        let inside = |segment: &Segment| {
            (segment.address..segment.address + segment.memory_bytes).contains(&entry)
        };
        if !segments.iter().any(inside) {
            return Err(NotAKernel::Entry(entry));
        }
        Ok(Self { entry, segments })
    }

    /// First address after the last segment.
    pub fn end(&self) -> u64 {
        let ends = self.segments.iter();
        ends.map(|segment| segment.address + segment.memory_bytes)
            .max()
            .unwrap_or(0)
    }

    /// Copies the segments of `file`, whose headers these are, into memory that is zero.
    ///
    /// # Errors
    /// [`MachineError::MemoryTooSmall`]; [`MachineError::Io`] when the file cannot be read.
    pub fn load(&self, file: &mut File, memory: &GuestMemory) -> Result<Loaded, MachineError> {
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
            entry: self.entry,
            end: self.end(),
        })
    }
}

impl Segment {
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
            .load(&mut file(&bytes), &memory)
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
            .load(&mut file(&bytes), &memory)
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
                elf.entry = (1 << 24) + 99;
                elf
            })
        );
        assert_eq!(changed(28, 9), Err(NotAKernel::Entry(9 << 32 | 1 << 24)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(changes in prop::collection::vec((0usize..120, any::<u8>()), 0..20)) {
            let mut bytes = elf(b"code");
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(elf) = parse(&bytes) {
                let memory = GuestMemory::new(20 << 20).unwrap();
                let _ = elf.load(&mut file(&bytes), &memory);
            }
        }
    }
}
