//! What the shim does when its container lives in a machine: requests that are passed on, and the machine's news.

use std::time::SystemTime;

use atoll_guest::protocol::{Exec, Outcome, PROCESS_STATUS, ProcessStatus, Request, Streams};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::failure::Failure;
use crate::machine::{Answered, Machine, MachineToken, News, Then};
use crate::process::{Exit, Phase, Waiter};
use crate::server::Shim;
use crate::service::{self, Answer};
use crate::task::{Task, open_input, signal_number};

/// A machine's monitor that ended by itself, of which nobody knows a code.
const LOST: u32 = 255;

impl Task {
    /// Has the agent start the container, or an announced exec.
    pub(crate) fn start_in_machine(
        &mut self,
        machine: &mut Machine,
        exec_id: &str,
        to: Waiter,
    ) -> Result<(), Failure> {
        let request = if exec_id.is_empty() {
            if !matches!(self.init.phase, Phase::Created) {
                return Err(Failure::precondition(
                    "cannot start a container that has been started",
                ));
            }
            Request::Start
        } else {
            let exec = self.exec_mut(exec_id)?;
            let Some(spec) = exec.spec.take() else {
                return Err(Failure::precondition(format!(
                    "exec {exec_id} has been started"
                )));
            };
            Request::Exec(Box::new(Exec {
                process: exec_id.to_owned(),
                spec,
                files: exec.files.take(),
                streams: Streams {
                    terminal: exec.process.io.terminal,
                    stdin: exec.has_stdin,
                    size: exec.process.size.take(),
                },
            }))
        };
        let then = Then::Started(exec_id.to_owned());
        machine.call(&self.id, request, to, then)
    }

    /// Sends a signal by way of the agent; false when that is done already.
    pub(crate) fn kill_in_machine(
        &mut self,
        machine: &mut Machine,
        exec_id: &str,
        signal: u32,
        all: bool,
        to: Waiter,
    ) -> Result<bool, Failure> {
        let number = signal_number(signal)?;
        let is_paused = self.is_paused;
        let process = self.find(exec_id)?;
        match process.phase {
            Phase::Exited(_) | Phase::Draining { .. } => {
                return Err(Failure::not_found("process already finished"));
            }
            Phase::Created if !exec_id.is_empty() => {
                return Err(Failure::precondition("process is not started"));
            }
            _ => {}
        }
        if exec_id.is_empty() && number == libc::SIGKILL && self.folder().is_none() {
            if is_paused {
                // Its guest can do nothing now.
                machine.switch_off();
                self.is_paused = false;
                return Ok(false);
            }
            return machine.kill(to);
        }
        let request = Request::Signal {
            process: exec_id.to_owned(),
            signal: number,
            all,
        };
        machine.call(&self.id, request, to, Then::Done)?;
        Ok(true)
    }

    /// Gives a terminal a size, now by way of the agent or, with false, when its process starts.
    pub(crate) fn resize_in_machine(
        &mut self,
        machine: &mut Machine,
        exec_id: &str,
        rows: u16,
        columns: u16,
        to: Waiter,
    ) -> Result<bool, Failure> {
        let process = self.find(exec_id)?;
        match process.phase {
            Phase::Created if !exec_id.is_empty() => {
                process.size = Some((rows, columns));
                return Ok(false);
            }
            Phase::Created | Phase::Running => {}
            Phase::Exited(_) | Phase::Draining { .. } => return Ok(false),
        }
        let request = Request::Resize {
            process: exec_id.to_owned(),
            rows,
            columns,
        };
        machine.call(&self.id, request, to, Then::Done)?;
        Ok(true)
    }
}

impl Shim {
    /// Acts on an event of the machine.
    pub(crate) fn machine_event(&mut self, token: MachineToken) {
        let news = self.machine.as_mut().map(|machine| machine.handle(token));
        self.hear(news.unwrap_or_default());
    }

    /// Ends what the machine is overdue with.
    pub(crate) fn machine_overdue(&mut self) {
        let news = self.machine.as_mut().map(|machine| machine.overdue());
        self.hear(news.unwrap_or_default());
    }

