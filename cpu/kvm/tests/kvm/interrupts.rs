//! Messages, events, doorbells, start-up.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use atoll_cpu_api::{Accelerated, Msi, Stop};
use iced_x86::code_asm::*;
use rustix::event::EventfdFlags;

use crate::guest::{Access, Assembled, CODE, DONE, Guest, MMIO, handler, next, run, state};

/// Where a handler says which vector it is for.
const VECTOR_PORT: u16 = 0x20;
/// Where the program says that it takes interrupts.
const READY: u32 = 0x21;

fn event() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

fn signal(event: &OwnedFd) {
    rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
}

fn message(vector: u8) -> Msi {
    Msi {
        address: 0xFEE0_0000,
        data: vector.into(),
    }
}

/// Turns the local APIC on, in x2APIC mode.
fn enable_apic(a: &mut CodeAssembler) -> Assembled {
    a.mov(ecx, 0x1B)?;
    a.rdmsr()?;
    a.or(eax, 0xC00)?;
    a.wrmsr()?;
    a.mov(ecx, 0x80F)?;
    a.mov(eax, 0x1FF)?;
    a.xor(edx, edx)?;
    a.wrmsr()
}

/// Says that it is ready and sleeps, again after each interrupt.
fn take_interrupts(a: &mut CodeAssembler) -> Assembled {
    enable_apic(a)?;
    a.sti()?;
    a.out(READY, al)?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.hlt()?;
    a.jmp(again)
}

/// Says its vector, ends the interrupt, returns; with `last`, says that all is done instead of returning.
fn handle(guest: &mut Guest, vector: u8, last: bool) {
    guest.place(handler(vector), 64, |a| {
        a.mov(eax, u32::from(vector))?;
        a.out(u32::from(VECTOR_PORT), al)?;
        a.mov(ecx, 0x80B)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        if last {
            a.out(DONE, al)?;
        }
        a.iretq()
    });
}

fn said(vector: u8) -> Access {
    Access::PortWrite(VECTOR_PORT, vec![vector])
}

/// Runs the guest; once it takes interrupts, does `then` with its machine meanwhile.
fn run_with(guest: &mut Guest, then: impl FnOnce(&dyn Accelerated, &dyn Fn() -> Access) + Send) {
    let (vm, bus) = (Arc::clone(&guest.vm), Arc::clone(&guest.bus));
    let Guest { vcpu, events, .. } = guest;
    thread::scope(|scope| {
        let cpu = scope.spawn(|| run(&mut **vcpu, &bus));
        let next = || next(events);
        while !matches!(next(), Access::PortWrite(port, _) if u32::from(port) == READY) {}
        then(vm.accelerated().unwrap(), &next);
        assert_eq!(cpu.join().unwrap(), Stop::Paused);
    });
}

#[test]
fn a_message_wakes_a_halted_cpu_into_its_handler() {
    let mut guest = Guest::new(64, take_interrupts);
    handle(&mut guest, 0x30, true);
    run_with(&mut guest, |machine, next| {
        machine.signal_msi(message(0x30)).unwrap();
        assert_eq!(next(), said(0x30));
    });
}

#[test]
fn a_message_to_nobody_is_lost() {
    let guest = Guest::new(64, |a| a.hlt());
    let nobody = Msi {
        address: 0xFEE0_7000,
        data: 0x30,
    };
    guest.vm.accelerated().unwrap().signal_msi(nobody).unwrap();
}

#[test]
fn an_event_fires_its_pin_as_the_pin_is_described_then() {
    let mut guest = Guest::new(64, take_interrupts);
    handle(&mut guest, 0x31, false);
    handle(&mut guest, 0x32, true);
    run_with(&mut guest, |machine, next| {
        let (event, other) = (event(), event());
        machine.connect_pin(5, event.as_fd()).unwrap();
        machine.connect_pin(23, other.as_fd()).unwrap();
        assert!(machine.connect_pin(6, event.as_fd()).is_err(), "one pin");
        machine.describe_pin(5, Some(message(0x31))).unwrap();
        machine.describe_pin(23, Some(message(0x31))).unwrap();
        for each in [&event, &other, &event] {
            signal(each);
            assert_eq!(next(), said(0x31));
        }
        machine.describe_pin(5, None).unwrap();
        signal(&event);
        signal(&other);
        assert_eq!(next(), said(0x31));
        machine.describe_pin(5, Some(message(0x32))).unwrap();
        signal(&event);
        assert_eq!(next(), said(0x32));
    });
}

