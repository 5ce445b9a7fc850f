//! What a process says when it makes a system call that its seccomp filter traps.

use std::sync::OnceLock;

use crate::inside::{DIGITS, decimal};
use crate::{Result, check};

/// System calls by name; numbers as the kernel counts them.
type Names = &'static [(&'static str, u16)];

/// What the handler knows, set before it can be called.
static STORY: OnceLock<(&'static str, Names)> = OnceLock::new();

/// The longest line written.
const LINE: usize = 256;

/// The part of `siginfo_t` that belongs to SIGSYS (signal.h; `_sigsys`).
#[repr(C)]
struct Siginfo {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    address: usize,
    call: i32,
    architecture: u32,
}

/// From now on a system call that a filter traps (`SECCOMP_RET_TRAP`) ends the process with exit code 1 and, on the
/// standard error, `error: the WHO made the system call NAME (NUMBER), which its jail forbids`.
///
/// The call is not made. Threads must not block SIGSYS: the kernel kills the process without a word then.
///
/// * `who`: the subject of that sentence.
/// * `names`: the calls by name, sorted or not.
///
/// # Errors
/// The kernel's.
pub fn end_on_forbidden_call(who: &'static str, names: Names) -> Result<()> {
    // The first story stands: a handler may be reading it.
    STORY.get_or_init(|| (who, names));
    // SAFETY: all-zero is a valid sigaction: no handler, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = (forbidden as extern "C" fn(_, _, _)) as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is initialised and outlives the call; the handler has the signature of SA_SIGINFO and calls only
    // what is async-signal-safe (write, _exit).
    let outcome = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    check(outcome.into())?;
    Ok(())
}

extern "C" fn forbidden(_: libc::c_int, info: *const Siginfo, _: *const libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t, of which Siginfo is the beginning as SIGSYS fills it in.
    let call = unsafe { (*info).call };
    let mut line = Line::default();
    if let Some((who, names)) = STORY.get() {
        line.tell(who, names, call);
    }
    let text = &line.bytes[..line.len];
    // SAFETY: `text` is readable for its length; what cannot be written is lost.
    let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(1) }
}

/// Text without an allocator.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; LINE],
            len: 0,
        }
    }
}

impl Line {
    fn tell(&mut self, who: &str, names: Names, call: i32) {
        let named = names.iter().find(|(_, number)| i32::from(*number) == call);
        self.push(b"error: the ");
        self.push(who.as_bytes());
        self.push(b" made the system call ");
        if let Some((name, _)) = named {
            self.push(name.as_bytes());
            self.push(b" (");
        }
        let mut digits = [0; DIGITS];
        self.push(decimal(call.unsigned_abs(), &mut digits));
        if named.is_some() {
            self.push(b")");
        }
        self.push(b", which its jail forbids\r\n");
    }

    /// What does not fit is left out.
    fn push(&mut self, text: &[u8]) {
        for (slot, byte) in self.bytes[self.len..].iter_mut().zip(text) {
            *slot = *byte;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_name_and_number() {
        let told = |call| {
            let mut line = Line::default();
            line.tell("monitor", &[("read", 0), ("openat", 257)], call);
            String::from_utf8(line.bytes[..line.len].to_vec()).unwrap()
        };
        let by_name =
            "error: the monitor made the system call openat (257), which its jail forbids\r\n";
        assert_eq!(told(257), by_name);
        let by_number = "error: the monitor made the system call 4000, which its jail forbids\r\n";
        assert_eq!(told(4000), by_number);
    }

    #[test]
    fn a_line_too_long_is_cut() {
        let mut line = Line::default();
        line.push(&[b'x'; 2 * LINE]);
        line.push(b"7");
        assert_eq!(line.len, LINE);
    }

    #[test]
    fn the_handlers_view_is_the_kernels() {
        assert_eq!(std::mem::offset_of!(Siginfo, call), 24);
        assert_eq!(std::mem::offset_of!(Siginfo, architecture), 28);
    }
}
