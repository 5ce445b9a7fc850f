//! Translation, faults and what they leave behind.

use iced_x86::code_asm::*;

use crate::machine::{CODE, Machine, PAGES, STACK, TABLES};

/// The error code and the address of the page fault that the guest halted in.
fn page_fault(machine: &Machine) -> (u64, u64) {
    assert_eq!(machine.halted_in(), 14);
    let state = machine.state();
    (machine.ram.load(state.registers[4]), state.cr2)
}

#[test]
fn a_missing_page_faults_with_its_address_and_the_instruction_can_be_restarted() {
    let mut machine = Machine::new();
    machine.ram.store(PAGES + 0x150 * 8, 0u64);
    machine.put(CODE, |a| {
        a.mov(rdi, 0x15_0FF0u64).unwrap();
        a.mov(eax, 5).unwrap();
        a.add(dword_ptr(rdi), eax).unwrap();
        a.hlt().unwrap();
    });
    machine.handle(14, |a| {
        a.mov(dword_ptr(PAGES + 0x150 * 8), 0x15_0007).unwrap();
        a.mov(rbx, cr2).unwrap();
        a.pop(rdx).unwrap();
        a.iretq().unwrap();
    });
    let state = machine.run_to_halt();
    assert_eq!((state.registers[3], state.registers[2]), (0x15_0FF0, 2));
    assert_eq!(machine.ram.load::<u32>(0x15_0FF0), 5);
    assert!(state.rip > CODE && state.rip < CODE + 0x40);
}

#[test]
fn a_store_across_two_pages_writes_nothing_when_the_second_is_missing() {
    let mut machine = Machine::new();
    machine.ram.store(PAGES + 0x151 * 8, 0u64);
    machine.put(CODE, |a| {
        a.mov(rax, u64::MAX).unwrap();
        a.mov(rdi, 0x15_0FFCu64).unwrap();
        a.mov(qword_ptr(rdi), rax).unwrap();
        a.hlt().unwrap();
    });
    machine.run_to_halt();
    assert_eq!(page_fault(&machine), (2, 0x15_1000));
    assert_eq!(machine.ram.load::<u32>(0x15_0FFC), 0);
}

#[test]
fn protection_bits_are_kept() {
    // (entry, CR4, code, error code)
    type Attempt = (u64, u64, fn(&mut CodeAssembler), u64);
    let read: fn(&mut CodeAssembler) = |a| a.mov(al, byte_ptr(0x15_0000)).unwrap();
    let write: fn(&mut CodeAssembler) = |a| a.mov(byte_ptr(0x15_0000), al).unwrap();
    let execute: fn(&mut CodeAssembler) = |a| {
        a.mov(rax, 0x15_0000u64).unwrap();
        a.jmp(rax).unwrap();
    };
    let attempts: [Attempt; 6] = [
        (0x15_0000, 0, read, 0),
        // Read-only, with CR0.WP.
        (0x15_0005, 0, write, 3),
        // Not executable.
        (0x15_0007 | 1 << 63, 0, execute, 0x11),
        // User page, SMEP.
        (0x15_0007, 1 << 20, execute, 0x11),
        // User page, SMAP.
        (0x15_0007, 1 << 21, read, 1),
        // A reserved bit.
        (0x15_0003 | 1 << 51, 0, read, 9),
    ];
    for (entry, control, code, error) in attempts {
        let mut machine = Machine::new();
        machine.change(|state| state.cr4 |= control);
        // Under SMEP and SMAP the supervisor's own pages are not the user's.
        if control != 0 {
            for page in 0..512u64 {
                machine.ram.store(PAGES + page * 8, page << 12 | 3);
            }
        }
        machine.ram.store(PAGES + 0x150 * 8, entry);
        machine.put(CODE, code);
        machine.run_to_halt();
        assert_eq!(page_fault(&machine), (error, 0x15_0000), "entry {entry:#x}");
    }
}

