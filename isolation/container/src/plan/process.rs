//! How a process is launched: the part `create` and `exec` share.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt;

use atoll_spec::Process;
use atoll_sys::capability::{self, Set};
use atoll_sys::scheduling::SchedulerAttributes;

use super::mounts::clean;
use super::{AffinityPlan, SeccompPlan, c_string, fault, scheduling};
use crate::error::Result;

/// A process to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPlan {
    /// Arguments, `args[0]` first.
    pub args: Vec<CString>,
    /// Environment. `HOME` is added from the container's passwd file when it is missing.
    pub env: Vec<CString>,
    /// Places to look for the program, in order.
    pub candidates: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// umask(2).
    pub umask: u32,
    /// Capability sets.
    pub capabilities: CapabilityPlan,
    /// Resource, soft and hard limit.
    pub rlimits: Vec<RlimitPlan>,
    /// Whether execve(2) may no longer gain privileges.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Option<SeccompPlan>,
    /// AppArmor profile entered at execve(2).
    pub apparmor_profile: Option<CString>,
    /// SELinux label entered at execve(2), and that of its session keyring.
    pub selinux_label: Option<CString>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Argument of ioprio_set(2).
    pub io_priority: Option<i32>,
    /// Argument of sched_setattr(2).
    pub scheduler: Option<SchedulerAttributes>,
    /// CPUs, of a process run by `exec`.
    pub exec_affinity: AffinityPlan,
    /// Whether it has a terminal as its standard streams.
    pub terminal: bool,
    /// The terminal's rows and columns.
    pub terminal_size: Option<(u16, u16)>,
    /// What was left out of it, in words for people.
    pub warnings: Vec<String>,
}

/// Capability sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilityPlan {
    /// Bounding set.
    pub bounding: Set,
    /// Effective set.
    pub effective: Set,
    /// Permitted set.
    pub permitted: Set,
    /// Inheritable set.
    pub inheritable: Set,
    /// Ambient set.
    pub ambient: Set,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RlimitPlan {
    /// `RLIMIT_…`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// The umask of processes that ask for none.
const DEFAULT_UMASK: u32 = 0o022;

/// Plans a process.
///
/// * `available`: capabilities the runtime can give; others are left out, since what the host's
///   root lacks (`CAP_SYS_RESOURCE` inside another container) a container can't have.
///
/// # Errors
/// [`crate::Error::Plan`].
pub(crate) fn plan(
    process: &Process,
    available: Set,
    seccomp: Option<SeccompPlan>,
) -> Result<ProcessPlan> {
    let args = c_strings("process.args", &process.args)?;
    let env = last_of_each(c_strings("process.env", &process.env)?);
    let size = process
        .console_size
        .as_ref()
        .map(|size| (size.height, size.width));
    let capabilities = capabilities(process, available);
    Ok(ProcessPlan {
        warnings: warnings(process, &capabilities),
        candidates: candidates(&process.args[0], &process.env)?,
        args,
        env,
        cwd: clean("process.cwd", &process.cwd)?,
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(DEFAULT_UMASK),
        capabilities,
        rlimits: rlimits(process)?,
        no_new_privileges: process.no_new_privileges,
        seccomp,
        apparmor_profile: super::name(
            "process.apparmorProfile",
            process.apparmor_profile.as_deref(),
        )?,
        selinux_label: super::name("process.selinuxLabel", process.selinux_label.as_deref())?,
        oom_score_adj: process.oom_score_adj,
        io_priority: process
            .io_priority
            .as_ref()
            .map(scheduling::io_priority)
            .transpose()?,
        scheduler: process
            .scheduler
            .as_ref()
            .map(scheduling::scheduler)
            .transpose()?,
        exec_affinity: match &process.exec_cpu_affinity {
            Some(affinity) => scheduling::affinity(affinity)?,
            None => AffinityPlan::default(),
        },
        terminal: process.terminal,
        terminal_size: size.filter(|size| *size != (0, 0)),
    })
}

fn c_strings(field: &str, texts: &[String]) -> Result<Vec<CString>> {
    let texts = texts.iter().enumerate();
    texts
        .map(|(idx, text)| c_string(&format!("{field}[{idx}]"), text))
        .collect()
}

/// Of several entries with one name the last, as programs differ in which they take.
fn last_of_each(env: Vec<CString>) -> Vec<CString> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<CString> = Vec::with_capacity(env.len());
    for entry in env.into_iter().rev() {
        let bytes = entry.as_bytes();
        let end = bytes.iter().position(|&byte| byte == b'=');
        if seen.insert(bytes[..end.unwrap_or(bytes.len())].to_vec()) {
            kept.push(entry);
        }
    }
    kept.reverse();
    kept
}

