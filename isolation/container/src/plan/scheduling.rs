//! When and where a process runs, and which memory it gets.
//!
//! Spec: OCI runtime-spec 1.3, config.md#linux-process and config-linux.md#memory-policy.

use atoll_spec::{CpuAffinity, IoPriority, MemoryPolicy, Scheduler, Spec};
use atoll_sys::scheduling::{NumberSet, SchedulerAttributes};

use super::fault;
use crate::error::Result;

/// CPUs of a process run by `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AffinityPlan {
    /// Before it joins the container's cgroup.
    pub initial: Option<NumberSet>,
    /// Once it is there.
    pub last: Option<NumberSet>,
}

/// Arguments of set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicyPlan {
    /// `MPOL_…` with `MPOL_F_…` in it.
    pub mode: i32,
    /// Nodes; empty for policies without.
    pub nodes: NumberSet,
}

/// Words of the specification and the kernel's numbers.
type Words<T> = [(&'static str, T)];

const POLICIES: &Words<u32> = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHEDULER_FLAGS: &Words<u64> = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: &Words<i32> = &[
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

const MEMORY_MODES: &Words<i32> = &[
    ("MPOL_BIND", 2),
    ("MPOL_DEFAULT", 0),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED", 1),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

const MEMORY_FLAGS: &Words<i32> = &[
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// Every memory policy mode and flag understood, for `features`.
#[must_use]
pub fn known_memory_policies() -> (Vec<String>, Vec<String>) {
    let words = |list: &Words<i32>| list.iter().map(|(word, _)| (*word).to_owned()).collect();
    (words(MEMORY_MODES), words(MEMORY_FLAGS))
}

fn number<T: Copy>(list: &Words<T>, field: &str, word: &str) -> Result<T> {
    match list.iter().find(|(known, _)| *known == word) {
        Some((_, number)) => Ok(*number),
        None => {
            let known: Vec<_> = list.iter().map(|(word, _)| *word).collect();
            fault(field, format!("{word:?} is none of {}", known.join(", ")))
        }
    }
}

/// Refuses a deadline on some CPUs only: the kernel grants deadlines to those that may use every CPU.
pub(super) fn check_cpus(spec: &Spec) -> Result<()> {
    let process = spec.process.as_ref();
    let scheduler = process.and_then(|process| process.scheduler.as_ref());
    let has_deadline = scheduler.is_some_and(|scheduler| scheduler.policy == "SCHED_DEADLINE");
    let resources = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    let cpu = resources.and_then(|resources| resources.cpu.as_ref());
    let has_cpus = cpu
        .and_then(|cpu| cpu.cpus.as_ref())
        .is_some_and(|cpus| !cpus.is_empty());
    if has_deadline && has_cpus {
        // The words of runc's tests.
        return fault(
            "process.scheduler.policy",
            "with SCHED_DEADLINE the process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)",
        );
    }
    Ok(())
}

/// The argument of sched_setattr(2).
pub(super) fn scheduler(scheduler: &Scheduler) -> Result<SchedulerAttributes> {
    let field = "process.scheduler";
    let policy = number(POLICIES, &format!("{field}.policy"), &scheduler.policy)?;
    let has_nice = matches!(policy, 0 | 3);
    if has_nice && !(-20..=19).contains(&scheduler.nice) {
        return fault(
            &format!("{field}.nice"),
            format!("{} is not in -20..=19", scheduler.nice),
        );
    }
    let is_realtime = matches!(policy, 1 | 2);
    if scheduler.priority != 0 && !is_realtime {
        return fault(
            &format!("{field}.priority"),
            "can only be specified for SCHED_FIFO or SCHED_RR",
        );
    }
    let times = [scheduler.runtime, scheduler.deadline, scheduler.period];
    if policy != 6 && times != [0; 3] {
        return fault(
            field,
            "runtime, deadline and period can only be specified for SCHED_DEADLINE",
        );
    }
    let mut flags = 0;
    for word in &scheduler.flags {
        flags |= number(SCHEDULER_FLAGS, &format!("{field}.flags"), word)?;
    }
    let Ok(priority) = u32::try_from(scheduler.priority) else {
        return fault(&format!("{field}.priority"), "is below 0");
    };
    let mut attributes = SchedulerAttributes::new(policy);
    attributes.flags = flags;
    attributes.nice = scheduler.nice;
    attributes.priority = priority;
    attributes.runtime_ns = scheduler.runtime;
    attributes.deadline_ns = scheduler.deadline;
    attributes.period_ns = scheduler.period;
    Ok(attributes)
}

/// The argument of ioprio_set(2).
pub(super) fn io_priority(priority: &IoPriority) -> Result<i32> {
    let class = number(IO_CLASSES, "process.ioPriority.class", &priority.class)?;
    if !(0..=7).contains(&priority.priority) {
        return fault(
            "process.ioPriority.priority",
            format!("{} is not in 0..=7", priority.priority),
        );
    }
    Ok(class << 13 | priority.priority)
}

/// CPUs by their lists.
pub(super) fn affinity(affinity: &CpuAffinity) -> Result<AffinityPlan> {
    Ok(AffinityPlan {
        initial: numbers("process.execCPUAffinity.initial", &affinity.initial)?,
        last: numbers("process.execCPUAffinity.final", &affinity.r#final)?,
    })
}

fn numbers(field: &str, list: &str) -> Result<Option<NumberSet>> {
    if list.is_empty() {
        return Ok(None);
    }
    match NumberSet::parse(list) {
        Some(set) => Ok(Some(set)),
        None => fault(field, format!("{list:?} is no list such as 0-2,7")),
    }
}

/// The arguments of set_mempolicy(2).
pub(crate) fn memory_policy(policy: &MemoryPolicy) -> Result<MemoryPolicyPlan> {
    let field = "linux.memoryPolicy";
    // Container managers look for runc's words.
    let place = |part: &str| format!("invalid memory policy {part}: {field}.{part}");
    let mode = number(MEMORY_MODES, &place("mode"), &policy.mode)?;
    let nodes = numbers(&place("nodes"), &policy.nodes)?;
    let (wants, forbids) = (matches!(mode, 2 | 3 | 5 | 6), matches!(mode, 0 | 4));
    if wants && nodes.is_none() {
        return fault(
            &place("nodes"),
            format!("{} mode requires at least 1 node but got 0", policy.mode),
        );
    }
    if let (true, Some(nodes)) = (forbids, &nodes) {
        let count = nodes.count();
        return fault(
            &place("nodes"),
            format!("{} mode requires 0 nodes but got {count}", policy.mode),
        );
    }
    let mut flags = 0;
    for word in &policy.flags {
        flags |= number(MEMORY_FLAGS, &place("flags"), word)?;
    }
    Ok(MemoryPolicyPlan {
        mode: mode | flags,
        nodes: nodes.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_checked() {
        let with = |change: fn(&mut Scheduler)| {
            let mut value = Scheduler {
                policy: "SCHED_FIFO".to_owned(),
                priority: 10,
                ..Scheduler::default()
            };
            change(&mut value);
            scheduler(&value).map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| {}).unwrap().priority, 10);
        let text = with(|value| value.policy = "SCHED_OTHER".to_owned()).unwrap_err();
        assert_eq!(
            text,
            "process.scheduler.priority: can only be specified for SCHED_FIFO or SCHED_RR"
        );
        assert!(with(|value| value.policy = "NO".to_owned()).is_err());
        assert!(with(|value| value.runtime = 1).is_err());
        assert!(with(|value| value.priority = -1).is_err());
        assert!(with(|value| value.flags = vec!["X".to_owned()]).is_err());
    }

    #[test]
    fn deadlines_are_refused_on_some_cpus_only() {
        let with = |policy: &str, cpus: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","args":["a"],"scheduler":{{"policy":"{policy}"}}}},
                "linux":{{"resources":{{"cpu":{{"cpus":"{cpus}"}}}}}}}}"#
            );
            check_cpus(&serde_json::from_str(&text).unwrap())
        };
        let text = with("SCHED_DEADLINE", "0").unwrap_err().to_string();
        assert!(
            text.contains("can't be used together with AllowedCPUs"),
            "{text}"
        );
        assert!(with("SCHED_DEADLINE", "").is_ok());
        assert!(with("SCHED_BATCH", "0").is_ok());
    }

    #[test]
    fn memory_policies_are_checked() {
        let policy = |mode: &str, nodes: &str, flags: &[&str]| {
            memory_policy(&MemoryPolicy {
                mode: mode.to_owned(),
                nodes: nodes.to_owned(),
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            })
        };
        let plan = policy("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"]);
        assert_eq!(plan.unwrap().mode, 2 | 1 << 15);
        for (mode, nodes) in [
            ("MPOL_BIND", ""),
            ("MPOL_DEFAULT", "0"),
            ("", "0"),
            ("X", "0"),
            ("MPOL_BIND", "z"),
        ] {
            assert!(policy(mode, nodes, &[]).is_err(), "{mode} {nodes}");
        }
    }
}
