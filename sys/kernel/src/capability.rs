//! Capability sets, securebits, no_new_privs.

use std::ffi::c_ulong;

use crate::{Errno, Result, check};

/// Names by number, as capabilities(7) has them.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The number of `CAP_CHOWN`.
pub const CHOWN: u32 = 0;
/// The number of `CAP_DAC_OVERRIDE`.
pub const DAC_OVERRIDE: u32 = 1;
/// The number of `CAP_DAC_READ_SEARCH`.
pub const DAC_READ_SEARCH: u32 = 2;
/// The number of `CAP_FOWNER`.
pub const FOWNER: u32 = 3;
/// The number of `CAP_FSETID`.
pub const FSETID: u32 = 4;
/// The number of `CAP_SETGID`.
pub const SETGID: u32 = 6;
/// The number of `CAP_SETUID`.
pub const SETUID: u32 = 7;
/// The number of `CAP_SETPCAP`.
pub const SETPCAP: u32 = 8;
/// The number of `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: u32 = 21;
/// The number of `CAP_SYS_RESOURCE`.
pub const SYS_RESOURCE: u32 = 24;

/// The number of a capability by its name, in any case, with or without `CAP_`.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let bare = match name.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &name[4..],
        _ => name,
    };
    let mut known = NAMES.iter().map(|known| &known[4..]);
    let position = known.position(|known| known.eq_ignore_ascii_case(bare))?;
    u32::try_from(position).ok()
}

/// A set of capabilities, bit `n` for capability `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Set(pub u64);

impl Set {
    /// The set holding capability `number` (below 64).
    #[must_use]
    pub fn of(number: u32) -> Self {
        Self(1 << number)
    }

    /// Whether capability `number` (below 64) is in the set.
    #[must_use]
    pub fn holds(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }

    /// The union.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The intersection.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Names of the capabilities in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        (0_u32..)
            .zip(NAMES)
            .filter(move |(number, _)| self.holds(*number))
            .map(|(_, name)| name)
    }
}

/// The three sets of capget(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// What is checked.
    pub effective: Set,
    /// What may be made effective.
    pub permitted: Set,
    /// What survives execve(2) of a file with capabilities.
    pub inheritable: Set,
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The calling thread's sets. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn current() -> Result<Sets> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: `header` and the two halves have the layout of version 3; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) })?;
    let join = |field: fn(&Half) -> u32| {
        Set(u64::from(field(&halves[0])) | u64::from(field(&halves[1])) << 32)
    };
    Ok(Sets {
        effective: join(|half| half.effective),
        permitted: join(|half| half.permitted),
        inheritable: join(|half| half.inheritable),
    })
}

/// Sets the calling thread's sets. Child-safe.
///
/// # Errors
/// `EPERM` for capabilities the thread doesn't have.
pub fn set(sets: Sets) -> Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let split = |shift: u32| {
        let bits = |set: Set| u32::try_from((set.0 >> shift) & u64::from(u32::MAX)).unwrap_or(0);
        Half {
            effective: bits(sets.effective),
            permitted: bits(sets.permitted),
            inheritable: bits(sets.inheritable),
        }
    };
    let halves = [split(0), split(32)];
    // SAFETY: `header` and the two halves have the layout of version 3; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) })?;
    Ok(())
}

/// Drops every capability outside `kept` from the thread's bounding set. Child-safe.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn keep_bounding(kept: Set) -> Result<()> {
    for number in 0..64 {
        if kept.holds(number) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number.into(), 0) {
            // Beyond the kernel's last capability.
            Err(Errno::INVAL) => break,
            outcome => outcome?,
        }
    }
    Ok(())
}

/// The calling thread's bounding set.
#[must_use]
pub fn bounding() -> Set {
    let mut set = Set::default();
    for number in 0..64_u32 {
        // SAFETY: PR_CAPBSET_READ takes a number and no pointers.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, c_ulong::from(number), 0, 0, 0) } {
            1 => set = set.with(Set::of(number)),
            0 => {}
            _ => break,
        }
    }
    set
}

/// Replaces the ambient set by `set`; capabilities the thread lacks are left out. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn set_ambient(set: Set) -> Result<()> {
    const RAISE: c_ulong = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
    const CLEAR: c_ulong = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
    prctl(libc::PR_CAP_AMBIENT, CLEAR, 0)?;
    for number in 0..64_u32 {
        if set.holds(number) {
            match prctl(libc::PR_CAP_AMBIENT, RAISE, number.into()) {
                Err(Errno::PERM) => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

/// Keeps the permitted set when all uids become non-zero; execve(2) ends it. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn keep_on_uid_change() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)
}

/// Sets no_new_privs for the thread, for ever. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

fn prctl(operation: libc::c_int, first: c_ulong, second: c_ulong) -> Result<()> {
    // SAFETY: the operations used here take numbers and no pointers.
    check(unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::c_long::from(operation),
            first,
            second,
            0_u64,
            0_u64,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(number("CAP_SYS_ADMIN"), Some(SYS_ADMIN));
        assert_eq!(number("sys_resource"), Some(SYS_RESOURCE));
        assert_eq!(number("CAP_NOSUCH"), None);
        assert_eq!(
            Set(0b101).names().collect::<Vec<_>>(),
            ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]
        );
    }

    #[test]
    fn sets_round_trip() {
        let sets = current().unwrap();
        set(sets).unwrap();
        assert_eq!(current().unwrap(), sets);
        assert_eq!(bounding().within(sets.permitted), sets.permitted);
    }
}
