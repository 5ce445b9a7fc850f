//! When and where the calling task runs, and which memory it gets.
//!
//! Everything here is child-safe.

use crate::{Result, check};

/// Argument of sched_setattr(2), without utilization clamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SchedulerAttributes {
    /// Length of this structure; see [`Self::new`].
    size: u32,
    /// `SCHED_…`.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`, -20 to 19.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`, 1 to 99.
    pub priority: u32,
    /// For `SCHED_DEADLINE`: nanoseconds of work in a period.
    pub runtime_ns: u64,
    /// For `SCHED_DEADLINE`: nanoseconds until that work must be done.
    pub deadline_ns: u64,
    /// For `SCHED_DEADLINE`: length of a period in nanoseconds; 0 is the deadline's.
    pub period_ns: u64,
}

impl SchedulerAttributes {
    /// Attributes of `policy`, everything else 0.
    #[must_use]
    pub fn new(policy: u32) -> Self {
        Self {
            // The first version of the structure, 48 bytes, which every kernel takes.
            size: 48,
            policy,
            ..Self::default()
        }
    }
}

const _: () = assert!(size_of::<SchedulerAttributes>() == 48);

/// Sets the scheduling policy of the calling thread.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` for what needs it, `EINVAL` for values a policy doesn't have, `EBUSY` for a deadline
/// that can't be kept.
pub fn set_scheduler(attributes: &SchedulerAttributes) -> Result<()> {
    // SAFETY: the structure has sched_attr's first layout and says its own length; it outlives the call. 0 is the calling
    // thread, and no flags.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            0,
            std::ptr::from_ref(attributes),
            0,
        )
    })?;
    Ok(())
}

/// Most CPUs a set has room for, as the largest kernels have.
const MOST_CPUS: usize = 8192;

/// Numbers of CPUs or of memory nodes, as a bit mask the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumberSet {
    words: Vec<u64>,
}

impl NumberSet {
    /// Reads a list as cpuset(7) has it: `0-2,7`. `None` for anything else, for ranges that run backwards, and for numbers
    /// from 8192 on.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        let mut words = vec![0_u64; MOST_CPUS / 64];
        for part in list.split(',') {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<usize>()
                    .ok()
                    .filter(|number| plain && *number < MOST_CPUS)
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            for bit in first..=last {
                words[bit / 64] |= 1 << (bit % 64);
            }
        }
        let used = words.iter().rposition(|word| *word != 0)? + 1;
        words.truncate(used);
        Some(Self { words })
    }

    /// Every number there is room for.
    #[must_use]
    pub fn all() -> Self {
        Self {
            words: vec![u64::MAX; MOST_CPUS / 64],
        }
    }

    /// How many numbers there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The first 64 numbers as a mask.
    #[must_use]
    pub fn first_word(&self) -> u64 {
        self.words.first().copied().unwrap_or(0)
    }

    fn bits(&self) -> usize {
        self.words.len() * 64
    }
}

/// Pins the calling thread to `cpus`; those that don't exist are left out by the kernel.
///
/// # Errors
/// `EINVAL` when none of them exists or its cpuset allows none of them.
pub fn set_affinity(cpus: &NumberSet) -> Result<()> {
    // SAFETY: the pointer is to as many readable bytes as announced, which outlive the call; 0 is the calling thread.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            cpus.words.len() * 8,
            cpus.words.as_ptr(),
        )
    })?;
    Ok(())
}

/// Sets the memory policy of the calling thread and of what it executes.
///
/// * `mode`: `MPOL_…` with `MPOL_F_…` in it.
/// * `nodes`: empty for policies without.
///
/// # Errors
/// `EINVAL` for nodes the machine or the cpuset lacks, or a mode that doesn't go with them; `ENOSYS` without NUMA support.
pub fn set_memory_policy(mode: i32, nodes: &NumberSet) -> Result<()> {
    let mask = if nodes.words.is_empty() {
        std::ptr::null()
    } else {
        nodes.words.as_ptr()
    };
    // The kernel reads one bit less than announced (get_nodes in mm/mempolicy.c).
    let bits = if nodes.words.is_empty() {
        0
    } else {
        nodes.bits() + 1
    };
    // SAFETY: the mask is null, or readable for the whole words that `bits - 1` bits take; it outlives the call.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::process::{Cloned, Exit, clone_process, exit_now, wait};

    fn in_child(body: impl FnOnce() -> Result<bool>) -> bool {
        // SAFETY: the bodies below only make system calls.
        match unsafe { clone_process(0, None) }.unwrap() {
            Cloned::Child => exit_now(i32::from(body() != Ok(true))),
            Cloned::Parent { pidfd, .. } => wait(pidfd.as_fd()).unwrap() == Exit::Code(0),
        }
    }

    #[test]
    fn lists_are_read() {
        let words = |list: &str| NumberSet::parse(list).map(|set| set.words);
        assert_eq!(words("0-2,5"), Some(vec![0b10_0111]));
        assert_eq!(words("64"), Some(vec![0, 1]));
        for wrong in ["", "a", "1-", "-1", "3-2", "8192", "0,,1", "+1", "0-9999"] {
            assert_eq!(words(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_task_is_pinned_and_its_policy_set() {
        let first = NumberSet::parse("0").unwrap();
        let none = NumberSet::parse("8000").unwrap();
        let batch = SchedulerAttributes {
            nice: 5,
            ..SchedulerAttributes::new(3)
        };
        assert!(in_child(|| {
            set_affinity(&first)?;
            set_scheduler(&batch)?;
            let refused = set_affinity(&none) == Err(crate::Errno::INVAL);
            // SAFETY: sched_getscheduler takes a number; 0 is the caller.
            let policy = unsafe { libc::sched_getscheduler(0) };
            Ok(refused && policy == 3)
        }));
    }

    #[test]
    fn memory_comes_from_the_nodes_named() {
        let first = NumberSet::parse("0").unwrap();
        let none = NumberSet::default();
        let absent = NumberSet::parse("900").unwrap();
        assert!(in_child(|| {
            match set_memory_policy(2, &first) {
                // A kernel without NUMA has no policies.
                Err(crate::Errno::NOSYS) => return Ok(true),
                outcome => outcome?,
            }
            set_memory_policy(0, &none)?;
            Ok(set_memory_policy(2, &absent) == Err(crate::Errno::INVAL))
        }));
    }
}
