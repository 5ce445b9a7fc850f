//! What code can do that has taken a monitor over: this program enters the jail and tries. Needs root.
//!
//! It is its own harness, because the jail is for processes of one thread: without arguments it starts itself once for
//! each case, with `try CASE` it enters the jail and makes the call.
#![expect(unsafe_code, reason = "system calls that no library offers to make")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that tells its outcome"
)]

use std::ffi::CStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use atoll_machine::devices::HostEnds;
use atoll_machine::jail::{self, Needs, Sharing};
use atoll_machine::{Jail, VmmConfig};
use atoll_sys::{capability, process};

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The process ends, and says why.
    Ends,
    /// This signal kills it.
    Dies(i32),
    /// It fails with this errno.
    Fails(i32),
    /// It succeeds.
    Succeeds,
}

use Fate::{Dies, Ends, Fails, Succeeds};

/// What the machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// The least.
    Plain,
    /// All there is.
    Full,
}

use Machine::{Full, Plain};

type Case = (&'static str, Machine, i64, [i64; 6], Fate);

const fn text(text: &'static CStr) -> *const std::ffi::c_char {
    text.as_ptr()
}

fn at(path: &'static CStr) -> i64 {
    text(path).expose_provenance() as i64
}

const HERE: i64 = libc::AT_FDCWD as i64;
const EXEC: i64 = libc::PROT_EXEC as i64;
const BOTH: i64 = (libc::PROT_READ | libc::PROT_WRITE) as i64;
const PRIVATE: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;
const FORK: i64 = libc::SIGCHLD as i64;
const UNIX: i64 = libc::AF_UNIX as i64;
const INTERNET: i64 = libc::AF_INET as i64;
const STREAM: i64 = libc::SOCK_STREAM as i64;

/// Every case, by name.
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let own = i64::from(std::process::id());
    let passwd = at(c"/etc/passwd");
    vec![
        ("a file is opened", Plain, libc::SYS_openat, [HERE, passwd, 0, 0, 0, 0], Fails(libc::EACCES)),
        ("a file is opened for a share", Full, libc::SYS_openat, [HERE, passwd, 0, 0, 0, 0], Fails(libc::ENOENT)),
        ("the root is left", Full, libc::SYS_openat, [HERE, at(c"/../../etc/passwd"), 0, 0, 0, 0], Fails(libc::ENOENT)),
        ("a folder is made", Plain, libc::SYS_mkdirat, [HERE, at(c"/x"), 0o700, 0, 0, 0], Ends),
        ("a folder is made for a share", Full, libc::SYS_mkdirat, [HERE, at(c"/x"), 0o700, 0, 0, 0], Fails(libc::EROFS)),
        ("a file is opened by handle", Full, libc::SYS_open_by_handle_at, [3, 0, 0, 0, 0, 0], Ends),
        ("a program is executed", Full, libc::SYS_execve, [at(c"/bin/true"), 0, 0, 0, 0, 0], Ends),
        ("a descriptor is executed", Full, libc::SYS_execveat, [3, at(c""), 0, 0, libc::AT_EMPTY_PATH.into(), 0], Ends),
        ("memory is mapped to be executed", Full, libc::SYS_mmap, [0, 4096, EXEC, PRIVATE, -1, 0], Ends),
        ("memory becomes executable", Full, libc::SYS_mprotect, [0, 4096, EXEC, 0, 0, 0], Ends),
        ("memory is mapped", Plain, libc::SYS_mmap, [0, 4096, BOTH, PRIVATE, -1, 0], Succeeds),
        ("the personality makes memory executable", Full, libc::SYS_personality, [0x040_0000, 0, 0, 0, 0, 0], Ends),
        ("a process is made", Full, libc::SYS_fork, [0; 6], Ends),
        ("a process is made by clone", Full, libc::SYS_clone, [FORK, 0, 0, 0, 0, 0], Ends),
        ("a process is made by clone3", Full, libc::SYS_clone3, [0; 6], Fails(libc::ENOSYS)),
        ("a namespace is made", Full, libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0], Ends),
        ("a namespace is entered", Full, libc::SYS_setns, [3, 0, 0, 0, 0, 0], Ends),
        ("something is mounted", Full, libc::SYS_mount, [0, at(c"/"), at(c"tmpfs"), 0, 0, 0], Ends),
        ("the root is changed", Full, libc::SYS_chroot, [at(c"/"), 0, 0, 0, 0, 0], Ends),
        ("the network is reached", Full, libc::SYS_socket, [INTERNET, STREAM, 0, 0, 0, 0], Ends),
        ("a socket is made", Plain, libc::SYS_socket, [UNIX, STREAM, 0, 0, 0, 0], Ends),
        ("a socket is made by a machine with sockets", Full, libc::SYS_socket, [UNIX, STREAM, 0, 0, 0, 0], Succeeds),
        ("a message is received", Plain, libc::SYS_recvmsg, [0; 6], Ends),
        ("a message is received by a machine with sockets", Full, libc::SYS_recvmsg, [-1, 0, 0, 0, 0, 0], Fails(libc::EBADF)),
        ("init gets a signal", Full, libc::SYS_kill, [1, 0, 0, 0, 0, 0], Ends),
        ("init gets a signal by tgkill", Full, libc::SYS_tgkill, [1, 1, 0, 0, 0, 0], Ends),
        ("we get a signal", Plain, libc::SYS_tgkill, [own, own, 0, 0, 0, 0], Succeeds),
        ("a process is traced", Full, libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), 1, 0, 0, 0, 0], Ends),
        ("a process is read", Full, libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0], Ends),
        ("a process is opened", Full, libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0], Ends),
        ("the user changes", Full, libc::SYS_setuid, [0; 6], Ends),
        ("capabilities come back", Full, libc::SYS_capset, [0; 6], Ends),
        ("keys are used", Full, libc::SYS_keyctl, [0; 6], Ends),
        ("a program is given to the kernel", Full, libc::SYS_bpf, [0; 6], Ends),
        ("calls are queued", Full, libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0], Ends),
        ("faults are handled", Full, libc::SYS_userfaultfd, [0; 6], Ends),
        ("events are counted", Full, libc::SYS_perf_event_open, [0; 6], Ends),
        ("a module is loaded", Full, libc::SYS_finit_module, [3, 0, 0, 0, 0, 0], Ends),
        ("another filter is installed", Full, libc::SYS_seccomp, [0; 6], Ends),
        ("we become dumpable", Full, libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0], Ends),
        ("forbidden calls are handled otherwise", Full, libc::SYS_rt_sigaction, [libc::SIGSYS.into(), 0, 0, 8, 0, 0], Ends),
        ("the terminal is typed on", Full, libc::SYS_ioctl, [0, libc::TIOCSTI as i64, at(c"x"), 0, 0, 0], Ends),
        ("a tap is taken", Full, libc::SYS_ioctl, [3, libc::TUNSETIFF as i64, 0, 0, 0, 0], Ends),
        ("a machine is made without KVM", Plain, libc::SYS_ioctl, [3, 0xAE01, 0, 0, 0, 0], Ends),
        ("a device of KVM's is made", Full, libc::SYS_ioctl, [3, 0xC00C_AEE0, 0, 0, 0, 0], Ends),
        ("a descriptor's owner is set", Full, libc::SYS_fcntl, [0, libc::F_SETOWN.into(), 1, 0, 0, 0], Ends),
        ("a call of x32 programs", Full, 0x4000_0000 + libc::SYS_getpid, [0; 6], Dies(libc::SIGSYS)),
    ]
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [word, case] if word == "try" => attempt(case),
        // A harness is asked for its tests.
        [word, ..] if word == "--list" => ExitCode::SUCCESS,
        _ => all(),
    }
}