    /// Notes that the child `pid` ended, if it was the monitor.
    pub(crate) fn monitor_ended(&mut self, pid: u32, exit: Exit) -> bool {
        let Some(machine) = self.machine.as_mut().filter(|machine| machine.pid == pid) else {
            return false;
        };
        let first = self.tasks.iter_mut().find(|task| task.id == machine.first);
        match first.map_or(Ok(false), |task| task.boots_instead(machine)) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(failure) => crate::report(format_args!("{failure}")),
        }
        let news = machine.ended();
        let what = match exit.signal {
            Some(signal) => format!("the machine's monitor was ended by signal {signal}"),
            None => "the machine ended by itself".to_owned(),
        };
        let why = machine.end_reason(&what);
        let code = exit
            .signal
            .map_or(LOST, |signal| 128 + signal.cast_unsigned());
        let exit = Exit { code, ..exit };
        for task in self.tasks.iter_mut().filter(|task| task.is_in_machine()) {
            let is_unexpected = matches!(task.init.phase, Phase::Created | Phase::Running);
            for process in task.processes_mut() {
                if matches!(process.phase, Phase::Created | Phase::Running) {
                    process.ended(exit);
                }
            }
            if is_unexpected {
                crate::report(format_args!("{}: {why}", task.id));
                task.error = Some(why.clone());
            }
        }
        self.hear(news);
        true
    }

    fn hear(&mut self, news: Vec<News>) {
        for one in news {
            match one {
                News::Answered(answered) => self.answered(answered),
                News::Exited {
                    container,
                    process,
                    code,
                    signal,
                    oom_killed,
                } => self.process_ended(&container, &process, code, signal, oom_killed),
                News::Stream(name, socket) => {
                    let task = self.find(&name.container);
                    if let Some(process) = task.and_then(|task| task.find(&name.process).ok()) {
                        process.stdio.connect(name.kind, socket);
                    }
                }
            }
        }
    }

    fn answered(&mut self, answered: Answered) {
        let Answered {
            container,
            to,
            then,
            outcome,
        } = answered;
        let answer = match then {
            Then::Created => self.created(&container, outcome),
            Then::Started(exec_id) => self.started(&container, &exec_id, outcome),
            Then::Done => outcome.and_then(|_| service::empty()),
            Then::Pids => outcome.and_then(|outcome| pids(outcome, self.options.tells_statuses)),
            Then::Usage => outcome.and_then(usage),
            Then::Connected(place) => self.connected_card(place, outcome),
            Then::Disconnected(place) => outcome
                .and_then(|_| self.unplug(place))
                .and_then(|()| service::empty()),
            Then::Deleted => match outcome {
                // With its machine, a container is gone as well.
                Err(failure) if self.machine.as_ref().is_some_and(|one| one.is_ready()) => {
                    Err(failure)
                }
                _ => service::removed(self, &container),
            },
        };
        // No answer of these waits for another.
        let answer = answer.map(Option::unwrap_or_default);
        self.answer(to, answer);
    }

    /// The answer to a card that was plugged in; one that the guest cannot bring up is taken out again.
    fn connected_card(&mut self, place: u8, outcome: Result<Outcome, Failure>) -> Answer {
        let Err(failure) = outcome else {
            return service::empty();
        };
        if let Err(failure) = self.unplug(place) {
            crate::report(format_args!("{failure}"));
        }
        Err(failure)
    }

    fn unplug(&mut self, place: u8) -> Result<(), Failure> {
        let machine = self.machine.as_mut();
        machine.map_or(Ok(()), |machine| machine.unplug(place))
    }

    fn created(&mut self, id: &str, outcome: Result<Outcome, Failure>) -> Answer {
        let Some(task) = self.find(id) else {
            return Err(Failure::not_found("container not created"));
        };
        let request = task.creating.take().unwrap_or_default();
        let kept = outcome.and_then(|_| self.keep(id));
        match kept {
            Ok(()) => service::created(self, &request),
            Err(failure) => {
                // As with a container that could not be made: there is none then.
                if let Some(mut task) = self.take(id) {
                    match (task.folder(), &self.machine) {
                        (Some(folder), Some(machine)) => machine.forget(folder),
                        // What it shows may be in the folder that goes now.
                        _ => self.machine = None,
                    }
                    task.abandon();
                }
                Err(failure)
            }
        }
    }

    fn started(&mut self, id: &str, exec_id: &str, outcome: Result<Outcome, Failure>) -> Answer {
        let Some(task) = self.find(id) else {
            return Err(Failure::not_found("container not created"));
        };
        let key = task.key;
        let process = task.find(exec_id)?;
        let is_waiting = matches!(process.phase, Phase::Created);
        match outcome {
            Ok(outcome) => {
                if let Outcome::Running { pid } = outcome {
                    process.pid = pid;
                }
                if is_waiting {
                    process.phase = Phase::Running;
                }
                open_input(process);
                let pid = task.find(exec_id)?.pid;
                service::started(self, id, exec_id, pid)
            }
            Err(failure) => {
                if is_waiting {
                    process.never_ran(&failure);
                }
                // Whoever waits already must hear that a process will never run.
                self.answer_waiters(key, exec_id);
                Err(failure)
            }
        }
    }

    fn process_ended(
        &mut self,
        container: &str,
        name: &str,
        code: u32,
        signal: Option<i32>,
        oom_killed: bool,
    ) {
        let Some(task) = self.tasks.iter_mut().find(|task| task.id == container) else {
            return;
        };
        if oom_killed && !std::mem::replace(&mut task.guest_oom, true) {
            self.events.out_of_memory(&task.id);
        }
        let Ok(process) = task.find(name) else {
            return;
        };
        if matches!(process.phase, Phase::Created | Phase::Running) {
            process.ended(Exit {
                code,
                signal,
                at: SystemTime::now(),
            });
        }
    }
}

/// The answer to `Stats` of a pod's container.
fn usage(outcome: Outcome) -> Answer {
    let Outcome::Usage(usage) = outcome else {
        return Err(Failure::unknown(
            "the guest's agent does not say what was used",
        ));
    };
    service::measured(crate::metrics::of_guest(*usage))
}

/// The answer to `Pids`: ids of the guest, each with what the guest says of the process if `tells_statuses`.
fn pids(outcome: Outcome, tells_statuses: bool) -> Answer {
    let Outcome::Processes(processes) = outcome else {
        return Err(Failure::unknown(
            "the guest's agent does not list processes",
        ));
    };
    let info = |status: &ProcessStatus| {
        serde_json::to_vec(status).map(|value| Any {
            type_url: PROCESS_STATUS.to_owned(),
            value,
            ..Default::default()
        })
    };
    let process = |status: &ProcessStatus| api::ProcessInfo {
        pid: status.pid,
        info: tells_statuses
            .then(|| info(status).ok())
            .flatten()
            .map_or_else(MessageField::none, MessageField::some),
        ..Default::default()
    };
    service::encode(&api::PidsResponse {
        processes: processes.iter().map(process).collect(),
        ..Default::default()
    })
}
