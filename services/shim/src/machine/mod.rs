//! The wall of a machine: its monitor, the agent in its guest, and what is asked of it.
//!
//! ```text
//!   Create ─▶ plan (pure) ─▶ share (mounts) ─▶ atoll-vmm, in the container's control groups
//!                                                  │ boots; its guest connects to sockets/vsock_1024
//!   agent's connection ◀──────────────────────────┤   greeting "agent": calls, answers, ends
//!   a process's stream ◀──────────────────────────┘   greeting "stream": bytes
//! ```
//!
//! The machine of a pod is made with its sandbox; its further containers are added to the share and to the guest while it
//! runs ([`Machine::add`]). Its card takes the place of the link that the pod's network namespace has.
//!
//! Nothing here waits: what is asked of the guest is answered when its answer comes, or when it is overdue. A guest is
//! hostile: what it sends is bounded, parsed, and refused by ending its machine. When the monitor ends before the
//! container has, that is the container's end, with the monitor's last words as the reason.

mod agent;
mod asked;
mod cards;
mod ending;
mod fresh;
mod greeting;
mod link;
mod member;
mod monitor;
mod plan;
mod share;
mod tail;
mod template;
mod wall;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_container::{Container, CreateRequest, Monitored, RootfsMount};
use atoll_guest::Lines;
use atoll_guest::protocol::{
    Call, Create, LONGEST_ANSWER, Layers, Message, Network, Outcome, Request, Setup, StreamName,
    Streams,
};
use atoll_machine::protocol::{Client, Request as Control, Status};
use atoll_machine::{Backend, Disk, VmmConfig};
use atoll_shim_protocol::machine::{FACTS_FILE, MachineFacts, MachineNetwork};
use atoll_spec::Spec;
use rustix::event::PollFlags;

use crate::failure::Failure;
use crate::process::Waiter;
use cards::Cards;
use greeting::{Incoming, Progress};
use link::Link;
use plan::RootSource;
use share::{Folders, Shown};
use tail::Tail;
use template::Template;

pub(crate) use plan::outer;
pub(crate) use wall::{asks_systemd, is_machine, wanted};

/// How long a machine may take to its agent. Less than the engine waits for a shim.
const BOOT: Duration = Duration::from_secs(55);
/// How long an agent may take for a call.
const CALL: Duration = Duration::from_secs(30);
/// Connections of a guest that have not said yet what they are.
const MAX_INCOMING: usize = 64;
/// The call that is not the container's; others count from 1.
const REHEARSAL: u64 = 0;

/// Which descriptor of a machine an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineToken {
    /// The socket its guest connects to.
    Listener,
    /// A connection that has not said what it is.
    Incoming(u64),
    /// The agent's connection.
    Agent,
    /// The guest's serial console.
    Console,
    /// The monitor's messages.
    Errors,
}

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

struct Pending {
    id: u64,
    container: String,
    to: Waiter,
    then: Then,
    until: Instant,
}

/// A machine with a container, or with those of a pod.
pub(crate) struct Machine {
    pub(crate) pid: u32,
    /// The process that stands for its container to others, if that is not the monitor: ours.
    keeper: Option<u32>,
    /// Id of its first container, a pod's sandbox if it is a pod's: with it, the machine ends.
    pub(crate) first: String,
    /// The process id that one has in the guest, once it is made.
    first_pid: Option<u32>,
    /// Of a pod: where its containers' files are shown.
    share: Option<PathBuf>,
    /// Where its files are shown.
    _shown: Shown,
    /// Containers that were added.
    added: u64,
    /// Its network cards.
    cards: Cards,
    /// Those that are plugged in before its container is made: the host's tap of each.
    later: Vec<(String, Network)>,
    /// Of a pod: its place in the pod's network namespace.
    link: Option<Link>,
    template: Template,
    /// How it boots, if it was made of the template and its agent has not come up yet.
    cold: Option<Box<(VmmConfig, Folders)>>,
    /// Whether it was made of the template.
    is_copy: bool,
    control: PathBuf,
    /// Where its facts are written.
    facts: PathBuf,
    listener: UnixListener,
    incoming: Vec<(u64, Incoming)>,
    last_incoming: u64,
    agent: Option<Lines>,
    /// The first call, until there is an agent.
    create: Option<Box<Create>>,
    /// The same, until the rehearsal is over.
    rehearsed: Option<Box<Create>>,
    pending: VecDeque<Pending>,
    last_call: u64,
    console: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    console_tail: Tail,
    errors_tail: Tail,
    kill_by: Option<Instant>,
    /// Why we ended it, when its guest gave a reason to.
    blame: Option<String>,
    has_ended: bool,
}