/// Starts every case and compares what came of it.
fn all() -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let mut names: Vec<_> = cases().iter().map(|case| (case.0, case.4)).collect();
    for name in [
        "above",
        "logged",
        "threads",
        "no-namespaces",
        "thread",
        "panic",
    ] {
        names.push((name, Succeeds));
    }
    names.push(("abort", Dies(libc::SIGABRT)));
    let mut wrong = 0;
    for (name, fate) in &names {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["try", name])
            // What a panic looks for then is not there.
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let is_right = match fate {
            Ends => {
                output.status.code() == Some(1)
                    && stderr.contains("error: the monitor made the system call ")
                    && stdout == "trying\n"
            }
            Dies(signal) => output.status.signal() == Some(*signal) && stdout == "trying\n",
            Fails(errno) => stdout == format!("trying\nfails {errno}\n"),
            Succeeds => output.status.success() && stdout == "trying\nsucceeds\n",
        };
        if !is_right {
            wrong += 1;
            println!("not {fate:?}: {name}: {} {stdout}{stderr}", output.status);
        }
    }
    println!(
        "jail: {} of {} cases are right",
        names.len() - wrong,
        names.len()
    );
    ExitCode::from(u8::from(wrong > 0))
}

/// Enters the jail and makes the call of `name`.
fn attempt(name: &str) -> ExitCode {
    match name {
        "above" => return above(),
        "threads" => return with_two_threads(),
        "no-namespaces" => return without_namespaces(),
        _ => {}
    }
    let case = cases().into_iter().find(|case| case.0 == name);
    let machine = case.map_or(Full, |case| case.1);
    let mode = if name == "logged" {
        Jail::Log
    } else {
        Jail::On
    };
    jail::enter(mode, &needs(machine), &mut HostEnds::default()).unwrap();
    println!("trying");
    let outcome = match (name, case) {
        // Made although it is forbidden: there is nothing to execute.
        ("logged", _) => match call(libc::SYS_execve, [at(c"/bin/true"), 0, 0, 0, 0, 0]) {
            Err(libc::ENOENT) => Ok(()),
            other => other,
        },
        ("thread", _) => std::thread::spawn(|| call(libc::SYS_getpid, [0; 6]))
            .join()
            .unwrap(),
        ("panic", _) => match std::thread::spawn(|| panic!("on purpose")).join() {
            Err(_) => Ok(()),
            Ok(never) => never,
        },
        ("abort", _) => std::process::abort(),
        (_, Some((_, _, number, arguments, _))) => call(number, arguments),
        _ => panic!("no case {name}"),
    };
    tell(outcome)
}

