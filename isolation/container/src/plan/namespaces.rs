//! Which namespaces are made and which are joined.

use std::ffi::CString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use atoll_spec::{Linux, NamespaceKind};

use super::{c_string, fault};
use crate::error::Result;

/// Namespaces by what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespacePlan {
    /// Kinds made new.
    pub new: Vec<NamespaceKind>,
    /// Kinds joined, with the files that stand for them.
    pub joined: Vec<(NamespaceKind, PathBuf)>,
    /// What a new time namespace's clocks are set forward by, as the lines of `timens_offsets`; empty when by nothing.
    pub time_offsets: CString,
}

impl NamespacePlan {
    /// Whether a namespace of this kind is made new.
    #[must_use]
    pub fn makes(&self, kind: NamespaceKind) -> bool {
        self.new.contains(&kind)
    }

    /// Whether the container has a namespace of this kind of its own choice.
    #[must_use]
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.makes(kind) || self.path_of(kind).is_some()
    }

    /// The file of the namespace of this kind that is joined, if one is.
    #[must_use]
    pub fn path_of(&self, kind: NamespaceKind) -> Option<&Path> {
        let joined = self.joined.iter().find(|(joined, _)| *joined == kind);
        joined.map(|(_, path)| path.as_path())
    }
}

/// The `CLONE_NEW…` constant of a kind.
#[must_use]
pub(crate) fn clone_flag(kind: NamespaceKind) -> i32 {
    match kind {
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => 0x80, // CLONE_NEWTIME
    }
}

/// Name below `/proc/<pid>/ns`.
#[must_use]
pub(crate) fn file_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "net",
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::User => "user",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    }
}

pub(super) fn plan(linux: &Linux) -> Result<NamespacePlan> {
    let mut plan = NamespacePlan::default();
    for namespace in &linux.namespaces {
        match namespace.joined() {
            Some(path) => plan.joined.push((namespace.kind, path.to_owned())),
            None => plan.new.push(namespace.kind),
        }
    }
    plan.time_offsets = time_offsets(linux, &plan)?;
    plan.new.sort_unstable();
    // A user namespace first, so that its rights cover the others.
    plan.joined
        .sort_by_key(|(kind, _)| (*kind != NamespaceKind::User, *kind));
    Ok(plan)
}

/// Clock names of `linux.timeOffsets`. Kernel: time_namespaces(7).
fn time_offsets(linux: &Linux, plan: &NamespacePlan) -> Result<CString> {
    let field = "linux.timeOffsets";
    if !linux.time_offsets.is_empty() && !plan.makes(NamespaceKind::Time) {
        return fault(field, "need a new time namespace");
    }
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return fault(field, format!("{clock:?} is not monotonic or boottime"));
        }
        if offset.nanosecs >= 1_000_000_000 {
            let reason = format!(
                "{clock}: {} nanoseconds are a second or more",
                offset.nanosecs
            );
            return fault(field, reason);
        }
        // Writing to a string never fails.
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    c_string(field, text)
}

impl fmt::Display for NamespacePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in &self.new {
            writeln!(f, "namespace {} new", file_name(*kind))?;
        }
        for (kind, path) in &self.joined {
            writeln!(f, "namespace {} join {}", file_name(*kind), path.display())?;
        }
        for line in self.time_offsets.to_string_lossy().lines() {
            writeln!(f, "clock {line}")?;
        }
        Ok(())
    }
}
