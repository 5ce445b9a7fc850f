//! Code that one CPU decoded, taken over by another with the same memory.

use std::io::Write;
use std::sync::Arc;

use atoll_cpu_api::VcpuState;
use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};

use crate::machine::{CODE, Machine, PAGES};

/// A loop with loads, stores, vectors, calls and branches; RAX tells what came of it.
fn put_program(machine: &Machine) {
    machine.put(CODE, |a| {
        let (mut again, mut odd, mut function) =
            (a.create_label(), a.create_label(), a.create_label());
        a.mov(ecx, 100).unwrap();
        a.mov(rax, 0x1234_5678_9ABC_DEF0u64).unwrap();
        a.set_label(&mut again).unwrap();
        a.call(function).unwrap();
        a.test(cl, 1).unwrap();
        a.jnz(odd).unwrap();
        a.rol(rax, 7).unwrap();
        a.set_label(&mut odd).unwrap();
        a.movq(xmm0, rax).unwrap();
        a.paddd(xmm0, xmm0).unwrap();
        a.movq(rdx, xmm0).unwrap();
        a.mov(qword_ptr(0x8000 + rcx * 8), rdx).unwrap();
        a.dec(ecx).unwrap();
        a.jnz(again).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut function).unwrap();
        a.xor(rax, qword_ptr(0x8000 + rcx * 8 + 8)).unwrap();
        a.imul_2(rax, rcx).unwrap();
        a.inc(rax).unwrap();
        a.ret().unwrap();
    });
}

/// Has the machine take over what `code` says; whether it could be used.
fn learn(machine: &mut Machine, code: &[u8]) -> bool {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.write_all(code).unwrap();
    machine.cpu.learn_code(&file, 4096)
}

/// A machine with the program that has not run.
fn fresh() -> Machine {
    let machine = Machine::new();
    put_program(&machine);
    machine
}

fn ran(mut machine: Machine) -> (Machine, VcpuState) {
    let state = machine.run_to_halt();
    (machine, state)
}

#[test]
fn what_was_learnt_executes_as_what_was_decoded() {
    let (first, expected) = ran(fresh());
    let code = first.cpu.code().unwrap();
    let mut second = fresh();
    assert!(learn(&mut second, &code));
    // What it knows now is what it was told.
    assert_eq!(second.cpu.code().unwrap(), code);
    let (second, state) = ran(second);
    assert_eq!(state.registers, expected.registers);
    assert_eq!(second.cpu.instructions(), first.cpu.instructions());
    // A branch more is known to lead where it does.
    assert_eq!(
        second.cpu.code().unwrap().len(),
        code.len(),
        "nothing had to be decoded"
    );
    let (third, _) = ran(second);
    assert!(learn(&mut fresh(), &third.cpu.code().unwrap()));
}

/// A function of two pages, whose instruction across them is MOV BL, 1; called.
fn put_far(machine: &Machine) {
    machine.ram.write(FAR, &[0xEB, 0x0D]);
    machine.ram.write(FAR + 15, &[0xB3, 1, 0xC3]);
    machine.ram.write(0x16_0000, &[2, 0xC3]);
    machine.put(CODE, |a| {
        a.mov(rsi, FAR).unwrap();
        a.call(rsi).unwrap();
        a.hlt().unwrap();
    });
}

/// Its first instruction, and the number of its second page.
const FAR: u64 = 0x15_0FF0;
const SECOND: u64 = 0x151;

/// A machine that learnt what the far function is, and does `first` before it calls it. BL then.
fn far(first: impl FnOnce(&mut CodeAssembler)) -> u64 {
    let machine = Machine::new();
    put_far(&machine);
    let code = ran(machine).0.cpu.code().unwrap();
    let mut second = Machine::new();
    put_far(&second);
    second.put(CODE + 0x1000, |a| {
        a.mov(rsi, FAR).unwrap();
        first(a);
        a.call(rsi).unwrap();
        a.hlt().unwrap();
    });
    second.start_at(CODE + 0x1000);
    assert!(learn(&mut second, &code));
    second.run_to_halt().registers[3] & 0xFF
}