#[test]
fn stac_opens_user_pages_and_clac_closes_them() {
    let mut machine = Machine::new();
    machine.change(|state| state.cr4 |= 1 << 21);
    for page in 0..512u64 {
        machine.ram.store(PAGES + page * 8, page << 12 | 3);
    }
    machine.ram.store(PAGES + 0x150 * 8, 0x15_0007u64);
    machine.put(CODE, |a| {
        a.stac().unwrap();
        a.mov(byte_ptr(0x15_0001), 9).unwrap();
        a.clac().unwrap();
        a.mov(byte_ptr(0x15_0002), 9).unwrap();
    });
    machine.run_to_halt();
    assert_eq!(page_fault(&machine), (3, 0x15_0002));
    assert_eq!(machine.ram.load::<u16>(0x15_0001), 9);
}

#[test]
fn a_changed_translation_is_used_after_invlpg_and_after_cr3() {
    let mut machine = Machine::new();
    machine.ram.store(0x15_0000, 1u8);
    machine.ram.store(0x16_0000, 2u8);
    machine.ram.store(0x17_0000, 3u8);
    machine.put(CODE, |a| {
        a.mov(rdi, 0x15_0000u64).unwrap();
        a.mov(al, byte_ptr(rdi)).unwrap();
        a.mov(dword_ptr(PAGES + 0x150 * 8), 0x16_0007).unwrap();
        a.invlpg(byte_ptr(rdi)).unwrap();
        a.mov(bl, byte_ptr(rdi)).unwrap();
        a.mov(dword_ptr(PAGES + 0x150 * 8), 0x17_0007).unwrap();
        a.mov(rdx, cr3).unwrap();
        a.mov(cr3, rdx).unwrap();
        a.mov(cl, byte_ptr(rdi)).unwrap();
        a.hlt().unwrap();
    });
    let state = machine.run_to_halt();
    assert_eq!(
        [0, 3, 1].map(|register| state.registers[register] & 0xFF),
        [1, 2, 3]
    );
}

#[test]
fn code_moved_to_another_page_is_found_after_invlpg() {
    let mut machine = Machine::new();
    for (page, value) in [(0x15_0000u64, 1u8), (0x16_0000, 2)] {
        machine.ram.write(page, &[0xB3, value, 0xC3]);
    }
    machine.put(CODE, |a| {
        a.mov(rdi, 0x15_0000u64).unwrap();
        a.call(rdi).unwrap();
        a.mov(dl, bl).unwrap();
        a.mov(dword_ptr(PAGES + 0x150 * 8), 0x16_0007).unwrap();
        a.invlpg(byte_ptr(rdi)).unwrap();
        a.call(rdi).unwrap();
        a.hlt().unwrap();
    });
    let state = machine.run_to_halt();
    assert_eq!(
        (state.registers[2] & 0xFF, state.registers[3] & 0xFF),
        (1, 2)
    );
}

#[test]
fn an_instruction_whose_second_page_moved_is_found_after_invlpg_of_that() {
    let mut machine = Machine::new();
    // MOV BL, 1 across two pages; the second one becomes another, with a 2.
    machine.ram.write(0x15_0FFF, &[0xB3, 1, 0xC3]);
    machine.ram.write(0x16_0000, &[2, 0xC3]);
    machine.put(CODE, |a| {
        a.mov(rsi, 0x15_0FFFu64).unwrap();
        a.call(rsi).unwrap();
        a.mov(dl, bl).unwrap();
        a.mov(dword_ptr(PAGES + 0x151 * 8), 0x16_0007).unwrap();
        a.invlpg(byte_ptr(0x15_1000)).unwrap();
        a.call(rsi).unwrap();
        a.hlt().unwrap();
    });
    let state = machine.run_to_halt();
    assert_eq!(
        (state.registers[2] & 0xFF, state.registers[3] & 0xFF),
        (1, 2)
    );
}

#[test]
fn invlpg_anywhere_in_a_large_page_forgets_all_of_it() {
    let mut machine = Machine::new();
    machine.ram.store(0x20_5000, 1u8);
    machine.ram.store(0x5000, 2u8);
    for (page, value) in [(0x20_6000u64, 3u8), (0x6000, 4)] {
        machine.ram.write(page, &[0xB3, value, 0xC3]);
    }
    machine.put(CODE, |a| {
        a.mov(rdi, 0x20_5000u64).unwrap();
        a.mov(rsi, 0x20_6000u64).unwrap();
        a.mov(al, byte_ptr(rdi)).unwrap();
        a.call(rsi).unwrap();
        a.mov(dl, bl).unwrap();
        a.mov(dword_ptr(TABLES + 0x2008), 0x87).unwrap();
        a.invlpg(byte_ptr(0x20_0000)).unwrap();
        a.mov(cl, byte_ptr(rdi)).unwrap();
        a.call(rsi).unwrap();
        a.hlt().unwrap();
    });
    let state = machine.run_to_halt();
    // AL and DL before, CL and BL after.
    let seen = [0, 2, 1, 3].map(|register| state.registers[register] & 0xFF);
    assert_eq!(seen, [1, 3, 2, 4]);
}

