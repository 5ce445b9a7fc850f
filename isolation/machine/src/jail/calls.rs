//! The system calls of a monitor: a table (excepted from the file length limit).
//!
//! To allow one more, put it where its reason stands, with the narrowest arguments that do. What is in no row ends the
//! process.

use super::{Needs, Sharing};

/// Which arguments a row's calls may have.
#[derive(Clone, Copy, Debug)]
pub(super) enum With {
    /// Any.
    Any,
    /// Argument `.0` is one of `.1`.
    OneOf(usize, &'static [(&'static str, u64)]),
    /// Argument `.0` has none of the bits `.1`.
    Without(usize, u64),
    /// Argument `.0` has all of the bits `.1`.
    All(usize, u64),
    /// Argument `.0` is not `.1`.
    Not(usize, u64),
    /// Argument `.0` is `.1`, argument `.2` one of `.3`.
    OnOneOf(usize, u64, usize, &'static [(&'static str, u64)]),
    /// Argument `.0` is this process.
    Own(usize),
}

/// What happens to a row's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are made.
    Allowed,
    /// They fail with this errno, and the process goes on: libraries try them and do without.
    Refused(u32),
}

use Verdict::{Allowed, Refused};
use With::{All, Any, Not, OnOneOf, OneOf, Own, Without};

/// Calls that are there for one reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Whether this machine needs them.
    pub(super) when: fn(&Needs) -> bool,
    pub(super) calls: &'static [&'static str],
    pub(super) with: With,
    pub(super) verdict: Verdict,
}

const EACCES: u32 = 13;
const ENOSYS: u32 = 38;
const PROT_EXEC: u64 = 4;
const AT_EMPTY_PATH: u64 = 0x1000;
const SIGSYS: u64 = 31;
const AF_UNIX: u64 = 1;

/// The flags glibc makes a thread with (nptl, pthread_create): all memory, files and signals shared, no namespace.
const THREAD: u64 = 0x003D_0F00;

const fn always(_: &Needs) -> bool {
    true
}
const fn kvm(needs: &Needs) -> bool {
    needs.kvm
}
const fn taps(needs: &Needs) -> bool {
    needs.taps
}
const fn sockets(needs: &Needs) -> bool {
    needs.sockets
}
const fn control(needs: &Needs) -> bool {
    needs.control
}
const fn streams(needs: &Needs) -> bool {
    needs.sockets || needs.control
}
const fn shares(needs: &Needs) -> bool {
    !matches!(needs.sharing, Sharing::Nothing)
}
const fn writes(needs: &Needs) -> bool {
    matches!(needs.sharing, Sharing::Writing)
}
const fn opens(needs: &Needs) -> bool {
    shares(needs) || control(needs)
}
const fn opens_nothing(needs: &Needs) -> bool {
    !opens(needs)
}

const fn row(calls: &'static [&'static str]) -> Row {
    Row {
        when: always,
        calls,
        with: Any,
        verdict: Allowed,
    }
}

impl Row {
    const fn when(mut self, when: fn(&Needs) -> bool) -> Self {
        self.when = when;
        self
    }

    const fn with(mut self, with: With) -> Self {
        self.with = with;
        self
    }

    const fn refused(mut self, errno: u32) -> Self {
        self.verdict = Refused(errno);
        self
    }
}

