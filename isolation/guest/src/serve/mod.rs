//! The agent: a container, or those of a pod, built and looked after for the host (docs/formats/guest-protocol.md).
//!
//! ```text
//!   host ══ lines: calls, answers, ends ══ Agent ── isolation/container ──▶ processes
//!   host ══ one connection each stream ═══ Pump  ◀── pipes, terminals ────────┘
//! ```
//!
//! One thread, one poll loop. The machine's first container says how the machine is to be; its end is for the host to draw
//! conclusions from. Without a container the agent of a machine that was saved finds its connection gone in
//! every machine made of it, and connects again to whoever is its host there. With one, the end of its connection is
//! the end of the machine.

mod container;
mod layers;
mod network;
mod pump;
mod rehearsal;
mod root;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use atoll_cgroup::Hierarchies;
use atoll_guest::protocol::{
    Call, Create, Greeting, Hello, LONGEST_LINE, Message, Outcome, Request, Setup, VERSION,
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
    /// By their ids.
    guests: BTreeMap<String, Guest>,
    /// They do not change while the machine lives.
    hierarchies: Hierarchies,
    /// It has been said how the machine is to be.
    is_set_up: bool,
    pumps: Vec<Pump>,
}

/// Serves the host until the container's machine is not needed any more.
///
/// # Errors
/// What cannot be set up.
pub(crate) fn serve() -> Result<(), Failure> {
    network::bring_up_loopback()?;
    let signals = SignalFd::new(&[libc::SIGCHLD]).map_err(Failure::of("take signals"))?;
    let hierarchies = Hierarchies::detect()
        .map_err(io::Error::other)
        .map_err(Failure::of("find the control groups"))?;
    let mut agent = Agent {
        host: greet()?,
        signals,
        guests: BTreeMap::new(),
        hierarchies,
        is_set_up: false,
        pumps: Vec::new(),
    };
    loop {
        match agent.turn() {
            Ok(()) => {}
            Err(_) if !agent.is_set_up => {
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
                let Call {
                    id,
                    container,
                    request,
                } = call?;
                let outcome = self.perform(container, request);
                self.host.send(&Message::Answer { id, outcome })?;
            }
            if !open {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn perform(&mut self, container: String, request: Request) -> Outcome {
        match request {
            Request::Create(create) => return self.create(container, *create),
            Request::Rehearse(_) if self.is_set_up => {
                return Outcome::Failed(container::out_of_turn(&container));
            }
            Request::Rehearse(create) => {
                return match rehearsal::rehearse(*create, &self.hierarchies) {
                    Ok(()) => Outcome::Done,
                    Err(message) => Outcome::Failed(container::other(message)),
                };
            }
            _ => {}
        }
        let Some(guest) = self.guests.get_mut(&container) else {
            return Outcome::Failed(container::no_container());
        };
        let done = match request {
            Request::Create(_) | Request::Rehearse(_) => Ok(()),
            Request::Start => guest.start(),
            Request::Exec(exec) => match guest.exec(*exec, &mut self.pumps) {
                Ok(pid) => return Outcome::Running { pid },
                Err(fault) => Err(fault),
            },
            Request::Signal {
                process,
                signal,
                all,
            } => guest.signal(&process, signal, all),
            Request::Resize {
                process,
                rows,
                columns,
            } => guest.resize(&process, rows, columns),
            Request::Processes => match guest.pids() {
                Ok(pids) => return Outcome::Processes(processes::list(&pids)),
                Err(fault) => Err(fault),
            },
            Request::Usage => match guest.usage() {
                Ok(usage) => return Outcome::Usage(Box::new(usage)),
                Err(fault) => Err(fault),
            },
            Request::Update(resources) => guest.update(&resources),
            // Of the machine, whose container asks.
            Request::Connect(network) => network::connect(&network).map_err(container::other),
            Request::Disconnect { place, gateway } => {
                network::disconnect(place, gateway).map_err(container::other)
            }
            Request::Delete => guest.delete().map(|()| {
                self.guests.remove(&container);
            }),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(fault) => Outcome::Failed(fault),
        }
    }

    fn create(&mut self, id: String, mut create: Create) -> Outcome {
        let setup = create.machine.take();
        if self.is_set_up == setup.is_some() || self.guests.contains_key(&id) {
            return Outcome::Failed(container::out_of_turn(&id));
        }
        let made = setup
            .map_or(Ok(()), |setup| self.set_up(setup))
            .map_err(container::other)
            .and_then(|()| Guest::create(&id, create, &self.hierarchies, &mut self.pumps));
        match made {
            Ok(guest) => {
                let pid = guest.pid();
                self.guests.insert(id, guest);
                Outcome::Running { pid }
            }
            Err(fault) => Outcome::Failed(fault),
        }
    }

    /// Makes the machine be as the host says.
    fn set_up(&mut self, setup: Setup) -> Result<(), String> {
        self.is_set_up = true;
        renew(&setup);
        setup.networks.iter().try_for_each(network::connect)?;
        network::set(&setup.sysctls)?;
        if let Some(layers) = setup.layers {
            layers::mount_all(layers)?;
        }
        setup.shm_bytes.map_or(Ok(()), root::share_memory)
    }

    /// Takes every child that ended, ours and orphans alike, and tells the host of those it knows.
    fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let code = status.exit_status();
            let signal = status.terminating_signal();
            if code.is_none() && signal.is_none() {
                continue;
            }
            let mut guests = self.guests.iter_mut();
            let found = guests.find_map(|(id, guest)| {
                let process = guest.ended(pid)?;
                Some((id.clone(), process, guest.oom_killed()))
            });
            let Some((container, process, oom_killed)) = found else {
                continue;
            };
            if process.is_empty() {
                root::write_back();
            }
            self.host.send(&Message::Exited {
                container,
                process,
                code: code
                    .or(signal.map(|signal| 128 + signal))
                    .unwrap_or(0)
                    .cast_unsigned(),
                signal,
                oom_killed,
            })?;
        }
        Ok(())
    }
}

/// What a copy of a machine must not share with others: the clock's past and the generator's future.
fn renew(setup: &Setup) {
    let nanoseconds = i64::try_from(setup.clock_ns).unwrap_or(i64::MAX);
    let now = Timespec {
        tv_sec: nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    };
    // As the first process of the machine, both are ours to set; a clock that is refused is one before 1970.
    let _ = clock_settime(ClockId::Realtime, now);
    let _ = atoll_sys::random::add_entropy(&setup.entropy);
}

/// A descriptor that doesn't wait.
fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
