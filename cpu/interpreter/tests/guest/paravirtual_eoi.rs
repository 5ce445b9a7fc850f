//! Interrupts that the guest ends by clearing a bit in its memory.

use iced_x86::code_asm::*;

use crate::machine::{CODE, Happened, Machine};

const REGISTER: u32 = 0x4B56_4D04;
const WORD: u64 = 0x15_0000;

/// Writes `value` to the register, lets an interrupt in and halts; its handler ends the interrupt as Linux does when
/// `ends`, with CF in BL: whether the bit was there.
fn machine(value: u64, ends: bool) -> Machine {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.mov(eax, (value & 0xFFFF_FFFF) as u32).unwrap();
        a.mov(edx, (value >> 32) as u32).unwrap();
        a.mov(ecx, REGISTER).unwrap();
        a.wrmsr().unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    machine.handle(0x40, |a| {
        if ends {
            a.btr(dword_ptr(WORD), 0).unwrap();
            a.setc(bl).unwrap();
        }
        a.iretq().unwrap();
    });
    machine.change(|state| state.registers[3] = 7);
    machine.line.raise(0x40);
    machine
}

#[test]
fn a_cleared_bit_ends_the_interrupt() {
    let mut machine = machine(WORD | 1, true);
    machine.ram.store(WORD, 0xAA00u32);
    machine.line.let_ends_wait();
    assert_eq!(machine.run_to_halt().registers[3], 1);
    assert_eq!(
        machine.line.happened(),
        [Happened::Taken(0x40), Happened::Ended]
    );
    assert_eq!(machine.ram.load::<u32>(WORD), 0xAA00);
}

#[test]
fn a_bit_left_alone_is_taken_back_and_ends_nothing() {
    let mut machine = machine(WORD | 1, false);
    machine.line.let_ends_wait();
    machine.run_to_halt();
    assert_eq!(machine.line.happened(), [Happened::Taken(0x40)]);
    assert_eq!(machine.ram.load::<u32>(WORD), 0);
}

#[test]
fn nothing_is_offered_where_the_end_cannot_wait_or_nobody_asked() {
    for (value, waits) in [(WORD | 1, false), (WORD, true), (0, true)] {
        let mut machine = machine(value, true);
        if waits {
            machine.line.let_ends_wait();
        }
        assert_eq!(machine.run_to_halt().registers[3], 0, "{value:#x}");
        assert_eq!(machine.line.happened(), [Happened::Taken(0x40)]);
    }
}

#[test]
fn the_first_interrupt_has_ended_when_the_next_is_taken() {
    let mut machine = machine(WORD | 1, true);
    machine.line.let_ends_wait();
    // The handler's own port write lets the next one come.
    machine.handle(0x40, |a| {
        a.btr(dword_ptr(WORD), 0).unwrap();
        a.mov(ebp, 1).unwrap();
        a.hlt().unwrap();
    });
    machine.handle(0x41, |a| {
        a.btr(dword_ptr(WORD), 0).unwrap();
        a.hlt().unwrap();
    });
    machine.run_to_halt();
    machine.line.raise(0x41);
    let next = machine.state().rip;
    machine.put(next, |a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    machine.start_at(next);
    machine.run_to_halt();
    use Happened::{Ended, Taken};
    assert_eq!(
        machine.line.happened(),
        [Taken(0x40), Ended, Taken(0x41), Ended]
    );
}

#[test]
fn a_restored_cpu_goes_on_offering() {
    let mut first = machine(WORD | 1, true);
    first.run_to_halt();
    let mut second = machine(0, true);
    let state = first.state();
    second.cpu.set_state(&state).unwrap();
    second.line.let_ends_wait();
    // Behind WRMSR, which would switch it off.
    second.put(CODE, |a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    second.start_at(CODE);
    assert_eq!(second.run_to_halt().registers[3], 1);
}

#[test]
fn an_address_that_is_not_aligned_or_no_memory_is_a_general_protection_fault() {
    for value in [WORD | 3, WORD | 2 | 1, 1 << 40 | 1, 0x40_0000 | 1] {
        let mut machine = machine(value, true);
        machine.run_to_halt();
        assert_eq!(machine.halted_in(), 13, "{value:#x}");
    }
}
