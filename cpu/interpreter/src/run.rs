//! The loop: find a block, execute it, look at events now and then.

use std::sync::Arc;
use std::time::Duration;

use atoll_cpu_api::{Activity, CpuError, Request, Stop};

use crate::block::{Cache, Last};
use crate::build;
use crate::cpu::{Cpu, IF, Pending, SS as SS_SLOT, TF};
use crate::exception::{DB, GP, NMI, Origin, SS};
use crate::op::{Fault, Flow, Op, RIP, Step};

/// Blocks between two looks at events: some microseconds.
const BLOCKS: u32 = 256;
/// A CPU that slept so long has done what it had to: it can do without the code for that.
const REST: Duration = Duration::from_millis(250);

/// Executes until something stops the CPU.
pub(crate) fn run(cpu: &mut Cpu, cache: &mut Cache) -> Result<Stop, CpuError> {
    cpu.see_epoch();
    let stop = run_on(cpu, cache);
    cpu.settle_end_of_interrupt();
    cpu.be_idle();
    stop
}

fn run_on(cpu: &mut Cpu, cache: &mut Cache) -> Result<Stop, CpuError> {
    loop {
        if let Some(stop) = events(cpu)? {
            return Ok(stop);
        }
        if std::mem::take(&mut cpu.has_rested) {
            cache.trim(cpu);
        }
        if let Some(stop) = blocks(cpu, cache)? {
            return Ok(stop);
        }
    }
}

/// Executes blocks until the budget is used up.
#[inline(never)]
fn blocks(cpu: &mut Cpu, cache: &mut Cache) -> Result<Option<Stop>, CpuError> {
    let mut last = Last::default();
    while cpu.budget > 0 {
        cpu.budget -= 1;
        let Ok(ops) = cache.find(cpu, &mut last) else {
            last = Last::default();
            if let Some(stop) = trouble(cpu, None)? {
                return Ok(Some(stop));
            }
            continue;
        };
        cpu.regs[usize::from(RIP)] = cpu.rip;
        match execute(cpu, ops) {
            Ok(_) => cpu.instructions = cpu.instructions.wrapping_add(ops.len() as u64),
            Err(Fault) => {
                let at = faulted(cpu, ops);
                last = Last::default();
                if let Some(stop) = trouble(cpu, at)? {
                    return Ok(Some(stop));
                }
            }
        }
    }
    Ok(None)
}

/// Executes `ops`, each by the one before it.
#[inline(always)]
fn execute(cpu: &mut Cpu, ops: &[Op]) -> Step {
    match ops.split_first() {
        Some((op, rest)) => cpu.handlers.get(op)(cpu, op, rest),
        None => Ok(Flow::Leave),
    }
}

/// Which of `ops` did not happen.
fn faulted<'a>(cpu: &Cpu, ops: &'a [Op]) -> Option<&'a Op> {
    ops.get(ops.len().checked_sub(cpu.not_done)?)
}

/// Deals with an instruction that did not happen: `op`, or the fetch of the next.
#[cold]
#[inline(never)]
fn trouble(cpu: &mut Cpu, op: Option<&Op>) -> Result<Option<Stop>, CpuError> {
    if let Some(op) = op {
        cpu.rip = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.offset));
    }
    match std::mem::replace(&mut cpu.pending, Pending::None) {
        Pending::None => Ok(None),
        Pending::Exception(vector, code) => {
            let on_stack = op.is_some_and(|op| {
                (op.base == 4 || op.base == 5) && (op.seg == 6 || usize::from(op.seg) == SS_SLOT)
            });
            let vector = if vector == GP && std::mem::take(&mut cpu.non_canonical) && on_stack {
                SS
            } else {
                vector
            };
            deliver(cpu, Event::Exception(vector, code))
        }
        Pending::Restart => step(cpu),
        Pending::Error(CpuError::Unsupported { what, .. }) => {
            Err(CpuError::Unsupported { rip: cpu.rip, what })
        }
        Pending::Error(error) => Err(error),
        Pending::Stop(stop) => Ok(Some(stop)),
    }
}

/// Something to deliver through the IDT.
#[derive(Clone, Copy)]
enum Event {
    /// An exception with its error code.
    Exception(u8, Option<u32>),
    /// An interrupt from outside.
    Interrupt(u8),
}

/// Delivers an event, and the exceptions that doing so raises.
fn deliver(cpu: &mut Cpu, event: Event) -> Result<Option<Stop>, CpuError> {
    let mut event = event;
    loop {
        let done = match event {
            Event::Exception(vector, code) => cpu.deliver_exception(vector, code),
            Event::Interrupt(vector) => cpu.deliver(vector, None, Origin::External),
        };
        if done.is_ok() {
            return Ok(None);
        }
        match std::mem::replace(&mut cpu.pending, Pending::None) {
            // The frame lies over decoded code; that was noted, so a second try succeeds.
            Pending::Restart => {}
            Pending::Exception(vector, code) => event = Event::Exception(vector, code),
            Pending::Stop(stop) => return Ok(Some(stop)),
            Pending::Error(error) => return Err(error),
            Pending::None => return Ok(None),
        }
    }
}

