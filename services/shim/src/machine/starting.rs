//! How a machine starts: its monitor, the first connections of its guest, the rehearsal, and its first container.

use std::collections::VecDeque;
use std::time::Duration;

use atoll_container::{Container, CreateRequest, Monitored};
use atoll_guest::Lines;
use atoll_guest::protocol::{
    Call, Create, LONGEST_ANSWER, Layers, Outcome, Request, Setup, Streams,
};
use atoll_machine::protocol::{Client, Request as Control, Status};
use atoll_machine::{Backend, Disk};
use atoll_shim_protocol::machine::{FACTS_FILE, MachineFacts};
use atoll_spec::Spec;

use super::calls::REHEARSAL;
use super::cards::Cards;
use super::greeting::{Incoming, Progress};
use super::link::Link;
use super::plan::RootSource;
use super::share::{Folders, Shown};
use super::tail::Tail;
use super::template::Template;
use super::{Machine, News, Then, fresh, listen, monitor, plan, rootfs_of, share};
use crate::failure::Failure;
use crate::process::Waiter;

/// How long a machine may take to its agent. Less than the engine waits for a shim.
const BOOT: Duration = Duration::from_secs(55);
/// Connections of a guest that have not said yet what they are.
const MAX_INCOMING: usize = 64;

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

    /// Takes connections of the guest.
    pub(super) fn accept(&mut self) -> Vec<News> {
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
    pub(super) fn greeted(&mut self, key: u64) -> Option<News> {
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
    pub(super) fn keep_template(&mut self, outcome: &Outcome) {
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

    pub(super) fn ask_monitor(&self, request: Control) -> Result<Status, Failure> {
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
}

/// What the guest is told of its disk of layers.
fn layers(disk: &Disk) -> Result<Layers, Failure> {
    let count = u8::try_from(disk.paths().len())
        .map_err(|_| Failure::invalid("an image has too many layers for a machine: 255 at most"))?;
    Ok(Layers { count })
}