#[test]
fn where_code_goes_on_is_looked_up_by_who_learnt_it() {
    let map = |a: &mut CodeAssembler| {
        a.mov(dword_ptr(PAGES + SECOND * 8), 0x16_0007).unwrap();
    };
    let call = |a: &mut CodeAssembler| {
        a.call(rsi).unwrap();
    };
    assert_eq!(far(|_| ()), 1);
    // What was learnt are blocks in memory, no translations.
    assert_eq!(far(map), 2);
    // A processor that knows a translation need not look at the tables, until it is told.
    let known = far(|a| {
        call(a);
        map(a);
    });
    let with_page = far(|a| {
        call(a);
        map(a);
        a.invlpg(byte_ptr(SECOND << 12)).unwrap();
    });
    let with_all = far(|a| {
        call(a);
        map(a);
        a.mov(rdx, cr3).unwrap();
        a.mov(cr3, rdx).unwrap();
    });
    assert_eq!((known, with_page, with_all), (1, 2, 2));
}

#[test]
fn code_that_was_learnt_is_not_executed_once_it_is_overwritten() {
    let (first, expected) = ran(fresh());
    let mut second = fresh();
    assert!(learn(&mut second, &first.cpu.code().unwrap()));
    // mov ecx, 100 becomes mov ecx, 1.
    assert_eq!(second.ram.load::<u32>(CODE + 1), 100);
    second.recorder.0.lock().unwrap().clear();
    let one = 1u32.to_le_bytes();
    second
        .memory
        .write_slice(&one, GuestAddress(CODE + 1))
        .unwrap();
    let (second, state) = ran(second);
    assert_ne!(state.registers[0], expected.registers[0]);
    assert!(second.cpu.instructions() < Some(20));
}

#[test]
fn code_of_before_is_forgotten() {
    let (mut machine, _) = ran(fresh());
    let all = machine.cpu.code().unwrap().len();
    machine.cpu.forget_code();
    let none = machine.cpu.code().unwrap().len();
    machine.put(CODE + 0x1000, |a| {
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    machine.start_at(CODE + 0x1000);
    machine.run_to_halt();
    let some = machine.cpu.code().unwrap().len();
    assert!(none < some && some < all, "{none} {some} {all}");
}

#[test]
fn damaged_code_is_refused_or_executes_something() {
    let code = ran(fresh()).0.cpu.code().unwrap();
    for len in 0..code.len() {
        assert!(!learn(&mut fresh(), &code[..len]), "{len} bytes");
    }
    assert!(!learn(&mut fresh(), &[&code[..], &[0]].concat()));
    for at in 0..code.len() {
        for bit in [0x01, 0x80] {
            let mut wrong = code.clone();
            wrong[at] ^= bit;
            let mut machine = fresh();
            let none = machine.cpu.code();
            if !learn(&mut machine, &wrong) {
                assert_eq!(machine.cpu.code(), none, "as if nothing had been said");
                continue;
            }
            // It comes to some end; one that does not is paused.
            let handle = machine.cpu.handle();
            let watch = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                handle.pause();
            });
            let bus = Arc::clone(&machine.recorder) as _;
            let _ = machine.cpu.run(&bus);
            drop(watch);
        }
    }
}

#[test]
fn what_memory_does_not_have_is_dropped_when_it_is_checked() {
    let code = ran(fresh()).0.cpu.code().unwrap();
    // mov ecx, 100 becomes mov ecx, 50.
    let other = || {
        let machine = fresh();
        machine.ram.store(CODE + 1, 50u32);
        machine
    };
    let (_, expected) = ran(other());
    let mut learnt = other();
    assert!(learn(&mut learnt, &code));
    learnt.cpu.check_code();
    let kept = learnt.cpu.code().unwrap();
    assert!(kept.len() < code.len() && learnt.cpu.has_all_code());
    assert_eq!(ran(learnt).1.registers, expected.registers);
    let mut second = other();
    assert!(learn(&mut second, &kept));
    assert_eq!(ran(second).1.registers, expected.registers);
}

#[test]
fn damaged_code_that_was_checked_executes_as_what_was_decoded() {
    let (first, expected) = ran(fresh());
    let code = first.cpu.code().unwrap();
    let mut taken = 0;
    for at in 0..code.len() {
        for bit in [0x01, 0x10, 0x80] {
            let mut wrong = code.clone();
            wrong[at] ^= bit;
            let mut checker = fresh();
            if !learn(&mut checker, &wrong) {
                continue;
            }
            checker.cpu.check_code();
            let checked = checker.cpu.code().unwrap();
            let mut machine = fresh();
            assert!(learn(&mut machine, &checked));
            let state = ran(machine).1;
            assert_eq!(state.registers, expected.registers, "byte {at}, {bit:#x}");
            taken += 1;
        }
    }
    assert!(taken > 100);
}