/// Executes one instruction alone, whatever it overwrites.
fn step(cpu: &mut Cpu) -> Result<Option<Stop>, CpuError> {
    cpu.step_traps = true;
    let ops = match build::single(cpu) {
        Ok(ops) => ops,
        Err(Fault) => {
            cpu.step_traps = false;
            return trouble(cpu, None);
        }
    };
    cpu.regs[usize::from(RIP)] = cpu.rip;
    cpu.alone = true;
    let mut done = Ok(Flow::Next);
    for lowered in &ops {
        if done == Ok(Flow::Next) {
            done = (lowered.run)(cpu, &lowered.op, &[]);
        }
    }
    cpu.alone = false;
    cpu.instructions = cpu.instructions.wrapping_add(1);
    match done {
        Ok(_) => Ok(None),
        Err(Fault) => {
            cpu.step_traps = false;
            // Nothing comes behind it that could.
            trouble(cpu, Some(&ops[0].op))
        }
    }
}

/// Looks at requests, timers, interrupts, single steps; sleeps while halted.
#[inline(never)]
fn events(cpu: &mut Cpu) -> Result<Option<Stop>, CpuError> {
    loop {
        cpu.budget = BLOCKS;
        if cpu.attention.is_raised()
            && let Some(stop) = requests(cpu)?
        {
            return Ok(Some(stop));
        }
        if cpu.activity == Activity::WaitingForStartup {
            cpu.sleep(None);
            continue;
        }
        let deadline = cpu.tick();
        // With nothing to come between, the instruction in the shadow need not be alone.
        let is_alone = cpu.interrupt_hint || cpu.system_flags & TF != 0;
        if std::mem::take(&mut cpu.shadow) && is_alone && cpu.activity == Activity::Running {
            if let Some(stop) = single_step(cpu)? {
                return Ok(Some(stop));
            }
            continue;
        }
        if cpu.interrupt_hint && cpu.system_flags & IF != 0 {
            cpu.settle_end_of_interrupt();
            let vector = cpu
                .controller
                .as_ref()
                .and_then(|controller| controller.acknowledge());
            match vector {
                Some(vector) => {
                    cpu.activity = Activity::Running;
                    cpu.offer_end_of_interrupt();
                    if let Some(stop) = deliver(cpu, Event::Interrupt(vector))? {
                        return Ok(Some(stop));
                    }
                }
                None => cpu.interrupt_hint = false,
            }
        }
        match cpu.activity {
            Activity::Running if cpu.system_flags & TF != 0 => {
                if let Some(stop) = single_step(cpu)? {
                    return Ok(Some(stop));
                }
            }
            Activity::Running => return Ok(None),
            _ if cpu.system_flags & IF == 0 && !cpu.attention.is_raised() => {
                return Ok(Some(Stop::Halted));
            }
            _ => cpu.sleep(deadline.map(|tsc| cpu.instant_of(tsc))),
        }
    }
}

/// Takes what other threads asked for.
fn requests(cpu: &mut Cpu) -> Result<Option<Stop>, CpuError> {
    if cpu.attention.take(Request::Pause) {
        return Ok(Some(Stop::Paused));
    }
    if cpu.attention.take(Request::Startup) {
        cpu.start_up();
    }
    if cpu.attention.take(Request::Interrupt) {
        cpu.interrupt_hint = true;
    }
    if cpu.activity == Activity::WaitingForStartup
        || cpu.nmi_blocked
        || !cpu.attention.take(Request::Nmi)
    {
        return Ok(None);
    }
    cpu.nmi_blocked = true;
    cpu.activity = Activity::Running;
    deliver(cpu, Event::Interrupt(NMI))
}

/// Executes one instruction with no event in between; raises the trap after it if TF was set before it.
fn single_step(cpu: &mut Cpu) -> Result<Option<Stop>, CpuError> {
    let traps = cpu.system_flags & TF != 0;
    let stop = step(cpu)?;
    if stop.is_none() && traps && cpu.step_traps {
        cpu.dr[6] |= 1 << 14;
        return deliver(cpu, Event::Exception(DB, None));
    }
    Ok(stop)
}

impl Cpu {
    /// Lets due timers fire; gives the next deadline.
    fn tick(&mut self) -> Option<u64> {
        let controller = Arc::clone(self.controller.as_ref()?);
        let deadline = controller.deadline()?;
        let now = self.tsc();
        if deadline > now {
            return Some(deadline);
        }
        controller.tick(now);
        self.interrupt_hint = true;
        controller.deadline()
    }

    /// Sleeps until something is raised or `deadline` passes.
    fn sleep(&mut self, deadline: Option<std::time::Instant>) {
        self.be_idle();
        let begun = std::time::Instant::now();
        self.attention.wait(deadline);
        self.has_rested |= begun.elapsed() >= REST;
        self.see_epoch();
    }

    fn instant_of(&self, tsc: u64) -> std::time::Instant {
        self.clock.instant_of(tsc.wrapping_sub(self.tsc_offset))
    }

    /// INIT or a start-up message (Intel SDM vol. 3 §9.4).
    fn start_up(&mut self) {
        let Some(controller) = self.controller.clone() else {
            return;
        };
        match controller.take_startup() {
            None => self.reset(),
            Some(vector) if self.activity == Activity::WaitingForStartup => {
                self.activity = Activity::Running;
                self.segments[crate::cpu::CS].selector = u16::from(vector) << 8;
                self.segments[crate::cpu::CS].base = u64::from(vector) << 12;
                self.rip = 0;
                self.update_mode();
            }
            Some(_) => {}
        }
    }
}