#[test]
fn the_end_of_a_level_triggered_interrupt_of_a_pin_is_reported() {
    let mut guest = Guest::new(64, take_interrupts);
    handle(&mut guest, 0x33, false);
    handle(&mut guest, 0x34, true);
    run_with(&mut guest, |machine, next| {
        let level = |vector: u8| Msi {
            data: u32::from(vector) | 1 << 15 | 1 << 14,
            ..message(0)
        };
        machine.describe_pin(9, Some(level(0x33))).unwrap();
        machine.signal_msi(level(0x33)).unwrap();
        assert_eq!(next(), said(0x33));
        assert_eq!(next(), Access::EndOfInterrupt(0x33));
        // Masked, the pin sends nothing, and nobody asks for the end of what comes from elsewhere.
        machine.describe_pin(9, None).unwrap();
        machine.signal_msi(level(0x33)).unwrap();
        assert_eq!(next(), said(0x33));
        machine.signal_msi(level(0x34)).unwrap();
        assert_eq!(next(), said(0x34));
    });
}

#[test]
fn a_doorbell_takes_its_value_off_the_bus() {
    let mut guest = Guest::new(64, |a| {
        a.mov(rdi, MMIO + 0x50)?;
        a.mov(dword_ptr(rdi), 7)?;
        a.mov(dword_ptr(rdi), 8)?;
        a.mov(dword_ptr(rdi), 7)?;
        a.out(DONE, al)
    });
    let event = event();
    let machine = guest.vm.accelerated().unwrap();
    machine
        .connect_doorbell(MMIO + 0x50, 7, event.as_fd())
        .unwrap();
    guest.run_to_end();
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2);
    let other = Access::MemoryWrite(MMIO + 0x50, vec![8, 0, 0, 0]);
    assert_eq!(guest.accesses(), [other]);
}

#[test]
fn the_apic_s_timer_fires_at_its_tsc_deadline() {
    let mut guest = Guest::new(64, |a| {
        enable_apic(a)?;
        // LVT timer: TSC deadline mode, vector 0x34.
        a.mov(ecx, 0x832)?;
        a.mov(eax, 2 << 17 | 0x34)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mfence()?;
        a.rdtsc()?;
        a.add(eax, 1_000_000)?;
        a.adc(edx, 0)?;
        a.mov(ecx, 0x6E0)?;
        a.wrmsr()?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)
    });
    handle(&mut guest, 0x34, true);
    guest.run_to_end();
    assert_eq!(guest.accesses(), [said(0x34)]);
}

#[test]
fn an_nmi_reaches_a_cpu_that_halted_with_interrupts_off() {
    let mut guest = Guest::new(64, |a| {
        a.out(READY, al)?;
        a.hlt()?;
        a.ud2()
    });
    guest.place(handler(2), 64, |a| {
        a.mov(al, 2)?;
        a.out(u32::from(VECTOR_PORT), al)?;
        a.out(DONE, al)
    });
    let cpu = guest.vcpu.handle();
    run_with(&mut guest, |_, next| {
        cpu.nmi();
        assert_eq!(next(), said(2));
    });
    assert!(guest.vcpu.state().unwrap().nmi_blocked);
}

#[test]
fn a_second_cpu_starts_where_it_is_told() {
    let mut guest = Guest::over(atoll_memory::GuestMemory::new(1 << 20).unwrap(), 2);
    guest.vcpu.set_state(&state(64)).unwrap();
    guest.place(CODE, 64, |a| {
        enable_apic(a)?;
        a.mov(ecx, 0x830)?;
        a.mov(edx, 1)?;
        // INIT, then start-up at page 0x20.
        a.mov(eax, 0x4500)?;
        a.wrmsr()?;
        a.mov(eax, 0x4620)?;
        a.wrmsr()?;
        a.cli()?;
        a.hlt()
    });
    guest.place(0x20000, 16, |a| {
        a.mov(ax, cs)?;
        a.out(u32::from(VECTOR_PORT), ax)?;
        a.hlt()
    });
    let mut second = guest.vm.create_vcpu(1, None).unwrap();
    let waiting = second.state().unwrap().activity;
    assert_eq!(waiting, atoll_cpu_api::Activity::WaitingForStartup);
    let bus = Arc::clone(&guest.bus);
    thread::scope(|scope| {
        let other = scope.spawn(|| run(&mut *second, &bus));
        assert_eq!(guest.run(), Stop::Halted);
        assert_eq!(
            next(&guest.events),
            Access::PortWrite(VECTOR_PORT, vec![0, 0x20])
        );
        assert_eq!(other.join().unwrap(), Stop::Halted);
    });
    assert_eq!(second.state().unwrap().registers[0] & 0xFFFF, 0x2000);
}