fn tell(outcome: Result<(), i32>) -> ExitCode {
    match outcome {
        Ok(()) => println!("succeeds"),
        Err(errno) => println!("fails {errno}"),
    }
    ExitCode::SUCCESS
}

fn needs(machine: Machine) -> Needs {
    let is_full = machine == Full;
    Needs {
        parent: None,
        kvm: is_full,
        taps: is_full,
        sockets: is_full,
        sharing: if is_full {
            Sharing::Writing
        } else {
            Sharing::Nothing
        },
        control: is_full,
        descriptors: 64,
        file_bytes: None,
    }
}

fn call(number: i64, arguments: [i64; 6]) -> Result<(), i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are numbers, null or addresses of constant strings. The jail is to forbid what would harm
    // this process; else it is one that ends soon.
    let outcome = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if outcome == -1 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
    }
    Ok(())
}

/// Looks for files above the directories it was given.
fn above() -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("a/share")).unwrap();
    fs::write(folder.path().join("secret"), "").unwrap();
    let path = folder.path().join("a/share");
    let text = format!(
        r#"{{"kernel":"","kernel_store":"","command_line":"","memory_bytes":4096,"cpus":1,
            "shares":[{{"path":"{0}","tag":"t"}}],"sockets":{{"path":"{0}/v"}}}}"#,
        path.display()
    );
    let config: VmmConfig = serde_json::from_str(&text).unwrap();
    let mut ends = HostEnds::open(&config).unwrap();
    let seen_before = found_above();
    let needs = ends.needs(4096);
    jail::enter(Jail::On, &needs, &mut ends).unwrap();
    println!("trying");
    // The look before shows that the look is good for something.
    let outcome = match (seen_before, found_above()) {
        (true, false) => Ok(()),
        seen => {
            println!("{seen:?}");
            Err(0)
        }
    };
    drop(ends);
    tell(outcome)
}

/// Whether some descriptor leads to a file above its directory.
fn found_above() -> bool {
    let paths = [
        at(c"../../secret"),
        at(c"../../../../etc/passwd"),
        at(c"../../../../../../etc/passwd"),
    ];
    let descriptors = 3..64;
    descriptors
        .flat_map(|fd| {
            paths.map(|path| call(libc::SYS_openat, [fd, path, libc::O_PATH.into(), 0, 0, 0]))
        })
        .any(|outcome| outcome.is_ok())
}

fn with_two_threads() -> ExitCode {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    println!("trying");
    let outcome = jail::enter(Jail::On, &needs(Plain), &mut HostEnds::default());
    drop(sender);
    let _ = thread.join();
    let error = outcome.unwrap_err().to_string();
    assert_eq!(
        error,
        "the monitor cannot be shut in with more than one thread for its jail"
    );
    tell(Ok(()))
}

/// A host that refuses namespaces is told apart, with a hint; a filter can be had there.
fn without_namespaces() -> ExitCode {
    // ld [nr]; jeq unshare: EPERM; allow. But for threads, which the jail asks for first.
    let unshare = libc::SYS_unshare.to_le_bytes();
    let program = [
        [0x20, 0, 0, 0, 16, 0, 0, 0],
        [0x45, 0, 2, 0, 0, 0, 2, 0],
        [0x06, 0, 0, 0, 0, 0, 0xFF, 0x7F],
        [0x06, 0, 0, 0, 0, 0, 0xFF, 0x7F],
        [0x20, 0, 0, 0, 0, 0, 0, 0],
        [0x15, 0, 0, 1, unshare[0], unshare[1], 0, 0],
        [0x06, 0, 0, 0, 1, 0, 5, 0],
        [0x06, 0, 0, 0, 0, 0, 0xFF, 0x7F],
    ];
    capability::set_no_new_privs().unwrap();
    process::install_seccomp(&program, 0).unwrap();
    println!("trying");
    let error = jail::enter(Jail::On, &needs(Plain), &mut HostEnds::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the monitor cannot make namespaces for its jail"
    );
    assert!(error.hint().unwrap().contains("--jail filter"));
    jail::enter(Jail::Filter, &needs(Plain), &mut HostEnds::default()).unwrap();
    assert!(!Path::new("/etc/passwd").exists());
    tell(Ok(()))
}
