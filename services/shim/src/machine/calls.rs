//! Calls to the agent in the guest, and what it says.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use atoll_guest::protocol::{Call, Message, Outcome, Request, StreamName};

use super::{Machine, agent};
use crate::failure::Failure;
use crate::process::Waiter;

/// How long an agent may take for a call.
const CALL: Duration = Duration::from_secs(30);
/// The call that is not the container's; others count from 1.
pub(super) const REHEARSAL: u64 = 0;

/// What to do with the answer to a call.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    /// The container is made: answer `Create`.
    Created,
    /// A process runs: answer `Start`. Empty for the first.
    Started(String),
    /// Answer with nothing.
    Done,
    /// Answer `Pids`.
    Pids,
    /// Answer `Stats`.
    Usage,
    /// A container of a pod is gone: answer `Delete`.
    Deleted,
    /// The network card that was plugged in at this place is up: answer `Connect`.
    Connected(u8),
    /// That at this place may be taken out: answer `Disconnect`.
    Disconnected(u8),
}

/// An answer to pass on.
pub(crate) struct Answered {
    /// Id of the container.
    pub(crate) container: String,
    pub(crate) to: Waiter,
    pub(crate) then: Then,
    pub(crate) outcome: Result<Outcome, Failure>,
}

/// What a machine has to tell.
pub(crate) enum News {
    /// An answer came, or is overdue.
    Answered(Answered),
    /// A process ended.
    Exited {
        container: String,
        process: String,
        code: u32,
        signal: Option<i32>,
        oom_killed: bool,
    },
    /// A process's stream is there.
    Stream(StreamName, OwnedFd),
}

/// A call that waits for its answer.
pub(super) struct Pending {
    id: u64,
    container: String,
    to: Waiter,
    then: Then,
    pub(super) until: Instant,
}

impl Pending {
    pub(super) fn answered(self, outcome: Result<Outcome, Failure>) -> News {
        News::Answered(Answered {
            container: self.container,
            to: self.to,
            then: self.then,
            outcome,
        })
    }
}

impl Machine {
    /// Asks the agent for something about a container; `to` is answered when it has answered.
    pub(crate) fn call(
        &mut self,
        container: &str,
        request: Request,
        to: Waiter,
        then: Then,
    ) -> Result<(), Failure> {
        if self.agent.is_none() {
            return Err(Failure::precondition("the machine's guest is not ready"));
        }
        self.send(container, request);
        self.expect(container, to, then, CALL);
        Ok(())
    }

    pub(super) fn expect(&mut self, container: &str, to: Waiter, then: Then, within: Duration) {
        let id = self.last_call.max(1);
        self.pending.push_back(Pending {
            id,
            container: container.to_owned(),
            to,
            then,
            until: Instant::now() + within,
        });
    }

    pub(super) fn send(&mut self, container: &str, request: Request) {
        self.last_call += 1;
        let call = Call {
            id: self.last_call,
            container: container.to_owned(),
            request,
        };
        self.tell(&call);
    }

    pub(super) fn tell(&mut self, call: &Call) {
        if let Some(agent) = &mut self.agent
            && let Err(error) = agent.send(call)
        {
            self.give_up(&format!("its agent cannot be told: {error}"));
        }
    }

    /// What is overdue.
    pub(crate) fn overdue(&mut self) -> Vec<News> {
        let now = Instant::now();
        if self.kill_by.is_some_and(|at| at <= now) {
            self.kill_by = None;
            self.switch_off();
        }
        let (late, rest) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.until <= now);
        self.pending = rest.into();
        let answered = |pending: Pending| {
            let why = match pending.then {
                Then::Created => self.end_reason("the guest's agent did not come up in time"),
                _ => "the guest's agent does not answer".to_owned(),
            };
            pending.answered(Err(Failure::unknown(why)))
        };
        late.into_iter().map(answered).collect()
    }

    /// Reads what the agent says.
    pub(super) fn hear(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let Some(agent) = &mut self.agent else {
            return news;
        };
        let open = agent.flush().and_then(|()| agent.receive());
        let mut messages = Vec::new();
        let mut wrong = None;
        while let Some(message) = agent.next_message::<Message>() {
            match message {
                Ok(message) => messages.push(message),
                Err(error) => wrong = Some(format!("its agent says what is no message: {error}")),
            }
        }
        for message in messages {
            match message {
                Message::Answer { id, outcome } if id == REHEARSAL => self.keep_template(&outcome),
                Message::Answer { id, outcome } => {
                    let at = self.pending.iter().position(|pending| pending.id == id);
                    if let Some(pending) = at.and_then(|at| self.pending.remove(at)) {
                        if let (Then::Created, Outcome::Running { pid }) = (&pending.then, &outcome)
                            && pending.container == self.first
                        {
                            self.first_pid = Some(*pid);
                        }
                        news.push(pending.answered(agent::outcome(outcome)));
                    }
                }
                Message::Exited {
                    container,
                    process,
                    code,
                    signal,
                    oom_killed,
                } => {
                    if process.is_empty() && container == self.first {
                        self.kill_by = None;
                    }
                    news.push(News::Exited {
                        container,
                        process,
                        code,
                        signal,
                        oom_killed,
                    });
                }
            }
        }
        match (wrong, open) {
            (Some(why), _) => self.give_up(&why),
            (None, Ok(true)) => {}
            // The guest is about to power off, or its kernel is dead: the monitor's end says more.
            (None, Ok(false)) => self.agent = None,
            (None, Err(errno)) => self.give_up(&format!("its agent cannot be heard: {errno}")),
        }
        news
    }
}
