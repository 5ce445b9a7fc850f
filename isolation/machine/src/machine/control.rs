//! Running, pausing and ending, agreed between the machine's owner and the threads of its CPUs and devices.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_cpu_api::CpuError;

use crate::protocol::Activity;

/// Why a machine ended.
#[derive(Debug)]
pub(super) enum Outcome {
    PowerOff,
    Reset,
    /// No CPU can ever run again.
    AllHalted,
    Failed(CpuError),
    /// Its owner ended it.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Running,
    Paused,
    Ended,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// CPUs that wait in [`Control::may_run`].
    parked: usize,
    /// Whether host events are being served.
    serving: bool,
    /// For each CPU: halted for good, unless woken.
    halted: Vec<bool>,
    outcome: Option<Outcome>,
}

/// The agreement. CPUs begin paused.
#[derive(Debug)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    pub(super) fn new(cpus: usize) -> Self {
        Self {
            state: Mutex::new(State {
                wanted: Wanted::Paused,
                parked: 0,
                serving: false,
                halted: vec![false; cpus],
                outcome: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until CPU `index` may run; `false` when its thread is to end.
    pub(super) fn may_run(&self, index: usize) -> bool {
        let mut state = self.lock();
        while state.wanted == Wanted::Paused
            || state.wanted == Wanted::Running && state.halted[index]
        {
            state.parked += 1;
            self.changed.notify_all();
            state = self.wait(state);
            state.parked -= 1;
        }
        state.wanted == Wanted::Running
    }

    /// Waits until host events may be served, which ends with the guard; `None` when the machine has ended. One thread
    /// at a time.
    pub(super) fn serve(&self) -> Option<Serving<'_>> {
        let mut state = self.lock();
        while state.wanted == Wanted::Paused {
            state = self.wait(state);
        }
        if state.wanted == Wanted::Ended {
            return None;
        }
        state.serving = true;
        Some(Serving(self))
    }

    /// CPU `index` halted with interrupts off: it runs again when woken. Ends the machine when no CPU is left.
    pub(super) fn halt(&self, index: usize) {
        let mut state = self.lock();
        state.halted[index] = true;
        if state.halted.iter().all(|halted| *halted) {
            end(&mut state, Outcome::AllHalted);
        }
        self.changed.notify_all();
    }

    /// An NMI, INIT or start-up message reached CPU `index`.
    pub(super) fn wake(&self, index: usize) {
        let mut state = self.lock();
        if let Some(halted) = state.halted.get_mut(index) {
            *halted = false;
        }
        self.changed.notify_all();
    }

    /// Ends the machine; the first outcome counts.
    pub(super) fn end(&self, outcome: Outcome) {
        end(&mut self.lock(), outcome);
        self.changed.notify_all();
    }

    /// Lets the CPUs run.
    pub(super) fn resume(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Paused {
            state.wanted = Wanted::Running;
        }
        self.changed.notify_all();
    }

    /// Asks the CPUs to park. Have them look, then call [`Control::wait_parked`].
    pub(super) fn pause(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Running {
            state.wanted = Wanted::Paused;
        }
        self.changed.notify_all();
    }

    /// Whether CPUs that run are to come back.
    pub(super) fn wants_attention(&self) -> bool {
        self.lock().wanted != Wanted::Running
    }

    /// What the machine is wanted to do.
    pub(super) fn activity(&self) -> Activity {
        match self.lock().wanted {
            Wanted::Running => Activity::Running,
            Wanted::Paused => Activity::Paused,
            Wanted::Ended => Activity::Ended,
        }
    }

    /// Waits until all CPUs are parked and no host event is being served; `false` when the machine ended instead or `timeout` passed.
    pub(super) fn wait_parked(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.wanted == Wanted::Paused && (state.parked < state.halted.len() || state.serving)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted == Wanted::Paused
    }

    /// Waits until the machine ends.
    pub(super) fn wait_ended(&self) {
        let mut state = self.lock();
        while state.wanted != Wanted::Ended {
            state = self.wait(state);
        }
    }

    /// Why it ended; takes it.
    pub(super) fn take_outcome(&self) -> Option<Outcome> {
        self.lock().outcome.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Host events are being served until this is dropped.
pub(super) struct Serving<'a>(&'a Control);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.lock().serving = false;
        self.0.changed.notify_all();
    }
}

fn end(state: &mut State, outcome: Outcome) {
    if state.wanted != Wanted::Ended {
        state.wanted = Wanted::Ended;
        state.outcome = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn cpus_park_when_paused_and_leave_when_ended() {
        let control = Arc::new(Control::new(2));
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let control = Arc::clone(&control);
                thread::spawn(move || while control.may_run(index) {})
            })
            .collect();
        control.resume();
        control.pause();
        assert!(control.wait_parked(Duration::from_secs(9)));
        control.resume();
        control.end(Outcome::PowerOff);
        control.end(Outcome::Reset);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        control.wait_ended();
        assert!(matches!(control.take_outcome(), Some(Outcome::PowerOff)));
        // The outcome is taken; the end stays.
        control.wait_ended();
        assert!(!control.wait_parked(Duration::ZERO));
    }

    #[test]
    fn no_host_event_is_served_in_a_paused_machine() {
        let control = Arc::new(Control::new(0));
        control.resume();
        let serving = control.serve().unwrap();
        control.pause();
        assert!(!control.wait_parked(Duration::from_millis(1)));
        drop(serving);
        assert!(control.wait_parked(Duration::ZERO));
        let server = {
            let control = Arc::clone(&control);
            thread::spawn(move || control.serve().is_some())
        };
        control.resume();
        assert!(server.join().unwrap());
        control.pause();
        let control = {
            let server = Arc::clone(&control);
            let server = thread::spawn(move || server.serve().is_some());
            control.end(Outcome::Stopped);
            assert!(!server.join().unwrap());
            control
        };
        assert!(control.serve().is_none());
    }

    #[test]
    fn a_machine_whose_cpus_all_halt_is_dead_but_one_may_be_woken() {
        let control = Control::new(2);
        control.resume();
        control.halt(1);
        control.wake(1);
        assert!(control.may_run(1));
        control.halt(0);
        assert!(control.take_outcome().is_none());
        control.halt(1);
        assert!(matches!(control.take_outcome(), Some(Outcome::AllHalted)));
        assert!(!control.may_run(1));
    }
}
