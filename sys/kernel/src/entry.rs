//! The first instructions of `atoll-runtime`, before libc's: execute the program again from where it can't be written.
//!
//! [`self_exe::protect`](crate::self_exe::protect) does the same from `main`, with words for what fails. By then the
//! program has touched some forty pages and prepared signals, threads and arguments, all of which the second execution
//! does again: a tenth of what a container costs. So `xtask/src/linker.rs` makes [`atoll_start`] the entry point of
//! the static program, and `main` finds the work done. Whatever goes wrong here is left to it.

use std::arch::{asm, naked_asm};

use crate::mount::{Attributes, Change};

/// The entry point: [`execute_protected`], then libc's.
///
/// # Safety
/// For the kernel only, which enters it with the arguments' block at the stack pointer (System V ABI, AMD64 supplement,
/// "Process Initialization").
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atoll_start() -> ! {
    naked_asm!(
        // What libc's entry wants in rdx is kept in a register that calls leave alone.
        "mov rbx, rdx",
        "mov rdi, rsp",
        "call {execute}",
        "mov rdx, rbx",
        "jmp _start",
        execute = sym execute_protected,
    )
}

/// Executes this program from a detached read-only mount of its file, with the same arguments and environment; returns when
/// it runs from such a place already, or when that can't be done.
///
/// # Safety
/// `block` is the kernel's: the number of arguments, pointers to them, a null, pointers to the environment, a null. Nothing
/// of libc works yet, so neither a function of it nor thread-local memory may be used.
unsafe extern "C" fn execute_protected(block: *const usize) {
    let own = c"/proc/self/exe".as_ptr() as usize;
    let nothing = c"".as_ptr() as usize;
    let here = (libc::AT_FDCWD as isize).cast_unsigned();
    let mut link = 0u16;
    // The root of a mount that is nowhere reads "/".
    // SAFETY: a terminated string, and room for the two bytes asked for.
    let length = unsafe { call(libc::SYS_readlink, [own, &raw mut link as usize, 2, 0, 0]) };
    if length == 1 {
        return;
    }
    let flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
    // SAFETY: a terminated string.
    let mount = unsafe { call(libc::SYS_open_tree, [here, own, flags, 0, 0]) };
    let Ok(mount) = usize::try_from(mount) else {
        return;
    };
    let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
    let empty = libc::AT_EMPTY_PATH as usize;
    let attributes = &raw const read_only as usize;
    let size = size_of::<Change>();
    // SAFETY: a terminated string, and a structure of the size named.
    if unsafe {
        call(
            libc::SYS_mount_setattr,
            [mount, nothing, empty, attributes, size],
        )
    } == 0
    {
        // SAFETY: the caller vouches for the block: the arguments begin after their number, the environment behind their end.
        let (arguments, environment) = unsafe { (block.add(1), block.add(*block + 2)) };
        // SAFETY: both lists end with a null and are the kernel's own.
        unsafe {
            call(
                libc::SYS_execveat,
                [
                    mount,
                    nothing,
                    arguments as usize,
                    environment as usize,
                    empty,
                ],
            )
        };
    }
    // SAFETY: the descriptor is ours, and this is its only use from here on.
    unsafe { call(libc::SYS_close, [mount, 0, 0, 0, 0]) };
}

/// System call `number`; what the kernel gives back, errors below zero.
///
/// # Safety
/// That of the call.
#[inline(always)]
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> i64 {
    let [first, second, third, fourth, fifth] = arguments;
    let result: i64;
    // SAFETY: the caller vouches for the call; the kernel changes no registers but these.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
