//! Surviving floating-point exceptions: the handler goes on where R15 says and sets R14.

use std::sync::Once;

/// Installs the handler, once.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the action is complete, and the handler touches nothing but its own context.
        let result =
            unsafe { libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0);
    });
}

extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel gives the handler a valid context of its own.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    registers[libc::REG_RIP as usize] = registers[libc::REG_R15 as usize];
    registers[libc::REG_R14 as usize] = 1;
}
