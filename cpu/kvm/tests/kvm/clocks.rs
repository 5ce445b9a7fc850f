//! kvmclock and the TSC, saved and restored together.

use std::thread::sleep;
use std::time::Duration;

use atoll_cpu_api::{Vcpu, VcpuState};
use atoll_memory::GuestMemory;
use iced_x86::code_asm::*;

use crate::guest::{CODE, DATA, DONE, Guest, MEMORY_BYTES, state};
use crate::usable::accelerates;

/// What a busy host may put between two calls.
const DELAY: Duration = Duration::from_millis(20);
/// What the clocks may be apart afterwards: far less than Linux's watchdog minds, which is 0.2 ms.
const BOUND_NS: u64 = 20_000;

/// A host that emulates guests may give them its own TSC, whatever they set.
const SKIPPED: &str =
    "skipped: this host is not known to accelerate, its guests' TSC may be its own";

/// The clock and the TSC of `guest`, read slowly.
fn clocks(guest: &Guest) -> (u64, u64) {
    let clock = guest.vm.accelerated().unwrap().guest_clock().unwrap();
    sleep(DELAY);
    (clock, guest.vcpu.state().unwrap().tsc)
}

/// Sets the clock and the TSC of `guest`, slowly.
fn set_clocks(guest: &mut Guest, (clock, tsc): (u64, u64)) {
    let machine = guest.vm.accelerated().unwrap();
    sleep(DELAY);
    machine.set_guest_clock(clock).unwrap();
    sleep(DELAY);
    guest.vcpu.set_state(&with_tsc(tsc)).unwrap();
    sleep(DELAY);
}

fn with_tsc(tsc: u64) -> VcpuState {
    VcpuState { tsc, ..state(64) }
}

#[test]
fn time_between_the_calls_comes_not_between_the_clocks() {
    if !accelerates() {
        println!("{SKIPPED}");
        return;
    }
    // Some ticks only: the kernel takes a TSC of less than a second, written by its MSR, for no change.
    let before = (5_000_000_000_000, 1 << 20);
    let mut first = Guest::new(64, |a| a.ud2());
    set_clocks(&mut first, before);
    let saved = clocks(&first);
    let mut second = Guest::new(64, |a| {
        a.rdtsc()?;
        a.mov(dword_ptr(DATA), eax)?;
        a.mov(dword_ptr(DATA + 4), edx)?;
        a.out(DONE, al)
    });
    set_clocks(&mut second, saved);
    let after = clocks(&second);
    let khz = u64::from(first.vm.tsc_khz());
    for (name, (clock, tsc)) in [("saved", saved), ("restored", after)] {
        let passed_ns = (tsc - before.1) * 1_000_000 / khz;
        let apart_ns = passed_ns.abs_diff(clock - before.0);
        println!("{name}: {passed_ns} ns of TSC, {apart_ns} ns apart from the clock");
        assert!(
            apart_ns < BOUND_NS && passed_ns > 0,
            "{name}: {apart_ns} ns"
        );
    }
    assert!(after.0 - saved.0 < 1_000_000_000, "the gap was seen");
    // The guest sees what was read; once it has run, its TSC is read as of the call.
    second.run_to_end();
    let seen = second.memory.ram().load::<u64>(DATA);
    let now = second.vcpu.state().unwrap().tsc;
    assert!(after.1 < seen && seen < now, "{} {seen} {now}", after.1);
    assert!(second.vcpu.state().unwrap().tsc > now);
}

#[test]
fn cpus_saved_one_after_the_other_are_restored_in_step() {
    if !accelerates() {
        println!("{SKIPPED}");
        return;
    }
    let mut guest = Guest::over(GuestMemory::new(MEMORY_BYTES).unwrap(), 3);
    let mut others: Vec<Box<dyn Vcpu>> = (1..3)
        .map(|index| guest.vm.create_vcpu(index, None).unwrap())
        .collect();
    set_clocks(&mut guest, (1_000_000_000, 1 << 40));
    let second = u64::from(guest.vm.tsc_khz()) * 1000;
    // The first was read some milliseconds later; the second has a counter of its own.
    for (cpu, later) in others.iter_mut().zip([second / 100, 2 * second]) {
        cpu.set_state(&with_tsc((1 << 40) + later)).unwrap();
    }
    let (_, tsc) = clocks(&guest);
    let apart = others.iter().map(|cpu| cpu.state().unwrap().tsc - tsc);
    assert_eq!(apart.collect::<Vec<_>>(), [0, 2 * second]);
    assert_eq!(guest.vcpu.state().unwrap().rip, CODE);
}
