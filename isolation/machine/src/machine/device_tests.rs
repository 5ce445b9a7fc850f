//! A machine with an entropy device and a driver of a few instructions, on every backend.

use std::fs;

use atoll_interpreter::Soft;
use atoll_kvm::Kvm;
use atoll_virtio::RngDevice;
use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

use super::tests::{Output, save};
use super::*;
use crate::kernel::{KernelStore, tests_elf};

const MEMORY: u64 = 32 << 20;
/// Where the program finds 32-bit stores to do: address, value, and an address of 0 at the end.
const STORES: u64 = 0x40_0000;
const INTERRUPTS: u64 = 0x40_2000;
const DESCRIPTORS: u64 = 0x40_3000;
const AVAILABLE: u64 = 0x40_4000;
const USED: u64 = 0x40_5000;
const BUFFER: u64 = 0x40_6000;
const BUFFER_BYTES: u32 = 64;
const VECTOR: u32 = 0x41;

/// Waits for a byte of input, does the stores, says `a`, sleeps; the interrupt's handler says how many buffers are
/// used, and powers off.
fn program(entry: u64) -> Vec<u8> {
    let assemble = || -> Result<_, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(64)?;
        let (mut handler, mut wait) = (a.create_label(), a.create_label());
        let (mut next, mut done, mut sleep) =
            (a.create_label(), a.create_label(), a.create_label());
        // An interrupt gate for our only vector.
        a.lea(rax, qword_ptr(handler))?;
        a.mov(rdi, INTERRUPTS + 16 * u64::from(VECTOR))?;
        a.mov(word_ptr(rdi), ax)?;
        a.mov(word_ptr(rdi + 2), 0x10)?;
        a.mov(word_ptr(rdi + 4), 0x8E00_u32)?;
        a.shr(rax, 16)?;
        a.mov(word_ptr(rdi + 6), ax)?;
        a.push(INTERRUPTS as i32)?;
        a.shl(qword_ptr(rsp), 16)?;
        a.or(qword_ptr(rsp), 0xFFF)?;
        a.lidt(ptr(rsp))?;
        // The local APIC, in x2APIC mode, enabled.
        a.mov(ecx, 0x1B)?;
        a.rdmsr()?;
        a.or(eax, 0xC00)?;
        a.wrmsr()?;
        a.mov(ecx, 0x80F)?;
        a.mov(eax, 0x1FF)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(dx, 0x3FD)?;
        a.set_label(&mut wait)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.je(wait)?;
        a.mov(rsi, STORES)?;
        a.set_label(&mut next)?;
        a.mov(edi, dword_ptr(rsi))?;
        a.mov(eax, dword_ptr(rsi + 4))?;
        a.add(rsi, 8)?;
        a.test(edi, edi)?;
        a.je(done)?;
        a.mov(dword_ptr(rdi), eax)?;
        a.jmp(next)?;
        a.set_label(&mut done)?;
        a.mov(dx, 0x3F8)?;
        a.mov(al, u32::from(b'a') as i32)?;
        a.out(dx, al)?;
        a.sti()?;
        a.set_label(&mut sleep)?;
        a.hlt()?;
        a.jmp(sleep)?;
        a.set_label(&mut handler)?;
        a.mov(rdi, USED + 2)?;
        a.mov(al, byte_ptr(rdi))?;
        a.add(al, i32::from(b'0'))?;
        a.mov(dx, 0x3F8)?;
        a.out(dx, al)?;
        a.mov(dx, 0x600)?;
        a.mov(al, 0x34)?;
        a.out(dx, al)?;
        a.hlt()?;
        a.assemble(entry)
    };
    assemble().unwrap()
}

/// The stores that set the device up, route its interrupt and ring its doorbell.
fn stores() -> Vec<[u32; 2]> {
    let pin = u32::from(FIRST_DEVICE_PIN);
    let ioapic = |register, value| [[0xFEC0_0000, register], [0xFEC0_0010, value]];
    let device = |offset: u32, value: u32| [DEVICES_BASE as u32 + offset, value];
    let mut stores = Vec::new();
    stores.extend(ioapic(0x10 + 2 * pin + 1, 0));
    stores.extend(ioapic(0x10 + 2 * pin, VECTOR));
    let registers = [
        // Status, features (bit 32 only), the queue, status, doorbell.
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 4),
        (0x80, DESCRIPTORS as u32),
        (0x90, AVAILABLE as u32),
        (0xA0, USED as u32),
        (0x44, 1),
        (0x70, 15),
    ];
    stores.extend(registers.map(|(offset, value)| device(offset, value)));
    // One buffer to fill, of descriptor 0: flags and next; then the ring's index, then the doorbell.
    let memory = [
        (DESCRIPTORS, BUFFER as u32),
        (DESCRIPTORS + 8, BUFFER_BYTES),
        (DESCRIPTORS + 12, 2),
        (AVAILABLE, 1 << 16),
    ];
    stores.extend(memory.map(|(address, value)| [address as u32, value]));
    stores.push(device(0x50, 0));
    stores
}

