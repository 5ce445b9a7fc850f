//! The table of calls, made a seccomp filter.

use std::io;

use atoll_seccomp::{Action, Arch, ArgRule, Operator, Profile, SyscallRule, compile};
use atoll_sys::process::install_seccomp;

use super::calls::{ROWS, Row, Verdict, With};
use super::{Needs, failed};
use crate::error::MachineError;

/// Filters this thread and those it will start, for ever.
///
/// * `logs_only`: a forbidden call is written to the kernel's log and made.
pub(super) fn install(needs: &Needs, logs_only: bool) -> Result<(), MachineError> {
    let profile = profile(needs, std::process::id(), logs_only);
    let program = compile(&profile, Arch::X86_64).map_err(|why| MachineError::Jail {
        action: "compile its filter",
        source: io::Error::other(why),
    })?;
    install_seccomp(program.instructions(), program.flags())
        .map(drop)
        .map_err(failed("filter its system calls"))
}

fn profile(needs: &Needs, process: u32, logs_only: bool) -> Profile {
    let default_action = if logs_only { Action::Log } else { Action::Trap };
    let rows = ROWS.iter().filter(|row| (row.when)(needs));
    // A call that a row allows with some arguments may be refused by another with the rest: what is allowed comes first.
    let (allowed, refused): (Vec<&Row>, Vec<&Row>) =
        rows.partition(|row| row.verdict == Verdict::Allowed);
    let rows = allowed.into_iter().chain(refused);
    Profile {
        default_action,
        default_errno_ret: None,
        architectures: Vec::new(),
        flags: Vec::new(),
        listener_path: None,
        listener_metadata: None,
        syscalls: rows.flat_map(|row| rules(row, process)).collect(),
    }
}

/// One rule for each way a row's arguments may be.
fn rules(row: &Row, process: u32) -> Vec<SyscallRule> {
    let (action, errno_ret) = match row.verdict {
        Verdict::Allowed => (Action::Allow, None),
        Verdict::Refused(errno) => (Action::Errno, Some(errno)),
    };
    let ways = match row.verdict {
        Verdict::Allowed => ways(row.with, process),
        // Whatever the arguments; but a rule without any would win over those that allow some.
        Verdict::Refused(_) => vec![vec![argument(0, Operator::MaskedEqual, 0, 0)]],
    };
    let ways = ways.into_iter();
    ways.map(|args| SyscallRule {
        names: row.calls.iter().map(|name| (*name).to_owned()).collect(),
        action,
        errno_ret,
        args,
    })
    .collect()
}

fn ways(with: With, process: u32) -> Vec<Vec<ArgRule>> {
    let masked = |index, mask, value| argument(index, Operator::MaskedEqual, mask, value);
    let equal = |index, value| argument(index, Operator::Equal, value, 0);
    match with {
        With::Any => vec![Vec::new()],
        With::OneOf(index, values) => {
            let values = values.iter();
            values
                .map(|(_, value)| vec![equal(index, *value)])
                .collect()
        }
        With::OnOneOf(on, what, index, values) => {
            let values = values.iter();
            let ways = values.map(|(_, value)| vec![equal(on, what), equal(index, *value)]);
            ways.collect()
        }
        With::Without(index, bits) => vec![vec![masked(index, bits, 0)]],
        With::All(index, bits) => vec![vec![masked(index, bits, bits)]],
        With::Not(index, value) => vec![vec![argument(index, Operator::NotEqual, value, 0)]],
        With::Own(index) => vec![vec![equal(index, u64::from(process))]],
    }
}

fn argument(index: usize, op: Operator, value: u64, value_two: u64) -> ArgRule {
    ArgRule {
        index: index as u32,
        value,
        value_two,
        op,
    }
}

#[cfg(test)]
mod tests {
    use atoll_seccomp::syscall_number;

    use super::*;
    use crate::jail::Sharing;

    fn all() -> Needs {
        Needs {
            kvm: true,
            taps: true,
            sockets: true,
            sharing: Sharing::Writing,
            control: true,
            ..Needs::default()
        }
    }

    #[test]
    fn every_call_of_the_table_has_a_number() {
        let names = ROWS.iter().flat_map(|row| row.calls);
        for name in names {
            assert!(syscall_number(Arch::X86_64, name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_filter_compiles_and_is_one_the_kernel_takes() {
        for needs in [Needs::default(), all()] {
            for logs_only in [false, true] {
                let program = compile(&profile(&needs, 1, logs_only), Arch::X86_64).unwrap();
                assert!((100..2000).contains(&program.instructions().len()));
            }
        }
    }

    #[test]
    fn a_filter_grows_with_the_needs_only() {
        let allowed = |needs: &Needs, name: &str| {
            let rules = profile(needs, 1, false).syscalls.into_iter();
            let mut rules = rules.filter(|rule| rule.names.iter().any(|named| named == name));
            rules.any(|rule| rule.action == Action::Allow)
        };
        for name in [
            "socket",
            "connect",
            "openat",
            "openat2",
            "unlinkat",
            "timer_create",
            "accept4",
        ] {
            assert!(
                allowed(&all(), name) && !allowed(&Needs::default(), name),
                "{name}"
            );
        }
        for name in [
            "execve",
            "ptrace",
            "mount",
            "bpf",
            "kill",
            "setns",
            "unshare",
            "open_by_handle_at",
            "pidfd_getfd",
        ] {
            assert!(!allowed(&all(), name), "{name}");
        }
    }
}
