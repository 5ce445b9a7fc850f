//! The child: executes a [`Program`]. No allocation, no locks, no logging.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_spec::NamespaceKind;
use atoll_sys::mount::{self, Attributes, Change, Propagation, Setting};
use atoll_sys::rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, statat};
use atoll_sys::rustix::mount::{UnmountFlags, unmount};
use atoll_sys::rustix::process::{self as rustix_process, fchdir, pivot_root};
use atoll_sys::terminal::Terminal;
use atoll_sys::{Errno, Result, inside, namespace, process, scheduling, task};

use super::control::{self, Go, MESSAGE_BYTES, Message};
use super::hooks::{Failure, HookList, MOST_SAID_BYTES, append_said};
use super::program::{Op, Program};
use super::{launch, mounting, own_attribute};

/// What operations leave for later ones.
pub(super) struct Scene<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// The operation executed at present.
    pub(super) step: u32,
    /// The container's fresh procfs, not yet touchable by the container.
    pub(super) proc: Option<OwnedFd>,
    /// The terminal.
    pub(super) terminal: Option<Terminal>,
    /// The tmpfs that hides masked folders.
    pub(super) hider: Option<OwnedFd>,
    /// The root directory, when the process itself opened it.
    pub(super) opened: Option<OwnedFd>,
    /// The root file system as it was kept.
    pub(super) kept: Option<OwnedFd>,
}

/// Executes the operations, then launches the program; never returns.
pub(super) fn run(program: &Program) -> ! {
    // Those in the container must not look into us, also after we gave our capabilities up
    // (CVE-2016-9962). execve(2) ends it. A kernel that refuses has other checks.
    if !program.is_rootless {
        let _ = process::set_dumpable(false);
    }
    // Modes given are meant exactly.
    rustix_process::umask(Mode::empty());
    let mut scene = Scene {
        program,
        step: 0,
        proc: None,
        terminal: None,
        hider: None,
        opened: None,
        kept: None,
    };
    for (step, op) in (0_u32..).zip(&program.steps) {
        scene.step = step;
        if let Op::RunHooks(list) = op {
            if let Err(errno) = scene.root().and_then(fchdir) {
                fail(program.control.as_fd(), step, errno);
            }
            if let Err(failure) = list.run(&|| Ok(())) {
                fail_in_hooks(program.control.as_fd(), step, list, failure);
            }
        } else if let Err(errno) = scene.execute(op) {
            fail(program.control.as_fd(), step, errno);
        }
    }
    scene.proc = None;
    scene.hider = None;
    scene.opened = None;
    scene.kept = None;
    let terminal = scene.terminal.take();
    let (step, errno) = launch::launch(program, terminal);
    launch::report_failure(program, step, errno);
    process::exit_now(1)
}

fn fail_in_hooks(control: BorrowedFd<'_>, step: u32, list: &HookList, failure: Failure) -> ! {
    let errno = failure.encode();
    let mut room = [0; MESSAGE_BYTES + MOST_SAID_BYTES];
    let head = Message::Failed { step, errno }.encode();
    let count = append_said(list, &head, &mut room);
    control::send_bytes(control, &room[..count], None);
    process::exit_now(1)
}

fn fail(control: BorrowedFd<'_>, step: u32, errno: Errno) -> ! {
    let errno = errno.raw_os_error();
    control::report(control, Message::Failed { step, errno }, None);
    process::exit_now(1)
}

