//! The child's side: signal handlers that never return, each exit from one being the entry of the next case.
//!
//! Nothing here allocates, locks, panics or uses thread-local storage: the child is a fork of a process with threads,
//! and FS belongs to the case.

use std::arch::asm;
use std::mem::{size_of, zeroed};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

use super::shared::{ENDLESS, SLOTS, Shared, Slot};
use crate::case::encode_changes;
use crate::layout::{CODE, DATA, DATA_LEN, FILL, PAGE, READ_ONLY};

/// The memory shared with the parent; set before the first case.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
/// The signal frame by which the next case is entered.
static FRAME: AtomicPtr<ucontext_t> = AtomicPtr::new(ptr::null_mut());

/// Bytes of the signal stack; AVX-512 state takes 2.7 KiB of it.
const STACK_BYTES: usize = 256 << 10;
/// Period of the clock that ends endless cases, in the child's own time.
const TICK_MICROSECONDS: i64 = 12_000;
const CODE_SELECTOR: i64 = 0x33;
const STACK_SELECTOR: i64 = 0x2B;

/// Where signal frames keep the registers, in the order in which instructions number them.
const ORDER: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Takes over the child process; ends only by a signal.
///
/// # Safety
/// Called in a fresh fork, on its only thread, with `shared` mapped as shared memory.
pub(super) unsafe fn child(shared: *mut Shared) -> ! {
    SHARED.store(shared, Ordering::Relaxed);
    // SAFETY: the caller vouches for a process that is ours alone: mappings at fixed addresses (which MAP_FIXED_NOREPLACE
    // refuses to put over others), signal handlers and the stack for them harm nobody; `shared` is mapped.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || !map_pages(&*shared) {
            libc::_exit(1);
        }
        let stack = map(0, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        let frame = map(0, PAGE, libc::PROT_READ | libc::PROT_WRITE);
        if stack.is_null() || frame.is_null() {
            libc::_exit(2);
        }
        let stack = libc::stack_t {
            ss_sp: stack,
            ss_flags: 0,
            ss_size: STACK_BYTES,
        };
        libc::sigaltstack(&raw const stack, ptr::null_mut());
        let frame = frame.cast::<ucontext_t>();
        (*frame).uc_stack = stack;
        FRAME.store(frame, Ordering::Relaxed);
        handle_signals();
        next(0)
    }
}

/// Maps the pages of [`crate::layout`] and fills those that stay.
///
/// # Safety
/// As [`child`].
unsafe fn map_pages(shared: &Shared) -> bool {
    let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
    // SAFETY: the caller vouches for the process; each copy fits the mapping made right before it.
    unsafe {
        let code = map(CODE, PAGE, read | write | libc::PROT_EXEC);
        let read_only = map(READ_ONLY, PAGE, read | write);
        let data = map(DATA, DATA_LEN, read | write);
        if code.is_null() || read_only.is_null() || data.is_null() {
            return false;
        }
        code.cast::<u8>().write_bytes(FILL, PAGE);
        read_only
            .cast::<u8>()
            .copy_from_nonoverlapping(shared.background.as_ptr(), PAGE);
        libc::mprotect(read_only, PAGE, read) == 0
    }
}

