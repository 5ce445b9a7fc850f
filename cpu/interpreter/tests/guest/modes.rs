//! Real mode, protected mode, long mode, user mode.

use atoll_cpu_api::{CpuError, Segment, VcpuState};
use iced_x86::code_asm::*;

use crate::machine::{CODE, Machine, STACK, TABLES};

/// An address of the first 4 GiB as 32-bit code knows it.
fn low(address: u64) -> u32 {
    address.try_into().unwrap()
}

#[test]
fn start_up_code_goes_from_real_mode_to_long_mode() {
    let mut machine = Machine::new();
    // At 0x8000: 16 bits, then 32 at 0x8100, then 64 at 0x8200. Descriptors: 0x18 is 32-bit code.
    machine.ram.store(0x1018, 0x00CF_9B00_0000_FFFFu64);
    machine.ram.store(0x8300, 0xFFFu16);
    machine.ram.store(0x8302, 0x1000u32);
    // lgdt [cs:0x300]; mov eax, 0x11; mov cr0, eax; jmp dword 0x18:0x8100
    machine
        .ram
        .write(0x8000, &[0x2E, 0x66, 0x0F, 0x01, 0x16, 0x00, 0x03]);
    machine
        .ram
        .write(0x8007, &[0x66, 0xB8, 0x11, 0, 0, 0, 0x0F, 0x22, 0xC0]);
    machine
        .ram
        .write(0x8010, &[0x66, 0xEA, 0x00, 0x81, 0, 0, 0x18, 0]);
    machine.put_bits(0x8100, 32, |a| {
        a.mov(eax, 0x10).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(ss, eax).unwrap();
        a.mov(esp, low(STACK)).unwrap();
        a.push(0x1234).unwrap();
        a.pop(edi).unwrap();
        a.mov(eax, 0x20).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(eax, low(TABLES)).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(ecx, 0xC000_0080u32).unwrap();
        a.mov(eax, 0x100).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.mov(eax, 0x8000_0011u32).unwrap();
        a.mov(cr0, eax).unwrap();
        a.db(&[0xEA, 0x00, 0x82, 0, 0, 8, 0]).unwrap();
    });
    machine.put(0x8200, |a| {
        a.mov(r15, 0x1122_3344_5566_7788u64).unwrap();
        a.hlt().unwrap();
    });
    let mut state = VcpuState::default();
    state.segments.cs.selector = 0x800;
    state.segments.cs.base = 0x8000;
    state.rip = 0;
    machine.cpu.set_state(&state).unwrap();
    let state = machine.run_to_halt();
    assert_eq!(
        (state.registers[15], state.registers[7]),
        (0x1122_3344_5566_7788, 0x1234)
    );
    assert_ne!(state.efer & 1 << 10, 0);
    assert_eq!(state.segments.cs.selector, 8);
}

#[test]
fn syscall_goes_to_the_kernel_and_sysret_comes_back() {
    let mut machine = Machine::new();
    machine.ram.store(0x1020, 0x00CF_F300_0000_FFFFu64);
    machine.ram.store(0x1028, 0x00AF_FB00_0000_FFFFu64);
    let kernel = CODE + 0x1000;
    machine.put(CODE, |a| {
        a.mov(ebx, 5).unwrap();
        a.syscall().unwrap();
        a.add(ebx, 100).unwrap();
        a.hlt().unwrap();
    });
    machine.put(kernel, |a| {
        a.add(ebx, 10).unwrap();
        a.sysretq().unwrap();
    });
    machine.change(|state| {
        state.msrs.insert(0xC000_0081, 8 << 32 | 0x1B << 48);
        state.msrs.insert(0xC000_0082, kernel);
        state.msrs.insert(0xC000_0084, 0x700);
        let segment = |selector, attributes| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes,
        };
        state.segments.cs = segment(0x2B, 0xA0FB);
        state.segments.ss = segment(0x23, 0xC0F3);
        state.rflags |= 0x400;
        // The task state holds the kernel's stack for the fault of HLT in user mode.
        state.segments.tr = Segment {
            selector: 0x40,
            base: 0x4000,
            limit: 0x67,
            attributes: 0x8B,
        };
    });
    machine.ram.store(0x4004, STACK);
    let state = machine.run_to_halt();
    assert_eq!(machine.halted_in(), 13);
    assert_eq!(state.registers[3], 115);
    let frame = [8, 16, 24, 40].map(|at| machine.ram.load::<u64>(state.registers[4] + at));
    // Back in user mode with the direction flag that SYSCALL had cleared for the kernel.
    assert_eq!((frame[1], frame[2] & 0x400, frame[3]), (0x2B, 0x400, 0x23));
    assert_eq!(state.registers[4], STACK - 48);
    assert_eq!(state.segments.ss.selector, 0);
}

#[test]
fn a_state_that_no_processor_has_is_refused() {
    let mut machine = Machine::new();
    let broken: [fn(&mut VcpuState); 4] = [
        |state| state.efer &= !(1 << 10),
        |state| state.cr0 &= !1,
        |state| state.cr4 |= 1 << 40,
        |state| state.xcr0 = 7,
    ];
    for break_it in broken {
        let mut state = machine.state();
        break_it(&mut state);
        assert!(matches!(
            machine.cpu.set_state(&state),
            Err(CpuError::State(_))
        ));
    }
}

#[test]
fn paging_outside_long_mode_ends_with_a_clear_error() {
    let mut machine = Machine::new();
    machine.put_bits(CODE, 32, |a| {
        a.mov(eax, 0x8000_0011u32).unwrap();
        a.mov(cr0, eax).unwrap();
    });
    let mut state = VcpuState {
        cr0: 0x11,
        ..VcpuState::default()
    };
    state.segments.cs = Segment {
        selector: 8,
        base: 0,
        limit: u32::MAX,
        attributes: 0xC09B,
    };
    state.rip = CODE;
    machine.cpu.set_state(&state).unwrap();
    let bus: std::sync::Arc<dyn atoll_cpu_api::Bus> = machine.recorder.clone();
    let error = machine.cpu.run(&bus).unwrap_err();
    assert!(
        error.to_string().contains("paging outside long mode"),
        "{error}"
    );
    assert!(matches!(error, CpuError::Unsupported { rip, .. } if rip == CODE + 5));
}