impl Scene<'_> {
    /// The container's root directory.
    pub(super) fn root(&self) -> Result<BorrowedFd<'_>> {
        let root = self.opened.as_ref().or(self.program.root.as_ref());
        root.map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn execute(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::DeathSignal(signal) => process::set_death_signal(*signal),
            Op::KeyLabel(label) => own_attribute::label_keys(label.to_bytes_with_nul()),
            Op::Keyring(name) => task::new_session_keyring(name),
            Op::OomScore(value) => write_oom_score(value.to_bytes()),
            Op::JoinCgroup(handles) => handles
                .join_self()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            Op::JoinResctrl(handles, _) => handles
                .join_self()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            Op::AwaitMove => control::await_go(self.program.control.as_fd(), Go::Moved),
            Op::NewCgroupNamespace => namespace::unshare(libc::CLONE_NEWCGROUP),
            Op::Enter { kind, fd } => {
                match namespace::enter(fd.as_fd(), crate::plan::clone_flag(*kind)) {
                    // Entered by a go-between that had the right.
                    Err(Errno::PERM) if is_in(*kind, fd.as_fd()) => Ok(()),
                    outcome => outcome,
                }
            }
            Op::EnterProcess { pidfd, flags } => namespace::enter(pidfd.as_fd(), *flags),
            Op::AwaitMappings => {
                control::await_go(self.program.control.as_fd(), Go::Mapped)?;
                let _ = process::set_dumpable(false);
                task::become_user(0, 0, &[])
            }
            Op::BecomeRoot => task::become_user(0, 0, &[]),
            Op::Loopback => task::bring_up_loopback(),
            Op::Propagate(change) => mount::set_attributes(CWD, c"/", true, change),
            Op::RootPropagation(change) => mount::set_attributes(CWD, c"/", false, change),
            Op::PrivateRoot => {
                mount::set_attributes(CWD, c"/", false, &Change::propagation(Propagation::Private))
            }
            Op::OpenRoot(path, change) => {
                let root = mount::clone_tree(CWD, path, true, false)?;
                mount::set_attributes(root.as_fd(), c"", true, change)?;
                self.opened = Some(root);
                Ok(())
            }
            Op::AttachRoot => mount::attach_at(self.root()?, c"/"),
            Op::AttachRootAt(path) => mount::attach_at(self.root()?, path),
            Op::AttachRootInPlace(path) => match mount::attach_at(self.root()?, path) {
                // A caller need not have a folder for a root that is made of layers, and the container's root may have no
                // right to pass the folders above it.
                Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR) => {
                    mount::attach_at(self.root()?, c"/")
                }
                outcome => outcome,
            },
            Op::Attach {
                mount,
                target,
                missing,
            } => {
                let place = inside::open_or_make(self.root()?, target, *missing)?;
                mount::attach(mount.as_fd(), place.as_fd())
            }
            Op::Filesystem(filesystem) => mounting::filesystem(self, filesystem),
            Op::CgroupView {
                target,
                folders,
                links,
                attributes,
            } => mounting::cgroup_view(self, target, folders, links, *attributes),
            Op::Device(device) => mounting::device(self, device),
            Op::Link { target, path } => mounting::link(self, target, path),
            Op::Console => self.console(),
            Op::Terminal => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = atoll_sys::rustix::fs::openat(CWD, c"/", flags, Mode::empty())?;
                self.terminal = Some(atoll_sys::terminal::open_inside(root.as_fd())?);
                Ok(())
            }
            Op::WorkingDirectory => {
                let cwd = &self.program.launch.cwd;
                inside::open_or_make(self.root()?, cwd, inside::Missing::Folder).map(|_| ())
            }
            Op::Sysctl { path, value } => mounting::sysctl(self, path, value),
            Op::AppArmor(value) => own_attribute::apparmor(self, value),
            Op::ProcessLabel(label) => own_attribute::selinux(self, label),
            Op::Mask(path) => mounting::mask(self, path),
            Op::ReadOnly(path) => mounting::read_only(self, path),
            Op::RemountReadOnly(path) => {
                let place = inside::open(self.root()?, path, OFlags::PATH)?;
                let change = Change::attributes(Attributes::RDONLY, Attributes::empty());
                mount::set_attributes(place.as_fd(), c"", false, &change)
            }
            Op::RootReadOnly => {
                let change = Change::attributes(Attributes::RDONLY, Attributes::empty());
                mount::set_attributes(self.root()?, c"", false, &change)
            }
            Op::AwaitHooks => {
                let control = self.program.control.as_fd();
                control::report(control, Message::Ready, None);
                control::await_go(control, Go::Hooked)
            }
            // Executed by the caller, which says more of their failures.
            Op::RunHooks(_) => Ok(()),
            Op::Place { target, missing } => {
                inside::open_or_make(self.root()?, target, *missing).map(|_| ())
            }
            Op::KeepRoot(path) => {
                self.kept = Some(mount::clone_tree(CWD, path, true, false)?);
                Ok(())
            }
            Op::RenewRoot(path) => {
                unmount(path.as_c_str(), UnmountFlags::DETACH)?;
                let kept = self.kept.take().ok_or(Errno::BADF)?;
                mount::attach_at(kept.as_fd(), path)
            }
            Op::PivotRoot { shared } => self.pivot(*shared),
            Op::MoveRoot => change_root(self.root()?),
            Op::HideHost(places) => places.iter().try_for_each(|place| hide(place)),
            Op::BindInside(bind) => mounting::bind_inside(self, bind),
            Op::BindOutside(bind) => mounting::bind_outside(self, bind),
            Op::EnterRoot(root) => change_root(root.as_fd()),
            Op::Hostname(name) => task::set_hostname(name),
            Op::Domainname(name) => task::set_domainname(name),
            Op::Personality(domain) => task::set_personality(*domain),
            Op::MemoryPolicy(policy) => scheduling::set_memory_policy(policy.mode, &policy.nodes),
            Op::Affinity(cpus) => scheduling::set_affinity(cpus),
        }
    }

    /// Both the new root and the place of the old one are the current folder: the old root ends up
    /// on top of the new one and is unmounted from there.
    fn pivot(&self, shared: bool) -> Result<()> {
        fchdir(self.root()?)?;
        pivot_root(c".", c".")?;
        if shared {
            // Else unmounting would unmount the host's.
            let slave = Change::propagation(Propagation::Slave);
            mount::set_attributes(CWD, c".", true, &slave)?;
        }
        unmount(c".", UnmountFlags::DETACH)?;
        rustix_process::chdir(c"/")
    }

    fn console(&mut self) -> Result<()> {
        let terminal = atoll_sys::terminal::open_inside(self.root()?)?;
        let place = inside::open_or_make(self.root()?, c"/dev/console", inside::Missing::File)?;
        // The slave itself is shown, whatever its path leads to by now.
        let slave = mount::clone_tree(terminal.slave.as_fd(), c"", false, false)?;
        mount::attach(slave.as_fd(), place.as_fd())?;
        self.terminal = Some(terminal);
        Ok(())
    }
}

