//! The child's last part, the same for first processes and later ones: streams, limits, user,
//! capabilities, then the program. Child-safe throughout.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use atoll_sys::capability::{self, SYS_ADMIN, Set, Sets};
use atoll_sys::rustix::fs::{self, Access, AtFlags, CWD, FileType, Mode, OFlags};
use atoll_sys::rustix::process::{fchdir, ioctl_tiocsctty, setsid, umask};
use atoll_sys::terminal::Terminal;
use atoll_sys::{Errno, Result, descriptors, inside, process, scheduling, task};

use super::control::{self, Go, MESSAGE_BYTES, Message};
use super::hooks::{MOST_SAID_BYTES, append_said};
use super::program::{Launch, LaunchStep, Program, Start, Stdio};

/// A failed step, and its errno (of hooks: how one ended, see [`super::hooks::Failure`]).
type Failed = (LaunchStep, i32);

/// Launches the program; returns only what failed.
pub(super) fn launch(program: &Program, terminal: Option<Terminal>) -> Failed {
    let mut master = None;
    match try_launch(program, terminal, &mut master) {
        Err(failure) => {
            // Closing the last one would hang the terminal up, and with it us before the failure is told.
            std::mem::forget(master);
            failure
        }
        Ok(never) => match never {},
    }
}

/// Tells whoever waits that the program won't be executed.
pub(super) fn report_failure(program: &Program, step: LaunchStep, errno: i32) {
    let message = Message::Failed {
        step: step as u32,
        errno,
    };
    let mut room = [0; MESSAGE_BYTES + MOST_SAID_BYTES];
    let head = message.encode();
    let count = match &program.launch.hooks {
        Some(list) if step == LaunchStep::Hooks => append_said(list, &head, &mut room),
        _ => {
            room[..MESSAGE_BYTES].copy_from_slice(&head);
            MESSAGE_BYTES
        }
    };
    if let Start::Fifo { report, .. } = &program.launch.start {
        let _ = atoll_sys::rustix::io::write(report, &room[..count]);
    }
    control::send_bytes(program.control.as_fd(), &room[..count], None);
}

fn try_launch(
    program: &Program,
    terminal: Option<Terminal>,
    master: &mut Option<OwnedFd>,
) -> std::result::Result<std::convert::Infallible, Failed> {
    let at = |step: LaunchStep| move |errno: Errno| (step, errno.raw_os_error());
    let launch = &program.launch;
    if launch.new_session {
        setsid().map_err(at(LaunchStep::Session))?;
    }
    if let Some(terminal) = terminal {
        take_terminal(launch, terminal, master).map_err(at(LaunchStep::Terminal))?;
    }
    set_streams(launch).map_err(at(LaunchStep::Streams))?;
    for limit in &launch.rlimits {
        task::set_limit(limit.resource, limit.soft, limit.hard).map_err(at(LaunchStep::Limits))?;
    }
    if let Some(scheduler) = &launch.scheduler {
        scheduling::set_scheduler(scheduler).map_err(at(LaunchStep::Scheduler))?;
    }
    if let Some(priority) = launch.io_priority {
        task::set_io_priority(priority).map_err(at(LaunchStep::IoPriority))?;
    }
    let master_number = master.as_ref().map(AsRawFd::as_raw_fd);
    close_others(program, master_number).map_err(at(LaunchStep::Descriptors))?;

    let early = change_directory(&launch.cwd);
    capability::keep_bounding(launch.capabilities.bounding).map_err(at(LaunchStep::Bounding))?;
    capability::keep_on_uid_change().map_err(at(LaunchStep::User))?;
    task::become_user(launch.uid, launch.gid, &launch.groups).map_err(at(LaunchStep::User))?;
    // What installing the filter needs is kept, all else given up now, so that the filter needn't permit more than capset(2)
    // and execve(2).
    let admin = if needs_admin(launch) {
        Set::of(SYS_ADMIN)
    } else {
        Set::default()
    };
    set_capabilities(launch, admin).map_err(at(LaunchStep::Capabilities))?;
    if early.is_err() {
        // Some file systems let only the user in.
        change_directory(&launch.cwd).map_err(at(LaunchStep::Chdir))?;
    }
    umask(Mode::from_raw_mode(launch.umask));
    process::reset_signals();
    if !matches!(launch.start, Start::AtOnce) {
        process::end_when_asked();
    }
    let path = find(&launch.candidates).map_err(at(LaunchStep::Lookup))?;

    // A filter with a listener comes early: whoever made us hands its descriptor over, and may be gone at the start.
    let is_early = launch
        .seccomp
        .as_ref()
        .is_some_and(|s| s.listener.is_some());
    if is_early {
        install_filter(program)?;
    }
    await_start(program, master.take()).map_err(at(LaunchStep::Start))?;

    if let Some(list) = &launch.hooks {
        list.run(&|| if is_early { Ok(()) } else { confine(launch) })
            .map_err(|failure| (LaunchStep::Hooks, failure.encode()))?;
    }

    if !is_early {
        install_filter(program)?;
    }
    let errno = process::execute(path, &launch.args, &launch.env);
    Err((LaunchStep::Execute, errno.raw_os_error()))
}