/// What of a process can't be had, and is left out: unknown capabilities, and ambient ones that aren't inheritable.
fn warnings(process: &Process, capabilities: &CapabilityPlan) -> Vec<String> {
    let Some(sets) = &process.capabilities else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let all = [
        &sets.bounding,
        &sets.effective,
        &sets.permitted,
        &sets.inheritable,
        &sets.ambient,
    ];
    let unknown: BTreeSet<&str> = all
        .into_iter()
        .flatten()
        .map(String::as_str)
        .filter(|name| capability::number(name).is_none())
        .collect();
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.into_iter().collect();
        warnings.push(format!(
            "ignoring unknown or unavailable capabilities: [{}]",
            names.join(" ")
        ));
    }
    for name in &sets.ambient {
        let refused =
            capability::number(name).is_some_and(|number| !capabilities.ambient.holds(number));
        if refused {
            warnings.push(format!(
                "can't raise ambient capability {name}: it is not permitted and inheritable"
            ));
        }
    }
    warnings
}

/// A name with a slash is looked up as it is, others in each folder of the container's `PATH`;
/// relative folders are left out, as Go's LookPath does.
fn candidates(name: &str, env: &[String]) -> Result<Vec<CString>> {
    if name.contains('/') {
        return Ok(vec![c_string("process.args[0]", name)?]);
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let folders = path.unwrap_or_default().split(':');
    let absolute = folders.filter(|folder| folder.starts_with('/'));
    absolute
        .map(|folder| {
            c_string(
                "process.env",
                format!("{}/{name}", folder.trim_end_matches('/')),
            )
        })
        .collect()
}

/// Unknown names are ignored like unavailable ones: both are what this kernel can't give.
fn capabilities(process: &Process, available: Set) -> CapabilityPlan {
    let Some(sets) = &process.capabilities else {
        return CapabilityPlan::default();
    };
    let set = |names: &[String]| {
        let numbers = names.iter().filter_map(|name| capability::number(name));
        numbers
            .map(Set::of)
            .fold(Set::default(), Set::with)
            .within(available)
    };
    let (bounding, permitted) = (set(&sets.bounding), set(&sets.permitted));
    let inheritable = set(&sets.inheritable);
    CapabilityPlan {
        bounding,
        permitted,
        effective: set(&sets.effective).within(permitted),
        inheritable,
        // The kernel wants ambient capabilities permitted and inheritable.
        ambient: set(&sets.ambient).within(permitted).within(inheritable),
    }
}

fn rlimits(process: &Process) -> Result<Vec<RlimitPlan>> {
    let mut plans = Vec::with_capacity(process.rlimits.len());
    for rlimit in &process.rlimits {
        let name = rlimit.kind.to_ascii_uppercase();
        let position = RLIMITS.iter().position(|known| *known == name);
        let Some(resource) = position.and_then(|position| u32::try_from(position).ok()) else {
            return fault(
                "process.rlimits",
                format!("{:?} is not a limit", rlimit.kind),
            );
        };
        plans.push(RlimitPlan {
            resource,
            soft: rlimit.soft,
            hard: rlimit.hard,
        });
    }
    Ok(plans)
}

impl fmt::Display for ProcessPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rlimit in &self.rlimits {
            let show = |limit: u64| match limit {
                u64::MAX => "unlimited".to_owned(),
                limit => limit.to_string(),
            };
            let name = usize::try_from(rlimit.resource)
                .ok()
                .and_then(|idx| RLIMITS.get(idx));
            let name = name.copied().unwrap_or("?");
            writeln!(
                f,
                "rlimit {name} {}:{}",
                show(rlimit.soft),
                show(rlimit.hard)
            )?;
        }
        if let Some(adj) = self.oom_score_adj {
            writeln!(f, "oom_score_adj {adj}")?;
        }
        if let Some(priority) = self.io_priority {
            writeln!(f, "ioprio {priority:#x}")?;
        }
        if let Some(scheduler) = &self.scheduler {
            let (policy, flags) = (scheduler.policy, scheduler.flags);
            let (nice, priority) = (scheduler.nice, scheduler.priority);
            writeln!(
                f,
                "scheduler {policy} nice {nice} priority {priority} flags {flags:#x} times {}/{}/{}",
                scheduler.runtime_ns, scheduler.deadline_ns, scheduler.period_ns
            )?;
        }
        writeln!(f, "cwd {}", self.cwd.to_string_lossy())?;
        write!(f, "user {}:{}", self.uid, self.gid)?;
        for gid in &self.groups {
            write!(f, " +{gid}")?;
        }
        writeln!(f, " umask {:04o}", self.umask)?;
        let sets = [
            ("bounding", self.capabilities.bounding),
            ("effective", self.capabilities.effective),
            ("permitted", self.capabilities.permitted),
            ("inheritable", self.capabilities.inheritable),
            ("ambient", self.capabilities.ambient),
        ];
        for (name, set) in sets {
            let names: Vec<_> = set
                .names()
                .map(|name| name.trim_start_matches("CAP_"))
                .collect();
            writeln!(f, "capabilities {name} {}", names.join(" ").to_lowercase())?;
        }
        if self.no_new_privileges {
            writeln!(f, "no_new_privs")?;
        }
        if let Some(seccomp) = &self.seccomp {
            let count = seccomp.program.len();
            writeln!(
                f,
                "seccomp {count} instructions, flags {:#x}",
                seccomp.flags
            )?;
        }
        if let Some(profile) = &self.apparmor_profile {
            writeln!(f, "apparmor {}", profile.to_string_lossy())?;
        }
        if let Some(label) = &self.selinux_label {
            writeln!(f, "selinux {}", label.to_string_lossy())?;
        }
        if self.terminal {
            writeln!(f, "terminal")?;
        }
        for text in &self.env {
            writeln!(f, "env {}", text.to_string_lossy())?;
        }
        let args: Vec<_> = self
            .args
            .iter()
            .map(|arg| format!("{:?}", arg.to_string_lossy()))
            .collect();
        writeln!(f, "exec {}", args.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_of_a_name_is_kept() {
        let env = ["A=1", "B=2", "A=3", "C", "C="].map(|text| CString::new(text).unwrap());
        let kept = last_of_each(env.into());
        let kept: Vec<_> = kept.iter().map(|entry| entry.to_str().unwrap()).collect();
        assert_eq!(kept, ["B=2", "A=3", "C="]);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut process = atoll_spec::example().process.unwrap();
        let sets = process.capabilities.as_mut().unwrap();
        sets.ambient = vec!["CAP_KILL".to_owned()];
        sets.permitted.push("CAP_NOSUCH".to_owned());
        let plan = plan(&process, Set(u64::MAX), None).unwrap();
        assert_eq!(
            plan.warnings,
            [
                "ignoring unknown or unavailable capabilities: [CAP_NOSUCH]",
                "can't raise ambient capability CAP_KILL: it is not permitted and inheritable"
            ]
        );
    }
}