/// Whether this process is in the namespace behind `fd`.
fn is_in(kind: NamespaceKind, fd: BorrowedFd<'_>) -> bool {
    let path = match kind {
        NamespaceKind::Network => c"/proc/self/ns/net",
        NamespaceKind::Ipc => c"/proc/self/ns/ipc",
        NamespaceKind::Uts => c"/proc/self/ns/uts",
        NamespaceKind::Cgroup => c"/proc/self/ns/cgroup",
        NamespaceKind::Time => c"/proc/self/ns/time",
        NamespaceKind::Mount => c"/proc/self/ns/mnt",
        NamespaceKind::Pid | NamespaceKind::User => return false,
    };
    let own = statat(CWD, path, AtFlags::empty());
    let wanted = fstat(fd);
    own.is_ok_and(|own| {
        wanted.is_ok_and(|wanted| (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino))
    })
}

/// Unmounts `place`, or where that is not allowed hides it below an empty file system.
fn hide(place: &CStr) -> Result<()> {
    match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::PERM) => {
            let source = [Setting::Value(c"source", c"tmpfs")];
            let empty = mount::new_filesystem(c"tmpfs", source, Attributes::RDONLY)?;
            mount::attach_at(empty.as_fd(), place)
        }
        // Gone with one above it.
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root)?;
    rustix_process::chroot(c".")?;
    rustix_process::chdir(c"/")
}

/// Lowering the score needs `CAP_SYS_RESOURCE`; without it the score stays as it is, as a container
/// that is a little more likely to be killed beats none.
fn write_oom_score(value: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let path = c"/proc/self/oom_score_adj";
    let file = match atoll_sys::rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        // Its files are the superuser's while nobody may look into it.
        Err(Errno::ACCESS) => return Ok(()),
        outcome => outcome?,
    };
    match atoll_sys::rustix::io::write(&file, value) {
        Ok(_) | Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(error) => Err(error),
    }
}
