//! States set and read.

use std::collections::BTreeMap;

use atoll_cpu_api::{Activity, CpuError, Hypervisor, Mismatch, Stop, VcpuState, VmConfig};
use atoll_kvm::Kvm;
use atoll_memory::GuestMemory;
use iced_x86::code_asm::*;

use crate::guest::{CODE, DATA, DONE, Guest, MEMORY_BYTES, state};
use crate::usable::accelerates;

#[test]
fn programs_begin_in_16_32_and_64_bit_mode() {
    for bits in [16, 32, 64] {
        let mut guest = Guest::new(bits, |a| {
            // 0x40 is INC EAX/AX in 16 and 32 bits, a prefix in 64.
            a.xor(eax, eax)?;
            a.db(&[0x40, 0x90])?;
            // An operand of the mode's own size tells 16 from 32.
            a.mov(ebx, u32::MAX)?;
            a.db(&[0x89, 0xC3])?;
            a.out(DONE, al)
        });
        guest.run_to_end();
        let [counted, _, _, moved, ..] = guest.vcpu.state().unwrap().registers;
        let expected = match bits {
            16 => (1, 0xFFFF_0001),
            32 => (1, 1),
            _ => (0, 0),
        };
        assert_eq!((counted, moved), expected, "{bits} bits");
    }
}

