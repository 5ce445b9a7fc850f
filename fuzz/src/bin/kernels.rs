//! A kernel's file: bzImage, what is compressed in it, ELF, notes; and loading it. The input's first byte says whether
//! the rest is the file, the payload of a bzImage, or changes to an ELF.
#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;

use atoll_machine::kernel::KernelStore;
use atoll_memory::GuestMemory;
use libfuzzer_sys::fuzz_target;

/// A bzImage around `payload`.
fn image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, value: &[u8]| image[at..at + value.len()].copy_from_slice(value);
    put(0x1F1, &[1]);
    put(0x201, &[0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20F_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x236, &[1]);
    put(0x24C, &(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}

/// An ELF with a segment of code and one of notes, changed by `changes`: two bytes of position, one of value.
fn elf(changes: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 256];
    let mut put = |at: usize, value: &[u8]| elf[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7FELF\x02\x01");
    put(16, &[2, 0, 62]);
    put(24, &[0, 0, 0, 1]);
    put(32, &[64]);
    put(54, &[56, 0, 2]);
    put(64, &[1]);
    put(64 + 24, &[0, 0, 0, 1]);
    put(64 + 32, &[255]);
    put(64 + 40, &[255, 15]);
    put(120, &[4]);
    put(120 + 8, &[200]);
    put(120 + 32, &[56]);
    put(200, &[4, 0, 0, 0, 8, 0, 0, 0, 18]);
    put(212, b"Xen");
    put(216, &[0, 0, 0, 1]);
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % elf.len();
        elf[at] = change[2];
    }
    elf
}

thread_local! {
    static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    FILE.with_borrow_mut(|file| {
        let (_, path) = file.get_or_insert_with(|| {
            let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
            let path = folder.path().join("kernel");
            (folder, path)
        });
        let contents = match bytes {
            [kind, rest @ ..] if kind % 3 == 1 => image(rest),
            [kind, rest @ ..] if kind % 3 == 2 => elf(rest),
            [_, rest @ ..] => rest.to_vec(),
            [] => Vec::new(),
        };
        std::fs::write(&*path, contents).expect("a file");
        // A store that cannot be written: nothing is kept.
        let Ok(mut kernel) = KernelStore::new("/proc/none").open(path) else {
            return;
        };
        let memory = GuestMemory::new(48 << 20).expect("memory");
        let protocol = kernel.protocol;
        let _ = kernel.elf.load(&mut kernel.file, &memory, protocol);
        let _ = (
            kernel.header.command_line_limit(),
            kernel.header.initrd_limit(),
        );
    });
});