fn made(hypervisor: &dyn Hypervisor, memory: GuestMemory, output: &Output) -> Machine {
    let config = MachineConfig {
        cpus: 1,
        tsc_khz: None,
        spare_cards: 0,
    };
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(RngDevice::new())];
    Machine::new(
        config,
        hypervisor,
        memory,
        devices,
        Box::new(output.clone()),
    )
    .unwrap()
}

fn loaded(hypervisor: &dyn Hypervisor, output: &Output, stores: &[[u32; 2]]) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinux");
    fs::write(&path, tests_elf(&program(0))).unwrap();
    let mut kernel = KernelStore::new(folder.path()).open(&path).unwrap();
    let machine = made(hypervisor, GuestMemory::new(MEMORY).unwrap(), output);
    machine.load(&mut kernel, None, "").unwrap();
    let stores: Vec<u8> = stores
        .iter()
        .flatten()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let memory = machine.memory();
    memory.write_slice(&stores, GuestAddress(STORES)).unwrap();
    machine
}

pub(super) fn backends() -> Vec<Box<dyn Hypervisor>> {
    let mut backends: Vec<Box<dyn Hypervisor>> = vec![Box::new(Soft)];
    match Kvm::open() {
        Ok(kvm) => backends.push(Box::new(kvm)),
        Err(why) => assert!(
            !std::path::Path::new("/dev/kvm").exists(),
            "there is a /dev/kvm, but {why}"
        ),
    }
    backends
}

fn used(machine: &Machine) -> u16 {
    machine.memory().read_obj(GuestAddress(USED + 2)).unwrap()
}

fn await_text(output: &Output, text: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(9);
    while output.text() != text {
        let late = std::time::Instant::now() > deadline;
        assert!(!late, "it said {:?}, not {text:?}", output.text());
        thread::yield_now();
    }
}

#[test]
fn a_doorbell_is_served_and_its_interrupt_arrives() {
    for backend in backends() {
        let output = Output::default();
        let machine = loaded(&*backend, &output, &stores());
        machine.start().unwrap();
        machine.input(b"x");
        let end = machine.wait().unwrap();
        let name = backend.name();
        assert_eq!((end, &output.text()[..]), (End::PowerOff, "a1"), "{name}");
        let mut random = [0; BUFFER_BYTES as usize];
        let buffer = GuestAddress(BUFFER);
        machine.memory().read_slice(&mut random, buffer).unwrap();
        assert_ne!(random, [0; BUFFER_BYTES as usize], "{name}");
    }
}

#[test]
fn a_buffer_whose_doorbell_a_snapshot_swallowed_is_filled_elsewhere() {
    for backend in backends() {
        let (folder, output) = (tempfile::tempdir().unwrap(), Output::default());
        let mut stores = stores();
        stores.truncate(stores.len() - 2);
        let machine = loaded(&*backend, &output, &stores);
        machine.start().unwrap();
        machine.input(b"x");
        await_text(&output, "a");
        assert!(machine.pause());
        // As if the pause came between the guest's last store and its doorbell's work.
        let memory = machine.memory();
        memory.write_obj(1u16, GuestAddress(AVAILABLE + 2)).unwrap();
        assert_eq!(used(&machine), 0);
        save(&machine, folder.path());

        let (snapshot, memory) = Snapshot::open(folder.path()).unwrap();
        let elsewhere = Output::default();
        let other = made(&*backend, memory, &elsewhere);
        other.restore(&snapshot).unwrap();
        other.start().unwrap();
        assert_eq!(other.wait().unwrap(), End::PowerOff);
        assert_eq!(elsewhere.text(), "1", "{}, restored", backend.name());

        machine.resume();
        machine.board.devices[0].write(0x50, &[0; 4]);
        assert_eq!(machine.wait().unwrap(), End::PowerOff);
        assert_eq!(output.text(), "a1", "{}, resumed", backend.name());
    }
}
