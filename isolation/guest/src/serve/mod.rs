//! The agent: one container, built and looked after for the host (docs/formats/guest-protocol.md).
//!
//! ```text
//!   host ══ lines: calls, answers, ends ══ Agent ── isolation/container ──▶ processes
//!   host ══ one connection each stream ═══ Pump  ◀── pipes, terminals ────────┘
//! ```
//!
//! One thread, one poll loop. Without a container the agent of a machine that was saved finds its connection gone in
//! every machine made of it, and connects again to whoever is its host there. With one, the end of its connection is
//! the end of the machine.

mod container;
mod layers;
mod network;
mod pump;
mod rehearsal;
mod root;
mod streams;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use atoll_guest::protocol::{
    Call, Create, Greeting, Hello, LONGEST_LINE, Message, Outcome, Request, VERSION,
};
use atoll_guest::{Lines, processes};
use atoll_sys::signal_fd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::Failure;
use container::Guest;
use pump::Pump;

pub(crate) use root::enter_root;

/// How often a host is looked for that does not take connections yet.
const RETRY: Duration = Duration::from_millis(20);
/// How many times: a minute. A machine that nobody wants is switched off.
const RETRIES: u32 = 3000;

/// What the loop looks after.
struct Agent {
    host: Lines,
    signals: SignalFd,
    guest: Option<Guest>,
    pumps: Vec<Pump>,
}

/// Serves the host until the container's machine is not needed any more.
///
/// # Errors
/// What cannot be set up.
pub(crate) fn serve() -> Result<(), Failure> {
    network::bring_up_loopback()?;
    let signals = SignalFd::new(&[libc::SIGCHLD]).map_err(Failure::of("take signals"))?;
    let mut agent = Agent {
        host: greet()?,
        signals,
        guest: None,
        pumps: Vec::new(),
    };
    loop {
        match agent.turn() {
            Ok(()) => {}
            Err(_) if agent.guest.is_none() => {
                agent.host = greet()?;
            }
            Err(reason) => return Err(Failure::of("speak with the host")(reason)),
        }
    }
}

/// Connects to the host, and says that we are ready.
fn greet() -> Result<Lines, Failure> {
    let uname = rustix::system::uname();
    let hello = Greeting::Agent(Hello {
        version: VERSION,
        release: uname.release().to_string_lossy().into_owned(),
    });
    let mut last = Errno::CONNRESET;
    for _ in 0..RETRIES {
        match streams::connect(&hello) {
            Ok(socket) => return Ok(Lines::new(socket, LONGEST_LINE)),
            Err(errno) => last = errno,
        }
        std::thread::sleep(RETRY);
    }
    Err(Failure::of("reach the host")(last))
}

impl Agent {
    /// Waits for something and deals with it. An error is about the host's connection.
    fn turn(&mut self) -> io::Result<()> {
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, self.host.owes());
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.host.as_fd(), wanted),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        fds.extend(self.pumps.iter().map(|pump| {
            let (fd, flags) = pump.interest();
            PollFd::from_borrowed_fd(fd, flags)
        }));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        // Output before ends: what a process wrote is on its way when its end is told.
        let mut pumps = ready[2..].iter();
        self.pumps
            .retain_mut(|pump| !pumps.next().copied().unwrap_or(false) || pump.advance());
        if ready[1] {
            while self.signals.take().is_some() {}
            self.reap()?;
        }
        if ready[0] {
            self.host.flush()?;
            let open = self.host.receive()?;
            while let Some(call) = self.host.next_message::<Call>() {
                let Call { id, request } = call?;
                let outcome = self.perform(request);
                self.host.send(&Message::Answer { id, outcome })?;
            }
            if !open {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn perform(&mut self, request: Request) -> Outcome {
        let done = match request {
            Request::Create(create) => return self.create(*create),
            Request::Rehearse(create) if self.guest.is_none() => {
                rehearsal::rehearse(*create).map_err(container::other)
            }
            Request::Rehearse(_) => Err(container::one_container()),
            Request::Start => self.guest().and_then(Guest::start),
            Request::Exec(exec) => {
                let started = match &mut self.guest {
                    Some(guest) => guest.exec(*exec, &mut self.pumps),
                    None => Err(container::no_container()),
                };
                match started {
                    Ok(pid) => return Outcome::Running { pid },
                    Err(fault) => Err(fault),
                }
            }
            Request::Signal {
                process,
                signal,
                all,
            } => self
                .guest()
                .and_then(|guest| guest.signal(&process, signal, all)),
            Request::Resize {
                process,
                rows,
                columns,
            } => self
                .guest()
                .and_then(|guest| guest.resize(&process, rows, columns)),
            Request::Processes => match self.guest().and_then(|guest| guest.pids()) {
                Ok(pids) => return Outcome::Processes(processes::list(&pids)),
                Err(fault) => Err(fault),
            },
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(fault) => Outcome::Failed(fault),
        }
    }

    fn guest(&mut self) -> Result<&mut Guest, atoll_guest::protocol::Fault> {
        self.guest.as_mut().ok_or_else(container::no_container)
    }

    fn create(&mut self, create: Create) -> Outcome {
        if self.guest.is_some() {
            return Outcome::Failed(container::one_container());
        }
        renew(&create);
        let made = network::configure(create.network.as_ref())
            .map_err(|error| error.to_string())
            .and_then(|()| network::set(&create.sysctls))
            .and_then(|()| match create.layers {
                Some(layers) => layers::mount_all(layers),
                None => Ok(()),
            })
            .map_err(container::other)
            .and_then(|()| Guest::create(create, &mut self.pumps));
        match made {
            Ok(guest) => {
                let pid = guest.pid();
                self.guest = Some(guest);
                Outcome::Running { pid }
            }
            Err(fault) => Outcome::Failed(fault),
        }
    }

    /// Takes every child that ended, ours and orphans alike, and tells the host of those it knows.
    fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let code = status.exit_status();
            let signal = status.terminating_signal();
            let (Some(guest), true) = (&mut self.guest, code.is_some() || signal.is_some()) else {
                continue;
            };
            let Some(process) = guest.ended(pid) else {
                continue;
            };
            if process.is_empty() {
                root::write_back();
            }
            self.host.send(&Message::Exited {
                process,
                code: code
                    .or(signal.map(|signal| 128 + signal))
                    .unwrap_or(0)
                    .cast_unsigned(),
                signal,
                oom_killed: guest.oom_killed(),
            })?;
        }
        Ok(())
    }
}

/// What a copy of a machine must not share with others: the clock's past and the generator's future.
fn renew(create: &Create) {
    let nanoseconds = i64::try_from(create.clock_ns).unwrap_or(i64::MAX);
    let now = Timespec {
        tv_sec: nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    };
    // As the first process of the machine, both are ours to set; a clock that is refused is one before 1970.
    let _ = clock_settime(ClockId::Realtime, now);
    let _ = atoll_sys::random::add_entropy(&create.entropy);
}

/// A descriptor that doesn't wait.
fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
