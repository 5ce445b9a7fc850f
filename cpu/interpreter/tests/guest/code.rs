//! Code that changes under the CPU.

use atoll_memory::PAGE;
use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

use crate::machine::{CODE, Machine};

#[test]
fn an_instruction_overwritten_just_before_it_executes_is_the_new_one() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        let mut target = a.create_label();
        a.lea(rdi, byte_ptr(target)).unwrap();
        a.mov(byte_ptr(rdi + 1), 77).unwrap();
        a.set_label(&mut target).unwrap();
        a.mov(al, 11).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(machine.run_to_halt().registers[0] & 0xFF, 77);
}

#[test]
fn a_loop_that_rewrites_its_own_body_sees_each_version() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 200).unwrap();
        a.xor(ebx, ebx).unwrap();
        a.set_label(&mut again).unwrap();
        a.add(ebx, 0x1111_1111).unwrap();
        a.lea(rdi, byte_ptr(again)).unwrap();
        a.mov(dword_ptr(rdi + 2), ecx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    // The first round adds the constant, the others the counter of the round before: 200 down to 2.
    let sum = (2..=200u32).sum::<u32>() + 0x1111_1111;
    assert_eq!(machine.run_to_halt().registers[3], u64::from(sum));
}

#[test]
fn code_that_a_device_writes_is_executed_as_written() {
    let mut machine = Machine::new();
    for value in 1..=5u8 {
        // mov al, value; hlt
        let bytes = [0xB0, value, 0xF4];
        machine
            .memory
            .write_slice(&bytes, GuestAddress(CODE))
            .unwrap();
        machine.start_at(CODE);
        assert_eq!(machine.run_to_halt().registers[0], u64::from(value));
    }
}

#[test]
fn an_instruction_across_two_pages_follows_both() {
    let mut machine = Machine::new();
    let at = CODE + PAGE - 3;
    for (value, page) in [(0x11u8, 0x101u64), (0x22, 0x180), (0x33, 0x101)] {
        // mov eax, imm32, whose immediate's last bytes lie in the next page; the third time the page is rewritten.
        machine
            .memory
            .write_slice(&[0xB8, value, value], GuestAddress(at))
            .unwrap();
        machine
            .memory
            .write_slice(&[value, value, 0xF4], GuestAddress(page << 12))
            .unwrap();
        machine
            .ram
            .store(crate::machine::PAGES + 0x101 * 8, page << 12 | 7);
        machine.start_at(at);
        let state = machine.run_to_halt();
        assert_eq!(
            state.registers[0],
            u64::from(u32::from_le_bytes([value; 4]))
        );
    }
}

#[test]
fn data_beside_code_is_written_without_harm() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        let mut again = a.create_label();
        a.mov(rdi, CODE + 0x800).unwrap();
        a.mov(ecx, 1000).unwrap();
        a.set_label(&mut again).unwrap();
        a.add(dword_ptr(rdi), ecx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
    });
    machine.run_to_halt();
    assert_eq!(machine.ram.load::<u32>(CODE + 0x800), 500_500);
}

#[test]
fn rep_movs_over_code_replaces_it() {
    let mut machine = Machine::new();
    let (old, new) = (CODE + 0x1000, CODE + 0x2000);
    machine.put(old, |a| {
        a.mov(ebx, 1).unwrap();
        a.ret().unwrap();
    });
    machine.put(new, |a| {
        a.mov(ebx, 2).unwrap();
        a.ret().unwrap();
    });
    machine.put(CODE, |a| {
        a.mov(rax, old).unwrap();
        a.call(rax).unwrap();
        a.mov(rsi, new).unwrap();
        a.mov(rdi, old).unwrap();
        a.mov(ecx, 64).unwrap();
        a.rep().movsb().unwrap();
        a.call(rax).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(machine.run_to_halt().registers[3], 2);
}