/// What the program is, its hooks are too.
fn confine(launch: &Launch) -> Result<()> {
    if launch.no_new_privileges {
        capability::set_no_new_privs()?;
    }
    let Some(seccomp) = &launch.seccomp else {
        return Ok(());
    };
    process::install_seccomp(&seccomp.program, seccomp.flags)?;
    if needs_admin(launch) {
        capability::set(final_sets(launch))?;
    }
    Ok(())
}

/// Installs the filter, if there is one, and gives up the capability it took.
fn install_filter(program: &Program) -> std::result::Result<(), Failed> {
    let at = |step: LaunchStep| move |errno: Errno| (step, errno.raw_os_error());
    let launch = &program.launch;
    if launch.no_new_privileges {
        capability::set_no_new_privs().map_err(at(LaunchStep::NoNewPrivs))?;
    }
    let Some(seccomp) = &launch.seccomp else {
        return Ok(());
    };
    let listener = process::install_seccomp(&seccomp.program, seccomp.flags)
        .map_err(at(LaunchStep::Seccomp))?;
    if let Some(listener) = listener {
        let number = listener.as_raw_fd().unsigned_abs();
        let taken = control::offer_listener(program.control.as_fd(), number);
        taken.map_err(at(LaunchStep::Listener))?;
    }
    if needs_admin(launch) {
        // The ambient set shrinks with the permitted one.
        capability::set(final_sets(launch)).map_err(at(LaunchStep::Capabilities))?;
    }
    Ok(())
}

/// Installing a filter without no_new_privs needs `CAP_SYS_ADMIN`.
fn needs_admin(launch: &Launch) -> bool {
    launch.seccomp.is_some() && !launch.no_new_privileges
}

/// Makes the terminal the session's and the standard streams; its master stays in `kept`.
fn take_terminal(launch: &Launch, terminal: Terminal, kept: &mut Option<OwnedFd>) -> Result<()> {
    let Terminal { master, slave } = terminal;
    *kept = Some(master);
    if let Some((rows, columns)) = launch.terminal_size {
        atoll_sys::terminal::resize(&slave, rows, columns)?;
    }
    if launch.keeps_line_ends {
        atoll_sys::terminal::keep_line_ends(&slave)?;
    }
    ioctl_tiocsctty(&slave)?;
    for number in 0..3 {
        place(slave.as_fd(), number)?;
    }
    Ok(())
}

