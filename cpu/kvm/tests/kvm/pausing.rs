//! Pausing and going on.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use atoll_cpu_api::{Activity, Stop};
use iced_x86::code_asm::*;

use crate::guest::{Access, DATA, Guest, next, run};

/// Counts in memory for ever.
fn count(a: &mut CodeAssembler) -> crate::guest::Assembled {
    let mut again = a.create_label();
    a.out(0x21, al)?;
    a.set_label(&mut again)?;
    a.inc(qword_ptr(DATA))?;
    a.jmp(again)
}

#[test]
fn a_paused_cpu_stands_still_and_goes_on() {
    let mut guest = Guest::new(64, count);
    let ram = guest.memory.ram();
    let handle = guest.vcpu.handle();
    let mut last = 0;
    for _ in 0..3 {
        let counter = &ram;
        thread::scope(|scope| {
            let cpu = scope.spawn(|| guest.run());
            let deadline = Instant::now() + Duration::from_secs(5);
            while counter.load::<u64>(DATA) <= last {
                assert!(Instant::now() < deadline, "the guest does not count");
                thread::yield_now();
            }
            handle.pause();
            assert_eq!(cpu.join().unwrap(), Stop::Paused);
        });
        let stopped = ram.load::<u64>(DATA);
        assert!(stopped > last);
        thread::sleep(Duration::from_millis(2));
        assert_eq!(ram.load::<u64>(DATA), stopped, "it went on while paused");
        last = stopped;
    }
}

#[test]
fn a_pause_before_the_run_is_kept() {
    let mut guest = Guest::new(64, count);
    guest.vcpu.handle().pause();
    assert_eq!(guest.run(), Stop::Paused);
    assert_eq!(guest.memory.ram().load::<u64>(DATA), 0);
    assert_eq!(guest.accesses(), []);
}

#[test]
fn a_halted_cpu_is_paused_and_still_halted() {
    let mut guest = Guest::new(64, |a| {
        a.out(0x21, al)?;
        a.sti()?;
        a.hlt()?;
        a.ud2()
    });
    let handle = guest.vcpu.handle();
    let bus = Arc::clone(&guest.bus);
    for round in 0..2 {
        let Guest { vcpu, events, .. } = &mut guest;
        thread::scope(|scope| {
            let cpu = scope.spawn(|| run(&mut **vcpu, &bus));
            if round == 0 {
                assert_eq!(next(events), Access::PortWrite(0x21, vec![0]));
            }
            // Long enough to be asleep in the kernel; shorter is a correct pause too.
            thread::sleep(Duration::from_millis(20));
            handle.pause();
            assert_eq!(cpu.join().unwrap(), Stop::Paused);
        });
    }
    assert_eq!(guest.vcpu.state().unwrap().activity, Activity::Halted);
}

#[test]
fn no_pause_is_lost_whenever_it_comes() {
    let mut guest = Guest::new(64, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.out(0x22, al)?;
        a.jmp(again)
    });
    let handle = guest.vcpu.handle();
    let bus = Arc::clone(&guest.bus);
    for round in 0..300u32 {
        let vcpu = &mut guest.vcpu;
        thread::scope(|scope| {
            let cpu = scope.spawn(|| run(&mut **vcpu, &bus));
            for _ in 0..round * 37 % 1000 {
                std::hint::spin_loop();
            }
            handle.pause();
            assert_eq!(cpu.join().unwrap(), Stop::Paused);
        });
        bus.accesses.lock().unwrap().clear();
    }
}

#[test]
fn a_handle_outlives_its_cpu() {
    let guest = Guest::new(64, count);
    let handle = guest.vcpu.handle();
    drop(guest);
    handle.pause();
    handle.nmi();
}