#[test]
fn a_tsc_that_cannot_be_had_is_refused_with_both_frequencies() {
    let memory = GuestMemory::new(MEMORY_BYTES).unwrap();
    let wanted = VmConfig {
        vcpus: 1,
        tsc_khz: Some(u32::MAX),
    };
    match Kvm::open().unwrap().create_vm(wanted, memory) {
        Ok(vm) => assert_eq!(vm.tsc_khz(), u32::MAX),
        Err(CpuError::Tsc {
            wanted_khz,
            host_khz,
        }) => assert!(wanted_khz == u32::MAX && host_khz > 100_000),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_machine_fits_its_own_processor_and_says_who_made_it() {
    let guest = Guest::new(64, |a| a.out(DONE, al));
    let own = guest.vm.processor();
    assert_eq!(own.fits(&own), Ok(()));
    let mut richer = own.clone();
    let features = richer.0.iter_mut().find(|leaf| leaf.function == 1);
    features.unwrap().registers[2] |= 1 << 3;
    let why = richer.fits(&own).unwrap_err();
    assert_eq!(why.to_string(), "it has CPUID 0x1.0 ECX bit 3");
    let mut other = own.clone();
    other.0[0].registers[1] ^= 1;
    assert!(matches!(other.fits(&own), Err(Mismatch::Vendor { .. })));
}

/// A state in 64-bit mode with something in every field.
fn full() -> VcpuState {
    let mut full = state(64);
    for (register, value) in full.registers.iter_mut().zip(1..) {
        *register = value << 40 | value;
    }
    full.rflags = 0x0000_0AD7;
    full.segments.fs.base = 0x1234_5000;
    full.segments.gs.base = 0xFFFF_8000_1234_0000;
    full.segments.tr = atoll_cpu_api::Segment {
        selector: 0x18,
        base: 0x5000,
        limit: 0x67,
        attributes: 0x8B,
    };
    full.segments.ldtr = atoll_cpu_api::Segment::default();
    full.cr2 = 0xFFFF_9000_0000_1234;
    full.cr4 |= 1 << 18 | 1 << 7;
    full.efer |= 1 | 1 << 11;
    full.xcr0 = 3;
    full.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    full.dr7 = 0x401;
    full.fpu.control = 0x27F;
    full.fpu.status = 0x3000;
    full.fpu.tags = 0x40;
    full.fpu.st[0] = 0x4000_C90F_DAA2_2168_C235;
    full.fpu.mxcsr = 0x1FA0;
    for (register, value) in full.fpu.xmm.iter_mut().zip(1..) {
        *register = u128::MAX / value;
    }
    full.tsc = 1 << 45;
    full.msrs = BTreeMap::from([
        (0x1B, 0xFEE0_0D00),
        (0x174, 8),
        // 32 bits: AMD has no more of it.
        (0x175, 0x8000_1000),
        (0xC000_0081, 0x0023_0008_0000_0000),
        (0xC000_0082, 0xFFFF_8000_0000_2000),
        (0xC000_0084, 0x4_7700),
        (0xC000_0102, 0x7F00_0000_1000),
    ]);
    full.activity = Activity::Halted;
    full.nmi_blocked = true;
    full.nmi_pending = true;
    full
}

#[test]
fn a_full_state_comes_back_as_it_was_set() {
    let mut guest = Guest::new(64, |a| a.ud2());
    let set = full();
    guest.vcpu.set_state(&set).unwrap();
    let got = guest.vcpu.state().unwrap();
    for (index, value) in &set.msrs {
        assert_eq!(got.msrs.get(index), Some(value), "MSR {index:#x}");
    }
    assert_eq!(got.local_apic.len(), 1024);
    let expected = VcpuState {
        tsc: got.tsc,
        msrs: got.msrs.clone(),
        local_apic: got.local_apic.clone(),
        ..set
    };
    assert_eq!(got, expected);
    // What was read can be set, on another machine too, and reads the same.
    let mut other = Guest::new(64, |a| a.ud2());
    other.vcpu.set_state(&got).unwrap();
    let again = other.vcpu.state().unwrap();
    let expected = VcpuState {
        tsc: again.tsc,
        ..got
    };
    assert_eq!(again, expected);
}

#[test]
fn vector_state_beyond_sse_is_kept_where_the_host_has_it() {
    let mut guest = Guest::new(64, |a| a.ud2());
    let mut set = state(64);
    set.cr4 |= 1 << 18;
    set.xcr0 = 7;
    set.extended.insert(2, (0..=255).collect());
    let result = guest.vcpu.set_state(&set);
    if std::arch::is_x86_feature_detected!("avx") {
        result.unwrap();
        let got = guest.vcpu.state().unwrap();
        assert_eq!((got.xcr0, got.extended), (7, set.extended));
        guest.vcpu.set_state(&state(64)).unwrap();
        let none = guest.vcpu.state().unwrap().extended;
        assert!(none.is_empty(), "an old state stays: {none:?}");
    } else {
        assert!(matches!(result, Err(CpuError::State(_))), "{result:?}");
    }
}

#[test]
fn the_tsc_goes_on_from_where_it_was_set() {
    let mut guest = Guest::new(64, |a| a.ud2());
    let set = VcpuState {
        tsc: 1 << 45,
        ..state(64)
    };
    guest.vcpu.set_state(&set).unwrap();
    let first = guest.vcpu.state().unwrap().tsc;
    let second = guest.vcpu.state().unwrap().tsc;
    assert!(second > first);
    // A host that emulates guests may give them its own counter, whatever they set.
    if accelerates() {
        assert!((1 << 45..1 << 46).contains(&first), "{first:#x}");
    }
}

#[test]
fn a_cpu_that_waits_for_startup_and_one_that_runs_are_told_apart() {
    let mut guest = Guest::new(64, |a| a.ud2());
    for activity in [Activity::WaitingForStartup, Activity::Running] {
        let set = VcpuState {
            activity,
            ..state(64)
        };
        guest.vcpu.set_state(&set).unwrap();
        assert_eq!(guest.vcpu.state().unwrap().activity, activity);
    }
}

#[test]
fn a_guest_moves_to_another_machine_in_the_middle_of_a_loop() {
    let program = |a: &mut CodeAssembler| {
        let mut next = a.create_label();
        a.mov(ecx, 10)?;
        a.set_label(&mut next)?;
        a.lock().add(dword_ptr(DATA), ecx)?;
        a.movups(xmmword_ptr(DATA + 16), xmm1)?;
        a.out(DONE, al)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.hlt()
    };
    let mut first = Guest::new(64, program);
    let mut begin = state(64);
    begin.fpu.xmm[1] = u128::MAX / 3;
    first.vcpu.set_state(&begin).unwrap();
    for _ in 0..4 {
        first.run_to_end();
    }
    let moved = first.vcpu.state().unwrap();
    let mut second = Guest::over(first.memory.clone(), 1);
    drop(first.vcpu);
    second.vcpu.set_state(&moved).unwrap();
    second.memory.ram().store_u128(DATA + 16, 0);
    for _ in 0..6 {
        second.run_to_end();
    }
    assert_eq!(second.run(), Stop::Halted);
    assert_eq!(second.memory.ram().load::<u32>(DATA), 55);
    assert_eq!(second.memory.ram().load_u128(DATA + 16), u128::MAX / 3);
}

#[test]
fn the_access_that_paused_a_cpu_is_complete() {
    let mut guest = Guest::new(64, |a| {
        a.out(DONE, al)?;
        a.nop()
    });
    guest.run_to_end();
    assert_eq!(guest.vcpu.state().unwrap().rip, CODE + 2);
}

#[test]
fn states_that_no_processor_can_have_are_refused() {
    let mut guest = Guest::new(64, |a| a.ud2());
    let mut paging_without_protection = state(64);
    paging_without_protection.cr0 = 0x8000_0010;
    let mut reserved_mxcsr = state(64);
    reserved_mxcsr.fpu.mxcsr = 1 << 31;
    let mut no_x87 = state(64);
    no_x87.xcr0 = 0;
    let mut unknown_msr = state(64);
    unknown_msr.msrs.insert(0x1234_5678, 1);
    let mut short_apic = state(64);
    short_apic.local_apic = vec![0; 7];
    let mut no_such_component = state(64);
    no_such_component.extended.insert(62, vec![0; 64]);
    for (what, bad) in [
        ("CR0", paging_without_protection),
        ("MXCSR", reserved_mxcsr),
        ("XCR0", no_x87),
        ("MSR", unknown_msr),
        ("APIC", short_apic),
        ("XSAVE", no_such_component),
    ] {
        let result = guest.vcpu.set_state(&bad);
        assert!(
            matches!(result, Err(CpuError::State(_))),
            "{what}: {result:?}"
        );
    }
}

#[test]
fn the_paravirtual_clock_is_set_and_advances() {
    let guest = Guest::new(64, |a| a.ud2());
    let machine = guest.vm.accelerated().unwrap();
    machine.set_guest_clock(5_000_000_000_000).unwrap();
    let now = machine.guest_clock().unwrap();
    assert!(
        (5_000_000_000_000..5_100_000_000_000).contains(&now),
        "{now}"
    );
    assert!(guest.vm.tsc_khz() > 100_000);
}