/// A machine that boots, and its container as the host has it.
pub(crate) struct Booting {
    pub(crate) machine: Machine,
    pub(crate) container: Container,
}

impl Machine {
    /// Starts the machine for a container, or for a pod with its sandbox; `to` is answered when the container is made.
    ///
    /// * `keeps`: whether this process stands for the container, and everything is in the container's state folder.
    pub(crate) fn boot(
        request: &CreateRequest,
        spec: &Spec,
        backend: Backend,
        streams: Streams,
        to: Waiter,
        keeps: bool,
    ) -> Result<Booting, Failure> {
        let mounts = &request.rootfs_mounts;
        let mut plan = plan::plan(spec, backend, mounts, keeps)?;
        let link = match &plan.namespace {
            Some(namespace) => Link::look(namespace)?,
            None => None,
        };
        if let Some((link, network)) = &link {
            plan.networks = vec![(link.tap.clone(), network.clone())];
        }
        let is_pod = plan.shm_bytes.is_some();
        let monitored = Monitored::prepare(request, &plan.host)?;
        let folder = if keeps {
            monitored.folder()
        } else {
            request.bundle.clone()
        };
        let folders = Folders::make(&folder)?;
        let rootfs = rootfs_of(request, spec);
        let root = (plan.root == RootSource::Share).then_some((&*rootfs, &mounts[..]));
        let shown = Shown::fill(&folders.share, root, &plan.binds, is_pod)?;
        let cold = monitor::config(&plan, &folders)?;
        let layers = cold.disks.first().map(layers).transpose()?;
        let template = Template::of(&cold, &plan).map_err(monitor::machine_failed)?;
        let clone = template.clone_of(&cold);
        let listener = listen(&monitor::guest_socket(&folders))?;
        let started = monitor::start(clone.as_ref().unwrap_or(&cold), &folders, keeps)?;
        let mut networks = plan.networks;
        let later = networks.split_off(networks.len().min(1));
        let first = networks.first().map(|(_, network)| &*network.interface);
        let mut machine = Self {
            pid: started.pid,
            keeper: keeps.then(std::process::id),
            first: request.id.to_string(),
            first_pid: None,
            share: is_pod.then(|| folders.share.clone()),
            _shown: shown,
            added: 0,
            cards: Cards::of(&cold, first),
            later,
            link: link.map(|(link, _)| link),
            cold: clone.is_some().then(|| Box::new((cold, folders.clone()))),
            is_copy: clone.is_some(),
            template,
            control: monitor::control_socket(&folders),
            facts: folder.join(FACTS_FILE),
            listener,
            incoming: Vec::new(),
            last_incoming: 0,
            agent: None,
            create: Some(Box::new(Create {
                spec: plan.guest,
                streams,
                machine: Some(Setup {
                    layers,
                    networks: networks.into_iter().map(|(_, network)| network).collect(),
                    shm_bytes: plan.shm_bytes,
                    sysctls: plan.sysctls,
                    clock_ns: 0,
                    entropy: Vec::new(),
                }),
                folder: None,
            })),
            rehearsed: None,
            pending: VecDeque::new(),
            last_call: 0,
            console: Some(started.console),
            errors: Some(started.errors),
            console_tail: Tail::default(),
            errors_tail: Tail::default(),
            kill_by: None,
            blame: None,
            has_ended: false,
        };
        match monitored.adopt(started.pid) {
            Ok(container) => {
                machine.expect(request.id.as_str(), to, Then::Created, BOOT);
                Ok(Booting { machine, container })
            }
            Err(error) => {
                machine.switch_off();
                Err(error.into())
            }
        }
    }

