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

/// Drops the program's code pages from this process's memory; the ones needed again are mapped
/// again from the page cache, by a minor fault each.
///
/// For a process that has done its work and now waits for hours: the code of its start would else
/// count as its own memory as long as it lives.
///
/// # Errors
/// When `/proc/self/maps` can't be read, or the kernel's.
pub fn release_code() -> std::io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let here = release_code as *const () as usize;
    let Some((start, end)) = maps.lines().find_map(|line| code_range(line, here)) else {
        return Ok(());
    };
    // SAFETY: start..end is a whole mapping of this program's file that is private, readable,
    // executable and not writable (`r-xp`, checked by `code_range`), so none of its pages differs
    // from the file, and dropping them only makes the next access read the same bytes again.
    let outcome = unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(start),
            end - start,
            libc::MADV_DONTNEED,
        )
    };
    if outcome != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Bounds of the mapping that a line of proc_pid_maps(5) describes, if it is unwritable private
/// code and has `address` in it.
fn code_range(line: &str, address: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let is_code = words.next()? == "r-xp";
    (is_code && (start..end).contains(&address)).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritable_code_with_the_address_is_meant() {
        let line = "7f00-7fff r-xp 000d6000 fe:00 10264578   /usr/bin/x";
        assert_eq!(code_range(line, 0x7f10), Some((0x7f00, 0x7fff)));
        assert_eq!(code_range(line, 0x7fff), None);
        assert_eq!(code_range("7f00-7fff rwxp 0 fe:00 1 /x", 0x7f10), None);
        assert_eq!(code_range("", 0), None);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        release_code().unwrap();
        assert_eq!(code_range("nothing", 1), None);
    }
}