/// Maps fresh memory at `address`, anywhere if that is 0; null when refused.
///
/// # Safety
/// As [`child`].
unsafe fn map(address: u64, bytes: usize, protection: c_int) -> *mut c_void {
    let fixed = if address == 0 {
        0
    } else {
        libc::MAP_FIXED_NOREPLACE
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    // SAFETY: a fresh mapping, never over another.
    let got = unsafe { libc::mmap(address as *mut c_void, bytes, protection, flags, -1, 0) };
    if got == libc::MAP_FAILED || address != 0 && got as u64 != address {
        return ptr::null_mut();
    }
    got
}

/// Installs the handlers, and starts the clock.
///
/// # Safety
/// As [`child`].
unsafe fn handle_signals() {
    // SAFETY: sigaction and itimerval are plain data; handlers have the signature SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        libc::sigfillset(&raw mut action.sa_mask);
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        action.sa_sigaction = on_exception as *const () as usize;
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ] {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
        action.sa_sigaction = on_tick as *const () as usize;
        libc::sigaction(libc::SIGVTALRM, &raw const action, ptr::null_mut());
        let period = libc::timeval {
            tv_sec: 0,
            tv_usec: TICK_MICROSECONDS,
        };
        let timer = libc::itimerval {
            it_interval: period,
            it_value: period,
        };
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_VIRTUAL,
            &raw const timer,
            ptr::null::<c_void>(),
        );
        // A thread of the parent may have had signals blocked.
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// A case met an exception: its outcome is recorded, the next is entered.
extern "C" fn on_exception(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) -> ! {
    let (fs_base, gs_base) = leave_case();
    // SAFETY: the kernel passes a frame of our thread; SHARED was set before any case.
    unsafe {
        let context = &*context.cast::<ucontext_t>();
        let registers = &context.uc_mcontext.gregs;
        record(
            context,
            fs_base,
            gs_base,
            registers[libc::REG_TRAPNO as usize] as u32,
        )
    }
}

/// The clock ticked: a case that runs since the last tick is ended.
extern "C" fn on_tick(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    let (fs_base, gs_base) = leave_case();
    // SAFETY: as in `on_exception`.
    unsafe {
        let context = &*context.cast::<ucontext_t>();
        let shared = &*SHARED.load(Ordering::Relaxed);
        let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
        let serial = shared.serial.load(Ordering::Relaxed);
        if rip & !(PAGE as u64 - 1) == CODE {
            if shared.ticked.load(Ordering::Relaxed) == serial {
                record(context, fs_base, gs_base, ENDLESS);
            }
            shared.ticked.store(serial, Ordering::Relaxed);
        }
    }
}

/// Makes flags what code of ours expects, and reads the case's segment bases.
#[inline(always)]
fn leave_case() -> (u64, u64) {
    let (fs, gs): (u64, u64);
    // SAFETY: the handler runs on its own stack; `Native::new` made sure that the kernel lets user code read the bases.
    unsafe {
        asm!(
            "push 2", "popfq", "rdfsbase {fs}", "rdgsbase {gs}",
            fs = out(reg) fs, gs = out(reg) gs
        );
    }
    (fs, gs)
}

/// Records the outcome of the case that ran and goes on with the next.
///
/// # Safety
/// Called from a signal handler on the signal stack, with the frame it was given.
unsafe fn record(context: &ucontext_t, fs_base: u64, gs_base: u64, vector: u32) -> ! {
    let shared = SHARED.load(Ordering::Relaxed);
    // SAFETY: the parent doesn't touch slots until the batch is done; the index is below SLOTS; the kernel's frame holds
    // an FXSAVE image where fpregs points; the data area is mapped.
    unsafe {
        let index = (*shared).index.load(Ordering::Relaxed);
        let slot: &mut Slot = &mut (*shared).slots[index as usize % SLOTS];
        let registers = &context.uc_mcontext.gregs;
        for (to, from) in slot.registers.iter_mut().zip(ORDER) {
            *to = registers[from as usize] as u64;
        }
        slot.rip = registers[libc::REG_RIP as usize] as u64;
        slot.rflags = registers[libc::REG_EFL as usize] as u64;
        (slot.fs_base, slot.gs_base, slot.vector) = (fs_base, gs_base, vector);
        slot.error = match vector {
            8 | 10..=14 | 17 => registers[libc::REG_ERR as usize] as u64,
            _ => 0,
        };
        slot.address = match vector {
            14 => registers[libc::REG_CR2 as usize] as u64,
            _ => 0,
        };
        slot.fx
            .as_mut_ptr()
            .copy_from_nonoverlapping(context.uc_mcontext.fpregs.cast(), slot.fx.len());
        let data = std::slice::from_raw_parts(DATA as *const u8, DATA_LEN);
        slot.changes_len = encode_changes(&(*shared).initial, data, &mut slot.changes) as u32;
        next(index + 1)
    }
}

/// Enters case `index` of the batch; waits for the next batch when there is none.
///
/// # Safety
/// Called on the signal stack or before any case, with everything of [`child`] set up.
unsafe fn next(mut index: u32) -> ! {
    let shared = SHARED.load(Ordering::Relaxed);
    // SAFETY: `shared` is mapped; the parent leaves the slots to us once it asked; the frame is ours.
    unsafe {
        loop {
            let done = (*shared).done.load(Ordering::Relaxed);
            let asked = (*shared).asked.load(Ordering::Acquire);
            if asked == done {
                futex((&raw const (*shared).asked).cast(), libc::FUTEX_WAIT, asked);
                continue;
            }
            if index < (*shared).count.load(Ordering::Relaxed) {
                break;
            }
            // The parent may ask for the next batch right after this.
            index = 0;
            (*shared).done.store(asked, Ordering::Release);
            futex((&raw const (*shared).done).cast(), libc::FUTEX_WAKE, 1);
        }
        (*shared).serial.fetch_add(1, Ordering::Relaxed);
        (*shared).index.store(index, Ordering::Relaxed);
        let slot = &mut (*shared).slots[index as usize % SLOTS];
        set_memory(slot, &(*shared).background, &mut (*shared).initial);
        let frame = FRAME.load(Ordering::Relaxed);
        let registers = &mut (*frame).uc_mcontext.gregs;
        for (to, from) in ORDER.into_iter().zip(slot.registers) {
            registers[to as usize] = from as i64;
        }
        registers[libc::REG_RIP as usize] = slot.rip as i64;
        registers[libc::REG_EFL as usize] = (slot.rflags | 0x202) as i64;
        registers[libc::REG_CSGSFS as usize] = CODE_SELECTOR | STACK_SELECTOR << 48;
        (*frame).uc_mcontext.fpregs = slot.fx.as_mut_ptr().cast();
        enter(frame, slot.fs_base, slot.gs_base)
    }
}

/// Puts the case's code and data into their places.
///
/// # Safety
/// The pages of [`map_pages`] are mapped.
unsafe fn set_memory(
    slot: &Slot,
    background: &[u8; PAGE + DATA_LEN],
    initial: &mut [u8; DATA_LEN],
) {
    // SAFETY: lengths: the background ends with a whole data area; patches are cut to the area; `Case::is_valid` keeps
    // the code in its page.
    unsafe {
        initial
            .as_mut_ptr()
            .copy_from_nonoverlapping(background.as_ptr().add(PAGE), DATA_LEN);
        let mut patches = slot.patches.get(..slot.patches_len as usize).unwrap_or(&[]);
        while let Some((head, rest)) = patches.split_first_chunk::<4>() {
            let offset = usize::from(u16::from_le_bytes([head[0], head[1]])).min(DATA_LEN);
            let len = usize::from(u16::from_le_bytes([head[2], head[3]])).min(rest.len());
            let room = len.min(DATA_LEN - offset);
            initial
                .as_mut_ptr()
                .add(offset)
                .copy_from_nonoverlapping(rest.as_ptr(), room);
            patches = &rest[len..];
        }
        (DATA as *mut u8).copy_from_nonoverlapping(initial.as_ptr(), DATA_LEN);
        (CODE as *mut u8).write_bytes(FILL, PAGE);
        (CODE as *mut u8)
            .add(slot.code_offset as usize % PAGE)
            .copy_from_nonoverlapping(slot.code.as_ptr(), slot.code_len as usize);
    }
}

/// Leaves our code for the case's.
///
/// # Safety
/// `frame` is a whole signal frame; nothing on the present stack is needed any more.
unsafe fn enter(frame: *const ucontext_t, fs_base: u64, gs_base: u64) -> ! {
    // SAFETY: the kernel restores everything from the frame that RSP points to (arch/x86/kernel/signal_64.c); if it
    // cannot, it kills the process, which the parent reports.
    unsafe {
        asm!(
            "wrfsbase {fs}", "wrgsbase {gs}", "mov rsp, {frame}", "syscall", "ud2",
            fs = in(reg) fs_base, gs = in(reg) gs_base, frame = in(reg) frame,
            in("rax") libc::SYS_rt_sigreturn, options(noreturn)
        );
    }
}

/// `futex(2)` without libc, whose errno is thread-local.
///
/// # Safety
/// `word` is mapped.
unsafe fn futex(word: *const u32, operation: c_int, value: u32) {
    // SAFETY: the caller vouches for the word; FUTEX_WAIT and FUTEX_WAKE write no memory.
    unsafe {
        asm!(
            "syscall",
            inout("rax") libc::SYS_futex => _, in("rdi") word, in("rsi") operation, in("rdx") value,
            in("r10") 0, out("rcx") _, out("r11") _, options(nostack)
        );
    }
}

const _: () = assert!(size_of::<ucontext_t>() <= PAGE);
