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
mod calls;
mod cards;
mod ending;
mod fresh;
mod greeting;
mod link;
mod member;
mod monitor;
mod plan;
mod share;
mod starting;
mod tail;
mod template;
mod wall;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use atoll_container::{CreateRequest, RootfsMount};
use atoll_guest::Lines;
use atoll_guest::protocol::{Create, Network, Request, Streams};
use atoll_machine::VmmConfig;
use atoll_spec::Spec;
use rustix::event::PollFlags;

use crate::failure::Failure;
use crate::process::Waiter;
use calls::Pending;
use cards::Cards;
use greeting::Incoming;
use link::Link;
use share::{Folders, Shown};
use tail::Tail;
use template::Template;

pub(crate) use calls::{Answered, News, Then};
pub(crate) use plan::outer;
pub(crate) use wall::{asks_systemd, is_machine, wanted};

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

impl Machine {
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

    /// Ends a machine whose guest does what it must not.
    fn give_up(&mut self, why: &str) {
        self.agent = None;
        self.blame.get_or_insert_with(|| why.to_owned());
        self.switch_off();
    }
}

/// The container's root file system, or where it is to be mounted.
fn rootfs_of(request: &CreateRequest, spec: &Spec) -> PathBuf {
    let root = spec.root.as_ref();
    let root = root.map_or("rootfs".into(), |root| root.path.clone());
    request.bundle.join(root)
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