    /// The process that stands for its containers to others.
    pub(crate) fn shown_pid(&self) -> u32 {
        self.keeper.unwrap_or(self.pid)
    }

    /// Whether its monitor was reaped.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Adds what to wait for; connections before the agent's, which says things about them.
    pub(crate) fn interests<'a>(
        &'a self,
        mut add: impl FnMut(MachineToken, BorrowedFd<'a>, PollFlags),
    ) {
        add(MachineToken::Listener, self.listener.as_fd(), PollFlags::IN);
        for (key, incoming) in &self.incoming {
            add(
                MachineToken::Incoming(*key),
                incoming.as_fd(),
                PollFlags::IN,
            );
        }
        if let Some(agent) = &self.agent {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, agent.owes());
            add(MachineToken::Agent, agent.as_fd(), flags);
        }
        if let Some(console) = &self.console {
            add(MachineToken::Console, console.as_fd(), PollFlags::IN);
        }
        if let Some(errors) = &self.errors {
            add(MachineToken::Errors, errors.as_fd(), PollFlags::IN);
        }
    }

    /// When to look again although nothing happened.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let pending = self.pending.iter().map(|pending| pending.until);
        pending.chain(self.kill_by).min()
    }

    /// Acts on an event.
    pub(crate) fn handle(&mut self, token: MachineToken) -> Vec<News> {
        match token {
            MachineToken::Listener => self.accept(),
            MachineToken::Incoming(key) => self.greeted(key).into_iter().collect(),
            MachineToken::Agent => {
                let mut news = self.accept();
                news.extend(self.hear());
                news
            }
            MachineToken::Console => {
                self.console_tail.read(&mut self.console);
                Vec::new()
            }
            MachineToken::Errors => {
                self.errors_tail.read(&mut self.errors);
                Vec::new()
            }
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
            News::Answered(Answered {
                container: pending.container,
                to: pending.to,
                then: pending.then,
                outcome: Err(Failure::unknown(why)),
            })
        };
        late.into_iter().map(answered).collect()
    }

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

    /// Plugs a network card in and has the guest bring it up; `to` is answered then.
    pub(crate) fn connect(&mut self, card: MachineNetwork, to: Waiter) -> Result<(), Failure> {
        if !self.is_ready() {
            return Err(Failure::precondition("the machine's guest is not ready"));
        }
        if self.cards.place_of(&card.interface).is_some() {
            return Err(Failure::new(
                ttrpc::Code::ALREADY_EXISTS,
                format!("the machine has a network card {} already", card.interface),
            ));
        }
        let (tap, mut network) = plan::card(card);
        let place = self.cards.plug(&self.control, &tap, &network)?;
        network.place = Some(place);
        let first = self.first.clone();
        let request = Request::Connect(Box::new(network));
        self.call(&first, request, to, Then::Connected(place))
    }

    /// Has the guest let go of a network card, which is taken out then; `to` is answered after that.
    ///
    /// * `gateway`: where its default route leads afterwards, if it has to lead somewhere else.
    pub(crate) fn disconnect(
        &mut self,
        interface: &str,
        gateway: Option<Ipv4Addr>,
        to: Waiter,
    ) -> Result<(), Failure> {
        let place = self.cards.place_of(interface);
        let place = place.ok_or_else(|| {
            Failure::not_found(format!("the machine has no network card {interface}"))
        })?;
        let first = self.first.clone();
        let request = Request::Disconnect { place, gateway };
        self.call(&first, request, to, Then::Disconnected(place))
    }

    /// Takes out the network card at `place`.
    pub(crate) fn unplug(&mut self, place: u8) -> Result<(), Failure> {
        if self.has_ended {
            return Ok(());
        }
        self.cards.unplug(&self.control, place)
    }

    /// Begins a further container of the pod: its files are shown, and the agent is asked to make it. Gives the name of
    /// its files, for [`Machine::forget`].
    pub(crate) fn add(
        &mut self,
        request: &CreateRequest,
        spec: &Spec,
        streams: Streams,
        to: Waiter,
    ) -> Result<String, Failure> {
        let (Some(share), Some(guest_pid)) = (&self.share, self.first_pid) else {
            return Err(Failure::precondition("the pod's sandbox is not ready"));
        };
        // A name that was not used before: the guest's kernel may remember what it saw under others.
        self.added += 1;
        let folder = self.added.to_string();
        let sandbox = member::Sandbox {
            host_pid: self.pid,
            guest_pid,
            network: self.link.as_ref().map(|link| &*link.namespace),
        };
        let plan = member::plan(spec, &request.id, &folder, &sandbox)?;
        let rootfs = rootfs_of(request, spec);
        share::add(
            share,
            &folder,
            (&rootfs, &request.rootfs_mounts),
            &plan.binds,
        )?;
        let create = Create {
            spec: plan.guest,
            streams,
            machine: None,
            folder: Some(folder.clone()),
        };
        let id = request.id.as_str();
        match self.call(id, Request::Create(Box::new(create)), to, Then::Created) {
            Ok(()) => Ok(folder),
            Err(failure) => {
                self.forget(&folder);
                Err(failure)
            }
        }
    }

    /// Shows a container's files no longer.
    pub(crate) fn forget(&self, folder: &str) {
        if let Some(share) = &self.share {
            share::remove(share, folder);
        }
    }

    /// Whether the agent can be asked.
    pub(crate) fn is_ready(&self) -> bool {
        self.agent.is_some()
    }

    fn expect(&mut self, container: &str, to: Waiter, then: Then, within: Duration) {
        let id = self.last_call.max(1);
        self.pending.push_back(Pending {
            id,
            container: container.to_owned(),
            to,
            then,
            until: Instant::now() + within,
        });
    }

    fn send(&mut self, container: &str, request: Request) {
        self.last_call += 1;
        let call = Call {
            id: self.last_call,
            container: container.to_owned(),
            request,
        };
        self.tell(&call);
    }

    fn tell(&mut self, call: &Call) {
        if let Some(agent) = &mut self.agent
            && let Err(error) = agent.send(call)
        {
            self.give_up(&format!("its agent cannot be told: {error}"));
        }
    }

    /// Ends a machine whose guest does what it must not.
    fn give_up(&mut self, why: &str) {
        self.agent = None;
        self.blame.get_or_insert_with(|| why.to_owned());
        self.switch_off();
    }

    /// Takes connections of the guest.
    fn accept(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while let Ok((socket, _)) = self.listener.accept() {
            if self.incoming.len() >= MAX_INCOMING || socket.set_nonblocking(true).is_err() {
                continue;
            }
            self.last_incoming += 1;
            let key = self.last_incoming;
            self.incoming.push((key, Incoming::new(socket.into())));
            news.extend(self.greeted(key));
        }
        news
    }

    /// Looks whether a connection has said what it is.
    fn greeted(&mut self, key: u64) -> Option<News> {
        let at = self.incoming.iter().position(|(known, _)| *known == key)?;
        let progress = self.incoming[at].1.advance();
        if matches!(progress, Progress::Waiting) {
            return None;
        }
        let (_, incoming) = self.incoming.swap_remove(at);
        match progress {
            Progress::Waiting | Progress::Refused => None,
            Progress::Stream(name) => Some(News::Stream(name, incoming.into_fd())),
            Progress::Agent(kernel) => {
                // The first one: a process of the container must not take its place later.
                let create = self.create.take()?;
                self.agent = Some(Lines::new(incoming.into_fd(), LONGEST_ANSWER));
                if let Err(failure) = self.tell_facts(kernel) {
                    crate::report(format_args!("{failure}"));
                }
                if let Some(link) = &mut self.link
                    && let Err(failure) = link.join()
                {
                    self.give_up(&failure.message);
                    return None;
                }
                if self.cold.take().is_none() {
                    // The first of its kind.
                    self.rehearse(create);
                } else {
                    self.send_create(create);
                }
                None
            }
        }
    }

    /// Has the guest do once what a container needs, so that a template has it behind it.
    fn rehearse(&mut self, create: Box<Create>) {
        let forgotten = self.ask_monitor(Control::ForgetCode);
        if let Err(failure) = forgotten {
            crate::report(format_args!("{failure}"));
        }
        self.tell(&Call {
            id: REHEARSAL,
            container: self.first.clone(),
            request: Request::Rehearse(create.clone()),
        });
        self.rehearsed = Some(create);
    }

    /// Keeps the template now that the rehearsal is over, and goes on with the container.
    fn keep_template(&mut self, outcome: &Outcome) {
        let Some(create) = self.rehearsed.take() else {
            return;
        };
        if let Outcome::Failed(fault) = outcome {
            // Machines made of it are slower, and no worse: if something is wrong, the container will tell.
            crate::report(format_args!("no rehearsal: {}", fault.message));
        }
        // Without a template the next one boots as well.
        if let Err(failure) = self.template.keep(&self.control) {
            crate::report(format_args!("{failure}"));
        }
        self.send_create(create);
    }

    fn send_create(&mut self, mut create: Box<Create>) {
        if let Some(setup) = &mut create.machine {
            for (tap, mut network) in std::mem::take(&mut self.later) {
                match self.cards.plug(&self.control, &tap, &network) {
                    Ok(place) => network.place = Some(place),
                    Err(failure) => return self.give_up(&failure.message),
                }
                setup.networks.push(network);
            }
            setup.clock_ns = fresh::since_1970();
            setup.entropy = fresh::random();
        }
        let first = self.first.clone();
        self.send(&first, Request::Create(create));
    }

    fn ask_monitor(&self, request: Control) -> Result<Status, Failure> {
        let mut client = Client::connect(&self.control).map_err(monitor::machine_failed)?;
        client.ask(request, None).map_err(monitor::machine_failed)
    }

    /// Writes down what the machine turned out to be.
    fn tell_facts(&self, kernel: String) -> Result<(), Failure> {
        let status = self.ask_monitor(Control::Status)?;
        let facts = MachineFacts {
            backend: match status.backend {
                Backend::Kvm => "kvm".to_owned(),
                Backend::Soft | Backend::Auto => "soft".to_owned(),
            },
            kernel,
        };
        let failed = share::failed(format!("write {}", self.facts.display()));
        let text = serde_json::to_vec(&facts).map_err(std::io::Error::from);
        text.and_then(|text| atoll_sys::file::replace(&self.facts, &text, 0o600))
            .map_err(failed)
    }

    /// Reads what the agent says.
    fn hear(&mut self) -> Vec<News> {
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
                        news.push(News::Answered(Answered {
                            container: pending.container,
                            to: pending.to,
                            then: pending.then,
                            outcome: agent::outcome(outcome),
                        }));
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

/// The container's root file system, or where it is to be mounted.
fn rootfs_of(request: &CreateRequest, spec: &Spec) -> PathBuf {
    let root = spec.root.as_ref();
    let root = root.map_or("rootfs".into(), |root| root.path.clone());
    request.bundle.join(root)
}

/// What the guest is told of its disk of layers.
fn layers(disk: &Disk) -> Result<Layers, Failure> {
    let count = u8::try_from(disk.paths().len())
        .map_err(|_| Failure::invalid("an image has too many layers for a machine: 255 at most"))?;
    Ok(Layers { count })
}

/// A listener at `path`, non-blocking.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let listener = atoll_sys::unix::listen_at(path)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(share::failed(format!("listen at {}", path.display())))
}

/// The root file system's mounts as isolation/container has them.
pub(crate) fn rootfs_mounts(mounts: &[containerd_shim_protos::api::Mount]) -> Vec<RootfsMount> {
    mounts
        .iter()
        .map(|mount| RootfsMount {
            kind: mount.type_.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
        })
        .collect()
}
