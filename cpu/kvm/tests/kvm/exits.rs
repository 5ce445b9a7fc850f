//! Accesses that leave the guest, and ends.

use atoll_cpu_api::Stop;
use iced_x86::code_asm::*;

use crate::guest::{Access, DATA, DONE, Guest, MMIO};

#[test]
fn port_accesses_of_every_width_reach_the_bus() {
    let mut guest = Guest::new(64, |a| {
        a.mov(eax, 0x0403_0201)?;
        a.mov(dx, 0x3F8)?;
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        a.xor(eax, eax)?;
        a.in_(al, 0x40)?;
        a.mov(ebx, eax)?;
        a.in_(ax, 0x41)?;
        a.mov(ecx, eax)?;
        a.in_(eax, 0x42)?;
        a.out(DONE, al)
    });
    guest.run_to_end();
    assert_eq!(
        guest.accesses(),
        [
            Access::PortWrite(0x3F8, vec![1]),
            Access::PortWrite(0x3F8, vec![1, 2]),
            Access::PortWrite(0x3F8, vec![1, 2, 3, 4]),
            Access::PortRead(0x40, 1),
            Access::PortRead(0x41, 2),
            Access::PortRead(0x42, 4),
        ]
    );
    let [ax4, cx2, _, bx1, ..] = guest.vcpu.state().unwrap().registers;
    assert_eq!((bx1, cx2, ax4), (0x11, 0x2211, 0x4433_2211));
}

#[test]
fn string_accesses_are_taken_apart() {
    let mut guest = Guest::new(64, |a| {
        a.cld()?;
        a.mov(rsi, DATA)?;
        a.mov(ecx, 3)?;
        a.mov(dx, 0x10)?;
        a.rep().outsw()?;
        a.mov(rdi, DATA + 0x100)?;
        a.mov(ecx, 3)?;
        a.rep().insb()?;
        a.out(DONE, al)
    });
    guest.memory.ram().write(DATA, b"abcdef");
    guest.run_to_end();
    let write = |text: &[u8]| Access::PortWrite(0x10, text.to_vec());
    let read = || Access::PortRead(0x10, 1);
    let expected = [
        write(b"ab"),
        write(b"cd"),
        write(b"ef"),
        read(),
        read(),
        read(),
    ];
    assert_eq!(guest.accesses(), expected);
    assert_eq!(guest.memory.ram().load::<u32>(DATA + 0x100), 0x0011_1111);
    let state = guest.vcpu.state().unwrap();
    assert_eq!((state.registers[1], state.registers[6]), (0, DATA + 6));
}

#[test]
fn accesses_beyond_memory_of_every_width_reach_the_bus() {
    let mut guest = Guest::new(64, |a| {
        a.mov(rdi, MMIO)?;
        a.mov(rax, 0x0807_0605_0403_0201_u64)?;
        a.mov(byte_ptr(rdi), al)?;
        a.mov(word_ptr(rdi + 2), ax)?;
        a.mov(dword_ptr(rdi + 4), eax)?;
        a.mov(qword_ptr(rdi + 8), rax)?;
        a.movzx(ebx, byte_ptr(rdi + 0x10))?;
        a.movzx(ecx, word_ptr(rdi + 0x12))?;
        a.mov(edx, dword_ptr(rdi + 0x14))?;
        a.mov(rsi, qword_ptr(rdi + 0x18))?;
        a.out(DONE, al)
    });
    guest.run_to_end();
    let write = |offset, bytes: &[u8]| Access::MemoryWrite(MMIO + offset, bytes.to_vec());
    assert_eq!(
        guest.accesses(),
        [
            write(0, &[1]),
            write(2, &[1, 2]),
            write(4, &[1, 2, 3, 4]),
            write(8, &[1, 2, 3, 4, 5, 6, 7, 8]),
            Access::MemoryRead(MMIO + 0x10, 1),
            Access::MemoryRead(MMIO + 0x12, 2),
            Access::MemoryRead(MMIO + 0x14, 4),
            Access::MemoryRead(MMIO + 0x18, 8),
        ]
    );
    let [_, cx2, dx4, bx1, _, _, si8, ..] = guest.vcpu.state().unwrap().registers;
    let read = (bx1, cx2, dx4, si8);
    assert_eq!(read, (0x11, 0x2211, 0x4433_2211, 0x8877_6655_4433_2211));
}

#[test]
fn a_triple_fault_stops_the_cpu() {
    let mut guest = Guest::new(32, |a| a.ud2());
    assert_eq!(guest.run(), Stop::TripleFault);
}

#[test]
fn halting_with_interrupts_off_stops_the_cpu() {
    let mut guest = Guest::new(64, |a| {
        a.cli()?;
        a.hlt()?;
        a.ud2()
    });
    assert_eq!(guest.run(), Stop::Halted);
    assert_eq!(guest.run(), Stop::Halted, "and again when it is run again");
}

#[test]
fn a_guest_sees_the_machine_s_processor() {
    let mut guest = Guest::new(64, |a| {
        a.mov(eax, 0x4000_0000)?;
        a.cpuid()?;
        a.mov(edi, ebx)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.out(DONE, al)
    });
    guest.run_to_end();
    let registers = guest.vcpu.state().unwrap().registers;
    assert_eq!(registers[7], u64::from(u32::from_le_bytes(*b"KVMK")));
    let features = registers[1];
    assert_eq!(features >> 5 & 1, 0, "VMX is hidden");
    assert_eq!(features >> 31 & 1, 1, "a hypervisor is there");
    assert_eq!(features >> 24 & 1, 1, "TSC deadline");
}

#[test]
fn written_pages_are_recorded_once() {
    let mut guest = Guest::new(64, |a| {
        a.mov(rax, DATA)?;
        a.mov(byte_ptr(rax + 0x5000), 1)?;
        a.mov(byte_ptr(rax + 0x7FFF), 1)?;
        a.out(DONE, al)
    });
    let vm = std::sync::Arc::clone(&guest.vm);
    let machine = vm.accelerated().unwrap();
    assert!(
        machine.take_dirty_pages().is_err(),
        "nothing is recorded yet"
    );
    machine.record_dirty_pages(true).unwrap();
    guest.run_to_end();
    let bitmap = machine.take_dirty_pages().unwrap();
    let is_dirty = |page: u64| bitmap[usize::try_from(page / 64).unwrap()] >> (page % 64) & 1;
    let first = DATA >> 12;
    let pages = (first..first + 16).filter(|&page| is_dirty(page) != 0);
    assert_eq!(pages.collect::<Vec<_>>(), [first + 5, first + 7]);
    assert_eq!(bitmap.len(), 4);
    assert_eq!(machine.take_dirty_pages().unwrap(), [0; 4]);
    machine.record_dirty_pages(false).unwrap();
    assert!(machine.take_dirty_pages().is_err());
}