/// The table, each row below its reason. A call may stand in several rows: one that allows it is enough.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // Disks, consoles, taps: bytes, at a place or in a stream.
    row(&[
        "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
    ]),
    // Disks: length, writing out, punching holes.
    row(&["lseek", "fsync", "fdatasync", "fallocate", "ftruncate"]),
    // What a descriptor refers to.
    row(&["fstat"]),
    // The same, as glibc and std ask.
    row(&["newfstatat"]).with(All(3, AT_EMPTY_PATH)),
    row(&["statx"]).with(All(2, AT_EMPTY_PATH)),
    // Descriptors.
    row(&["close"]),
    // Descriptors: duplicates for the next boot, flags; seals of the guest's memory.
    row(&["fcntl"]).with(OneOf(1, &[
        ("F_GETFD", 1), ("F_SETFD", 2), ("F_GETFL", 3), ("F_SETFL", 4), ("F_DUPFD_CLOEXEC", 1030), ("F_ADD_SEALS", 1033),
        ("F_GET_SEALS", 1034),
    ])),
    // Host ends: waiting.
    row(&[
        "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2",
    ]),
    // The guest's memory.
    row(&["memfd_create"]),
    // Memory that is not executed: the interpreter translates nothing.
    row(&["mmap", "mprotect"])
        .with(Without(2, PROT_EXEC)),
    // Memory.
    row(&["munmap", "mremap", "madvise", "brk"]),
    // Threads of a boot: CPUs, console, devices.
    row(&["clone"]).with(OneOf(0, &[("a thread", THREAD)])),
    // Flags behind a pointer cannot be looked at; glibc takes clone then.
    row(&["clone3"]).refused(ENOSYS),
    // Threads: their start, names and end.
    row(&[
        "rseq", "set_robust_list", "gettid", "sched_yield", "sched_getaffinity", "sigaltstack", "exit", "exit_group",
    ]),
    // Threads: names.
    row(&["prctl"]).with(OneOf(0, &[("PR_SET_NAME", 15)])),
    // Threads: locks.
    row(&["futex"]),
    // Time.
    row(&["clock_gettime", "clock_getres", "gettimeofday", "time", "nanosleep", "clock_nanosleep"]),
    // An interrupted sleep or wait goes on.
    row(&["restart_syscall"]),
    // Signals: masks, return from a handler.
    row(&["rt_sigprocmask", "rt_sigreturn"]),
    // Signals: handlers, but for the one of forbidden calls.
    row(&["rt_sigaction"]).with(Not(0, SIGSYS)),
    // Signals: this process aborts, and stops its CPUs.
    row(&["tgkill"]).with(Own(0)),
    // Signals: who that is.
    row(&["getpid"]),
    // Entropy for the guest and for hash tables.
    row(&["getrandom"]),
    // The termination signals' pipe.
    row(&["recvfrom", "sendto"]),
    // The terminal at the standard input: raw mode, and back.
    row(&["ioctl"]).with(OnOneOf(0, 0, 1, &[
        ("TCGETS", 0x5401), ("TCSETS", 0x5402), ("TCSETSW", 0x5403), ("TCSETSF", 0x5404), ("TIOCGWINSZ", 0x5413),
        ("TCGETS2", 0x802C_542A), ("TCSETS2", 0x402C_542B), ("TCSETSW2", 0x402C_542C), ("TCSETSF2", 0x402C_542D),
    ])),

    // KVM: the machine and its CPUs, those called often first.
    row(&["ioctl"]).when(kvm).with(OneOf(1, KVM)),
    // KVM: the timer that looks after each CPU.
    row(&["timer_create", "timer_settime", "timer_delete"]).when(kvm),

    // Network cards: what the guest takes unfinished.
    row(&["ioctl"]).when(taps)
        .with(OneOf(1, &[("TUNSETOFFLOAD", 0x4004_54D0)])),

    // Sockets: to the host's, in their folder.
    row(&["socket"]).when(sockets).with(OneOf(0, &[("AF_UNIX", AF_UNIX)])),
    row(&["connect"]).when(sockets),
    // Sockets and control: the listener's name goes with the machine.
    row(&["unlink"]).when(streams),
    // Sockets and control: from the host.
    row(&["accept4"]).when(streams),
    // Sockets and control: bytes.
    row(&["recvmsg", "sendmsg", "shutdown", "getsockopt"]).when(streams),
    // Sockets and control: not blocking.
    row(&["ioctl"]).when(streams).with(OneOf(1, &[("FIONBIO", 0x5421)])),

    // Shares: files beneath a share's descriptor.
    row(&["openat2"]).when(shares),
    // Shares: files by descriptor; control: files in a folder it was given.
    row(&["openat"]).when(opens),
    // Shares: files.
    row(&[
        "newfstatat", "statx", "readlinkat", "getdents64", "fstatfs", "fgetxattr", "flistxattr", "faccessat", "faccessat2",
    ]).when(shares),
    // Shares that are changed.
    row(&[
        "mkdirat", "mknodat", "symlinkat", "linkat", "unlinkat", "renameat", "renameat2", "fchmod", "fchmodat", "fchown",
        "fchownat", "utimensat", "fsetxattr", "fremovexattr",
    ]).when(writes),
    // Control: a saved machine replaces the one before, and appears whole.
    row(&["unlinkat", "renameat", "renameat2"]).when(control),

    // Glibc and panics look for files that are not here.
    row(&[
        "open", "openat", "access", "stat", "lstat", "newfstatat", "statx", "readlink", "readlinkat", "getcwd",
    ]).when(opens_nothing).refused(EACCES),
    row(&["open", "access", "stat", "lstat", "readlink", "getcwd"])
        .when(opens).refused(EACCES),
    // Glibc sizes its heaps.
    row(&["sysinfo", "prlimit64", "getrlimit"]).refused(EACCES),
];

