//! Seccomp profiles compiled to classic BPF.
//!
//! ```text
//! OCI linux.seccomp (JSON) ─▶ Profile ─┐
//! docker_default(caps, kernel) ────────┴▶ compile() ─▶ Program: raw instructions + flags
//! ```
//!
//! Pure: nothing is installed and no file read. The program can be kept and used again; it depends
//! only on the profile. What it decides equals what runc does with libseccomp for the same profile,
//! including `ENOSYS` for calls newer than the profile; it is a search tree over ranges of numbers,
//! so it is short (Docker's default with three architectures: about 500 instructions) and decides
//! in about eight comparisons.

#![forbid(unsafe_code)]

mod argument;
mod compile;
mod default_profile;
mod error;
mod numbers;
mod profile;
mod tree;

#[cfg(test)]
mod oracle;

pub use compile::{Program, compile};
pub use default_profile::docker_default;
pub use error::Error;
pub use profile::{Action, Arch, ArgRule, Flag, Operator, Profile, SyscallRule};

/// Number of the system call `name` on `arch`; `None` when it has none there.
///
/// Numbers of [`Arch::X32`] include the x32 bit, `0x4000_0000`. Architectures that x86 machines
/// don't run have no numbers here.
pub fn syscall_number(arch: Arch, name: &str) -> Option<u32> {
    let find = |table: &[(&str, u16)]| {
        table
            .binary_search_by(|(known, _)| (*known).cmp(name))
            .ok()
            .map(|at| u32::from(table[at].1))
    };
    match arch {
        Arch::X86_64 => find(&numbers::X86_64),
        Arch::X86 => find(&numbers::X86),
        Arch::X32 if numbers::NOT_IN_X32.binary_search(&name).is_ok() => None,
        Arch::X32 => find(&numbers::X32_ONLY)
            .or_else(|| find(&numbers::X86_64))
            .map(|number| number | compile::X32_BIT),
        _ => None,
    }
}

/// The system calls of x86-64 by name, with their numbers, sorted by name.
pub fn syscall_names() -> &'static [(&'static str, u16)] {
    &numbers::X86_64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        for table in [
            &numbers::X86_64[..],
            &numbers::X86[..],
            &numbers::X32_ONLY[..],
        ] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
        assert!(numbers::NOT_IN_X32.is_sorted());
    }

    #[test]
    fn known_numbers() {
        for (arch, name, number) in [
            (Arch::X86_64, "read", Some(0)),
            (Arch::X86_64, "clone3", Some(435)),
            (Arch::X86_64, "file_setattr", Some(469)),
            (Arch::X86_64, "socketcall", None),
            (Arch::X86, "socketcall", Some(102)),
            (Arch::X86, "umount", Some(22)),
            (Arch::X32, "read", Some(0x4000_0000)),
            (Arch::X32, "execve", Some(0x4000_0208)),
            (Arch::X32, "uselib", None),
            (Arch::Aarch64, "read", None),
        ] {
            assert_eq!(syscall_number(arch, name), number, "{name}");
        }
    }
}
