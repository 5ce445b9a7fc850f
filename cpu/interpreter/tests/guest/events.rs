//! Interrupts, traps and requests of other threads.

use std::thread;
use std::time::Duration;

use atoll_cpu_api::{Activity, Stop};
use iced_x86::code_asm::*;

use crate::machine::{CODE, Machine, STACK};

#[test]
fn an_interrupt_comes_after_the_instruction_behind_sti() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.xor(eax, eax).unwrap();
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    machine.line.raise(0x40);
    assert_eq!(machine.run_to_halt().registers[0], 1);
    assert_eq!(machine.halted_in(), 0x40);
}

#[test]
fn an_interrupt_frame_is_as_the_manual_draws_it() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.mov(rsp, STACK - 5).unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    machine.line.raise(0x40);
    let state = machine.run_to_halt();
    let frame = [0, 8, 16, 24, 32].map(|at| machine.ram.load::<u64>(state.registers[4] + at));
    assert_eq!(state.registers[4], ((STACK - 5) & !15) - 40);
    // RIP behind NOP, CS, flags with IF, the unaligned stack, SS.
    assert_eq!(
        (frame[1], frame[2] & 0x200, frame[3], frame[4]),
        (8, 0x200, STACK - 5, 16)
    );
    assert_eq!(machine.ram.load::<u8>(frame[0]), 0xF4);
    assert_eq!(state.rflags & 0x200, 0);
}

#[test]
fn a_halted_cpu_wakes_by_an_interrupt_from_another_thread() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.sti().unwrap();
        a.hlt().unwrap();
        a.mov(ebx, 7).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    machine.handle(0x41, |a| a.iretq().unwrap());
    let (line, handle) = (machine.line.clone(), machine.cpu.handle());
    let raiser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        line.raise(0x41);
        handle.interrupt();
    });
    assert_eq!(machine.run_to_halt().registers[3], 7);
    raiser.join().unwrap();
}

#[test]
fn one_instruction_between_sti_and_cli_lets_an_interrupt_in() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.cli().unwrap();
        a.test(ebx, ebx).unwrap();
        a.jz(again).unwrap();
        a.hlt().unwrap();
    });
    machine.handle(0x41, |a| {
        a.mov(ebx, 7).unwrap();
        a.iretq().unwrap();
    });
    let (line, handle) = (machine.line.clone(), machine.cpu.handle());
    let raiser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        line.raise(0x41);
        handle.interrupt();
    });
    assert_eq!(machine.run_to_halt().registers[3], 7);
    raiser.join().unwrap();
}

#[test]
fn a_cpu_that_loops_is_paused_and_goes_on() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.inc(rax).unwrap();
        a.test(rbx, rbx).unwrap();
        a.jz(again).unwrap();
        a.hlt().unwrap();
    });
    machine.cpu.handle().pause();
    assert_eq!(machine.run(), Stop::Paused);
    let handle = machine.cpu.handle();
    let pauser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2));
        handle.pause();
    });
    assert_eq!(machine.run(), Stop::Paused);
    pauser.join().unwrap();
    assert!(machine.state().registers[0] > 0);
    machine.change(|state| state.registers[3] = 1);
    machine.run_to_halt();
}

#[test]
fn an_nmi_is_delivered_with_interrupts_off_and_not_twice() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| a.hlt().unwrap());
    machine.cpu.handle().nmi();
    let state = machine.run_to_halt();
    assert_eq!(machine.halted_in(), 2);
    assert!(state.nmi_blocked);
}

#[test]
fn a_halted_state_is_saved_and_restored() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.sti().unwrap();
        a.hlt().unwrap();
    });
    let handle = machine.cpu.handle();
    let pauser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        handle.pause();
    });
    assert_eq!(machine.run(), Stop::Paused);
    pauser.join().unwrap();
    let saved = machine.state();
    assert_eq!(saved.activity, Activity::Halted);
    let mut other = Machine::new();
    other.cpu.set_state(&saved).unwrap();
    other.line.raise(0x42);
    other.run_to_halt();
    assert_eq!(other.halted_in(), 0x42);
}

#[test]
fn the_trap_flag_stops_after_each_instruction() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.pushfq().unwrap();
        a.or(dword_ptr(rsp), 0x100).unwrap();
        a.popfq().unwrap();
        for _ in 0..10 {
            a.inc(eax).unwrap();
        }
        a.pushfq().unwrap();
        a.and(dword_ptr(rsp), 0xFFFF_FEFFu32 as i32).unwrap();
        a.popfq().unwrap();
        a.hlt().unwrap();
    });
    machine.handle(1, |a| {
        a.inc(ebx).unwrap();
        a.iretq().unwrap();
    });
    let state = machine.run_to_halt();
    // Ten increments, PUSHF, AND, and the POPF that clears the flag.
    assert_eq!((state.registers[0], state.registers[3]), (10, 13));
    assert_ne!(state.dr6 & 1 << 14, 0);
}

#[test]
fn exceptions_have_their_vectors() {
    type Attempt = (u64, fn(&mut CodeAssembler));
    let attempts: [Attempt; 6] = [
        (0, |a| {
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
        }),
        (3, |a| a.int3().unwrap()),
        (6, |a| a.ud2().unwrap()),
        (13, |a| {
            a.mov(ecx, 0x1234).unwrap();
            a.rdmsr().unwrap();
        }),
        (13, |a| {
            a.mov(eax, 0xFFF8).unwrap();
            a.mov(ds, eax).unwrap();
        }),
        (0x55, |a| a.int(0x55).unwrap()),
    ];
    for (vector, code) in attempts {
        let mut machine = Machine::new();
        machine.put(CODE, code);
        machine.run_to_halt();
        assert_eq!(machine.halted_in(), vector);
    }
}