/// Requests of linux/kvm.h: what cpu/kvm makes, at boot, while it runs, and to save and restore. No device of the
/// kernel's is made or assigned.
#[rustfmt::skip]
const KVM: &[(&str, u64)] = &[
    ("KVM_RUN", 0xAE80),
    ("KVM_SIGNAL_MSI", 0x4020_AEA5),
    ("KVM_NMI", 0xAE9A),
    ("KVM_GET_REGS", 0x8090_AE81), ("KVM_SET_REGS", 0x4090_AE82),
    ("KVM_GET_SREGS", 0x8138_AE83), ("KVM_SET_SREGS", 0x4138_AE84),
    ("KVM_GET_MSRS", 0xC008_AE88), ("KVM_SET_MSRS", 0x4008_AE89),
    ("KVM_GET_LAPIC", 0x8400_AE8E), ("KVM_SET_LAPIC", 0x4400_AE8F),
    ("KVM_GET_XSAVE", 0x9000_AEA4), ("KVM_SET_XSAVE", 0x5000_AEA5),
    ("KVM_GET_XCRS", 0x8188_AEA6), ("KVM_SET_XCRS", 0x4188_AEA7),
    ("KVM_GET_DEBUGREGS", 0x8080_AEA1), ("KVM_SET_DEBUGREGS", 0x4080_AEA2),
    ("KVM_GET_VCPU_EVENTS", 0x8040_AE9F), ("KVM_SET_VCPU_EVENTS", 0x4040_AEA0),
    ("KVM_GET_MP_STATE", 0x8004_AE98), ("KVM_SET_MP_STATE", 0x4004_AE99),
    ("KVM_SET_CPUID2", 0x4008_AE90),
    ("KVM_GET_TSC_KHZ", 0xAEA3), ("KVM_SET_TSC_KHZ", 0xAEA2),
    ("KVM_KVMCLOCK_CTRL", 0xAEAD),
    ("KVM_GET_CLOCK", 0x8030_AE7C), ("KVM_SET_CLOCK", 0x4030_AE7B),
    // Of a CPU, its TSC's offset: there are no other devices here.
    ("KVM_GET_DEVICE_ATTR", 0x4018_AEE2), ("KVM_SET_DEVICE_ATTR", 0x4018_AEE1),
    ("KVM_SET_GSI_ROUTING", 0x4008_AE6A), ("KVM_IRQFD", 0x4020_AE76), ("KVM_IOEVENTFD", 0x4040_AE79),
    ("KVM_GET_DIRTY_LOG", 0x4010_AE42),
    ("KVM_CREATE_VM", 0xAE01), ("KVM_CREATE_VCPU", 0xAE41), ("KVM_SET_USER_MEMORY_REGION", 0x4020_AE46),
    ("KVM_SET_TSS_ADDR", 0xAE47), ("KVM_SET_IDENTITY_MAP_ADDR", 0x4008_AE48), ("KVM_ENABLE_CAP", 0x4068_AEA3),
    ("KVM_CHECK_EXTENSION", 0xAE03), ("KVM_GET_VCPU_MMAP_SIZE", 0xAE04), ("KVM_GET_SUPPORTED_CPUID", 0xC008_AE05),
    ("KVM_GET_MSR_INDEX_LIST", 0xC004_AE02),
];
