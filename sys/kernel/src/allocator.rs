//! The C library's allocator, told to stay small.

/// Asks malloc to use one arena, to give blocks of 64 KiB and more back to the kernel at once, and
/// to keep little room on top: for processes that live long and do little.
pub fn keep_small() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 64 << 10),
        (libc::M_TRIM_THRESHOLD, 64 << 10),
        (libc::M_TOP_PAD, 4 << 10),
    ] {
        // SAFETY: mallopt takes two numbers and may be called at any time; a value it refuses
        // changes nothing.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives free memory back to the kernel.
pub fn trim() {
    // SAFETY: malloc_trim only releases memory that nothing uses.
    unsafe { libc::malloc_trim(0) };
}
