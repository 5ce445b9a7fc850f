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

/// Drops the program's code and constants from this process's memory; pages needed again are mapped
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
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let is_code = |map: &Mapping<'_>| map.flags == "r-xp" && (map.start..map.end).contains(&here);
    let Some(code) = mappings.iter().position(is_code) else {
        return Ok(());
    };
    // The linker puts constants in front of the code, from the file's start.
    let constants = mappings[..code].last().filter(|map| {
        map.flags == "r--p" && map.offset == "00000000" && map.end == mappings[code].start
    });
    for map in constants.into_iter().chain([&mappings[code]]) {
        // SAFETY: a whole mapping of this program's file that is private and not writable, and has
        // not been: code (`r-xp`), or the constants at the file's start, which have no relocations
        // (those that have are a mapping of their own, further on). So no page differs from the
        // file, and dropping them only makes the next access read the same bytes again.
        let outcome = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(map.start),
                map.end - map.start,
                libc::MADV_DONTNEED,
            )
        };
        if outcome != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The start of a line of proc_pid_maps(5).
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    flags: &'a str,
    offset: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        Some(Self {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            flags: words.next()?,
            offset: words.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read() {
        let line = "7f00-7fff r-xp 000d6000 fe:00 10264578   /usr/bin/x";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (0x7f00, 0x7fff));
        assert_eq!((mapping.flags, mapping.offset), ("r-xp", "000d6000"));
        assert_eq!(Mapping::parse("7f00 r-xp"), None);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let before = "constant".to_owned();
        release_code().unwrap();
        assert_eq!(before, "constant");
    }
}