#[test]
fn a_write_of_cr3_keeps_global_pages_and_only_those() {
    let mut machine = Machine::new();
    machine.change(|state| state.cr4 |= 1 << 7);
    machine.ram.store(0x15_0000, 1u8);
    machine.ram.store(0x16_0000, 2u8);
    machine.ram.store(PAGES + 0x160 * 8, 0x16_0107u64);
    machine.put(CODE, |a| {
        a.mov(al, byte_ptr(0x15_0000)).unwrap();
        a.mov(al, byte_ptr(0x16_0000)).unwrap();
        a.mov(dword_ptr(PAGES + 0x150 * 8), 0x16_0007).unwrap();
        a.mov(dword_ptr(PAGES + 0x160 * 8), 0x15_0107).unwrap();
        a.mov(rdx, cr3).unwrap();
        a.mov(cr3, rdx).unwrap();
        a.mov(al, byte_ptr(0x15_0000)).unwrap();
        a.mov(bl, byte_ptr(0x16_0000)).unwrap();
        a.hlt().unwrap();
    });
    let state = machine.run_to_halt();
    let seen = [0, 3].map(|register| state.registers[register] & 0xFF);
    assert_eq!(seen, [2, 2]);
}

#[test]
fn accessed_and_dirty_bits_are_set_when_and_only_when_used() {
    let mut machine = Machine::new();
    machine.put(CODE, |a| {
        a.mov(al, byte_ptr(0x15_0000)).unwrap();
        a.mov(byte_ptr(0x16_0000), al).unwrap();
        a.hlt().unwrap();
    });
    machine.run_to_halt();
    let bits = |page: u64| machine.ram.load::<u64>(PAGES + page * 8) & 0x60;
    assert_eq!([0x150, 0x160, 0x170].map(bits), [0x20, 0x60, 0]);
}

#[test]
fn an_address_that_is_not_canonical_is_a_general_protection_fault_or_a_stack_fault() {
    for (vector, stack) in [(13, false), (12, true)] {
        let mut machine = Machine::new();
        machine.put(CODE, |a| {
            a.mov(rbp, 1u64 << 62).unwrap();
            if stack {
                a.mov(rax, qword_ptr(rbp)).unwrap();
            } else {
                a.mov(rbx, rbp).unwrap();
                a.mov(rax, qword_ptr(rbx)).unwrap();
            }
        });
        machine.run_to_halt();
        assert_eq!(machine.halted_in(), vector);
    }
}

#[test]
fn what_is_no_memory_goes_to_the_bus() {
    let mut machine = Machine::new();
    // 4 MiB of memory: the page at 2 MiB + 0 maps high physical addresses.
    machine.ram.store(PAGES + 0x150 * 8, 0xFE_C000_0007u64);
    machine.put(CODE, |a| {
        a.mov(rax, qword_ptr(0x15_0010)).unwrap();
        a.mov(dword_ptr(0x15_0018), 7).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(machine.run_to_halt().registers[0], 0xFE_C000_0010);
    let expected = [&0xFE_C000_0018u64.to_le_bytes()[..], &[7, 0, 0, 0]].concat();
    assert_eq!(*machine.recorder.0.lock().unwrap(), [(0, expected)]);
}

#[test]
fn a_fault_on_the_stack_of_a_fault_is_a_double_fault_and_then_the_end() {
    let mut machine = Machine::new();
    machine.ram.store(PAGES + (STACK / 4096 - 1) * 8, 0u64);
    machine.put(CODE, |a| a.push(rax).unwrap());
    assert_eq!(machine.run(), atoll_cpu_api::Stop::TripleFault);
}