fn set_streams(launch: &Launch) -> Result<()> {
    if let Stdio::Fds(fds) = &launch.stdio {
        for (fd, number) in fds.iter().zip(0..) {
            place(fd.as_fd(), number)?;
        }
    }
    for (fd, number) in launch.extra.iter().zip(3..) {
        place(fd.as_fd(), number)?;
    }
    // The user must be able to open /dev/stdout again.
    for number in 0..3 {
        // SAFETY: nothing closes the three between here and the end of the loop's body; one that
        // isn't open only makes the calls fail.
        let stream = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let Ok(stat) = fs::fstat(stream) else {
            continue;
        };
        let is_null = is_null_device(&stat);
        if is_null && launch.own_null {
            take_own_null(number)?;
        }
        if stat.st_uid == launch.streams_uid || is_null {
            continue;
        }
        match fs::fchown(stream, Some(fs::Uid::from_raw(launch.streams_uid)), None) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_null_device(stat: &fs::Stat) -> bool {
    stat.st_rdev == fs::makedev(1, 3)
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
}

/// Has stream `number` be the container's null device instead of the host's, which is a file outside of it; unless the
/// container's is none.
fn take_own_null(number: RawFd) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(null) = fs::openat(CWD, c"/dev/null", flags, Mode::empty()) else {
        return Ok(());
    };
    if !is_null_device(&fs::fstat(&null)?) {
        return Ok(());
    }
    place(null.as_fd(), number)
}

fn place(fd: std::os::fd::BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: 0, 1 and 2 are the standard streams, which no owned descriptor of the child is, and
    // the extra ones' numbers are below that of any owned descriptor (`Launch::extra`).
    unsafe { descriptors::place(fd, number, false) }
}

/// Closes everything but the standard streams, preserved descriptors and what the start needs; so
/// nothing of the host is reachable as `/proc/self/fd/N` while the program is looked up
/// (CVE-2024-21626).
fn close_others(program: &Program, master: Option<RawFd>) -> Result<()> {
    let mut kept = [-1; 6];
    kept[..2].copy_from_slice(&[master.unwrap_or(-1), program.control.as_raw_fd()]);
    if let Start::Fifo { fifo, report } = &program.launch.start {
        kept[2] = fifo.as_raw_fd();
        kept[3] = report.as_raw_fd();
    }
    if let Some(list) = &program.launch.hooks {
        kept[4..].copy_from_slice(&list.descriptors());
    }
    kept.sort_unstable();
    let mut first = 3 + program.launch.preserve_fds;
    for number in kept {
        let Ok(number) = u32::try_from(number) else {
            continue;
        };
        if number < first {
            continue;
        }
        if number > first {
            // SAFETY: everything from here to execve uses only the kept descriptors, which are not
            // in the range, and the standard streams.
            unsafe { descriptors::close_range(first, number - 1)? };
        }
        first = number + 1;
    }
    // SAFETY: as above.
    unsafe { descriptors::close_range(first, u32::MAX) }
}

/// Magic links are refused, so the working directory can't be one of the host's by a leaked
/// descriptor.
fn change_directory(cwd: &CStr) -> Result<()> {
    let root = fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let folder = inside::open(root.as_fd(), cwd, OFlags::PATH | OFlags::DIRECTORY)?;
    fchdir(&folder)
}

fn set_capabilities(launch: &Launch, extra: Set) -> Result<()> {
    let sets = final_sets(launch);
    capability::set(Sets {
        effective: sets.effective.with(extra),
        permitted: sets.permitted.with(extra),
        inheritable: sets.inheritable,
    })?;
    capability::set_ambient(launch.capabilities.ambient)
}

fn final_sets(launch: &Launch) -> Sets {
    Sets {
        effective: launch.capabilities.effective,
        permitted: launch.capabilities.permitted,
        inheritable: launch.capabilities.inheritable,
    }
}

/// The first candidate that can be executed, by the rules of Go's LookPath: `EISDIR` for folders,
/// `EACCES` for files without execute permission. With several candidates only `ENOENT` is said.
fn find(candidates: &[std::ffi::CString]) -> Result<&CStr> {
    let mut outcome = Err(Errno::NOENT);
    for candidate in candidates {
        match check(candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno) if candidates.len() == 1 => outcome = Err(errno),
            Err(_) => {}
        }
    }
    outcome
}

fn check(path: &CStr) -> Result<()> {
    let stat = fs::statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    match fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // An old kernel or filter: the mode bits must do.
        Err(Errno::NOSYS | Errno::PERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(Errno::NOSYS | Errno::PERM) => Err(Errno::ACCESS),
        outcome => outcome,
    }
}

fn await_start(program: &Program, master: Option<OwnedFd>) -> Result<()> {
    let control = program.control.as_fd();
    match &program.launch.start {
        Start::AtOnce => {
            if master.is_some() {
                control::report(control, Message::Ready, master.as_ref());
            }
            Ok(())
        }
        Start::Control => {
            control::report(control, Message::Ready, master.as_ref());
            drop(master);
            control::await_go(control, Go::Start)
        }
        Start::Fifo { fifo, .. } => {
            control::report(control, Message::Ready, master.as_ref());
            drop(master);
            // A maker killed before it recorded us leaves a container nobody could ever end.
            control::await_go(control, Go::Recorded)?;
            let mut byte = [0_u8];
            loop {
                match atoll_sys::rustix::io::read(fifo, &mut byte) {
                    Err(Errno::INTR) => {}
                    outcome => return outcome.map(|_| ()),
                }
            }
        }
    }
}
